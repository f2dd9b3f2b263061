"""Swagger UI as a developer uses it: authorise, try calls, finish an upload by hand."""

import json
import re
import subprocess
from uuid import uuid4

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.builders import jpeg


@pytest.fixture
def docs(page, site) -> Page:
    page.goto("/api/docs")
    expect(page.get_by_role("heading", name="media-service")).to_be_visible()
    return page


def authorise(docs: Page) -> None:
    docs.get_by_role("button", name="Authorize").click()
    dialog = docs.locator(".modal-ux")
    dialog.get_by_role("textbox").fill(str(uuid4()))
    dialog.get_by_role("button", name="Apply credentials").click()
    dialog.get_by_role("button", name="Close", exact=True).click()


def operation(docs: Page, path: str) -> Locator:
    found = docs.locator(".opblock").filter(has=docs.locator(f'[data-path="{path}"]'))
    found.locator(".opblock-summary-control").click()
    return found


def execute(opened: Locator) -> dict[str, object]:
    with opened.page.expect_response("**/api/media/**") as response:
        opened.get_by_role("button", name="Execute").click()
    return {"status": response.value.status, "body": response.value.json()}


def test_an_upload_can_be_finished_by_hand(docs, tmp_path):
    picture = jpeg(700, 500)
    (tmp_path / "image.jpeg").write_bytes(picture)
    authorise(docs)

    request = operation(docs, "/api/media/request-upload")
    body = request.locator("textarea.body-param__text")
    body.fill(re.sub(r'"size_bytes": \d+', f'"size_bytes": {len(picture)}', body.input_value()))
    request.get_by_placeholder("Idempotency-Key").fill(str(uuid4()))
    presigned = execute(request)
    assert presigned["status"] == 201
    expect(request.locator(".live-responses-table")).to_contain_text("curl --fail-with-body")

    done = subprocess.run(
        presigned["body"]["curl"],
        shell=True,
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr + done.stdout

    complete = operation(docs, "/api/media/complete")
    upload_id = presigned["body"]["upload_id"]
    complete.locator("textarea.body-param__text").fill(json.dumps({"upload_id": upload_id}))
    completed = execute(complete)
    assert (completed["status"], completed["body"]["status"]) == (202, "processing")


def test_its_patterns_are_ones_that_javascript_reads(page):
    document = page.request.get("/api/openapi.json").text()
    found = re.findall(r'"pattern":\s*(".*?[^\\]")', document)
    patterns = {json.loads(pattern) for pattern in found}
    assert len(patterns) == 2
    for pattern in patterns:
        page.evaluate("(pattern) => new RegExp(pattern, 'u')", pattern)
    (key,) = (pattern for pattern in patterns if "x7e" in pattern)
    assert page.evaluate("([p, key]) => new RegExp(p, 'u').test(key)", [key, str(uuid4())])


def test_without_credentials_a_call_is_refused(docs):
    listing = operation(docs, "/api/media")
    with docs.expect_response("**/api/media?**") as response:
        listing.get_by_role("button", name="Execute").click()
    assert response.value.status == 401


def test_every_call_and_its_failures_are_shown(docs):
    expect(docs.locator(".opblock")).to_have_count(7)
    complete = operation(docs, "/api/media/complete")
    expect(complete).to_contain_text("upload_not_found")
    expect(complete).to_contain_text("content_mismatch")
    expect(complete).to_contain_text("Retry-After")


def test_nothing_is_loaded_from_elsewhere(page, site):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto("/api/docs")
    expect(page.locator(".opblock")).to_have_count(7)
    assert len(asked) > 4
    assert [url for url in asked if not url.startswith((site.url, "data:"))] == []
