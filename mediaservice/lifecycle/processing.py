"""Processing: handing pinned originals to workers, as often as it takes; `results` takes theirs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Executable, Integer, bindparam, select, text, update

from config.settings import Settings
from mediaservice import errors
from mediaservice.database import now_plus
from mediaservice.errors import MediaError
from mediaservice.keys import public_prefix
from mediaservice.lifecycle.rows import (
    NOT_DELETED,
    MediaRow,
    Rows,
    days_from_now,
    due_media,
    fresh_attempts,
    log_transition,
    log_transitions,
    update_for,
)
from mediaservice.messages import Job
from mediaservice.models import AWAITS_WORKER, HAS_FAILED, IS_LAST_ATTEMPT, Media
from mediaservice.states import Event, Status
from mediaservice.storage import Storage

_JOB_COLUMNS = (
    Media.c.id,
    Media.c.attempt,
    Media.c.raw_key,
    Media.c.raw_etag,
    Media.c.content_type,
    Media.c.size_bytes,
    now_plus(0).label("requested_at"),
)


@dataclass(frozen=True, slots=True)
class Claim:
    """A job to publish.

    `error_code` is what the previous attempt reported, None if it reported nothing;
    `attempts_left` is how many may follow.
    """

    job: Job
    request_id: str | None
    traceparent: str | None
    error_code: str | None
    attempts_left: int

    @property
    def is_resend(self) -> bool:
        """Whether the attempt before it has timed out, so that its job may still be waiting."""
        return self.job.attempt > 1 and self.error_code is None


class Processing:
    """Due jobs: claimed, given back, given up, and begun anew."""

    def __init__(self, rows: Rows, storage: Storage, settings: Settings) -> None:
        self._rows = rows
        self._storage = storage
        self._settings = settings
        self._claim = rows.prepare(self._claim_statement())

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
        """Log as timed out the attempts that these claims replace; not for claims given back."""
        for claim in claims:
            if claim.is_resend:
                log_transition(
                    Event.ATTEMPT_TIMED_OUT, claim.job.media_id, request_id=claim.request_id
                )

    def hold(self, job: Job) -> None:
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

    def _undo_attempt(self, job: Job, **values: Any) -> None:
        self._rows.execute(
            update(Media)
            .where(Media.c.id == job.media_id, text(AWAITS_WORKER), Media.c.attempt == job.attempt)
            .values(attempt=Media.c.attempt - 1, **values)
        )

    def give_up(self, limit: int) -> int:
        """Fail up to `limit` media whose last attempt has timed out; return how many."""
        overdue = due_media(text(IS_LAST_ATTEMPT), limit=limit)
        failed = self._rows.execute(
            update_for(Event.ATTEMPTS_EXHAUSTED)
            .where(Media.c.id.in_(overdue))
            .values(
                error_code=errors.PROCESSING_TIMEOUT,
                due_at=days_from_now(self._settings.failed_retention_days),
            )
            .returning(Media.c.id, Media.c.request_id)
        )
        log_transitions(Event.ATTEMPTS_EXHAUSTED, failed)
        return len(failed)

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
            update_for(Event.RETRY_REQUESTED)
            .where(Media.c.id.in_(select(taken.c.id)))
            .values(**fresh_attempts(self._settings.max_attempts))
            .returning(Media.c.id, Media.c.request_id)
        )
        log_transitions(Event.RETRY_REQUESTED, retried)
        return len(retried)

    def job_of_ready(self, media_id: UUID) -> Job:
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

    def _job(self, row: MediaRow) -> Job:
        return Job(
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
