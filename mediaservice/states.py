"""The state machine of a media: four statuses, the events, and which event may move which status.

Pure data. Nothing here touches a database; `lifecycle` is the only module that turns a transition
into SQL, and `docs/architecture.md` shows the same table to people (a test holds them equal).
"""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class Status(StrEnum):
    """Where a media stands; the values are the `media.status` column."""

    PENDING = "pending"  # a URL was handed out, no bytes accepted yet
    PROCESSING = "processing"  # the original is pinned, a worker owes a result
    READY = "ready"  # public objects exist; never regresses
    FAILED = "failed"  # `error_code` says why


class OwnerType(StrEnum):
    """On whose behalf the media was uploaded; the values are the `media.owner_type` column."""

    USER = "user"
    EVENT = "event"


NOBODY = UUID(int=0)
"""The owner of tombstones without a media; never a caller."""


class Event(StrEnum):
    """What can happen to a media."""

    UPLOAD_REQUESTED = "upload_requested"
    UPLOAD_COMPLETED = "upload_completed"
    UPLOAD_REJECTED = "upload_rejected"
    UPLOAD_EXPIRED = "upload_expired"
    PROCESSED = "processed"
    PROCESSING_FAILED = "processing_failed"
    ATTEMPT_FAILED = "attempt_failed"
    ATTEMPT_TIMED_OUT = "attempt_timed_out"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    RETRY_REQUESTED = "retry_requested"
    DELETE_REQUESTED = "delete_requested"


@dataclass(frozen=True, slots=True)
class Transition:
    """One row of the table: `event` moves a media from any of `sources` to `target`.

    `pinned_only` narrows the sources to media whose original was accepted (`raw_etag` is set): it
    is what tells a failed processing, which may still succeed, from a failed upload, which may not.
    A `target` of None leaves the status as it is (a deletion is a tombstone, not a status).
    """

    event: Event
    sources: tuple[Status, ...]
    target: Status | None
    pinned_only: bool = False


TRANSITIONS: dict[Event, Transition] = {
    transition.event: transition
    for transition in (
        Transition(Event.UPLOAD_REQUESTED, (), Status.PENDING),
        Transition(Event.UPLOAD_COMPLETED, (Status.PENDING,), Status.PROCESSING),
        Transition(Event.UPLOAD_REJECTED, (Status.PENDING,), Status.FAILED),
        Transition(Event.UPLOAD_EXPIRED, (Status.PENDING,), Status.FAILED),
        Transition(Event.PROCESSED, (Status.PROCESSING, Status.FAILED), Status.READY, True),
        Transition(Event.PROCESSING_FAILED, (Status.PROCESSING,), Status.FAILED),
        Transition(Event.ATTEMPT_FAILED, (Status.PROCESSING,), Status.PROCESSING),
        Transition(Event.ATTEMPT_TIMED_OUT, (Status.PROCESSING,), Status.PROCESSING),
        Transition(Event.ATTEMPTS_EXHAUSTED, (Status.PROCESSING,), Status.FAILED),
        Transition(Event.RETRY_REQUESTED, (Status.FAILED,), Status.PROCESSING, True),
        Transition(Event.DELETE_REQUESTED, tuple(Status), None),
    )
}
