"""The audit finds each kind of fault that is planted, repairs what it can, and nothing else."""

from datetime import timedelta
from uuid import uuid4

import pytest

from mediaservice.audit import Audit, Kind, ListingOutOfOrder
from mediaservice.keys import media_of_public_key, media_of_raw_key, public_prefix
from mediaservice.messages import Variant
from mediaservice.storage import StoreUnavailable
from tests.world import failed, processed

LONG_AGO = 10_000
MIN_AGE_SECONDS = 3600


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database_url(request):
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def store_environ(own_store_environ):
    return own_store_environ


def audit(world, *, min_age_seconds=0, **options):
    """Audit with every object counting as old enough, unless told otherwise."""
    return Audit(
        world.lifecycle, world.storage, world.settings, min_age_seconds=min_age_seconds, **options
    )


def findings(world, **options):
    return [(found.kind, found.key) for found in audit(world, **options).run()]


def put_raw(world, media_id):
    world.put(media_id, b"bytes")
    return f"uploads/{media_id}"


def healthy(world):
    """Return one media of each kind that a service at work has."""
    with_variants = world.claimed()
    prefix = with_variants.public_prefix
    keys = [world.put_public(with_variants.media_id, f"w{n}.webp") for n in (640, 320)]
    world.put_public(with_variants.media_id)
    variants = [
        Variant(
            name=f"w{n}",
            key=key,
            width=n,
            height=n,
            size_bytes=4,
            content_type="image/webp",
        )
        for n, key in zip((640, 320), keys, strict=True)
    ]
    assert keys[0].startswith(prefix)
    world.apply(processed(with_variants, variants=variants))
    deleted = world.ready()
    world.delete(deleted)
    being_written = world.claimed().media_id
    world.put_public(being_written)
    return [
        world.request().media_id,
        world.pending(),
        world.completed(),
        being_written,
        with_variants.media_id,
        world.ready(),
        world.failed(),
        deleted,
    ]


# nothing wrong


def test_an_empty_service_is_in_order(world):
    assert findings(world) == []


def test_a_service_at_work_is_in_order(world):
    for media_id in healthy(world):
        world.age(media_id, LONG_AGO)
    checked = audit(world)
    assert list(checked.run()) == []
    assert (checked.totals.media, checked.totals.raw_objects) == (8, 7)
    assert checked.totals.public_objects == 6
    assert checked.totals.left == 0


def test_an_audit_in_order_reads_every_media_once(world):
    seen = []
    for _ in range(3):
        world.ready()
    list(audit(world, on_media=seen.append).run())
    assert sum(seen) == 3


def test_what_is_younger_than_the_floor_is_left_alone(world):
    """Orphans of every kind, all new: an upload or a result may be under way."""
    put_raw(world, uuid4())
    world.put_public(uuid4())
    world.client.put_object(Bucket=world.storage.raw_bucket, Key="notes.txt", Body=b"1")
    ready = world.ready()
    world.put_public(ready, "stray.webp")
    bare = world.completed()
    world.storage.delete_objects(world.storage.raw_bucket, [f"uploads/{bare}"])
    checked = audit(world, min_age_seconds=MIN_AGE_SECONDS, repair=True)
    assert list(checked.run()) == []
    assert checked.totals.in_motion == 1
    assert world.has_original(ready)
    assert len(findings(world)) == 5


def test_what_a_ready_media_lacks_is_told_at_once(world):
    ready = world.ready()
    world.storage.purge(raw_key=f"uploads/{ready}", public_prefix=public_prefix(ready))
    checked = audit(world, min_age_seconds=MIN_AGE_SECONDS)
    assert {found.kind for found in checked.run()} == {
        Kind.ORIGINAL_MISSING,
        Kind.PUBLIC_OBJECT_MISSING,
    }
    assert checked.totals.in_motion == 0


