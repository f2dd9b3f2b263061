"""Every operation on a media, on PostgreSQL and on SQLite, with objects in a real store.

Sequential scenarios; what happens at the same time is in `test_races`.
"""

import dataclasses
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

import msgspec
import pytest

from mediaservice import errors
from mediaservice.errors import MediaError
from mediaservice.messages import ProcessedResult, Variant
from mediaservice.models import Media
from mediaservice.states import NOBODY
from mediaservice.storage import StoreUnavailable
from tests.builders import jpeg, png, sha256
from tests.world import failed, processed

URL_LIFE = timedelta(seconds=900)
URL_DEAD = timedelta(seconds=1200)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database_url(request):
    return request.getfixturevalue(f"{request.param}_url")


def code_of(call, *arguments, **keywords):
    with pytest.raises(MediaError) as raised:
        call(*arguments, **keywords)
    return raised.value.failure


# uploads


def test_a_requested_upload_is_a_row_that_is_due_when_its_url_is_dead(world):
    presigned = world.request(size_bytes=77, owner_type="event")
    row = world.row(presigned.media_id)
    assert (row.status, row.owner_type, row.size_bytes) == ("pending", "event", 77)
    assert row.raw_key == f"uploads/{presigned.media_id}"
    assert row.upload_expires_at == presigned.expires_at == row.created_at + URL_LIFE
    assert row.due_at == row.created_at + URL_DEAD
    assert row.updated_at == row.created_at
    assert (row.attempt, row.attempts_left) == (0, 0)


def test_ids_grow_with_time(world):
    ids = [world.request().media_id for _ in range(10)]
    assert ids == sorted(ids)
    assert {media_id.version for media_id in ids} == {7}


def test_repeating_a_request_with_its_key_renews_the_deadlines(world):
    first = world.request(size_bytes=5, idempotency_key="k")
    world.age(first.media_id, 800)
    again = world.request(size_bytes=5, idempotency_key="k")
    assert again.media_id == first.media_id
    row = world.row(first.media_id)
    assert row.upload_expires_at == again.expires_at
    assert row.due_at == row.upload_expires_at + (URL_DEAD - URL_LIFE)
    assert row.upload_expires_at > row.created_at + URL_LIFE


def test_a_repeat_for_a_shorter_time_leaves_an_earlier_url_its_own(make_world):
    before, world = make_world(UPLOAD_URL_TTL_SECONDS="86400"), make_world()
    first = before.request(size_bytes=5, idempotency_key="k")
    again = world.request(size_bytes=5, idempotency_key="k", owner_id=before.owner)
    assert again.media_id == first.media_id
    row = world.row(first.media_id)
    assert row.upload_expires_at == first.expires_at
    assert row.due_at == first.expires_at + (URL_DEAD - URL_LIFE)
    assert timedelta(0) < again.expires_at - world.now() <= URL_LIFE


def test_a_request_can_be_repeated_after_its_url_died_and_before_it_is_expired(world):
    first = world.request(size_bytes=5, idempotency_key="k")
    world.age(first.media_id, 5000)
    assert world.request(size_bytes=5, idempotency_key="k").media_id == first.media_id
    assert world.uploads.expire(10) == 0


def test_the_key_of_a_deleted_upload_is_used_up(world):
    first = world.request(size_bytes=5, idempotency_key="k")
    world.delete(first.media_id)
    with pytest.raises(MediaError) as raised:
        world.request(size_bytes=5, idempotency_key="k")
    assert raised.value.failure is errors.IDEMPOTENCY_KEY_REUSED
    assert raised.value.details == {}


@pytest.mark.parametrize(
    "difference",
    [
        {"owner_type": "event"},
        {"content_type": "image/png"},
        {"size_bytes": 6},
        {"checksum_sha256": None},
        {"checksum_sha256": "0" * 43 + "="},
    ],
)
def test_a_key_is_for_the_same_request_only(world, difference):
    declared = {"size_bytes": 5, "checksum_sha256": f"{'A' * 43}=", "idempotency_key": "k"}
    first = world.request(**declared)
    before = world.row(first.media_id)
    assert code_of(world.request, **{**declared, **difference}) is errors.IDEMPOTENCY_KEY_REUSED
    assert world.row(first.media_id) == before
    assert world.request(**declared).media_id == first.media_id


def test_the_key_of_a_completed_upload_is_used_up(world):
    body = jpeg()
    media_id = world.request(body, idempotency_key="k").media_id
    world.put(media_id, body)
    world.complete(media_id)
    assert code_of(world.request, body, idempotency_key="k") is errors.IDEMPOTENCY_KEY_REUSED


def test_a_repeat_renews_no_other_upload(world):
    same_declared = {"size_bytes": 5}
    first = world.request(**same_declared, idempotency_key="k").media_id
    others = [
        world.request(**same_declared).media_id,
        world.request(**same_declared, idempotency_key="other").media_id,
        world.request(**same_declared, idempotency_key="k", owner_id=uuid4()).media_id,
    ]
    before = [world.row(media_id) for media_id in others]
    assert world.request(**same_declared, idempotency_key="k").media_id == first
    assert [world.row(media_id) for media_id in others] == before


@pytest.mark.parametrize("key", [None, "new"])
@pytest.mark.parametrize(
    "limits",
    [{"MAX_PENDING_UPLOADS": "2"}, {"MAX_PENDING_BYTES": "10", "MAX_UPLOAD_BYTES": "10"}],
    ids=["uploads", "bytes"],
)
def test_an_owner_has_only_so_many_pending_uploads(make_world, limits, key):
    world = make_world(**limits)
    first, second = (world.request(size_bytes=5).media_id for _ in range(2))
    with pytest.raises(MediaError) as raised:
        world.request(size_bytes=1, idempotency_key=key)
    assert raised.value.failure is errors.TOO_MANY_PENDING
    assert raised.value.retry_after_seconds == 30
    assert raised.value.details == {
        "max_pending_uploads": world.settings.max_pending_uploads,
        "max_pending_bytes": world.settings.max_pending_bytes,
    }
    assert world.request(size_bytes=10, owner_id=uuid4()), "an owner is not kept by another"
    world.delete(first)
    assert world.request(size_bytes=5, idempotency_key=key).media_id != second


def test_requests_without_a_key_are_uploads_of_their_own(world):
    assert world.request().media_id != world.request().media_id


def test_completing_pins_the_object(world):
    media_id = world.pending()
    row = world.complete(media_id)
    head = world.client.head_object(Bucket="raw", Key=row.raw_key)
    assert (row.status, row.raw_etag) == ("processing", head["ETag"])
    assert row.due_at == row.updated_at
    assert (row.attempt, row.attempts_left) == (0, 3)


PHOTO, DRAWING = jpeg(), png()


