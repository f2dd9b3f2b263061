"""A worker gone bad: what it says moves no media but its own job's, and the loop lives on."""

import json
from typing import Any
from uuid import UUID, uuid4

import pika
import pytest

from mediaservice.broker import DEAD_LETTER_QUEUE
from mediaservice.keys import public_prefix
from mediaservice.messages import (
    MEDIA_FAILED,
    MEDIA_PROCESS,
    MEDIA_PROCESSED,
    MalformedMessage,
    decode,
    encode,
)
from tests.builders import UNKNOWN_ID, jpeg, process_request
from tests.counters import grows
from tests.queues import UndecodableProperties, count, put, run_until
from tests.world import World, processed


def malformed(own: UUID, victim: UUID) -> dict[str, tuple[str, bytes]]:
    """Return messages that must be set aside, by what is wrong with them."""
    prefix, theirs = public_prefix(own), public_prefix(victim)

    def success(**fields: Any) -> tuple[str, bytes]:
        message = {"media_id": str(own), "public_key": f"{prefix}main.webp", **fields}
        return MEDIA_PROCESSED, json.dumps(message).encode()

    def failure(**fields: Any) -> tuple[str, bytes]:
        return MEDIA_FAILED, json.dumps({"media_id": str(own), **fields}).encode()

    variant = {"name": "w1", "width": 1, "height": 1, "size_bytes": 1, "content_type": "image/webp"}
    keys = {
        "another media's key": f"{theirs}main.webp",
        "a way out": f"{prefix}../{victim}/main.webp",
        "an encoded way out": f"{prefix}%2e%2e/{victim}/main.webp",
        "a final way out": f"{prefix}..",
        "a query": f"{prefix}main.webp?x=../..",
        "a fragment": f"{prefix}main.webp#x",
        "the prefix alone": prefix,
        "no prefix": "main.webp",
        "an absolute key": f"/{prefix}main.webp",
        "a URL": f"https://evil.example.com/{prefix}main.webp",
        "another host": f"//evil.example.com/{prefix}main.webp",
        "a script": f"{prefix}<script>",
        "a line": f"{prefix}main.webp\n",
        "NUL": f"{prefix}main\0.webp",
        "another direction": f"{prefix}\u202egpj.webp",
        "half a character": f"{prefix}\ud800",
        "the original": f"uploads/{victim}",
        "capitals": f"{prefix.upper()}main.webp",
        "no end": prefix + "x" * 2000,
    }
    return {
        **{f"key: {name}": success(public_key=key) for name, key in keys.items()},
        **{
            f"variant's key: {name}": success(variants=[{**variant, "key": key}])
            for name, key in keys.items()
        },
        "a deep list": (MEDIA_PROCESSED, b"[" * 200_000),
        "a deep object": (MEDIA_FAILED, b'{"a":' * 40_000),
        "depth in an unknown field": (
            MEDIA_FAILED,
            b'{"media_id": "%s", "x": %s}' % (str(own).encode(), b"[" * 5000 + b"]" * 5000),
        ),
        "a megabyte": success(x="x" * 2**20),
        "a huge number": success(width=10**400),
        "infinity": (MEDIA_PROCESSED, success()[1][:-1] + b', "width": 1e400}'),
        "not a number": (MEDIA_PROCESSED, success()[1][:-1] + b', "width": NaN}'),
        "a wrong type": success(width="wide"),
        "a list of ids": success(media_id=[str(own), str(victim)]),
        "an id that is none": success(media_id="' OR 1=1 --"),
        "a negative size": success(size_bytes=-1),
        "a hundred variants": success(variants=[{**variant, "key": f"{prefix}a"}] * 100),
        "a type that is none": success(
            variants=[{**variant, "key": f"{prefix}a", "content_type": "text/html\r\nX: y"}]
        ),
        "a placeholder with markup": success(placeholder="<img src=x onerror=alert(1)>"),
        "a placeholder with NUL": success(placeholder="\0"),
        "a code with markup": failure(error={"code": "<script>"}),
        "a code with a line": failure(error={"code": "corrupt_image\n"}),
        "a negative attempt": failure(attempt=-1),
        "an attempt past the column": failure(attempt=2**31),
        "not UTF-8": (MEDIA_FAILED, b'{"media_id": "\xff"}'),
        "UTF-16": (MEDIA_FAILED, failure()[1].decode().encode("utf-16")),
        "two documents": (MEDIA_FAILED, failure()[1] * 2),
        "nothing": (MEDIA_FAILED, b""),
        "a pickle": (MEDIA_FAILED, b"\x80\x04K\x01."),
    }


