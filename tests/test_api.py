"""The HTTP contract: each call, each failure a client must be able to tell apart, each header.

Over SQLite and moto, through Flask's test client. moto verifies no signature: what an upload URL
really allows is tested in `test_storage`.
"""

import base64
import hashlib
import json
import shlex
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import boto3
import pytest
import requests
import sqlalchemy as sa
from psycopg.errors import ReadOnlySqlTransaction
from sqlalchemy.exc import InternalError

from docgen import openapi
from mediaservice import create_app, errors
from mediaservice.database import now_plus
from mediaservice.messages import FailedResult, ProcessedResult, ProcessingError, Variant
from mediaservice.models import Media
from tests.builders import CDN, UNKNOWN_ID, jpeg, png, settings
from tests.conformance import check_documented, operations

ALICE, BOB = uuid4(), uuid4()
NO_DATABASE = "postgresql://media:media@127.0.0.1:9/media"
NO_STORE = "http://127.0.0.1:9"
PICTURE = jpeg()
DOCUMENT = json.loads(openapi.DOCUMENT.read_text())


@pytest.fixture(scope="module")
def store(moto):
    """A client of the store: what tests leave there is under keys that nobody else asks for."""
    client = boto3.client(
        "s3",
        endpoint_url=moto,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    make_buckets_anew(client)
    return client


@pytest.fixture
def store_to_break(store):
    yield store
    make_buckets_anew(store)


def make_buckets_anew(client):
    requests.post(f"{client.meta.endpoint_url}/moto-api/reset", timeout=10)
    for bucket in ("raw", "public"):
        client.create_bucket(Bucket=bucket)


class Service:
    """One application, and what its clients, its store and its worker do."""

    def __init__(self, app, store):
        self.store = store
        self.lifecycle = app.extensions["media"].lifecycle
        self.engine = self.lifecycle.rows.engine
        self.client = app.test_client()

    def call(self, method, path, *, caller=ALICE, headers=None, **arguments):
        identity = {"X-User-ID": str(caller)} if caller else {}
        headers = {**identity, **(headers or {})}
        response = self.client.open(
            f"/api/media{path}", method=method, headers=headers, **arguments
        )
        check_documented(DOCUMENT, method, response.request.path, response)
        return response

    def request(self, body=None, *, caller=ALICE, key=None, **fields):
        body = jpeg() if body is None else body
        declared = {"content_type": "image/jpeg", "size_bytes": len(body), **fields}
        headers = {"Idempotency-Key": key} if key else {}
        return self.call("POST", "/request-upload", caller=caller, headers=headers, json=declared)

    def put(self, media_id, body, content_type="image/jpeg"):
        key = f"uploads/{media_id}"
        self.store.put_object(Bucket="raw", Key=key, Body=body, ContentType=content_type)

    def complete(self, media_id, *, caller=ALICE):
        return self.call("POST", "/complete", caller=caller, json={"upload_id": str(media_id)})

    def pending(self, body=None, **fields):
        return self.request(body, **fields).json["upload_id"]

    def processing(self):
        body = jpeg()
        media_id = self.pending(body)
        self.put(media_id, body)
        assert self.complete(media_id).status_code == 202
        return media_id

    def ready(self):
        media_id = self.processing()
        prefix = f"media/{media_id}/"
        variant = Variant(
            name="w320",
            key=f"{prefix}w320.webp",
            width=320,
            height=240,
            size_bytes=99,
            content_type="image/webp",
        )
        self.apply(
            ProcessedResult(
                media_id=UUID(media_id),
                public_key=f"{prefix}main.webp",
                width=640,
                height=480,
                variants=[variant],
                placeholder="1QcSHQRnh493V4dIh4eXh1h4kJUI",
            )
        )
        return media_id

    def failed(self, code="corrupt_image"):
        media_id = self.processing()
        self.apply(FailedResult(media_id=UUID(media_id), error=ProcessingError(code=code)))
        return media_id

    def apply(self, result):
        self.lifecycle.processing.claim(10)
        self.lifecycle.results.begin([result])()

    def set(self, media_id, **values):
        with self.engine.begin() as connection:
            connection.execute(
                sa.update(Media).where(Media.c.id == UUID(media_id)).values(**values)
            )

    def count(self):
        with self.engine.connect() as connection:
            return connection.scalar(sa.select(sa.func.count()).select_from(Media))


@pytest.fixture
def make_service(sqlite_url, moto, store):
    made = []

    def make(**variables):
        chosen = settings(**{"DATABASE_URL": sqlite_url, "S3_ENDPOINT": moto, **variables})
        made.append(Service(create_app(chosen), store))
        return made[-1]

    yield make
    for service in made:
        service.engine.dispose()


@pytest.fixture(scope="module")
def usual_app(make_sqlite_url, moto):
    """The application with the usual settings: making one takes longer than most tests."""
    app = create_app(settings(DATABASE_URL=make_sqlite_url(), S3_ENDPOINT=moto))
    yield app
    app.extensions["media"].lifecycle.rows.engine.dispose()


@pytest.fixture
def service(usual_app, store):
    service = Service(usual_app, store)
    with service.engine.begin() as connection:
        connection.execute(sa.delete(Media))
    return service


def check_error(response, status, error):
    body = response.json
    assert (response.status_code, body["error"]) == (status, error)
    assert body["code"] == status
    assert body["status"] == HTTPStatus(status).phrase
    assert body["message"]
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert set(body) <= {"code", "status", "message", "error", "request_id", "errors"}
    assert response.content_type == "application/json"


# request-upload


def test_an_upload_request_returns_a_put_to_make_as_it_stands(service):
    body = jpeg()
    response = service.request(body)
    presigned = response.json
    assert response.status_code == 201
    assert response.headers["Cache-Control"] == "no-store"
    assert set(presigned) == {"upload_id", "upload_url", "method", "headers", "expires_at", "curl"}
    assert presigned["method"] == "PUT"
    assert presigned["headers"] == {"Content-Type": "image/jpeg", "If-None-Match": "*"}
    url = urlsplit(presigned["upload_url"])
    assert url.path == f"/raw/uploads/{presigned['upload_id']}"
    signed = parse_qs(url.query)["X-Amz-SignedHeaders"][0].split(";")
    assert set(signed) == {"content-length", "content-type", "host", "if-none-match"}
    left = datetime.fromisoformat(presigned["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=800) < left <= timedelta(seconds=900)


def test_the_curl_line_is_the_same_put_for_a_shell(service):
    presigned = service.request().json
    line = shlex.split(presigned["curl"])
    assert line[0] == "curl"
    assert line[line.index("--upload-file") + 1] == "image.jpeg"
    headers = [line[at + 1] for at, word in enumerate(line) if word == "-H"]
    assert headers == [f"{name}: {value}" for name, value in presigned["headers"].items()]
    assert line[-1] == presigned["upload_url"]


def test_the_row_is_there_before_the_url_is_used(service):
    media_id = service.pending()
    status = service.call("GET", f"/{media_id}/status")
    assert status.json["status"] == "pending"


@pytest.mark.parametrize("spell", [bytes.hex, lambda d: base64.b64encode(d).decode()])
def test_a_checksum_is_signed_in_base64_however_it_was_given(service, spell):
    body = jpeg()
    digest = hashlib.sha256(body).digest()
    presigned = service.request(body, checksum_sha256=spell(digest)).json
    assert presigned["headers"]["x-amz-checksum-sha256"] == base64.b64encode(digest).decode()
    assert "x-amz-checksum-sha256" in presigned["upload_url"]


@pytest.mark.parametrize("path", ["/request-upload", "/complete"])
@pytest.mark.parametrize("caller", [None, "somebody"])
def test_a_caller_without_an_identity_is_refused_before_the_body_is_read(service, path, caller):
    response = service.call("POST", path, caller=caller, data=b"\xff", content_type="text/plain")
    check_error(response, 401, "unauthenticated")
    assert response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"/{UNKNOWN_ID}"),
        ("GET", f"/{UNKNOWN_ID}/status"),
        ("DELETE", f"/{UNKNOWN_ID}"),
        ("POST", f"/{UNKNOWN_ID}/retry"),
        ("GET", ""),
    ],
)
def test_every_call_needs_a_caller(service, method, path):
    check_error(service.call(method, path, caller=None), 401, "unauthenticated")


