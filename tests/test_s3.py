"""Our calls against a store that misbehaves, and where their keys come from."""

import gzip
import shlex
import socket
import ssl
import subprocess
import sys
import time
import traceback
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import requests
import urllib3

from config.settings import ConfigurationError
from devstack.process import wait_until
from mediaservice import PROJECT, s3
from mediaservice.storage import ObjectChanged, ObjectNotFound, Storage, StoreUnavailable
from tests.builders import environment, loaded_by, settings
from tests.scripted_store import HANG, ScriptedStore, answer, fault

OBJECT = answer(200, b"bytes", ETag='"e"', Content_Type="image/png")
CUT = answer(200, b"byt", ETag='"e"', Content_Length="5")
NOTHING = b""


@pytest.fixture
def make_store():
    with ExitStack() as stores:

        def make(*answers, **options):
            store = stores.enter_context(ScriptedStore(answers))
            return store, Storage(settings(S3_ENDPOINT=store.endpoint), **options)

        yield make


def read(storage):
    return storage.read_original("uploads/k", etag='"e"')


# what an answer means


@pytest.mark.parametrize(
    ("status", "code", "expected", "words"),
    [
        (301, "PermanentRedirect", StoreUnavailable, "get_object: HTTP 301 PermanentRedirect"),
        (307, "TemporaryRedirect", StoreUnavailable, "get_object: HTTP 307 TemporaryRedirect"),
        (400, "ExpiredToken", StoreUnavailable, "get_object: HTTP 400 ExpiredToken"),
        (403, "AccessDenied", StoreUnavailable, "get_object: HTTP 403 AccessDenied"),
        (404, "NoSuchBucket", StoreUnavailable, "get_object: HTTP 404 NoSuchBucket"),
        (404, "<p>default backend</p>", StoreUnavailable, "get_object: HTTP 404"),
        (404, "NoSuchKey", ObjectNotFound, "uploads/k"),
        (409, "OperationAborted", StoreUnavailable, "get_object: HTTP 409 OperationAborted"),
        (412, "PreconditionFailed", ObjectChanged, "uploads/k"),
        (501, "NotImplemented", StoreUnavailable, "get_object: HTTP 501 NotImplemented"),
        (403, "<script>", StoreUnavailable, "get_object: HTTP 403"),
    ],
)
def test_a_refusal_is_named_after_one_attempt(make_store, status, code, expected, words):
    store, storage = make_store(fault(status, code, Location="http://127.0.0.1:9/elsewhere"))
    with pytest.raises(expected) as raised:
        read(storage)
    assert str(raised.value) == words
    assert len(store.requests) == 1
    if expected is StoreUnavailable:
        assert raised.value.is_refusal == (status in (400, 403, 404, 501))


def test_a_head_has_no_code_to_tell(make_store):
    _, storage = make_store(answer(200), answer(403))
    with pytest.raises(StoreUnavailable, match=r"^head_bucket: HTTP 403$"):
        storage.ping()


def test_an_object_is_taken_as_it_was_stored_whatever_its_encoding_is_said_to_be(make_store):
    """An uploader may say gzip of anything, say of a bomb."""
    packed = gzip.compress(bytes(1000))
    _, storage = make_store(answer(200, packed, ETag='"e"', Content_Encoding="gzip"))
    assert read(storage) == packed


def test_a_store_without_conditional_reads_is_found_out(make_store):
    _, storage = make_store(answer(200, b"bytes", ETag='"another"'))
    with pytest.raises(ObjectChanged):
        read(storage)


def test_a_store_that_ignores_ranges_gives_the_size_too(make_store):
    _, storage = make_store(OBJECT)
    found = storage.inspect_upload("uploads/k", with_checksum=False)
    assert (found.size_bytes, found.first_bytes) == (5, b"bytes")


def test_an_object_without_an_etag_cannot_be_pinned(make_store):
    _, storage = make_store(answer(200, b"bytes"))
    with pytest.raises(StoreUnavailable):
        storage.inspect_upload("uploads/k", with_checksum=False)


def test_deleting_what_is_not_there_is_fine_with_stores_that_say_so(make_store):
    _, storage = make_store(fault(404, "NoSuchKey"), answer(404))
    assert storage.purge(raw_key="uploads/k", public_prefix=None)


