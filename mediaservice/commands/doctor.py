"""`media doctor`: what store, database and broker really enforce."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click
from flask import current_app
from flask.cli import with_appcontext

from mediaservice.commands.terminal import json_option, print_json
from mediaservice.doctor import Check, Verdict, examine_service
from mediaservice.web import components

_COLOURS: Final = {
    Verdict.OK: "green",
    Verdict.WARNING: "yellow",
    Verdict.FAILED: "red",
    Verdict.SKIPPED: "blue",
}


@click.command(short_help="Test what the servers really enforce.")
@json_option
@with_appcontext
def doctor(*, as_json: bool) -> None:
    """Test whether store, database and broker do what this service relies on.

    Makes real uploads, good and bad ones, against the configured store, and deletes them again;
    many S3-compatible stores accept what protects an upload and do not act on it. Exit code 1 if a
    guarantee does not hold.
    """
    parts = components()
    totals: Counter[Verdict] = Counter()
    failed: list[str] = []
    migrations = Path(current_app.extensions["migrate"].directory)
    for check in examine_service(
        parts.settings, parts.storage, parts.lifecycle, migrations=migrations
    ):
        totals[check.verdict] += 1
        if check.verdict is Verdict.FAILED:
            failed.append(check.guarantee)
        if as_json:
            print_json(asdict(check))
        else:
            _show_check(check)
    if as_json:
        print_json({"totals": {verdict.value: totals[verdict] for verdict in Verdict}})
    else:
        counts = ", ".join(f"{totals[verdict]} {verdict}" for verdict in Verdict if totals[verdict])
        click.secho(counts, bold=True)
        for guarantee in failed:
            click.secho(f"failed: {guarantee}", fg="red")
    if failed:
        raise click.exceptions.Exit(1)


def _show_check(check: Check) -> None:
    verdict = click.style(f"{check.verdict:<8}", fg=_COLOURS[check.verdict])
    click.echo(f"{verdict} {check.guarantee}: {check.found}")
    if check.remedy:
        click.echo(f"         What to do: {check.remedy}")
