"""Child processes: started, waited for, stopped in order; they never outlive their parent.

Nothing here knows what it starts: servers have modules of their own, and `run` has the service.
"""

import contextlib
import ctypes
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self

# A server takes seconds; a machine that is busy with much else, a minute.
START_SECONDS: Final = 100.0
STOP_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 0.05
_LOG_LINES: Final = 15
_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)
# The parent that a child dies with is the thread that started it: one that lasts to the end.
_starter: Final = ThreadPoolExecutor(1, thread_name_prefix="starter")
# Open sockets, whose names say which ports are promised as long as this process lives.
_claims: Final[list[int]] = []


class ServiceError(Exception):
    """A part cannot be had or did not start; one line says what to do, then its log."""


class Process:
    """One child process, with its output in a log file.

    `start` returns once `is_ready` says so. The child has a session of its own, so that Ctrl-C in
    a terminal reaches only the parent, which then stops its children in order.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        log_path: Path,
        environ: Mapping[str, str],
        cwd: Path,
        is_ready: Callable[[], bool],
        stop_signal: signal.Signals = signal.SIGTERM,
        user: int | None = None,
        group: int | None = None,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self._command = [str(word) for word in command]
        self._environ = dict(environ)
        self._cwd = cwd
        self._is_ready = is_ready
        self._stop_signal = stop_signal
        self._user = user
        self._group = group
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The child's process id."""
        if self._child is None:
            raise ServiceError(f"{self.name} is not running")
        return self._child.pid

    @property
    def is_running(self) -> bool:
        """Whether the child is alive."""
        return self._child is not None and self._child.poll() is None

    def start(self, *, wait: bool = True) -> None:
        """Start the child and, unless told otherwise, wait until it is ready."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self._child = _starter.submit(
                subprocess.Popen,
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environ,
                cwd=self._cwd,
                start_new_session=True,
                user=self._user,
                group=self._group,
                extra_groups=None if self._user is None else [],
                preexec_fn=_die_with_parent,
            ).result()
        if wait:
            self.wait_until_ready()

    def wait_until_ready(
        self, seconds: float = START_SECONDS, *, unless: Callable[[], bool] = lambda: False
    ) -> None:
        """Return when the child is ready, or `unless` is true; stop it if it does not get there.

        Raises ServiceError with its last words.
        """
        try:
            wait_until(
                lambda: unless() or not self.is_running or self._is_ready(),
                seconds=seconds,
                what=f"{self.name} to be ready",
            )
            if not self.is_running:
                raise ServiceError(f"{self.name} did not start{self.last_words()}")
        except TimeoutError as error:
            self.stop()
            raise ServiceError(f"{error}{self.last_words()}") from None
        except BaseException:
            # Ctrl-C too: nobody else knows yet that there is something to stop.
            self.stop()
            raise

    def signal(self, number: signal.Signals) -> None:
        """Send the child a signal."""
        if self.is_running:
            assert self._child is not None  # noqa: S101 - it is running
            self._child.send_signal(number)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Return the child's exit code. Raises TimeoutExpired."""
        assert self._child is not None  # noqa: S101 - only what was started is waited for
        return self._child.wait(seconds)

    def stop(self) -> int | None:
        """Ask the child to end, insist after STOP_SECONDS; return its exit code."""
        if self._child is None:
            return None
        self.signal(self._stop_signal)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(STOP_SECONDS)
        # A child that crashed, or that has to be made to end, leaves its own children behind.
        return self.kill()

    def kill(self) -> int | None:
        """End the child and its own children at once (SIGKILL), as a crash would."""
        if self._child is None:
            return None
        child, self._child = self._child, None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        return child.wait()

    def last_words(self) -> str:
        """Return where the log is and, on lines of their own, how it ends."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return "\n".join([f"; its log: {self.log_path}", *lines[-_LOG_LINES:]])

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def wait_until(
    condition: Callable[[], bool],
    *,
    seconds: float,
    what: str,
    poll_seconds: float = _POLL_SECONDS,
) -> None:
    """Return as soon as the condition holds. Raises TimeoutError, saying what was waited for."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"gave up after {seconds:.0f} s waiting for {what}")
        time.sleep(poll_seconds)


def left_over(folder: Path) -> list[str]:
    """Return the command lines of the processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve().is_relative_to(folder):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # it has ended, or is not ours to look at
    return found


def is_listening(port: int) -> bool:
    """Return whether somebody answers on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(url: str) -> bool:
    """Return whether a loopback URL answers 200, soon enough."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - our own address
            return bool(response.status == 200)
    except OSError:
        return False


def find_free_ports(offsets: Sequence[int] = (0,)) -> int:
    """Return a port P so that P + offset is free for every offset.

    It is below the range that the kernel hands out by itself, and drawn at random. No process that
    asks here is given a port that another, or this one, has been given and may yet open.
    """
    for _ in range(200):
        first = 10_240 + secrets.randbelow(10_760)
        ports = [first + offset for offset in offsets]
        if are_free(first, offsets) and _claim(ports):
            return first
    raise ServiceError("there are no free ports on 127.0.0.1")


def _claim(ports: Sequence[int]) -> bool:
    """Take all of these ports or none, for good; say whether they are ours."""
    with contextlib.ExitStack() as undo:
        claims = [undo.enter_context(socket.socket(socket.AF_UNIX)) for _ in ports]
        for port, claim in zip(ports, claims, strict=True):
            try:
                claim.bind(f"\0media-service-port-{port}")
            except OSError:
                return False
        undo.pop_all()
    _claims.extend(claim.detach() for claim in claims)
    return True


def are_free(first: int, offsets: Sequence[int]) -> bool:
    """Return whether nobody listens on any of the loopback ports first + offset."""
    return all(_is_free(first + offset) for offset in offsets)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