def test_nobody_uploads_for_somebody_else(service):
    check_error(service.request(owner_id=str(BOB)), 403, "owner_mismatch")
    assert service.request(owner_id=str(ALICE)).status_code == 201


def test_an_upload_over_the_limit_is_refused_with_the_limit(make_service):
    service = make_service(MAX_UPLOAD_BYTES="1000")
    response = service.request(size_bytes=1001)
    check_error(response, 413, "upload_too_large")
    assert response.json["errors"] == {"max_upload_bytes": 1000}
    assert service.request(size_bytes=1000).status_code == 201


def test_a_type_that_is_not_allowed_is_refused_with_those_that_are(make_service):
    service = make_service(ALLOWED_CONTENT_TYPES="image/png,image/webp")
    response = service.request(content_type="image/jpeg")
    check_error(response, 415, "content_type_not_allowed")
    assert response.json["errors"] == {"allowed_content_types": ["image/png", "image/webp"]}


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"size_bytes": 0}, "size_bytes"),
        ({"size_bytes": -5}, "size_bytes"),
        ({"size_bytes": "12"}, "size_bytes"),
        ({"size_bytes": 1.5}, "size_bytes"),
        ({"size_bytes": 2**53 + 1}, "size_bytes"),
        ({"size_bytes": None}, "size_bytes"),
        ({"content_type": ""}, "content_type"),
        ({"content_type": 7}, "content_type"),
        ({"owner_type": "group"}, "owner_type"),
        ({"owner_id": "me"}, "owner_id"),
        ({"checksum_sha256": "abc"}, "checksum_sha256"),
        ({"checksum_sha256": "0" * 63 + "g"}, "checksum_sha256"),
        ({"status": "ready"}, "status"),
    ],
)
def test_a_request_against_the_schema_names_the_field(service, fields, at_fault):
    response = service.request(**fields)
    check_error(response, 422, "invalid_request")
    assert list(response.json["errors"]["json"]) == [at_fault]
    assert service.count() == 0


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe"])
def test_a_body_that_is_no_object_is_an_error_of_the_client(service, body):
    response = service.call("POST", "/request-upload", data=body, content_type="application/json")
    assert response.status_code in (400, 422)
    check_error(response, response.status_code, response.json["error"])


