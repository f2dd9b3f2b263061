"""Uploading from the command line, as a client of a running service."""

from pathlib import Path
from typing import IO, Any

import click

from mediaservice.client import Caller, ServiceClient, UploadFailed
from mediaservice.commands.terminal import json_option, one_line, print_json, progress


@click.command(short_help="Upload images as a client.")
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--url", required=True, help="The service, e.g. http://127.0.0.1:8000 or https://media.example"
)
@click.option("--user-id", type=click.UUID, help="The uploading user (gateway, development).")
@click.option("--token", help="Bearer token (jwt, gateway); others here can see it: prefer a file.")
@click.option("--token-file", type=click.File(), help="File with the bearer token; `-` is stdin.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for each image to be ready.",
)
@json_option
def upload(
    *,
    files: tuple[Path, ...],
    url: str,
    user_id: Any,
    token: str | None,
    token_file: IO[str] | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Upload images to a running service and print their URLs once they are ready.

    Does all that a client does: request, PUT with checksum and progress, complete, wait. The
    service may be anywhere. Exit code 1 if a file did not become ready.
    """
    if token and token_file:
        raise click.UsageError("Give either --token or --token-file.")
    if token_file is not None:
        token = token_file.read().strip()
    caller = Caller(token=token, user_id=str(user_id) if user_id else None)
    client = ServiceClient(url, caller, timeout_seconds=timeout)
    outcomes = [_upload(client, file, as_json=as_json) for file in files]
    if not all(outcomes):
        raise click.exceptions.Exit(1)


def _upload(client: ServiceClient, file: Path, *, as_json: bool) -> bool:
    """Upload one file and print what became of it; say whether it is ready."""
    size_bytes = file.stat().st_size if file.is_file() else 0
    failure, media = None, None
    with progress(size_bytes, file.name) as bar:
        try:
            media = client.upload(file, on_bytes=bar.update)
        except UploadFailed as error:
            failure = error
    if as_json:
        print_json(_outcome(file, media, failure))
    elif media is None:
        click.echo(f"{file}: {click.style('failed', fg='red')}: {one_line(failure)}")
    else:
        _show(file, media)
    return failure is None


def _outcome(
    file: Path, media: dict[str, Any] | None, failure: UploadFailed | None
) -> dict[str, Any]:
    """Return what became of a file, in the same shape whatever it was."""
    return {
        "file": file,
        "id": media and media["id"],
        "status": media["status"] if media else "failed",
        "url": media and media["url"],
        "width": media and media["width"],
        "height": media and media["height"],
        "variants": media["variants"] if media else [],
        "error": None if failure is None else {"code": failure.code, "message": str(failure)},
    }


def _show(file: Path, media: dict[str, Any]) -> None:
    click.echo(f"{file}: {click.style(media['status'], fg='green')} {media['id']}")
    if not any(variant["url"] == media["url"] for variant in media["variants"]):
        click.echo(f"  {media['url']}")  # of a worker that tells no more
    for variant in media["variants"]:
        click.echo(f"  {variant['name']} {variant['width']}x{variant['height']} {variant['url']}")
