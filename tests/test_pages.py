"""The pages for people: when there is one, and what its Content-Security-Policy lets it do.

What the pages do is tested in a browser.
"""

from functools import cache

import pytest

from config.settings import Settings
from mediaservice import create_app
from tests.builders import environment, production


@pytest.fixture(scope="module")
def get():
    """Return a function that fetches a path from a service with the given environment."""

    @cache
    def client(variables):
        return create_app(Settings.from_environ(dict(variables))).test_client()

    return lambda path, environ: client(tuple(environ.items())).get(path)


def policy(response):
    directives = response.headers["Content-Security-Policy"].split("; ")
    return {name: set(sources) for name, *sources in (d.split() for d in directives)}


@pytest.mark.parametrize(
    ("environ", "status"),
    [
        (environment(), 200),
        (environment(UPLOAD_PAGE="off"), 404),
        (production(), 404),
        (production(UPLOAD_PAGE="on"), 200),
    ],
)
def test_the_upload_page_is_for_development_unless_asked_for(get, environ, status):
    assert get("/", environ).status_code == status


def test_the_page_may_reach_the_service_the_store_and_the_cdn_and_nothing_else(get):
    environ = environment(
        S3_ENDPOINT="http://store.internal:9000",
        S3_PUBLIC_ENDPOINT="https://s3.example.com",
        CDN_BASE_URL="https://cdn.example.com/images",
    )
    allowed = policy(get("/", environ))
    assert allowed["default-src"] == {"'none'"}
    assert allowed["script-src"] == {"'self'"}
    assert allowed["style-src"] == {"'self'"}
    assert allowed["connect-src"] == {"'self'", "https://s3.example.com"}
    assert allowed["img-src"] == {"'self'", "blob:", "https://cdn.example.com"}
    assert allowed["frame-ancestors"] == {"'none'"}
    assert allowed["require-trusted-types-for"] == {"'script'"}


def test_where_buckets_are_hosts_the_page_may_reach_the_buckets_host(get):
    environ = environment(S3_ENDPOINT="https://s3.example.com", S3_ADDRESSING_STYLE="virtual")
    assert policy(get("/", environ))["connect-src"] == {"'self'", "https://raw.s3.example.com"}


@pytest.mark.parametrize("path", ["/", "/api/docs"])
def test_no_page_has_anything_inline(get, path):
    response = get(path, environment())
    assert "unsafe" not in response.headers["Content-Security-Policy"]
    for inline in ("<style", " style=", " onclick=", "<script>"):
        assert inline not in response.text


@pytest.mark.parametrize(
    ("mode", "asked"),
    [
        ({}, ["user-id"]),
        ({"AUTH_MODE": "jwt", "JWT_SECRET": "k3Jv0sD8aQ1xZ7mN5bR2tY6uP4wE9cL0"}, ["token"]),
        (
            {"AUTH_MODE": "gateway", "GATEWAY_TOKEN": "k3Jv0sD8aQ1xZ7mN5bR2tY6uP4wE9cL0"},
            ["token", "user-id"],
        ),
    ],
)
def test_the_page_asks_for_what_the_service_needs_to_know_the_caller(get, mode, asked):
    text = get("/", environment(**mode)).text
    assert [field for field in ("token", "user-id") if f'id="{field}"' in text] == asked


def test_the_page_names_the_formats_and_the_limit(get):
    environ = environment(
        ALLOWED_CONTENT_TYPES="image/jpeg,image/webp,image/heic,image/heif",
        MAX_UPLOAD_BYTES="20971520",
    )
    text = get("/", environ).text
    assert "JPEG, WebP, HEIC · up to 20.9 MB each" in text
    assert 'accept="image/jpeg,image/webp,image/heic,image/heif,.heic,.heif"' in text


def test_only_swagger_uis_own_files_are_served_beside_it(get):
    script = get("/api/docs/swagger-ui-bundle.js", environment())
    assert script.status_code == 200
    assert script.content_length > 1_000_000
    script.close()
    for name in ("index.html", "..%2f__init__.py", "swagger-ui.js"):
        assert get(f"/api/docs/{name}", environment()).status_code == 404
