"""The WSGI entry: `gunicorn app:app`, `flask --app app …`."""

import os
import sys

from config.settings import ConfigurationError, Settings
from mediaservice import create_app
from mediaservice.logs import configure_logging

try:
    settings = Settings.from_environ(os.environ)
except ConfigurationError as error:
    sys.exit(str(error))
configure_logging(settings)
app = create_app(settings)