def test_an_upload_under_way_is_never_touched(world):
    """Bytes are there, `complete` has not been called; however long that takes."""
    media_id = world.pending()
    world.age(media_id, LONG_AGO)
    assert findings(world, repair=True) == []
    assert world.has_original(media_id)
    world.complete(media_id)
    assert world.status(media_id) == "processing"


def test_what_changes_while_it_is_looked_at_is_not_judged(world, monkeypatch):
    """An upload is requested and stored after the table was read and before the bucket was."""
    orphan = put_raw(world, uuid4())
    scan = world.lifecycle.rows.scan
    late = []

    def scan_then_upload(after):
        yield from scan(after)
        late.append(world.ready())

    monkeypatch.setattr(world.lifecycle.rows, "scan", scan_then_upload)
    assert findings(world) == [(Kind.RAW_WITHOUT_MEDIA, orphan)]
    assert late


def test_a_media_deleted_and_purged_meanwhile_is_no_orphan(world, monkeypatch):
    media_id = world.ready()
    scan = world.lifecycle.rows.scan

    def purge_then_scan(after):
        world.delete(media_id)
        world.age(media_id, LONG_AGO)
        assert world.purge_due() == 1
        assert world.row(media_id) is None
        yield from scan(after)

    monkeypatch.setattr(world.lifecycle.rows, "scan", purge_then_scan)
    assert findings(world) == []


# each kind of fault, found and repaired


def test_an_original_without_a_row_is_purged(world):
    media_id = uuid4()
    key = put_raw(world, media_id)
    assert findings(world) == [(Kind.RAW_WITHOUT_MEDIA, key)]
    assert world.has_original(media_id)
    (repaired,) = audit(world, repair=True).run()
    assert repaired.is_repaired
    assert world.status(media_id) == "deleted"
    assert findings(world) == []
    assert world.purge_due() == 1
    assert world.is_empty(media_id)
    world.age(media_id, LONG_AGO)
    assert world.purge_due() == 1
    assert world.row(media_id) is None


def test_public_objects_without_a_row_are_purged(world):
    media_id = uuid4()
    keys = sorted(world.put_public(media_id, name) for name in ("main.webp", "deep/er.webp"))
    assert findings(world) == [(Kind.PUBLIC_WITHOUT_MEDIA, key) for key in keys]
    checked = audit(world, repair=True)
    assert all(found.is_repaired for found in checked.run())
    assert checked.totals.left == 0
    assert world.purge_due() == 1
    assert world.is_empty(media_id)


def test_a_public_object_that_its_ready_media_does_not_name_is_deleted(world):
    media_id = world.ready()
    (named,) = world.public_keys(media_id)
    stray = world.put_public(media_id, "left-over.webp")
    assert findings(world) == [(Kind.STRAY_PUBLIC_OBJECT, stray)]
    assert world.public_keys(media_id) == sorted([named, stray])
    before = world.row(media_id)
    assert findings(world, repair=True) == [(Kind.STRAY_PUBLIC_OBJECT, stray)]
    assert world.public_keys(media_id) == [named]
    assert world.has_original(media_id)
    assert world.row(media_id) == before


def test_a_missing_public_object_is_reported_with_what_to_do(world):
    media_id = world.ready()
    (key,) = world.public_keys(media_id)
    world.storage.delete_objects(world.storage.public_bucket, [key])
    checked = audit(world, repair=True)
    (found,) = checked.run()
    assert (found.kind, found.key) == (Kind.PUBLIC_OBJECT_MISSING, key)
    assert not found.is_repaired
    assert str(media_id) in found.remedy
    assert checked.totals.left == 1
    assert world.status(media_id) == "ready"


def test_a_ready_media_processed_again_has_its_objects_back(world):
    media_id = world.ready()
    (key,) = world.public_keys(media_id)
    world.storage.delete_objects(world.storage.public_bucket, [key])
    before = world.row(media_id)
    job = world.processing.job_of_ready(media_id)
    assert world.storage.read_original(job.raw_key, etag=job.raw_etag)
    world.put_public(media_id)
    world.apply(processed(job))
    assert world.row(media_id) == before
    world.apply(failed(job))
    assert world.row(media_id) == before
    assert findings(world) == []


