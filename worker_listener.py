"""The listener's entry: `python worker_listener.py`."""

import os
import sys

from config.settings import ConfigurationError, Settings
from mediaservice import create_listener
from mediaservice.listener import stop_on_signals
from mediaservice.logs import configure_logging
from mediaservice.monitoring import Heartbeat, start_monitoring
from mediaservice.tracing import set_up_tracing, stop_tracing


def main() -> None:
    """Run the listener until SIGTERM or SIGINT."""
    try:
        settings = Settings.from_environ(os.environ)
        configure_logging(settings)
        heartbeat = Heartbeat("listener")
        start_monitoring(settings, heartbeat)
        set_up_tracing(settings, "media-listener")
        listener = create_listener(settings, heartbeat)
    except ConfigurationError as error:
        sys.exit(str(error))
    stop_on_signals(listener)
    try:
        listener.run()
    finally:
        stop_tracing()


if __name__ == "__main__":
    main()
