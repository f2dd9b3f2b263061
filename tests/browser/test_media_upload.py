"""media-upload.js as a web app uses it: each fault it has to get over, each error it reports.

In Chromium, on a page of the service, against the real store; faults are put between the two.
"""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.builders import IMAGE_HEADERS, jpeg

PUTS = re.compile(r"/raw/uploads/.*X-Amz-Signature")
UNKNOWN = "application/octet-stream"
STORE_ANSWERS = {"Access-Control-Allow-Origin": "*"}

RUN = """async ([bytes, name, type, code]) => {
  const media = await import("/static/media-upload.js");
  const file = new File([new Uint8Array(bytes)], name, { type });
  const seen = { statuses: [], fractions: [], waits: [] };
  const controller = new AbortController();
  const options = {
    headers: { "X-User-ID": crypto.randomUUID() },
    signal: controller.signal,
    onStatus: (status) => seen.statuses.push(status),
    onProgress: ({ fraction }) => seen.fractions.push(fraction),
    wait: async (seconds, signal) => {
      seen.waits.push(seconds);
      signal?.throwIfAborted();
    },
  };
  const run = new Function(
    "media", "file", "options", "controller", "seen", `return (async () => { ${code} })()`,
  );
  try {
    return { ...seen, result: await run(media, file, options, controller, seen) };
  } catch (error) {
    return { ...seen, error: { ...error, name: error.name, message: error.message } };
  }
}"""


@pytest.fixture
def context_options():
    """Without the page's policy: the tests write their own code into it."""
    return {"bypass_csp": True}


@pytest.fixture
def run(page):
    page.goto("/")

    def run(code: str, body: bytes | None = None, name="one.jpg", content_type="image/jpeg") -> Any:
        picture = jpeg(800, 500) if body is None else body
        return page.evaluate(RUN, [list(picture), name, content_type, code])

    return run


def answer_first(page, url: Any, **answer: Any) -> list[Route]:
    """Answer the first request to `url` in the place of the one who should."""
    answered: list[Route] = []

    def handle(route: Route) -> None:
        if answered or route.request.method == "OPTIONS":
            route.fallback()
        else:
            answered.append(route)
            route.fulfill(**answer)

    page.route(url, handle)
    return answered


UPLOAD = "return media.upload(file, options);"
FINISH = """const error = await media.upload(file, options).catch((error) => error);
return { error: { ...error }, finished: await media.finish(error.uploadId, options) };"""


def test_an_upload_tells_its_stages_and_ends_with_the_media(run):
    outcome = run(UPLOAD, jpeg(2400, 1800))
    media = outcome["result"]
    assert media["status"] == "ready"
    assert media["url"] == media["variants"][0]["url"]
    assert outcome["statuses"] == [
        *("hashing", "requesting", "uploading", "completing", "processing", "ready")
    ]
    assert outcome["fractions"] == sorted(outcome["fractions"])
    assert outcome["fractions"][-1] == 1
    assert set(outcome["waits"]) <= {1}, "the pauses that Retry-After asked for"


def test_a_put_whose_answer_was_lost_is_not_made_twice(run, page):
    statuses = []

    def lose_the_first_answer(route: Route) -> None:
        if not statuses:
            statuses.append(route.fetch().status)
            route.abort("connectionreset")
        else:
            route.continue_()

    page.route(PUTS, lose_the_first_answer)
    page.on("response", lambda r: statuses.append(r.status) if r.request.method == "PUT" else None)
    outcome = run(UPLOAD)
    assert outcome["result"]["status"] == "ready"
    assert statuses == [200, 412]


@pytest.mark.parametrize("is_renewed", [False, True], ids=["the first URL", "a renewed URL"])
def test_a_put_that_never_gets_an_answer_is_completed_if_it_arrived(run, page, is_renewed):
    def lose_every_answer(route: Route) -> None:
        route.fetch()
        route.abort("connectionreset")

    page.route(PUTS, lose_every_answer)
    if is_renewed:
        answer_first(page, PUTS, status=403, headers=STORE_ANSWERS)
    assert run(UPLOAD)["result"]["status"] == "ready"


def test_bytes_of_which_nobody_knows_leave_nothing_to_finish(run, page):
    for url in (PUTS, "**/complete"):
        page.route(url, lambda route: route.abort("connectionreset"))
    error = run(UPLOAD)["error"]
    assert (error["code"], error["uploadId"]) == ("store_unreachable", None)


