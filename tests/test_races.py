"""What happens when things happen at the same time: threads with connections of their own, on
PostgreSQL, whose locks are part of the design.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from mediaservice import errors
from mediaservice.errors import MediaError
from mediaservice.models import Media
from tests.builders import jpeg
from tests.world import failed, processed

ROUNDS = 8


@pytest.fixture
def worlds(make_world):
    """Two services, as two processes would be."""
    return make_world(), make_world()


def at_once(*calls):
    """Run the calls in threads that start together; return what each returned or raised."""
    barrier = threading.Barrier(len(calls))

    def run(call):
        barrier.wait()
        try:
            return call()
        except (MediaError, OperationalError) as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def failures_of(outcomes):
    return [o.failure for o in outcomes if isinstance(o, MediaError)]


def test_parallel_completes_make_one_job_and_give_one_answer(worlds):
    media_id = worlds[0].pending()
    caller = worlds[0].owner
    calls = [
        partial(w.uploads.complete, media_id, caller=caller)
        for w, _ in zip(cycle(worlds), range(8), strict=False)
    ]
    outcomes = at_once(*calls)
    assert failures_of(outcomes) == []
    assert {row.status for row in outcomes} == {"processing"}
    assert len({row.updated_at for row in outcomes}) == 1
    assert [claim.job.attempt for claim in worlds[0].processing.claim(10)] == [1]
    assert worlds[1].processing.claim(10) == []


@pytest.mark.parametrize(
    ("limit", "size_bytes", "requested", "allowed"),
    [
        ({"MAX_PENDING_UPLOADS": "5"}, 5, 12, 5),
        ({"MAX_PENDING_BYTES": "1000", "MAX_UPLOAD_BYTES": "1000"}, 300, 8, 3),
    ],
    ids=["uploads", "bytes"],
)
def test_parallel_requests_never_exceed_what_may_be_pending(
    make_world, limit, size_bytes, requested, allowed
):
    worlds = [make_world(**limit) for _ in range(2)]
    owner = uuid4()
    calls = [
        partial(w.request, size_bytes=size_bytes, owner_id=owner)
        for w, _ in zip(cycle(worlds), range(requested), strict=False)
    ]
    assert failures_of(at_once(*calls)) == [errors.TOO_MANY_PENDING] * (requested - allowed)


def test_parallel_requests_with_one_key_are_one_upload(worlds):
    owner = uuid4()
    for _ in range(ROUNDS):
        key = str(uuid4())
        calls = [
            partial(w.request, size_bytes=5, owner_id=owner, idempotency_key=key)
            for w, _ in zip(cycle(worlds), range(6), strict=False)
        ]
        outcomes = at_once(*calls)
        assert failures_of(outcomes) == []
        assert len({presigned.media_id for presigned in outcomes}) == 1


def test_parallel_requests_of_different_uploads_with_one_key_make_one(worlds):
    owner = uuid4()
    calls = [
        partial(w.request, size_bytes=1000 + n, owner_id=owner, idempotency_key="k")
        for w, n in zip(cycle(worlds), range(8), strict=False)
    ]
    assert failures_of(at_once(*calls)) == [errors.IDEMPOTENCY_KEY_REUSED] * 7
    assert worlds[0].count(Media.c.owner_id == owner) == 1


def test_parallel_claims_are_disjoint_and_within_their_limit(worlds):
    media_ids = {worlds[0].completed() for _ in range(40)}
    calls = [partial(w.processing.claim, 6) for w, _ in zip(cycle(worlds), range(8), strict=False)]
    batches = at_once(*calls)
    assert max(len(batch) for batch in batches) <= 6
    batches.append(worlds[0].processing.claim(100))
    claimed = [claim.job.media_id for batch in batches for claim in batch]
    assert len(claimed) == len(media_ids)
    assert set(claimed) == media_ids
    assert {claim.job.attempt for batch in batches for claim in batch} == {1}


def test_parallel_purges_are_disjoint(worlds):
    media_ids = {worlds[0].pending() for _ in range(12)}
    for media_id in media_ids:
        worlds[0].delete(media_id)
    calls = [partial(w.deletion.claim, 3) for w, _ in zip(cycle(worlds), range(6), strict=False)]
    batches = at_once(*calls)
    batches.append(worlds[0].deletion.claim(100))
    claimed = [row.id for batch in batches for row in batch]
    assert len(claimed) == len(media_ids)
    assert set(claimed) == media_ids


def test_a_deletion_and_a_success_leave_nothing_behind(worlds):
    one, other = worlds
    for _ in range(ROUNDS):
        job = one.claimed()
        one.put_public(job.media_id)
        at_once(partial(one.delete, job.media_id), partial(other.apply, processed(job)))
        assert one.status(job.media_id) == "deleted"
        one.purge_due()
        assert one.is_empty(job.media_id)
        assert one.row(job.media_id).due_at is not None


def test_a_success_at_the_moment_of_giving_up_counts(worlds):
    one, other = worlds
    for _ in range(ROUNDS):
        job = one.claimed()
        one.set(job.media_id, attempts_left=0)
        one.age(job.media_id, 601)
        at_once(partial(one.processing.give_up, 10), partial(other.apply, processed(job)))
        row = one.row(job.media_id)
        assert (row.status, row.error_code, row.due_at) == ("ready", None, None)


def test_completing_at_the_moment_of_expiry_has_one_outcome_and_tells_it(worlds):
    one, other = worlds
    for _ in range(ROUNDS):
        media_id = one.pending()
        one.age(media_id, 1300)
        answer, _ = at_once(partial(one.complete, media_id), partial(other.uploads.expire, 10))
        row = one.row(media_id)
        if isinstance(answer, MediaError):
            assert answer.failure is errors.UPLOAD_EXPIRED
            assert (row.status, row.error_code) == ("failed", "upload_expired")
        else:
            assert row.status == "processing"


def test_completing_while_it_is_deleted_makes_no_job(worlds):
    one, other = worlds
    for _ in range(ROUNDS):
        media_id = one.pending()
        answer, _ = at_once(
            partial(one.complete, media_id),
            partial(other.deletion.delete, media_id, caller=one.owner),
        )
        if isinstance(answer, MediaError):
            assert answer.failure is errors.MEDIA_NOT_FOUND
        assert one.status(media_id) == "deleted"
        assert one.processing.claim(10) == []
        one.purge_due()
        assert one.is_empty(media_id)


def test_renewing_at_the_moment_of_expiry_never_hands_out_a_url_for_a_dead_row(worlds):
    one, other = worlds
    for _ in range(ROUNDS):
        key = str(uuid4())
        media_id = one.request(size_bytes=5, idempotency_key=key).media_id
        one.age(media_id, 1300)
        answer, _ = at_once(
            partial(one.request, size_bytes=5, idempotency_key=key),
            partial(other.uploads.expire, 10),
        )
        if isinstance(answer, MediaError):
            assert answer.failure is errors.IDEMPOTENCY_KEY_REUSED
            assert one.status(media_id) == "failed"
        else:
            assert one.status(media_id) == "pending"
            one.delete(media_id)


def test_a_retry_at_the_moment_of_retirement_has_one_outcome(worlds):
    one, other = worlds
    for _ in range(ROUNDS):
        media_id = one.failed()
        one.age(media_id, days=8)
        answer, _ = at_once(
            partial(one.processing.retry, media_id), partial(other.deletion.retire, 10)
        )
        if isinstance(answer, MediaError):
            assert answer.failure is errors.MEDIA_NOT_FOUND
            assert one.status(media_id) == "deleted"
        else:
            assert one.status(media_id) == "processing"
            assert one.has_original(media_id)


def test_success_and_failure_of_one_attempt_end_ready(worlds):
    one, other = worlds
    for _ in range(ROUNDS):
        job = one.claimed()
        at_once(
            partial(one.apply, failed(job, retryable=True)),
            partial(other.apply, processed(job)),
            partial(other.apply, failed(job)),
        )
        assert one.status(job.media_id) == "ready"


def test_one_stray_answer_delivered_to_two_listeners_is_one_tombstone(worlds):
    one, other = worlds
    for _ in range(ROUNDS):
        media_id = uuid4()
        one.put_public(media_id)
        at_once(*(partial(w.apply, processed(media_id)) for w in (one, other)))
        assert one.status(media_id) == "deleted"
        one.purge_due()
        assert one.is_empty(media_id)


def test_the_same_answers_in_opposite_order_are_all_applied(worlds):
    """PostgreSQL ends a deadlock by an error, and the listener applies its batch again."""
    one, other = worlds
    jobs = [one.claimed() for _ in range(20)]
    strays = [uuid4() for _ in range(20)]
    results = [processed(job) for job in jobs] + [processed(media_id) for media_id in strays]
    for _ in range(3):
        at_once(
            partial(until_applied, one, results),
            partial(until_applied, other, results[::-1]),
            partial(until_applied, other, results[1::2] + results[::2]),
        )
    assert {one.status(job.media_id) for job in jobs} == {"ready"}
    assert {one.status(media_id) for media_id in strays} == {"deleted"}


def until_applied(world, results):
    for _ in range(20):
        try:
            world.apply(*results)
        except OperationalError:
            continue
        return
    pytest.fail("the batch was never applied")


def test_giving_back_a_job_that_was_answered_meanwhile_changes_nothing(worlds):
    one, other = worlds
    for _ in range(ROUNDS):
        claim = one.claim()
        at_once(
            partial(one.processing.give_back, claim, delay_seconds=0),
            partial(other.apply, processed(claim.job)),
        )
        assert one.status(claim.job.media_id) == "ready"
        assert one.row(claim.job.media_id).due_at is None


def test_a_purge_and_a_late_upload_leave_nothing_once_the_url_is_dead(worlds):
    one, other = worlds
    for _ in range(ROUNDS):
        media_id = one.pending()
        one.delete(media_id)
        at_once(one.purge_due, partial(other.put, media_id, jpeg()))
        one.age(media_id, 1300)
        one.purge_due()
        assert one.is_empty(media_id)
        assert one.row(media_id) is None


@pytest.mark.parametrize("task", ["dispatch", "expire", "retire", "give_up", "purge", "retry"])
def test_what_somebody_else_holds_is_passed_over_without_waiting(worlds, task):
    one, another = worlds
    make = {
        "dispatch": one.completed,
        "expire": one.pending,
        "retire": one.failed,
        "give_up": lambda: one.claimed().media_id,
        "purge": one.pending,
        "retry": one.failed,
    }[task]
    held, free = make(), make()
    for media_id in (held, free):
        if task == "give_up":
            one.set(media_id, attempts_left=0)
        if task == "purge":
            one.delete(media_id)
        one.age(media_id, days=8)
    do = {
        "dispatch": lambda: len(another.processing.claim(10)),
        "expire": lambda: another.uploads.expire(10),
        "retire": lambda: another.deletion.retire(10),
        "give_up": lambda: another.processing.give_up(10),
        "purge": lambda: len(another.deletion.claim(10)),
        "retry": lambda: another.processing.retry_failed(10, failed_before=another.now()),
    }[task]
    with one.lifecycle.rows.begin() as connection:
        lock = sa.select(Media.c.id).where(Media.c.id == held).with_for_update()
        assert connection.scalar(lock) == held
        assert do() == 1, "waiting would never end"
    assert [do(), do()] == [1, 0]
