"""Configuration: the only package that reads environment variables."""