@pytest.mark.parametrize(
    ("declared", "stored", "failure"),
    [
        ({"size_bytes": len(PHOTO) + 1}, {}, errors.SIZE_MISMATCH),
        ({}, {"ContentType": "image/png"}, errors.CONTENT_MISMATCH),
        ({"content_type": "image/png"}, {"ContentType": "image/png"}, errors.CONTENT_MISMATCH),
        ({"size_bytes": 9}, {"Body": b"no image!"}, errors.CONTENT_MISMATCH),
        ({"size_bytes": 0}, {"Body": b""}, errors.CONTENT_MISMATCH),
        ({"checksum_sha256": sha256(DRAWING)}, {}, errors.CHECKSUM_MISMATCH),
        ({"checksum_sha256": sha256(PHOTO)}, {}, None),
        ({}, {}, None),
        (
            {"content_type": "image/png", "size_bytes": len(DRAWING)},
            {"ContentType": "image/png", "Body": DRAWING},
            None,
        ),
    ],
)
def test_what_is_stored_must_be_what_was_declared(world, declared, stored, failure):
    declared = {"content_type": "image/jpeg", "size_bytes": len(PHOTO), **declared}
    media_id = world.request(**declared).media_id
    arguments = {"ContentType": "image/jpeg", "Body": PHOTO, **stored}
    arguments["ChecksumSHA256"] = sha256(arguments["Body"])
    world.client.put_object(Bucket="raw", Key=f"uploads/{media_id}", **arguments)
    if failure is None:
        row = world.complete(media_id)
        assert (row.status, row.content_type) == ("processing", declared["content_type"])
    else:
        assert code_of(world.complete, media_id) is failure
        row = world.row(media_id)
        assert (row.status, row.error_code, row.raw_etag) == ("failed", failure.code, None)
        assert code_of(world.complete, media_id) is failure, "a repeat is told the same"


def test_completing_without_an_object_leaves_the_upload_pending(world):
    media_id = world.request().media_id
    before = world.row(media_id)
    assert code_of(world.complete, media_id) is errors.UPLOAD_NOT_FOUND
    assert world.row(media_id) == before
    world.age(media_id, 901)
    assert code_of(world.complete, media_id) is errors.UPLOAD_EXPIRED
    assert world.status(media_id) == "pending"


def test_only_the_owner_completes_an_upload(world):
    media_id = world.pending()
    stranger = partial(world.uploads.complete, caller=uuid4())
    assert code_of(stranger, media_id) is errors.NOT_OWNER
    assert world.status(media_id) == "pending"
    assert code_of(world.complete, uuid4()) is errors.MEDIA_NOT_FOUND
    world.delete(media_id)
    assert code_of(world.complete, media_id) is errors.MEDIA_NOT_FOUND


def test_what_may_not_be_uploaded_is_refused_with_the_limits(make_world):
    world = make_world(MAX_UPLOAD_BYTES="1000", ALLOWED_CONTENT_TYPES="image/png,image/jpeg")
    for declared, failure, details in (
        ({"size_bytes": 1001}, errors.UPLOAD_TOO_LARGE, {"max_upload_bytes": 1000}),
        (
            {"content_type": "image/webp", "size_bytes": 1},
            errors.CONTENT_TYPE_NOT_ALLOWED,
            {"allowed_content_types": ["image/png", "image/jpeg"]},
        ),
    ):
        with pytest.raises(MediaError) as raised:
            world.request(**declared)
        assert (raised.value.failure, raised.value.details) == (failure, details)
    assert world.request(size_bytes=1000)


def test_completing_twice_changes_nothing(world):
    media_id = world.completed()
    before = world.row(media_id)
    world.put(media_id, jpeg())
    after = world.complete(media_id)
    assert (after.raw_etag, after.updated_at) == (before.raw_etag, before.updated_at)


@pytest.mark.parametrize("retryable", [True, False])
def test_a_workers_code_named_as_a_failed_uploads_ends_no_upload(world, retryable):
    job = world.claimed()
    world.apply(failed(job, code="upload_expired", retryable=retryable))
    row = world.complete(job.media_id)
    assert (row.status, row.error_code) == (
        "processing" if retryable else "failed",
        "upload_expired",
    )


def test_an_upload_can_be_completed_after_its_url_died(world):
    media_id = world.pending()
    world.age(media_id, 1000)
    assert world.complete(media_id).status == "processing"


def test_a_rejected_upload_keeps_its_object_until_its_url_is_dead(world):
    """The object is what makes the store refuse another PUT under the same URL."""
    media_id = world.request(size_bytes=5).media_id
    world.put(media_id, jpeg())
    assert code_of(world.complete, media_id) is errors.SIZE_MISMATCH
    row = world.row(media_id)
    assert (row.status, row.error_code, row.raw_etag) == ("failed", "size_mismatch", None)
    assert row.due_at == row.created_at + URL_DEAD
    assert world.purge_due() == 0
    world.age(media_id, 1300)
    assert world.purge_due() == 1
    assert not world.has_original(media_id)
    assert world.status(media_id) == "failed"


def test_uploads_expire_oldest_first_when_they_are_due(world):
    early, late, alive, deleted = (world.request().media_id for _ in range(4))
    world.delete(deleted)
    for media_id, seconds in ((early, 5000), (late, 1300), (alive, 1100)):
        world.age(media_id, seconds)
    assert world.uploads.expire(1) == 1
    assert (world.status(early), world.status(late)) == ("failed", "pending")
    assert world.uploads.expire(10) == 1
    assert world.uploads.expire(10) == 0
    assert world.status(late) == "failed"
    assert world.row(late).error_code == "upload_expired"
    assert (world.status(alive), world.status(deleted)) == ("pending", "deleted")


def test_an_expired_upload_is_due_for_purging_at_once(world):
    media_id = world.pending()
    world.age(media_id, 1300)
    world.uploads.expire(10)
    row = world.row(media_id)
    assert row.due_at == row.updated_at


def test_other_due_media_do_not_use_up_the_limit_of_a_task(world):
    """Each task takes the longest due of its own kind, however much of other kinds is due."""
    expired = world.request().media_id
    failed_media = world.failed()
    exhausted = world.claimed().media_id
    world.set(exhausted, attempts_left=0)
    for media_id, days in ((expired, 1), (failed_media, 8), (exhausted, 2)):
        world.age(media_id, days=days)
    for decoy in (world.request().media_id, world.ready(), world.completed(), world.failed()):
        world.delete(decoy)
        world.age(decoy, days=100)
    claimable = world.completed()
    world.age(claimable, days=50)
    assert [claim.job.media_id for claim in world.processing.claim(1)] == [claimable]
    assert world.uploads.expire(1) == 1
    assert world.deletion.retire(1) == 1
    assert world.processing.give_up(1) == 1
    assert world.status(expired) == "failed"
    assert world.status(failed_media) == "deleted"
    assert world.status(exhausted) == "failed"
    assert world.status(claimable) == "processing"


@pytest.mark.parametrize("task", ["expire", "retire", "give_up"])
def test_a_task_does_no_more_than_it_is_told(world, task):
    for _ in range(3):
        media_id = {"expire": world.pending, "retire": world.failed, "give_up": world.completed}[
            task
        ]()
        if task == "give_up":
            world.set(media_id, attempts_left=0)
        world.age(media_id, days=8)
    do = {
        "expire": world.uploads.expire,
        "retire": world.deletion.retire,
        "give_up": world.processing.give_up,
    }[task]
    assert [do(2), do(2), do(2)] == [2, 1, 0]