@pytest.mark.parametrize(("before", "method"), [([], "DELETE"), ([answer(204)], "GET")])
def test_nothing_counts_as_purged_because_something_before_the_store_knows_no_address(
    make_store, before, method
):
    store, storage = make_store(*before, *[answer(404, b"default backend - 404")] * 9)
    with pytest.raises(StoreUnavailable):
        storage.purge(raw_key="uploads/k", public_prefix="media/k/")
    assert store.requests[len(before)].startswith(f"{method} ")


# attempts


@pytest.mark.parametrize(
    "passing",
    [fault(n, "SlowDown", Retry_After="3600") for n in (429, 500, 502, 503, 504)] + [CUT, NOTHING],
)
def test_a_fault_that_passes_is_not_noticed(make_store, passing):
    store, storage = make_store(passing, OBJECT)
    assert read(storage) == b"bytes"
    assert len(store.requests) == 2


@pytest.mark.parametrize(
    ("lasting", "words"),
    [
        (fault(503, "SlowDown"), "get_object: HTTP 503 SlowDown"),
        (CUT, "IncompleteRead"),
        (NOTHING, "without response"),
        (b"HTTP/1.1 what?\r\n\r\n", "BadStatusLine"),
        (b"nonsense\r\n\r\n", "BadStatusLine"),
    ],
)
def test_there_are_two_attempts(make_store, lasting, words):
    store, storage = make_store(lasting, lasting, OBJECT)
    with pytest.raises(StoreUnavailable, match=words):
        read(storage)
    assert len(store.requests) == 2


def test_a_write_that_was_lost_is_made_again_whole(make_store):
    store, storage = make_store(NOTHING, answer(200))
    storage.write_public("media/k", b"RIFF", content_type="image/webp")
    first, second = store.requests
    assert first == second
    assert "content-length: 4\r\n" in second


def wait_for_requests(store, count):
    """The client may have left before the store has read what it wanted."""
    wait_until(lambda: len(store.requests) == count, seconds=30, what=f"{count} requests")


def assert_tells_no_secret(fault):
    shown = "".join(traceback.format_exception(fault)) + repr(fault)
    assert "X-Amz" not in shown


def test_a_store_that_hangs_is_left(make_store, monkeypatch):
    monkeypatch.setattr(s3, "_READ_SECONDS", 0.05)
    store, storage = make_store(HANG, HANG)
    for calls in (1, 2):
        with pytest.raises(StoreUnavailable, match="timed out") as raised:
            read(storage)
        wait_for_requests(store, calls)
    assert_tells_no_secret(raised.value)


@pytest.mark.slow
def test_web_leaves_a_store_that_hangs_alone_for_as_long_as_it_tells_its_callers(
    make_store, monkeypatch
):
    now = 1000.0
    monkeypatch.setattr(s3, "_READ_SECONDS", 1.0)  # time for the answer in the end
    clock = SimpleNamespace(monotonic=lambda: now, perf_counter=time.perf_counter)
    monkeypatch.setattr(s3, "time", clock)
    store, storage = make_store(HANG, OBJECT, with_circuit_breaker=True)
    with pytest.raises(StoreUnavailable, match="timed out") as first:
        read(storage)
    now += first.value.retry_after_seconds - 0.01
    with pytest.raises(StoreUnavailable, match="hung just now"):
        read(storage)
    wait_for_requests(store, 1)
    now += 0.01
    assert read(storage) == b"bytes"


def test_web_leaves_a_store_alone_that_stops_reading(monkeypatch):
    monkeypatch.setattr(s3, "_CONNECT_SECONDS", 0.05)  # what sending is given, too
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        storage = Storage(settings(S3_ENDPOINT=endpoint), with_circuit_breaker=True)
        for words in ("timed out", "hung just now"):
            with pytest.raises(StoreUnavailable, match=words):
                storage.write_public("k", bytes(20_000_000), content_type="image/webp")


def test_a_name_that_is_not_resolved_is_asked_for_once_and_web_rests(monkeypatch):
    asked = []

    def give_up(host, *_, **__):
        asked.append(host)
        raise socket.gaierror(socket.EAI_AGAIN, "no resolver answers")  # after seconds, usually

    monkeypatch.setattr(socket, "getaddrinfo", give_up)
    storage = Storage(settings(S3_ENDPOINT="http://store.example"), with_circuit_breaker=True)
    for words in ("no resolver answers", "hung just now"):
        with pytest.raises(StoreUnavailable, match=words):
            read(storage)
    assert asked == ["store.example"]


