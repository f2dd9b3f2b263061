"""The transition table, its picture in the documentation, and the database's checks are one."""

import re
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

from mediaservice.models import Media
from mediaservice.states import TRANSITIONS, Event, OwnerType, Status

ARCHITECTURE = Path(__file__).resolve().parent.parent / "docs" / "architecture.md"
NOTHING = "–"  # noqa: RUF001 - what the table shows for "from nothing"


def documented_table() -> dict[str, tuple[str, str, str]]:
    section = ARCHITECTURE.read_text().split("## States")[1].split("\n## ")[0]
    rows = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 5 and cells[0].startswith("`"):
            assert cells[0].strip("`") not in rows
            rows[cells[0].strip("`")] = (cells[1], cells[2], cells[3])
    return rows


def check_constraint(name: str) -> str:
    (found,) = (c for c in Media.constraints if c.name == name)
    assert isinstance(found, sa.CheckConstraint)
    return str(found.sqltext)


def test_the_documented_table_is_the_table():
    table = {
        rule.event.value: (
            ", ".join(rule.sources) or NOTHING,
            "yes" if rule.pinned_only else "no",
            rule.target.value if rule.target else "(as it was)",
        )
        for rule in TRANSITIONS.values()
    }
    assert documented_table() == table


def test_every_event_has_one_transition():
    assert set(TRANSITIONS) == set(Event)
    assert all(rule.event is event for event, rule in TRANSITIONS.items())


def test_the_table_cannot_be_changed():
    for rule in TRANSITIONS.values():
        with pytest.raises(AttributeError):
            rule.target = Status.READY  # type: ignore[misc]


def test_a_ready_media_can_only_be_deleted():
    leaving = [r.event for r in TRANSITIONS.values() if Status.READY in r.sources]
    assert leaving == [Event.DELETE_REQUESTED]


def test_every_status_can_be_reached_and_deleted():
    reached = {rule.target for rule in TRANSITIONS.values()} - {None}
    assert reached == set(Status)
    assert set(TRANSITIONS[Event.DELETE_REQUESTED].sources) == set(Status)


@pytest.mark.parametrize(
    ("name", "values"), [("ck_media_status", Status), ("ck_media_owner_type", OwnerType)]
)
def test_the_database_accepts_exactly_the_values_of_the_enum(
    name: str, values: type[Status] | type[OwnerType]
):
    assert set(re.findall(r"'(\w+)'", check_constraint(name))) == {v.value for v in values}


@pytest.mark.parametrize(
    "values",
    [
        {"status": "archived"},
        {"owner_type": "group"},
        {"status": "processing"},
        {"status": "ready", "raw_etag": "e"},
        {"status": "ready", "public_key": "k"},
        {"status": "failed"},
        {"deleted_at": sa.func.now(), "due_at": None},
        {"attempt": -1},
        {"attempts_left": -1},
        {"raw_key": None},
    ],
)
def test_the_database_refuses_an_impossible_media(values: dict[str, object]):
    engine = sa.create_engine("sqlite://")
    Media.metadata.create_all(engine)
    possible = {
        "id": uuid4(),
        "owner_id": uuid4(),
        "owner_type": "user",
        "status": "pending",
        "raw_key": "uploads/1",
        "updated_at": sa.func.now(),
        "upload_expires_at": sa.func.now(),
        "due_at": sa.func.now(),
        "attempt": 0,
        "attempts_left": 0,
    }
    with engine.begin() as connection:
        connection.execute(sa.insert(Media).values(**possible))
        with pytest.raises(sa.exc.IntegrityError):
            connection.execute(sa.insert(Media).values(**{**possible, "id": uuid4(), **values}))
    engine.dispose()