def test_an_object_that_came_too_late_is_purged_with_the_expired_upload(world):
    media_id = world.pending()
    world.age(media_id, 1300)
    world.uploads.expire(10)
    assert world.purge_due() == 1
    assert world.is_empty(media_id)
    row = world.row(media_id)
    assert row.due_at == row.updated_at + timedelta(days=7)


def test_an_expired_upload_cannot_be_completed_even_with_its_object(world):
    media_id = world.pending()
    world.age(media_id, 1300)
    world.uploads.expire(10)
    assert code_of(world.complete, media_id) is errors.UPLOAD_EXPIRED


# claims and leases


def test_a_claim_is_a_job_with_everything_a_worker_needs(world):
    media_id = world.completed()
    (claim,) = world.processing.claim(10)
    row = world.row(media_id)
    assert claim.job.media_id == media_id
    assert (claim.job.raw_bucket, claim.job.raw_key) == ("raw", row.raw_key)
    assert claim.job.raw_etag == row.raw_etag
    assert (claim.job.content_type, claim.job.size_bytes) == ("image/jpeg", row.size_bytes)
    assert (claim.job.public_bucket, claim.job.public_prefix) == ("public", f"media/{media_id}/")
    assert (claim.job.attempt, claim.is_resend) == (1, False)
    assert row.due_at == claim.job.requested_at + timedelta(seconds=600)


def test_a_claimed_media_is_nobody_elses_until_its_lease_runs_out(world):
    job = world.claimed()
    assert world.processing.claim(10) == []
    world.age(job.media_id, 601)
    (again,) = world.processing.claim(10)
    assert (again.job.attempt, again.is_resend) == (2, True)
    assert again.job.raw_etag == job.raw_etag


def test_claims_are_limited_and_the_longest_due_come_first(world):
    media_ids = [world.completed() for _ in range(3)]
    for age, media_id in zip((10, 30, 20), media_ids, strict=True):
        world.age(media_id, age)
    first = [claim.job.media_id for claim in world.processing.claim(2)]
    assert set(first) == {media_ids[1], media_ids[2]}
    assert [claim.job.media_id for claim in world.processing.claim(2)] == [media_ids[0]]


def test_neither_deleted_nor_pending_media_are_claimed(world):
    world.pending()
    world.delete(world.completed())
    assert world.processing.claim(10) == []


def test_a_job_that_was_given_back_is_claimed_again_as_if_for_the_first_time(world):
    given_back = world.claim()
    media_id = given_back.job.media_id
    world.processing.give_back(given_back, delay_seconds=30)
    assert world.processing.claim(10) == []
    assert world.row(media_id).attempts_left == 3
    world.age(media_id, 31)
    (claim,) = world.processing.claim(10)
    assert claim.job.attempt == 1
    assert not claim.is_resend, "it was never published: there is nothing it would repeat"
    assert world.row(media_id).attempts_left == 2


def test_giving_back_too_late_changes_nothing(world):
    claim = world.claim()
    world.apply(processed(claim.job))
    before = world.row(claim.job.media_id)
    world.processing.give_back(claim, delay_seconds=30)
    assert world.row(claim.job.media_id) == before


@pytest.mark.parametrize("undo", ["hold", "give_back"])
def test_undoing_a_claim_is_for_that_attempt_of_that_media(world, undo):
    def undo_claim(claim):
        if undo == "hold":
            world.processing.hold(claim.job)
        else:
            world.processing.give_back(claim, delay_seconds=0)

    first, other = world.claim(), world.claim()
    world.age(first.job.media_id, 601)
    world.processing.claim(10)
    before = [world.row(claim.job.media_id) for claim in (first, other)]
    undo_claim(first)
    after = [world.row(claim.job.media_id) for claim in (first, other)]
    assert after == before, "a later one has begun"
    unknown = msgspec.structs.replace(other.job, media_id=uuid4())
    undo_claim(dataclasses.replace(other, job=unknown))
    assert world.row(other.job.media_id) == before[1]


@pytest.mark.parametrize("end", ["ready", "deleted"])
def test_holding_too_late_changes_nothing(world, end):
    job = world.claimed()
    if end == "ready":
        world.apply(processed(job))
    else:
        world.delete(job.media_id)
    before = world.row(job.media_id)
    world.processing.hold(job)
    assert world.row(job.media_id) == before


def test_a_held_resend_keeps_the_attempt_that_was_published(world):
    job = world.claimed()
    world.age(job.media_id, 601)
    (resend,) = world.processing.claim(10)
    world.processing.hold(resend.job)
    world.apply(failed(job, code="corrupt_image"))
    assert world.row(job.media_id).error_code == "corrupt_image"


def test_a_claim_that_was_suspended_forgets_no_failure_of_a_later_one(world, monkeypatch):
    media_id = world.claimed().media_id
    world.apply(failed(media_id, code="store_unavailable", retryable=True))
    world.age(media_id, 601)
    forget = world.processing._forget_failures

    def forget_late(claimed):
        monkeypatch.undo()
        world.age(media_id, 601)
        (after,) = world.processing.claim(10)
        world.apply(failed(after.job))
        forget(claimed)

    monkeypatch.setattr(world.processing, "_forget_failures", forget_late)
    world.processing.claim(10)
    assert world.row(media_id).error_code == "corrupt_image"


def test_a_media_that_nobody_answers_for_fails_after_its_last_attempt(world):
    job = world.claimed()
    for attempt in (2, 3):
        world.age(job.media_id, 601)
        assert world.processing.give_up(10) == 0
        (claim,) = world.processing.claim(10)
        assert claim.job.attempt == attempt
    assert world.processing.give_up(10) == 0
    world.age(job.media_id, 601)
    assert world.processing.claim(10) == []
    assert world.processing.give_up(10) == 1
    row = world.row(job.media_id)
    assert (row.status, row.error_code) == ("failed", "processing_timeout")
    assert row.due_at == row.updated_at + timedelta(days=7)


# successes


def test_a_success_makes_a_media_ready(world):
    job = world.claimed()
    world.apply(processed(job, width=2048, height=1365, placeholder="abcdefgh"))
    row = world.row(job.media_id)
    assert (row.status, row.public_key) == ("ready", f"media/{job.media_id}/main.webp")
    assert (row.width, row.height, row.placeholder) == (2048, 1365, "abcdefgh")
    assert row.processed_at == row.updated_at
    assert row.variants == []
    assert (row.due_at, row.error_code) == (None, None)


