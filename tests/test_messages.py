"""The AMQP contract: what is understood, what is ignored, what is refused and with which reason."""

import json
import random
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from mediaservice.keys import public_prefix
from mediaservice.messages import (
    MAX_BODY_BYTES,
    MEDIA_FAILED,
    MEDIA_PROCESS,
    MEDIA_PROCESSED,
    FailedResult,
    Job,
    MalformedMessage,
    ProcessedResult,
    ProcessingError,
    Variant,
    decode,
    encode,
)
from tests.builders import UNKNOWN_ID

MEDIA_ID = UUID("0190a8e5-6c1f-7d3a-9b7e-1f2e3d4c5b6a")
PREFIX = public_prefix(MEDIA_ID)

REQUEST = Job(
    media_id=MEDIA_ID,
    attempt=1,
    raw_bucket="raw",
    raw_key="uploads/1",
    raw_etag='"abc"',
    content_type="image/jpeg",
    size_bytes=1234,
    public_bucket="public",
    public_prefix=PREFIX,
    requested_at=datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC),
)
PROCESSED = ProcessedResult(
    media_id=MEDIA_ID,
    public_key=f"{PREFIX}main.webp",
    attempt=2,
    width=2048,
    height=1365,
    content_type="image/webp",
    size_bytes=321,
    variants=[
        Variant(
            name="w640",
            key=f"{PREFIX}w640.webp",
            width=640,
            height=427,
            size_bytes=99,
            content_type="image/webp",
        )
    ],
    placeholder="1QcSHQRnh493V4dIh4eXh1h4kJUI",
)
FAILED = FailedResult(
    media_id=MEDIA_ID,
    attempt=3,
    error=ProcessingError(code="corrupt_image", message="no EOI", retryable=True),
)


def processed(**fields: Any) -> bytes:
    message = {"media_id": str(MEDIA_ID), "public_key": f"{PREFIX}main.webp", **fields}
    return json.dumps(message).encode()


def failed(**fields: Any) -> bytes:
    return json.dumps({"media_id": str(MEDIA_ID), **fields}).encode()


@pytest.mark.parametrize(
    ("message", "routing_key"),
    [(REQUEST, MEDIA_PROCESS), (PROCESSED, MEDIA_PROCESSED), (FAILED, MEDIA_FAILED)],
)
def test_a_message_survives_the_round_trip(message: Any, routing_key: str):
    key, body = encode(message)
    assert key == routing_key
    assert decode(key, body) == message


@pytest.mark.parametrize("message", [REQUEST, PROCESSED, *PROCESSED.variants, FAILED, FAILED.error])
def test_what_was_received_is_not_changed_afterwards(message: Any):
    field = message.__struct_fields__[0]
    with pytest.raises(AttributeError):
        setattr(message, field, getattr(message, field))


def test_a_job_has_exactly_the_published_fields():
    fields = json.loads(encode(REQUEST)[1])
    assert fields == {
        "media_id": str(MEDIA_ID),
        "attempt": 1,
        "raw_bucket": "raw",
        "raw_key": "uploads/1",
        "raw_etag": '"abc"',
        "content_type": "image/jpeg",
        "size_bytes": 1234,
        "public_bucket": "public",
        "public_prefix": PREFIX,
        "requested_at": "2024-01-02T03:04:05Z",
    }


def test_a_worker_may_know_only_media_id_and_public_key():
    message = decode(MEDIA_PROCESSED, processed())
    assert isinstance(message, ProcessedResult)
    assert (message.media_id, message.public_key) == (MEDIA_ID, f"{PREFIX}main.webp")
    assert (message.attempt, message.width, message.variants) == (None, None, [])


def test_a_failure_may_know_only_media_id():
    message = decode(MEDIA_FAILED, failed())
    assert message == FailedResult(media_id=MEDIA_ID)
    assert message.error == ProcessingError(code="processing_failed", message="", retryable=False)


def test_unknown_fields_are_ignored_at_every_level():
    body = failed(error={"code": "corrupt_image", "stack": ["a"]}, worker="gpu-7", trace={"a": 1})
    message = decode(MEDIA_FAILED, body)
    assert isinstance(message, FailedResult)
    assert message.error.code == "corrupt_image"


