"""The AMQP contract: what is published to the worker, what is consumed from it, as JSON.

Pure encoding and decoding, shared by service and worker; `broker` moves the bytes. The structs are
the contract: docs/messages/ holds the JSON Schemas generated from them. Unknown fields are ignored,
so either side may be newer than the other.
"""

from datetime import datetime
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import Meta

from mediaservice.keys import PUBLIC_KEY_PATTERN, public_prefix

MEDIA_PROCESS: Final = "media.process"
MEDIA_PROCESSED: Final = "media.processed"
MEDIA_FAILED: Final = "media.failed"

# A result with dozens of variants is about 10 kB; a larger body is not one of ours.
MAX_BODY_BYTES: Final = 256 * 1024

Key = Annotated[str, Meta(min_length=1, max_length=1024)]  # S3's limit on a key
PublicKey = Annotated[str, Meta(max_length=1024, pattern=PUBLIC_KEY_PATTERN)]
# In patterns, `(?!\n)` is for Python, whose `$` lets a final newline pass.
ContentType = Annotated[str, Meta(max_length=255, pattern=r"^[a-z]+/[A-Za-z0-9.+-]+(?!\n)$")]
Pixels = Annotated[int, Meta(ge=1, le=1_000_000)]
Bytes = Annotated[int, Meta(ge=0, le=2**53)]
Attempt = Annotated[int, Meta(ge=1, le=2**31 - 1)]
ErrorCode = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}(?!\n)$")]
# Meant for a ThumbHash in base64; other formats pass, but nothing that means something in HTML.
Placeholder = Annotated[str, Meta(max_length=128, pattern=r"^[!#-%*-;=?-\[\]-~]*(?!\n)$")]


class MalformedMessage(Exception):
    """A message that is not of the contract; its text is the reason it is dead-lettered with."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """`media.process`: make the public variants of one pinned original.

    Read `raw_key` with `If-Match: raw_etag`; write only keys that start with `public_prefix`.
    `attempt` counts from 1: echo it in the result.
    """

    media_id: UUID
    attempt: Attempt
    raw_bucket: str
    raw_key: Key
    raw_etag: str
    content_type: ContentType
    size_bytes: Bytes
    public_bucket: str
    public_prefix: Key
    requested_at: datetime


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One more rendition of the same image, besides the one at `public_key`."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}(?!\n)$")]
    key: PublicKey
    width: Pixels
    height: Pixels
    size_bytes: Bytes
    content_type: ContentType


class ProcessedResult(msgspec.Struct, frozen=True, kw_only=True):
    """`media.processed`: the objects are stored. Only `media_id` and `public_key` are required.

    `width`, `height`, `content_type` and `size_bytes` are those of the rendition at `public_key`,
    after rotation; `variants` are all the others. The API's `variants` begin with the rendition at
    `public_key`, if those four are given. `placeholder` is a base64 ThumbHash.
    """

    media_id: UUID
    public_key: PublicKey
    attempt: Attempt | None = None
    width: Pixels | None = None
    height: Pixels | None = None
    content_type: ContentType | None = None
    size_bytes: Bytes | None = None
    variants: Annotated[list[Variant], Meta(max_length=32)] = []
    placeholder: Placeholder | None = None

    @property
    def lists_main(self) -> bool:
        """Whether the variants have the rendition at `public_key`, too."""
        return any(variant.key == self.public_key for variant in self.variants)

    @property
    def keys(self) -> list[str]:
        """Every public key this result claims."""
        return [self.public_key, *(variant.key for variant in self.variants)]


class ProcessingError(msgspec.Struct, frozen=True, kw_only=True):
    """Why an attempt failed; `retryable` asks for another attempt while there are any left."""

    code: ErrorCode = "processing_failed"
    message: Annotated[str, Meta(max_length=2000)] = ""
    retryable: bool = False


class FailedResult(msgspec.Struct, frozen=True, kw_only=True):
    """`media.failed`: the attempt did not work. Only `media_id` is required."""

    media_id: UUID
    attempt: Attempt | None = None
    error: ProcessingError = ProcessingError()


Result = ProcessedResult | FailedResult
Message = Job | ProcessedResult | FailedResult

MESSAGE_TYPES: Final[dict[str, type[Message]]] = {
    MEDIA_PROCESS: Job,
    MEDIA_PROCESSED: ProcessedResult,
    MEDIA_FAILED: FailedResult,
}
_ROUTING_KEYS = {message_type: key for key, message_type in MESSAGE_TYPES.items()}
_DECODERS = {key: msgspec.json.Decoder(type_) for key, type_ in MESSAGE_TYPES.items()}
_encoder = msgspec.json.Encoder()


def encode(message: Message) -> tuple[str, bytes]:
    """Return the routing key and the JSON body of a message."""
    return _ROUTING_KEYS[type(message)], _encoder.encode(message)


def decode(routing_key: str, body: bytes) -> Message:
    """Return the message, or raise MalformedMessage with a reason fit for a log line.

    A key outside the media's own prefix is malformed: no message can touch another media's objects.
    """
    decoder = _DECODERS.get(routing_key)
    if decoder is None:
        raise MalformedMessage(f"unknown routing key {routing_key[:64]!r}")
    if len(body) > MAX_BODY_BYTES:
        raise MalformedMessage(f"body of {len(body)} bytes is over {MAX_BODY_BYTES}")
    try:
        message = decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(str(error)) from None
    if not isinstance(message, FailedResult):
        _check_keys(message)
    return message


def _check_keys(message: Job | ProcessedResult) -> None:
    prefix = public_prefix(message.media_id)
    if isinstance(message, Job):
        if message.public_prefix != prefix:
            raise MalformedMessage(f"public_prefix is not {prefix}")
        return
    for key in message.keys:
        if not key.startswith(prefix):
            raise MalformedMessage(f"key {key[:100]!r} is not a key below {prefix}")
