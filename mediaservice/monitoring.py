"""The port on which listener and worker, which serve nothing else, can be observed.

`/metrics` for Prometheus and `/healthz` for whatever restarts a process that hangs. It runs in a
thread of its own and only reads; METRICS_PORT turns it on.
"""

import socket
import threading
import time
from collections.abc import Callable, Iterable
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import make_wsgi_app

from config.settings import BaseSettings, ConfigurationError
from mediaservice import metrics

# Longer than anything a loop may lawfully wait for: the store's time-outs, with their retry.
MAX_LOOP_SECONDS = 120.0

log = structlog.get_logger(__name__)


class Heartbeat:
    """When a process last went round its loop; `process` names it in the metrics."""

    def __init__(self, process: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._gauge = metrics.LAST_LOOP.labels(process)
        self._clock = clock
        self.beat()

    def beat(self) -> None:
        """Say that the loop is alive."""
        self._beat_at = self._clock()
        self._gauge.set_to_current_time()

    @property
    def is_fresh(self) -> bool:
        """Whether the last beat is recent enough."""
        return self._clock() - self._beat_at <= MAX_LOOP_SECONDS


def start_monitoring(settings: BaseSettings, heartbeat: Heartbeat) -> WSGIServer | None:
    """Serve `/metrics` and `/healthz` from a thread, if METRICS_PORT is set.

    Raises ConfigurationError when the address cannot be had.
    """
    if not settings.metrics_port:
        return None
    host, port = settings.metrics_host, settings.metrics_port
    server_class = _IPv6Server if ":" in host else _ThreadingServer
    try:
        server = make_server(
            host, port, create_monitoring_app(heartbeat), server_class, _SilentHandler
        )
    except OSError as error:
        fault = f"METRICS_HOST, METRICS_PORT: cannot listen on {host}:{port}: {error.strerror}."
        raise ConfigurationError([fault]) from None
    threading.Thread(target=server.serve_forever, name="monitoring", daemon=True).start()
    log.info("monitoring_listening", host=host, port=port)
    return server


def create_monitoring_app(heartbeat: Heartbeat) -> Callable[..., Iterable[bytes]]:
    """Return the WSGI application of the monitoring port."""
    metrics_app: Callable[..., Iterable[bytes]] = make_wsgi_app()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            return metrics_app(environ, start_response)
        status, body = HTTPStatus.NOT_FOUND, b"not found\n"
        if environ["PATH_INFO"] == "/healthz":
            status, body = HTTPStatus.OK, b"ok\n"
            if not heartbeat.is_fresh:
                status, body = HTTPStatus.SERVICE_UNAVAILABLE, b"the loop has stalled\n"
        start_response(f"{status.value} {status.phrase}", [("Content-Type", "text/plain")])
        return [body]

    return app


class _ThreadingServer(ThreadingMixIn, WSGIServer):
    # A slow reader keeps nobody else waiting, and no process from ending.
    daemon_threads = True


class _IPv6Server(_ThreadingServer):
    address_family = socket.AF_INET6


class _SilentHandler(WSGIRequestHandler):
    timeout = 10

    def log_message(self, *_: Any) -> None:
        pass