def harmless(own: UUID, victims: dict[str, UUID]) -> list[tuple[str, bytes]]:
    """Return messages of the contract that must change nothing."""
    return [
        *(
            (MEDIA_FAILED, json.dumps({"media_id": str(victims[name])}).encode())
            for name in ("ready", "pending", "deleted")
        ),
        # A success for what was never uploaded, never accepted, deleted, or never existed.
        *(encode(processed(victims[name])) for name in ("pending", "expired", "deleted")),
        encode(processed(uuid4())),
        (MEDIA_FAILED, json.dumps({"media_id": str(own), "attempt": 99}).encode()),
        # Repeated names: the last counts, and it is checked like any other.
        (MEDIA_FAILED, b'{"media_id": "%s", "media_id": "%s"}' % ((str(uuid4()).encode(),) * 2)),
    ]


def snapshot(world: World, media: dict[str, UUID]) -> dict[str, Any]:
    rows = {name: world.row(media_id) for name, media_id in media.items()}
    return {
        name: row and (row.status, row.public_key, row.variants, row.error_code, row.attempt)
        for name, row in rows.items()
    }


def victims_of(world: World) -> dict[str, UUID]:
    victims = {"ready": world.ready(), "pending": world.pending(), "processing": world.completed()}
    world.set(victims["processing"], due_at=None)
    victims["expired"] = world.request(jpeg()).media_id
    world.age(victims["expired"], days=1)
    assert world.uploads.expire(10) == 1
    victims["deleted"] = world.request(jpeg()).media_id
    world.delete(victims["deleted"])
    return victims


def test_a_malformed_answer_is_set_aside_and_nothing_changes(world, listener, amqp):
    job, victims = world.claimed(), victims_of(world)
    before = snapshot(world, victims | {"own": job.media_id})
    messages = malformed(job.media_id, victims["ready"])
    for name, (routing_key, body) in messages.items():
        properties = pika.BasicProperties(delivery_mode=2, message_id=name)
        amqp.basic_publish("media", routing_key, body, properties)
    run_until(listener, lambda: count(amqp, DEAD_LETTER_QUEUE) == len(messages), "dead letters")
    assert snapshot(world, victims | {"own": job.media_id}) == before
    assert world.public_keys(victims["ready"]) == [f"{public_prefix(victims['ready'])}main.webp"]
    put(amqp, *encode(processed(job)))
    run_until(listener, lambda: world.status(job.media_id) == "ready", "the true answer")


def test_an_answer_for_somebody_elses_media_changes_nothing(world, listener, amqp):
    job, victims = world.claimed(), victims_of(world)
    media = victims | {"own": job.media_id}
    before = snapshot(world, media)
    for routing_key, body in harmless(job.media_id, victims):
        put(amqp, routing_key, body)
    sentinel = world.claimed()
    put(amqp, *encode(processed(sentinel)))
    run_until(listener, lambda: world.status(sentinel.media_id) == "ready", "the last answer")
    assert snapshot(world, media) == before
    assert count(amqp, DEAD_LETTER_QUEUE) == 0
    assert world.has_original(victims["ready"])
    assert world.has_original(victims["pending"])
    assert world.public_keys(victims["ready"])


def test_hostile_properties_and_headers_do_not_matter(world, listener, amqp):
    job = world.claimed()
    routing_key, body = encode(processed(job))
    amqp.basic_publish(
        "media",
        routing_key,
        body,
        pika.BasicProperties(
            content_type="application/x-python-pickle",
            content_encoding="gzip",
            message_id="x" * 255,
            correlation_id="\r\nevil: header",
            reply_to="amq.gen-somebody",
            headers={"x-death": "not a list", "x-media-reason": "y" * 10_000},
        ),
    )
    run_until(listener, lambda: world.status(job.media_id) == "ready", "the answer")


def test_headers_that_cannot_be_decoded_do_no_harm_to_the_messages_beside(world, listener, amqp):
    jobs = [world.claimed() for _ in range(3)]
    for job, properties in zip(jobs, (None, UndecodableProperties(), None), strict=True):
        routing_key, body = encode(processed(job))
        amqp.basic_publish("media", routing_key, body, properties)
    with grows("media_broker_deliveries_total", 0, routing_key=MEDIA_PROCESSED, redelivered="yes"):
        run_until(
            listener,
            lambda: {world.status(job.media_id) for job in jobs} == {"ready"},
            "the answers",
        )


@pytest.mark.parametrize(
    "change",
    [{"public_prefix": ""}, {"public_prefix": "../"}, {"media_id": str(UNKNOWN_ID)}],
    ids=str,
)
def test_a_job_that_would_write_below_another_prefix_is_refused(change):
    message = json.loads(encode(process_request())[1])
    assert decode(MEDIA_PROCESS, json.dumps(message).encode())
    with pytest.raises(MalformedMessage, match="public_prefix"):
        decode(MEDIA_PROCESS, json.dumps(message | change).encode())
