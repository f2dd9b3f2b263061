"""`make openapi`: write docs/openapi.json, the OpenAPI document that the service serves.

No setting changes the document but AUTH_MODE, which here is that of production. It takes no server.
"""

import json
import secrets
from typing import Final

from config.settings import Settings
from mediaservice import PROJECT, create_app
from mediaservice.logs import configure_logging

DOCUMENT: Final = PROJECT / "docs" / "openapi.json"
ENVIRONMENT: Final = {
    "APP_ENV": "development",
    "AUTH_MODE": "jwt",
    "JWT_SECRET": secrets.token_hex(32),
    "LOG_LEVEL": "WARNING",
    "DATABASE_URL": "sqlite:///:memory:",
    "BROKER_URL": "inline:",
    "S3_ENDPOINT": "http://127.0.0.1",
    "S3_ACCESS_KEY_ID": "none",
    "S3_SECRET_ACCESS_KEY": "none",
    "S3_RAW_BUCKET": "raw",
    "S3_PUBLIC_BUCKET": "public",
    "CDN_BASE_URL": "http://127.0.0.1",
}


def render() -> str:
    """Return the document as it is kept in docs/: indented, keys in order."""
    app = create_app(Settings.from_environ(ENVIRONMENT))
    document = app.test_client().get("/api/openapi.json").json
    return json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    configure_logging(Settings.from_environ(ENVIRONMENT))
    DOCUMENT.write_text(render())
