"""What the store really does with our requests: a contract with SeaweedFS, which verifies SigV4."""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
import requests
from urllib3.connection import HTTPConnection

from config.settings import Settings
from mediaservice.storage import (
    PUBLIC_CACHE_CONTROL,
    ObjectChanged,
    ObjectNotFound,
    Storage,
    StoreUnavailable,
)
from tests.builders import ORIGIN, sha256

BODY = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8


@pytest.fixture
def make_storage(environ, seaweedfs):
    def make(*, presign_endpoint=None, **variables):
        settings = Settings.from_environ({**environ, **seaweedfs.variables, **variables})
        return Storage(settings, presign_endpoint=presign_endpoint)

    return make


@pytest.fixture
def storage(make_storage):
    return make_storage()


@pytest.fixture
def key():
    """A key of this test's own, as long as the server lives."""
    return f"uploads/{uuid4()}"


def presign(storage, key, body=BODY, *, checksum=None, ttl_seconds=60):
    return storage.presign_upload(
        key,
        content_type="image/jpeg",
        size_bytes=len(body),
        checksum_sha256=checksum,
        ttl_seconds=ttl_seconds,
    )


def put(upload, body=BODY, **headers):
    """PUT as a client would; a header given as None is left out."""
    return requests.put(upload.url, data=body, headers={**upload.headers, **headers}, timeout=10)


def exists(storage, key):
    try:
        storage.inspect_upload(key, with_checksum=False)
    except ObjectNotFound:
        return False
    return True


# presign; what a changed URL comes to is in tests/security/test_presign.py


def test_the_presigned_put_stores_the_object_as_it_stands(storage, key):
    upload = presign(storage, key)
    assert (upload.method, put(upload).status_code) == ("PUT", 200)
    found = storage.inspect_upload(key, with_checksum=False)
    assert (found.size_bytes, found.content_type) == (len(BODY), "image/jpeg")


def test_everything_that_was_declared_is_signed_with_sigv4(storage, key):
    upload = presign(storage, key, checksum=sha256(BODY), ttl_seconds=77)
    query = parse_qs(urlsplit(upload.url).query)
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert query["X-Amz-Expires"] == ["77"]
    assert query["X-Amz-SignedHeaders"][0].split(";") == [
        "content-length",
        "content-type",
        "host",
        "if-none-match",
        "x-amz-checksum-sha256",
    ]
    assert "crc32" not in upload.url.lower()


def test_an_upload_that_is_cut_off_leaves_no_object(storage, key):
    upload = presign(storage, key)
    url = urlsplit(upload.url)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=10)
    connection.putrequest("PUT", f"{url.path}?{url.query}")
    for name, value in {**upload.headers, "Content-Length": str(len(BODY))}.items():
        connection.putheader(name, value)
    connection.endheaders(BODY[:100])
    connection.close()
    assert put(upload).status_code == 200
    assert storage.inspect_upload(key, with_checksum=False).size_bytes == len(BODY)


def test_a_declared_checksum_is_found_where_the_store_keeps_it(storage, key):
    assert put(presign(storage, key, checksum=sha256(BODY))).status_code == 200
    found = storage.inspect_upload(key, with_checksum=True)
    assert found.checksum_sha256 == sha256(BODY)


def test_of_many_puts_at_once_one_is_stored(storage, key):
    upload = presign(storage, key)
    bodies = [bytes([n]) * len(BODY) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda body: put(upload, body).status_code, bodies))
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 412, 409}
    stored = storage.inspect_upload(key, with_checksum=False)
    assert stored.first_bytes[:1] == bodies[statuses.index(200)][:1]


@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD"])
def test_the_url_allows_nothing_but_the_put(storage, key, method):
    upload = presign(storage, key)
    put(upload)
    answer = requests.request(method, upload.url, headers=upload.headers, timeout=10)
    assert answer.status_code == 403
    assert exists(storage, key)


def test_urls_are_signed_for_the_host_that_browsers_see(make_storage, seaweedfs, key):
    seen_by_browsers = f"http://localhost:{seaweedfs.port}"
    storage = make_storage(presign_endpoint=seen_by_browsers)
    upload = presign(storage, key)
    assert upload.url.startswith(f"{seen_by_browsers}/raw/{key}?")
    rewritten = upload.url.replace("localhost", "127.0.0.1")
    assert requests.put(rewritten, data=BODY, headers=upload.headers, timeout=10).status_code == 403
    assert put(upload).status_code == 200
    assert exists(storage, key)


@pytest.mark.parametrize(
    ("style", "start"),
    [("path", "https://s3.example.com/raw/k?"), ("virtual", "https://raw.s3.example.com/k?")],
)
def test_the_bucket_is_in_the_path_or_in_the_host(make_storage, style, start):
    endpoint = "https://s3.example.com"
    storage = make_storage(S3_ADDRESSING_STYLE=style, presign_endpoint=endpoint)
    assert presign(storage, "k").url.startswith(start)


