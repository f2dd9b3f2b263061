"""Results: what workers answer, applied in batches.

A success counts whichever attempt it comes from, for the bytes were pinned; a failure counts only
for the current attempt. A ready media never regresses.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec
import structlog
from sqlalchemy import Boolean, ColumnElement, Executable, Integer, Text, Uuid, case, or_

from config.settings import Settings
from mediaservice import metrics
from mediaservice.database import Json, now_plus, recordset
from mediaservice.lifecycle.rows import Rows, days_from_now, log_transitions, update_for
from mediaservice.messages import FailedResult, ProcessedResult, Result, Variant
from mediaservice.models import Media
from mediaservice.states import Event

MAIN_VARIANT = "main"
MAX_BACKOFF_SECONDS = 3600

log = structlog.get_logger(__name__)
_encoder = msgspec.json.Encoder(uuid_format="hex")  # of UUIDs, what both databases understand


class ResultOutcome(StrEnum):
    """What a worker's result has come to."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"  # changed nothing: a repeat, or too late
    STRAY = "stray"  # a success for a deleted or unknown media, whose objects are purged


class Results:
    """From a worker's answer to `ready`, to another attempt, or to a failure."""

    def __init__(self, rows: Rows, settings: Settings) -> None:
        self._rows = rows
        self._settings = settings
        self._statements = {
            Event.PROCESSED: rows.prepare(self._ready_statement()),
            Event.ATTEMPT_FAILED: rows.prepare(self._failure_statement(Event.ATTEMPT_FAILED)),
            Event.PROCESSING_FAILED: rows.prepare(self._failure_statement(Event.PROCESSING_FAILED)),
        }

    def begin(self, results: Sequence[Result]) -> Callable[[], list[ResultOutcome]]:
        """Begin to apply a batch of workers' results, in one transaction.

        Return the function that waits for it, to be called once, which tells what each result has
        come to. Safe to repeat, in any order. Objects that a success has left for a deleted or
        unknown media become due for purging, in a second transaction: a batch seldom has any.
        """
        processed = {
            r.media_id: _ready_record(r) for r in results if isinstance(r, ProcessedResult)
        }
        failed = [_failure_record(r) for r in results if isinstance(r, FailedResult)]
        records = {
            Event.PROCESSED: list(processed.values()),
            Event.ATTEMPT_FAILED: failed,
            Event.PROCESSING_FAILED: failed,
        }
        events = [event for event in records if records[event]]
        sent = self._rows.send(
            [
                (self._statements[event], {"records": _encoder.encode(records[event]).decode()})
                for event in events
            ]
        )

        def wait() -> list[ResultOutcome]:
            changed = dict(zip(events, sent.rows(), strict=True))
            for event, rows in changed.items():
                log_transitions(event, rows)
            ready = changed.pop(Event.PROCESSED, ())
            for row in ready:
                if row.processing_requested_at is not None:
                    taken = row.processed_at - row.processing_requested_at
                    metrics.TIME_TO_READY.observe(taken.total_seconds())
            ready_ids = {row.id for row in ready}
            failed_ids = {row.id for rows in changed.values() for row in rows}
            stray_ids = self._schedule_stray_purges(processed.keys() - ready_ids)
            return _outcomes(results, ready_ids, stray_ids, failed_ids)

        return wait

    def _schedule_stray_purges(self, media_ids: set[UUID]) -> set[UUID]:
        """Have the objects of deleted or unknown media purged; return which of these are."""
        if not media_ids:
            return set()
        with self._rows.begin() as connection:
            stray = {
                media_id
                for media_id in sorted(media_ids)
                if connection.execute(
                    self._rows.tombstone_statement(media_id).returning(Media.c.id)
                ).first()
            }
        for media_id in stray:
            log.warning("stray_result", media_id=str(media_id))
        return stray

    def _ready_statement(self) -> Executable:
        records = recordset(
            self._rows.engine,
            media_id=Uuid(),
            public_key=Text(),
            width=Integer(),
            height=Integer(),
            variants=Json,
            placeholder=Text(),
        )
        days = self._settings.raw_retention_days
        return (
            update_for(Event.PROCESSED)
            .where(Media.c.id == records.c.media_id)
            .values(
                public_key=records.c.public_key,
                width=records.c.width,
                height=records.c.height,
                variants=records.c.variants,
                placeholder=records.c.placeholder,
                processed_at=now_plus(0),
                error_code=None,
                due_at=days_from_now(days) if days else None,
            )
            .returning(
                Media.c.id,
                Media.c.request_id,
                Media.c.processed_at,
                Media.c.processing_requested_at,
            )
        )

    def _failure_statement(self, event: Event) -> Executable:
        """Return the statement for failures that are (ATTEMPT_FAILED) or are not tried again."""
        records = recordset(
            self._rows.engine,
            media_id=Uuid(),
            attempt=Integer(),
            error_code=Text(),
            retryable=Boolean(),
        )
        statement = update_for(event).where(
            Media.c.id == records.c.media_id,
            or_(records.c.attempt.is_(None), records.c.attempt == Media.c.attempt),
            Media.c.error_code.is_(None),  # or the attempt has failed already
        )
        if event is Event.ATTEMPT_FAILED:
            return (
                statement.where(records.c.retryable, Media.c.attempts_left > 0)
                .values(error_code=records.c.error_code, due_at=now_plus(self._backoff_seconds()))
                .returning(Media.c.id, Media.c.request_id)
            )
        return (
            statement.where(or_(~records.c.retryable, Media.c.attempts_left == 0))
            .values(
                error_code=records.c.error_code,
                due_at=days_from_now(self._settings.failed_retention_days),
            )
            .returning(Media.c.id, Media.c.request_id)
        )

    def _backoff_seconds(self) -> ColumnElement[float]:
        """Return how long to wait after a failure: it doubles with each attempt of a set."""
        first, attempts = self._settings.retry_backoff_seconds, self._settings.max_attempts
        by_attempts_left = {
            left: min(first * 2 ** (attempts - left - 1), MAX_BACKOFF_SECONDS)
            for left in range(attempts)
        }
        return case(by_attempts_left, value=Media.c.attempts_left, else_=first)


