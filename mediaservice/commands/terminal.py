"""What every command has in common: `--json`, progress bars, and errors of one line.

Results go to stdout, everything else to stderr; colours and bars only to a terminal.
"""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn
from uuid import UUID

import click
from flask.cli import AppGroup
from sqlalchemy.exc import DBAPIError, ProgrammingError

from config.settings import ConfigurationError
from mediaservice.audit import ListingOutOfOrder
from mediaservice.broker import BrokerUnavailable
from mediaservice.errors import Failure, MediaError
from mediaservice.storage import StoreUnavailable

DOCTOR = "flask --app app media doctor"

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object a line, for programs."
)


class CommandFailed(click.ClickException):
    """The command could not do its work; says why and what to do."""

    exit_code = 2


class Commands(AppGroup):
    """A group of commands that end with one line saying what to do, never with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, its errors in words."""
        try:
            return super().invoke(ctx)
        except StoreUnavailable as error:
            place = "the keys and what they allow" if error.is_refusal else "S3_ENDPOINT"
            _stop("The store call failed", error, f"look at {place}, or run `{DOCTOR}`")
        except BrokerUnavailable as error:
            _stop("RabbitMQ does not answer", error, f"look at BROKER_URL, or run `{DOCTOR}`")
        except DBAPIError as error:
            _stop("The database cannot be used", error.orig, _database_advice(error))
        except ConfigurationError as error:
            raise CommandFailed(one_line(error)) from None
        except ListingOutOfOrder as error:
            _stop("The buckets cannot be audited", error, "this store is not like S3 there")
        except MediaError as error:
            raise click.ClickException(error.failure.message) from None


def print_json(value: dict[str, Any]) -> None:
    """Print one object on one line."""
    click.echo(json.dumps(value, default=str))


def for_each(
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


def progress(length: int, label: str) -> Any:
    """Return a progress bar to be used as a context manager; it shows on a terminal only."""
    return click.progressbar(
        length=length, label=label, file=sys.stderr, hidden=not sys.stderr.isatty()
    )


def print_beside_bar(line: str) -> None:
    """Print a line of the result while a progress bar may be standing on the screen."""
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
    click.echo(line)


def one_line(value: object) -> str:
    """Return a text without its line breaks."""
    return " ".join(str(value).split())


def printable(text: str) -> str:
    """Escape the control characters of a text that others wrote: they could steer the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _failure_of(act: Callable[[UUID], object], media_id: UUID) -> Failure | None:
    try:
        act(media_id)
    except MediaError as error:
        return error.failure
    return None


def _database_advice(error: DBAPIError) -> str:
    found = str(error.orig)
    is_missing = isinstance(error, ProgrammingError) and "does not exist" in found
    if is_missing or "no such table" in found:  # the latter is SQLite's
        return "run `flask --app app db upgrade`"
    return f"look at DATABASE_URL and at its server, or run `{DOCTOR}`"


def _stop(what: str, reason: object, advice: str) -> NoReturn:
    raise CommandFailed(f"{what}: {one_line(reason).rstrip('.')}. What to do: {advice}.") from None
