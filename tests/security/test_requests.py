"""Requests no client of ours would make: each is refused with a 4xx, and nothing is ever a 5xx."""

import json
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from tests.builders import jpeg
from tests.security.service import Service
from tests.security.tokens import ALICE, BOB

GOOD = {"content_type": "image/jpeg", "size_bytes": 1000}


def post(service: Service, body: Any, path: str = "/request-upload", **headers: str) -> Any:
    return service.call(
        "POST", path, data=body, headers={"Content-Type": "application/json", **headers}
    )


def assert_error(response: TestResponse, *statuses: int) -> None:
    """It is one of these failures, in the one shape, and the database has heard nothing of it."""
    assert response.status_code in statuses, response.get_data(as_text=True)
    body = response.get_json()
    assert {"code", "status", "message", "error", "request_id"} <= body.keys()
    assert body["code"] == response.status_code
    assert response.headers["X-Content-Type-Options"] == "nosniff"


# JSON


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"nul",
        b"{'a': 1}",
        b'{"a": 1,}',
        b'{"a": 1} x',
        b"\xff\xfe\x00",
        b'{"content_type": "\xff"}',
        "{}".encode("utf-16"),
        b"\xef\xbb\xbf{}",
        b"[" * 30_000,
        b"[" * 500 + b"]" * 500,
        b'{"a":' * 10_000,
        b'{"content_type": "image/jpeg", "size_bytes": NaN}',
        b'{"content_type": "image/jpeg", "size_bytes": Infinity}',
        b'{"content_type": "image/jpeg", "size_bytes": -Infinity}',
        b'{"content_type": "image/jpeg", "size_bytes": 1e400}',
        b'{"content_type": "image/jpeg", "size_bytes": ' + b"9" * 5000 + b"}",
        b'{"content_type": "image/jpeg", "size_bytes": 1, "size_bytes": 2}',
        b'{"content_type": "image/jpeg", "size_bytes": 1, "x": {"a": 1, "a": 2}}',
        b"null",
        b"true",
        b"7",
        b'"x"',
        b"[]",
        b'[{"content_type": "image/jpeg", "size_bytes": 1}]',
    ],
    ids=lambda body: repr(body[:40]),
)
def test_what_is_not_plain_json_of_an_object_is_refused(service: Service, body: bytes):
    assert_error(post(service, body), 400, 422)
    assert_error(post(service, body, "/complete"), 400, 422)


@pytest.mark.parametrize(
    "change",
    [
        {"size_bytes": True},
        {"size_bytes": "1000"},
        {"size_bytes": 1.5},
        {"size_bytes": 0},
        {"size_bytes": -1},
        {"size_bytes": 2**53 + 1},
        {"size_bytes": 10**29},
        {"size_bytes": None},
        {"size_bytes": [1]},
        {"content_type": None},
        {"content_type": 7},
        {"content_type": ""},
        {"content_type": "x" * 256},
        {"content_type": ["image/jpeg"]},
        {"owner_type": "admin"},
        {"owner_type": None},
        {"owner_id": "me"},
        {"owner_id": ALICE.hex},
        {"owner_id": f"urn:uuid:{ALICE}"},
        {"owner_id": 7},
        {"checksum_sha256": ""},
        {"checksum_sha256": "0" * 63},
        {"checksum_sha256": "0" * 62 + "  "},
        {"checksum_sha256": "A" * 44},
        {"checksum_sha256": "\ud800" * 64},
        {"status": "ready"},
        {"raw_key": "uploads/x"},
        {"__proto__": {}},
        {"\x00": 1},
        {"\ud800": 1},
    ],
    ids=repr,
)
def test_values_and_fields_outside_the_schema_are_unprocessable(service: Service, change: Any):
    assert_error(post(service, json.dumps(GOOD | change)), 422)


@pytest.mark.parametrize(
    "content_type",
    ["image/jpeg\0", "image/svg+xml", "IMAGE/JPEG", "image/jpeg ", "image/jpeg\n", "\ud800", "*/*"],
    ids=repr,
)
def test_a_type_is_one_of_the_list_to_the_letter(service: Service, content_type: str):
    assert_error(post(service, json.dumps(GOOD | {"content_type": content_type})), 415)


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "text/json", "application/xml", "multipart/form-data", "application/jsonp"],
)
def test_a_body_that_is_not_said_to_be_json_is_not_read(service: Service, content_type: str):
    assert_error(post(service, json.dumps(GOOD), **{"Content-Type": content_type}), 415)