def test_the_rendition_at_the_public_key_is_the_first_variant_if_it_is_known(world):
    job = world.claimed()
    small = Variant(
        name="w640",
        key=f"{job.public_prefix}w640.webp",
        width=640,
        height=427,
        size_bytes=99,
        content_type="image/webp",
    )
    main = msgspec.structs.replace(
        small, name="main", key=f"{job.public_prefix}main.webp", width=2048, height=1365
    )
    whole = {"width": 2048, "height": 1365, "content_type": "image/webp", "size_bytes": 99}
    for facts, listed, kept in (
        (whole, [small], [main, small]),
        (whole, [small, main], [small, main]),
        *(({**whole, missing: None}, [small], [small]) for missing in whole),
    ):
        job = world.claimed()
        prefix = {"media_id": job.media_id, "public_key": f"{job.public_prefix}main.webp"}
        moved = [
            [msgspec.structs.replace(v, key=f"{job.public_prefix}{v.name}.webp") for v in variants]
            for variants in (listed, kept)
        ]
        world.apply(ProcessedResult(**prefix, **facts, variants=moved[0]))
        assert world.row(job.media_id).variants == msgspec.to_builtins(moved[1])


def test_a_minimal_foreign_worker_makes_a_media_ready(world):
    job = world.claimed()
    world.apply(processed(job.media_id))
    row = world.row(job.media_id)
    assert (row.status, row.width, row.placeholder) == ("ready", None, None)


def test_a_duplicate_success_changes_nothing(world):
    job = world.claimed()
    world.apply(processed(job, width=100))
    before = world.row(job.media_id)
    world.apply(processed(job, width=200), processed(job, width=300))
    assert world.row(job.media_id) == before


def test_a_success_of_an_earlier_attempt_counts(world):
    job = world.claimed()
    world.age(job.media_id, 601)
    world.processing.claim(10)
    world.apply(processed(job))
    assert world.status(job.media_id) == "ready"
    assert world.processing.claim(10) == []


@pytest.mark.parametrize("code", ["corrupt_image", "processing_timeout"])
def test_a_late_success_heals_a_failed_processing(world, code):
    media_id = world.failed(code)
    world.apply(processed(media_id))
    row = world.row(media_id)
    assert (row.status, row.error_code, row.due_at) == ("ready", None, None)


@pytest.mark.parametrize("end", ["expired", "rejected", "pending"])
def test_no_success_makes_an_upload_ready_that_was_never_accepted(world, end):
    body = jpeg()
    media_id = world.request(body if end != "rejected" else body + b"x").media_id
    world.put(media_id, body)
    if end == "expired":
        world.age(media_id, 1300)
        world.uploads.expire(10)
    if end == "rejected":
        code_of(world.complete, media_id)
    before = world.row(media_id)
    world.apply(processed(media_id))
    assert world.row(media_id) == before


# failures


def test_a_final_failure_ends_the_processing_with_its_code(world):
    job = world.claimed()
    world.apply(failed(job, code="image_too_large"))
    row = world.row(job.media_id)
    assert (row.status, row.error_code) == ("failed", "image_too_large")
    assert row.due_at == row.updated_at + timedelta(days=7)
    assert row.processed_at is None


def test_a_retryable_failure_is_tried_again_after_a_growing_wait(world):
    job = world.claimed()
    waits = []
    for _ in range(2):
        world.apply(failed(job, code="store_unavailable", retryable=True))
        row = world.row(job.media_id)
        assert row.status == "processing"
        waits.append((row.due_at - row.updated_at).total_seconds())
        assert world.processing.claim(10) == []
        world.age(job.media_id, waits[-1] + 1)
        (claim,) = world.processing.claim(10)
        assert claim.job.attempt == job.attempt + 1
        assert not claim.is_resend
        job = claim.job
    assert waits == [10, 20]
    world.apply(failed(job, code="store_unavailable", retryable=True))
    row = world.row(job.media_id)
    assert (row.status, row.error_code) == ("failed", "store_unavailable")


def test_an_attempt_that_times_out_after_a_failed_one_is_known_as_timed_out(world):
    job = world.claimed()
    world.apply(failed(job, code="store_unavailable", retryable=True))
    world.age(job.media_id, 11)
    (second,) = world.processing.claim(10)
    world.age(job.media_id, 601)
    (third,) = world.processing.claim(10)
    assert [(c.job.attempt, c.is_resend) for c in (second, third)] == [(2, False), (3, True)]


def test_an_attempt_that_times_out_after_a_retry_is_known_as_timed_out(world):
    media_id = world.failed()
    world.processing.retry(media_id)
    (second,) = world.processing.claim(10)
    world.age(media_id, 601)
    (third,) = world.processing.claim(10)
    assert [(c.job.attempt, c.is_resend) for c in (second, third)] == [(2, False), (3, True)]


def test_a_retry_that_was_given_back_is_still_no_resend(world):
    job = world.claimed()
    world.apply(failed(job, code="store_unavailable", retryable=True))
    world.age(job.media_id, 11)
    (second,) = world.processing.claim(10)
    world.processing.give_back(second, delay_seconds=0)
    (again,) = world.processing.claim(10)
    assert (again.job.attempt, again.is_resend) == (2, False)


@pytest.mark.parametrize(
    ("attempts_left", "seconds"),
    [(150, 10), (99, 10), (97, 40), (91, 2560), (90, 3600), (1, 3600)],
)
def test_the_wait_doubles_with_each_attempt_up_to_an_hour(make_world, attempts_left, seconds):
    world = make_world(MAX_ATTEMPTS="100")
    media_id = world.claimed().media_id
    world.set(media_id, attempts_left=attempts_left)
    world.apply(failed(media_id, retryable=True))
    row = world.row(media_id)
    assert row.status == "processing"
    assert row.due_at == row.updated_at + timedelta(seconds=seconds)


def test_a_new_set_of_attempts_waits_no_longer_than_the_first(world):
    media_id = world.failed()
    world.processing.retry(media_id)
    (claim,) = world.processing.claim(10)
    world.apply(failed(claim.job, retryable=True))
    row = world.row(media_id)
    assert (claim.job.attempt, row.due_at - row.updated_at) == (2, timedelta(seconds=10))


@pytest.mark.parametrize("retryable", [True, False])
def test_a_failure_that_comes_again_changes_nothing(world, retryable):
    job = world.claimed()
    world.apply(failed(job, code="store_unavailable", retryable=True))
    before = world.row(job.media_id)
    for answer in (job, job.media_id):
        again = failed(answer, code="internal_error", retryable=retryable)
        assert world.apply(again) == ["duplicate"]
    assert world.row(job.media_id) == before


def test_a_failure_of_an_earlier_attempt_is_ignored(world):
    first = world.claimed()
    world.age(first.media_id, 601)
    (second,) = world.processing.claim(10)
    before = world.row(first.media_id)
    world.apply(failed(first), failed(first, retryable=True))
    assert world.row(first.media_id) == before
    world.apply(failed(second.job))
    assert world.status(first.media_id) == "failed"


def test_a_failure_without_an_attempt_is_that_of_the_current_one(world):
    job = world.claimed()
    world.apply(failed(job.media_id))
    assert world.status(job.media_id) == "failed"


