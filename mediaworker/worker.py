"""One job in, one result out: fetch the pinned original, render it, store the renditions.

No AMQP here and no pixels: `consumer` consumes, `sandbox` decodes.
"""

import time
from collections.abc import Callable
from typing import Final

import structlog

from mediaservice import metrics
from mediaservice.messages import (
    FailedResult,
    Job,
    ProcessedResult,
    ProcessingError,
    Result,
    Variant,
)
from mediaservice.storage import ObjectChanged, ObjectNotFound, Storage, StoreUnavailable
from mediaworker.renditions import MAX_INPUT_BYTES, ImageError, Rendered, Rendition
from mediaworker.sandbox import DecoderUnavailable

Render = Callable[[bytes], Rendered]

log = structlog.get_logger(__name__)

# What the store or this machine may do to a job: code, and whether another attempt may help.
FAULTS: Final[dict[type[Exception], tuple[str, bool]]] = {
    ObjectNotFound: ("original_missing", False),
    ObjectChanged: ("original_changed", False),
    StoreUnavailable: ("store_unavailable", True),
    DecoderUnavailable: ("decoder_unavailable", True),
}
# For what nobody has foreseen.
INTERNAL_ERROR: Final = ("internal_error", True)


class WrongBuckets(Exception):
    """The service's buckets are others than this worker's; another attempt may find it mended."""


class Worker:
    """The three stages of a job, and all of them in turn."""

    def __init__(self, storage: Storage, render: Render) -> None:
        self._storage = storage
        self.render = render

    def process(self, job: Job) -> Result:
        """Make and store every rendition of one original; never raises, safe to repeat."""
        started_at = time.perf_counter()
        result: Result
        try:
            result = self.store(job, self.render(self.fetch(job)))
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the result
            result = describe_failure(job, error)
        report(job, result, started_at)
        return result

    def fetch(self, job: Job) -> bytes:
        """Return the pinned original.

        Raises ImageError for one that is too large to fetch, ObjectNotFound, ObjectChanged,
        StoreUnavailable, or WrongBuckets.
        """
        buckets = (self._storage.raw_bucket, self._storage.public_bucket)
        if buckets != (job.raw_bucket, job.public_bucket):
            raise WrongBuckets(
                f"the job is for {job.raw_bucket} and {job.public_bucket}, this worker's "
                f"S3_RAW_BUCKET and S3_PUBLIC_BUCKET are {buckets[0]} and {buckets[1]}"
            )
        if job.size_bytes > MAX_INPUT_BYTES:
            raise ImageError("image_too_large", f"more than {MAX_INPUT_BYTES} bytes")
        original = self._storage.read_original(job.raw_key, etag=job.raw_etag)
        _count_bytes(job, "in", len(original))
        return original

    def store(self, job: Job, rendered: Rendered) -> ProcessedResult:
        """Store the renditions and return the result. Raises StoreUnavailable.

        The keys follow from the media and the names alone, and the same original gives the same
        bytes: a repeated attempt writes what is there already.
        """
        variants = [self._store(job, variant) for variant in rendered.variants]
        main = self._store(job, rendered.main)
        _count_bytes(job, "out", sum(stored.size_bytes for stored in (main, *variants)))
        return ProcessedResult(
            media_id=job.media_id,
            attempt=job.attempt,
            public_key=main.key,
            width=main.width,
            height=main.height,
            content_type=main.content_type,
            size_bytes=main.size_bytes,
            variants=variants,
            placeholder=rendered.placeholder,
        )

    def _store(self, job: Job, rendition: Rendition) -> Variant:
        key = f"{job.public_prefix}{rendition.name}.webp"
        self._storage.write_public(key, rendition.data, content_type=rendition.content_type)
        return Variant(
            name=rendition.name,
            key=key,
            width=rendition.width,
            height=rendition.height,
            size_bytes=len(rendition.data),
            content_type=rendition.content_type,
        )


def report(job: Job, result: Result, started_at: float) -> None:
    """Log and count one job; `started_at` is the time.perf_counter at which it was taken."""
    seconds = time.perf_counter() - started_at
    code = result.error.code if isinstance(result, FailedResult) else None
    metrics.PROCESSING.labels(
        metrics.format_label(job.content_type), "failed" if code else "processed"
    ).observe(seconds)
    if code:
        metrics.PROCESSING_FAILURES.labels(code).inc()
    log.info(
        "message",
        media_id=str(job.media_id),
        attempt=job.attempt,
        content_type=job.content_type,
        size_bytes=job.size_bytes,
        outcome=code or "processed",
        duration_seconds=round(seconds, 6),
    )


def _count_bytes(job: Job, direction: str, size_bytes: int) -> None:
    image_format = metrics.format_label(job.content_type)
    metrics.PROCESSED_BYTES.labels(direction, image_format).inc(size_bytes)


def describe_failure(job: Job, error: Exception) -> FailedResult:
    """Log why a stage failed, and return the result that says so."""
    code: str
    if isinstance(error, ImageError):
        code, is_retryable = error.code, False
    elif type(error) in FAULTS:
        code, is_retryable = FAULTS[type(error)]
    else:
        code, is_retryable = INTERNAL_ERROR
        log.error("job_crashed", media_id=str(job.media_id), exc_info=error)
    log.warning("attempt_failed", media_id=str(job.media_id), code=code, reason=str(error))
    return FailedResult(
        media_id=job.media_id,
        attempt=job.attempt,
        error=ProcessingError(code=code, message=str(error)[:2000], retryable=is_retryable),
    )
