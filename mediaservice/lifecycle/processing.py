"""Processing: handing pinned originals to workers, and taking their results.

A success counts whichever attempt it comes from, for the bytes were pinned; a failure counts only
for the current attempt. A ready media never regresses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any
from uuid import UUID

import msgspec
import structlog
from sqlalchemy import (
    Boolean,
    ColumnElement,
    Executable,
    Integer,
    Text,
    Uuid,
    bindparam,
    case,
    or_,
    select,
    text,
    update,
)

from config.settings import Settings
from mediaservice import errors, metrics
from mediaservice.database import Json, now_plus, recordset
from mediaservice.errors import MediaError
from mediaservice.keys import public_prefix
from mediaservice.lifecycle.rows import (
    NOT_DELETED,
    MediaRow,
    Rows,
    due_media,
    fresh_attempts,
    log_transition,
    log_transitions,
    transition,
)
from mediaservice.messages import (
    FailedResult,
    ProcessedResult,
    ProcessRequest,
    Result,
    Variant,
)
from mediaservice.models import AWAITS_WORKER, HAS_FAILED, IS_LAST_ATTEMPT, Media
from mediaservice.states import Event, Status
from mediaservice.storage import Storage

MAIN_VARIANT = "main"
MAX_BACKOFF_SECONDS = 3600
_JOB_COLUMNS = (
    Media.c.id,
    Media.c.attempt,
    Media.c.raw_key,
    Media.c.raw_etag,
    Media.c.content_type,
    Media.c.size_bytes,
    now_plus(0).label("requested_at"),
)

log = structlog.get_logger(__name__)
_encoder = msgspec.json.Encoder(uuid_format="hex")  # of UUIDs, what both databases understand


@dataclass(frozen=True, slots=True)
class Claim:
    """A job to publish.

    `error_code` is what the previous attempt reported, None if it reported nothing;
    `attempts_left` is how many may follow.
    """

    job: ProcessRequest
    request_id: str | None
    traceparent: str | None
    error_code: str | None
    attempts_left: int

    @property
    def is_resend(self) -> bool:
        """Whether the attempt before it has timed out, so that its job may still be waiting."""
        return self.job.attempt > 1 and self.error_code is None


class ResultOutcome(StrEnum):
    """What a worker's result has come to."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"  # changed nothing: a repeat, or too late
    STRAY = "stray"  # a success for a deleted or unknown media, whose objects are purged


