"""The decoder process: renders one original after another for `sandbox`, confined and replaceable.

Started with nothing but a socket and its settings; knows no names, keys or credentials. It confines
itself before it reads the first byte of an original, and may be killed at any moment.
"""

import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable

import msgspec

from mediaworker import images
from mediaworker.confinement import confine
from mediaworker.protocol import (
    HEADER,
    MAX_MESSAGE_LENGTH,
    READY,
    DecoderSettings,
    Failure,
    Reply,
    encode_reply,
)
from mediaworker.renditions import ErrorCode, ImageError, Limits, Rendered


def serve(render: Callable[[bytes, Limits], Rendered]) -> None:
    """Answer originals until the consumer closes the socket."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    settings = msgspec.json.decode(sys.argv[2], type=DecoderSettings)
    # A terminal or supervisor that stops everything at once means the consumer: it still finishes
    # the image in hand, and then ends this process.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    silence = os.open(os.devnull, os.O_WRONLY)
    confine(memory_bytes=settings.memory_bytes, parent_pid=settings.parent_pid)
    _send(connection, READY)
    # Faults at the start are the operator's to see; what an image makes a library say is not.
    os.dup2(silence, sys.stderr.fileno())
    with connection.makefile("rb") as originals:
        while header := originals.read(HEADER.size):
            original = originals.read(*HEADER.unpack(header))
            _allow_cpu_seconds(settings.cpu_seconds)
            _send(connection, _reply(render, original, settings.limits))


def _reply(render: Callable[[bytes, Limits], Rendered], original: bytes, limits: Limits) -> Reply:
    try:
        return Reply(rendered=render(original, limits))
    except ImageError as error:
        return _failure(error.code, error.message)
    except MemoryError:
        return _failure("decoder_out_of_memory", "an allocation was refused")
    except Exception as error:  # noqa: BLE001  a fault in our code must not look like a silent death
        return _failure("decoder_crashed", repr(error))


def _failure(code: ErrorCode, message: str) -> Reply:
    printable = "".join(character if character.isprintable() else " " for character in message)
    return Reply(failure=Failure(code, printable.strip()[:MAX_MESSAGE_LENGTH]))


def _send(connection: socket.socket, reply: Reply) -> None:
    body = encode_reply(reply)
    connection.sendall(HEADER.pack(len(body)))
    connection.sendall(body)


def _allow_cpu_seconds(seconds: int) -> None:
    """Let the kernel end this process with SIGXCPU once it has used that much more CPU time."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + seconds, hard))


if __name__ == "__main__":
    serve(images.render)
