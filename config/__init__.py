"""Configuration: every setting of the service, and gunicorn's."""
