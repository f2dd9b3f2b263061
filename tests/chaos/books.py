"""The books: when all is quiet, does every upload, row, object and message account for the rest?"""

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pika
import psycopg
import pyvips
from pika.adapters.blocking_connection import BlockingChannel
from psycopg.rows import dict_row

from mediaservice.broker import DEAD_LETTER_QUEUE, PROCESS_QUEUE, RESULTS_QUEUE
from mediaservice.errors import UPLOAD_EXPIRED, UPLOAD_FAILURES
from mediaservice.keys import public_prefix
from mediaservice.states import TRANSITIONS, Event
from tests.chaos.bad_worker import POISON
from tests.chaos.load import Upload
from tests.chaos.stack import Stack
from tests.queues import count

# Rows of failed media wait for days; everything else that is due at all is due within this.
SOON = "1 hour"
# Only these scenarios store bytes that are no image as declared, and only such end in these codes.
BAD_SCENARIOS = {"damaged", "mismatched"}
BAD_BYTES = {"unsupported_format", "corrupt_image", "image_too_large", *UPLOAD_FAILURES}
BAD_BYTES -= {UPLOAD_EXPIRED.code}


class Books:
    """A look at everything at once; `faults` holds a line for each thing that is wrong."""

    def __init__(self, stack: Stack, uploads: Sequence[Upload]) -> None:
        self._stack = stack
        self._uploads = uploads
        self.faults: list[str] = []
        self.totals: Counter[str] = Counter()

    def is_quiet(self) -> bool:
        """Return whether no row is due soon and no message waits."""
        try:
            with self._stack.postgresql.connect() as connection:
                busy = connection.execute(
                    f"SELECT count(*) FROM media WHERE due_at < now() + interval '{SOON}'"
                ).fetchone()
            if busy != (0,):
                return False
            with self._amqp() as channel:
                return not any(count(channel, queue) for queue in (PROCESS_QUEUE, RESULTS_QUEUE))
        except (psycopg.Error, pika.exceptions.AMQPError):
            return False

    def check(self) -> None:
        """Fill `faults` and `totals`."""
        with (
            self._stack.postgresql.connect() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            rows = {row["id"]: row for row in cursor.execute("SELECT * FROM media").fetchall()}
            history = cursor.execute("SELECT * FROM media_history ORDER BY at").fetchall()
        raw = set(self._keys(self._stack.seaweedfs.raw_bucket))
        public = set(self._keys(self._stack.seaweedfs.public_bucket))
        self._check_uploads(rows)
        for row in rows.values():
            self._check_row(row, raw, public)
        self._check_orphans(rows, raw, public)
        self._check_history(history)
        self._check_messages()
        for finding in self._stack.audit():
            self._fault(f"audit: {finding}")

    def _check_uploads(self, rows: dict[uuid.UUID, dict[str, Any]]) -> None:
        for upload in self._uploads:
            row = rows.get(uuid.UUID(upload.media_id)) if upload.media_id else None
            if row is None:
                self.totals["gone"] += 1
                if not upload.is_deleted:
                    self._fault(f"lost: {upload}")
            elif upload.is_deleted:
                self._fault(f"deleted, but still there: {upload} {row['status']}")
            elif row["status"] == "failed":
                self.totals[f"failed ({row['error_code']})"] += 1
            else:
                self.totals[row["status"]] += 1
            if row:
                self._check_outcome(upload, row)
            if upload.scenario == "normal" and not upload.notes:
                self.totals["normal"] += 1
                self.totals["normal and ready"] += bool(row and row["status"] == "ready")
        if 2 * self.totals["normal and ready"] < self.totals["normal"]:
            self._fault("fewer than half of the normal uploads are ready")

    def _check_outcome(self, upload: Upload, row: dict[str, Any]) -> None:
        is_bad = upload.scenario in BAD_SCENARIOS
        if is_bad and row["status"] == "ready":
            self._fault(f"bad bytes are ready: {upload}")
        if not is_bad and row["status"] == "failed" and row["error_code"] in BAD_BYTES:
            self._fault(f"good bytes are called bad: {upload} {row['error_code']}")

    def _check_row(self, row: dict[str, Any], raw: set[str], public: set[str]) -> None:
        if row["status"] in ("pending", "processing"):
            self._fault(f"stuck: {row['id']} {row['status']} due {row['due_at']}")
        if row["deleted_at"]:
            self._fault(f"tombstone left: {row['id']}")
        if row["raw_etag"] and row["raw_key"] not in raw:
            self._fault(f"row without its original: {row['id']} {row['status']}")
        if row["status"] == "ready":
            for key, width in _named_objects(row):
                if key not in public:
                    self._fault(f"row without its object: {key}")
                elif _decoded_width(self._stack, key) != width:
                    self._fault(f"object is not what the row says: {key}")

    def _check_orphans(
        self, rows: dict[uuid.UUID, dict[str, Any]], raw: set[str], public: set[str]
    ) -> None:
        owed_raw = {row["raw_key"] for row in rows.values() if row["raw_etag"]}
        owed_public = {
            key for row in rows.values() if row["public_key"] for key, _ in _named_objects(row)
        }
        # What an attempt stored before it failed goes when its media goes.
        kept = tuple(
            public_prefix(row["id"])
            for row in rows.values()
            if row["status"] == "failed" and row["raw_etag"]
        )
        left = {key for key in public if key.startswith(kept)}
        for key in (raw - owed_raw) | (public - owed_public - left):
            self._fault(f"object without a row: {key}")

    def _check_history(self, history: list[dict[str, Any]]) -> None:
        legal = {
            (str(source), str(transition.target))
            for transition in TRANSITIONS.values()
            for source in transition.sources
            if transition.target
        }
        self.totals["transitions"] = len(history)
        created = str(TRANSITIONS[Event.UPLOAD_REQUESTED].target)
        for change in history:
            was, is_now = change["was"], change["is_now"]
            if was is None:
                # A tombstone for objects that never had a row is born deleted.
                is_legal = is_now == created or change["is_deleted"]
            elif is_now is None:
                is_legal = change["was_deleted"]
            elif was == is_now:
                is_legal = not change["was_deleted"]
            else:
                is_legal = (was, is_now) in legal and not change["is_deleted"]
            if not is_legal:
                self._fault(f"illegal transition: {change}")

    def _check_messages(self) -> None:
        with self._amqp() as channel:
            poison = 0
            while True:
                method, properties, body = channel.basic_get(DEAD_LETTER_QUEUE)
                if method is None:
                    break
                if body == POISON:
                    poison += 1
                else:
                    self._fault(f"dead letter: {body[:200]!r} {properties.headers}")
        poison_file = self._stack.poison_file
        sent = len(poison_file.read_text().splitlines()) if poison_file.exists() else 0
        self.totals["poison"] = poison
        if poison < sent:
            self._fault(f"{sent} poison messages were confirmed, {poison} are dead letters")

    @contextmanager
    def _amqp(self) -> Iterator[BlockingChannel]:
        with pika.BlockingConnection(pika.URLParameters(self._stack.rabbitmq.url)) as connection:
            yield connection.channel()

    def _keys(self, bucket: str) -> Iterator[str]:
        pages = self._stack.seaweedfs.client().get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=bucket):
            yield from (entry["Key"] for entry in page.get("Contents", []))

    def _fault(self, text: str) -> None:
        self.faults.append(text)


def _named_objects(row: dict[str, Any]) -> list[tuple[str, int]]:
    """Return the public keys a ready row names, with their widths."""
    variants = [(variant["key"], variant["width"]) for variant in row["variants"] or []]
    return [(row["public_key"], row["width"]), *variants]


def _decoded_width(stack: Stack, key: str) -> int:
    found = stack.seaweedfs.client().get_object(Bucket=stack.seaweedfs.public_bucket, Key=key)
    image = pyvips.Image.new_from_buffer(found["Body"].read(), "", fail_on="warning")
    image.avg()
    return int(image.width)
