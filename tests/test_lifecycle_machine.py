"""Any order of events, on PostgreSQL and a real store: hypothesis looks for one that breaks a rule.

Clients, workers, time and the loop each do what they may at any moment. A worker writes only while
its attempt may last, and a client uploads only while its URL lives; answers may come at any time.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from mediaservice.errors import MediaError
from mediaservice.keys import public_prefix
from mediaservice.messages import Job
from mediaservice.models import Media
from tests.builders import jpeg, png
from tests.world import World, failed, processed

URL_LIFE_SECONDS = 900
UPLOAD_SECONDS = URL_LIFE_SECONDS + 300
ATTEMPT_SECONDS = 600
LONG_SECONDS = 30 * 24 * 3600

# From the design, not from the code: where a media may go in one step. None is no row.
LEGAL = {
    ("pending", "processing"),
    ("pending", "failed"),
    ("processing", "ready"),
    ("processing", "failed"),
    ("failed", "processing"),
    ("failed", "ready"),
    ("pending", "deleted"),
    ("processing", "deleted"),
    ("ready", "deleted"),
    ("failed", "deleted"),
    ("deleted", None),
    (None, "deleted"),  # a stray answer: its objects are to be purged
}


@dataclass
class Known:
    """What the test knows of one media."""

    body: bytes
    status: str | None = "pending"
    seconds: float = 0
    jobs: list[tuple[Job, float]] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    """The service, its clients, its workers and the clock."""

    media = Bundle("media")
    jobs = Bundle("jobs")

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.known: dict[UUID, Known] = {}
        self.gone: set[UUID] = set()

    # Clients

    @rule(target=media)
    def request(self) -> UUID:
        body = jpeg(16, 16)
        media_id = self.world.request(body).media_id
        self.known[media_id] = Known(body)
        return media_id

    @rule(target=jobs)
    def upload(self) -> Job:
        """Go straight to where most can happen: a media that a worker has in hand."""
        job = self.world.claimed()
        self.known[job.media_id] = Known(jpeg(16, 16), "processing", jobs=[(job, 0)])
        return job

    @rule(target=media, job=jobs)
    def come_back(self, job: Job) -> UUID:
        return job.media_id

    @rule(media_id=media, honest=st.sampled_from([True, True, False]))
    def put(self, media_id: UUID, honest: bool) -> None:
        known = self.known[media_id]
        if known.seconds < UPLOAD_SECONDS and not self.world.has_original(media_id):
            self.world.put(media_id, known.body if honest else png(16, 16))

    @rule(media_id=media)
    def complete(self, media_id: UUID) -> None:
        self._attempt(self.world.complete, media_id)

    @rule(media_id=media)
    def retry(self, media_id: UUID) -> None:
        self._attempt(self.world.processing.retry, media_id)

    @rule(media_id=media)
    def delete(self, media_id: UUID) -> None:
        self._attempt(self.world.delete, media_id)

    # Workers

    @rule(target=jobs)
    def dispatch(self) -> Any:
        claimed = self.world.processing.claim(10)
        for claim in claimed:
            known = self.known[claim.job.media_id]
            known.jobs.append((claim.job, known.seconds))
        return multiple(*(claim.job for claim in claimed))

    @rule(job=jobs, name=st.sampled_from(["main.webp", "w640.webp"]))
    def write(self, job: Job, name: str) -> None:
        known = self.known[job.media_id]
        began = next(seconds for known_job, seconds in known.jobs if known_job == job)
        if known.seconds - began < ATTEMPT_SECONDS:
            self.world.put_public(job.media_id, name)

    @rule(job=jobs)
    def succeed(self, job: Job) -> None:
        self.world.apply(processed(job))

    @rule(job=consumes(jobs))
    def lose(self, job: Job) -> None:
        """Say nothing: the attempt times out."""

    @rule(job=jobs, retryable=st.booleans())
    def fail(self, job: Job, retryable: bool) -> None:
        self.world.apply(failed(job, retryable=retryable))

    @rule(media_id=media)
    def claim_a_success_without_a_job(self, media_id: UUID) -> None:
        self.world.apply(processed(media_id))

    @rule(media_id=media)
    def claim_a_failure_without_a_job(self, media_id: UUID) -> None:
        self.world.apply(failed(media_id))

    # Time and the loop

    @rule(media_id=media, seconds=st.sampled_from([30, 700, 1300, 8 * 24 * 3600]))
    def pass_time(self, media_id: UUID, seconds: float) -> None:
        self.known[media_id].seconds += seconds
        if self.world.row(media_id) is not None:
            self.world.age(media_id, seconds)

    @rule()
    def expire(self) -> None:
        self.world.uploads.expire(10)

    @rule()
    def give_up(self) -> None:
        self.world.processing.give_up(10)

    @rule()
    def retire(self) -> None:
        self.world.deletion.retire(10)

    @rule()
    def purge(self) -> None:
        self.world.purge_due()

    # What always holds

    @invariant()
    def every_change_is_legal(self) -> None:
        rows = self._rows()
        for media_id, known in self.known.items():
            row = rows.get(media_id)
            status = None if row is None else "deleted" if row.deleted_at else row.status
            if status != known.status:
                assert (known.status, status) in LEGAL
                known.status = status

    @invariant()
    def every_row_can_be_believed(self) -> None:
        for row in self._rows().values():
            if row.status == "ready":
                assert row.public_key.startswith(public_prefix(row.id))
            # Whatever is not at its end is due some time, so that nothing is ever forgotten.
            if row.status != "ready" or row.deleted_at:
                assert row.due_at is not None

    @invariant()
    def what_has_no_row_has_no_objects(self) -> None:
        # Nobody purges what has no row: objects that it gets later are still there when it has one
        # again, by a stray answer, or at the end, where all are looked at.
        gone = {media_id for media_id, known in self.known.items() if known.status is None}
        for media_id in gone ^ self.gone:
            assert self.world.is_empty(media_id)
        self.gone = gone

    def teardown(self) -> None:
        """Once all is deleted and long ago, nothing is left of it."""
        for media_id in self.known:
            self._attempt(self.world.delete, media_id)
        for _ in range(3):
            for media_id in self._rows():
                self.world.age(media_id, LONG_SECONDS)
            self.world.purge_due()
        assert self._rows() == {}
        assert all(self.world.is_empty(media_id) for media_id in self.known)

    def _rows(self) -> dict[UUID, Any]:
        with self.world.engine.connect() as connection:
            return {row.id: row for row in connection.execute(sa.select(Media))}

    def _attempt(self, act: Any, media_id: UUID) -> None:
        with suppress(MediaError):
            act(media_id)


@pytest.mark.timeout(600)  # which a failure needs, to be told in the fewest steps
def test_no_order_of_events_breaks_a_rule(world: World):
    run_state_machine_as_test(
        lambda: Machine(world),
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