def test_a_body_that_is_too_long_is_not_read(service):
    response = service.call(
        "POST", "/request-upload", data=b" " * 70_000, content_type="application/json"
    )
    check_error(response, 413, "request_too_large")


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "ä"])
def test_an_idempotency_key_is_short_and_printable(service, key):
    response = service.call(
        "POST",
        "/request-upload",
        headers={"Idempotency-Key": key},
        json={"content_type": "image/jpeg", "size_bytes": 5},
    )
    check_error(response, 422, "invalid_request")


def test_a_repeat_with_the_same_key_returns_the_same_upload(service):
    body = jpeg()
    first, second = service.request(body, key="k1"), service.request(body, key="k1")
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json["upload_id"] == second.json["upload_id"]
    assert service.count() == 1


def test_a_key_is_one_callers_own(service):
    body = jpeg()
    first = service.request(body, key="k1")
    other = service.request(body, key="k1", caller=BOB)
    assert first.json["upload_id"] != other.json["upload_id"]


@pytest.mark.parametrize(
    "fields",
    [
        {"size_bytes": 4},
        {"content_type": "image/png"},
        {"owner_type": "event"},
        {"checksum_sha256": "0" * 64},
    ],
)
def test_a_key_used_for_another_request_is_a_conflict(service, fields):
    service.request(key="k1", size_bytes=5)
    response = service.request(key="k1", **{"size_bytes": 5, **fields})
    check_error(response, 409, "idempotency_key_reused")


