"""The upload page, as a person has it: in Chromium, with the store on another origin."""

import json
import re
import secrets
import time

import jwt
import pytest
from playwright.sync_api import Page, Route, expect

from mediaworker.renditions import VARIANT_WIDTHS
from tests.builders import jpeg

# Those of a picture of 1400 pixels.
SIZES = ["main", *(name for name, width in VARIANT_WIDTHS.items() if width < 1400)]
PUTS = re.compile(r"/raw/uploads/.*X-Amz-Signature")
DAMAGED = jpeg(800, 600)[:400] + bytes(4000)


def picture(name: str, width: int = 1400, height: int = 900) -> dict[str, object]:
    return {"name": name, "mimeType": "image/jpeg", "buffer": jpeg(width, height)}


def choose(page: Page, *files: dict[str, object]) -> None:
    page.get_by_label("Choose images").set_input_files(files)


def card(page: Page, name: str):
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=name))


def hold(page: Page, url: re.Pattern[str]) -> list[Route]:
    """Keep requests from going out until they are told to."""
    held: list[Route] = []

    def keep(route: Route) -> None:
        held.append(route)

    page.route(url, keep)
    return held


def lose(page: Page, url: str) -> None:
    """Let no request get through until it is unrouted; timers run fast, so as to give up soon."""
    page.add_init_script("((real) => (setTimeout = (f, ms) => real(f, ms / 50)))(setTimeout)")
    page.route(url, lambda route: route.abort("internetdisconnected"))


def tell_of_an_earlier_time(route: Route) -> None:
    """Tell of the images as they were when they were being processed."""
    listed = route.fetch().json()
    route.fulfill(json={"items": [{**item, "status": "processing"} for item in listed["items"]]})


def test_several_images_become_ready_with_their_variants(page):
    page.goto("/")
    expect(page.get_by_text("Your images will appear here")).to_be_visible()
    choose(page, picture("one.jpg"), picture("two.jpg", 300, 200))
    one, two = card(page, "one.jpg"), card(page, "two.jpg")
    expect(one.get_by_text("Ready", exact=True)).to_be_visible()
    expect(two.get_by_text("Ready", exact=True)).to_be_visible()
    expect(one.get_by_role("link")).to_have_text(SIZES)
    expect(two.get_by_role("link")).to_have_text(["main"])
    expect(one.get_by_role("row").nth(1)).to_contain_text("1400 \N{MULTIPLICATION SIGN} 900")
    expect(one.get_by_text(re.compile(r"JPEG of .* → WebP of"))).to_be_visible()
    for link in one.get_by_role("link").all():
        variant = page.request.get(link.get_attribute("href"))
        assert variant.ok
        assert variant.headers["content-type"] == "image/webp"
    expect(page.get_by_text("Your images will appear here")).to_be_hidden()
    expect(page.get_by_role("status")).to_have_text(re.compile(r"(one|two)\.jpg is ready\."))


def test_a_worker_behind_rabbitmq_makes_the_variants_that_the_page_shows(production_site, page):
    site = production_site
    page.goto(site.url)
    with page.expect_response(PUTS) as put:
        choose(page, picture("one.jpg"), {**picture("cut.jpg"), "buffer": DAMAGED})
    assert put.value.request.url.startswith(site.store.endpoint)
    one = card(page, "one.jpg")
    expect(one.get_by_text("Ready", exact=True)).to_be_visible()
    expect(one.get_by_role("img")).to_have_js_property("naturalWidth", 640)
    links = [link.get_attribute("href") for link in one.get_by_role("link").all()]
    assert [page.request.get(link).headers["content-type"] for link in links] == [
        "image/webp"
    ] * len(SIZES)
    expect(card(page, "cut.jpg").get_by_text("damaged")).to_be_visible()


def test_the_bytes_go_to_the_store_with_their_checksum_and_not_through_the_service(page, site):
    page.goto("/")
    with page.expect_response(PUTS) as put:
        choose(page, picture("one.jpg"))
    request = put.value.request
    assert (request.method, put.value.status) == ("PUT", 200)
    assert request.url.startswith(site.store.endpoint)
    assert not site.store.endpoint.startswith(site.url)
    sent = request.all_headers()
    assert sent["origin"] == site.url
    assert len(sent["x-amz-checksum-sha256"]) == 44
    assert sent["if-none-match"] == "*"