@pytest.mark.parametrize(
    ("routing_key", "body", "reason"),
    [
        ("media.exploded", processed(), "unknown routing key"),
        ("", processed(), "unknown routing key"),
        (MEDIA_PROCESSED, b"", "truncated"),
        (MEDIA_PROCESSED, b"not json", "malformed"),
        (MEDIA_PROCESSED, b"\xff\xfe\x00", "malformed"),
        (MEDIA_PROCESSED, b'{"media_id": "\xff"}', ""),
        (MEDIA_PROCESSED, b"[]", "Expected `object`"),
        (MEDIA_PROCESSED, b"null", "Expected `object`"),
        (MEDIA_PROCESSED, b"[" * 100_000, ""),
        (MEDIA_PROCESSED, processed() + b" {}", "trailing"),
        (MEDIA_PROCESSED, b'{"width": 1}', "media_id"),
        (MEDIA_PROCESSED, failed(), "public_key"),
        (MEDIA_PROCESSED, processed(media_id="12"), "UUID"),
        (MEDIA_PROCESSED, processed(public_key=7), "public_key"),
        (MEDIA_PROCESSED, processed(public_key=""), "public_key"),
        (MEDIA_PROCESSED, processed(public_key=PREFIX + "x" * 1024), "length"),
        (MEDIA_PROCESSED, processed(width=0), "width"),
        (MEDIA_PROCESSED, processed(width=2_000_000), "width"),
        (MEDIA_PROCESSED, processed(height="tall"), "height"),
        (MEDIA_PROCESSED, processed(attempt=0), "attempt"),
        (MEDIA_PROCESSED, processed(attempt=2**31), "attempt"),
        (MEDIA_PROCESSED, processed(size_bytes=-1), "size_bytes"),
        (MEDIA_PROCESSED, processed(variants=[{"name": "w1"}]), "variants"),
        (MEDIA_PROCESSED, processed(variants=[{}] * 33), "variants"),
        (MEDIA_PROCESSED, processed(placeholder="x" * 129), "placeholder"),
        (MEDIA_PROCESSED, processed(padding="x" * MAX_BODY_BYTES), "is over"),
        (MEDIA_FAILED, failed(error={"code": "DROP TABLE"}), "code"),
        (MEDIA_FAILED, failed(error="broken"), "error"),
        (MEDIA_FAILED, failed(error={"message": "x" * 2001}), "message"),
        (MEDIA_FAILED, failed(error={"retryable": "yes"}), "retryable"),
        (MEDIA_PROCESS, failed(), "missing required field"),
    ],
)
def test_a_malformed_message_is_refused_with_its_reason(routing_key: str, body: bytes, reason: str):
    with pytest.raises(MalformedMessage) as raised:
        decode(routing_key, body)
    assert reason in str(raised.value)


@pytest.mark.parametrize(
    ("routing_key", "body", "reason"),
    [
        ("k" * 65, b"", f"unknown routing key '{'k' * 64}'"),
        (
            MEDIA_PROCESSED,
            b" " * (MAX_BODY_BYTES + 1),
            f"body of {MAX_BODY_BYTES + 1} bytes is over {MAX_BODY_BYTES}",
        ),
        (
            MEDIA_PROCESSED,
            processed(public_key=f"media/{UUID(int=0)}/{'x' * 100}"),
            f"key 'media/{UUID(int=0)}/{'x' * 57}' is not a key below {PREFIX}",
        ),
        (
            MEDIA_PROCESS,
            encode(msgspec.structs.replace(REQUEST, public_prefix="media/"))[1],
            f"public_prefix is not {PREFIX}",
        ),
        (
            MEDIA_PROCESS,
            encode(
                msgspec.structs.replace(REQUEST, public_prefix=f"media/{UUID(int=2**128 - 1)}/")
            )[1],
            f"public_prefix is not {PREFIX}",
        ),
    ],
)
def test_a_reason_is_short_and_names_what_was_expected(routing_key: str, body: bytes, reason: str):
    with pytest.raises(MalformedMessage) as raised:
        decode(routing_key, body)
    assert str(raised.value) == reason


def test_a_body_may_be_as_large_as_the_limit():
    body = processed(padding="")
    body = processed(padding="x" * (MAX_BODY_BYTES - len(body)))
    assert len(body) == MAX_BODY_BYTES
    assert decode(MEDIA_PROCESSED, body) == decode(MEDIA_PROCESSED, processed())


@pytest.mark.parametrize(
    "key",
    [
        "main.webp",
        "/" + PREFIX + "main.webp",
        public_prefix(UNKNOWN_ID) + "main.webp",
        f"{PREFIX}../../other/main.webp",
        f"{PREFIX}a/../../../x",
        f"{PREFIX}..",
        f"{PREFIX}a/..",
        f"{PREFIX}./x",
        PREFIX,
        PREFIX.upper() + "main.webp",
        f"{PREFIX}a\nb",
        f"{PREFIX}a\x00b",
        f"{PREFIX}\u202egnp.exe",
        f"{PREFIX}a?x=1",
        f"{PREFIX}a#b",
        f"{PREFIX}a b",
        f"{PREFIX}a%2f..",
        f"{PREFIX}\\..\\x",
        f"{PREFIX}//x",
    ],
)
def test_a_key_that_is_not_plainly_below_the_medias_own_prefix_is_refused(key: str):
    """The key also becomes the path of a CDN URL: what a proxy may read otherwise is refused."""
    with pytest.raises(MalformedMessage):
        decode(MEDIA_PROCESSED, processed(public_key=key))
    variant = {"name": "w1", "key": key, "width": 1, "height": 1, "size_bytes": 1}
    with pytest.raises(MalformedMessage):
        decode(MEDIA_PROCESSED, processed(variants=[{**variant, "content_type": "image/webp"}]))


@pytest.mark.parametrize("name", ["main.webp", "v2/w640@2x.avif", "a/b/c.jpg", "1-2_3~4.png"])
def test_any_plain_key_below_the_prefix_is_accepted(name: str):
    message = decode(MEDIA_PROCESSED, processed(public_key=PREFIX + name))
    assert isinstance(message, ProcessedResult)
    assert message.keys == [PREFIX + name]


def test_no_bytes_make_decoding_fail_in_another_way():
    bodies = [processed(), encode(PROCESSED)[1], encode(FAILED)[1], failed()]
    for _ in range(3000):
        body = bytearray(random.choice(bodies))
        for _ in range(random.randint(1, 6)):
            body[random.randrange(len(body))] = random.randrange(256)
        try:
            message = decode(random.choice([MEDIA_PROCESSED, MEDIA_FAILED]), bytes(body))
        except MalformedMessage:
            continue
        assert isinstance(message, ProcessedResult | FailedResult)
        assert encode(message)