def test_a_device_without_network_goes_on_when_it_is_back(run, page, context):
    page.expose_function("goOnline", lambda: context.set_offline(False))
    context.set_offline(True)
    outcome = run(
        f"""options.wait = async (seconds) => {{
          seen.waits.push(seconds);
          if (seen.waits.length === 1) {{
            await goOnline();
            await new Promise(() => {{}});
          }}
        }};
        {UPLOAD}"""
    )
    assert outcome["result"]["status"] == "ready"
    assert outcome["waits"][0] == 60


def test_tries_of_a_device_without_network_do_not_count(run, context):
    context.set_offline(True)
    outcome = run(
        f"""options.wait = async (seconds) => {{
          seen.waits.push(seconds);
          if (seen.waits.length === 7) controller.abort();
        }};
        {UPLOAD}"""
    )
    assert (outcome["error"]["name"], outcome["waits"]) == ("AbortError", [60] * 7)


def test_a_store_out_of_reach_is_tried_five_times_with_growing_pauses(run, page):
    page.route(PUTS, lambda route: route.abort("connectionrefused"))
    outcome = run(UPLOAD)
    assert outcome["error"]["code"] == "store_unreachable"
    assert outcome["error"]["retryable"] is True
    for pause, longest in zip(outcome["waits"], [0.5, 1, 2, 4], strict=True):
        assert longest / 2 <= pause <= longest


@pytest.mark.parametrize("status", [409, 500, 503])
def test_a_busy_store_is_asked_again(run, page, status):
    answered = answer_first(page, PUTS, status=status, headers=STORE_ANSWERS)
    assert run(UPLOAD)["result"]["status"] == "ready"
    assert answered


def test_a_put_that_stands_still_is_made_again(run, page):
    page.route(PUTS, lambda _route: None, times=1)
    outcome = run(f"options.stallSeconds = 2; {UPLOAD}")
    assert outcome["result"]["status"] == "ready"


def test_a_put_whose_bytes_go_slowly_does_not_stand_still(run, page, context):
    context.new_cdp_session(page).send(
        "Network.emulateNetworkConditions",
        {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 150_000},
    )
    outcome = run(
        """options.stallSeconds = 2;
        const large = new File([file, new Uint8Array(600_000)], "one.jpg", { type: file.type });
        return media.upload(large, options);"""
    )
    assert outcome["result"]["status"] == "ready"
    assert outcome["fractions"] == sorted(outcome["fractions"]), "one PUT"


def test_while_a_put_goes_on_its_upload_is_kept_open(run, page):
    puts: list[Route] = []
    asked: list[str | None] = []

    def hold(route: Route) -> None:
        if route.request.method == "OPTIONS":
            route.fallback()
        else:
            puts.append(route)

    def let_go_once_asked_again(route: Route) -> None:
        response = route.fetch()
        asked.append(response.json().get("upload_id"))
        route.fulfill(response=response)
        if len(asked) == 2:
            puts[0].continue_()

    page.route(PUTS, hold)
    page.route("**/request-upload", let_go_once_asked_again)
    outcome = run(
        """const real = globalThis.setInterval;
        const intervals = [];
        globalThis.setInterval = (f, ms) => (intervals.push(ms), real(f, ms / 500));
        const { status } = await media.upload(file, options);
        return [status, ...intervals];"""
    )
    assert outcome["result"] == ["ready", 240_000]
    assert len(puts) == 1
    first, second, *_ = asked  # a later one may find the upload completed
    assert first == second, "it is asked for the same upload"


def test_a_service_that_does_not_answer_in_time_is_asked_again(run, page):
    page.route("**/request-upload", lambda _route: None, times=1)
    outcome = run(
        """const real = AbortSignal.timeout;
        const timeouts = [];
        AbortSignal.timeout = (ms) => (timeouts.push(ms), real.call(AbortSignal, ms / 30));
        const { status } = await media.upload(file, options);
        return [status, timeouts[0]];"""
    )
    assert outcome["result"] == ["ready", 60_000]


def test_a_page_of_another_origin_may_not_upload(run, site):
    site.storage.create_buckets(("https://elsewhere.example.com",))
    assert run(UPLOAD)["error"]["code"] == "store_unreachable"