def test_a_body_over_the_limit_is_not_read(service: Service):
    padded = json.dumps(GOOD) + " " * 70_000
    assert_error(post(service, padded), 413)
    assert post(service, json.dumps(GOOD) + " " * 60_000).status_code == 201


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["content_type", "size_bytes", "owner_type", "owner_id", "checksum_sha256", "upload_id"]
BODIES = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), JSON, max_size=6)
FUZZ = hypothesis_settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FUZZ
@given(body=st.binary(max_size=200) | BODIES.map(lambda body: json.dumps(body).encode()))
def test_no_body_is_an_error_of_ours(service: Service, body: bytes):
    for path in ("/request-upload", "/complete"):
        assert post(service, body, path).status_code in (201, 400, 403, 404, 413, 415, 422)


# URLs and methods


@FUZZ
@given(
    path=st.text(st.characters(codec="utf-8"), max_size=40)
    | st.lists(
        st.sampled_from(["media", "..", ".", "//", "%2e", "status", "x", "\0"]), max_size=5
    ).map("/".join),
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]),
)
def test_no_path_is_an_error_of_ours(service: Service, path: str, method: str):
    assert service.call(method, f"/{path}").status_code < 500


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=0", 422),
        ("limit=201", 422),
        ("limit=-1", 422),
        ("limit=+5", 422),
        ("limit=1_0", 422),
        ("limit=%205", 422),
        ("limit=%EF%BC%95", 422),
        ("limit=1e2", 422),
        ("limit=" + "9" * 5000, 422),
        ("limit=%00", 422),
        ("limit=%FF", 422),
        ("status=gone", 422),
        ("status=ready%00", 422),
        ("cursor=x", 422),
        ("cursor=%7B0190a8e5-6c1f-7d3a-9b7e-1f2e3d4c5b6a%7D", 422),
        ("owner_type=", 422),
        (f"owner_id={BOB}", 403),
        ("order=desc", 422),
        ("%00=1", 422),
        ("limit=5&limit=5", 422),
        ("limit=200", 200),
        ("", 200),
    ],
)
def test_a_listings_query_is_read_to_the_letter(service: Service, query: str, status: int):
    assert service.call("GET", f"?{query}").status_code == status


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "CONNECT", "PROPFIND", "X" * 50])
@pytest.mark.parametrize("path", ["", "/request-upload", "/complete", f"/{ALICE}"])
def test_other_methods_are_not_allowed_and_say_which_are(service: Service, method, path):
    response = service.call(method, path)
    assert_error(response, 405)
    assert response.headers["Allow"]


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
def test_a_method_cannot_be_overridden(service: Service, name: str):
    presigned = service.request(jpeg())
    path = f"/{presigned['upload_id']}"
    assert service.call("GET", path, headers={name: "DELETE"}).status_code == 200
    assert service.call("GET", f"{path}?_method=DELETE").status_code == 200
    assert service.call("GET", path).status_code == 200


def test_head_answers_as_get_without_a_body_and_options_tells_methods_only(service: Service):
    presigned = service.request(jpeg())
    path = f"/{presigned['upload_id']}"
    head = service.call("HEAD", path)
    assert (head.status_code, head.data) == (200, b"")
    assert head.headers["ETag"] == service.call("GET", path).headers["ETag"]
    options = service.client.options(f"/api/media{path}")
    assert (options.status_code, options.data) == (200, b"")
    assert "Access-Control-Allow-Origin" not in options.headers


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/complete/",
        f"/{ALICE}/",
        f"/{ALICE}/status/",
        f"//{ALICE}",
        f"/{ALICE}//status",
        "/%2e",
    ],
)
def test_a_path_has_one_spelling_and_there_are_no_redirects(service: Service, path: str):
    assert_error(service.call("GET", path), 404)


# Headers


@pytest.mark.parametrize(
    "given_id", ["", "a b", "x" * 129, "<script>", "a\tb", "a;b", "é", "\x7f", '"', "a,b"]
)
def test_a_request_id_that_is_not_plain_is_replaced(service: Service, given_id: str):
    response = service.call("GET", headers={"X-Request-ID": given_id})
    assert len(response.headers["X-Request-ID"]) == 36
    assert (
        service.call("GET", headers={"X-Request-ID": "a:b/c-1"}).headers["X-Request-ID"]
        == "a:b/c-1"
    )