# inspect and read


@pytest.mark.parametrize("size", [1, 4095, 4096, 4097, 300_000])
def test_an_upload_is_inspected_by_its_first_bytes(storage, store_client, key, size):
    body = bytes(n % 251 for n in range(size))
    store_client.put_object(Bucket="raw", Key=key, Body=body, ContentType="image/png")
    found = storage.inspect_upload(key, with_checksum=False)
    assert (found.size_bytes, found.content_type) == (size, "image/png")
    assert found.first_bytes == body[:4096]
    assert storage.read_original(key, etag=found.etag) == body


def test_an_empty_object_is_found_to_be_empty(storage, store_client, key):
    store_client.put_object(Bucket="raw", Key=key, Body=b"")
    found = storage.inspect_upload(key, with_checksum=True)
    assert (found.size_bytes, found.first_bytes) == (0, b"")


def test_a_missing_object_is_not_found(storage, key):
    with pytest.raises(ObjectNotFound):
        storage.inspect_upload(key, with_checksum=False)
    with pytest.raises(ObjectNotFound):
        storage.read_original(key, etag='"x"')


def test_an_original_is_read_only_as_long_as_it_is_the_pinned_one(storage, store_client, key):
    put(presign(storage, key))
    etag = storage.inspect_upload(key, with_checksum=False).etag
    store_client.put_object(Bucket="raw", Key=key, Body=b"another")
    with pytest.raises(ObjectChanged):
        storage.read_original(key, etag=etag)


# write, list, purge


def test_a_public_object_is_cached_for_good_and_can_be_read_by_anybody(storage, seaweedfs):
    storage.create_buckets(())
    key = f"media/{uuid4()}/main.webp"
    storage.write_public(key, b"RIFF", content_type="image/webp")
    answer = requests.get(f"{seaweedfs.endpoint}/public/{key}", timeout=10)
    assert (answer.status_code, answer.content) == (200, b"RIFF")
    assert answer.headers["Content-Type"] == "image/webp"
    assert answer.headers["Cache-Control"] == PUBLIC_CACHE_CONTROL


def test_a_policy_of_somebody_elses_stays(make_storage, buckets, store_client):
    storage = make_storage(**buckets)
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": ["s3:GetObject"],
        "Resource": [f"arn:aws:s3:::{storage.public_bucket}/media/*"],
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    store_client.put_bucket_policy(Bucket=storage.public_bucket, Policy=json.dumps(policy))
    storage.create_buckets(())
    kept = json.loads(store_client.get_bucket_policy(Bucket=storage.public_bucket)["Policy"])
    assert "/media/*" in str(kept["Statement"][0]["Resource"])


def test_nobody_without_keys_reads_originals_lists_or_writes(storage, seaweedfs, key):
    storage.create_buckets(())
    put(presign(storage, key))
    url = seaweedfs.endpoint
    assert requests.get(f"{url}/raw/{key}", timeout=10).status_code == 403
    assert requests.get(f"{url}/public/", timeout=10).status_code == 403
    assert requests.get(f"{url}/raw/", timeout=10).status_code == 403
    assert requests.put(f"{url}/public/x", data=b"x", timeout=10).status_code == 403
    assert requests.delete(f"{url}/raw/{key}", timeout=10).status_code == 403
    assert exists(storage, key)


ODD_NAMES = (
    "a b+c%20d",
    "ü/名/🖼",
    "&amp;<>\"'",
    "?q=1#f",
    "~*()!,;:@$=[]{}|^`",
    "X-Amz-Signature=0",
    "..dots.",
)


def test_a_listing_is_complete_and_in_order_over_pages(storage, monkeypatch):
    request, pages = storage._s3.request, []

    def request_small_pages(operation, *arguments, query=None, **keywords):
        if operation == "list_objects_v2":
            pages.append(query)
            query = {**query, "max-keys": "5"}
        return request(operation, *arguments, query=query, **keywords)

    monkeypatch.setattr(storage._s3, "request", request_small_pages)
    prefix = f"media/{uuid4()}/"
    names = (*(f"{n:04d}" for n in range(6)), *(name for name in ODD_NAMES if "/" not in name), "ü")
    keys = sorted(f"{prefix}{name}" for name in names)
    assert len(keys) == 13
    for key in keys:
        storage.write_public(key, b"1", content_type="image/webp")
    found = list(storage.list_objects("public", prefix))
    assert len(pages) == 3
    assert [entry.key for entry in found] == keys
    assert {entry.size_bytes for entry in found} == {1}
    assert storage.purge(raw_key=f"uploads/{uuid4()}", public_prefix=prefix)
    assert list(storage.list_objects("public", prefix)) == []


