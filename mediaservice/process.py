"""How listener and worker begin and end; what they do between is their entries' business.

Web's beginning is gunicorn's, and its `/metrics` and `/healthz` are pages like others.
"""

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from queue import SimpleQueue
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


def stop_on_signals(
    stop: Callable[[], object], numbers: Iterable[int] = (signal.SIGTERM, signal.SIGINT)
) -> None:
    """Call `stop` on each of these signals, in a thread of its own.

    A handler interrupts the main thread, and would wait for ever for a lock that this has just
    taken, such as the one within an Event.
    """
    signals: SimpleQueue[int] = SimpleQueue()  # its `put` alone may interrupt itself

    def listen() -> None:
        while signals.get():
            stop()

    threading.Thread(target=listen, name="signals", daemon=True).start()
    for number in numbers:
        signal.signal(number, lambda number, _: signals.put(number))
