"""Statements sent past SQLAlchemy's execution: their values, faults, connections and lock."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from uuid import uuid4

import psycopg
import pytest
from psycopg.pq import ConnStatus
from sqlalchemy import (
    BigInteger,
    Integer,
    Text,
    Uuid,
    bindparam,
    column,
    func,
    insert,
    literal,
    select,
    table,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, IntegrityError, InternalError, OperationalError

from mediaservice.database import UtcDateTime, create_database_engine
from mediaservice.lifecycle.statements import (
    LibpqConnections,
    PipelinedTransaction,
    PreparedStatement,
)
from mediaservice.listener import RESULT_BATCH
from mediaservice.messages import MAX_BODY_BYTES
from tests.world import processed

LOCK = -(2**63)
PID = func.pg_backend_pid().label("pid")


@pytest.fixture
def engine(postgresql_url):
    engine = create_database_engine(postgresql_url)
    yield engine
    engine.dispose()


@pytest.fixture
def connections(engine):
    return LibpqConnections(engine)


@pytest.fixture
def other(postgresql_url):
    """Another client of the same database."""
    with closing(psycopg.connect(postgresql_url.replace("+psycopg", ""))) as connection:
        yield connection


@pytest.fixture(params=["run", "run_alone"])
def divide(request, connections):
    """A statement that fails when 60 is divided by 0, and tells its connection's process."""
    parts = literal(60) / bindparam("by", type_=Integer)
    division = PreparedStatement(connections, select(parts.label("part"), PID))
    if request.param == "run":
        return lambda by: division.run(by=by)[0]
    return lambda by: division.run_alone(LOCK, by=by)[0]


def test_what_the_url_of_the_database_says_goes_first(postgresql_url):
    given = "options=-csearch_path%3Delsewhere&target_session_attrs=primary&connect_timeout=2"
    engine = create_database_engine(f"{postgresql_url}?{given}")
    with engine.connect() as connection:
        shown = [
            connection.scalar(text(f"SHOW {name}"))
            for name in ("search_path", "timezone", "statement_timeout")
        ]
        known = connection.connection.driver_connection.info.get_parameters()
    engine.dispose()
    assert shown == ["elsewhere", "UTC", "15s"]
    assert (known["target_session_attrs"], known["connect_timeout"]) == ("primary", "2")
    assert known["keepalives_idle"] == "10"


def test_values_arrive_as_they_were_given(connections):
    given = {
        "id": (Uuid, uuid4()),
        "name": (Text, "naïve ' \\ %s $1 \n"),
        "size_bytes": (BigInteger, 2**53),
        "at": (UtcDateTime, datetime(2026, 11, 1, 12, 0, 0, 123456, tzinfo=UTC)),
        "nothing": (Text, None),
    }
    columns = [bindparam(name, type_=type_).label(name) for name, (type_, _) in given.items()]
    values = {name: value for name, (_, value) in given.items()}
    assert [
        row._asdict() for row in PreparedStatement(connections, select(*columns)).run(**values)
    ] == [values]


def test_a_statement_that_fails_leaves_its_connection_as_it_was(divide):
    before = divide(by=2)
    with pytest.raises(DataError, match="division by zero"):
        divide(by=0)
    assert divide(by=2) == before


def test_a_lost_connection_is_told_once_and_replaced(divide, other):
    lost = divide(by=2).pid
    other.execute("SELECT pg_terminate_backend(%s, 15000)", [lost])
    with pytest.raises(OperationalError):
        divide(by=2)
    assert divide(by=3).part == 20
    assert divide(by=3).pid != lost


def test_a_database_that_cannot_be_reached_is_told():
    engine = create_database_engine("postgresql://127.0.0.1:9/media")
    statement = PreparedStatement(LibpqConnections(engine), select(literal(1)))
    for _ in range(2):
        with pytest.raises(OperationalError):
            statement.run()


