"""The code for web apps in README and tutorial, run as it stands there."""

import os
import re
import secrets
import sys

import pytest
import requests
from playwright.sync_api import expect

from devstack.process import Process, answers, find_free_ports
from mediaservice import PROJECT
from tests.browser.backend import GATEWAY_TOKEN
from tests.builders import jpeg
from tests.documents import blocks

PHOTO = {"name": "photo.jpg", "mimeType": "image/jpeg"}


@pytest.fixture
def web_app(site, sites, tmp_path):
    """The tutorial's web app, in front of a service in gateway mode.

    After `site`, as `production_site`: the last to allow uploads is the one allowed.
    """
    service = sites(AUTH_MODE="gateway", GATEWAY_TOKEN=GATEWAY_TOKEN)
    tutorial = PROJECT / "docs" / "tutorial.md"
    (backend,) = blocks(tutorial, "python")
    (html,) = blocks(tutorial, "html")
    (tmp_path / "bff.py").write_text(backend)
    (tmp_path / "index.html").write_text(html)
    (tmp_path / "static").mkdir()
    module = requests.get(f"{service.url}/static/media-upload.js", timeout=10)
    (tmp_path / "static" / "media-upload.js").write_bytes(module.content)
    port = find_free_ports()
    url = f"http://127.0.0.1:{port}"
    service.storage.create_buckets((url,))

    process = Process(
        "bff",
        [sys.executable, "-m", "flask", "--app", "bff", "run", "--port", str(port)],
        log_path=tmp_path / "bff.log",
        environ={
            "PATH": os.environ["PATH"],
            "NO_PROXY": "127.0.0.1",
            "MEDIA_SERVICE_URL": service.url,
            "GATEWAY_TOKEN": GATEWAY_TOKEN,
            "SESSION_KEY": secrets.token_hex(32),
        },
        cwd=tmp_path,
        is_ready=lambda: answers(url),
    )
    with process:
        yield url


def test_a_user_of_the_tutorials_web_app_uploads_a_picture_and_finds_it_again(web_app, page):
    page.goto(web_app)
    page.locator("#file").set_input_files({**PHOTO, "buffer": jpeg(900, 600)})
    picture = page.locator("#pictures img")
    expect(picture).to_have_count(1)
    expect(page.locator("#words")).to_have_text("ready")
    page.reload()
    expect(picture).to_have_count(1)
    expect(picture).to_have_js_property("complete", True)
    assert picture.evaluate("image => image.naturalWidth") == 320


def test_the_tutorials_web_app_says_what_is_refused(web_app, page):
    page.goto(web_app)
    page.locator("#file").set_input_files({**PHOTO, "buffer": b"\xff\xd8\xff\xe0" + b"\0" * 500})
    expect(page.locator("#words")).to_contain_text("damaged")


def test_the_tutorials_backend_passes_on_its_calls_only(web_app):
    assert requests.get(f"{web_app}/api/media", timeout=10).status_code == 401
    stranger = requests.Session()
    assert stranger.get(web_app, timeout=10).status_code == 200
    assert stranger.get(f"{web_app}/api/media", timeout=10).json()["items"] == []
    for path in ("/api/docs", "/api/media/complete/..%2f..%2f..%2fmetrics", "/metrics"):
        assert stranger.get(web_app + path, timeout=10).status_code in (404, 405), path


def test_the_readmes_lines_for_a_web_page_upload_and_show_an_image(site, page):
    *_, lines = blocks(PROJECT / "README.md", "js")
    assert "media-upload.js" in lines
    code = re.sub(r"import (\{.*?\}) from (\S+);", r"const \1 = await import(\2);", lines)
    # In development there is no token to check, but the caller has to be named.
    code = code.replace("Authorization: `Bearer ${token}`", '"X-User-ID": token')
    page.goto("/")
    image = page.evaluate(
        "async ([bytes, token, code]) => {"
        "  const file = new File([new Uint8Array(bytes)], 'photo.jpg', { type: 'image/jpeg' });"
        "  const image = new Image();"
        "  const bar = document.createElement('progress');"
        "  const run = Object.getPrototypeOf(async () => {}).constructor;"
        "  await new run('file', 'token', 'image', 'bar', code)(file, token, image, bar);"
        "  await image.decode();"
        "  return [image.naturalWidth, image.naturalHeight, bar.value];"
        "}",
        [list(jpeg(800, 500)), "11111111-1111-4111-8111-111111111111", code],
    )
    assert image == [800, 500, 1]


@pytest.fixture
def context_options():
    """Without the page's policy: a test writes code of its own into it."""
    return {"bypass_csp": True}
