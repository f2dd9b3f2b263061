"""The HTTP edge: CPU per request, requests a second, and presigning alone.

The floor and the FastAPI reference insert the same row and sign the same request; each side has
its own database, two cores, and as many workers as suit it.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final
from uuid import UUID, uuid4

import msgspec
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from benchmarks.load import request
from benchmarks.measure import Cost, Costs, take_turns, time_calls
from benchmarks.options import Options
from benchmarks.photos import make_photo
from benchmarks.report import Figure
from benchmarks.rows import insert_media
from benchmarks.stack import Database, Stack, Web
from mediaservice.keys import raw_key
from mediaservice.signing import UrlSigner

CONNECTIONS: Final = 16
WARM_UP_SECONDS: Final = 3.0
UPLOAD: Final = {"content_type": "image/jpeg", "size_bytes": 200_000}
_HOST: Final = "s3.example.com"
_HEADERS: Final = {
    "content-length": "200000",
    "content-type": "image/jpeg",
    "if-none-match": "*",
}


def presign(options: Options, _stack: Stack) -> list[Figure]:
    """Sign the same PUT with our signer and with botocore's."""
    keys = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    signer = UrlSigner(
        keys.get_frozen_credentials,
        endpoint=f"https://{_HOST}",
        region="eu-west-1",
        addressing_style="path",
    )
    key = raw_key(uuid4())

    def ours() -> str:
        return signer.presign("PUT", "raw", key, _HEADERS, ttl_seconds=900)

    def botocore() -> str:
        unsigned = AWSRequest("PUT", f"https://{_HOST}/raw/{key}", headers=_HEADERS)
        S3SigV4QueryAuth(keys, "s3", "eu-west-1", expires=900).add_auth(unsigned)
        return str(unsigned.url)

    sides: dict[str, Callable[[], Cost]] = {
        "ours": lambda: time_calls(ours, seconds=options.seconds / 4),
        "botocore": lambda: time_calls(botocore, seconds=options.seconds / 4),
    }
    costs = take_turns("presign", sides, options.rounds)
    return [
        Figure.compare(
            "presign_rate",
            "presign",
            costs,
            ours="ours",
            reference="botocore",
            reference_title="botocore S3SigV4QueryAuth",
        )
    ]


def web(options: Options, stack: Stack) -> list[Figure]:
    """Answer every kind of request in turn, beside the floor and the FastAPI reference."""
    service_database = stack.create_database("web")
    floor_database, peer_database = stack.create_database("floor"), stack.create_database("peer")
    service = stack.start_service("web", service_database)
    floor = stack.start_gunicorn(
        "floor", "benchmarks.references.floor:app", stack.environ(floor_database)
    )
    peer = stack.start_uvicorn(
        "fastapi", "benchmarks.references.fastapi_app:app", stack.environ(peer_database)
    )
    photo = make_photo(640, 480)
    ready = insert_media(
        service_database, stack.callers, count=20 * len(stack.callers), status="ready"
    )

    def uploading(side: Web, database: Database) -> Callable[[], Cost]:
        def run() -> Cost:
            # Pending uploads of earlier rounds would count against their owners.
            database.execute("DELETE FROM media WHERE status = 'pending'")
            database.execute("VACUUM ANALYZE media")
            return side.serve(
                upload_requests(stack, stack.callers),
                seconds=options.seconds,
                connections=CONNECTIONS,
            )

        return run

    def reading(path: str) -> Callable[[], Cost]:
        requests = get_requests(stack, path, ready)
        return lambda: service.serve(requests, seconds=options.seconds, connections=CONNECTIONS)

    def completing() -> Cost:
        ids = insert_uploads(stack, service_database, photo, count=options.requests)
        return service.serve_each(complete_requests(stack, ids), connections=CONNECTIONS)

    sides = {
        "request-upload": uploading(service, service_database),
        "floor": uploading(floor, floor_database),
        "FastAPI": uploading(peer, peer_database),
        "status": reading("/api/media/{id}/status"),
        "get": reading("/api/media/{id}"),
        "list": reading("/api/media?status=ready&limit=20"),
        "complete": completing,
    }
    for side in (service, floor, peer):
        side.serve(
            upload_requests(stack, stack.callers), seconds=WARM_UP_SECONDS, connections=CONNECTIONS
        )
    costs = take_turns("web", sides, options.rounds)
    for side in (service, floor, peer):
        side.stop()
    return _figures(costs)


def _figures(costs: Costs) -> list[Figure]:
    def cpu(name: str, side: str, reference: str, reference_title: str) -> Figure:
        return Figure.compare(
            name,
            f"{side}, CPU per request",
            costs,
            ours=side,
            reference=reference,
            reference_title=reference_title,
            unit="µs",
            of=attrgetter("cpu_us"),
        )

    return [
        cpu("request_upload_cpu", "request-upload", "floor", "the floor"),
        Figure.compare(
            "request_upload_rate",
            "request-upload, requests a second",
            costs,
            ours="request-upload",
            reference="FastAPI",
            reference_title="FastAPI + asyncpg + boto3",
        ),
        cpu("fastapi_cpu", "FastAPI", "floor", "the floor"),
        *(
            cpu(f"{side}_cpu", side, "request-upload", "request-upload")
            for side in ("status", "get", "list", "complete")
        ),
    ]


def upload_requests(stack: Stack, callers: Sequence[UUID]) -> list[bytes]:
    """Return a request for an upload by each of the callers."""
    body = msgspec.json.encode(UPLOAD)
    return [
        request("POST", "/api/media/request-upload", headers=stack.headers_of(caller), body=body)
        for caller in callers
    ]


def insert_uploads(
    stack: Stack, database: Database, photo: bytes, *, count: int
) -> list[tuple[UUID, UUID]]:
    """Insert media whose bytes are stored and only have to be completed; return ids and owners."""
    return insert_media(
        database,
        stack.callers,
        count=count,
        status="pending",
        due_seconds=3600,
        raw_key=stack.store_upload(photo),
        size_bytes=len(photo),
    )


def complete_requests(stack: Stack, media: list[tuple[UUID, UUID]]) -> list[bytes]:
    """Return the completions of media, given by id and owner."""
    return [
        request(
            "POST",
            "/api/media/complete",
            headers=stack.headers_of(owner_id),
            body=msgspec.json.encode({"upload_id": media_id}),
        )
        for media_id, owner_id in media
    ]


def get_requests(stack: Stack, path: str, media: list[tuple[UUID, UUID]]) -> list[bytes]:
    """Return reads of media, given by id and owner; `{id}` in the path is the media's."""
    return [
        request("GET", path.format(id=media_id), headers=stack.headers_of(owner_id))
        for media_id, owner_id in media
    ]
