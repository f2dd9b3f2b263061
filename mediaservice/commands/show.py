"""`media list` and `media show`: an owner's media, and all of one, for whoever has a ticket."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

import click
from flask.cli import with_appcontext

from mediaservice.commands.terminal import json_option, print_json, printable
from mediaservice.errors import MEDIA_NOT_FOUND, MediaError
from mediaservice.keys import public_prefix
from mediaservice.lifecycle import MediaRow
from mediaservice.lifecycle.rows import named_keys
from mediaservice.states import Status
from mediaservice.storage import Storage
from mediaservice.web import components


@click.command("list", short_help="List an owner's media.")
@click.option("--owner", "owner_id", type=click.UUID, required=True, help="Whose media.")
@click.option(
    "--status",
    type=click.Choice([status.value for status in Status]),
    help="Only media in this status.",
)
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=50,
    show_default=True,
    help="How many at most.",
)
@json_option
@with_appcontext
def list_media(*, owner_id: UUID, status: str | None, limit: int, as_json: bool) -> None:
    """List an owner's media, newest first, without deleted ones: when, which, where it stands.

    `media show` has the rest of each.
    """
    rows = components().lifecycle.rows.page(
        owner_id=owner_id, owner_type=None, status=status, before=None, limit=limit
    )
    for row in rows:
        if as_json:
            print_json(row._asdict())
        else:
            stands = row.status if row.error_code is None else f"{row.status}  {row.error_code}"
            click.echo(f"{row.created_at:%Y-%m-%d %H:%M:%S}  {row.id}  {stands}")
    if not rows and not as_json:
        click.echo("no media", err=True)


@click.command(short_help="Show a media's row and objects.")
@click.argument("media_id", metavar="ID", type=click.UUID)
@json_option
@with_appcontext
def show(*, media_id: UUID, as_json: bool) -> None:
    """Show one media: its row, a deleted one's too, and its objects, also those that are missing.

    `due_at` is when the listener has to act next; `request_id` finds its lines in every log.
    """
    parts = components()
    row = parts.lifecycle.rows.find(media_id)
    if row is None:
        raise MediaError(MEDIA_NOT_FOUND)
    if not as_json:
        for name, value in row._asdict().items():
            if value is not None and name != "variants":
                click.echo(f"{name:<24} {printable(str(value))}")
    objects = _objects_of(row, parts.storage)
    stored = {found["key"] for found in objects}
    missing = [
        {"bucket": parts.storage.public_bucket, "key": key}
        for key in (named_keys(row) if row.status == Status.READY and not row.deleted_at else ())
        if key not in stored
    ]
    if as_json:
        print_json({"media": row._asdict(), "objects": objects, "missing": missing})
        return
    click.secho("objects" if objects else "no objects", bold=True)
    for found in objects:
        address = printable(f"{found['bucket']}/{found['key']}")
        click.echo(f"  {address}  {found['size_bytes']} bytes, {found['last_modified']}")
    for absent in missing:
        click.secho(f"  {absent['bucket']}/{absent['key']}  missing", fg="red")


def _objects_of(row: MediaRow, storage: Storage) -> list[dict[str, Any]]:
    return [
        {"bucket": bucket, **asdict(found)}
        for bucket, prefix in (
            (storage.raw_bucket, row.raw_key),
            (storage.public_bucket, public_prefix(row.id)),
        )
        for found in storage.list_objects(bucket, prefix)
    ]
