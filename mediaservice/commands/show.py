"""`media show`: all there is to know of one media, for whoever has a ticket with its id."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

import click
from flask.cli import with_appcontext

from mediaservice.commands.terminal import json_option, print_json
from mediaservice.errors import MEDIA_NOT_FOUND, MediaError
from mediaservice.messages import public_prefix
from mediaservice.web import components


@click.command(short_help="Show a media's row and objects.")
@click.argument("media_id", metavar="ID", type=click.UUID)
@json_option
@with_appcontext
def show(*, media_id: UUID, as_json: bool) -> None:
    """Show one media: its row, a deleted one's too, and the objects that are there for it.

    `due_at` is when the listener has to act next; `request_id` finds its lines in every log.
    """
    parts = components()
    row = parts.lifecycle.rows.find(media_id)
    if row is None:
        raise MediaError(MEDIA_NOT_FOUND)
    storage = parts.storage
    objects: list[dict[str, Any]] = [
        {"bucket": bucket, **asdict(found)}
        for bucket, prefix in (
            (storage.raw_bucket, row.raw_key),
            (storage.public_bucket, public_prefix(media_id)),
        )
        for found in storage.list_objects(bucket, prefix)
    ]
    if as_json:
        print_json({"media": row._asdict(), "objects": objects})
        return
    for name, value in row._asdict().items():
        if value is not None and name != "variants":
            click.echo(f"{name:<24} {value}")
    click.secho("objects" if objects else "no objects", bold=True)
    for found in objects:
        address = f"{found['bucket']}/{found['key']}"
        click.echo(f"  {address}  {found['size_bytes']} bytes, {found['last_modified']}")
