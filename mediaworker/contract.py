"""The message contract for authors of other workers: `python -m mediaworker.contract --help`.

Prints what a worker gets, checks what it answers, and writes the documents in docs/messages/. The
contract itself is `mediaservice.messages` and the topology of `mediaservice.broker`.
"""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from uuid import UUID

import click
import msgspec

from mediaservice.broker import EXCHANGE, EXCHANGES, PROCESS_QUEUE, TOPOLOGY
from mediaservice.messages import (
    MESSAGE_TYPES,
    MalformedMessage,
    ProcessRequest,
    decode,
    encode,
    public_prefix,
)

DOCUMENTS = Path(__file__).resolve().parent.parent / "docs" / "messages"
_SAMPLE_ID = UUID("01a207bc-b354-75a0-b9dd-772dce02be82")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Help for writing a worker of your own, in any language."""


@main.command()
def sample() -> None:
    """Print a job, as your worker gets it."""
    click.echo(json.dumps(json.loads(encode(sample_job())[1]), indent=2))


@main.command()
@click.argument("routing_key", type=click.Choice(list(MESSAGE_TYPES)))
@click.argument("files", nargs=-1, type=click.File("rb"))
def check(routing_key: str, files: tuple[IO[bytes], ...]) -> None:
    """Check messages with ROUTING_KEY, one in each of FILES, or one on standard input.

    Exit code 1 if the service would dead-letter any of them; the reason is the one it would give.
    """
    malformed = 0
    for file in files or (sys.stdin.buffer,):
        name = file.name if files else "-"
        try:
            decode(routing_key, file.read())
        except MalformedMessage as error:
            malformed += 1
            click.echo(f"{name}: {error}", err=True)
        else:
            click.echo(f"{name}: ok")
    sys.exit(1 if malformed else 0)


@main.command()
def write() -> None:
    """Write the JSON Schemas and the AsyncAPI document to docs/messages/."""
    DOCUMENTS.mkdir(parents=True, exist_ok=True)
    for name, document in documents().items():
        (DOCUMENTS / name).write_text(document)
        click.echo(f"docs/messages/{name}")


def sample_job() -> ProcessRequest:
    """Return a job like any other."""
    return ProcessRequest(
        media_id=_SAMPLE_ID,
        attempt=1,
        raw_bucket="raw",
        raw_key=f"uploads/{_SAMPLE_ID}",
        raw_etag='"9b2cf535f27731c974343645a3985328"',
        content_type="image/jpeg",
        size_bytes=1_957_448,
        public_bucket="public",
        public_prefix=public_prefix(_SAMPLE_ID),
        requested_at=datetime(2026, 11, 23, 9, 28, 56, tzinfo=UTC),
    )


def documents() -> dict[str, str]:
    """Return the contract's documents by file name."""
    written = {f"{routing_key}.schema.json": _schema(routing_key) for routing_key in MESSAGE_TYPES}
    written["asyncapi.json"] = _asyncapi()
    return {name: json.dumps(document, indent=2) + "\n" for name, document in written.items()}


def _schema(routing_key: str) -> dict[str, Any]:
    """Return the JSON Schema of the messages with a routing key."""
    schema = msgspec.json.schema(MESSAGE_TYPES[routing_key])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": routing_key,
    } | schema


def _asyncapi() -> dict[str, Any]:
    """Return the AsyncAPI document: who sends what, through which exchange and queue."""
    queues = {
        routing_key: (queue, arguments)
        for queue, (arguments, routing_keys) in TOPOLOGY.items()
        for routing_key in routing_keys
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "media-service and its worker",
            "version": "1",
            "description": "Jobs go to a worker, its answers come back. Messages are JSON, "
            "persistent, published to a topic exchange with confirms and `mandatory`. A message "
            "that breaks the contract, or exceeds the delivery limit, ends in the queue "
            "`media.dead`. The arguments of exchanges and queues must be declared as they stand.",
        },
        "defaultContentType": "application/json",
        "channels": {
            routing_key: {
                "address": routing_key,
                "messages": {
                    routing_key: {
                        "payload": {"$ref": f"./{routing_key}.schema.json"},
                        "summary": (MESSAGE_TYPES[routing_key].__doc__ or "").splitlines()[0],
                    }
                },
                "bindings": {
                    "amqp": {
                        "is": "routingKey",
                        "exchange": {
                            "name": EXCHANGE,
                            "type": EXCHANGES[EXCHANGE],
                            "durable": True,
                        },
                    }
                },
                "x-queue": {"name": queue, "durable": True, "arguments": arguments},
            }
            for routing_key, (queue, arguments) in queues.items()
        },
        "operations": {
            routing_key: {
                # From a worker's point of view, for workers are who this is written for.
                "action": "receive" if queue == PROCESS_QUEUE else "send",
                "channel": {"$ref": f"#/channels/{routing_key}"},
            }
            for routing_key, (queue, _) in queues.items()
        },
    }


if __name__ == "__main__":
    main()