@pytest.mark.parametrize("retryable", [True, False])
def test_a_ready_media_never_fails(world, retryable):
    job = world.claimed()
    world.apply(processed(job))
    before = world.row(job.media_id)
    world.apply(failed(job, retryable=retryable), failed(job.media_id))
    assert world.row(job.media_id) == before


def test_a_duplicate_failure_changes_neither_the_code_nor_the_time(world):
    job = world.claimed()
    world.apply(failed(job, code="corrupt_image"))
    before = world.row(job.media_id)
    world.apply(failed(job, code="image_too_large"), failed(job, retryable=True))
    assert world.row(job.media_id) == before


@pytest.mark.parametrize("order", [1, -1])
def test_in_one_batch_a_success_wins_over_a_failure(world, order):
    job = world.claimed()
    world.apply(*[processed(job), failed(job)][::order])
    assert world.status(job.media_id) == "ready"


def test_a_batch_serves_every_media_in_it(world):
    good, bad, again = world.claimed(), world.claimed(), world.claimed()
    unknown = uuid4()
    world.apply(
        processed(good),
        failed(bad),
        failed(again, retryable=True),
        processed(unknown),
        failed(unknown),
    )
    states = [world.status(job.media_id) for job in (good, bad, again)]
    assert states == ["ready", "failed", "processing"]


def test_an_empty_batch_is_nothing(world):
    world.apply()


# retry


def test_a_retried_media_has_all_its_attempts_again(world):
    media_id = world.failed()
    row = world.processing.retry(media_id)
    assert (row.status, row.attempts_left, row.due_at) == ("processing", 3, row.updated_at)
    assert row.processing_requested_at == row.updated_at
    (claim,) = world.processing.claim(10)
    assert claim.job.attempt == 2
    assert not claim.is_resend
    world.apply(failed(media_id, attempt=1))
    assert world.status(media_id) == "processing", "an answer to the attempt before the retry"
    world.apply(processed(claim.job))
    assert world.row(media_id).error_code is None


def test_only_a_failed_processing_can_be_retried(world):
    rejected = world.request(size_bytes=5).media_id
    world.put(rejected, jpeg())
    code_of(world.complete, rejected)
    for media_id in (world.pending(), world.completed(), world.ready(), rejected):
        assert code_of(world.processing.retry, media_id) is errors.RETRY_NOT_POSSIBLE
    deleted = world.failed()
    world.delete(deleted)
    for media_id in (deleted, uuid4()):
        assert code_of(world.processing.retry, media_id) is errors.MEDIA_NOT_FOUND


def test_a_deleted_media_is_not_processed_again(world):
    media_id = world.ready()
    assert world.processing.job_of_ready(media_id).media_id == media_id
    world.delete(media_id)
    assert code_of(world.processing.job_of_ready, media_id) is errors.MEDIA_NOT_FOUND


def test_only_a_ready_media_is_processed_again(world):
    media_ids = [world.ready(), world.ready()]
    assert [world.processing.job_of_ready(m).media_id for m in media_ids] == media_ids
    for media_id in (world.pending(), world.completed(), world.failed()):
        not_ready = code_of(world.processing.job_of_ready, media_id)
        assert not_ready is errors.REPROCESSING_NOT_POSSIBLE
    assert code_of(world.processing.job_of_ready, uuid4()) is errors.MEDIA_NOT_FOUND


def test_a_media_that_is_ready_by_an_attempt_given_back_is_processed_again_as_a_first(world):
    claim = world.claim()
    world.processing.give_back(claim, delay_seconds=0)
    world.apply(processed(claim.job))
    row = world.row(claim.job.media_id)
    assert (row.status, row.attempt) == ("ready", 0)
    assert world.processing.job_of_ready(row.id).attempt == 1


def test_failed_media_are_retried_in_bulk(world):
    crashed = [world.failed("decoder_crashed") for _ in range(3)]
    corrupt = world.failed("corrupt_image")
    rejected = world.request(size_bytes=5).media_id
    world.put(rejected, jpeg())
    code_of(world.complete, rejected)
    deleted = world.failed("decoder_crashed")
    world.delete(deleted)
    others = [world.ready(), world.pending(), world.completed(), rejected, deleted]
    before = [world.row(media_id) for media_id in others]
    world.age(crashed[0], 20)
    moment = world.row(crashed[0]).updated_at
    assert world.processing.retry_failed(10, failed_before=moment) == 0
    after = world.now() + timedelta(seconds=1)
    crash = {"failed_before": after, "error_code": "decoder_crashed"}
    assert [world.processing.retry_failed(2, **crash) for _ in range(3)] == [2, 1, 0]
    assert world.status(corrupt) == "failed"
    assert world.processing.retry_failed(10, failed_before=after) == 1
    for media_id in (*crashed, corrupt):
        row = world.row(media_id)
        assert (row.status, row.attempts_left) == ("processing", 3)
        assert row.due_at == row.processing_requested_at == row.updated_at
    assert [world.row(media_id) for media_id in others] == before


def test_other_media_do_not_use_up_the_limit_of_a_retry_in_bulk(make_world):
    world = make_world(RAW_RETENTION_DAYS="30")
    rejected = world.request(size_bytes=5).media_id
    world.put(rejected, jpeg())
    code_of(world.complete, rejected)
    deleted = world.failed()
    world.delete(deleted)
    for decoy in (rejected, deleted, world.ready(), world.pending()):
        world.age(decoy, days=29)
    media_id = world.failed()
    assert world.processing.retry_failed(1, failed_before=world.now() + timedelta(days=1)) == 1
    assert world.status(media_id) == "processing"


# deletion


@pytest.mark.parametrize("stage", ["pending", "completed", "ready", "failed"])
def test_a_deleted_media_is_a_tombstone_until_nothing_can_come_any_more(world, stage):
    media_id = getattr(world, stage)()
    world.delete(media_id)
    row = world.row(media_id)
    assert row.due_at == row.deleted_at
    assert world.purge_due() == 1
    assert world.is_empty(media_id)
    assert world.purge_due() == 0
    row = world.row(media_id)
    timeout_over = row.deleted_at + timedelta(seconds=600 + 300)
    assert row.due_at == max(row.created_at + URL_DEAD, timeout_over)
    world.age(media_id, 1300)
    assert world.purge_due() == 1
    assert world.row(media_id) is None


def test_a_media_deleted_long_after_its_upload_stays_until_no_worker_can_be_writing(world):
    media_id = world.claimed().media_id
    world.age(media_id, days=1)
    world.delete(media_id)
    world.purge_due()
    row = world.row(media_id)
    assert row.due_at == row.deleted_at + timedelta(seconds=600 + 300)


def test_an_upload_after_the_purge_is_purged_when_its_url_is_dead(world):
    media_id = world.pending()
    world.delete(media_id)
    world.purge_due()
    world.put(media_id, jpeg())
    world.age(media_id, 1300)
    world.purge_due()
    assert world.is_empty(media_id)
    assert world.row(media_id) is None


def test_an_upload_that_arrives_long_after_its_url_is_dead_is_purged_too(make_world):
    world = make_world(LATE_UPLOAD_SECONDS="86400")
    media_id = world.pending()
    world.delete(media_id)
    world.purge_due()
    world.age(media_id, 1300)
    arrive_a_day_late(world, media_id)
    assert world.row(media_id) is None


