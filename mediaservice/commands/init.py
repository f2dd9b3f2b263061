"""`media init`: the buckets, their rules and the queues that the service needs."""

import click
from flask.cli import with_appcontext

from mediaservice.broker.connection import create_topology
from mediaservice.commands.terminal import json_option, print_json
from mediaservice.web import components


@click.command(short_help="Make buckets, CORS and queues.")
@json_option
@with_appcontext
def init(*, as_json: bool) -> None:
    """Make buckets, public-read policy, CORS and the AMQP topology.

    Safe to repeat. The keys must be allowed to change buckets.
    """
    settings, storage = components().settings, components().storage
    if settings.has_broker:
        create_topology(settings.broker_url)
    storage.create_buckets(settings.web_origins)
    if as_json:
        print_json(
            {
                "raw_bucket": storage.raw_bucket,
                "public_bucket": storage.public_bucket,
                "web_origins": settings.web_origins,
                "broker": "declared" if settings.has_broker else "inline",
            }
        )
        return
    click.echo(f"store: buckets {storage.raw_bucket} (private) and {storage.public_bucket}")
    if not settings.web_origins:
        click.echo("store: no WEB_ORIGINS, so no browser may upload from another origin")
    if settings.has_broker:
        click.echo("broker: exchanges, queues and bindings")
    else:
        click.echo("broker: none (inline)")