def test_one_connection_is_kept_and_whoever_comes_second_has_another(connections):
    with connections.checked_out() as first, connections.checked_out() as second:
        assert first.pgconn.backend_pid != second.pgconn.backend_pid
    with connections.checked_out() as again:
        assert again is first


def test_a_second_connection_that_is_whole_is_used_again(connections):
    with connections.checked_out(), connections.checked_out() as second:
        before = second.pgconn.backend_pid
    with connections.checked_out(), connections.checked_out() as second:
        assert second.pgconn.backend_pid == before


def test_a_second_connection_that_breaks_is_replaced(connections, other):
    with connections.checked_out(), connections.checked_out() as second:
        lost = second.pgconn.backend_pid
        other.execute("SELECT pg_terminate_backend(%s, 15000)", [lost])
        second.pgconn.exec_(b"SELECT 1")
    with connections.checked_out(), connections.checked_out() as second:
        assert second.pgconn.backend_pid != lost


def test_an_engine_that_is_disposed_of_closes_the_kept_connection(engine, connections):
    with connections.checked_out() as connection:
        assert connection.pgconn.status == ConnStatus.OK
    engine.dispose()
    assert connection.pgconn.status == ConnStatus.BAD


def test_what_waited_for_the_lock_sees_what_its_holder_committed(other, connections):
    other.execute("CREATE TABLE held (number int)")
    other.commit()
    counting = PreparedStatement(
        connections, select(func.count().label("count")).select_from(text("held"))
    )
    assert counting.run_alone(LOCK)[0].count == 0
    other.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
    other.execute("INSERT INTO held VALUES (1)")
    with ThreadPoolExecutor() as pool:
        counted = pool.submit(counting.run_alone, LOCK)
        waits = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while not other.execute(waits).fetchall():
            threading.Event().wait(0.01)
        other.commit()
    assert counted.result()[0].count == 1


@pytest.fixture
def insertion(other, connections):
    """A statement that inserts a number which is not there yet, and returns it."""
    other.execute("CREATE TABLE numbers (number int PRIMARY KEY)")
    other.commit()
    numbers = table("numbers", column("number", Integer))
    statement = insert(numbers).values(number=bindparam("number", type_=Integer))
    return PreparedStatement(connections, statement.returning(numbers.c.number))


@pytest.fixture(params=["by SQLAlchemy", "prepared"])
def write(request, engine, insertion):
    """Insert a number, after some SQL over the same connection."""

    def by_sqlalchemy(number, sql):
        with engine.connect() as connection:
            connection.execute(text(sql))
            insertion.run_within(connection, {"number": number})

    def prepared(number, sql):
        with insertion.connection() as connection:
            connection.pgconn.exec_(sql.encode())
        insertion.run(number=number)

    return prepared if request.param == "prepared" else by_sqlalchemy


def test_a_connection_to_a_server_that_takes_no_writes_is_not_used_again(write, other):
    """As after a failover behind a pooler, or where a full disk makes the server read-only."""
    with pytest.raises(InternalError, match="read-only"):
        write(1, "SET default_transaction_read_only = on")
    write(2, "SELECT 1")
    assert numbers_in(other) == [2]


def numbers_in(other):
    other.rollback()
    return [number for (number,) in other.execute("SELECT number FROM numbers").fetchall()]


def test_a_lock_that_fails_is_told_and_runs_nothing(insertion, other):
    with pytest.raises(DataError, match="out of range"):
        insertion.run_alone(2**63, number=1)
    assert numbers_in(other) == []
    assert insertion.run_alone(2**63 - 1, number=1)[0].number == 1


def test_statements_sent_together_are_committed_before_their_rows_are_told(
    engine, other, insertion, connections
):
    process = PreparedStatement(connections, select(PID))
    sent = PipelinedTransaction(
        engine, [(insertion, {"number": 1}), (insertion, {"number": 2}), (process, {})]
    )
    (first,), (second,), (connection,) = sent.rows()
    assert (first.number, second.number) == (1, 2)
    assert numbers_in(other) == [1, 2]
    assert process.run()[0].pid == connection.pid


