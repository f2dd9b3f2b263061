"""`media stats`: media by status, work that is due, and queues."""

from dataclasses import asdict
from typing import Any

import click
from flask.cli import with_appcontext

from mediaservice.broker import DEAD_LETTER_QUEUE, BrokerUnavailable
from mediaservice.broker.admin import BrokerAdmin, QueueState
from mediaservice.commands.terminal import CommandFailed, json_option, one_line, print_json
from mediaservice.web import components


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
    if settings.has_broker:
        try:
            with BrokerAdmin(settings.broker_url) as admin:
                numbers["queues"] = {
                    name: state and asdict(state) for name, state in admin.queues().items()
                }
        except BrokerUnavailable as error:
            fault = one_line(error)
    if as_json:
        print_json(numbers)
    else:
        _show(numbers, has_broker=settings.has_broker)
    if fault is not None:
        raise CommandFailed(f"RabbitMQ does not answer: {fault}. What to do: look at BROKER_URL.")


def _numbers() -> dict[str, Any]:
    lifecycle = components().lifecycle
    by_status = lifecycle.statistics.by_status()
    return {
        "media": by_status.counts,
        "media_is_exact": by_status.is_exact,
        "tombstones": lifecycle.statistics.tombstones(),
        "failures": lifecycle.statistics.failures(),
        "attempts": lifecycle.statistics.attempts(),
        "due": {kind: asdict(work) for kind, work in lifecycle.statistics.due().items()},
        "queues": None,
    }


def _show(numbers: dict[str, Any], *, has_broker: bool) -> None:
    _heading("media" if numbers["media_is_exact"] else "media (estimated)")
    for status, count in numbers["media"].items():
        _line(status, count)
        if status == "failed":
            for code, failed in numbers["failures"].items():
                _line(f"  {code}", failed)
        if status == "processing":
            for attempt, processing in numbers["attempts"].items():
                _line(f"  attempt {attempt}" if attempt else "  not begun", processing)
    _line("tombstones of deleted media", numbers["tombstones"])
    _heading("due now")
    for kind, work in numbers["due"].items():
        age = f"oldest for {work['oldest_age_seconds']:.0f} s" if work["count"] else ""
        _line(kind.replace("_", " "), work["count"], age)
    if not has_broker:
        return
    _heading("queues")
    for name, state in (numbers["queues"] or {}).items():
        if state is None:
            _line(name, "missing", "flask --app app media init")
        else:
            _line(name, state["messages"], _consumers(name, QueueState(**state)))


def _consumers(queue: str, state: QueueState) -> str:
    """Return what to say of a queue's consumers, loudly where there should be some."""
    if queue == DEAD_LETTER_QUEUE:
        hint = "flask --app app media dead-letters list"
        return click.style(hint, fg="red") if state.messages else ""
    if state.consumers:
        return f"consumers: {state.consumers}"
    return click.style("nobody consumes it", fg="red")


def _heading(text: str) -> None:
    click.secho(text, bold=True)


def _line(name: str, value: object, note: str = "") -> None:
    click.echo(f"  {name:<26} {value!s:>10}  {note}".rstrip())