def test_a_connection_that_is_refused_is_tried_again_and_nobody_rests(monkeypatch):
    tried = []
    connect = urllib3.util.connection.create_connection

    def note(address, *args, **options):
        tried.append(address)
        return connect(address, *args, **options)

    monkeypatch.setattr(urllib3.util.connection, "create_connection", note)
    storage = Storage(settings(S3_ENDPOINT="http://127.0.0.1:9"), with_circuit_breaker=True)
    for calls in (1, 2):
        with pytest.raises(StoreUnavailable, match="refused"):
            read(storage)
        assert len(tried) == 2 * calls


def test_web_does_not_leave_a_store_alone_that_fails_at_once(make_store):
    _, storage = make_store(fault(403, "AccessDenied"), OBJECT, with_circuit_breaker=True)
    with pytest.raises(StoreUnavailable):
        read(storage)
    assert read(storage) == b"bytes"


@pytest.mark.parametrize(
    "answers",
    [
        [fault(403, "SignatureDoesNotMatch")],
        [fault(503, "SlowDown")] * 2,
        [CUT] * 2,
        [NOTHING] * 2,
        [answer(301, Location="/elsewhere")],
    ],
)
def test_no_fault_shows_how_to_make_the_request(make_store, answers):
    store, storage = make_store(*answers)
    with pytest.raises(StoreUnavailable) as raised:
        read(storage)
    assert "X-Amz-Signature=" in store.requests[0]
    assert_tells_no_secret(raised.value)


# TLS


