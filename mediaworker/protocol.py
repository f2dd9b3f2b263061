"""How the consumer and its decoder talk: one message there, one message back, over a socket.

A message is its length in 4 bytes, big-endian, and that many bytes: an original, or a Reply. The
consumer decodes replies as hostile input: typed, bounded, and never able to run anything.
"""

import struct
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from mediaworker.renditions import ErrorCode, Limits, Rendered

HEADER: Final = struct.Struct(">I")
MAX_REPLY_BYTES: Final = 64 * 1024 * 1024
MAX_MESSAGE_LENGTH: Final = 200


@dataclass(frozen=True, slots=True)
class DecoderSettings:
    """What a decoder is started with; sizes in bytes, times in seconds of CPU."""

    limits: Limits
    memory_bytes: int
    cpu_seconds: int
    parent_pid: int


@dataclass(frozen=True, slots=True)
class Failure:
    """An ImageError on its way to the consumer."""

    code: ErrorCode
    message: Annotated[str, Meta(max_length=MAX_MESSAGE_LENGTH)]


@dataclass(frozen=True, slots=True)
class Reply:
    """The reply to one original, or the empty READY with which a decoder begins."""

    rendered: Rendered | None = None
    failure: Failure | None = None


READY: Final = Reply()

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Reply)


def encode_reply(reply: Reply) -> bytes:
    """Return the body of the message that carries this reply."""
    return _encoder.encode(reply)


def decode_reply(body: bytes | bytearray) -> Reply:
    """Return the reply in a message's body; raises msgspec.ValidationError for anything else."""
    try:
        reply = _decoder.decode(body)
    except (UnicodeDecodeError, RecursionError) as error:  # which msgspec passes on
        raise msgspec.ValidationError(str(error)) from error
    if reply.rendered:
        for rendition in (reply.rendered.main, *reply.rendered.variants):
            if rendition.data[:4] != b"RIFF" or rendition.data[8:12] != b"WEBP":
                raise msgspec.ValidationError("a rendition is not WebP")
    return reply