@pytest.mark.parametrize("stage", ["completed", "claimed", "failed"])
def test_a_pinned_original_that_is_missing_is_reported(world, stage):
    made = getattr(world, stage)()
    media_id = getattr(made, "media_id", made)
    world.storage.purge(raw_key=f"uploads/{media_id}", public_prefix=None)
    expected = [(Kind.ORIGINAL_MISSING_UNPROCESSED, f"uploads/{media_id}")]
    assert findings(world) == expected
    assert findings(world, repair=True) == expected


def test_a_ready_medias_original_is_missed_only_where_originals_are_kept(world, make_world):
    media_id = world.ready()
    world.storage.purge(raw_key=f"uploads/{media_id}", public_prefix=None)
    assert findings(world, repair=True) == [(Kind.ORIGINAL_MISSING, f"uploads/{media_id}")]
    assert findings(make_world(RAW_RETENTION_DAYS="1")) == []


def test_originals_from_before_a_retention_was_set_are_purged(world, make_world):
    media_id = world.ready()
    world.age(media_id, days=2)
    with_retention = make_world(RAW_RETENTION_DAYS="1")
    young = with_retention.ready()
    assert findings(with_retention) == [(Kind.ORIGINAL_PAST_RETENTION, f"uploads/{media_id}")]
    list(audit(with_retention, repair=True).run())
    assert with_retention.purge_due() == 1
    assert not with_retention.has_original(media_id)
    assert with_retention.has_original(young)
    assert with_retention.status(media_id) == "ready"
    assert with_retention.public_keys(media_id)
    assert findings(with_retention) == []


def test_a_shorter_retention_counts_for_originals_that_are_due_later(make_world):
    longer, world = make_world(RAW_RETENTION_DAYS="30"), make_world(RAW_RETENTION_DAYS="1")
    media_id = longer.ready()
    longer.age(media_id, days=2)
    assert findings(longer) == []
    assert findings(world) == [(Kind.ORIGINAL_PAST_RETENTION, f"uploads/{media_id}")]
    assert world.purge_due() == 0
    list(audit(world, repair=True).run())
    assert world.purge_due() == 1
    assert not world.has_original(media_id)
    assert world.row(media_id).due_at is None


@pytest.mark.parametrize(
    "key",
    [
        "notes.txt",
        "uploads/not-a-uuid",
        "uploads/0190F1D2-7C4B-7000-8000-000000000000",
        "uploads/0190f1d2-7c4b-7000-8000-000000000000/more",
        "media/0190f1d2-7c4b-7000-8000-000000000000",
        "zebra/1",
    ],
)
def test_keys_that_the_service_does_not_write_are_reported_and_kept(world, key):
    world.ready()
    world.client.put_object(Bucket=world.storage.raw_bucket, Key=key, Body=b"1")
    assert findings(world, repair=True) == [(Kind.UNKNOWN_KEY, key)]
    assert findings(world, repair=True) == [(Kind.UNKNOWN_KEY, key)]


def test_kinds_that_are_ignored_are_neither_reported_nor_repaired(world):
    spared, mended, ready = uuid4(), uuid4(), world.ready()
    put_raw(world, spared)
    stray = world.put_public(ready, "stray.webp")
    orphan = world.put_public(mended)
    ignored = [Kind.RAW_WITHOUT_MEDIA, Kind.STRAY_PUBLIC_OBJECT]
    found = findings(world, ignored=ignored, repair=True)
    assert found == [(Kind.PUBLIC_WITHOUT_MEDIA, orphan)]
    assert world.purge_due() == 1
    assert world.is_empty(mended)
    assert world.has_original(spared)
    assert stray in world.public_keys(ready)


