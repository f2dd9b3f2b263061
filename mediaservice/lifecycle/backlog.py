"""What is due and not done yet, for those who watch the service; nothing is claimed or changed."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, case, func, select, text
from sqlalchemy.sql.expression import Select

from mediaservice.database import now_plus
from mediaservice.lifecycle.rows import IS_DUE, Rows
from mediaservice.models import AWAITS_HOUSEKEEPING, AWAITS_WORKER, IS_PENDING, Media

DUE_KINDS = ("dispatch", "give_up", "expire", "purge")
MAX_COUNTED = 10_000


@dataclass(frozen=True, slots=True)
class DueWork:
    """How many media wait to be dealt with, and for how long the first has; 0 if there are none."""

    count: int = 0
    oldest_age_seconds: float = 0.0


class Backlog:
    """Counts due media by what is to be done: see DUE_KINDS."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

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