@pytest.fixture
def tls_store(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with ScriptedStore([OBJECT], tls=context) as store:
        yield store


def test_a_store_that_nobody_vouches_for_is_told_nothing(tls_store):
    with pytest.raises(StoreUnavailable, match="certificate verify failed"):
        read(Storage(settings(S3_ENDPOINT=tls_store.endpoint)))
    assert tls_store.requests == []


def test_the_machine_says_whom_to_trust(tls_store, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert read(Storage(settings(S3_ENDPOINT=tls_store.endpoint))) == b"bytes"


# listings


def listing(*entries, then=""):
    contents = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size>"
        "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
        for key in entries
    )
    more = f"<IsTruncated>true</IsTruncated>{then}" if then else "<IsTruncated>false</IsTruncated>"
    namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<ListBucketResult xmlns="{namespace}">{contents}{more}</ListBucketResult>'


def test_keys_are_read_however_they_are_written(make_store):
    token = "<NextContinuationToken>a/b+=&amp;</NextContinuationToken>"
    first = listing("a&amp;&lt;b&gt;", "a+b%20c", then=token)
    encoded = listing("a%26b+c%2B%C3%BC%01").replace(
        "<IsTr", "<EncodingType>url</EncodingType><IsTr"
    )
    store, storage = make_store(answer(200, first.encode()), answer(200, encoded.encode()))
    found = [entry.key for entry in storage.list_objects("raw", "ü ")]
    assert found == ["a&<b>", "a+b%20c", "a&b c+ü\x01"]
    assert "&prefix=%C3%BC%20&" in store.requests[0]
    assert "?continuation-token=a%2Fb%2B%3D%26&encoding-type=url&" in store.requests[1]


LAUGHS = "".join(
    f"<!ENTITY e{n} '{'&e' + str(n - 1) + ';' if n else ''}{'ha' if not n else ''}'>".replace(
        f"&e{n - 1};", f"&e{n - 1};" * 10
    )
    for n in range(10)
)


@pytest.mark.parametrize(
    "page",
    [
        "",
        "<html><body>Welcome to this network</body></html>",
        listing("k")[:-5],
        listing("k").replace("<Size>1", "<Size>many"),
        listing("k").replace("2026", "once"),
        listing("k", then=" "),
        f"<!DOCTYPE x [{LAUGHS}]>" + listing("&e9;"),
        "<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/hostname'>]>" + listing("&e;"),
    ],
)
def test_what_is_no_listing_is_no_empty_bucket(make_store, page):
    _, storage = make_store(answer(200, page.encode()))
    with pytest.raises(StoreUnavailable, match=r"^list_objects_v2: not a listing"):
        list(storage.list_objects("raw"))


# keys


@pytest.fixture
def aws(monkeypatch, tmp_path):
    """AWS's usual places, with nothing in them."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


def without_keys(**variables):
    return settings(S3_ACCESS_KEY_ID="", S3_SECRET_ACCESS_KEY="", **variables)


def presign(storage):
    return storage.presign_upload(
        "k", content_type="image/png", size_bytes=1, checksum_sha256=None, ttl_seconds=60
    ).url


def test_keys_that_no_setting_gives_are_those_of_the_environment(aws, moto):
    for name, value in (("ACCESS_KEY_ID", "AKIA"), ("SECRET_ACCESS_KEY", "s")):
        aws.setenv(f"AWS_{name}", value)
    aws.setenv("AWS_SESSION_TOKEN", "of/the+session")
    storage = Storage(without_keys(S3_ENDPOINT=moto))
    assert "X-Amz-Credential=AKIA%2F" in presign(storage)
    assert "X-Amz-Security-Token=of%2Fthe%2Bsession" in presign(storage)
    storage.create_buckets(())
    with pytest.raises(ObjectNotFound):
        read(storage)


def test_buckets_are_made_in_the_region_that_is_set(moto):
    variables = {"S3_ENDPOINT": moto, "S3_REGION": "eu-west-1", "S3_RAW_BUCKET": "in-ireland"}
    Storage(settings(**variables)).create_buckets(())
    located = requests.get(f"{moto}/in-ireland?location", timeout=10).text
    assert ">eu-west-1<" in located


PROGRAM = """
import json, pathlib, sys
from datetime import UTC, datetime, timedelta

counter = pathlib.Path(sys.argv[1])
number = int(counter.read_text()) + 1
counter.write_text(str(number))
# What expires so soon is asked for again each time; what has expired is no use.
expiration = datetime.now(UTC) + timedelta(minutes=5 if number < 4 else -5)
keys = {"AccessKeyId": f"key{number}", "SecretAccessKey": "s", "SessionToken": "t"}
print(json.dumps({"Version": 1, **keys, "Expiration": expiration.isoformat()}))
"""


def test_keys_are_asked_for_at_every_signature_until_there_are_none(aws, tmp_path):
    program, counter, config = (tmp_path / name for name in ("program", "counter", "config"))
    program.write_text(PROGRAM)
    counter.write_text("0")
    command = shlex.join([sys.executable, str(program), str(counter)])
    config.write_text(f"[default]\ncredential_process = {command}\n")
    aws.setenv("AWS_CONFIG_FILE", str(config))
    storage = Storage(without_keys())
    assert "Credential=key2%2F" in presign(storage)
    assert "Credential=key3%2F" in presign(storage)
    with pytest.raises(StoreUnavailable, match="no keys for the store"):
        presign(storage)


def test_a_profile_that_is_not_there_has_no_keys(aws):
    aws.setenv("AWS_PROFILE", "no-such-profile")
    with pytest.raises(ConfigurationError, match=r"are not set, and .*no-such-profile"):
        Storage(without_keys())


def test_one_of_the_two_keys_is_a_fault():
    for name in ("S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"):
        with pytest.raises(ConfigurationError, match="belong together"):
            settings(**{name: ""})


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [["-c", "import app"], ["worker_listener.py"], ["-m", "mediaworker"]]
)
def test_a_process_without_keys_does_not_start(tmp_path, arguments):
    variables = environment(
        S3_ACCESS_KEY_ID="",
        S3_SECRET_ACCESS_KEY="",
        HOME=str(tmp_path),
        AWS_EC2_METADATA_DISABLED="true",
        BROKER_URL="amqp://127.0.0.1:9/",
    )
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=PROJECT,
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY are not set" in done.stderr
    assert "Traceback" not in done.stderr


# memory

WORK = """
import os
from config.settings import Settings
from mediaservice import create_lifecycle
from mediaservice.storage import Storage

storage = Storage(Settings.from_environ(os.environ))
storage.ping()
storage.write_public("media/k/main.webp", b"RIFF", content_type="image/webp")
assert storage.purge(raw_key="uploads/k", public_prefix="media/k/")
"""


@pytest.mark.slow
def test_work_is_done_without_boto3(moto):
    variables = {"S3_ENDPOINT": moto, "S3_RAW_BUCKET": "a-raw", "S3_PUBLIC_BUCKET": "a-public"}
    Storage(settings(**variables)).create_buckets(())
    loaded = loaded_by("mediaworker.__main__", "worker_listener", then=WORK, **variables)
    assert "mediaservice.s3" in loaded
    assert not {"boto3", "botocore"} & loaded
