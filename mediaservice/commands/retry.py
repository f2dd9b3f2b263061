"""`media retry` and `media reprocess`: another try, of failed media and of lost objects."""

from uuid import UUID

import click
from flask.cli import with_appcontext

from mediaservice.broker import BrokerUnavailable, Publication
from mediaservice.commands.terminal import for_each, json_option, print_json, progress
from mediaservice.web import components

_RETRY_BATCH = 500


@click.command(short_help="Process failed media again.")
@click.argument("media_ids", metavar="[ID]...", type=click.UUID, nargs=-1)
@click.option("--failed", is_flag=True, help="All media whose processing failed.")
@click.option("--error-code", help="With --failed: only those that failed with this code.")
@json_option
@with_appcontext
def retry(
    *, media_ids: tuple[UUID, ...], failed: bool, error_code: str | None, as_json: bool
) -> None:
    """Retry media whose processing failed.

    Give their IDs, or --failed for all of them; `media stats` shows the codes. Each gets a new set
    of attempts. A failed upload has no original to process: it must be uploaded again.
    """
    if bool(media_ids) == failed or (error_code and not failed):
        raise click.UsageError("Give either IDs, or --failed with or without --error-code.")
    if failed:
        count = _retry_failed(error_code)
        if as_json:
            print_json({"retried": count})
        else:
            click.echo(f"{count} media to be processed again")
    else:
        processing = components().lifecycle.processing
        for_each(media_ids, processing.retry, "to be processed again", as_json=as_json)


def _retry_failed(error_code: str | None) -> int:
    lifecycle = components().lifecycle
    failed_before = lifecycle.rows.now()
    failures = lifecycle.statistics.failures()
    expected = failures.get(error_code, 0) if error_code else sum(failures.values())
    count = 0
    with progress(expected, "retrying") as bar:
        while retried := lifecycle.processing.retry_failed(
            _RETRY_BATCH, failed_before=failed_before, error_code=error_code
        ):
            count += retried
            bar.update(retried)
    return count


@click.command(short_help="Write lost public objects again.")
@click.argument("media_ids", metavar="ID...", type=click.UUID, nargs=-1, required=True)
@json_option
@with_appcontext
def reprocess(*, media_ids: tuple[UUID, ...], as_json: bool) -> None:
    """Have the public objects of ready media written again, from their originals.

    For objects that `media audit` misses. The media stay ready and unchanged meanwhile; it helps
    with workers that write the same keys again, as the reference worker does.
    """
    processing, broker = components().lifecycle.processing, components().create_broker()

    def publish(media_id: UUID) -> None:
        if broker.publish([Publication(processing.job_of_ready(media_id))]):
            raise BrokerUnavailable(f"it has not taken the job of {media_id}")

    try:
        for_each(media_ids, publish, "given to a worker; audit when it is done", as_json=as_json)
    finally:
        broker.close()
