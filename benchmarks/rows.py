"""Rows of `media` written straight into the table: the states that operations are measured on.

Their ids are UUIDv7s of the time they were made at, and ready ones have all that a worker leaves.
"""

import json
import random
from collections.abc import Sequence
from hashlib import md5
from typing import Final
from uuid import UUID

import click
from sqlalchemy import MetaData
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, DDLElement, DropIndex

from benchmarks.stack import Database
from mediaservice.models import Media

VARIANTS: Final = json.dumps(
    [
        {
            "name": name,
            "key": f"media/ID/{name}.webp",
            "width": width,
            "height": width * 3 // 4,
            "size_bytes": width * 131,
            "content_type": "image/webp",
        }
        for name, width in (("main", 2048), ("w1280", 1280), ("w640", 640), ("w320", 320))
    ]
)
# From a `source` of n, made_at, owner_id, status and due_at. Its OFFSETs keep PostgreSQL from
# drawing a new id at each mention of it.
_INSERT: Final = """
INSERT INTO media (id, owner_id, owner_type, status, raw_key, content_type, size_bytes, created_at,
                   updated_at, upload_expires_at, due_at, attempt, attempts_left, raw_etag,
                   error_code, public_key, width, height, processed_at, variants, placeholder,
                   processing_requested_at, request_id)
SELECT id, owner_id, 'user', status, coalesce(%(raw_key)s, 'uploads/' || id), 'image/jpeg',
       %(size_bytes)s, made_at, made_at, made_at + interval '900 s', due_at,
       CASE WHEN status IN ('ready', 'failed') THEN 1 ELSE 0 END,
       CASE status WHEN 'processing' THEN 3 WHEN 'ready' THEN 2 ELSE 0 END,
       CASE WHEN status <> 'pending' THEN '"0123456789abcdef0123456789abcdef"' END,
       CASE status WHEN 'failed' THEN 'corrupt_image' END,
       CASE WHEN ready THEN 'media/' || id || '/main.webp' END,
       CASE WHEN ready THEN 2048 END, CASE WHEN ready THEN 1536 END,
       CASE WHEN ready THEN made_at + interval '2 s' END,
       CASE WHEN ready THEN replace(%(variants)s, 'ID', id::text)::jsonb END,
       CASE WHEN ready THEN '1QcSHQRnh493V4dIh4eXh1h4kJUI' END,
       CASE WHEN status <> 'pending' THEN made_at + interval '1 s' END,
       CASE WHEN status <> 'pending' THEN id::text END
FROM (SELECT *, status = 'ready' AS ready,
             (substr(milliseconds, 1, 8) || '-' || substr(milliseconds, 9) || '-7'
              || substr(gen_random_uuid()::text, 16))::uuid AS id
      FROM (SELECT *, lpad(to_hex((extract(epoch FROM made_at) * 1000)::bigint), 12, '0')
                      AS milliseconds
            FROM ({source}) AS source) AS timed OFFSET 0) AS identified
"""
_ALIKE: Final = """
SELECT n, now() AS made_at, (%(owners)s::uuid[])[1 + n %% cardinality(%(owners)s::uuid[])]
       AS owner_id, %(status)s AS status, now() + make_interval(secs => %(due_seconds)s) AS due_at
FROM generate_series(0, %(count)s - 1) AS n
"""
# A service that has run for two years: mostly ready, some failed, a little under way, in a random
# order. Nothing is due yet.
_GROWN: Final = """
SELECT n, now() - (%(rows)s - n) * (interval '730 days' / %(rows)s) AS made_at,
       md5((n %% %(owners)s)::text)::uuid AS owner_id, status,
       CASE status WHEN 'ready' THEN NULL WHEN 'failed' THEN now() + random() * interval '7 days'
                   ELSE now() + interval '2 hours' + random() * interval '1 hour' END AS due_at
FROM (SELECT n, CASE WHEN r < 0.96 THEN 'ready' WHEN r < 0.99 THEN 'failed'
                     WHEN r < 0.998 THEN 'pending' ELSE 'processing' END AS status
      FROM (SELECT n, random() AS r FROM generate_series(%(first)s, %(last)s - 1) AS n OFFSET 0)
           AS drawn) AS chosen
"""
MEDIA_PER_OWNER: Final = 20
_CHUNK_ROWS: Final = 100_000


def insert_media(
    database: Database,
    callers: Sequence[UUID],
    *,
    count: int,
    status: str,
    due_seconds: float | None = None,
    raw_key: str | None = None,
    size_bytes: int = 200_000,
) -> list[tuple[UUID, UUID]]:
    """Insert media of the callers in turn, all alike; return their ids and owners."""
    inserted = database.execute(
        _INSERT.format(source=_ALIKE) + "RETURNING id, owner_id",
        {
            "owners": list(callers),
            "status": status,
            "due_seconds": due_seconds,
            "count": count,
            "raw_key": raw_key,
            "size_bytes": size_bytes,
            "variants": VARIANTS,
        },
    )
    return [(media_id, owner_id) for media_id, owner_id in inserted]


def fill(database: Database, rows: int) -> None:
    """Fill an empty table with `rows` media of two years, showing how far it is.

    Indexes are made at the end, which is several times faster. Nothing is vacuumed, then or later:
    that would offer the free end of every page to new rows at once, and scatter them all over the
    table, while a service has filled the ends of old pages long ago.
    """
    indexes = Media.to_metadata(MetaData()).indexes
    for index in indexes:
        _execute(database, DropIndex(index))
        # As full as pages are that rows came to one by one, not close to their first split.
        index.dialect_options["postgresql"]["with"] = {"fillfactor": 70}
    values = {"rows": rows, "owners": _owners(rows), "raw_key": None, "size_bytes": 200_000}
    database.execute("ALTER TABLE media SET (autovacuum_enabled = false)")
    database.execute("SET synchronous_commit = off")
    with click.progressbar(range(0, rows, _CHUNK_ROWS), label=f"{rows:,} rows") as bar:
        for first in bar:
            chunk = {"first": first, "last": min(first + _CHUNK_ROWS, rows), "variants": VARIANTS}
            database.execute(_INSERT.format(source=_GROWN), values | chunk)
    database.execute("SET maintenance_work_mem = '512MB'")
    with click.progressbar(indexes, label=f"{rows:,} rows, indexes") as bar:
        for index in bar:
            _execute(database, CreateIndex(index))
    database.execute("ANALYZE media")
    database.execute("CHECKPOINT")
    database.execute("RESET synchronous_commit")


def sample_owners(rows: int, count: int) -> list[UUID]:
    """Return up to `count` owners, drawn at random, of a table filled with `rows` media."""
    numbers = range(_owners(rows))
    return [
        UUID(md5(str(n).encode(), usedforsecurity=False).hexdigest())
        for n in random.sample(numbers, min(count, len(numbers)))
    ]


def _owners(rows: int) -> int:
    return max(1, rows // MEDIA_PER_OWNER)


def _execute(database: Database, statement: DDLElement) -> None:
    database.execute(str(statement.compile(dialect=postgresql.dialect())))  # type: ignore[no-untyped-call]
