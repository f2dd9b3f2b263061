"""How listener and worker begin and end; what they do between is their entries' business.

Web's beginning is gunicorn's, and its `/metrics` and `/healthz` are pages like others.
"""

import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from config.settings import BaseSettings, ConfigurationError
from mediaservice.logs import configure_logging
from mediaservice.monitoring import Heartbeat, start_monitoring
from mediaservice.tracing import set_up_tracing, stop_tracing

AnySettings = TypeVar("AnySettings", bound=BaseSettings)


@contextmanager
def started(
    name: str, settings_class: type[AnySettings], environ: Mapping[str, str]
) -> Iterator[tuple[AnySettings, Heartbeat]]:
    """Configure this process, give its settings and heartbeat, export its last spans at the end.

    Exits with the faults of a ConfigurationError, also of one raised in the block.
    """
    try:
        settings = settings_class.from_environ(environ)
        configure_logging(settings)
        heartbeat = Heartbeat(name)
        start_monitoring(settings, heartbeat)
        set_up_tracing(settings, f"media-{name}")
        try:
            yield settings, heartbeat
        finally:
            stop_tracing()
    except ConfigurationError as error:
        sys.exit(str(error))


def stop_on_signals(stop: Callable[[], object]) -> None:
    """Call `stop` on SIGTERM and on SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())