def test_an_orphan_of_which_a_part_is_ignored_is_only_reported(world):
    orphan = uuid4()
    put_raw(world, orphan)
    key = world.put_public(orphan)
    checked = audit(world, ignored=[Kind.RAW_WITHOUT_MEDIA], repair=True)
    (found,) = checked.run()
    assert (found.kind, found.key, found.is_repaired) == (Kind.PUBLIC_WITHOUT_MEDIA, key, False)
    assert checked.totals.left == 1
    assert world.row(orphan) is None


def test_all_faults_at_once_are_told_apart(world):
    """More media than the fault's own, over both buckets: the merge loses its place nowhere."""
    fine = [world.ready() for _ in range(5)]
    raw = [uuid4() for _ in range(5)]
    public = [uuid4() for _ in range(5)]
    expected = {(Kind.RAW_WITHOUT_MEDIA, put_raw(world, media_id)) for media_id in raw}
    expected |= {(Kind.PUBLIC_WITHOUT_MEDIA, world.put_public(media_id)) for media_id in public}
    expected.add((Kind.STRAY_PUBLIC_OBJECT, world.put_public(fine[2], "stray.webp")))
    checked = audit(world, repair=True)
    assert {(found.kind, found.key) for found in checked.run()} == expected
    assert checked.totals.found.total() == checked.totals.repaired.total() == len(expected)
    assert world.purge_due() == 10
    assert all(world.is_empty(media_id) for media_id in raw + public)
    assert all(world.has_original(media_id) for media_id in fine)
    assert findings(world) == []


def test_a_large_service_is_read_in_pages(world, monkeypatch):
    monkeypatch.setattr("mediaservice.lifecycle.rows._SCAN_BATCH", 2)
    media = sorted(world.request().media_id for _ in range(7))
    assert [row.id for row in world.lifecycle.rows.scan()] == media
    orphan = put_raw(world, uuid4())
    checked = audit(world)
    assert [found.key for found in checked.run()] == [orphan]
    assert checked.totals.media == 7


def test_it_goes_on_behind_a_media(world):
    """Two halves find what the whole finds, whatever side a media is known on."""
    for _ in range(3):
        world.ready()
        put_raw(world, uuid4())
        world.put_public(uuid4())
        world.put_public(world.ready(), "stray.webp")
    whole = audit(world)
    found = [finding.key for finding in whole.run()]
    assert len(found) == 9
    known = {row.id for row in world.lifecycle.rows.scan()}
    ids = sorted(known | {_media_of(key) for key in found})
    assert whole.totals.last == ids[-1]
    for media_id in ids:
        rest = audit(world, after=media_id)
        assert [f.key for f in rest.run()] == [key for key in found if _media_of(key) > media_id]


def _media_of(key):
    return media_of_raw_key(key) or media_of_public_key(key)


def test_keys_of_nobody_are_told_as_they_come(world):
    world.storage.write_public("aaa", b"1", content_type="image/webp")
    world.put_public(uuid4())
    world.storage.write_public("zzz", b"1", content_type="image/webp")
    found = [(kind, key) for kind, key in findings(world) if kind is Kind.UNKNOWN_KEY]
    assert found == [(Kind.UNKNOWN_KEY, "aaa"), (Kind.UNKNOWN_KEY, "zzz")]


# faults of the store


def test_a_store_that_lists_out_of_order_cannot_be_audited(world, monkeypatch):
    for _ in range(2):
        put_raw(world, uuid4())
    listed = world.storage.list_objects
    monkeypatch.setattr(
        world.storage, "list_objects", lambda *args, **kw: reversed(list(listed(*args, **kw)))
    )
    with pytest.raises(ListingOutOfOrder):
        findings(world)


def test_a_store_that_is_away_ends_the_audit(make_world):
    world = make_world(S3_ENDPOINT="http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable):
        findings(world)


def test_the_age_of_objects_is_the_stores(world):
    media_id = uuid4()
    put_raw(world, media_id)
    (found,) = world.storage.list_objects(world.storage.raw_bucket)
    assert abs(found.last_modified - world.now()) < timedelta(minutes=1)
    assert found.size_bytes == len(b"bytes")
