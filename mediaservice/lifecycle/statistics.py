"""How many media there are of what kind, and how many are due; nothing is claimed or changed."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    FromClause,
    case,
    func,
    literal_column,
    select,
    tablesample,
    text,
)
from sqlalchemy.sql.expression import Select

from mediaservice.database import now_plus
from mediaservice.lifecycle.rows import IS_DUE, NOT_DELETED, Rows
from mediaservice.models import (
    AWAITS_HOUSEKEEPING,
    AWAITS_WORKER,
    HAS_FAILED,
    IS_PENDING,
    Media,
)
from mediaservice.states import Status

# Larger tables are sampled: counting a billion rows would take minutes of the database's time.
EXACT_UP_TO = 1_000_000
DUE_KINDS = ("dispatch", "give_up", "expire", "purge")
MAX_COUNTED = 10_000
_ESTIMATE = text("SELECT reltuples::bigint AS media FROM pg_class WHERE oid = 'media'::regclass")


@dataclass(frozen=True, slots=True)
class StatusCounts:
    """Media by status, without deleted ones; `is_exact` is False for a sample scaled up."""

    counts: dict[str, int]
    is_exact: bool


@dataclass(frozen=True, slots=True)
class DueWork:
    """How many media wait to be dealt with, and for how long the first has; 0 if there are none."""

    count: int = 0
    oldest_age_seconds: float = 0.0


class Statistics:
    """Counts media; each question is one cheap query or two."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def count(self) -> int:
        """Return about how many rows there are, tombstones too: by the planner's estimate."""
        if self._rows.is_postgresql:
            # -1 where the table was never analysed: it is small then, or will be soon.
            found: int = self._rows.execute(_ESTIMATE)[0].media
            if found > EXACT_UP_TO:
                return found
        return int(self._rows.execute(select(func.count()).select_from(Media))[0][0])

    def count_owned(self, owner_id: UUID) -> int:
        """Return how many media an owner has that are not deleted."""
        owned = select(func.count()).where(Media.c.owner_id == owner_id, NOT_DELETED)
        return int(self._rows.execute(owned)[0][0])

    def by_status(self) -> StatusCounts:
        """Return how many media are in each status."""
        total = self.count()
        media: FromClause = Media
        factor = 1.0
        if self._rows.is_postgresql and total > EXACT_UP_TO:
            factor = total / EXACT_UP_TO
            media = tablesample(Media, func.system(literal_column(f"{100 / factor:.6f}")))
        found = self._rows.execute(
            select(media.c.status, func.count().label("media"))
            .where(media.c.deleted_at.is_(None))
            .group_by(media.c.status)
        )
        counts = {str(status): 0 for status in Status}
        counts |= {row.status: round(row.media * factor) for row in found}
        return StatusCounts(counts, is_exact=factor == 1)

    def due(self) -> dict[str, DueWork]:
        """Return the due work of each kind.

        Of each index no more than the first MAX_COUNTED due rows are looked at, so that looking
        stays cheap when it matters most: a count may be too low then, the oldest age never is.
        """
        jobs = case((Media.c.attempts_left > 0, "dispatch"), else_="give_up")
        housekeeping = case((text(IS_PENDING), "expire"), else_="purge")
        found = {
            row.kind: DueWork(row.media, (row.now - row.oldest).total_seconds())
            for half in (_due(AWAITS_WORKER, jobs), _due(AWAITS_HOUSEKEEPING, housekeeping))
            for row in self._rows.execute(half)
        }
        return {kind: found.get(kind, DueWork()) for kind in DUE_KINDS}

    def tombstones(self) -> int:
        """Return how many deleted media have not been purged for good."""
        # A tombstone is always due some time: the index of what is due has them all.
        statement = select(func.count().label("media")).where(
            text(AWAITS_HOUSEKEEPING), Media.c.due_at.is_not(None), Media.c.deleted_at.is_not(None)
        )
        return int(self._rows.execute(statement)[0].media)

    def attempts(self) -> dict[int, int]:
        """Return how many media are being processed, by how often they were given to a worker."""
        statement = (
            select(Media.c.attempt, func.count().label("media"))
            .where(text(AWAITS_WORKER), Media.c.due_at.is_not(None))
            .group_by(Media.c.attempt)
            .order_by(Media.c.attempt)
        )
        return {row.attempt: row.media for row in self._rows.execute(statement)}

    def failures(self) -> dict[str, int]:
        """Return how many media have failed and are still kept, by error code, most first."""
        statement = (
            select(Media.c.error_code, func.count().label("media"))
            .where(text(HAS_FAILED))
            .group_by(Media.c.error_code)
            .order_by(func.count().desc(), Media.c.error_code)
        )
        return {row.error_code: row.media for row in self._rows.execute(statement)}


def _due(condition: str, kind: ColumnElement[str]) -> Select[tuple[str, int]]:
    first = (
        select(kind.label("kind"), Media.c.due_at)
        .where(text(condition), IS_DUE)
        .order_by(Media.c.due_at)
        .limit(MAX_COUNTED)
        .subquery()
    )
    return select(
        first.c.kind,
        func.count().label("media"),
        func.min(first.c.due_at).label("oldest"),
        now_plus(0).label("now"),
    ).group_by(first.c.kind)