def test_of_statements_sent_together_one_that_fails_undoes_all(engine, other, insertion):
    before = insertion.run(number=1)
    sent = PipelinedTransaction(
        engine, [(insertion, {"number": 2}), (insertion, {"number": 1}), (insertion, {"number": 3})]
    )
    with pytest.raises(IntegrityError, match="already exists"):
        sent.rows()
    assert numbers_in(other) == [before[0].number]
    assert insertion.run(number=4)[0].number == 4


@pytest.mark.parametrize("way", ["TCP", "Unix socket"])
def test_more_than_the_way_to_the_server_holds_arrives(postgresql_url, other, way):
    url = make_url(postgresql_url)
    if way == "Unix socket":
        (folder,) = other.execute("SHOW unix_socket_directories").fetchone()
        url = url.set(host=None, port=None, query={"host": folder, "port": str(url.port)})
    engine = create_database_engine(url.render_as_string(hide_password=False))
    length = func.length(bindparam("records", type_=Text)).label("length")
    measured = PreparedStatement(LibpqConnections(engine), select(length))
    largest = RESULT_BATCH * MAX_BODY_BYTES
    with closing(engine.raw_connection()) as connection:
        is_local = connection.driver_connection.info.host.startswith("/")
    assert is_local == (way == "Unix socket")
    (one,), (other_one,) = PipelinedTransaction(
        engine, [(measured, {"records": "x" * largest})] * 2
    ).rows()
    assert one.length == other_one.length == largest
    engine.dispose()


@pytest.mark.parametrize("way", ["alone", "together"])
def test_a_commit_that_fails_is_told(engine, other, insertion, way):
    """What each statement returned does not count then."""
    other.execute(
        "ALTER TABLE numbers DROP CONSTRAINT numbers_pkey,"
        " ADD UNIQUE (number) DEFERRABLE INITIALLY DEFERRED"
    )
    other.commit()
    insert_one = {
        "alone": lambda: insertion.run_alone(LOCK, number=1),
        "together": lambda: PipelinedTransaction(engine, [(insertion, {"number": 1})]).rows(),
    }[way]
    insert_one()
    with pytest.raises(IntegrityError, match="already exists"):
        insert_one()
    assert numbers_in(other) == [1]
    assert insertion.run(number=2)[0].number == 2


def test_nothing_is_sent_together(engine):
    assert PipelinedTransaction(engine, []).rows() == []


def test_what_was_sent_over_a_connection_that_is_lost_is_told(
    engine, other, insertion, connections
):
    process = PreparedStatement(connections, select(PID))
    lost = process.run()[0].pid
    other.execute("INSERT INTO numbers VALUES (1)")  # and whoever else does waits for the end
    sent = PipelinedTransaction(engine, [(insertion, {"number": 1}), (process, {})])
    other.execute("SELECT pg_terminate_backend(%s, 15000)", [lost])
    with pytest.raises(OperationalError):
        sent.rows()
    assert numbers_in(other) == []
    assert process.run()[0].pid != lost


def test_what_could_not_be_sent_is_told_once_asked(engine, other, insertion, connections):
    lost = PreparedStatement(connections, select(PID)).run()[0].pid
    other.execute("SELECT pg_terminate_backend(%s, 15000)", [lost])
    sent = PipelinedTransaction(engine, [(insertion, {"number": 1})])
    with pytest.raises(OperationalError):
        sent.rows()
    assert numbers_in(other) == []


def test_a_connection_whose_rows_nobody_asked_for_is_not_used_again(engine, insertion, connections):
    process = PreparedStatement(connections, select(PID))
    before = process.run()[0].pid
    PipelinedTransaction(engine, [(process, {})])
    gc.collect()
    assert process.run()[0].pid != before


