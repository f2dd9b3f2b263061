"""Whether an answer is one that the OpenAPI document promises.

Used on every answer the tests of the HTTP contract get, so that the document cannot be incomplete
without a test noticing.
"""

import re
from collections.abc import Iterator
from typing import Any

from openapi_schema_validator import OAS31Validator

# What a client acts on; each has to be documented where it occurs.
TOLD_HEADERS = ("X-Request-ID", "Retry-After", "ETag", "WWW-Authenticate", "Location")
METHODS = ("get", "post", "put", "patch", "delete")


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every operation with its name, e.g. `POST /api/media/complete`."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield f"{method.upper()} {path}", item[method]


def resolve(document: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """Return a part of the document, or what it refers to."""
    if "$ref" not in part:
        return part
    found = document
    for name in part["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def schema_of(document: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a body, able to stand alone."""
    return {"components": document["components"], **content["schema"]}


def strict(schema: Any) -> Any:
    """Return a schema under which an answer has no members that the document does not declare."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if isinstance(schema.get("properties"), dict) else {}
    return {**closed, **{name: strict(part) for name, part in schema.items()}}


def check_documented(document: dict[str, Any], method: str, path: str, response: Any) -> None:
    """Raise unless the document has this status, code, body and headers for this call."""
    operation = _find(document, method, path)
    if operation is None:
        return
    status = str(response.status_code)
    assert status in operation["responses"], f"{method} {path}: {status} is not documented"
    documented = operation["responses"][status]
    for header in TOLD_HEADERS:
        if header in response.headers:
            assert header in documented["headers"], f"{method} {path}: {status} has {header}"
    if "content" not in documented:
        assert not response.data
        return
    content = documented["content"][response.mimetype]
    OAS31Validator(
        strict(schema_of(document, content)), format_checker=OAS31Validator.FORMAT_CHECKER
    ).validate(response.json)
    if response.status_code >= 400:
        assert response.json["error"] in content["examples"], f"{method} {path}: {response.json}"


def _find(document: dict[str, Any], method: str, path: str) -> dict[str, Any] | None:
    # The longest first: a template such as {media_id} would take the fixed paths too.
    for template, item in sorted(document["paths"].items(), key=lambda entry: "{" in entry[0]):
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path):
            return item.get(method.lower())
    return None