def test_the_placeholder_is_there_before_the_picture_and_gone_after_it(page):
    page.emulate_media(reduced_motion="no-preference")
    held = hold(page, re.compile(r"/public/media/"))
    page.goto("/")
    with page.expect_request(re.compile(r"/public/media/")):
        choose(page, picture("one.jpg"))
    placeholder = card(page, "one.jpg").locator("canvas")
    expect(placeholder).to_be_visible()
    painted = placeholder.evaluate(
        "(c) => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some((v) => v > 0)"
    )
    assert painted
    expect(card(page, "one.jpg").get_by_role("img")).to_have_js_property("naturalWidth", 0)
    held.pop().continue_()
    expect(card(page, "one.jpg").get_by_role("img")).to_have_js_property("naturalWidth", 640)
    expect(placeholder).to_be_hidden()


def test_the_bar_tells_how_far_the_bytes_are(page, context):
    page.goto("/")
    # Without a limit the loopback is too fast for anybody to see a bar.
    context.new_cdp_session(page).send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 150_000},
    )
    choose(page, {"name": "one.jpg", "mimeType": "image/jpeg", "buffer": jpeg() + bytes(300_000)})
    uploading = card(page, "one.jpg")
    expect(uploading.get_by_text(re.compile(r"^Uploading [1-9]\d? %$"))).to_be_visible()
    fraction = uploading.get_by_role("progressbar").evaluate("(bar) => bar.value")
    assert 0 < fraction <= 1
    expect(uploading.get_by_text("Ready", exact=True)).to_be_visible()
    expect(uploading.get_by_role("progressbar")).to_be_hidden()


def test_a_processing_that_failed_for_no_fault_of_the_images_can_be_tried_again(page):
    told = []

    def tell_of_a_failure_once(route: Route) -> None:
        if told:
            route.continue_()
            return
        told.append(route)
        reason = {"code": "decoder_unavailable", "retryable": True, "message": "No decoder."}
        media_id = route.request.url.split("/")[-2]
        route.fulfill(json={"id": media_id, "status": "failed", "error": reason})

    page.route("**/status", tell_of_a_failure_once)
    lose(page, "**/retry")
    page.goto("/")
    choose(page, picture("one.jpg"))
    failed = card(page, "one.jpg")
    expect(failed.get_by_text("No decoder.")).to_be_visible()
    failed.get_by_role("button", name="Try again").click()
    expect(failed.get_by_text("cannot be reached")).to_be_visible()
    page.unroute("**/retry")
    with page.expect_request("**/retry"):
        failed.get_by_role("button", name="Try again").click()
    expect(failed.get_by_text("Ready", exact=True)).to_be_visible()


@pytest.mark.parametrize("lost", ["**/complete", "**/status"])
def test_a_connection_lost_after_the_upload_costs_no_second_one(page, lost):
    asked = []
    page.on("request", lambda request: asked.append(request.method))
    lose(page, lost)
    page.goto("/")
    choose(page, picture("one.jpg"))
    failed = card(page, "one.jpg")
    expect(failed.get_by_text("The file is still here.")).to_be_visible()
    page.unroute(lost)
    failed.get_by_role("button", name="Try again").click()
    expect(failed.get_by_text("Ready", exact=True)).to_be_visible()
    assert asked.count("PUT") == 1
    assert "DELETE" not in asked


def test_an_earlier_image_is_followed_again_after_a_lost_connection(page):
    page.goto("/")
    choose(page, picture("one.jpg"))
    expect(page.get_by_text("Ready", exact=True)).to_be_visible()

    page.route("**/api/media?*", tell_of_an_earlier_time)
    lose(page, "**/status")
    page.reload()
    earlier = page.get_by_role("listitem")
    expect(earlier.get_by_text("cannot be reached")).to_be_visible()
    expect(earlier.get_by_text("The file is still here.")).to_be_hidden()
    page.unroute("**/status")
    earlier.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("Ready", exact=True)).to_be_visible()


def test_files_can_be_dropped_anywhere_on_the_page(page):
    page.goto("/")
    transfer = page.evaluate_handle(
        """(bytes) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "dropped.jpg"));
          return transfer;
        }""",
        list(jpeg(400, 300)),
    )
    page.dispatch_event("body", "dragover", {"dataTransfer": transfer})
    expect(page.locator("#drop")).to_have_class(re.compile("over"))
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    expect(card(page, "dropped.jpg").get_by_text("Ready", exact=True)).to_be_visible()