@pytest.mark.parametrize("key", ["a b", "é", "x" * 256, "\x7f", "a\tb"])
def test_an_idempotency_key_is_short_and_printable(service: Service, key: str):
    assert_error(post(service, json.dumps(GOOD), **{"Idempotency-Key": key}), 422)


@pytest.mark.parametrize("key", ["'; DROP TABLE media; --", "%00", "{}", "\\", "x" * 255])
def test_an_idempotency_key_is_only_ever_compared(service: Service, key: str):
    key = key.replace(" ", "")
    first = post(service, json.dumps(GOOD), **{"Idempotency-Key": key}).get_json()
    again = post(service, json.dumps(GOOD), **{"Idempotency-Key": key}).get_json()
    assert first["upload_id"] == again["upload_id"]


@pytest.mark.parametrize(
    "environ",
    [
        {"HTTP_HOST": ""},
        {"HTTP_HOST": "a b"},
        {"HTTP_HOST": "exa\x00mple"},
        {"HTTP_HOST": "[::1"},
        {"HTTP_HOST": "x" * 5000},
        {"HTTP_HOST": "evil.example.com:99999"},
        {"CONTENT_LENGTH": "-1"},
        {"CONTENT_LENGTH": "abc"},
        {"CONTENT_LENGTH": "99999999999999999999"},
        {"QUERY_STRING": "%%%&&&===;;;"},
        {"QUERY_STRING": "limit=\xff"},
        {"PATH_INFO": "/api/media/\xff\xfe"},
        {"PATH_INFO": "api/media"},
        {"PATH_INFO": ""},
        {"HTTP_IF_NONE_MATCH": '"' * 1000},
        {"HTTP_ACCEPT": "\xff;q=x"},
        {"HTTP_COOKIE": "\xff=\xff; ;;="},
        {"HTTP_RANGE": "bytes=-1-5"},
        {"HTTP_X_FORWARDED_HOST": "evil.example.com"},
        {"HTTP_TRANSFER_ENCODING": "gzip, chunked"},
        {"CONTENT_TYPE": "application/json; charset=\x00"},
        {"CONTENT_TYPE": "\xff/\xff"},
        {"wsgi.url_scheme": "gopher"},
    ],
    ids=repr,
)
def test_no_header_is_an_error_of_ours(service: Service, environ: dict[str, str]):
    for method in ("GET", "POST"):
        response = service.call(method, "", environ_overrides=environ)
        assert response.status_code < 500
        assert "evil.example.com" not in response.get_data(as_text=True)
        assert "evil.example.com" not in str(response.headers)


# Other people's media


def test_a_stranger_learns_nothing_of_a_media_that_is_not_ready(service: Service):
    """What is there and what is not look the same, but for what a deed would do."""
    mine = service.upload()
    for path in (f"/{mine}", f"/{mine}/status"):
        unknown = service.call("GET", path.replace(mine, str(uuid4())), caller=BOB).get_json()
        hidden = service.call("GET", path, caller=BOB).get_json()
        assert {**hidden, "request_id": ""} == {**unknown, "request_id": ""}
    assert service.call("DELETE", f"/{mine}", caller=BOB).status_code == 403
    assert service.call("POST", f"/{mine}/retry", caller=BOB).status_code == 403
    body = {"upload_id": mine}
    assert service.call("POST", "/complete", caller=BOB, json=body).status_code == 403
    assert service.call("GET", "", caller=BOB).get_json()["items"] == []
    assert service.call("GET", f"?cursor={uuid4()}", caller=BOB).get_json()["items"] == []
    assert service.call("GET", f"/{mine}").get_json()["status"] == "processing"


def test_a_cursor_of_somebody_elses_media_shows_only_ones_own(service: Service):
    earlier = service.call("POST", "/request-upload", caller=BOB, json=GOOD)
    mine = service.request(jpeg())["upload_id"]
    later = service.call("POST", "/request-upload", caller=BOB, json=GOOD)
    assert (earlier.status_code, later.status_code) == (201, 201)
    listed = service.call("GET", f"?cursor={later.get_json()['upload_id']}").get_json()["items"]
    assert [item["id"] for item in listed] == [mine]