def _outcomes(
    results: Sequence[Result], ready: set[UUID], stray: set[UUID], failed: set[UUID]
) -> list[ResultOutcome]:
    """Return each result's outcome; of several alike the first one was applied."""
    outcomes = []
    for result in results:
        changed = ready if isinstance(result, ProcessedResult) else failed
        if result.media_id in changed:
            changed.remove(result.media_id)
            outcomes.append(ResultOutcome.APPLIED)
        elif isinstance(result, ProcessedResult) and result.media_id in stray:
            outcomes.append(ResultOutcome.STRAY)
        else:
            outcomes.append(ResultOutcome.DUPLICATE)
    return outcomes


def _failure_record(result: FailedResult) -> dict[str, Any]:
    return {
        "media_id": result.media_id,
        "attempt": result.attempt,
        "error_code": result.error.code,
        "retryable": result.error.retryable,
    }


def _ready_record(result: ProcessedResult) -> dict[str, Any]:
    return {
        "media_id": result.media_id,
        "public_key": result.public_key,
        "width": result.width,
        "height": result.height,
        "placeholder": result.placeholder,
        "variants": _renditions(result),
    }


def _renditions(result: ProcessedResult) -> list[Variant]:
    """Return the variants, and first among them the rendition at `public_key`, if it is known."""
    if result.lists_main or not (
        result.width and result.height and result.content_type and result.size_bytes
    ):
        return result.variants
    main = Variant(
        name=MAIN_VARIANT,
        key=result.public_key,
        width=result.width,
        height=result.height,
        size_bytes=result.size_bytes,
        content_type=result.content_type,
    )
    return [main, *result.variants]
