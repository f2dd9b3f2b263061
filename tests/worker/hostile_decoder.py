"""A decoder whose images are orders: what the sandbox's tests start in place of the real one.

Confined like the real one; only what it does with an original differs.
"""

import ctypes
import json
import mmap
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable

from mediaworker.decoder import serve
from mediaworker.renditions import ImageError, Limits, Rendered, Rendition

SMALLEST = Rendered(Rendition("main", b"RIFF\x10\0\0\0WEBPVP8 ....", 1, 1), (), "1QcSHQRnh49D")


def obey(original: bytes, _limits: Limits) -> Rendered:
    order, _, argument = original.decode().partition(" ")
    ORDERS[order](argument)
    return SMALLEST


def refuse(message: str) -> None:
    raise ImageError("corrupt_image", message)


def fail(message: str) -> None:
    raise LookupError(message)


def spin(_: str) -> None:
    while True:
        pass


def share_memory(size: str) -> None:
    # Pages of this kind are not the process's own data: only a look from outside finds them.
    shared = mmap.mmap(-1, int(size))
    for _ in range(0, int(size), mmap.PAGESIZE):
        shared.write(b"x" * mmap.PAGESIZE)
    signal.pause()


def say(hexadecimal: str) -> None:
    socket.socket(fileno=int(sys.argv[1])).sendall(bytes.fromhex(hexadecimal))
    signal.pause()


def hang_up(_: str) -> None:
    os.close(int(sys.argv[1]))
    signal.pause()


def look_around(tcp_port: str) -> None:
    found = {
        "environment": sorted(os.environ),
        "core": resource.getrlimit(resource.RLIMIT_CORE),
        "read": outcome(lambda: os.open(__file__, os.O_RDONLY)),
        "write": outcome(lambda: os.open("/tmp/found", os.O_WRONLY | os.O_CREAT)),
        "connect": outcome(lambda: socket.socket().connect((b"127.0.0.1", int(tcp_port)))),
    }
    refuse(json.dumps(found))


def outcome(act: Callable[[], object]) -> str:
    try:
        act()
    except OSError:
        return "denied"
    return "allowed"


def tell_cpu_seconds(_: str) -> None:
    soft, _hard = resource.getrlimit(resource.RLIMIT_CPU)
    refuse(str(soft - time.process_time()))


ORDERS: dict[str, Callable[[str], object]] = {
    "render": str,
    "refuse": refuse,
    "fail": fail,
    "crash": lambda _: ctypes.string_at(0),
    "abort": lambda _: os.abort(),
    "exit": lambda status: os._exit(int(status)),
    "kill": lambda name: os.kill(os.getpid(), getattr(signal, name)),
    "die": lambda number: os.kill(os.getpid(), int(number)),
    "hang": lambda _: signal.pause(),
    "spin": spin,
    "allocate": lambda size: bytearray(int(size)),
    "share_memory": share_memory,
    "say": say,
    "hang_up": hang_up,
    "look_around": look_around,
    "tell_cpu_seconds": tell_cpu_seconds,
    "tell_pid": lambda _: refuse(str(os.getpid())),
}

if __name__ == "__main__":
    serve(obey)