def test_a_key_of_a_finished_upload_gives_no_second_url(service):
    body = jpeg()
    media_id = service.pending(body, key="k1")
    service.put(media_id, body)
    service.complete(media_id)
    response = service.request(body, key="k1")
    check_error(response, 409, "idempotency_key_reused")
    assert response.json["errors"] == {"upload_id": media_id}


def test_too_many_pending_uploads_are_refused_until_one_is_done(make_service):
    service = make_service(MAX_PENDING_UPLOADS="2")
    media_ids = [service.pending(), service.pending()]
    response = service.request()
    check_error(response, 429, "too_many_pending")
    assert int(response.headers["Retry-After"]) > 0
    assert response.json["errors"]["max_pending_uploads"] == 2
    assert service.request(caller=BOB).status_code == 201
    service.call("DELETE", f"/{media_ids[0]}")
    assert service.request().status_code == 201


def test_the_declared_bytes_of_pending_uploads_are_limited_too(make_service):
    service = make_service(MAX_PENDING_BYTES="1000", MAX_UPLOAD_BYTES="1000")
    assert service.request(size_bytes=600).status_code == 201
    check_error(service.request(size_bytes=401), 429, "too_many_pending")
    assert service.request(size_bytes=400).status_code == 201


def test_a_repeat_is_served_even_when_too_many_are_pending(make_service):
    service = make_service(MAX_PENDING_UPLOADS="1")
    body = jpeg()
    assert service.pending(body, key="k1") == service.pending(body, key="k1")


# complete


def test_a_completed_upload_is_processing(service):
    body = jpeg()
    media_id = service.pending(body)
    service.put(media_id, body)
    response = service.complete(media_id)
    assert response.status_code == 202
    assert (response.json["id"], response.json["status"]) == (media_id, "processing")
    assert response.json["error"] is None
    assert int(response.headers["Retry-After"]) > 0


def test_completing_twice_returns_the_same_media_and_makes_one_job(service):
    media_id = service.processing()
    repeat = service.complete(media_id)
    assert (repeat.status_code, repeat.json["status"]) == (202, "processing")
    assert [str(c.job.media_id) for c in service.lifecycle.processing.claim(10)] == [media_id]
    assert service.complete(media_id).status_code == 202
    assert service.lifecycle.processing.claim(10) == []


def test_completing_a_ready_media_is_200(service):
    media_id = service.ready()
    response = service.complete(media_id)
    assert (response.status_code, response.json["status"]) == (200, "ready")
    assert "Retry-After" not in response.headers


def test_completing_before_the_put_leaves_the_upload_open(service):
    body = jpeg()
    media_id = service.pending(body)
    check_error(service.complete(media_id), 409, "upload_not_found")
    assert service.call("GET", f"/{media_id}/status").json["status"] == "pending"
    service.put(media_id, body)
    assert service.complete(media_id).status_code == 202


def test_completing_after_the_url_has_died_without_a_put_is_gone(service):
    media_id = service.pending()
    service.set(media_id, upload_expires_at=datetime.now(UTC) - timedelta(seconds=1))
    check_error(service.complete(media_id), 410, "upload_expired")


def test_an_upload_that_expired_stays_gone(service):
    media_id = service.pending()
    service.set(media_id, due_at=datetime.now(UTC) - timedelta(seconds=1))
    assert service.lifecycle.uploads.expire(10) == 1
    service.put(media_id, jpeg())
    check_error(service.complete(media_id), 410, "upload_expired")
    status = service.call("GET", f"/{media_id}/status").json
    assert status["error"]["code"] == "upload_expired"
    assert status["error"]["retryable"] is False