def test_a_batch_of_answers_reads_no_more_of_a_small_table_than_its_own_rows(world, other):
    world.insert()
    other.autocommit = True
    media_ids = other.execute(
        "INSERT INTO media (id, owner_id, owner_type, status, raw_key, raw_etag,"
        " updated_at, upload_expires_at, attempt, attempts_left)"
        " SELECT gen_random_uuid(), owner_id, owner_type, status, raw_key, raw_etag,"
        " updated_at, upload_expires_at, attempt, attempts_left"
        " FROM media, generate_series(1, 5000) RETURNING id"
    ).fetchall()
    other.execute("VACUUM ANALYZE media")
    before = scans_of(other)
    for (media_id,) in media_ids[:20]:
        world.apply(processed(media_id))
    end_sessions(world, other)
    # PostgreSQL plans the first five for the very values that they are executed with.
    assert scans_of(other) - before <= 5


def scans_of(other):
    """Return how often the table was read as a whole, by those who have told and by `other`."""
    other.execute("SELECT pg_stat_force_next_flush()")
    tables = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'media'"
    return other.execute(tables).fetchone()[0]


def end_sessions(world, other):
    """End a world's connections: one that has ended has told what it read."""
    world.engine.dispose()
    connections = "SELECT FROM pg_stat_activity WHERE datname = current_database()"
    while len(other.execute(connections).fetchall()) > 1:
        threading.Event().wait(0.01)


def test_an_owners_uploads_are_counted_without_reading_those_of_others(world, other):
    """Also after a quiet night, by statistics that know of no pending upload."""
    world.insert(status="ready", public_key="media/main.webp", due_at=None)
    other.autocommit = True
    other.execute(
        "INSERT INTO media (id, owner_id, owner_type, status, raw_key, raw_etag, public_key,"
        " updated_at, upload_expires_at, attempt, attempts_left)"
        " SELECT gen_random_uuid(), gen_random_uuid(), owner_type, status, raw_key, raw_etag,"
        " public_key, updated_at, upload_expires_at, attempt, attempts_left"
        " FROM media, generate_series(1, 3000)"
    )
    other.execute("VACUUM ANALYZE media")
    for _ in range(20):
        world.request(owner_id=uuid4())
    end_sessions(world, other)
    scans = "SELECT indexrelname, idx_scan FROM pg_stat_user_indexes"
    used = dict(other.execute(scans).fetchall())
    assert used["idx_media_pending"] >= 20
    assert used["idx_media_status"] == 0


def test_the_last_attempts_and_failures_are_found_without_reading_all_that_is_due(world, other):
    """As after an outage, or a mass deletion: thousands of others are due."""
    world.insert()
    other.autocommit = True
    for values in ("'processing', 3, now(), NULL", "'ready', 0, now(), now()"):
        other.execute(
            "INSERT INTO media (id, owner_id, owner_type, status, attempts_left, due_at,"
            " deleted_at, raw_key, raw_etag, public_key, updated_at, upload_expires_at, attempt)"
            f" SELECT gen_random_uuid(), owner_id, owner_type, {values}, raw_key, 'e', 'k',"
            " now(), now(), 1 FROM media, generate_series(1, 3000) LIMIT 3000"
        )
    other.execute("VACUUM ANALYZE media")
    before = scans_of(other)
    world.processing.give_up(10)
    world.deletion.retire(10)
    world.processing.retry_failed(10, failed_before=world.lifecycle.rows.now())
    world.lifecycle.statistics.failures()
    end_sessions(world, other)
    used = dict(other.execute("SELECT indexrelname, idx_scan FROM pg_stat_user_indexes").fetchall())
    assert (used["idx_media_last_attempt"], used["idx_media_failed"]) == (1, 3)
    assert used["idx_media_due"] == used["idx_media_due_dispatch"] == 0
    assert scans_of(other) == before