def test_an_expired_upload_that_arrives_late_does_not_stay_as_long_as_its_row(make_world):
    world = make_world(LATE_UPLOAD_SECONDS="86400")
    media_id = world.pending()
    world.age(media_id, 1300)
    assert world.uploads.expire(10) == 1
    arrive_a_day_late(world, media_id)
    row = world.row(media_id)
    assert row.due_at == row.updated_at + timedelta(days=7)


def arrive_a_day_late(world, media_id):
    """Have an upload whose URL is dead arrive after it was purged, and be purged again."""
    assert world.purge_due() == 1
    row = world.row(media_id)
    assert row.due_at == row.upload_expires_at + timedelta(days=1)
    world.put(media_id, jpeg())
    world.age(media_id, days=1)
    assert world.purge_due() == 1
    assert world.is_empty(media_id)


@pytest.mark.parametrize(("days", "seconds"), [(0, 30), (0.05, 432), (10, 900)])
def test_what_the_store_refuses_to_delete_is_tried_the_later_the_longer_it_has(
    world, days, seconds
):
    media_id = world.ready()
    world.delete(media_id)
    world.age(media_id, days=days)
    (row,) = world.deletion.claim(10)
    world.deletion.postpone(row, is_refused=True)
    wait = world.row(media_id).due_at - row.claimed_at
    assert timedelta(seconds=seconds) <= wait <= timedelta(seconds=seconds + 60)


def test_a_refusal_counts_from_when_the_media_became_what_it_is(make_world):
    world = make_world(RAW_RETENTION_DAYS="1")
    ready, expired = world.ready(), world.pending()
    world.age(ready, days=2)
    world.age(expired, 1300)
    assert world.uploads.expire(10) == 1
    waits = {}
    for row in world.deletion.claim(10):
        world.deletion.postpone(row, is_refused=True)
        waits[row.id] = (world.row(row.id).due_at - row.claimed_at).total_seconds() // 60
    assert waits == {ready: 15, expired: 0}


def test_without_keys_for_the_store_no_upload_is_left_behind(world, monkeypatch):
    def presign_upload(*_, **__):
        raise StoreUnavailable("no keys for the store")

    monkeypatch.setattr(world.storage, "presign_upload", presign_upload)
    with pytest.raises(StoreUnavailable):
        world.request()
    assert world.lifecycle.statistics.count() == 0


def test_what_a_worker_wrote_after_the_purge_is_purged_with_its_answer(world):
    job = world.claimed()
    world.delete(job.media_id)
    world.purge_due()
    world.put_public(job.media_id)
    world.apply(processed(job))
    assert world.status(job.media_id) == "deleted"
    assert world.purge_due() == 1
    assert world.is_empty(job.media_id)


def test_a_repeated_answer_for_a_deleted_media_has_its_objects_purged_again(world):
    media_id = world.ready()
    world.delete(media_id)
    world.purge_due()
    world.put_public(media_id)
    world.apply(processed(media_id))
    assert world.purge_due() == 1
    assert world.is_empty(media_id)


def test_what_a_worker_wrote_without_an_answer_is_purged_before_the_row_goes(world):
    job = world.claimed()
    world.delete(job.media_id)
    world.purge_due()
    world.put_public(job.media_id)
    world.age(job.media_id, 1300)
    world.purge_due()
    assert world.is_empty(job.media_id)
    assert world.row(job.media_id) is None


def test_a_success_for_an_unknown_media_leaves_a_tombstone_until_its_objects_are_purged(world):
    media_id = uuid4()
    world.put_public(media_id)
    world.apply(processed(media_id), failed(uuid4()))
    row = world.row(media_id)
    assert (row.owner_id, row.due_at) == (NOBODY, row.deleted_at)
    assert row.created_at == row.updated_at == row.upload_expires_at == row.deleted_at
    assert (row.raw_key, row.attempt, row.attempts_left) == (f"uploads/{media_id}", 0, 0)
    assert world.purge_due() == 1
    assert world.is_empty(media_id)
    world.apply(processed(media_id))
    assert world.purge_due() == 1, "a repeated answer is a reason to look again"
    world.age(media_id, 1300)
    world.purge_due()
    assert world.row(media_id) is None


def test_a_failure_for_a_deleted_media_changes_nothing(world):
    job = world.claimed()
    world.delete(job.media_id)
    before = world.row(job.media_id)
    world.apply(failed(job), failed(job, retryable=True))
    assert world.row(job.media_id) == before


def test_deleting_is_the_owners_and_safe_to_repeat(world):
    media_id = world.ready()
    assert code_of(world.deletion.delete, media_id, caller=uuid4()) is errors.NOT_OWNER
    world.delete(media_id)
    before = world.row(media_id)
    world.delete(media_id)
    assert world.row(media_id) == before
    assert code_of(world.deletion.delete, media_id, caller=uuid4()) is errors.MEDIA_NOT_FOUND
    assert code_of(world.delete, uuid4()) is errors.MEDIA_NOT_FOUND


def test_a_purge_lease_is_nobody_elses_until_it_runs_out(world):
    media_id = world.ready()
    world.delete(media_id)
    before = world.now()
    (row,) = world.deletion.claim(10)
    assert row.id == media_id
    assert before <= row.claimed_at <= world.now()
    assert row.due_at == row.claimed_at + timedelta(seconds=120)
    assert world.deletion.claim(10) == []
    world.age(media_id, 121)
    assert len(world.deletion.claim(10)) == 1


def test_purges_are_limited_and_the_longest_due_come_first(world):
    media_ids = [world.request().media_id for _ in range(3)]
    for days, media_id in zip((1, 3, 2), media_ids, strict=True):
        world.delete(media_id)
        world.age(media_id, days=days)
    assert {row.id for row in world.deletion.claim(2)} == {media_ids[1], media_ids[2]}
    assert [row.id for row in world.deletion.claim(2)] == [media_ids[0]]


def test_an_upload_that_is_not_yet_expired_is_not_purged(world):
    world.age(world.pending(), 1300)
    assert world.deletion.claim(10) == []


def test_purging_one_of_a_batch_settles_that_one_only(world):
    media_ids = [world.ready(), world.ready()]
    for media_id in media_ids:
        world.delete(media_id)
    first, second = world.deletion.claim(10)
    before = world.row(second.id)
    world.deletion.purge(first)
    assert world.row(first.id).due_at > first.due_at
    assert world.row(second.id) == before
    world.age(first.id, 1300)
    world.age(second.id, 1300)
    first, second = world.deletion.claim(10)
    world.deletion.purge(first)
    assert world.row(first.id) is None
    assert world.row(second.id) is not None


def purge_in_vain(world, monkeypatch):
    """Purge the media that is due, with a store that deletes nothing and says it did."""
    (row,) = world.deletion.claim(1)
    with monkeypatch.context() as patch:
        patch.setattr(world.storage, "delete_objects", lambda bucket, keys: None)
        return world.deletion.purge(row)