@pytest.mark.parametrize(
    ("declared", "stored", "stored_type", "error"),
    [
        (PICTURE, PICTURE + b"x", "image/jpeg", "size_mismatch"),
        (PICTURE, PICTURE[:-1], "image/jpeg", "size_mismatch"),
        (PICTURE, b"", "image/jpeg", "size_mismatch"),
        (PICTURE, None, "image/png", "content_mismatch"),
        (png(), None, "image/jpeg", "content_mismatch"),
        (b"<svg onload='alert(1)'/>", None, "image/jpeg", "content_mismatch"),
        (b"\0" * 100, None, "image/jpeg", "content_mismatch"),
    ],
)
def test_an_object_that_is_not_what_was_declared_is_rejected(
    service, declared, stored, stored_type, error
):
    body = declared
    media_id = service.pending(body)
    service.put(media_id, body if stored is None else stored, stored_type)
    check_error(service.complete(media_id), 422, error)
    status = service.call("GET", f"/{media_id}/status").json
    assert (status["status"], status["error"]["code"]) == ("failed", error)
    service.put(media_id, body)
    check_error(service.complete(media_id), 422, error)


@pytest.mark.parametrize("declared", ["image/heic", "image/heif"])
def test_heic_and_heif_are_names_of_the_same(service, declared):
    body = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + b"\0" * 100
    media_id = service.pending(body, content_type=declared)
    service.put(media_id, body, declared)
    assert service.complete(media_id).status_code == 202


def test_another_checksum_than_declared_is_rejected(service):
    body = jpeg()
    media_id = service.pending(body, checksum_sha256=hashlib.sha256(b"other").hexdigest())
    service.store.put_object(
        Bucket="raw",
        Key=f"uploads/{media_id}",
        Body=body,
        ContentType="image/jpeg",
        ChecksumAlgorithm="SHA256",
    )
    check_error(service.complete(media_id), 422, "checksum_mismatch")


def test_only_the_owner_completes(service):
    body = jpeg()
    media_id = service.pending(body)
    service.put(media_id, body)
    check_error(service.complete(media_id, caller=BOB), 403, "not_owner")
    assert service.call("GET", f"/{media_id}/status").json["status"] == "pending"


def test_completing_an_unknown_or_deleted_upload_is_not_found(service):
    check_error(service.complete(uuid4()), 404, "media_not_found")
    media_id = service.pending()
    service.call("DELETE", f"/{media_id}")
    check_error(service.complete(media_id), 404, "media_not_found")


def test_a_store_that_does_not_answer_changes_nothing(make_service):
    service, away = make_service(), make_service(S3_ENDPOINT=NO_STORE)
    body = jpeg()
    media_id = service.pending(body)
    service.put(media_id, body)
    response = away.complete(media_id)
    check_error(response, 503, "store_unavailable")
    assert int(response.headers["Retry-After"]) > 0
    assert service.call("GET", f"/{media_id}/status").json["status"] == "pending"
    assert service.complete(media_id).status_code == 202


# status and metadata


@pytest.mark.parametrize(
    ("stage", "status", "is_final"),
    [
        ("pending", "pending", False),
        ("processing", "processing", False),
        ("ready", "ready", True),
        ("failed", "failed", True),
    ],
)
def test_the_status_says_whether_to_ask_again(service, stage, status, is_final):
    media_id = getattr(service, stage)()
    response = service.call("GET", f"/{media_id}/status")
    assert (response.status_code, response.json["status"]) == (200, status)
    assert ("Retry-After" in response.headers) is not is_final
    assert response.headers["Cache-Control"] == "no-store"
    assert (response.json["error"] is not None) is (status == "failed")
    assert (response.json["processed_at"] is not None) is (status == "ready")


@pytest.mark.parametrize(
    ("age_seconds", "wait_seconds"), [(-60, 1), (0, 1), (24, 2), (100, 10), (86_400, 15)]
)
def test_the_longer_it_takes_the_later_it_is_asked_for_again(service, age_seconds, wait_seconds):
    media_id = service.processing()
    with service.engine.begin() as connection:
        connection.execute(sa.update(Media).values(updated_at=now_plus(-age_seconds)))
    response = service.call("GET", f"/{media_id}/status")
    assert response.headers["Retry-After"] == str(wait_seconds)


def test_a_failure_has_a_code_and_a_sentence(service):
    media_id = service.failed("corrupt_image")
    error = service.call("GET", f"/{media_id}/status").json["error"]
    assert (error["code"], error["retryable"]) == ("corrupt_image", False)
    assert "damaged" in error["message"]