class Processing:
    """From a due job to `ready`, or to a failure that can be retried."""

    def __init__(self, rows: Rows, storage: Storage, settings: Settings) -> None:
        self._rows = rows
        self._storage = storage
        self._settings = settings
        self._claim = rows.prepare(self._claim_statement())
        self._statements = {
            Event.PROCESSED: rows.prepare(self._ready_statement()),
            Event.ATTEMPT_FAILED: rows.prepare(self._failure_statement(Event.ATTEMPT_FAILED)),
            Event.PROCESSING_FAILED: rows.prepare(self._failure_statement(Event.PROCESSING_FAILED)),
        }

    def claim(self, limit: int) -> list[Claim]:
        """Begin an attempt for up to `limit` due media; return their jobs.

        The attempt is counted, and its time runs, from here on: if this process dies before it
        publishes, the media is due again when the time is up.
        """
        claimed = self._claim.run(batch_size=limit)
        self._forget_failures([row for row in claimed if row.error_code is not None])
        return [
            Claim(
                self._job(row), row.request_id, row.traceparent, row.error_code, row.attempts_left
            )
            for row in claimed
        ]

    def log_time_outs(self, claims: Sequence[Claim]) -> None:
        """Leave the trace of the attempts before claims that are not given back: they timed out."""
        for claim in claims:
            if claim.is_resend:
                log_transition(Event.ATTEMPT_TIMED_OUT, claim.job.media_id)

    def hold(self, job: ProcessRequest) -> None:
        """Take back a claimed resend that was not published, for the job still waits in the queue.

        The attempt stays the one that was published, but its time has been used up: a media that
        nobody gets round to fails in the end, and a late success still counts.
        """
        self._undo_attempt(job)

    def give_back(self, claim: Claim, *, delay_seconds: float) -> None:
        """Undo a claim whose job was not published: the attempt was not made."""
        self._undo_attempt(
            claim.job,
            attempts_left=Media.c.attempts_left + 1,
            error_code=claim.error_code,
            due_at=now_plus(delay_seconds),
        )

    def _undo_attempt(self, job: ProcessRequest, **values: Any) -> None:
        self._rows.execute(
            update(Media)
            .where(Media.c.id == job.media_id, text(AWAITS_WORKER), Media.c.attempt == job.attempt)
            .values(attempt=Media.c.attempt - 1, **values)
        )

    def give_up(self, limit: int) -> int:
        """Fail up to `limit` media whose last attempt has timed out; return how many."""
        overdue = due_media(text(IS_LAST_ATTEMPT), limit=limit)
        failed = self._rows.execute(
            transition(Event.ATTEMPTS_EXHAUSTED)
            .where(Media.c.id.in_(overdue))
            .values(error_code=errors.PROCESSING_TIMEOUT, due_at=self._failed_due_at())
            .returning(Media.c.id, Media.c.request_id)
        )
        log_transitions(Event.ATTEMPTS_EXHAUSTED, failed)
        return len(failed)

    def begin_results(self, results: Sequence[Result]) -> Callable[[], list[ResultOutcome]]:
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

        def end() -> list[ResultOutcome]:
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
            stray_ids = self._bury(processed.keys() - ready_ids)
            return _outcomes(results, ready_ids, stray_ids, failed_ids)

        return end

    def retry(self, media_id: UUID) -> MediaRow:
        """Give a media whose processing failed a new set of attempts; due now.

        Raises MEDIA_NOT_FOUND or RETRY_NOT_POSSIBLE.
        """
        row = self._rows.transition(
            Event.RETRY_REQUESTED,
            media_id,
            **fresh_attempts(self._settings.max_attempts),
        )
        if row is not None:
            return row
        self._rows.existing(media_id)
        raise MediaError(errors.RETRY_NOT_POSSIBLE)

    def retry_failed(
        self, limit: int, *, failed_before: datetime, error_code: str | None = None
    ) -> int:
        """Retry up to `limit` media whose processing failed before a time; return how many.

        The time is what lets a caller repeat this until it returns 0: what fails anew meanwhile
        is not taken again.
        """
        failed = (
            select(Media.c.id)
            .where(
                text(HAS_FAILED),
                Media.c.raw_etag.is_not(None),
                Media.c.updated_at < failed_before,
            )
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        if error_code is not None:
            failed = failed.where(Media.c.error_code == error_code)
        taken = failed.cte("failed")
        retried = self._rows.execute(
            transition(Event.RETRY_REQUESTED)
            .where(Media.c.id.in_(select(taken.c.id)))
            .values(**fresh_attempts(self._settings.max_attempts))
            .returning(Media.c.id, Media.c.request_id)
        )
        log_transitions(Event.RETRY_REQUESTED, retried)
        return len(retried)

    def job_of_ready(self, media_id: UUID) -> ProcessRequest:
        """Return the job of a ready media anew, to have lost public objects written again.

        Nothing about the media changes, now or by the result: a ready media never regresses. It
        helps where the worker writes the same keys again, as the reference worker does. Raises
        MEDIA_NOT_FOUND, or REPROCESSING_NOT_POSSIBLE.
        """
        rows = self._rows.execute(
            select(*_JOB_COLUMNS, Media.c.status).where(Media.c.id == media_id, NOT_DELETED)
        )
        if not rows:
            raise MediaError(errors.MEDIA_NOT_FOUND)
        if rows[0].status != Status.READY:
            raise MediaError(errors.REPROCESSING_NOT_POSSIBLE)
        return self._job(rows[0])

    def _job(self, row: MediaRow) -> ProcessRequest:
        return ProcessRequest(
            media_id=row.id,
            # 0 if the first was given back, though it had arrived and succeeded.
            attempt=row.attempt or 1,
            raw_bucket=self._storage.raw_bucket,
            raw_key=row.raw_key,
            raw_etag=row.raw_etag,
            content_type=row.content_type,
            size_bytes=row.size_bytes,
            public_bucket=self._storage.public_bucket,
            public_prefix=public_prefix(row.id),
            requested_at=row.requested_at,
        )

    def _forget_failures(self, claimed: Sequence[MediaRow]) -> None:
        """Clear the codes of earlier attempts, so that this one, unanswered, is seen to time out.

        Not by the claim itself: SQLite returns only what is there after it.
        """
        if claimed:
            self._rows.execute(
                update(Media)
                .where(
                    Media.c.id.in_([row.id for row in claimed]), Media.c.due_at == claimed[0].due_at
                )
                .values(error_code=None)
            )

    def _bury(self, media_ids: set[UUID]) -> set[UUID]:
        """Have the objects of deleted or unknown media purged; return which of these are."""
        if not media_ids:
            return set()
        with self._rows.begin() as connection:
            stray = {
                media_id
                for media_id in sorted(media_ids)
                if connection.execute(self._rows.tombstone(media_id).returning(Media.c.id)).first()
            }
        for media_id in stray:
            log.warning("stray_result", media_id=str(media_id))
        return stray

    def _failed_due_at(self) -> Any:
        return now_plus(timedelta(days=self._settings.failed_retention_days).total_seconds())

    def _claim_statement(self) -> Executable:
        batch_size = bindparam("batch_size", type_=Integer())
        due = due_media(text(AWAITS_WORKER), Media.c.attempts_left > 0, limit=batch_size)
        return (
            update(Media)
            .where(Media.c.id.in_(due), text(AWAITS_WORKER))
            .values(
                attempt=Media.c.attempt + 1,
                attempts_left=Media.c.attempts_left - 1,
                due_at=now_plus(self._settings.processing_timeout_seconds),
            )
            .returning(
                *_JOB_COLUMNS,
                Media.c.request_id,
                Media.c.traceparent,
                Media.c.error_code,
                Media.c.attempts_left,
                Media.c.due_at,
            )
        )

    def _ready_statement(self) -> Executable:
        records = recordset(
            self._rows.engine.dialect,
            media_id=Uuid(),
            public_key=Text(),
            width=Integer(),
            height=Integer(),
            variants=Json,
            placeholder=Text(),
        )
        days = self._settings.raw_retention_days
        return (
            transition(Event.PROCESSED)
            .where(Media.c.id == records.c.media_id)
            .values(
                public_key=records.c.public_key,
                width=records.c.width,
                height=records.c.height,
                variants=records.c.variants,
                placeholder=records.c.placeholder,
                processed_at=now_plus(0),
                error_code=None,
                due_at=now_plus(timedelta(days=days).total_seconds()) if days else None,
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
            self._rows.engine.dialect,
            media_id=Uuid(),
            attempt=Integer(),
            error_code=Text(),
            retryable=Boolean(),
        )
        statement = transition(event).where(
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
            .values(error_code=records.c.error_code, due_at=self._failed_due_at())
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