def test_what_is_still_there_after_a_purge_is_purged_again_soon(world, monkeypatch):
    media_id = world.ready()
    world.delete(media_id)
    before = world.now()
    purge_in_vain(world, monkeypatch)
    assert world.public_keys(media_id)
    due_in = world.row(media_id).due_at - before
    assert timedelta(seconds=30) <= due_in < timedelta(seconds=120), "sooner than its lease ends"
    world.age(media_id, 31)
    assert world.purge_due() == 1
    assert world.is_empty(media_id)


def test_an_original_that_is_still_there_after_its_purge_is_purged_again_soon(
    make_world, monkeypatch
):
    world = make_world(RAW_RETENTION_DAYS="1")
    media_id = world.ready()
    world.age(media_id, days=2)
    assert purge_in_vain(world, monkeypatch) is False
    assert world.has_original(media_id)
    world.age(media_id, 31)
    assert world.purge_due() == 1
    assert not world.has_original(media_id)
    assert world.public_keys(media_id)


def test_a_failed_upload_that_is_still_there_after_its_purge_is_purged_again_soon(
    world, monkeypatch
):
    media_id = world.pending()
    world.age(media_id, 1300)
    world.uploads.expire(10)
    assert purge_in_vain(world, monkeypatch) is False
    assert world.has_original(media_id)
    world.age(media_id, 31)
    (row,) = world.deletion.claim(1)
    assert world.deletion.purge(row) is True
    assert not world.has_original(media_id)


def test_a_purge_that_lost_its_lease_decides_nothing(world):
    media_id = world.ready()
    world.delete(media_id)
    (row,) = world.deletion.claim(10)
    world.age(media_id, 121)
    world.deletion.claim(10)
    before = world.row(media_id)
    world.deletion.purge(row)
    assert world.row(media_id) == before


def test_a_purge_that_the_store_refuses_is_tried_again_later(make_world):
    world = make_world()
    media_id = world.ready()
    world.delete(media_id)
    away = make_world(S3_ENDPOINT="http://127.0.0.1:9")
    (row,) = away.deletion.claim(10)
    with pytest.raises(StoreUnavailable):
        away.deletion.purge(row)
    away.deletion.postpone(row)
    assert world.purge_due() == 0
    assert not world.is_empty(media_id)
    world.age(media_id, 31)
    assert world.purge_due() == 1
    assert world.is_empty(media_id)


# retention


def test_a_longer_retention_counts_for_media_that_have_failed_before(make_world):
    world, longer = make_world(), make_world(FAILED_RETENTION_DAYS="30")
    media_id = world.failed()
    world.age(media_id, days=8)
    assert longer.deletion.retire(10) == 0
    (due,) = longer.deletion.claim(10)
    assert longer.deletion.purge(due) is True
    assert longer.has_original(media_id)
    row = longer.row(media_id)
    assert row.due_at == row.updated_at + timedelta(days=30)
    assert longer.purge_due() == 0


@pytest.mark.parametrize(("days", "is_due"), [("0", False), ("365", True)])
def test_a_longer_retention_counts_for_originals_that_are_due_already(make_world, days, is_due):
    world, longer = make_world(RAW_RETENTION_DAYS="30"), make_world(RAW_RETENTION_DAYS=days)
    media_id = world.ready()
    world.age(media_id, days=31)
    assert longer.purge_due() == 1
    assert longer.has_original(media_id)
    row = longer.row(media_id)
    assert row.due_at == (row.processed_at + timedelta(days=365) if is_due else None)
    assert longer.purge_due() == 0


def test_a_failed_media_is_retired_when_its_retention_is_over(world):
    media_id = world.failed()
    world.age(media_id, days=6.9)
    assert world.deletion.retire(10) == 0
    assert world.has_original(media_id)
    world.age(media_id, days=0.2)
    assert world.deletion.retire(10) == 1
    assert world.status(media_id) == "deleted"
    world.purge_due()
    assert world.is_empty(media_id)
    world.age(media_id, 1300)
    world.purge_due()
    assert world.row(media_id) is None


def test_a_failed_media_that_can_still_succeed_is_not_purged_before_it_is_retired(make_world):
    """Or else a late success would be ready without objects."""
    world = make_world(FAILED_RETENTION_DAYS="1")
    media_id = world.failed()
    world.put_public(media_id)
    world.age(media_id, days=2)
    assert world.purge_due() == 0
    world.apply(processed(media_id))
    assert world.status(media_id) == "ready"
    assert world.public_keys(media_id)


def test_only_what_has_failed_is_retired(make_world):
    world = make_world(RAW_RETENTION_DAYS="1")
    media_ids = [world.ready(), world.pending()]
    for media_id in media_ids:
        world.age(media_id, days=30)
    before = [world.row(media_id) for media_id in media_ids]
    assert world.deletion.retire(10) == 0
    assert [world.row(media_id) for media_id in media_ids] == before


def test_a_rejected_upload_is_kept_for_its_retention_though_it_is_purged_before(world):
    media_id = world.request(size_bytes=5).media_id
    world.put(media_id, jpeg())
    code_of(world.complete, media_id)
    world.age(media_id, 1300)
    assert world.deletion.retire(10) == 0
    assert world.purge_due() == 1


def test_a_retired_media_is_due_for_purging_at_once(world):
    media_id = world.failed()
    world.age(media_id, days=8)
    world.deletion.retire(10)
    row = world.row(media_id)
    assert row.due_at == row.deleted_at == row.updated_at


def test_a_failed_upload_is_retired_too(world):
    media_id = world.pending()
    world.age(media_id, 1300)
    world.uploads.expire(10)
    world.purge_due()
    world.age(media_id, days=7.1)
    assert world.deletion.retire(10) == 1
    assert world.status(media_id) == "deleted"
    world.age(media_id, 1300)
    world.purge_due()
    assert world.row(media_id) is None


def test_originals_of_ready_media_are_kept_unless_told_otherwise(world):
    media_id = world.ready()
    world.age(media_id, days=3000)
    assert world.purge_due() == 0
    assert world.has_original(media_id)


def test_originals_of_ready_media_are_purged_after_their_retention(make_world):
    world = make_world(RAW_RETENTION_DAYS="30")
    media_id = world.ready()
    row = world.row(media_id)
    assert row.due_at == row.processed_at + timedelta(days=30)
    assert world.purge_due() == 0
    world.age(media_id, days=31)
    assert world.purge_due() == 1
    assert not world.has_original(media_id)
    assert world.public_keys(media_id) == [f"media/{media_id}/main.webp"]
    assert world.status(media_id) == "ready"
    assert world.complete(media_id).status == "ready"
    assert world.row(media_id).due_at is None


def test_deleting_while_an_original_is_purged_for_its_age_purges_everything(make_world):
    world = make_world(RAW_RETENTION_DAYS="30")
    media_id = world.ready()
    world.age(media_id, days=31)
    (row,) = world.deletion.claim(10)
    world.delete(media_id)
    assert world.deletion.purge(row) is True
    assert world.purge_due() == 1
    assert world.is_empty(media_id)


