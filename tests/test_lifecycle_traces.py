"""What a change of status leaves for audits: one line with the media and the request it goes on."""

from datetime import timedelta
from functools import partial
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from mediaservice.states import Event
from tests.builders import jpeg
from tests.world import failed, processed


@pytest.fixture
def database_url(sqlite_url):
    return sqlite_url


def lines_of(act):
    """Return the lines that an action leaves, without their level."""
    with capture_logs() as lines:
        act()
    return [{key: line[key] for key in line if key != "log_level"} for line in lines]


def line_of(event, media_id, **facts):
    return {
        "event": "media_transition",
        "transition": event.value,
        "media_id": str(media_id),
        **facts,
    }


def requested(world):
    """Return a media that was completed by the request `r1`, and its first job."""
    media_id = world.pending()
    world.uploads.complete(media_id, caller=world.owner, request_id="r1", traceparent="t1")
    (claim,) = world.processing.claim(1)
    assert (claim.request_id, claim.traceparent) == ("r1", "t1")
    return claim.job


def test_an_upload(world):
    made = []
    lines = lines_of(lambda: made.append(world.request()))
    assert lines == [line_of(Event.UPLOAD_REQUESTED, made[0].media_id)]
    assert lines_of(lambda: world.request(size_bytes=5, idempotency_key="k"))
    assert lines_of(lambda: world.request(size_bytes=5, idempotency_key="k")) == [], (
        "a repeat changes no status"
    )


def test_an_upload_completed_twice(world):
    media_id = world.pending()
    complete = partial(world.complete, media_id)
    assert lines_of(complete) == [line_of(Event.UPLOAD_COMPLETED, media_id)]
    assert lines_of(complete) == []


def test_an_upload_rejected(world):
    media_id = world.request(size_bytes=1).media_id
    world.put(media_id, jpeg())

    def complete():
        with pytest.raises(Exception, match="size_mismatch"):
            world.complete(media_id)

    assert lines_of(complete) == [line_of(Event.UPLOAD_REJECTED, media_id)]


def test_uploads_expired(world):
    media_id = world.pending()
    world.age(media_id, 1300)
    expire = partial(world.uploads.expire, 10)
    assert lines_of(expire) == [line_of(Event.UPLOAD_EXPIRED, media_id, request_id=None)]


def test_a_success(world):
    job = requested(world)
    apply = partial(world.apply, processed(job))
    assert lines_of(apply) == [line_of(Event.PROCESSED, job.media_id, request_id="r1")]
    assert lines_of(apply) == []


@pytest.mark.parametrize(
    ("retryable", "event"), [(True, Event.ATTEMPT_FAILED), (False, Event.PROCESSING_FAILED)]
)
def test_a_failure(world, retryable, event):
    job = requested(world)
    apply = partial(world.apply, failed(job, retryable=retryable))
    assert lines_of(apply) == [line_of(event, job.media_id, request_id="r1")]


def test_a_first_attempt_replaces_none_that_timed_out(world):
    world.completed()
    claims = world.processing.claim(10)
    assert len(claims) == 1
    assert lines_of(partial(world.processing.log_time_outs, claims)) == []


def test_attempts_without_an_answer(world):
    job = requested(world)
    for _ in range(2):
        world.age(job.media_id, 601)
        claims = world.processing.claim(10)
        keep = partial(world.processing.log_time_outs, claims)
        line = line_of(Event.ATTEMPT_TIMED_OUT, job.media_id, request_id="r1")
        assert lines_of(keep) == [line]
    world.age(job.media_id, 601)
    give_up = partial(world.processing.give_up, 10)
    assert lines_of(give_up) == [line_of(Event.ATTEMPTS_EXHAUSTED, job.media_id, request_id="r1")]


def test_retries(world):
    one, another = world.failed(), world.failed()
    retry = partial(world.processing.retry, one)
    assert lines_of(retry) == [line_of(Event.RETRY_REQUESTED, one)]
    later = world.now() + timedelta(days=1)
    retry_all = partial(world.processing.retry_failed, 10, failed_before=later)
    assert lines_of(retry_all) == [line_of(Event.RETRY_REQUESTED, another, request_id=None)]


def test_a_deletion(world):
    media_id = world.request().media_id
    delete = partial(world.delete, media_id)
    assert lines_of(delete) == [line_of(Event.DELETE_REQUESTED, media_id)]
    assert lines_of(delete) == []


def test_a_takedown(world):
    media_id = world.request().media_id
    take_down = partial(world.deletion.take_down, media_id)
    assert lines_of(take_down) == [line_of(Event.DELETE_REQUESTED, media_id, reason="taken_down")]
    assert lines_of(take_down) == []


@pytest.mark.parametrize(
    ("stage", "reason"), [("retire", "retention"), ("erase", "erased")], ids=["retire", "erase"]
)
def test_deletions_by_the_number(world, stage, reason):
    job = requested(world)
    world.apply(failed(job))
    world.age(job.media_id, days=8)
    owner = [world.owner] if stage == "erase" else []
    delete = partial(getattr(world.deletion, stage), *owner, 10)
    assert lines_of(delete) == [
        line_of(Event.DELETE_REQUESTED, job.media_id, request_id="r1", reason=reason)
    ]


def test_an_answer_for_a_media_that_nobody_knows_is_a_warning(world):
    media_id = uuid4()
    with capture_logs() as lines:
        world.apply(processed(media_id))
    assert lines == [{"event": "stray_result", "media_id": str(media_id), "log_level": "warning"}]
