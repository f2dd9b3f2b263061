"""The WSGI entry: `gunicorn app:app`, `flask --app app …`."""

import os
import sys

from config.settings import ConfigurationError, Settings
from mediaservice import create_app

try:
    app = create_app(Settings.from_environ(os.environ))
except ConfigurationError as error:
    sys.exit(str(error))