@pytest.mark.parametrize(("said", "waited"), [("7", 7), ("86400", 60)])
def test_the_service_is_asked_again_when_it_says_so(run, page, said, waited):
    answer_first(
        page,
        "**/request-upload",
        status=503,
        headers={"Retry-After": said, "Content-Type": "application/json"},
        body='{"error": "database_unavailable", "message": "Later.", "request_id": "1"}',
    )
    outcome = run(UPLOAD)
    assert outcome["result"]["status"] == "ready"
    assert outcome["waits"][0] == waited


def test_a_fault_of_the_service_is_not_provoked_again(run, page):
    answer = {"error": "internal_server_error", "message": "Internal error.", "request_id": "1"}
    answer_first(page, "**/request-upload", status=500, json=answer)
    error = run(UPLOAD)["error"]
    assert (error["code"], error["retryable"]) == ("internal_server_error", False)


def test_an_object_that_the_store_does_not_show_yet_is_waited_for(run, page):
    answer_first(
        page, "**/complete", status=409, json={"error": "upload_not_found", "message": "Not yet."}
    )
    assert run(UPLOAD)["result"]["status"] == "ready"


def test_a_repeated_request_makes_no_second_upload(run, page):
    uploads = []

    def lose_the_first_answer(route: Route) -> None:
        response = route.fetch()
        uploads.append(response.json()["upload_id"])
        if len(uploads) == 1:
            route.abort("connectionreset")
        else:
            route.fulfill(response=response)

    page.route("**/request-upload", lose_the_first_answer)
    outcome = run(UPLOAD)
    assert len(uploads) == 2
    assert {outcome["result"]["id"]} == set(uploads)


@pytest.fixture
def requested(page):
    """The ids of the uploads that the service has given a URL for, in order; None: it has not."""
    ids: list[str | None] = []

    def note(route: Route) -> None:
        response = route.fetch()
        ids.append(response.json().get("upload_id"))
        route.fulfill(response=response)

    page.route("**/request-upload", note)
    return ids


def test_a_refused_url_is_renewed_for_the_same_upload(run, page, requested):
    """Whatever the clock here says: the store's has decided that it has expired."""
    answer_first(page, PUTS, status=403, headers=STORE_ANSWERS)
    outcome = run(UPLOAD)
    assert requested == [outcome["result"]["id"]] * 2


def test_an_upload_that_has_expired_meanwhile_is_begun_anew(run, page, requested):
    """As after a phone has slept: its URL is dead, its key used up. A deletion does the same."""
    users = []
    page.on("request", lambda request: users.append(request.headers.get("x-user-id")))

    def expire(route: Route) -> None:
        if len(requested) > 1 or route.request.method == "OPTIONS":
            route.fallback()
        else:
            address = page.url + f"api/media/{requested[0]}"
            assert page.request.delete(address, headers={"X-User-ID": next(filter(None, users))}).ok
            route.fulfill(status=403, headers=STORE_ANSWERS)

    page.route(PUTS, expire)
    outcome = run(UPLOAD)
    first, refused, second = requested
    assert refused is None
    assert first != second
    assert outcome["result"]["id"] == second


def test_an_upload_that_another_page_has_completed_is_not_made_twice(run, page, requested):
    """As after a phone has slept: the answer to the PUT is lost, and its URL dead by now."""
    puts = []

    def complete_elsewhere(route: Route) -> None:
        puts.append(route.fetch().status)
        address = page.url + "api/media/complete"
        headers = {"X-User-ID": users[0]}
        assert page.request.post(address, headers=headers, data={"upload_id": requested[0]}).ok
        route.fulfill(status=403, headers=STORE_ANSWERS)

    users: list[str] = []
    page.on("request", lambda r: users.extend(filter(None, [r.headers.get("x-user-id")])))
    page.route(PUTS, complete_elsewhere)
    outcome = run(UPLOAD)
    assert puts == [200]
    assert requested == [outcome["result"]["id"], None]


def test_a_url_is_renewed_once(run, page, requested):
    page.route(PUTS, lambda route: route.fulfill(status=403, headers=STORE_ANSWERS))
    error = run(UPLOAD)["error"]
    assert (error["code"], error["status"], error["retryable"]) == ("upload_refused", 403, False)
    assert len(requested) == 2


def test_the_store_takes_no_other_bytes_than_were_declared(run):
    outcome = run(
        """const presigned = await media.requestUpload(file, options);
        return media.putObject(presigned, new File([file, "more"], "other.jpg"), options);"""
    )
    assert outcome["error"]["code"] == "upload_refused"
    assert outcome["error"]["retryable"] is False
    assert outcome["waits"] == []