@pytest.mark.parametrize(
    ("name", "content", "what", "todo"),
    [
        ("cut.jpg", DAMAGED, "damaged", "save it as JPEG or PNG"),
        ("notes.png", b"no image at all" * 40, "not accepted", "JPEG, PNG, WebP, GIF, AVIF, HEIC."),
    ],
)
def test_what_is_no_image_is_told_in_plain_words(page, name, content, what, todo):
    page.goto("/")
    choose(page, {"name": name, "mimeType": "", "buffer": content})
    failed = card(page, name)
    expect(failed.get_by_text("Failed", exact=True)).to_be_visible()
    expect(failed.get_by_text(what)).to_be_visible()
    expect(failed.get_by_text(todo)).to_be_visible()
    expect(failed.get_by_role("button", name="Try again")).to_be_hidden()
    expect(page.get_by_role("status")).to_contain_text(f"{name} failed.")
    failed.get_by_role("button", name="Delete").click()
    expect(failed).to_be_hidden()


def test_a_file_over_the_limit_is_not_even_read(page, sites):
    site = sites(MAX_UPLOAD_BYTES="250000")
    asked = []
    page.on("request", lambda request: asked.append(request.method))
    page.goto(site.url)
    expect(page.get_by_text("up to 0.2 MB each")).to_be_visible()
    choose(page, {"name": "huge.jpg", "mimeType": "image/jpeg", "buffer": bytes(300_000)})
    expect(card(page, "huge.jpg").get_by_text("has 300 kB; the most is 0.2 MB")).to_be_visible()
    assert "POST" not in asked


def test_an_upload_goes_on_by_itself_after_a_lost_connection(page):
    failures = []

    def cut_the_first(route):
        if route.request.method == "PUT" and not failures:
            failures.append(route)
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route(PUTS, cut_the_first)
    page.goto("/")
    choose(page, picture("one.jpg"))
    expect(card(page, "one.jpg").get_by_text("Ready", exact=True)).to_be_visible()
    assert failures


def test_more_are_sent_while_others_are_processed(page):
    hold(page, re.compile("/status$"))
    page.goto("/")
    choose(page, *(picture(f"{number}.jpg") for number in range(5)))
    expect(page.get_by_text("Processing", exact=True)).to_have_count(5)


def test_it_says_that_the_network_is_gone_and_goes_on_when_it_is_back(page, context):
    page.goto("/")
    expect(page.get_by_text("Your images will appear here")).to_be_visible()
    context.set_offline(True)
    expect(page.get_by_text("You are offline.")).to_be_visible()
    with page.expect_event("requestfailed"):
        choose(page, picture("one.jpg"))
    context.set_offline(False)
    expect(page.get_by_text("You are offline.")).to_be_hidden()
    expect(card(page, "one.jpg").get_by_text("Ready", exact=True)).to_be_visible()


def test_leaving_while_bytes_are_under_way_is_asked_about(page):
    questions = []
    page.on("dialog", lambda dialog: (questions.append(dialog.type), dialog.dismiss()))
    held = hold(page, PUTS)
    page.goto("/")
    with page.expect_request(PUTS):
        choose(page, picture("one.jpg"))
    expect(page.get_by_text("Uploading", exact=False)).to_be_visible()
    # Browsers ask those alone who have done something on the page.
    page.get_by_role("heading", name="Upload images").click()
    page.close(run_before_unload=True)
    held.pop().continue_()
    expect(page.get_by_text("Ready", exact=True)).to_be_visible()
    assert questions == ["beforeunload"]


