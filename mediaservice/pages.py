"""The pages for people: the upload page at `/` and Swagger UI at `/api/docs`.

Both are ordinary clients of the API; no rule of the service is here. Nothing on them is inline and
nothing comes from elsewhere, so that the strict Content-Security-Policy needs no exception.
"""

from pathlib import Path
from urllib.parse import urlsplit

import flask_swagger_ui
from flask import Blueprint, Response, abort, make_response, render_template, send_from_directory

from mediaservice.web import components

# Of that package the files of Swagger UI alone are used: its own page has an inline script.
_SWAGGER_UI = Path(flask_swagger_ui.__file__).parent / "dist"
_SWAGGER_UI_FILES = frozenset({"swagger-ui-bundle.js", "swagger-ui.css"})
_SWAGGER_UI_MAX_AGE_SECONDS = 3600
_PAGE_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
_FORMAT_NAMES = {"heif": "HEIC", "webp": "WebP"}

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
def upload() -> Response:
    """Show the upload page, if this configuration has one."""
    parts = components()
    if not parts.settings.has_upload_page:
        abort(404)
    types = parts.settings.allowed_content_types
    page = render_template(
        "upload.html",
        settings=parts.settings,
        accept=_accept(types),
        formats=", ".join(_format_names(types)),
        max_upload=_megabytes(parts.settings.max_upload_bytes),
    )
    return _page(
        page,
        {
            "connect-src": f"'self' {parts.storage.upload_origin}",
            "img-src": f"'self' blob: {_origin(parts.settings.cdn_base_url)}",
            "require-trusted-types-for": "'script'",
        },
    )


@blueprint.get("/api/docs")
def swagger_ui() -> Response:
    """Show the API's documentation, in which every call can be tried."""
    page = render_template("swagger_ui.html", auth_mode=components().settings.auth_mode)
    return _page(page, {"connect-src": "'self'", "img-src": "'self' data:"})


@blueprint.get("/api/docs/<name>")
def swagger_ui_file(name: str) -> Response:
    """Serve Swagger UI's own script and style."""
    if name not in _SWAGGER_UI_FILES:
        abort(404)
    return send_from_directory(_SWAGGER_UI, name, max_age=_SWAGGER_UI_MAX_AGE_SECONDS)


def _page(html: str, policy: dict[str, str]) -> Response:
    response = make_response(html)
    directives = {**_PAGE_POLICY, **policy}
    response.headers["Content-Security-Policy"] = "; ".join(
        f"{name} {sources}" for name, sources in directives.items()
    )
    response.headers["Cache-Control"] = "no-cache"
    return response


def _accept(content_types: tuple[str, ...]) -> str:
    """Return an `accept` attribute; most systems know HEIC by its file names only."""
    heic = [".heic", ".heif"] if {"image/heic", "image/heif"} & set(content_types) else []
    return ",".join([*content_types, *heic])


def _format_names(content_types: tuple[str, ...]) -> list[str]:
    formats = [content_type.removeprefix("image/") for content_type in content_types]
    return list(dict.fromkeys(_FORMAT_NAMES.get(name, name.upper()) for name in formats))


def _megabytes(size_bytes: int) -> str:
    """Return a limit in the units people know, rounded down, e.g. `20.9 MB`."""
    return f"{size_bytes // 100_000 / 10:g} MB"


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
