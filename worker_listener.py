"""The listener's entry: `python worker_listener.py`."""

import os

from config.settings import Settings
from mediaservice import create_listener
from mediaservice.process import started, stop_on_signals


def main() -> None:
    """Run the listener until SIGTERM or SIGINT."""
    with started("listener", Settings, os.environ) as (settings, heartbeat):
        listener = create_listener(settings, heartbeat)
        stop_on_signals(listener.stop)
        listener.run()


if __name__ == "__main__":
    main()