def test_a_workers_code_named_as_a_failed_uploads_may_be_retried(service):
    media_id = service.failed("upload_expired")
    error = service.call("GET", f"/{media_id}/status").json["error"]
    assert (error["code"], error["retryable"]) == ("upload_expired", True)
    assert service.call("POST", f"/{media_id}/retry").status_code == 202


def test_a_media_has_no_url_until_it_is_ready(service):
    media_id = service.processing()
    media = service.call("GET", f"/{media_id}").json
    assert media["url"] is None
    assert media["variants"] == []
    assert (media["owner_id"], media["owner_type"]) == (str(ALICE), "user")


def test_a_ready_media_has_cdn_urls_sizes_and_a_placeholder(service):
    media_id = service.ready()
    media = service.call("GET", f"/{media_id}").json
    base = f"{CDN}/media/{media_id}"
    assert media["url"] == f"{base}/main.webp"
    assert (media["width"], media["height"]) == (640, 480)
    assert media["placeholder"] == "1QcSHQRnh493V4dIh4eXh1h4kJUI"
    assert media["variants"] == [
        {
            "name": "w320",
            "url": f"{base}/w320.webp",
            "width": 320,
            "height": 240,
            "size_bytes": 99,
            "content_type": "image/webp",
        }
    ]


def test_an_unchanged_media_is_304_and_a_changed_one_is_not(service):
    media_id = service.processing()
    first = service.call("GET", f"/{media_id}")
    etag = first.headers["ETag"]
    again = service.call("GET", f"/{media_id}", headers={"If-None-Match": etag})
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["ETag"] == etag
    assert again.headers["Retry-After"] == first.headers["Retry-After"] == "1"
    service.apply(ProcessedResult(media_id=UUID(media_id), public_key=f"media/{media_id}/a.webp"))
    changed = service.call("GET", f"/{media_id}", headers={"If-None-Match": etag})
    assert (changed.status_code, changed.json["status"]) == (200, "ready")
    assert changed.headers["ETag"] != etag
    assert "private" in changed.headers["Cache-Control"]


def test_an_etag_that_a_proxy_has_made_weak_is_304_too(service):
    media_id = service.ready()
    etag = service.call("GET", f"/{media_id}").headers["ETag"]
    headers = {"If-None-Match": f'"other", W/{etag}'}
    assert service.call("GET", f"/{media_id}", headers=headers).status_code == 304


def test_a_media_is_not_304_once_its_urls_have_changed(make_service):
    before = make_service()
    media_id = before.ready()
    etag = before.call("GET", f"/{media_id}").headers["ETag"]
    after = make_service(CDN_BASE_URL="https://images.example.org")
    moved = after.call("GET", f"/{media_id}", headers={"If-None-Match": etag})
    assert moved.status_code == 200
    assert moved.json["url"].startswith("https://images.example.org/")
    assert moved.headers["ETag"] != etag
    assert before.call("GET", f"/{media_id}", headers={"If-None-Match": etag}).status_code == 304


@pytest.mark.parametrize("stage", ["pending", "processing", "failed"])
@pytest.mark.parametrize("path", ["", "/status"])
def test_to_a_stranger_a_media_that_is_not_ready_does_not_exist(service, stage, path):
    media_id = getattr(service, stage)()
    check_error(service.call("GET", f"/{media_id}{path}", caller=BOB), 404, "media_not_found")


def test_a_ready_media_can_be_read_by_everybody(service):
    media_id = service.ready()
    assert service.call("GET", f"/{media_id}", caller=BOB).json["url"]


@pytest.mark.parametrize("path", ["", "/status"])
def test_an_unknown_media_is_not_found(service, path):
    check_error(service.call("GET", f"/{uuid4()}{path}"), 404, "media_not_found")