# reading


def test_a_page_is_the_owners_newest_first(world):
    ids = [world.request().media_id for _ in range(3)]
    event = world.request(owner_type="event").media_id
    world.request(owner_id=uuid4())
    world.delete(ids[1])

    def page(owner_type=None, status=None, before=None, limit=10):
        rows = world.lifecycle.rows.page(
            owner_id=world.owner, owner_type=owner_type, status=status, before=before, limit=limit
        )
        return [row.id for row in rows]

    assert page() == [event, ids[2], ids[0]]
    assert page(limit=1) == [event]
    assert page(before=ids[2]) == [ids[0]]
    assert page(owner_type="event") == [event]
    assert page(status="ready") == []
    assert page(status="pending", owner_type="user") == [ids[2], ids[0]]


def test_strangers_see_what_is_ready_only(world):
    stranger = uuid4()
    for stage in ("pending", "completed", "failed", "ready"):
        media_id = getattr(world, stage)()
        assert world.lifecycle.rows.visible(media_id, world.owner).id == media_id
        if stage == "ready":
            assert world.lifecycle.rows.visible(media_id, stranger).id == media_id
        else:
            seen = code_of(world.lifecycle.rows.visible, media_id, stranger)
            assert seen is errors.MEDIA_NOT_FOUND
        world.delete(media_id)
        seen = code_of(world.lifecycle.rows.visible, media_id, world.owner)
        assert seen is errors.MEDIA_NOT_FOUND
    assert code_of(world.lifecycle.rows.visible, uuid4(), stranger) is errors.MEDIA_NOT_FOUND


def test_a_scan_finds_every_media_once_in_batches(world, monkeypatch):
    monkeypatch.setattr("mediaservice.lifecycle.rows._SCAN_BATCH", 3)
    for count in range(8):
        ids = sorted(row.id for row in world.lifecycle.rows.scan())
        assert [row.id for row in world.lifecycle.rows.scan()] == ids
        assert len(ids) == count
        world.delete(world.request().media_id)


def test_an_original_kept_for_good_is_purged_on_demand_if_its_media_is_ready(make_world):
    before, world = make_world(), make_world(RAW_RETENTION_DAYS="30")
    ready, other = before.ready(), before.ready()
    before.age(ready, days=31)
    for media_id in (ready, before.pending(), before.failed()):
        world.deletion.schedule_original_purge(media_id)
    assert world.purge_due() == 1
    assert not world.has_original(ready)
    assert world.public_keys(ready)
    assert world.has_original(other)


def test_an_original_that_is_due_already_stays_so(make_world):
    world = make_world(RAW_RETENTION_DAYS="30")
    media_id = world.ready()
    world.age(media_id, days=31)
    before = world.row(media_id)
    world.deletion.schedule_original_purge(media_id)
    assert world.row(media_id) == before


def test_an_original_is_purged_no_earlier_than_the_listeners_own_retention_has_it(make_world):
    world = make_world(RAW_RETENTION_DAYS="30")
    media_id = world.ready()
    before = world.row(media_id)
    world.deletion.schedule_original_purge(media_id)
    assert world.purge_due() == 1
    assert world.has_original(media_id)
    assert world.row(media_id) == before


def test_statistics_count_what_there_is(world):
    statistics = world.lifecycle.statistics
    assert statistics.by_status().counts == {
        "pending": 0,
        "processing": 0,
        "ready": 0,
        "failed": 0,
    }
    for code in ("corrupt_image", "image_too_large", "image_too_large", "decoder_crashed"):
        world.failed(code)
    once, twice = world.claimed(), world.claimed()
    world.age(twice.media_id, 601)
    (again,) = world.processing.claim(10)
    assert (once.attempt, again.job.attempt) == (1, 2)
    world.completed()
    for stage in (world.ready, world.failed, world.completed):
        world.delete(stage())
    world.pending()
    world.ready()
    found = statistics.by_status()
    assert found.counts == {"pending": 1, "processing": 3, "ready": 1, "failed": 4}
    assert found.is_exact
    assert statistics.count() == 12
    assert statistics.tombstones() == 3
    assert statistics.attempts() == {0: 1, 1: 1, 2: 1}
    assert list(statistics.failures().items()) == [
        ("image_too_large", 2),
        ("corrupt_image", 1),
        ("decoder_crashed", 1),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_large_tables_are_sampled(world, monkeypatch):
    world.insert()
    columns = ", ".join(column.name for column in Media.c if column.name != "id")
    with world.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(
            f"INSERT INTO media (id, {columns})"
            f" SELECT gen_random_uuid(), {columns} FROM media, generate_series(1, 9999)"
        )
        connection.exec_driver_sql("ANALYZE media")
    # One page in four is drawn, of some hundreds: the bounds are beyond all chance.
    monkeypatch.setattr("mediaservice.lifecycle.statistics.EXACT_UP_TO", 2500)
    found = world.lifecycle.statistics.by_status()
    assert not found.is_exact
    assert set(found.counts) == {"pending", "processing", "ready", "failed"}
    assert 4000 < found.counts.pop("processing") < 16000
    assert set(found.counts.values()) == {0}
    assert world.lifecycle.statistics.count() == 10_000
    monkeypatch.setattr("mediaservice.lifecycle.statistics.EXACT_UP_TO", 10_000)
    exact = world.lifecycle.statistics.by_status()
    assert (exact.counts["processing"], exact.is_exact) == (10_000, True)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_table_of_any_size_is_counted_where_it_cannot_be_sampled(world, monkeypatch):
    monkeypatch.setattr("mediaservice.lifecycle.statistics.EXACT_UP_TO", 1)
    for _ in range(3):
        world.insert()
    found = world.lifecycle.statistics.by_status()
    assert (found.counts["processing"], found.is_exact) == (3, True)


def test_times_are_aware_and_in_utc(world):
    row = world.row(world.ready())
    for time in (row.created_at, row.updated_at, row.processed_at, row.upload_expires_at):
        assert time.utcoffset() == timedelta(0)
    assert abs(row.created_at - world.now()) < timedelta(minutes=5)
    assert isinstance(row.id, UUID)


@pytest.mark.parametrize("declared", ["image/heic", "image/heif"])
def test_an_image_is_taken_for_what_it_is_whatever_its_like_was_declared(world, declared):
    body = b"\0\0\0\x1cftypmif1\0\0\0\0mif1heixmiaf" + bytes(64)
    media_id = world.request(body, content_type=declared).media_id
    world.put(media_id, body, declared)
    assert world.complete(media_id).content_type == "image/heic"


def test_what_has_the_container_of_heic_alone_is_not_taken_for_it(world):
    body = b"\0\0\0\x1cftypisom\0\0\0\0isomiso2mp41" + bytes(64)
    media_id = world.request(body, content_type="image/heic").media_id
    world.put(media_id, body, "image/heic")
    assert code_of(world.complete, media_id) is errors.CONTENT_MISMATCH
