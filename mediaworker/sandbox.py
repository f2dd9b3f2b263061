"""Decoding where it can do no harm: in a child process that is watched, and killed when it must be.

Runs in the consumer and keeps one warm decoder. No pixel library may be imported here, and nothing
the child says is trusted: whatever it does, a Rendered or an ImageError comes out, and in time.
"""

import math
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

import msgspec

from config.settings import WorkerSettings
from mediaworker.protocol import (
    HEADER,
    MAX_REPLY_BYTES,
    READY,
    DecoderSettings,
    Failure,
    Reply,
    decode_reply,
)
from mediaworker.renditions import ErrorCode, ImageError, Limits, Rendered

# How often a busy decoder is looked at, and its caller given the chance to do something else.
TICK_SECONDS: Final = 0.1
START_SECONDS: Final = 30.0

_PROJECT: Final = Path(__file__).resolve().parent.parent
_DEFAULT_LIMITS: Final = Limits()
_CODE_BY_SIGNAL: Final[dict[int, ErrorCode]] = {
    signal.SIGXCPU: "decoder_timeout",
    # We did not send it, so it was the kernel, short of memory.
    signal.SIGKILL: "decoder_out_of_memory",
}


class DecoderUnavailable(Exception):
    """The decoder process cannot be started: this machine's fault, not the image's."""


def _do_nothing() -> None:
    """Wait for the decoder with nothing else to do."""


