"""Dead letters: messages that were set aside, to be looked at, published anew or deleted."""

from typing import Any

import click
from flask.cli import with_appcontext

from mediaservice.broker import DEAD_LETTER_QUEUE
from mediaservice.broker.admin import BrokerAdmin, DeadLetter
from mediaservice.commands.terminal import json_option, print_json, printable
from mediaservice.web import components

_SHOWN_BODY = 100

_ids = click.argument("ids", metavar="[ID]...", nargs=-1)
_all = click.option("--all", "take_all", is_flag=True, help="All that are there now.")


@click.group("dead-letters", short_help="List, requeue or drop dead letters.")
def dead_letters() -> None:
    """Look at messages that were set aside; publish them anew, or delete them."""


@dead_letters.command("list")
@click.option(
    "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Show so many."
)
@json_option
@with_appcontext
def list_letters(*, limit: int, as_json: bool) -> None:
    """Show the dead letters, oldest first, with why they were set aside.

    They stay where they are. The ID is the message's own, or made from its body.
    """
    with _admin() as admin:
        state = admin.queues()[DEAD_LETTER_QUEUE]
        letters = admin.dead_letters(limit)
    for letter in letters:
        if as_json:
            print_json(
                {
                    "id": letter.id,
                    "routing_key": letter.routing_key,
                    "reason": letter.reason,
                    "correlation_id": letter.correlation_id,
                    "body": letter.body.decode("utf-8", "replace"),
                }
            )
        else:
            click.echo(
                f"{click.style(printable(letter.id), bold=True)} {printable(letter.routing_key)}: "
                f"{click.style(printable(letter.reason), fg='red')}\n  {_shown(letter.body)}"
            )
    if not as_json and not letters:
        click.secho("no dead letters", fg="green")
    if state and state.messages > len(letters):
        click.echo(f"{len(letters)} of {state.messages} shown: see --limit", err=True)


@dead_letters.command()
@_ids
@_all
@json_option
@with_appcontext
def requeue(*, ids: tuple[str, ...], take_all: bool, as_json: bool) -> None:
    """Publish dead letters anew, once what killed them is mended.

    Each is confirmed by RabbitMQ before it is taken off the queue. Safe to repeat: the service
    takes every result any number of times. What fails again is set aside again: list them a moment
    later. Exit code 1 if one had to stay, or was not there.
    """
    chosen = _chosen(ids, take_all=take_all)
    requeued = left = 0
    seen: set[str] = set()
    with _admin() as admin:
        for letter, refusal in admin.requeue(chosen):
            seen.add(letter.id)
            requeued += refusal is None
            left += refusal is not None
            if as_json:
                print_json({"id": letter.id, "requeued": refusal is None, "reason": refusal})
            elif refusal:
                click.echo(f"{printable(letter.id)} {click.style('stays', fg='red')}: {refusal}")
            else:
                click.echo(f"{printable(letter.id)} requeued as {printable(letter.routing_key)}")
    _end({"requeued": requeued, "left": left}, chosen, seen, as_json=as_json)
    if left:
        raise click.exceptions.Exit(1)


@dead_letters.command()
@_ids
@_all
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@with_appcontext
def drop(*, ids: tuple[str, ...], take_all: bool, yes: bool, as_json: bool) -> None:
    """Delete dead letters for good.

    A lost result is no loss of a media: its attempt times out, and it is processed again or,
    without attempts left, waits as failed to be retried. An ID that begins with `sha256:` stands
    for every letter with the same body. Exit code 1 if one was not there.
    """
    chosen = _chosen(ids, take_all=take_all)
    what = "all dead letters" if chosen is None else f"dead letters {', '.join(sorted(chosen))}"
    if not yes:
        click.confirm(f"Delete {what} for good?", abort=True, err=True)
    dropped: list[DeadLetter] = []
    with _admin() as admin:
        for letter in admin.drop(chosen):
            dropped.append(letter)
            if as_json:
                print_json({"id": letter.id, "dropped": True})
            else:
                click.echo(f"{printable(letter.id)} dropped")
    _end({"dropped": len(dropped)}, chosen, {letter.id for letter in dropped}, as_json=as_json)


def _admin() -> BrokerAdmin:
    settings = components().settings
    if not settings.has_broker:
        raise click.ClickException("There is no broker (BROKER_URL=inline:), so no dead letters.")
    return BrokerAdmin(settings.broker_url)


def _chosen(ids: tuple[str, ...], *, take_all: bool) -> set[str] | None:
    """Return the ids that were given, or None for all."""
    if bool(ids) == take_all:
        raise click.UsageError("Give either IDs, as `dead-letters list` shows them, or --all.")
    return set(ids) or None


def _end(totals: dict[str, Any], chosen: set[str] | None, seen: set[str], *, as_json: bool) -> None:
    """Print totals; exit code 1 if one that was chosen is not there."""
    if as_json:
        print_json({"totals": totals})
    else:
        click.echo(", ".join(f"{count} {name}" for name, count in totals.items()))
    unknown = sorted((chosen or set()) - seen)
    for letter_id in unknown:
        click.echo(f"{printable(letter_id)}: no such dead letter", err=True)
    if unknown:
        raise click.exceptions.Exit(1)


def _shown(body: bytes) -> str:
    """Return the start of a body."""
    text = printable(body[:_SHOWN_BODY].decode("utf-8", "replace"))
    return f"{text}…" if len(body) > _SHOWN_BODY else text
