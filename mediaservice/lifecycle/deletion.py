"""Deletion: the owner's intent at once, the bytes soon after, the row when nothing can come back.

A deleted media is a tombstone (`deleted_at`) until its upload URL is dead, no worker can still be
writing, no slow upload can still arrive, and both buckets have been looked at again.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, or_, select, text, update

from config.settings import Settings
from mediaservice.database import now_plus
from mediaservice.errors import MEDIA_NOT_FOUND, NOT_OWNER, MediaError
from mediaservice.keys import public_prefix
from mediaservice.lifecycle.rows import (
    COLUMNS,
    IS_DUE,
    NOT_DELETED,
    MediaRow,
    Rows,
    due_media,
    log_transition,
    log_transitions,
    update_for,
)
from mediaservice.models import AWAITS_HOUSEKEEPING, HAS_FAILED, Media
from mediaservice.states import Event, Status
from mediaservice.storage import Storage

PURGE_LEASE_SECONDS = 120
PURGE_RETRY_SECONDS = 30
MAX_PURGE_RETRY_SECONDS = 900  # so that the alert on postponed purges goes on


class Deletion:
    """Tombstones, and the purging of whatever bytes a media should no longer have."""

    def __init__(self, rows: Rows, storage: Storage, settings: Settings) -> None:
        self._rows = rows
        self._storage = storage
        self._grace = timedelta(seconds=settings.upload_grace_seconds)
        self._late_upload = timedelta(seconds=settings.late_upload_seconds)
        self._processing_timeout = timedelta(seconds=settings.processing_timeout_seconds)
        self._failed_retention = timedelta(days=settings.failed_retention_days)
        self._raw_retention = timedelta(days=settings.raw_retention_days)

    def delete(self, media_id: UUID, *, caller: UUID) -> None:
        """Make a media invisible at once and its objects due for purging.

        The owner may repeat it. Raises MEDIA_NOT_FOUND, or NOT_OWNER.
        """
        if self._delete(Media.c.id == media_id, Media.c.owner_id == caller):
            log_transition(Event.DELETE_REQUESTED, media_id)
            return
        row = self._rows.find(media_id)
        if row is not None and row.owner_id == caller:
            return
        raise MediaError(MEDIA_NOT_FOUND if row is None or row.deleted_at else NOT_OWNER)

    def take_down(self, media_id: UUID) -> None:
        """Delete a media, whoever owns it; may be repeated. Raises MEDIA_NOT_FOUND."""
        if self._delete(Media.c.id == media_id):
            log_transition(Event.DELETE_REQUESTED, media_id, reason="taken_down")
        elif self._rows.find(media_id) is None:
            raise MediaError(MEDIA_NOT_FOUND)

    def erase(self, owner_id: UUID, limit: int) -> int:
        """Delete up to `limit` media of one owner; return how many. Repeat it until it returns 0.

        Whoever erases a person sees to it that they upload no more.
        """
        owned = (
            select(Media.c.id)
            .where(Media.c.owner_id == owner_id, NOT_DELETED)
            .order_by(Media.c.id)
            .limit(limit)
            .with_for_update()
            .cte("owned")
        )
        erased = self._delete(Media.c.id.in_(select(owned.c.id)))
        log_transitions(Event.DELETE_REQUESTED, erased, reason="erased")
        return len(erased)

    def retire(self, limit: int) -> int:
        """Delete up to `limit` failed media whose retention is over; return how many."""
        over = due_media(text(HAS_FAILED), self._is_retention_over(), limit=limit)
        retired = self._delete(Media.c.id.in_(over))
        log_transitions(Event.DELETE_REQUESTED, retired, reason="retention")
        return len(retired)

    def claim(self, limit: int) -> list[MediaRow]:
        """Lease up to `limit` media that have bytes to be purged; give each to `purge`."""
        due = due_media(
            text(AWAITS_HOUSEKEEPING),
            or_(
                Media.c.deleted_at.is_not(None),
                Media.c.status == Status.READY,
                # Those once pinned come here only if retention has been lengthened: `purge` then
                # just moves what is due.
                and_(
                    Media.c.status == Status.FAILED,
                    or_(Media.c.raw_etag.is_(None), ~self._is_retention_over()),
                ),
            ),
            limit=limit,
        )
        claimed = self._rows.execute(
            update(Media)
            .where(Media.c.id.in_(due))
            .values(due_at=now_plus(PURGE_LEASE_SECONDS))
            .returning(*COLUMNS, now_plus(0).label("claimed_at"))
        )
        return list(claimed)

    def purge(self, row: MediaRow) -> bool:
        """Delete what bytes one claimed media should not have, look again, set what is due next.

        Return False if some are there again: it is due again soon. Raises StoreUnavailable:
        `postpone` the media then.
        """
        if row.deleted_at is not None:
            return self._purge_tombstone(row)
        if row.status == Status.READY:
            return self._purge_original(row)
        return self._purge_failed(row)

    def schedule_stray_purge(self, media_id: UUID) -> None:
        """Have the objects of a media that is unknown or deleted purged; one that lives stays."""
        self._rows.execute(self._rows.tombstone_statement(media_id))

    def schedule_original_purge(self, media_id: UUID) -> None:
        """Have a ready media's original purged, although it was to be kept for longer."""
        self._rows.execute(
            update(Media)
            .where(
                Media.c.id == media_id,
                Media.c.status == Status.READY,
                or_(Media.c.due_at.is_(None), ~IS_DUE),
                NOT_DELETED,
            )
            .values(due_at=now_plus(0))
        )

    def postpone(self, row: MediaRow, *, is_refused: bool = False) -> None:
        """Make a claimed media due again later; the longer the store has refused it, the later."""
        seconds = PURGE_RETRY_SECONDS
        if is_refused:
            since = row.deleted_at or row.processed_at or row.updated_at
            age_seconds = int((row.claimed_at - since).total_seconds())
            seconds = min(max(seconds, age_seconds // 10), MAX_PURGE_RETRY_SECONDS)
        self._finish(row, due_at=now_plus(seconds))

    def _delete(self, *which: ColumnElement[bool]) -> Sequence[MediaRow]:
        """Make these media tombstones; return the `id` and `request_id` of each."""
        return self._rows.execute(
            update_for(Event.DELETE_REQUESTED)
            .where(*which)
            .values(deleted_at=now_plus(0), due_at=now_plus(0))
            .returning(Media.c.id, Media.c.request_id)
        )

    def _is_retention_over(self) -> ColumnElement[bool]:
        """Return the condition for failed media to be deleted."""
        return Media.c.updated_at <= now_plus(-self._failed_retention.total_seconds())

    def _purge_tombstone(self, row: MediaRow) -> bool:
        """Purge a deleted media, and remove its row once nothing can come any more."""
        if not self._purge(row, public_prefix(row.id)):
            return False
        if next_look := self._next_look(row):
            self._finish(row, due_at=next_look)
        else:
            self._rows.execute(delete(Media).where(_lease_of(row)))
        return True

    def _purge_failed(self, row: MediaRow) -> bool:
        """Purge what a failed upload has left, and again once a late one must have ended."""
        retention_over = row.updated_at + self._failed_retention
        if row.raw_etag is not None:  # it may yet succeed: it is purged as a tombstone only
            self._finish(row, due_at=retention_over)
            return True
        if not self._purge(row, public_prefix(row.id)):
            return False
        late_upload_over = row.upload_expires_at + self._late_upload
        is_open = row.claimed_at < late_upload_over < retention_over
        self._finish(row, due_at=late_upload_over if is_open else retention_over)
        return True

    def _purge_original(self, row: MediaRow) -> bool:
        """Purge a ready media's original, if it is due by the retention that is set now."""
        keep_until = row.processed_at + self._raw_retention if self._raw_retention else None
        if keep_until is not None and keep_until <= row.claimed_at:
            if not self._purge(row, None):
                return False
            keep_until = None
        self._finish(row, due_at=keep_until)
        return True

    def _purge(self, row: MediaRow, prefix: str | None) -> bool:
        """Purge what `Storage.purge` does; if it is not all gone, postpone the rest."""
        is_empty = self._storage.purge(raw_key=row.raw_key, public_prefix=prefix)
        if not is_empty:
            self.postpone(row)
        return is_empty

    def _next_look(self, row: MediaRow) -> datetime | None:
        """Return when to look for objects of a tombstone again, or None once nothing can come.

        Once its URL is dead and no worker can be writing; and once more for an upload that the
        store let begin in time, which may take as long as its client likes.
        """
        upload_over: datetime = row.upload_expires_at + self._grace
        processing_over: datetime = row.deleted_at + self._processing_timeout + self._grace
        soon = max(upload_over, processing_over)
        last = max(soon, row.upload_expires_at + self._late_upload)
        return next((look for look in (soon, last) if row.claimed_at < look), None)

    def _finish(self, row: MediaRow, *, due_at: Any) -> None:
        self._rows.execute(update(Media).where(_lease_of(row)).values(due_at=due_at))


def _lease_of(row: MediaRow) -> ColumnElement[bool]:
    """Return the condition that nobody has changed what is due since `row` was claimed."""
    return and_(Media.c.id == row.id, Media.c.due_at == row.due_at)
