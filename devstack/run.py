"""`make run`: the whole service for one person, on loopback, with nothing but Python installed.

SQLite, SeaweedFS, web and listener; images are processed inside the listener. Data stays in `var/`
of the project. Ctrl-C stops what was started, in order.
"""

import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from devstack.process import Process, ServiceError, find_free_ports, is_listening
from devstack.seaweedfs import PORT_OFFSETS, SeaweedFS

PROJECT: Final = Path(__file__).resolve().parent.parent
DATA: Final = PROJECT / "var"
WATCH_SECONDS: Final = 0.5


def main() -> None:
    """Start the parts, wait for Ctrl-C or for a part to fail, stop them; exit 1 on a failure."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    try:
        with ExitStack() as parts:
            processes = list(start(parts, stopping))
            watch(processes, stopping)
            say("stopping")
    except ServiceError as error:
        sys.exit(f"media-service: {error}")
    say("stopped")


def start(parts: ExitStack, stopping: threading.Event) -> Iterator[Process]:
    """Start store, web and listener, announcing each; they stop with `parts`."""
    port = read_port()
    if is_listening(port):
        raise ServiceError(
            f"port {port} is taken: stop what uses it, or choose another: PORT={port + 1} make run"
        )
    DATA.mkdir(mode=0o700, exist_ok=True)
    say("starting the store …")
    store = parts.enter_context(SeaweedFS(DATA / "store", remembered_store_port()))
    environ = environment(store, port)
    say("preparing database and buckets …")
    flask(environ, "db", "upgrade")
    flask(environ, "media", "init")
    web = Process(
        "web",
        [sys.executable, "-m", "gunicorn", "--config", "config/gunicorn.py", "app:app"],
        log_path=DATA / "web.log",
        environ=environ,
        cwd=PROJECT,
        is_ready=lambda: answers(f"http://127.0.0.1:{port}/readyz"),
    )
    listener = Process(
        "listener",
        [sys.executable, "worker_listener.py"],
        log_path=DATA / "listener.log",
        environ=environ,
        cwd=PROJECT,
        is_ready=lambda: True,
    )
    for process in (web, listener):
        if stopping.is_set():
            break
        say(f"starting {process.name} …")
        parts.enter_context(process)
    if not stopping.is_set():
        announce(port)
    yield from (store, web, listener)


def watch(processes: list[Process], stopping: threading.Event) -> None:
    """Return when asked to stop. Raises ServiceError when a part has ended by itself."""
    while not stopping.wait(WATCH_SECONDS):
        for process in processes:
            if not process.is_running:
                raise ServiceError(
                    f"{process.name} has ended; its log is {process.log_path}\n"
                    f"{process.last_words()}"
                )


def environment(store: SeaweedFS, port: int) -> dict[str, str]:
    """Return the environment of web and listener; limits and the like may come from outside."""
    return {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "APP_ENV": "development",
        "AUTH_MODE": "development",
        "DATABASE_URL": f"sqlite:///{DATA / 'media.sqlite'}",
        "BROKER_URL": "inline:",
        "S3_ENDPOINT": store.endpoint,
        "S3_ACCESS_KEY_ID": store.access_key,
        "S3_SECRET_ACCESS_KEY": store.secret_key,
        "S3_RAW_BUCKET": store.raw_bucket,
        "S3_PUBLIC_BUCKET": store.public_bucket,
        "CDN_BASE_URL": f"{store.endpoint}/{store.public_bucket}",
        "WEB_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
        "PORT": str(port),
    }


def read_port() -> int:
    """Return PORT from the environment, 8000 unless given."""
    given = os.environ.get("PORT", "8000")
    if not given.isdigit() or not 0 < int(given) < 65_536:
        raise ServiceError(f"PORT={given} is not a port number")
    return int(given)


def remembered_store_port() -> int:
    """Return the store's port, the same at every start, so that URLs stay valid."""
    memory = DATA / "store-port"
    if not memory.exists():
        memory.write_text(str(find_free_ports(PORT_OFFSETS)))
    port = int(memory.read_text())
    if is_listening(port):
        raise ServiceError(
            f"port {port} of the store is taken: is the service running already? "
            f"If not, remove {memory} for another port"
        )
    return port


def flask(environ: dict[str, str], *arguments: str) -> None:
    """Run a `flask` command. Raises ServiceError with what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "flask", "--app", "app", *arguments],
        cwd=PROJECT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ServiceError(f"`flask {' '.join(arguments)}` failed\n{done.stdout}{done.stderr}")


def answers(url: str) -> bool:
    """Say whether a URL answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - our own address
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


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


if __name__ == "__main__":
    main()