@pytest.mark.parametrize("is_sent", [True, False])
def test_an_upload_left_halfway_is_finished_if_its_bytes_have_arrived(page, is_sent):
    first = re.compile("/complete$") if is_sent else PUTS
    hold(page, first)
    page.goto("/")
    choose(page, picture("one.jpg"))
    expect(page.get_by_text("Checking" if is_sent else "Uploading")).to_be_visible()
    if is_sent:
        page.unroute(first)
    page.reload()
    if is_sent:
        expect(page.get_by_text("Ready", exact=True)).to_be_visible()
    else:
        expect(page.get_by_role("listitem").get_by_text("has not arrived")).to_be_visible()
        page.get_by_role("button", name="Try again").click()  # once the other tab is done, say
        expect(page.get_by_text("Checking")).to_be_visible()
        expect(page.get_by_role("listitem").get_by_text("has not arrived")).to_be_visible()
        page.once("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_text("Your images will appear here")).to_be_visible()


def test_a_running_upload_can_be_cancelled_and_leaves_nothing(page, site):
    hold(page, PUTS)
    page.goto("/")
    with page.expect_response("**/request-upload") as requested:
        choose(page, picture("one.jpg"))
    upload_id = requested.value.json()["upload_id"]
    running = card(page, "one.jpg")
    expect(running.get_by_role("progressbar", name="Upload of one.jpg")).to_be_visible()
    with page.expect_response(
        lambda response: response.request.method == "DELETE" and upload_id in response.url
    ) as deleted:
        running.get_by_role("button", name="Cancel").click()
    assert deleted.value.status == 204
    expect(running).to_be_hidden()
    expect(page.get_by_text("Your images will appear here")).to_be_visible()


def test_a_cancel_that_does_not_reach_the_service_is_told_and_can_be_made_up_for(page):
    hold(page, re.compile("/status$"))
    lose(page, "**/api/media/*-*-*")
    page.goto("/")
    choose(page, picture("one.jpg"))
    running = card(page, "one.jpg")
    expect(running.get_by_text("Processing", exact=True)).to_be_visible()
    running.get_by_role("button", name="Cancel").click()
    expect(running.get_by_text("cannot be reached")).to_be_visible()
    expect(running.get_by_role("button", name="Try again")).to_be_hidden()
    page.unroute("**/api/media/*-*-*")
    with page.expect_response(lambda response: response.request.method == "DELETE") as deleted:
        running.get_by_role("button", name="Delete").click()
    assert deleted.value.status == 204
    expect(running).to_be_hidden()


@pytest.mark.parametrize(
    ("permissions", "words"),
    [(["clipboard-write"], "Copied"), ([], "Not allowed by the browser")],
)
def test_whether_a_link_was_copied_is_said_too(page, context, permissions, words):
    context.grant_permissions(permissions)
    page.goto("/")
    choose(page, picture("one.jpg"))
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("status")).to_have_text(f"{words}: one.jpg")


def test_a_ready_image_is_deleted_after_a_question(page, site):
    page.goto("/")
    choose(page, picture("one.jpg"))
    ready = card(page, "one.jpg")
    expect(ready.get_by_text("Ready", exact=True)).to_be_visible()
    page.once("dialog", lambda dialog: dialog.dismiss())
    ready.get_by_role("button", name="Delete").click()
    expect(ready).to_be_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    with page.expect_response(lambda response: response.request.method == "DELETE") as deleted:
        ready.get_by_role("button", name="Delete").click()
    assert deleted.value.status == 204
    expect(ready).to_be_hidden()
    page.reload()
    expect(page.get_by_text("Your images will appear here")).to_be_visible()