def test_a_key_may_have_any_characters(storage):
    """A worker of somebody else's may write them, and an audit then has to list and delete them."""
    prefix = f"media/{uuid4()}/"
    keys = sorted(f"{prefix}{name}" for name in ODD_NAMES)
    for key in keys:
        storage.write_public(key, b"1", content_type="image/webp")
    assert sorted(entry.key for entry in storage.list_objects("public", prefix)) == keys
    for key in keys:
        assert [entry.key for entry in storage.list_objects("public", key)] == [key]
    assert storage.purge(raw_key=f"uploads/{uuid4()}", public_prefix=prefix)


def test_bytes_that_changed_on_their_way_are_not_stored(storage, monkeypatch):
    key = f"media/{uuid4()}/main.webp"
    send = HTTPConnection.send

    def spoil(connection, data):
        send(connection, b"RIFX" if data == b"RIFF" else data)

    with monkeypatch.context() as patch:
        patch.setattr(HTTPConnection, "send", spoil)
        with pytest.raises(StoreUnavailable, match="HTTP 400 BadDigest"):
            storage.write_public(key, b"RIFF", content_type="image/webp")
    assert list(storage.list_objects("public", key)) == []


def test_purging_takes_one_medias_objects_and_no_others(storage, key):
    mine, others = f"media/{uuid4()}/", f"media/{uuid4()}/"
    other_key = f"uploads/{uuid4()}"
    for k in (key, other_key):
        put(presign(storage, k))
    for prefix in (mine, others):
        storage.write_public(f"{prefix}main.webp", b"1", content_type="image/webp")
        storage.write_public(f"{prefix}deep/er/w1.webp", b"1", content_type="image/webp")
    assert storage.purge(raw_key=key, public_prefix=mine) is True
    assert not exists(storage, key)
    assert list(storage.list_objects("public", mine)) == []
    assert exists(storage, other_key)
    assert len(list(storage.list_objects("public", others))) == 2


def test_purging_is_safe_to_repeat_and_to_start_with_nothing(storage, key):
    for _ in range(2):
        assert storage.purge(raw_key=key, public_prefix=f"media/{uuid4()}/") is True


def test_purging_the_original_alone_keeps_the_public_objects(storage, key):
    prefix = f"media/{uuid4()}/"
    put(presign(storage, key))
    storage.write_public(f"{prefix}main.webp", b"1", content_type="image/webp")
    assert storage.purge(raw_key=key, public_prefix=None) is True
    assert not exists(storage, key)
    assert len(list(storage.list_objects("public", prefix))) == 1


def test_a_purged_key_can_be_uploaded_to_again_while_its_url_lives(storage, key):
    """Why a purge has to be repeated after the URL's death."""
    upload = presign(storage, key)
    put(upload)
    storage.purge(raw_key=key, public_prefix=None)
    assert put(upload).status_code == 200


# buckets


def test_making_buckets_is_safe_to_repeat_and_keeps_what_is_in_them(storage, key):
    put(presign(storage, key))
    for _ in range(2):
        storage.create_buckets((ORIGIN,))
    assert exists(storage, key)
    storage.ping()


def test_buckets_are_made_where_there_are_none(make_storage, store_client, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # the store is reached without one
    monkeypatch.setenv("no_proxy", "")
    raw, public = f"raw-{uuid4()}", f"public-{uuid4()}"
    storage = make_storage(S3_RAW_BUCKET=raw, S3_PUBLIC_BUCKET=public)
    with pytest.raises(StoreUnavailable, match="no bucket"):
        storage.ping()
    for _ in range(2):
        storage.create_buckets(())
    storage.ping()
    policy = json.loads(store_client.get_bucket_policy(Bucket=public)["Policy"])
    assert [s["Action"] for s in policy["Statement"]] in (["s3:GetObject"], [["s3:GetObject"]])
    for bucket in (raw, public):
        store_client.delete_bucket(Bucket=bucket)


def test_pages_may_upload_though_the_other_bucket_may_not_be_opened(storage, key, monkeypatch):
    """As on AWS, where public policies are blocked unless somebody lets them."""
    administer = storage._s3.administer

    def refuse_policies(operation, **params):
        if operation == "get_bucket_policy":
            raise ObjectNotFound(storage.public_bucket)
        if operation == "put_bucket_policy":
            raise StoreUnavailable("put_bucket_policy: HTTP 403 AccessDenied", is_refusal=True)
        return administer(operation, **params)

    monkeypatch.setattr(storage._s3, "administer", refuse_policies)
    with pytest.raises(StoreUnavailable, match=r"HTTP 403 AccessDenied: .*Block Public Access"):
        storage.create_buckets((ORIGIN,))
    assert preflight(storage, key, ORIGIN).headers["Access-Control-Allow-Origin"] == ORIGIN


@pytest.fixture
def storage_without_cors(make_storage, buckets, monkeypatch):
    """As MinIO's community edition: CORS is a matter of the server's configuration alone."""
    storage = make_storage(**buckets)
    administer = storage._s3.administer

    def know_no_cors(operation, **params):
        if operation.endswith("_bucket_cors"):
            raise StoreUnavailable(f"{operation}: HTTP 501 NotImplemented", is_refusal=True)
        return administer(operation, **params)

    monkeypatch.setattr(storage._s3, "administer", know_no_cors)
    return storage


def test_a_bucket_is_opened_though_the_store_takes_no_cors_rules(
    storage_without_cors, store_client
):
    with pytest.raises(
        StoreUnavailable, match=r"HTTP 501 .*needs them in its own config"
    ) as raised:
        storage_without_cors.create_buckets((ORIGIN,))
    assert raised.value.is_refusal, "no fault of S3_ENDPOINT"
    assert store_client.get_bucket_policy(Bucket=storage_without_cors.public_bucket)


def test_a_store_that_takes_no_cors_rules_has_none_to_remove(storage_without_cors, store_client):
    storage_without_cors.create_buckets(())
    assert store_client.get_bucket_policy(Bucket=storage_without_cors.public_bucket)


def preflight(storage, key, origin, headers="content-type,if-none-match,x-amz-checksum-sha256"):
    return requests.options(
        presign(storage, key).url,
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": headers,
        },
        timeout=10,
    )