def test_an_id_that_is_no_uuid_is_not_found(service):
    check_error(service.call("GET", "/42"), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "body", "failure"),
    [
        ("GET", "/42", {}, errors.NOT_FOUND),
        ("PUT", "", {}, errors.METHOD_NOT_ALLOWED),
        (
            "POST",
            "/request-upload",
            {"data": "x" * 70_000, "content_type": "application/json"},
            errors.REQUEST_TOO_LARGE,
        ),
        ("POST", "/request-upload", {"data": "{}"}, errors.UNSUPPORTED_MEDIA_TYPE),
        ("POST", "/request-upload", {"json": {}}, errors.INVALID_REQUEST),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_failures_of_http_have_the_words_of_the_contract(service, method, path, body, failure):
    response = service.call(method, path, **body)
    check_error(response, failure.http_status, failure.code)
    assert response.json["message"] == failure.message


def test_another_method_is_told_the_right_ones(service):
    response = service.call("PUT", f"/{uuid4()}")
    check_error(response, 405, "method_not_allowed")
    assert "DELETE" in response.headers["Allow"]


# delete and retry


@pytest.mark.parametrize("stage", ["pending", "processing", "ready", "failed"])
def test_a_deleted_media_is_gone_at_once_and_deleting_is_safe_to_repeat(service, stage):
    media_id = getattr(service, stage)()
    response = service.call("DELETE", f"/{media_id}")
    assert (response.status_code, response.data) == (204, b"")
    for path in ("", "/status"):
        check_error(service.call("GET", f"/{media_id}{path}"), 404, "media_not_found")
    assert service.call("GET", "").json["items"] == []
    assert service.call("DELETE", f"/{media_id}").status_code == 204
    check_error(service.call("DELETE", f"/{media_id}", caller=BOB), 404, "media_not_found")


def test_only_the_owner_deletes(service):
    media_id = service.ready()
    check_error(service.call("DELETE", f"/{media_id}", caller=BOB), 403, "not_owner")
    assert service.call("GET", f"/{media_id}").status_code == 200


def test_deleting_an_unknown_media_is_not_found(service):
    check_error(service.call("DELETE", f"/{uuid4()}"), 404, "media_not_found")


def test_a_failed_processing_can_be_tried_again_by_its_owner(service):
    media_id = service.failed()
    check_error(service.call("POST", f"/{media_id}/retry", caller=BOB), 403, "not_owner")
    response = service.call("POST", f"/{media_id}/retry")
    assert (response.status_code, response.json["status"]) == (202, "processing")
    assert response.json["error"] is None
    (claim,) = service.lifecycle.processing.claim(10)
    assert (str(claim.job.media_id), claim.job.attempt) == (media_id, 2)


@pytest.mark.parametrize("stage", ["pending", "processing", "ready"])
def test_nothing_else_can_be_tried_again(service, stage):
    media_id = getattr(service, stage)()
    check_error(service.call("POST", f"/{media_id}/retry"), 409, "retry_not_possible")


# listing


def test_a_listing_is_newest_first_in_pages(service):
    media_ids = [service.pending() for _ in range(5)]
    seen, cursor, pages = [], None, 0
    while cursor or not pages:
        query = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = service.call("GET", "", query_string=query).json
        seen += [item["id"] for item in page["items"]]
        cursor, pages = page["next_cursor"], pages + 1
    assert seen == media_ids[::-1]
    assert pages == 3


def test_a_last_page_that_is_full_has_no_cursor(service):
    for _ in range(2):
        service.pending()
    page = service.call("GET", "", query_string={"limit": 2}).json
    assert len(page["items"]) == 2
    assert page["next_cursor"] is None


def test_a_page_stays_the_same_while_media_are_added(service):
    first, second = service.pending(), service.pending()
    page = service.call("GET", "", query_string={"limit": 1}).json
    service.pending()
    rest = service.call("GET", "", query_string={"limit": 9, "cursor": page["next_cursor"]}).json
    assert [page["items"][0]["id"], *(i["id"] for i in rest["items"])] == [second, first]


def test_a_listing_has_only_the_callers_media(service):
    service.pending()
    mine = service.pending(caller=BOB)
    assert [i["id"] for i in service.call("GET", "", caller=BOB).json["items"]] == [mine]


def test_a_listing_can_be_narrowed(service):
    user, event = service.pending(), service.pending(owner_type="event")
    failed = service.failed()

    def ids(**query):
        return {i["id"] for i in service.call("GET", "", query_string=query).json["items"]}

    assert ids(owner_type="event") == {event}
    assert ids(status="failed") == {failed}
    assert ids(owner_type="user", status="pending") == {user}
    assert ids(owner_id=str(ALICE)) == {user, event, failed}


def test_somebody_elses_media_cannot_be_listed(service):
    response = service.call("GET", "", query_string={"owner_id": str(BOB)})
    check_error(response, 403, "owner_mismatch")


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 201},
        {"limit": "all"},
        {"cursor": "x"},
        {"status": "deleted"},
        {"owner_type": "x"},
        {"limit": [1, 2]},
    ],
)
def test_a_listing_refuses_what_it_does_not_know(service, query):
    response = service.call("GET", "", query_string=query)
    check_error(response, 422, "invalid_request")
    assert list(response.json["errors"]["query"]) == list(query)