def test_a_ready_image_that_cannot_be_deleted_stays_ready_until_it_is_gone(page):
    questions, answers = [], [(404, "media_not_found"), (403, "not_owner")]

    def refuse(route: Route) -> None:
        status, error = answers.pop()
        route.fulfill(status=status, json={"error": error, "message": "Not yours."})

    page.on("dialog", lambda dialog: (questions.append(dialog.message), dialog.accept()))
    page.goto("/")
    choose(page, picture("one.jpg"))
    ready = card(page, "one.jpg")
    expect(ready.get_by_text("Ready", exact=True)).to_be_visible()
    page.route("**/api/media/*", refuse)
    ready.get_by_role("button", name="Delete").click()
    expect(ready.get_by_text("Not yours.")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("one.jpg is not deleted. Not yours.")
    expect(ready.get_by_text("Ready", exact=True)).to_be_visible()
    expect(ready.get_by_role("button", name="Copy link")).to_be_visible()
    ready.get_by_role("button", name="Delete").click()
    expect(ready).to_be_hidden()
    assert len(questions) == 2


def test_a_reload_shows_what_was_uploaded_and_another_user_does_not(page):
    page.goto("/")
    choose(page, picture("one.jpg"))
    expect(page.get_by_text("Ready", exact=True)).to_be_visible()
    user = page.get_by_label("User id").input_value()
    page.reload()
    expect(page.get_by_text("Ready", exact=True)).to_be_visible()
    assert page.get_by_label("User id").input_value() == user
    page.get_by_role("button", name="New user").click()
    expect(page.get_by_role("listitem")).to_have_count(0)


@pytest.mark.parametrize("placeholder", ["LEHV6nWB2yk8pyo0adR*.7kCMdnj", "AAAA", None])
def test_a_placeholder_of_another_format_is_left_out(page, placeholder):
    def tell_with_it(route: Route) -> None:
        listed = route.fetch().json()
        route.fulfill(
            json={"items": [{**item, "placeholder": placeholder} for item in listed["items"]]}
        )

    page.goto("/")
    choose(page, picture("one.jpg"), picture("two.jpg"))
    expect(page.get_by_text("Ready", exact=True)).to_have_count(2)
    page.route("**/api/media?*", tell_with_it)
    page.reload()
    expect(page.get_by_text("Ready", exact=True)).to_have_count(2)
    expect(page.locator("[data-part=placeholder]:visible")).to_have_count(0)


def test_an_image_has_one_card_whoever_comes_and_goes(page):
    page.goto("/")
    choose(page, picture("one.jpg"))
    expect(page.get_by_text("Ready", exact=True)).to_be_visible()
    user = page.get_by_label("User id").input_value()
    page.get_by_role("button", name="New user").click()
    with page.expect_response("**/api/media?*"):
        page.get_by_label("User id").fill(user)
        page.get_by_label("User id").press("Enter")
    expect(page.get_by_role("listitem")).to_have_count(1)


def test_an_image_of_another_user_is_not_asked_about_any_more(page):
    page.goto("/")
    choose(page, picture("one.jpg"))
    expect(page.get_by_text("Ready", exact=True)).to_be_visible()
    page.route("**/api/media?*", tell_of_an_earlier_time)
    held = hold(page, re.compile("/status$"))
    page.reload()
    expect(page.get_by_text("Processing", exact=True)).to_be_visible()
    with page.expect_event("requestfailed", lambda request: request.url.endswith("/status")):
        page.get_by_role("button", name="New user").click()
    expect(page.get_by_role("listitem")).to_have_count(0)
    expect(page.get_by_role("status")).to_be_empty()
    assert len(held) == 1


def test_the_whole_way_goes_by_keyboard(page):
    # Chromium catches file choosers only while somebody listens: from now on, not from a key on.
    page.on("filechooser", lambda _chooser: None)
    page.goto("/")
    files = page.get_by_label("Choose images")
    for _ in range(10):
        page.keyboard.press("Tab")
        if files.evaluate("(input) => input === document.activeElement"):
            break
    expect(files).to_be_focused()
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Space")
    chooser.value.set_files([picture("one.jpg")])
    expect(page.get_by_text("Ready", exact=True)).to_be_visible()
    delete = page.get_by_role("button", name="Delete: one.jpg")
    for _ in range(10):
        page.keyboard.press("Tab")
        if delete.evaluate("(button) => button === document.activeElement"):
            break
    page.once("dialog", lambda dialog: dialog.accept())
    page.keyboard.press("Enter")
    expect(page.get_by_role("listitem")).to_have_count(0)
    expect(files).to_be_focused()


def test_with_tokens_the_page_asks_for_one_and_keeps_it_nowhere(page, sites):
    secret = secrets.token_hex(32)
    site = sites(AUTH_MODE="jwt", JWT_SECRET=secret, UPLOAD_PAGE="on")
    claims = {"sub": "7d8ee0b5-6a4c-4a4b-9d36-0f0c2bd0e3a1", "exp": int(time.time()) + 600}
    page.goto(site.url)
    choose(page, picture("one.jpg"))
    failed = card(page, "one.jpg")
    expect(failed.get_by_text("does not know who you are")).to_be_visible()
    page.get_by_label("Your access token").fill(jwt.encode(claims, secret))
    failed.get_by_role("button", name="Try again").click()
    expect(failed.get_by_text("Ready", exact=True)).to_be_visible()
    assert (
        json.loads(page.evaluate("() => JSON.stringify({...localStorage, ...sessionStorage})"))
        == {}
    )
    page.reload()
    expect(page.get_by_label("Your access token")).to_have_value("")


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_sticks_out_at_phone_width(page, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto("/")
    choose(
        page,
        picture("a-very-long-name-without-any-place-to-break-it-in-two-or-more-lines.jpg"),
        {"name": "notes.png", "mimeType": "", "buffer": b"no image" * 99},
    )
    expect(page.get_by_text("Ready", exact=True)).to_be_visible()
    expect(page.get_by_text("Failed", exact=True)).to_be_visible()
    assert page.evaluate("() => document.scrollingElement.scrollWidth") <= width


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_axe_finds_nothing_that_keeps_people_out(browser, site, npm_package, colours):
    axe = (npm_package("uppy-6") / "node_modules/axe-core/axe.min.js").read_text()
    with browser.new_context(
        base_url=site.url, color_scheme=colours, reduced_motion="reduce", bypass_csp=True
    ) as context:
        page = context.new_page()
        page.goto("/")
        choose(
            page, picture("one.jpg"), {"name": "no.png", "mimeType": "", "buffer": b"no image" * 99}
        )
        expect(page.get_by_text("Ready", exact=True)).to_be_visible()
        expect(page.get_by_text("Failed", exact=True)).to_be_visible()
        page.evaluate(axe)
        found = page.evaluate("async () => (await axe.run()).violations")
        assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found] == []