class Sandbox:
    """Renders images in a child process, which it starts when needed and replaces when it fails.

    One image at a time, from one thread: the child dies with the thread that started it.

    `memory_bytes` is the most the whole child may have, its libraries (about 50 MB) included;
    `wall_seconds` and `cpu_seconds`, by default as many, are per image; `images_per_child` bounds
    what leaks add up to.
    """

    def __init__(
        self,
        limits: Limits = _DEFAULT_LIMITS,
        *,
        memory_bytes: int = 1024 * 1024 * 1024,
        wall_seconds: float = 60.0,
        cpu_seconds: int | None = None,
        images_per_child: int = 500,
        decoder_module: str = "mediaworker.decoder",
    ) -> None:
        self._limits = limits
        self._memory_bytes = memory_bytes
        self._cpu_seconds = math.ceil(wall_seconds) if cpu_seconds is None else cpu_seconds
        self._wall_seconds = wall_seconds
        self._images_per_child = images_per_child
        self._decoder_module = decoder_module
        self._child: _Child | None = None

    @classmethod
    def from_settings(cls, settings: WorkerSettings) -> Self:
        """Return a sandbox with the limits that a worker is set to."""
        return cls(
            Limits(max_pixels=settings.max_image_pixels),
            wall_seconds=settings.decode_timeout_seconds,
            memory_bytes=settings.decode_memory_bytes,
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start the decoder, if it is not running; raises DecoderUnavailable."""
        self._running_child(_do_nothing)

    def close(self) -> None:
        """Stop the decoder, whatever it is doing."""
        if self._child:
            self._child.kill()
            self._child = None

    def render(self, original: bytes, *, on_wait: Callable[[], None] = _do_nothing) -> Rendered:
        """Return the renditions of one original; `on_wait` is called several times a second.

        Raises ImageError when the original is at fault and DecoderUnavailable when this machine is.
        What `on_wait` raises ends the wait and is passed on.
        """
        if len(original) > self._limits.max_input_bytes:
            raise ImageError("image_too_large", f"more than {self._limits.max_input_bytes} bytes")
        child = self._running_child(on_wait)
        try:
            outcome = child.exchange(original, self._watch(child, self._wall_seconds, on_wait))
        except BaseException:
            # A child left in the middle of one image would answer the next one with it.
            self.close()
            raise
        # What was short of memory may owe that to earlier images, and so would the next one.
        is_exhausted = isinstance(outcome, Failure) and outcome.code == "decoder_out_of_memory"
        if is_exhausted or child.images >= self._images_per_child:
            self.close()
        if isinstance(outcome, Failure):
            raise ImageError(outcome.code, outcome.message)
        return outcome

    def _running_child(self, on_wait: Callable[[], None]) -> "_Child":
        if self._child and self._child.is_running():
            return self._child
        self.close()
        try:
            self._child = _Child(
                self._decoder_module, self._limits, self._memory_bytes, self._cpu_seconds
            )
        except OSError as error:  # no memory, no process or no file descriptor is left
            raise DecoderUnavailable(f"the decoder cannot be started: {error}") from error
        try:
            self._child.await_ready(self._watch(self._child, START_SECONDS, on_wait))
        except BaseException as error:
            self.close()
            if isinstance(error, ImageError):
                raise DecoderUnavailable(error.message) from error
            raise
        return self._child

    def _watch(self, child: "_Child", seconds: float, on_wait: Callable[[], None]) -> "_Watch":
        return _Watch(child.pid, self._memory_bytes, seconds, on_wait)


class _Watch:
    """Holds a busy child to its memory and time, from outside."""

    def __init__(
        self, pid: int, memory_bytes: int, seconds: float, on_wait: Callable[[], None]
    ) -> None:
        self._statm = Path(f"/proc/{pid}/statm")
        self._memory_bytes = memory_bytes
        self._seconds = seconds
        self._on_wait = on_wait
        self._next_tick = time.monotonic() + TICK_SECONDS
        self._deadline = time.monotonic() + seconds

    def tick(self) -> None:
        """Check the child and call `on_wait`, if it is time to."""
        now = time.monotonic()
        if now < self._next_tick:
            return
        self._next_tick = now + TICK_SECONDS
        self._on_wait()
        if now > self._deadline:
            raise ImageError("decoder_timeout", f"more than {self._seconds} seconds")
        if self._resident_bytes() > self._memory_bytes:
            raise ImageError("decoder_out_of_memory", f"more than {self._memory_bytes} bytes")

    def _resident_bytes(self) -> int:
        # Without a /proc, the child's own limit is all there is.
        with suppress(OSError, IndexError):
            return int(self._statm.read_text().split()[1]) * resource.getpagesize()
        return 0


class _Child:
    """One decoder process and the socket to it."""

    def __init__(self, module: str, limits: Limits, memory_bytes: int, cpu_seconds: int) -> None:
        settings = DecoderSettings(limits, memory_bytes, cpu_seconds, parent_pid=os.getpid())
        self.images = 0
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(TICK_SECONDS)
        with theirs:
            fd = theirs.fileno()
            try:
                self._process = subprocess.Popen(  # noqa: S603  our own interpreter and module
                    [sys.executable, "-P", "-m", module, str(fd), msgspec.json.encode(settings)],
                    # All it gets to know: not one of our variables, some of which are credentials.
                    env={
                        "PYTHONPATH": os.pathsep.join([str(_PROJECT), *filter(None, sys.path)]),
                        "VIPS_CONCURRENCY": "1",
                    },
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=[fd],
                )
            except OSError:
                self._socket.close()
                raise
        self.pid = self._process.pid

    def is_running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._socket.close()

    def await_ready(self, watch: _Watch) -> None:
        if self._receive(watch) != READY:
            raise ImageError("decoder_crashed", "the decoder began with something else than READY")

    def exchange(self, original: bytes, watch: _Watch) -> Rendered | Failure:
        self.images += 1
        self._transfer(self._socket.send, HEADER.pack(len(original)), watch)
        self._transfer(self._socket.send, original, watch)
        reply = self._receive(watch)
        outcome = reply.rendered or reply.failure
        if outcome is None:
            raise ImageError("decoder_crashed", "the decoder's reply is empty")
        return outcome

    def _receive(self, watch: _Watch) -> Reply:
        header = bytearray(HEADER.size)
        self._transfer(self._socket.recv_into, header, watch)
        (length,) = HEADER.unpack(header)
        if length > MAX_REPLY_BYTES:
            raise ImageError("decoder_crashed", "the decoder's reply is too long")
        body = bytearray(length)
        self._transfer(self._socket.recv_into, body, watch)
        try:
            return decode_reply(body)
        except msgspec.MsgspecError as error:
            raise ImageError("decoder_crashed", f"the decoder's reply is wrong: {error}") from error

    def _transfer(
        self, step: Callable[[memoryview], int], data: bytes | bytearray, watch: _Watch
    ) -> None:
        """Send or receive all of `data`, in steps of a tick at most."""
        remaining = memoryview(data)
        while remaining:
            watch.tick()
            try:
                count = step(remaining)
            except TimeoutError:
                continue
            except OSError:
                self._raise_death()
            if count == 0:
                self._raise_death()
            remaining = remaining[count:]

    def _raise_death(self) -> NoReturn:
        # The socket is closed but the process may linger. If it is dying already, this changes
        # neither its exit status nor the signal that we find in there.
        self._process.kill()
        status = self._process.wait()
        if status >= 0:
            raise ImageError("decoder_crashed", f"the decoder exited with status {status}")
        code = _CODE_BY_SIGNAL.get(-status, "decoder_crashed")
        names = {number.value: number.name for number in signal.Signals}  # real-time ones have none
        raise ImageError(code, f"the decoder died by {names.get(-status, f'signal {-status}')}")
