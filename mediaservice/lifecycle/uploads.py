"""Uploads: promising one, checking what arrived, giving up on what did not.

The limits and every comparison of declared with stored are here.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import uuid_utils.compat
from sqlalchemy import (
    ColumnElement,
    Executable,
    Text,
    bindparam,
    case,
    func,
    literal,
    select,
    text,
    update,
)

from config.settings import Settings
from mediaservice import errors, metrics
from mediaservice.database import now_plus
from mediaservice.errors import Failure, MediaError
from mediaservice.keys import raw_key
from mediaservice.lifecycle.rows import (
    COLUMNS,
    NOT_DELETED,
    MediaRow,
    Rows,
    changed_row,
    due_media,
    fresh_attempts,
    log_transitions,
    update_for,
)
from mediaservice.models import IS_PENDING, IS_UNFINISHED, Media
from mediaservice.sniffing import sniff
from mediaservice.states import Event, Status
from mediaservice.storage import ObjectNotFound, PresignedUpload, Storage, UploadedObject

PENDING_RETRY_AFTER_SECONDS = 30

# The columns of a new row that the client decides, or that follow from its id.
_DECLARED = (
    "id",
    "owner_id",
    "owner_type",
    "raw_key",
    "content_type",
    "size_bytes",
    "checksum_sha256",
    "idempotency_key",
)
# HEIF is the container and HEIC its usual content: phones and browsers use either name.
_CANONICAL_TYPE = {"image/heif": "image/heic"}


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """What a client declares before uploading; `checksum_sha256` is in base64, like S3's."""

    owner_id: UUID
    owner_type: str
    content_type: str
    size_bytes: int
    checksum_sha256: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class RequestedUpload:
    """What a client needs to upload one media until `expires_at`."""

    media_id: UUID
    presigned: PresignedUpload
    expires_at: datetime


