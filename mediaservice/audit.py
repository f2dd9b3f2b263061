"""The audit: whether every object of both buckets and every media account for each other.

Reads both buckets and the table side by side, a page of each in memory, and judges media by media.
Decides nothing on what it read in passing: whatever looks wrong is read again first, so that
uploads, results and deletions under way are never taken for faults. Repairs only on request, and
only what cannot be anybody's any more; `lifecycle` does the writing.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import groupby
from operator import itemgetter
from typing import Any, Final
from uuid import UUID

from config.settings import Settings
from mediaservice.keys import media_of_public_key, media_of_raw_key, public_prefix, raw_key
from mediaservice.lifecycle import Lifecycle, MediaRow
from mediaservice.lifecycle.rows import named_keys
from mediaservice.states import Status
from mediaservice.storage import Storage, StoredObject


class Kind(StrEnum):
    """What can be wrong; the values are for programs."""

    RAW_WITHOUT_MEDIA = "raw_without_media"
    PUBLIC_WITHOUT_MEDIA = "public_without_media"
    STRAY_PUBLIC_OBJECT = "stray_public_object"
    PUBLIC_OBJECT_MISSING = "public_object_missing"
    ORIGINAL_MISSING = "original_missing"
    ORIGINAL_MISSING_UNPROCESSED = "original_missing_unprocessed"
    ORIGINAL_PAST_RETENTION = "original_past_retention"
    UNKNOWN_KEY = "unknown_key"


REPAIRED_BY: Final = {
    Kind.RAW_WITHOUT_MEDIA: "its objects are handed to the listener to be purged",
    Kind.PUBLIC_WITHOUT_MEDIA: "its objects are handed to the listener to be purged",
    Kind.STRAY_PUBLIC_OBJECT: "the object is deleted",
    Kind.ORIGINAL_PAST_RETENTION: "the original is handed to the listener to be purged",
}
"""What `--repair` does; the other kinds are for a person."""

_PURGED_WHOLE: Final = {Kind.RAW_WITHOUT_MEDIA, Kind.PUBLIC_WITHOUT_MEDIA}

REMEDIES: Final = {
    Kind.PUBLIC_OBJECT_MISSING: (
        "write it again, if its original is there: flask --app app media reprocess {media_id}"
    ),
    Kind.ORIGINAL_MISSING: "nothing can bring it back; what is public stays as it is",
    Kind.ORIGINAL_MISSING_UNPROCESSED: "it can never be processed: its owner must upload again",
    Kind.UNKNOWN_KEY: "this service writes no such keys: find out whose it is",
}
"""What a person can do about the kinds that are not repaired."""


class ListingOutOfOrder(Exception):
    """The store does not list its keys in order, so the buckets cannot be audited."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: an object that should not be there, or one that should."""

    kind: Kind
    bucket: str
    key: str
    media_id: UUID | None = None
    is_repaired: bool = False

    @property
    def remedy(self) -> str:
        """What `--repair` does about it, or what a person can do."""
        if self.kind in REPAIRED_BY:
            return REPAIRED_BY[self.kind]
        return REMEDIES[self.kind].format(media_id=self.media_id)


@dataclass(slots=True)
class Totals:
    """What an audit has seen so far: all up to the media `last`, in the order of their ids.

    Of the media, `in_motion` were too young to be judged.
    """

    last: UUID | None = None
    media: int = 0
    raw_objects: int = 0
    public_objects: int = 0
    in_motion: int = 0
    found: Counter[Kind] = field(default_factory=Counter)
    repaired: Counter[Kind] = field(default_factory=Counter)

    @property
    def left(self) -> int:
        """How many findings have not been repaired."""
        return self.found.total() - self.repaired.total()


@dataclass(frozen=True, slots=True)
class _Entry:
    """All there is of one media, as far as it was read."""

    media_id: UUID
    row: MediaRow | None
    raw: StoredObject | None
    public: tuple[StoredObject, ...]