def test_a_refusal_comes_with_code_facts_and_request_id(run):
    outcome = run(UPLOAD, b"no image", "film.mp4", "video/mp4")
    error = outcome["error"]
    assert (error["name"], error["code"], error["status"]) == (
        *("UploadError", "content_type_not_allowed", 415),
    )
    assert error["retryable"] is False
    assert "image/jpeg" in error["details"]["allowed_content_types"]
    assert error["message"]
    assert error["requestId"]


def test_what_is_no_image_is_refused_before_it_is_sent(run, page):
    asked = []
    page.on("request", lambda request: asked.append(request.method))
    assert run(UPLOAD, b"%PDF-1.7", "photo.jpg")["error"]["code"] == "content_type_not_allowed"
    assert "PUT" not in asked


def test_a_file_larger_than_any_service_takes_is_not_read_to_be_refused(run):
    outcome = run(
        """const huge = new File([file, new Uint8Array(64 * 2 ** 20)], "huge.jpg");
        return media.upload(huge, options);"""
    )
    assert outcome["error"]["code"] == "upload_too_large"
    assert outcome["statuses"] == ["requesting"]


@pytest.fixture
def chosen(run, page, tmp_path) -> Path:
    """A file on disk that the page has as `chosen.files[0]`."""
    picture = tmp_path / "one.jpg"
    picture.write_bytes(jpeg())
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<input id=chosen type=file>')")
    page.locator("#chosen").set_input_files(picture)
    return picture


@pytest.mark.parametrize("call", ["upload(chosen.files[0], options)", "sha256(chosen.files[0])"])
def test_a_file_that_was_deleted_meanwhile_is_told_as_unreadable(run, chosen, call):
    chosen.unlink()
    error = run(f"return media.{call};")["error"]
    assert (error["name"], error["code"]) == ("UploadError", "file_unreadable")


def test_a_file_that_changes_before_its_bytes_are_sent_is_told_as_unreadable(run, page, chosen):
    def change(route: Route) -> None:
        chosen.write_bytes(jpeg() + b"more")
        os.utime(chosen, (0, 0))  # browsers go by the second
        route.continue_()

    page.route("**/request-upload", change)
    outcome = run("return media.upload(chosen.files[0], options);")
    assert (outcome["error"]["code"], outcome["waits"]) == ("file_unreadable", [])


def test_a_failed_processing_rejects_with_the_workers_reason(run):
    outcome = run(UPLOAD, jpeg(800, 600)[:400] + bytes(4000))
    assert outcome["error"]["code"] == "corrupt_image"
    assert outcome["error"]["mediaId"] == outcome["error"]["uploadId"]
    assert outcome["statuses"][-1] == "processing"


@pytest.mark.parametrize("lost", ["**/complete", "**/status"])
def test_a_connection_lost_after_the_upload_leaves_an_id_to_finish_by(run, page, lost):
    page.route(lost, lambda route: route.abort("connectionreset"), times=5)
    outcome = run(FINISH)
    error = outcome["result"]["error"]
    assert (error["code"], error["mediaId"]) == ("network_error", None)
    assert outcome["result"]["finished"]["status"] == "ready"
    assert outcome["statuses"].count("completing") == 2
    assert outcome["statuses"][-1] == "ready"


def test_a_caller_no_longer_known_after_the_upload_can_finish_it_later(run, page):
    answer = {"error": "unauthenticated", "message": "Who is it?", "request_id": "1"}
    answer_first(page, "**/complete", status=401, json=answer)
    outcome = run(FINISH)
    assert outcome["result"]["error"]["code"] == "unauthenticated"
    assert outcome["result"]["finished"]["status"] == "ready"


def test_a_token_that_cannot_be_renewed_is_asked_for_again(run):
    outcome = run(
        """const user = options.headers;
        let calls = 0;
        options.headers = async () => {
          calls += 1;
          if (calls === 2) throw new TypeError("Failed to fetch");
          return user;
        };
        return media.upload(file, options);"""
    )
    assert outcome["result"]["status"] == "ready"