def test_pages_of_the_configured_origins_may_put_every_header_we_hand_out(storage, key):
    storage.create_buckets((ORIGIN,))
    upload = presign(storage, key, checksum=sha256(BODY))
    headers = ",".join(name.lower() for name in upload.headers)
    allowed = preflight(storage, key, ORIGIN, headers)
    assert allowed.status_code == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "PUT" in allowed.headers["Access-Control-Allow-Methods"]
    answer = put(upload, Origin=ORIGIN)
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "etag" in answer.headers["Access-Control-Expose-Headers"].lower()


def test_pages_of_other_origins_may_not(storage, key):
    storage.create_buckets((ORIGIN,))
    refused = preflight(storage, key, "https://evil.example.com")
    assert "Access-Control-Allow-Origin" not in refused.headers


def test_origins_that_are_no_longer_configured_lose_their_access(storage, key):
    storage.create_buckets((ORIGIN,))
    storage.create_buckets(("https://new.example.com",))
    assert "Access-Control-Allow-Origin" not in preflight(storage, key, ORIGIN).headers
    storage.create_buckets(())
    refused = preflight(storage, key, "https://new.example.com")
    assert "Access-Control-Allow-Origin" not in refused.headers


# faults


def test_a_store_that_is_not_there_is_unavailable(make_storage, key):
    storage = make_storage(S3_ENDPOINT="http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:9"):
        storage.inspect_upload(key, with_checksum=False)


def test_wrong_keys_are_a_fault_of_the_set_up_not_a_missing_object(make_storage, key):
    storage = make_storage(S3_SECRET_ACCESS_KEY="wrong")
    for call in (
        lambda: storage.inspect_upload(key, with_checksum=False),
        lambda: storage.purge(raw_key=key, public_prefix="media/x/"),
        storage.ping,
    ):
        with pytest.raises(StoreUnavailable, match="403"):
            call()


def test_a_missing_bucket_is_a_fault_of_the_set_up_not_a_missing_object(make_storage, key):
    storage = make_storage(S3_RAW_BUCKET="no-such-bucket")
    with pytest.raises(StoreUnavailable, match="NoSuchBucket"):
        storage.inspect_upload(key, with_checksum=False)


def test_a_fault_never_shows_a_key_or_a_url(make_storage, key, seaweedfs):
    storage = make_storage(S3_SECRET_ACCESS_KEY="wrong")
    with pytest.raises(StoreUnavailable) as raised:
        storage.inspect_upload(key, with_checksum=False)
    assert seaweedfs.access_key not in str(raised.value)
    assert "X-Amz" not in str(raised.value)


def test_an_object_that_changes_while_it_is_looked_at_is_looked_at_again(
    storage, key, seaweedfs, monkeypatch
):
    client = seaweedfs.client()
    client.put_object(Bucket="raw", Key=key, Body=b"first")
    request = storage._s3.request

    def change_before_head(operation, *arguments, **named):
        if operation == "head_object":
            client.put_object(Bucket="raw", Key=key, Body=b"second")
        return request(operation, *arguments, **named)

    monkeypatch.setattr(storage._s3, "request", change_before_head)
    with pytest.raises(StoreUnavailable):
        storage.inspect_upload(key, with_checksum=True)
