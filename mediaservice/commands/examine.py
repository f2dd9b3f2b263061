"""Looking for faults: in what is stored (`audit`), in what the servers promise (`doctor`)."""

from collections import Counter
from pathlib import Path
from typing import Any, Final

import click
from flask import current_app
from flask.cli import with_appcontext

from mediaservice.audit import REPAIRED_BY, Audit, Finding, Kind, Totals
from mediaservice.commands.terminal import json_option, print_beside_bar, print_json, progress
from mediaservice.doctor import Check, Verdict, examine_service
from mediaservice.web import components

_COLOURS: Final = {
    Verdict.OK: "green",
    Verdict.WARNING: "yellow",
    Verdict.FAILED: "red",
    Verdict.SKIPPED: "blue",
}


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
    help="A kind of finding not to look for, as it is printed; may be repeated.",
)
@json_option
@with_appcontext
def audit(*, repair: bool, min_age: int | None, ignored: tuple[str, ...], as_json: bool) -> None:
    """Compare both buckets with the table, and report what does not belong or is missing.

    Safe at any time: uploads and jobs under way are left alone. Exit code 1 if something was found
    and not repaired. Deletions that --repair decides on are done by the listener, or, for single
    stray objects of a ready media, at once.
    """
    parts = components()
    settings = parts.settings
    if min_age is None:
        min_age = (
            settings.upload_url_ttl_seconds
            + settings.upload_grace_seconds
            + settings.processing_timeout_seconds
        )
    with progress(parts.lifecycle.statistics.count(), "auditing") as bar:
        made = Audit(
            parts.lifecycle,
            parts.storage,
            settings,
            min_age_seconds=min_age,
            repair=repair,
            ignored=[Kind(value) for value in ignored],
            on_media=bar.update,
        )
        for finding in made.run():
            if as_json:
                print_json(_finding(finding))
            else:
                print_beside_bar(_finding_line(finding))
    if as_json:
        print_json({"totals": _totals(made.totals)})
    else:
        _show_totals(made.totals, repair=repair)
    if made.totals.left:
        raise click.exceptions.Exit(1)


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "bucket": finding.bucket,
        "key": finding.key,
        "media_id": finding.media_id,
        "is_repaired": finding.is_repaired,
        "remedy": finding.remedy,
    }


def _finding_line(finding: Finding) -> str:
    colour = "green" if finding.is_repaired else "red"
    if finding.is_repaired:
        note = f"repaired: {finding.remedy}"
    elif finding.kind in REPAIRED_BY:
        note = f"with --repair {finding.remedy}"
    else:
        note = finding.remedy
    return f"{click.style(finding.kind, fg=colour)} {finding.bucket}/{finding.key} ({note})"


def _totals(totals: Totals) -> dict[str, Any]:
    return {
        "media": totals.media,
        "raw_objects": totals.raw_objects,
        "public_objects": totals.public_objects,
        "found": {kind.value: totals.found[kind] for kind in Kind},
        "repaired": {kind.value: totals.repaired[kind] for kind in Kind},
        "left": totals.left,
    }


def _show_totals(totals: Totals, *, repair: bool) -> None:
    click.echo(
        f"{totals.media} media, {totals.raw_objects} originals, "
        f"{totals.public_objects} public objects"
    )
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


@click.command(short_help="Try what the servers really enforce.")
@json_option
@with_appcontext
def doctor(*, as_json: bool) -> None:
    """Try whether store, database and broker do what this service relies on.

    Makes real uploads, good and bad ones, against the configured store, and deletes them again;
    many S3-compatible stores accept what protects an upload and do not act on it. Exit code 1 if a
    guarantee does not hold.
    """
    parts = components()
    totals: Counter[Verdict] = Counter()
    migrations = Path(current_app.extensions["migrate"].directory)
    for check in examine_service(
        parts.settings, parts.storage, parts.lifecycle, migrations=migrations
    ):
        totals[check.verdict] += 1
        if as_json:
            print_json(_check(check))
        else:
            _show_check(check)
    if as_json:
        print_json({"totals": {verdict.value: totals[verdict] for verdict in Verdict}})
    else:
        counts = ", ".join(f"{totals[verdict]} {verdict}" for verdict in Verdict if totals[verdict])
        click.secho(counts, bold=True)
    if totals[Verdict.FAILED]:
        raise click.exceptions.Exit(1)


def _check(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "verdict": check.verdict,
        "guarantee": check.guarantee,
        "found": check.found,
        "remedy": check.remedy,
    }


def _show_check(check: Check) -> None:
    verdict = click.style(f"{check.verdict:<8}", fg=_COLOURS[check.verdict])
    click.echo(f"{verdict} {check.guarantee}: {check.found}")
    if check.remedy:
        click.echo(f"         What to do: {check.remedy}")
