"""`make contract`: write docs/messages/, the message contract for readers of any language.

JSON Schemas come from the structs of `mediaservice.messages`, exchange, queues and bindings in
asyncapi.yaml from `mediaservice.broker`. Nothing is said here that the code does not say.
"""

import json
from typing import Any, Final
from uuid import UUID

import msgspec
import yaml

from mediaservice import PROJECT
from mediaservice.broker import DEAD_LETTER_EXCHANGE, DEAD_LETTER_QUEUE, EXCHANGE, REASON_HEADER
from mediaservice.broker.rabbitmq import TRACEPARENT_HEADER
from mediaservice.broker.topology import EXCHANGES, TOPOLOGY
from mediaservice.messages import (
    MAX_BODY_BYTES,
    MEDIA_FAILED,
    MEDIA_PROCESS,
    MEDIA_PROCESSED,
    MESSAGE_TYPES,
    FailedResult,
    Message,
    ProcessedResult,
    ProcessingError,
    Variant,
)
from mediaworker.contract import SAMPLE_JOB

FOLDER: Final = PROJECT / "docs" / "messages"
ASYNCAPI: Final = "asyncapi.yaml"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_FORMAT: Final = "application/schema+json;version=draft-2020-12"
BINDING_VERSION: Final = "0.3.0"

_MEDIA_ID: UUID = SAMPLE_JOB.media_id
_MAIN_KEY = f"{SAMPLE_JOB.public_prefix}main.webp"
EXAMPLES: Final[dict[str, dict[str, Message]]] = {
    MEDIA_PROCESS: {"job": SAMPLE_JOB},
    MEDIA_PROCESSED: {
        "the least": ProcessedResult(media_id=_MEDIA_ID, public_key=_MAIN_KEY),
        "all there is": ProcessedResult(
            media_id=_MEDIA_ID,
            attempt=1,
            public_key=_MAIN_KEY,
            width=1536,
            height=2048,
            content_type="image/webp",
            size_bytes=218_444,
            variants=[
                Variant(
                    name="w320",
                    key=f"{SAMPLE_JOB.public_prefix}w320.webp",
                    width=320,
                    height=427,
                    size_bytes=11_870,
                    content_type="image/webp",
                )
            ],
            placeholder="1QcSHQRnh493V4dIh4eXh1h4kJUI",
        ),
    },
    MEDIA_FAILED: {
        "the least": FailedResult(media_id=_MEDIA_ID),
        "all there is": FailedResult(
            media_id=_MEDIA_ID,
            attempt=1,
            error=ProcessingError(
                code="corrupt_image", message="VipsJpeg: premature end of file", retryable=False
            ),
        ),
    },
}
# What JSON Schema cannot say.
BEYOND_SCHEMA: Final = {
    MEDIA_PROCESS: "Acknowledge it only when the result is confirmed: it may be delivered again, "
    "and making the renditions twice must do no harm.",
    MEDIA_PROCESSED: "`public_key` and every variant's `key` start with the job's "
    "`public_prefix`, and their objects are stored before this is published. It counts whichever "
    "attempt it names; repeats do no harm.",
    MEDIA_FAILED: "It counts only for the attempt it names, or, if it names none, for the one "
    "under way.",
}


def render() -> dict[str, str]:
    """Return the text of each file of docs/messages/, by its name."""
    files = {
        schema_name(routing_key): json.dumps(_schema(routing_key), indent=2) + "\n"
        for routing_key in MESSAGE_TYPES
    }
    document = yaml.safe_dump(_asyncapi(), sort_keys=False, allow_unicode=True, width=100)
    return {**files, ASYNCAPI: f"# Written by `make contract` from the code.\n{document}"}


def schema_name(routing_key: str) -> str:
    """Return the file name of a message's JSON Schema."""
    return f"{routing_key}.schema.json"


def _schema(routing_key: str) -> dict[str, Any]:
    generated = msgspec.json.schema(MESSAGE_TYPES[routing_key])
    definitions = generated["$defs"]
    own = definitions.pop(generated["$ref"].rpartition("/")[2])
    schema = {
        "$schema": DIALECT,
        **own,
        "title": routing_key,
        "description": f"{_one_line(own['description'])} {BEYOND_SCHEMA[routing_key]}",
        "examples": [_example(message) for message in EXAMPLES[routing_key].values()],
    }
    for definition in definitions.values():
        definition["description"] = _one_line(definition["description"])
    return {**schema, "$defs": definitions} if definitions else schema