class Uploads:
    """From the request for a URL to a pinned original, or to the failure that says why not."""

    def __init__(self, rows: Rows, storage: Storage, settings: Settings) -> None:
        self._rows = rows
        self._storage = storage
        self._settings = settings
        self._insertion = rows.prepare(self._insert_statement())
        self._completion = rows.prepare(self._completion_statement())

    def request(self, request: UploadRequest) -> RequestedUpload:
        """Store a pending media and return its upload URL.

        With an idempotency key, a repeat of the same request returns the same media with a fresh
        URL while it is pending. Raises UPLOAD_TOO_LARGE, CONTENT_TYPE_NOT_ALLOWED,
        TOO_MANY_PENDING or IDEMPOTENCY_KEY_REUSED, or StoreUnavailable without keys to sign with.
        """
        settings = self._settings
        if request.size_bytes > settings.max_upload_bytes:
            raise MediaError(
                errors.UPLOAD_TOO_LARGE, details={"max_upload_bytes": settings.max_upload_bytes}
            )
        if request.content_type not in settings.allowed_content_types:
            raise MediaError(
                errors.CONTENT_TYPE_NOT_ALLOWED,
                details={"allowed_content_types": list(settings.allowed_content_types)},
            )
        media_id = uuid_utils.compat.uuid7()
        # Before there is a row: without keys for the store none should be left behind.
        presigned = self._presign(raw_key(media_id), request)
        row = self._insert(media_id, request)
        if row is None:
            row = self._renew(request)
            presigned = self._presign(row.raw_key, request)
        metrics.PRESIGNED_UPLOADS.inc()
        return RequestedUpload(row.id, presigned, row.expires_at)

    def complete(
        self,
        media_id: UUID,
        *,
        caller: UUID,
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> MediaRow:
        """Check the stored object against what was declared, pin it, and make its job due.

        A repeat returns the current row and never makes a second job. Raises MEDIA_NOT_FOUND,
        NOT_OWNER, UPLOAD_NOT_FOUND (still pending), UPLOAD_EXPIRED, SIZE_MISMATCH,
        CONTENT_MISMATCH, CHECKSUM_MISMATCH, or StoreUnavailable with nothing changed.
        """
        row = self._rows.owned(media_id, caller)
        if row.status != Status.PENDING:
            return _outcome(row)
        try:
            found = self._storage.inspect_upload(
                row.raw_key, with_checksum=row.checksum_sha256 is not None
            )
        except ObjectNotFound:
            failure = errors.UPLOAD_EXPIRED if row.upload_expired else errors.UPLOAD_NOT_FOUND
            raise MediaError(failure) from None
        content_type = sniff(found.first_bytes)
        rejection = _difference(row, found, content_type)
        if rejection is None:
            completed = self._completion.run(
                media_id=media_id,
                found_etag=found.etag,
                found_type=content_type,
                caller_request_id=request_id,
                caller_traceparent=traceparent,
            )
            changed = changed_row(Event.UPLOAD_COMPLETED, completed)
        else:
            changed = self._rows.transition(
                Event.UPLOAD_REJECTED,
                media_id,
                error_code=rejection.code,
                # While its URL lives, the object is what keeps another from being stored.
                due_at=row.upload_expires_at + self._grace,
            )
        return _outcome(changed or self._rows.owned(media_id, caller))

    def expire(self, limit: int) -> int:
        """Fail up to `limit` uploads whose deadline has passed; return how many."""
        expired = self._rows.execute(
            update_for(Event.UPLOAD_EXPIRED)
            .where(Media.c.id.in_(due_media(text(IS_PENDING), limit=limit)))
            .values(error_code=errors.UPLOAD_EXPIRED.code, due_at=now_plus(0))
            .returning(Media.c.id, Media.c.request_id)
        )
        log_transitions(Event.UPLOAD_EXPIRED, expired)
        return len(expired)

    @property
    def _grace(self) -> timedelta:
        return timedelta(seconds=self._settings.upload_grace_seconds)

    def _deadlines(self) -> dict[str, Any]:
        ttl = self._settings.upload_url_ttl_seconds
        return {
            "upload_expires_at": now_plus(ttl),
            "due_at": now_plus(ttl + self._settings.upload_grace_seconds),
        }

    def _presign(self, key: str, request: UploadRequest) -> PresignedUpload:
        return self._storage.presign_upload(
            key,
            content_type=request.content_type,
            size_bytes=request.size_bytes,
            checksum_sha256=request.checksum_sha256,
            ttl_seconds=self._settings.upload_url_ttl_seconds,
        )

    def _insert(self, media_id: UUID, request: UploadRequest) -> MediaRow | None:
        """Insert a pending row, or return None: too many pending, or the key was used before."""
        values = {
            "id": media_id,
            "owner_id": request.owner_id,
            "owner_type": request.owner_type,
            "raw_key": raw_key(media_id),
            "content_type": request.content_type,
            "size_bytes": request.size_bytes,
            "checksum_sha256": request.checksum_sha256,
            "idempotency_key": request.idempotency_key,
        }
        # Parallel requests of one owner go one by one, so that none counts without the others.
        inserted = self._insertion.run_alone(_lock_number(request.owner_id), **values)
        return changed_row(Event.UPLOAD_REQUESTED, inserted)

    def _insert_statement(self) -> Executable:
        """Return the statement that inserts a pending row if its owner may have one more."""
        columns = Media.c
        values: dict[str, ColumnElement[Any]] = {
            name: bindparam(name, type_=columns[name].type) for name in _DECLARED
        }
        values |= {
            "status": literal(Status.PENDING.value),
            "created_at": now_plus(0),
            "updated_at": now_plus(0),
            "attempt": literal(0),
            "attempts_left": literal(0),
            **self._deadlines(),
        }
        pending = (
            select(
                func.count().label("uploads"),
                func.coalesce(func.sum(Media.c.size_bytes), 0).label("size_bytes"),
            )
            .where(Media.c.owner_id == values["owner_id"], text(IS_UNFINISHED))
            .subquery("pending")
        )
        source = select(*values.values()).where(
            pending.c.uploads < self._settings.max_pending_uploads,
            pending.c.size_bytes + values["size_bytes"] <= self._settings.max_pending_bytes,
        )
        return (
            self._rows.insert()
            .from_select(list(values), source)
            .on_conflict_do_nothing(
                index_elements=["owner_id", "idempotency_key"],
                index_where=Media.c.idempotency_key.is_not(None),
            )
            .returning(Media.c.id, Media.c.upload_expires_at.label("expires_at"))
        )

    def _completion_statement(self) -> Executable:
        """Return the statement that pins an upload's bytes and makes its job due."""
        return (
            update_for(Event.UPLOAD_COMPLETED)
            .where(Media.c.id == bindparam("media_id"))
            .values(
                raw_etag=bindparam("found_etag", type_=Text),
                content_type=bindparam("found_type", type_=Text),
                **fresh_attempts(self._settings.max_attempts),
                request_id=bindparam("caller_request_id", type_=Text),
                traceparent=bindparam("caller_traceparent", type_=Text),
            )
            .returning(*COLUMNS)
        )

    def _renew(self, request: UploadRequest) -> MediaRow:
        """Return the pending row of an earlier, equal request with new deadlines, or raise."""
        if request.idempotency_key is None:
            raise _too_many_pending(self._settings)
        mine = (
            Media.c.owner_id == request.owner_id,
            Media.c.idempotency_key == request.idempotency_key,
        )
        renewed = self._rows.execute(
            update(Media)
            .where(
                *mine,
                Media.c.status == Status.PENDING,
                NOT_DELETED,
                Media.c.owner_type == request.owner_type,
                Media.c.content_type == request.content_type,
                Media.c.size_bytes == request.size_bytes,
                Media.c.checksum_sha256.is_not_distinct_from(request.checksum_sha256),
            )
            # An earlier URL may have been made for longer than the setting is now.
            .values(
                {
                    name: case((Media.c[name] > deadline, Media.c[name]), else_=deadline)
                    for name, deadline in self._deadlines().items()
                }
            )
            .returning(
                Media.c.id,
                Media.c.raw_key,
                now_plus(self._settings.upload_url_ttl_seconds).label("expires_at"),
            )
        )
        if renewed:
            return renewed[0]
        used = self._rows.execute(select(Media.c.id, Media.c.deleted_at).where(*mine))
        if not used:
            raise _too_many_pending(self._settings)
        raise MediaError(
            errors.IDEMPOTENCY_KEY_REUSED,
            details={} if used[0].deleted_at else {"upload_id": str(used[0].id)},
        )


def _too_many_pending(settings: Settings) -> MediaError:
    return MediaError(
        errors.TOO_MANY_PENDING,
        retry_after_seconds=PENDING_RETRY_AFTER_SECONDS,
        details={
            "max_pending_uploads": settings.max_pending_uploads,
            "max_pending_bytes": settings.max_pending_bytes,
        },
    )


def _lock_number(owner_id: UUID) -> int:
    """Return a 64-bit signed number for PostgreSQL's advisory locks."""
    return int.from_bytes(owner_id.bytes[8:], signed=True)


def _difference(row: MediaRow, found: UploadedObject, content_type: str | None) -> Failure | None:
    """Return how the stored object differs from what was declared, or None."""
    if found.size_bytes != row.size_bytes:
        return errors.SIZE_MISMATCH
    if found.content_type != row.content_type or content_type is None:
        return errors.CONTENT_MISMATCH
    if _canonical(content_type) != _canonical(row.content_type):
        return errors.CONTENT_MISMATCH
    if found.checksum_sha256 and found.checksum_sha256 != row.checksum_sha256:
        return errors.CHECKSUM_MISMATCH
    return None


def _canonical(content_type: str) -> str:
    return _CANONICAL_TYPE.get(content_type, content_type)


def _outcome(row: MediaRow) -> MediaRow:
    """Return a completed media, or raise the failure that ended its upload."""
    if row.raw_etag is None:
        raise MediaError(errors.UPLOAD_FAILURES[row.error_code])
    return row
