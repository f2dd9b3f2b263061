"""One job in, one answer out: fetch the pinned original, render it, store the renditions.

No AMQP here and no pixels: `__main__` consumes, `sandbox` decodes.
"""

from collections.abc import Callable

import structlog

from mediaservice.messages import (
    FailedResult,
    ProcessedResult,
    ProcessingError,
    ProcessRequest,
    Result,
    Variant,
)
from mediaservice.storage import ObjectChanged, ObjectNotFound, Storage, StoreUnavailable
from mediaworker.renditions import ImageError, Rendered, Rendition
from mediaworker.sandbox import DecoderUnavailable

log = structlog.get_logger(__name__)

Render = Callable[[bytes], Rendered]


class Worker:
    """Answers jobs; never raises for what an image, a message or the store does."""

    def __init__(self, storage: Storage, render: Render) -> None:
        self._storage = storage
        self._render = render

    def process(self, job: ProcessRequest) -> Result:
        """Make and store every rendition of one original; safe to repeat.

        The keys follow from the media and the names alone, and the same original gives the same
        bytes: a repeated attempt writes what is there already.
        """
        try:
            original = self._storage.read_original(job.raw_key, etag=job.raw_etag)
            rendered = self._render(original)
            variants = [self._store(job, variant) for variant in rendered.variants]
            main = self._store(job, rendered.main)
        except ImageError as error:
            return _failed(job, error.code, error.message)
        except ObjectNotFound:
            return _failed(job, "original_missing", "there is no object under raw_key")
        except ObjectChanged:
            return _failed(job, "original_changed", "the object's ETag is not raw_etag")
        except StoreUnavailable as error:
            return _failed(job, "store_unavailable", str(error), retryable=True)
        except DecoderUnavailable as error:
            return _failed(job, "decoder_unavailable", str(error), retryable=True)
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

    def _store(self, job: ProcessRequest, rendition: Rendition) -> Variant:
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


def _failed(job: ProcessRequest, code: str, message: str, *, retryable: bool = False) -> Result:
    log.warning("attempt_failed", media_id=str(job.media_id), code=code, reason=message)
    return FailedResult(
        media_id=job.media_id,
        attempt=job.attempt,
        error=ProcessingError(code=code, message=message[:2000], retryable=retryable),
    )
