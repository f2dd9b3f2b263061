"""`media delete`: takedowns, and the erasure of a person, which no owner asks for over HTTP."""

from uuid import UUID

import click
from flask.cli import with_appcontext

from mediaservice.commands.terminal import for_each, json_option, print_json, progress
from mediaservice.web import components

_ERASE_BATCH = 500


@click.command(short_help="Delete media, whoever owns them.")
@click.argument("media_ids", metavar="[ID]...", type=click.UUID, nargs=-1)
@click.option("--owner", "owner_id", type=click.UUID, help="All media of this owner.")
@click.option("--yes", is_flag=True, help="Do not ask first.")
@json_option
@with_appcontext
def delete(*, media_ids: tuple[UUID, ...], owner_id: UUID | None, yes: bool, as_json: bool) -> None:
    """Delete media for good: some by their IDs, or all that an owner has.

    They are gone from the API at once, and a listener purges their objects soon after. A CDN may
    still show what it has cached: purge it there, too. An owner who may still upload can have new
    media afterwards.
    """
    if bool(media_ids) == (owner_id is not None):
        raise click.UsageError("Give either IDs or --owner.")
    lifecycle = components().lifecycle
    expected = len(media_ids) if owner_id is None else lifecycle.statistics.count_owned(owner_id)
    if not yes:
        whose = "" if owner_id is None else f" of {owner_id}"
        click.confirm(f"Delete {expected} media{whose} for good?", abort=True, err=True)
    if owner_id is None:
        for_each(media_ids, lifecycle.deletion.take_down, "deleted", as_json=as_json)
        return
    count = 0
    with progress(expected, "deleting") as bar:
        while deleted := lifecycle.deletion.erase(owner_id, _ERASE_BATCH):
            count += deleted
            bar.update(deleted)
    if as_json:
        print_json({"deleted": count})
    else:
        click.echo(f"{count} media deleted")