def test_a_retry_whose_answer_was_lost_was_one(run, page):
    answer = {"error": "retry_not_possible", "message": "No.", "request_id": "1"}
    code = "const { id } = await media.upload(file, options); return media.retryMedia(id, options);"
    answer_first(page, "**/retry", status=409, json=answer)
    assert run(code)["result"]["status"] == "ready"
    answer_first(page, "**/retry", status=409, json=answer)
    failed = {"id": "1", "status": "failed", "error": {}}
    code = code.replace("return", "globalThis.failing = true; return")
    page.route(
        "**/status",
        lambda route: (
            route.fulfill(json=failed) if page.evaluate("globalThis.failing") else route.fallback()
        ),
    )
    assert run(code)["error"]["code"] == "retry_not_possible"


def test_refused_bytes_leave_nothing_to_finish(run):
    error = run(f"options.contentType = 'image/png'; {UPLOAD}")["error"]
    assert (error["code"], error["uploadId"]) == ("content_mismatch", None)


@pytest.mark.parametrize("stage", ["hashing", "requesting", "uploading", "completing"])
def test_an_abort_ends_the_upload_at_every_stage(run, stage):
    outcome = run(
        f"""options.onStatus = (status) => {{
          seen.statuses.push(status);
          if (status === "{stage}") controller.abort();
        }};
        return media.upload(file, options);"""
    )
    assert outcome["error"]["name"] == "AbortError"
    assert outcome["statuses"][-1] == stage


def test_an_abort_ends_a_put_that_is_under_way(run, page):
    page.route(PUTS, lambda _route: None)
    outcome = run(
        """const presigned = await media.requestUpload(file, options);
        const put = media.putObject(presigned, file, options);
        controller.abort();
        return put;"""
    )
    assert outcome["error"]["name"] == "AbortError"


@pytest.mark.parametrize("status", [200, 404, 500])
def test_an_abort_ends_the_wait_for_the_rest_of_an_answer(run, status):
    outcome = run(
        f"""globalThis.fetch = async (_url, {{ signal }}) => {{
          const start = (body) => signal.addEventListener("abort", () => body.error(signal.reason));
          setTimeout(() => controller.abort());
          return new Response(new ReadableStream({{ start }}), {{ status: {status} }});
        }};
        return media.finish("an-id", {{ ...options, attempts: 1 }});"""
    )
    assert outcome["error"]["name"] == "AbortError"


def test_the_service_may_be_anywhere(run, page, site):
    def pass_on(route: Route) -> None:
        url = route.request.url.replace("/backend/pictures", "/api/media")
        route.fulfill(response=route.fetch(url=url))

    page.route("**/backend/pictures/**", pass_on)
    outcome = run(f"options.baseUrl = '{site.url}/backend/pictures'; {UPLOAD}")
    assert outcome["result"]["status"] == "ready"


def test_the_caller_may_be_told_by_a_function(run):
    outcome = run(
        """const user = options.headers;
        options.headers = async () => user;
        const media_ = await media.upload(file, options);
        const page = await media.listMedia({ ...options, query: { status: "ready" } });
        await media.deleteMedia(media_.id, options);
        return [media_.id, page.items.map(({ id }) => id), await media.listMedia(options)];"""
    )
    media_id, listed, left = outcome["result"]
    assert listed == [media_id]
    assert left["items"] == []


@pytest.mark.parametrize(
    ("body", "name", "given", "expected"),
    [
        (jpeg(), "misnamed.png", "image/png", "image/jpeg"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "film.mp4", "video/mp4", UNKNOWN),
        (b"text", "IMG_1.HEIC", "image/heic", UNKNOWN),
        (b"", "nothing", "", UNKNOWN),
    ],
)
def test_the_type_is_what_the_bytes_say(run, body, name, given, expected):
    outcome = run("return media.guessContentType(file);", body, name, given)
    assert outcome["result"] == expected


def test_the_type_is_what_the_service_takes_it_for(run):
    guess = """return Promise.all(
        headers.map((bytes) => media.guessContentType(new File([new Uint8Array(bytes)], "photo"))),
    );"""
    headers = [list(header) for header, _ in IMAGE_HEADERS]
    guessed = run(f"const headers = {headers}; {guess}")["result"]
    assert guessed == [content_type for _, content_type in IMAGE_HEADERS]


def test_it_imports_nothing_and_needs_no_page(run, site, page):
    source = page.request.get("/static/media-upload.js")
    expect(source).to_be_ok()
    assert source.headers["content-type"].startswith("text/javascript")
    code = re.sub(r"/\*.*?\*/", "", source.text(), flags=re.DOTALL)
    assert not re.search(r"\b(import|document|window|localStorage)\b", code)
