"""Setting the service up, looking at how it does, giving failed media another try."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

import click
from flask.cli import with_appcontext

from mediaservice.broker import BrokerUnavailable, Publication
from mediaservice.broker.connection import create_topology
from mediaservice.broker.desk import BrokerDesk, QueueState
from mediaservice.commands.terminal import (
    CannotTell,
    json_option,
    one_line,
    print_json,
    progress,
)
from mediaservice.errors import Failure, MediaError
from mediaservice.web import components

_RETRY_BATCH = 500


@click.command(short_help="Make buckets, CORS and queues.")
@json_option
@with_appcontext
def init(*, as_json: bool) -> None:
    """Make buckets, public-read policy, CORS and the AMQP topology.

    Safe to repeat. The keys must be allowed to change buckets.
    """
    settings, storage = components().settings, components().storage
    storage.create_buckets(settings.web_origins)
    if settings.broker_url != "inline:":
        create_topology(settings.broker_url)
    if as_json:
        print_json(
            {
                "raw_bucket": storage.raw_bucket,
                "public_bucket": storage.public_bucket,
                "web_origins": settings.web_origins,
                "broker": "inline" if settings.broker_url == "inline:" else "declared",
            }
        )
        return
    click.echo(f"store: buckets {storage.raw_bucket} (private) and {storage.public_bucket}")
    if not settings.web_origins:
        click.echo("store: no WEB_ORIGINS, so no browser may upload from another origin")
    if settings.broker_url == "inline:":
        click.echo("broker: none (inline)")
    else:
        click.echo("broker: exchanges, queues and bindings")


@click.command(short_help="Process failed media again.")
@click.argument("media_ids", metavar="[ID]...", type=click.UUID, nargs=-1)
@click.option("--failed", is_flag=True, help="All media whose processing failed.")
@click.option("--error-code", help="With --failed: only those that failed with this code.")
@json_option
@with_appcontext
def retry(
    *, media_ids: tuple[UUID, ...], failed: bool, error_code: str | None, as_json: bool
) -> None:
    """Have media processed again whose processing failed.

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
    processing = components().lifecycle.processing
    _for_each(media_ids, processing.retry, "to be processed again", as_json=as_json)


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
        _for_each(media_ids, publish, "given to a worker; audit when it is done", as_json=as_json)
    finally:
        broker.close()


def _for_each(
    media_ids: Sequence[UUID], act: Callable[[UUID], object], done: str, *, as_json: bool
) -> None:
    """Act on each media and print what became of it; exit code 1 if one could not be acted on."""
    has_failed = False
    for media_id in media_ids:
        failure = _failure_of(act, media_id)
        has_failed |= failure is not None
        if as_json:
            print_json({"media_id": media_id, "error": failure and failure.code})
        elif failure is None:
            click.echo(f"{media_id} {done}")
        else:
            click.echo(f"{media_id} {click.style('left alone', fg='red')}: {failure.message}")
    if has_failed:
        raise click.exceptions.Exit(1)


def _failure_of(act: Callable[[UUID], object], media_id: UUID) -> Failure | None:
    try:
        act(media_id)
    except MediaError as error:
        return error.failure
    return None


@click.command(short_help="Show counts, due work and queues.")
@json_option
@with_appcontext
def stats(*, as_json: bool) -> None:
    """Show how the service does: media by status, work that is due, queues, dead letters.

    Cheap enough to be repeated; tables of more than a million media are sampled.
    """
    settings = components().settings
    numbers = _numbers()
    fault = None
    if settings.broker_url != "inline:":
        try:
            with BrokerDesk(settings.broker_url) as desk:
                numbers["queues"] = {
                    name: state and asdict(state) for name, state in desk.queues().items()
                }
        except BrokerUnavailable as error:
            fault = one_line(error)
    if as_json:
        print_json(numbers)
    else:
        _show(numbers, is_inline=settings.broker_url == "inline:")
    if fault is not None:
        raise CannotTell(f"RabbitMQ does not answer: {fault}. What to do: look at BROKER_URL.")


def _numbers() -> dict[str, Any]:
    lifecycle = components().lifecycle
    by_status = lifecycle.statistics.by_status()
    return {
        "media": by_status.counts,
        "media_is_exact": by_status.is_exact,
        "tombstones": lifecycle.statistics.tombstones(),
        "failures": lifecycle.statistics.failures(),
        "attempts": lifecycle.statistics.attempts(),
        "due": {kind: asdict(work) for kind, work in lifecycle.backlog.due().items()},
        "queues": None,
    }


def _show(numbers: dict[str, Any], *, is_inline: bool) -> None:
    _heading("media" if numbers["media_is_exact"] else "media (estimated)")
    for status, count in numbers["media"].items():
        _line(status, count)
        if status == "failed":
            for code, failed in numbers["failures"].items():
                _line(f"  {code}", failed)
        if status == "processing":
            for attempt, processing in numbers["attempts"].items():
                _line(f"  attempt {attempt}" if attempt else "  not begun", processing)
    _line("deleted, not yet purged", numbers["tombstones"])
    _heading("due now")
    for kind, work in numbers["due"].items():
        age = f"oldest for {work['oldest_age_seconds']:.0f} s" if work["count"] else ""
        _line(kind.replace("_", " "), work["count"], age)
    if is_inline:
        return
    _heading("queues")
    for name, state in (numbers["queues"] or {}).items():
        if state is None:
            _line(name, "missing", "flask --app app media init")
        else:
            _line(name, state["messages"], _consumers(name, QueueState(**state)))


def _consumers(queue: str, state: QueueState) -> str:
    """Return what to say of a queue's consumers, loudly where there should be some."""
    if queue.endswith(".dead"):
        hint = "flask --app app media dead-letters list"
        return click.style(hint, fg="red") if state.messages else ""
    if state.consumers:
        return f"consumers: {state.consumers}"
    return click.style("nobody consumes it", fg="red")


def _heading(text: str) -> None:
    click.secho(text, bold=True)


def _line(name: str, value: object, note: str = "") -> None:
    click.echo(f"  {name:<26} {value!s:>10}  {note}".rstrip())