def _asyncapi() -> dict[str, Any]:
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "media-worker",
            "version": "1.0.0",
            "description": "What a media-worker receives from media-service and sends to it. Both "
            "sides declare exchanges and queues, with the arguments below; that is safe to repeat. "
            f"Bodies are JSON, at most {MAX_BODY_BYTES} bytes. Unknown fields are ignored. "
            f"Messages that break the contract move to the queue `{DEAD_LETTER_QUEUE}`, with the "
            f"reason in the header `{REASON_HEADER}`. So do those that were delivered too often, "
            "with RabbitMQ's own header `x-death`.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "channels": {_id(key): _channel(key) for key in MESSAGE_TYPES},
        "operations": {
            f"{_action(key)}_{_id(key)}": {
                "action": _action(key),
                "channel": {"$ref": f"#/channels/{_id(key)}"},
                "summary": _summary(key),
                "bindings": {"amqp": _operation_binding(key)},
            }
            for key in MESSAGE_TYPES
        },
        "components": {"messages": {_id(key): _message(key) for key in MESSAGE_TYPES}},
        "x-exchanges": {
            name: {"type": type_, "durable": True} for name, type_ in EXCHANGES.items()
        },
        "x-queues": {
            name: {
                "durable": True,
                "arguments": dict(arguments),
                "bindings": [{"exchange": EXCHANGE, "routing_key": key} for key in routing_keys]
                or [{"exchange": DEAD_LETTER_EXCHANGE}],
            }
            for name, (arguments, routing_keys) in TOPOLOGY.items()
        },
    }


def _channel(routing_key: str) -> dict[str, Any]:
    (queue,) = (name for name, (_, keys) in TOPOLOGY.items() if routing_key in keys)
    return {
        "address": routing_key,
        "description": f"Consumed from the queue `{queue}`.",
        "messages": {_id(routing_key): {"$ref": f"#/components/messages/{_id(routing_key)}"}},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {
                    "name": EXCHANGE,
                    "type": EXCHANGES[EXCHANGE],
                    "durable": True,
                    "autoDelete": False,
                },
                "bindingVersion": BINDING_VERSION,
            }
        },
        "x-queue": queue,
    }


def _operation_binding(routing_key: str) -> dict[str, Any]:
    # Persistent and mandatory with confirms is how both sides publish.
    binding: dict[str, Any] = {"deliveryMode": 2, "mandatory": True}
    if _action(routing_key) == "receive":
        binding["ack"] = True
    return {**binding, "bindingVersion": BINDING_VERSION}


def _message(routing_key: str) -> dict[str, Any]:
    return {
        "name": routing_key,
        "summary": _summary(routing_key),
        "description": "AMQP properties: `message_id` is `{media_id}:{attempt}`, for logs; "
        "`correlation_id` is the id of the request that completed the upload. A result "
        f"repeats that of its job, and the header `{TRACEPARENT_HEADER}` if there is one.",
        "headers": {
            "type": "object",
            "properties": {
                TRACEPARENT_HEADER: {"type": "string", "description": "W3C Trace Context."}
            },
        },
        "payload": {
            "schemaFormat": SCHEMA_FORMAT,
            "schema": {"$ref": f"./{schema_name(routing_key)}"},
        },
        "examples": [
            {"name": name, "payload": _example(message)}
            for name, message in EXAMPLES[routing_key].items()
        ],
    }


def _id(routing_key: str) -> str:
    return routing_key.removeprefix("media.")


def _action(routing_key: str) -> str:
    """Return what a worker does, for workers are who this is written for."""
    return "receive" if routing_key == MEDIA_PROCESS else "send"


def _summary(routing_key: str) -> str:
    """Return the first paragraph of a message's docstring, without the routing key."""
    first, *_ = (MESSAGE_TYPES[routing_key].__doc__ or "").split("\n\n")
    _, _, words = _one_line(first).partition(": ")
    return words[:1].upper() + words[1:]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _example(message: Message) -> Any:
    """Return a message as JSON has it, without the optional fields that are as by default."""
    return {
        field.name: msgspec.to_builtins(value)
        for field in msgspec.structs.fields(message)
        for value in [getattr(message, field.name)]
        if field.required or value not in (field.default, [])
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file_name, text in render().items():
        (FOLDER / file_name).write_text(text)
