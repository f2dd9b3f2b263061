"""Uppy, the uploader most web apps have, in a web app whose backend passes its calls on."""

import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser.backend import GATEWAY_TOKEN, backend
from tests.builders import jpeg, png

PAGE = Path(__file__).with_name("uppy.html")


@pytest.fixture(params=["uppy-5", "uppy-6"])
def files(request, npm_package, sites, page):
    """The file input of a web app with Uppy, bundled from npm as web apps are."""
    project = npm_package(request.param)
    bundle = project / "bundle.js"
    subprocess.run(
        [
            *(str(project / "node_modules/.bin/esbuild"), "client.js", "--bundle"),
            *("--format=esm", "--log-level=error", f"--outfile={bundle}"),
        ],
        cwd=project,
        check=True,
    )
    site = sites(AUTH_MODE="gateway", GATEWAY_TOKEN=GATEWAY_TOKEN)
    served = {"/": PAGE, "/uppy-client.js": bundle}
    with backend(site.url, GATEWAY_TOKEN, served) as url:
        site.storage.create_buckets((url,))
        page.goto(url)
        yield page.locator("#files")


def test_uppy_uploads_across_origins_and_the_images_become_ready(files, page):
    puts = []
    page.on("response", lambda response: puts.append(response.status) if is_put(response) else None)
    files.set_input_files(
        [
            {"name": "one.jpg", "mimeType": "image/jpeg", "buffer": jpeg(900, 600)},
            {"name": "two.png", "mimeType": "image/png", "buffer": png(400, 300)},
        ]
    )
    outcome = page.locator("#outcome")
    expect(outcome).to_contain_text("ready two.png")
    expect(outcome).to_contain_text("ready one.jpg")
    assert puts == [200, 200]


def test_uppy_shows_what_the_service_refuses(files, page):
    files.set_input_files({"name": "film.mp4", "mimeType": "video/mp4", "buffer": b"no image"})
    expect(page.locator("#outcome")).to_contain_text("failed film.mp4")
    expect(page.locator("#outcome")).to_contain_text("content_type_not_allowed")


def is_put(response) -> bool:
    return response.request.method == "PUT"