class Audit:
    """One comparison of the buckets with the table; `totals` grows while it runs.

    Objects, and rows that are not ready, younger than `min_age_seconds` are taken to be in motion,
    and left alone. It begins behind the media `after`: where an audit that was cut short ended.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        storage: Storage,
        settings: Settings,
        *,
        min_age_seconds: float,
        repair: bool = False,
        ignored: Iterable[Kind] = (),
        after: UUID | None = None,
        on_media: Callable[[int], object] = lambda _count: None,
    ) -> None:
        self.totals = Totals(last=after)
        self._lifecycle = lifecycle
        self._storage = storage
        self._raw_retention_days = settings.raw_retention_days
        self._min_age = timedelta(seconds=min_age_seconds)
        self._repair = repair
        self._ignored = frozenset(ignored)
        self._after = after
        self._on_media = on_media

    def run(self) -> Iterator[Finding]:
        """Yield what is wrong, in no order that means anything, each repaired already if asked.

        Raises StoreUnavailable, ListingOutOfOrder.
        """
        self._old_before = self._lifecycle.rows.now() - self._min_age
        for found in self._found():
            if isinstance(found, Finding):
                yield from self._reported([found])
                continue
            self.totals.in_motion += self._is_in_motion(found.row)
            suspects = self._judge(found)
            if suspects:
                confirmed = self._read_again(found.media_id)
                suspects = self._judge(confirmed) if confirmed else []
            yield from self._reported(suspects)
            self.totals.last = found.media_id

    def _found(self) -> Iterator[_Entry | Finding]:
        """Yield each media with a row or an object: three streams in order, merged into one.

        A Finding is an unknown key, told where it was met.
        """
        after = self._after
        raw_after = raw_key(after) if after else ""
        # Behind all below the prefix, whose slash comes right before a zero.
        public_after = public_prefix(after).removesuffix("/") + "0" if after else ""
        merged = heapq.merge(
            self._objects("raw", self._storage.raw_bucket, media_of_raw_key, raw_after),
            self._objects("public", self._storage.public_bucket, media_of_public_key, public_after),
            ((row.id, "row", row) for row in self._lifecycle.rows.scan(after)),
            key=itemgetter(0),
        )
        for media_id, parts in groupby(merged, key=itemgetter(0)):
            found: dict[str, list[Any]] = {"row": [], "raw": [], "public": []}
            for _, source, part in parts:
                if isinstance(part, Finding):
                    yield part
                else:
                    found[source].append(part)
            self.totals.media += len(found["row"])
            self.totals.raw_objects += len(found["raw"])
            self.totals.public_objects += len(found["public"])
            self._on_media(len(found["row"]))
            yield _Entry(media_id, _only(found["row"]), _only(found["raw"]), tuple(found["public"]))

    def _objects(
        self, source: str, bucket: str, media_of: Callable[[str], UUID | None], start_after: str
    ) -> Iterator[tuple[UUID, str, StoredObject | Finding]]:
        """Yield a bucket's objects with their media's ids; those without one beside the last."""
        last = self._after or UUID(int=0)
        for found in self._storage.list_objects(bucket, start_after=start_after):
            media_id = media_of(found.key)
            if media_id is None:
                if self._is_old(found):
                    yield last, "unknown", Finding(Kind.UNKNOWN_KEY, bucket, found.key)
                continue
            if media_id < last:  # a merge of streams that are not in order finds nonsense
                raise ListingOutOfOrder(f"the store lists the keys of bucket {bucket} unordered")
            last = media_id
            yield media_id, source, found

    def _read_again(self, media_id: UUID) -> _Entry | None:
        """Return all of a media as it is now, or None if it changed while it was looked at."""
        before = self._lifecycle.rows.find(media_id)
        key = raw_key(media_id)
        raw = [o for o in self._storage.list_objects(self._storage.raw_bucket, key) if o.key == key]
        public = self._storage.list_objects(self._storage.public_bucket, public_prefix(media_id))
        entry = _Entry(media_id, before, _only(raw), tuple(public))
        return entry if self._lifecycle.rows.find(media_id) == before else None

    def _judge(self, entry: _Entry) -> list[Finding]:
        """Return what is wrong with a media and its objects."""
        row = entry.row
        if row is None:
            return self._judge_orphans(entry)
        if row.deleted_at is not None:  # its objects are being purged
            return []
        if row.status == Status.READY:
            return self._judge_ready(entry, row)
        if self._is_in_motion(row):
            return []
        if row.raw_etag is not None and entry.raw is None:
            return [self._raw(Kind.ORIGINAL_MISSING_UNPROCESSED, entry, row.raw_key)]
        return []

    def _judge_orphans(self, entry: _Entry) -> list[Finding]:
        raw = [entry.raw] if entry.raw and self._is_old(entry.raw) else []
        return [self._raw(Kind.RAW_WITHOUT_MEDIA, entry, found.key) for found in raw] + [
            self._public(Kind.PUBLIC_WITHOUT_MEDIA, entry, found.key)
            for found in entry.public
            if self._is_old(found)
        ]

    def _judge_ready(self, entry: _Entry, row: MediaRow) -> list[Finding]:
        named = named_keys(row)
        stored = {found.key: found for found in entry.public}
        findings = [
            self._public(Kind.STRAY_PUBLIC_OBJECT, entry, key)
            for key, found in stored.items()
            if key not in named and self._is_old(found)
        ]
        findings += [
            self._public(Kind.PUBLIC_OBJECT_MISSING, entry, key)
            for key in named
            if key not in stored
        ]
        if entry.raw is None and not self._raw_retention_days:
            findings.append(self._raw(Kind.ORIGINAL_MISSING, entry, row.raw_key))
        if entry.raw is not None and self._is_past_retention(row):
            findings.append(self._raw(Kind.ORIGINAL_PAST_RETENTION, entry, row.raw_key))
        return findings

    def _is_past_retention(self, row: MediaRow) -> bool:
        """Return whether this original should be purged by today's RAW_RETENTION_DAYS.

        Media that were processed before it was set are not due for that, or only later.
        """
        if not self._raw_retention_days:
            return False
        kept_until: datetime = row.processed_at + timedelta(days=self._raw_retention_days)
        return kept_until <= self._old_before

    def _is_in_motion(self, row: MediaRow | None) -> bool:
        """Return whether there is a media, neither ready nor deleted, that has just changed."""
        if row is None or row.deleted_at is not None or row.status == Status.READY:
            return False
        return bool(row.updated_at > self._old_before)

    def _is_old(self, found: StoredObject) -> bool:
        return found.last_modified <= self._old_before

    def _raw(self, kind: Kind, entry: _Entry, key: str) -> Finding:
        return Finding(kind, self._storage.raw_bucket, key, entry.media_id)

    def _public(self, kind: Kind, entry: _Entry, key: str) -> Finding:
        return Finding(kind, self._storage.public_bucket, key, entry.media_id)

    def _reported(self, findings: Sequence[Finding]) -> Iterator[Finding]:
        wanted = [finding for finding in findings if finding.kind not in self._ignored]
        is_partly_ignored = len(wanted) < len(findings)
        for finding in wanted:
            self.totals.found[finding.kind] += 1
            # What is ignored would be purged with the rest.
            is_spared = is_partly_ignored and finding.kind in _PURGED_WHOLE
            if self._repair and finding.kind in REPAIRED_BY and not is_spared:
                self._mend(finding)
                self.totals.repaired[finding.kind] += 1
                yield replace(finding, is_repaired=True)
            else:
                yield finding

    def _mend(self, finding: Finding) -> None:
        assert finding.media_id is not None  # noqa: S101 - only objects of a media are repaired
        if finding.kind is Kind.STRAY_PUBLIC_OBJECT:
            # The keys a ready media names never change, so this one cannot become named.
            self._storage.delete_objects(finding.bucket, [finding.key])
        elif finding.kind is Kind.ORIGINAL_PAST_RETENTION:
            self._lifecycle.deletion.schedule_original_purge(finding.media_id)
        else:
            self._lifecycle.deletion.schedule_stray_purge(finding.media_id)


def _only(found: list[Any]) -> Any:
    return found[0] if found else None
