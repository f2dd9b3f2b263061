"""The command line: `flask --app app media …`, for people who set the service up and run it."""

import click
from flask.cli import AppGroup

from mediaservice.broker import BrokerUnavailable, create_topology
from mediaservice.storage import StoreUnavailable
from mediaservice.web import components

media = AppGroup("media", help="Set up and look after the media service.")


@media.command()
def init() -> None:
    """Make buckets, public-read policy, CORS and the AMQP topology. Safe to repeat."""
    settings, storage = components().settings, components().storage
    try:
        storage.create_buckets(settings.web_origins)
    except StoreUnavailable as error:
        raise click.ClickException(f"The store at {settings.s3_endpoint}: {error}") from None
    click.echo(f"store: buckets {storage.raw_bucket} (private) and {storage.public_bucket}")
    if not settings.web_origins:
        click.echo("store: no WEB_ORIGINS, so no browser may upload from another origin")
    if settings.broker_url == "inline:":
        click.echo("broker: none (inline)")
        return
    try:
        create_topology(settings.broker_url)
    except BrokerUnavailable as error:
        raise click.ClickException(f"The broker: {error}") from None
    click.echo("broker: exchanges, queues and bindings")