# every answer


def test_a_request_id_is_taken_over_or_made(service):
    given = service.call("GET", "", headers={"X-Request-ID": "bff:42/a"})
    assert given.headers["X-Request-ID"] == "bff:42/a"
    refused = service.call("GET", "", headers={"X-Request-ID": "a b{}" + "c" * 200})
    assert UUID(refused.headers["X-Request-ID"])


def test_the_request_id_of_complete_becomes_the_jobs(service):
    body = jpeg()
    media_id = service.pending(body)
    service.put(media_id, body)
    service.call(
        "POST", "/complete", headers={"X-Request-ID": "trace-7"}, json={"upload_id": media_id}
    )
    (claim,) = service.lifecycle.processing.claim(1)
    assert claim.request_id == "trace-7"


def test_every_answer_carries_safe_headers(service):
    for path in ("", f"/{uuid4()}", "/42"):
        headers = service.call("GET", path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_a_database_that_does_not_answer_is_503(make_service):
    away = make_service(DATABASE_URL=NO_DATABASE)
    response = away.call("GET", f"/{uuid4()}")
    check_error(response, 503, "database_unavailable")
    assert int(response.headers["Retry-After"]) > 0


def test_a_database_that_takes_no_writes_is_503(service, monkeypatch):
    def refuse(*_args, **_options):
        raise InternalError("UPDATE", None, ReadOnlySqlTransaction("read-only transaction"))

    monkeypatch.setattr(service.lifecycle.rows, "page", refuse)
    check_error(service.call("GET", ""), 503, "database_unavailable")


def test_a_fault_of_ours_is_500_without_its_details(service, monkeypatch):
    monkeypatch.setattr(service.lifecycle.rows, "page", None)
    response = service.call("GET", "")
    check_error(response, 500, "internal_server_error")
    assert "NoneType" not in response.text


def test_health_is_the_process_and_readiness_its_database_and_store(make_service, store_to_break):
    service, away = make_service(), make_service(DATABASE_URL=NO_DATABASE)

    def readiness(asked):
        answer = asked.client.get("/readyz")
        return answer.status_code, answer.json["checks"]

    assert readiness(service) == (200, {"database": "ok", "store": "ok"})
    assert readiness(away) == (503, {"database": "unavailable", "store": "ok"})
    store_to_break.delete_bucket(Bucket="public")
    assert readiness(service) == (503, {"database": "ok", "store": "unavailable"})
    for one in (service, away):
        health = one.client.get("/healthz")
        assert (health.status_code, health.json) == (200, {"status": "ok"})


def test_every_call_is_in_the_document(service):
    """What is not in it, `check_documented` passes over."""
    served = {
        f"{method} {rule.rule.replace('<uuid:media_id>', '{media_id}')}"
        for rule in service.client.application.url_map.iter_rules()
        if rule.rule.startswith("/api/media")
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    assert served == {name for name, _ in operations(DOCUMENT)}
