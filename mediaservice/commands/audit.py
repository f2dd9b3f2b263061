"""`media audit`: whether buckets and table account for each other, and what is left to a person."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

import click
from flask.cli import with_appcontext
from sqlalchemy.exc import DBAPIError

from mediaservice.audit import REPAIRED_BY, Audit, Finding, Kind, Totals
from mediaservice.commands.terminal import (
    CommandFailed,
    json_option,
    print_beside_bar,
    print_json,
    printable,
    progress,
)
from mediaservice.storage import StoreUnavailable
from mediaservice.web import components


@click.command(short_help="Compare buckets and table.")
@click.option("--repair", is_flag=True, help="Repair what is found; without, only report.")
@click.option(
    "--min-age",
    metavar="SECONDS",
    type=click.IntRange(min=0),
    help="Leave alone what is younger. Default: an upload's and an attempt's longest life.",
)
@click.option(
    "--ignore",
    "ignored",
    multiple=True,
    metavar="KIND",
    type=click.Choice([kind.value for kind in Kind]),
    help="A kind of finding to leave alone, as it is printed; may be repeated.",
)
@click.option(
    "--after",
    metavar="MEDIA_ID",
    type=click.UUID,
    help="Go on behind this media, where an earlier audit ended before its time.",
)
@click.option("--yes", is_flag=True, help="Do not ask before --repair.")
@json_option
@with_appcontext
def audit(
    *,
    repair: bool,
    min_age: int | None,
    ignored: tuple[str, ...],
    after: UUID | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Compare both buckets with the table, and report what does not belong or is missing.

    Safe at any time: uploads and jobs under way are left alone. Exit code 1 if something was found
    and not repaired. Deletions that --repair decides on are done by the listener, or, for single
    stray objects of a ready media, at once.
    """
    parts = components()
    settings = parts.settings
    expected = parts.lifecycle.statistics.count()
    if repair and not expected:
        raise CommandFailed(
            "There are no media in this database, so --repair would delete every object. "
            "What to do: look at DATABASE_URL"
        )
    if repair and not yes:
        buckets = f"{settings.s3_raw_bucket} and {settings.s3_public_bucket}"
        click.confirm(
            f"Purge {buckets} of all that none of this database's {expected} media needs?",
            abort=True,
            err=True,
        )
    if min_age is None:
        min_age = (
            settings.upload_url_ttl_seconds
            + settings.upload_grace_seconds
            + settings.processing_timeout_seconds
        )
    with progress(expected, "auditing") as bar:
        made = Audit(
            parts.lifecycle,
            parts.storage,
            settings,
            min_age_seconds=min_age,
            repair=repair,
            ignored=[Kind(value) for value in ignored],
            after=after,
            on_media=bar.update,
        )
        try:
            for finding in made.run():
                if as_json:
                    print_json({**asdict(finding), "remedy": finding.remedy})
                else:
                    print_beside_bar(_finding_line(finding))
        except (StoreUnavailable, DBAPIError):
            if made.totals.last:
                click.echo(f"\nThe rest is left to: --after {made.totals.last}", err=True)
            raise
    if as_json:
        print_json({"totals": _totals(made.totals)})
    else:
        _show_totals(made.totals, repair=repair)
    if made.totals.left:
        raise click.exceptions.Exit(1)


def _finding_line(finding: Finding) -> str:
    colour = "green" if finding.is_repaired else "red"
    if finding.is_repaired:
        note = f"repaired: {finding.remedy}"
    elif finding.kind in REPAIRED_BY:
        note = f"with --repair {finding.remedy}"
    else:
        note = finding.remedy
    return (
        f"{click.style(finding.kind, fg=colour)} {finding.bucket}/{printable(finding.key)} ({note})"
    )


def _totals(totals: Totals) -> dict[str, Any]:
    return {
        "media": totals.media,
        "raw_objects": totals.raw_objects,
        "public_objects": totals.public_objects,
        "in_motion": totals.in_motion,
        "found": {kind.value: totals.found[kind] for kind in Kind},
        "repaired": {kind.value: totals.repaired[kind] for kind in Kind},
        "left": totals.left,
    }


def _show_totals(totals: Totals, *, repair: bool) -> None:
    click.echo(
        f"{totals.media} media, {totals.raw_objects} originals, "
        f"{totals.public_objects} public objects"
    )
    if totals.in_motion:
        click.echo(f"{totals.in_motion} media in motion were left alone: see --min-age")
    for kind, count in sorted(totals.found.items()):
        click.echo(f"  {kind:<30} {count:>6} found, {totals.repaired[kind]} repaired")
    if not totals.found:
        click.secho("all in order", fg="green")
    elif not totals.left:
        click.secho("all repaired", fg="green")
    elif repair:
        click.secho(f"{totals.left} left for a person", fg="red")
    else:
        click.secho(f"{totals.left} found; nothing was changed", fg="red")
