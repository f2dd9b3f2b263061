"""The WSGI entry: `gunicorn app:app`, `flask --app app …`."""

import os
import sys

from config.settings import ConfigurationError, Settings
from mediaservice import create_app
from mediaservice.logs import configure_logging
from mediaservice.tracing import set_up_tracing

try:
    settings = Settings.from_environ(os.environ)
except ConfigurationError as error:
    sys.exit(str(error))
configure_logging(settings)
set_up_tracing(settings, "media-web")
app = create_app(settings)
