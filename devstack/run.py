"""`make run`: the whole service for one person, on loopback, with nothing but Python installed.

SQLite, SeaweedFS, web and listener; images are processed inside the listener. Data stays in `var/`
of the project. Ctrl-C stops what was started, in order; so does a part that ends by itself.
"""

import fcntl
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final, NoReturn

from devstack.process import Process, ServiceError, answers, are_free, is_listening, wait_until
from devstack.roles import FLASK, LISTENER, WEB, Role
from devstack.seaweedfs import PORT_OFFSETS, SeaweedFS, find_port
from mediaservice import PROJECT
from mediaservice.process import stop_on_signals

DATA: Final = PROJECT / "var"
WATCH_SECONDS: Final = 0.5
SETUP_SECONDS: Final = 120
# Another configuration's, or gunicorn's; what remains may set limits, LOG_LEVEL and the like.
FOREIGN_VARIABLES: Final = ("AWS_", "S3_", "GUNICORN_", "FLASK_", "PROMETHEUS_")


class Stopped(Exception):
    """Somebody asked for an end, by signal."""


def main() -> None:
    """Start the parts, wait for Ctrl-C or for a part to end, stop them; exit 1 on a failure."""
    use_own_environment()
    stopping = threading.Event()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # under nohup it stays ignored
        numbers.append(signal.SIGHUP)
    # Nothing is interrupted: a child just forked would be nobody's.
    stop_on_signals(stopping.set, numbers)
    failed = False
    with ExitStack() as parts:
        try:
            watch(start(parts, stopping), stopping)
        except Stopped:
            say("stopping …")
        except (ServiceError, OSError) as error:
            print(f"media-service: {one_line(error)}", file=sys.stderr, flush=True)
            failed = True
    if failed:
        sys.exit(1)
    say("stopped")


def start(parts: ExitStack, stopping: threading.Event) -> list[Process]:
    """Start store, web and listener, announcing each; they stop with `parts`."""
    port = read_port()
    claim_data(parts)
    if is_listening(port):
        raise ServiceError(
            f"port {port} is taken: stop what uses it, or choose another: PORT={port + 1} make run"
        )
    store = SeaweedFS(DATA / "store", store_port())
    environ = environment(store, port)
    launch(parts, store)
    say("preparing database and buckets …")
    flask(environ, stopping, "db", "upgrade")  # while the store starts
    await_ready(stopping, store)
    flask(environ, stopping, "media", "init")
    ready = f"http://127.0.0.1:{port}/readyz"
    web = role("web", WEB, environ, is_ready=lambda: answers(ready))
    listener = role("listener", LISTENER, environ)
    launch(parts, web, listener)
    await_ready(stopping, web, listener)
    announce(port)
    return [store, web, listener]


def role(
    name: str,
    arguments: Sequence[str],
    environ: dict[str, str],
    *,
    is_ready: Callable[[], bool] = lambda: True,
) -> Process:
    """Return a process of the service's own, not yet started.

    LOG_LEVEL may hide the line by which a role tells that it is ready.
    """
    return Role(name, arguments, directory=DATA, environ=environ, is_ready=is_ready)


def launch(parts: ExitStack, *processes: Process) -> None:
    """Start processes, each with a new log."""
    for process in processes:
        say(f"starting {process.name} …")
        process.log_path.unlink(missing_ok=True)
        parts.callback(process.stop)
        process.start(wait=False)


def await_ready(stopping: threading.Event, *processes: Process) -> None:
    """Return once all are ready. Raises Stopped, and ServiceError if one does not get there."""
    for process in processes:
        process.wait_until_ready(unless=stopping.is_set)
        if stopping.is_set():
            raise Stopped


def flask(environ: dict[str, str], stopping: threading.Event, *arguments: str) -> None:
    """Run a `flask` command to its end. Raises Stopped, and ServiceError if it fails."""
    command = role("setup", [*FLASK, *arguments], environ)
    command.log_path.unlink(missing_ok=True)
    command.start(wait=False)
    wait_until(
        lambda: stopping.is_set() or not command.is_running,
        seconds=SETUP_SECONDS,
        what=f"`flask {' '.join(arguments)}`",
    )
    code = command.stop()
    if stopping.is_set():
        raise Stopped
    if code:
        raise ServiceError(f"`flask {' '.join(arguments)}` failed{command.last_words()}")


def watch(processes: list[Process], stopping: threading.Event) -> NoReturn:
    """Wait for the end. Raises Stopped, or ServiceError when a part has ended by itself."""
    while not stopping.wait(WATCH_SECONDS):
        for process in processes:
            if not process.is_running:
                raise ServiceError(f"{process.name} has ended by itself{process.last_words()}")
    raise Stopped


def claim_data(parts: ExitStack) -> None:
    """Keep others from running on the same data. Raises ServiceError if somebody does."""
    DATA.mkdir(mode=0o700, exist_ok=True)
    claim = parts.enter_context((DATA / "lock").open("w"))
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ServiceError(f"it is running already, on the data in {DATA}") from None


def store_port() -> int:
    """Return the store's port: the last one if it is still free, so that URLs stay valid."""
    memory = DATA / "store-port"
    last = memory.read_text() if memory.exists() else ""
    if last.isdecimal() and are_free(int(last), PORT_OFFSETS):
        return int(last)
    port = find_port()
    memory.write_text(str(port))
    return port


def use_own_environment() -> None:
    """Drop variables that mean something else here, and reach loopback without a proxy."""
    for name in list(os.environ):
        if name.startswith(FOREIGN_VARIABLES):
            del os.environ[name]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"


def environment(store: SeaweedFS, port: int) -> dict[str, str]:
    """Return the environment of web and listener; WEB_ORIGINS may name other web apps' pages."""
    origins = [
        f"http://127.0.0.1:{port}",
        f"http://localhost:{port}",
        os.environ.get("WEB_ORIGINS"),
    ]
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "APP_ENV": "development",
        "AUTH_MODE": "development",
        "DATABASE_URL": f"sqlite:///{DATA / 'media.sqlite'}",
        "BROKER_URL": "inline:",
        **store.variables,
        "WEB_ORIGINS": ",".join(filter(None, origins)),
        "PORT": str(port),
    }


def read_port() -> int:
    """Return PORT from the environment, 8000 unless given."""
    given = os.environ.get("PORT", "8000")
    if not given.isdecimal() or not 0 < int(given) < 65_536:
        raise ServiceError(f"PORT={given} is not a port number")
    return int(given)


def announce(port: int) -> None:
    """Print where to go."""
    say(
        "ready\n"
        f"    upload page   http://127.0.0.1:{port}/\n"
        f"    API docs      http://127.0.0.1:{port}/api/docs\n"
        "    the caller    whoever the header X-User-ID: <uuid> says\n"
        f"    data, logs    {DATA}\n"
        "    Ctrl-C stops everything."
    )


def say(text: str) -> None:
    """Print a line to the person at the terminal."""
    print(f"media-service: {text}", flush=True)


def one_line(error: Exception) -> str:
    """Return what happened, and the last line of the log it comes with."""
    first, *log = str(error).splitlines()
    said = [line.strip() for line in log if line.strip()]
    return f"{first}; the last line: {said[-1]}" if said else first


if __name__ == "__main__":
    main()
