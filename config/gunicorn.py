"""gunicorn's settings: `gunicorn --config config/gunicorn.py app:app`.

Sync workers: a request is a statement or two and at most two calls to the store, so processes are
the unit of concurrency, and WEB_CONCURRENCY how many there are.
"""

import fcntl
import itertools
import os
import shutil
import socket
import struct
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

development = os.environ.get("APP_ENV") == "development"

# Development trusts whoever calls, so it listens to this machine alone.
host = "127.0.0.1" if development else os.environ.get("HOST") or "0.0.0.0"  # noqa: S104 - a container must
port = os.environ.get("PORT") or "8000"
bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
if workers == 0:  # gunicorn itself refuses all else that is no number of processes
    sys.exit("WEB_CONCURRENCY should be 1 or more: without processes nobody is served.")
worker_class = "sync"

timeout = 60
graceful_timeout = 10
IDLE_CONNECTION_SECONDS = 120
STALLED_REQUEST_SECONDS = 10
# Leaks, ours or a library's, end with the worker; the jitter keeps workers from ending together.
max_requests = 50_000
max_requests_jitter = 5_000
# Nobody asks for it, and in a container it has no place to be.
control_socket_disable = True
# The heartbeat file must not wait for a disk.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108

limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 16_380

# The application writes one line for each request itself.
accesslog = None
errorlog = "-"
loglevel = "warning"

# Workers count in files, which /metrics adds up; the folder is made before they are forked, and
# outlives reloads and upgrades. One that is given must be empty at start.
_METRICS_PREFIX = "media-metrics-"


def _hold_metrics_folder() -> tuple[Path, IO[str]] | None:
    """Make the folder, if need be; return ours and its lock, shared by all that use it.

    Folders that nobody holds are of masters that were killed: they are removed.
    """
    parent = Path(worker_tmp_dir or tempfile.gettempdir())
    for lock in parent.glob(f"{_METRICS_PREFIX}*/lock"):
        with suppress(OSError), lock.open() as abandoned:
            fcntl.flock(abandoned, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
    given = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    folder = Path(given or tempfile.mkdtemp(prefix=f".{_METRICS_PREFIX}", dir=parent))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(f"PROMETHEUS_MULTIPROC_DIR should be a folder or a new one: {error}")
    if given and not folder.name.startswith(_METRICS_PREFIX):
        return None
    held = (folder / "lock").open("w")
    fcntl.flock(held, fcntl.LOCK_SH)
    if not given:
        # It gets the name that others look for only now that it is held.
        folder = folder.rename(folder.with_name(folder.name.removeprefix(".")))
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    return folder, held


# Kept open: the folder is held as long as this process, or one forked from it, lives.
metrics = _hold_metrics_folder()


def when_ready(server: Any) -> None:
    """Keep connections that say nothing from occupying sync workers until their timeout.

    Browsers open some in advance: the kernel keeps those until they carry a request. A client that
    stops halfway through one is given up; connections inherit that from the socket they come to.
    """
    for listener in server.LISTENERS:
        if hasattr(socket, "TCP_DEFER_ACCEPT"):
            listener.sock.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, IDLE_CONNECTION_SECONDS
            )
        patience = struct.pack("ll", STALLED_REQUEST_SECONDS, 0)
        listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)


def pre_fork(server: Any, worker: Any) -> None:
    """Give a worker the lowest free slot, so that its successor goes on counting in its files.

    Were they named after process ids, there would be more of them with each worker that ends, and
    each scrape would read them all.
    """
    taken = {other.metrics_slot for other in server.WORKERS.values()}
    worker.metrics_slot = next(slot for slot in itertools.count() if slot not in taken)


def post_fork(server: Any, worker: Any) -> None:
    """Count in the slot's files; the application, which makes the metrics, is imported later."""
    from prometheus_client import values

    # Two masters share the folder while one takes over from the other.
    name = f"{server.pid}-{worker.metrics_slot}"
    values.ValueClass = values.MultiProcessValue(lambda: name)


def on_exit(_server: Any) -> None:
    """Remove the metrics' folder, if it was made here and no successor (SIGUSR2) counts in it."""
    if metrics:
        folder, held = metrics
        with suppress(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
