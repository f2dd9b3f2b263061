"""A database, a store and the lifecycle over them, with the short cuts that scenarios are told in.

Time passes by `age`, which moves a media's own times back: nothing here waits.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
import uuid_utils.compat

from config.settings import Settings
from mediaservice.database import create_database_engine, now_plus
from mediaservice.keys import public_prefix
from mediaservice.lifecycle import (
    Claim,
    Lifecycle,
    MediaRow,
    RequestedUpload,
    ResultOutcome,
    UploadRequest,
)
from mediaservice.messages import (
    FailedResult,
    Job,
    ProcessedResult,
    ProcessingError,
    Result,
)
from mediaservice.models import Media
from mediaservice.storage import Storage
from tests.builders import jpeg

TIMES = (
    "created_at",
    "updated_at",
    "processed_at",
    "processing_requested_at",
    "upload_expires_at",
    "due_at",
    "deleted_at",
)


# Short enough to tell them apart from each other, never waited for.
SETTINGS = {
    "UPLOAD_URL_TTL_SECONDS": "900",
    "UPLOAD_GRACE_SECONDS": "300",
    "LATE_UPLOAD_SECONDS": "0",
    "PROCESSING_TIMEOUT_SECONDS": "600",
    "RETRY_BACKOFF_SECONDS": "10",
    "MAX_ATTEMPTS": "3",
    "FAILED_RETENTION_DAYS": "7",
}


class World:
    """One service's state, as a test sets it up and looks at it."""

    def __init__(self, environ: Mapping[str, str], client: Any) -> None:
        self.environ = dict(environ)
        self.settings = Settings.from_environ(environ)
        self.client = client
        self.storage = Storage(self.settings)
        self.engine = create_database_engine(self.settings.database_url)
        self.lifecycle = Lifecycle(self.engine, self.storage, self.settings)
        self.uploads = self.lifecycle.uploads
        self.processing = self.lifecycle.processing
        self.deletion = self.lifecycle.deletion
        self.owner = uuid4()

    def close(self) -> None:
        """Leave the database."""
        self.engine.dispose()

    # What clients, workers and the loop do.

    def request(self, body: bytes | None = None, **fields: Any) -> RequestedUpload:
        """Request an upload of the owner's."""
        values = {
            "owner_id": self.owner,
            "owner_type": "user",
            "content_type": "image/jpeg",
            "size_bytes": len(jpeg() if body is None else body),
        }
        return self.uploads.request(UploadRequest(**{**values, **fields}))

    def put(self, media_id: UUID, body: bytes, content_type: str = "image/jpeg") -> None:
        """Store an original, without a presigned URL."""
        self.client.put_object(
            Bucket=self.storage.raw_bucket,
            Key=f"uploads/{media_id}",
            Body=body,
            ContentType=content_type,
        )

    def put_public(self, media_id: UUID, name: str = "main.webp") -> str:
        """Store a public object as a worker does; return its key."""
        key = f"{public_prefix(media_id)}{name}"
        self.storage.write_public(key, b"RIFF", content_type="image/webp")
        return key

    def complete(self, media_id: UUID) -> MediaRow:
        """Complete an upload of the owner's."""
        return self.uploads.complete(media_id, caller=self.owner)

    def delete(self, media_id: UUID) -> None:
        """Delete a media of the owner's."""
        self.deletion.delete(media_id, caller=self.owner)

    def pending(self) -> UUID:
        """Return a media whose bytes are stored and not completed."""
        body = jpeg()
        media_id = self.request(body).media_id
        self.put(media_id, body)
        return media_id

    def completed(self) -> UUID:
        """Return a media that is due for its first attempt."""
        media_id = self.pending()
        self.complete(media_id)
        return media_id

    def claim(self) -> Claim:
        """Return the claim of a media that is being processed, its other media undisturbed."""
        media_id = self.completed()
        self.set(media_id, due_at=self.now() - timedelta(days=1000))
        (claim,) = self.processing.claim(1)
        assert claim.job.media_id == media_id
        return claim

    def claimed(self) -> Job:
        """Return the job of such a claim."""
        return self.claim().job

    def ready(self) -> UUID:
        """Return a media with its public object."""
        job = self.claimed()
        self.put_public(job.media_id)
        self.apply(processed(job))
        return job.media_id

    def failed(self, code: str = "corrupt_image") -> UUID:
        """Return a media whose processing failed for good."""
        job = self.claimed()
        self.apply(failed(job, code=code))
        return job.media_id

    def apply(self, *results: Result) -> list[ResultOutcome]:
        """Apply workers' results, as one batch; return what each has come to."""
        return self.lifecycle.results.begin(results)()

    def purge_due(self) -> int:
        """Purge what is due now; return how many media that were."""
        claimed = self.deletion.claim(100)
        for row in claimed:
            self.deletion.purge(row)
        return len(claimed)

    # What a test looks at and bends.

    def row(self, media_id: UUID) -> MediaRow | None:
        """Return the row as it is, a tombstone too."""
        return self.lifecycle.rows.find(media_id)

    def status(self, media_id: UUID) -> str | None:
        """Return the status of the row, `deleted` for a tombstone, None for no row."""
        row = self.row(media_id)
        if row is None:
            return None
        return "deleted" if row.deleted_at else str(row.status)

    def now(self) -> Any:
        """Return the database's time."""
        with self.engine.connect() as connection:
            return connection.scalar(sa.select(now_plus(0)))

    def set(self, media_id: UUID, **values: Any) -> None:
        """Write columns of a row, past every rule."""
        with self.engine.begin() as connection:
            connection.execute(sa.update(Media).where(Media.c.id == media_id).values(**values))

    def insert(self, **values: Any) -> UUID:
        """Insert a media that is due for its first attempt, without any object."""
        media_id: UUID = uuid_utils.compat.uuid7()
        row = {
            "id": media_id,
            "owner_id": self.owner,
            "owner_type": "user",
            "status": "processing",
            "raw_key": f"uploads/{media_id}",
            "raw_etag": '"e"',
            "content_type": "image/jpeg",
            "size_bytes": 1,
            "updated_at": now_plus(0),
            "upload_expires_at": now_plus(0),
            "due_at": now_plus(0),
            "attempt": 0,
            "attempts_left": 3,
        }
        with self.engine.begin() as connection:
            connection.execute(sa.insert(Media).values(**{**row, **values}))
        return media_id

    def count(self, *conditions: sa.ColumnElement[bool]) -> int:
        """Return how many rows the conditions hold for."""
        with self.engine.connect() as connection:
            found = sa.select(sa.func.count()).select_from(Media).where(*conditions)
            return int(connection.scalar(found) or 0)

    def age(self, media_id: UUID, seconds: float = 0, **more: float) -> None:
        """Let time pass for one media: each of its times is that much longer ago."""
        passed = timedelta(seconds=seconds, **more)
        row = self.row(media_id)
        assert row is not None
        times = {name: getattr(row, name) for name in TIMES}
        self.set(media_id, **{name: time - passed for name, time in times.items() if time})

    def has_original(self, media_id: UUID) -> bool:
        """Return whether there is an object under the media's raw key."""
        return self._has(self.storage.raw_bucket, f"uploads/{media_id}")

    def public_keys(self, media_id: UUID) -> list[str]:
        """Return the keys of the media's public objects."""
        prefix = public_prefix(media_id)
        return [
            entry.key for entry in self.storage.list_objects(self.storage.public_bucket, prefix)
        ]

    def is_empty(self, media_id: UUID) -> bool:
        """Return whether neither bucket has anything of the media."""
        return not self.has_original(media_id) and not self.public_keys(media_id)

    def _has(self, bucket: str, key: str) -> bool:
        return any(entry.key == key for entry in self.storage.list_objects(bucket, key))


def processed(job: Job | UUID, **fields: Any) -> ProcessedResult:
    """Return the success of a job, or, given only an id, that of a minimal foreign worker."""
    if isinstance(job, UUID):
        return ProcessedResult(media_id=job, public_key=f"{public_prefix(job)}main.webp", **fields)
    return ProcessedResult(
        media_id=job.media_id,
        public_key=f"{job.public_prefix}main.webp",
        **{"attempt": job.attempt, "width": 64, "height": 48, **fields},
    )


def failed(job: Job | UUID, *, code: str = "corrupt_image", **fields: Any) -> Result:
    """Return the failure of a job; `retryable` and `attempt` may be given."""
    error = ProcessingError(code=code, retryable=fields.pop("retryable", False))
    if isinstance(job, UUID):
        return FailedResult(media_id=job, error=error, **fields)
    return FailedResult(media_id=job.media_id, error=error, **{"attempt": job.attempt, **fields})
