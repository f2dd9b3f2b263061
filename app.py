"""The WSGI entry: `gunicorn app:app`, `flask --app app …`."""

import os
import sys

import click

from config.settings import ConfigurationError, Settings
from mediaservice import create_app
from mediaservice.logs import configure_logging
from mediaservice.tracing import set_up_tracing

APP_LOAD_ERROR = 4  # to gunicorn: give up, do not start another worker that would end the same way

try:
    settings = Settings.from_environ(os.environ)
    configure_logging(settings)
    set_up_tracing(settings, "media-web")
    # By `flask` alone: gunicorn's workers save the memory.
    app = create_app(settings, with_commands=click.get_current_context(silent=True) is not None)
except ConfigurationError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(APP_LOAD_ERROR)
