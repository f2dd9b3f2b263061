"""The listener's entry: `python worker_listener.py`."""

import os
import sys

from config.settings import ConfigurationError, Settings
from mediaservice import create_listener
from mediaservice.listener import stop_on_signals
from mediaservice.logs import configure_logging


def main() -> None:
    """Run the listener until SIGTERM or SIGINT."""
    try:
        settings = Settings.from_environ(os.environ)
    except ConfigurationError as error:
        sys.exit(str(error))
    configure_logging(settings)
    listener = create_listener(settings)
    stop_on_signals(listener)
    listener.run()


if __name__ == "__main__":
    main()
