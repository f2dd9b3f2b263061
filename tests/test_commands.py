"""The command line: what people see, what programs read, how it fails."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID, uuid4

import click
import pika
import pytest
import structlog

from config.settings import Settings
from devstack.process import answers, find_free_ports
from devstack.roles import FLASK, LISTENER, WEB, Role
from mediaservice import PROJECT, create_app
from mediaservice.audit import Kind
from mediaservice.broker import (
    DEAD_LETTER_EXCHANGE,
    DEAD_LETTER_QUEUE,
    PROCESS_QUEUE,
    RESULTS_QUEUE,
    Publication,
)
from mediaservice.client import Caller, ServiceClient, _declaration
from mediaservice.commands import media
from mediaservice.commands.upload import _show
from mediaservice.doctor import Check, Verdict
from mediaservice.lifecycle.processing import Processing
from mediaservice.messages import MEDIA_FAILED, decode
from mediaservice.storage import Storage, StoreUnavailable
from tests.builders import ORIGIN, UNKNOWN_ID, environment, jpeg, png
from tests.queues import UndecodableProperties, put_dead, wait_for_count
from tests.scripted_store import ScriptedStore, answer, fault
from tests.service import measured
from tests.world import SETTINGS, World, failed

COMMANDS = (
    ["init"],
    ["doctor"],
    ["stats"],
    ["list"],
    ["show"],
    ["audit"],
    ["retry"],
    ["reprocess"],
    ["delete"],
    ["dead-letters"],
    ["dead-letters", "list"],
    ["dead-letters", "requeue"],
    ["dead-letters", "drop"],
    ["upload"],
)


@pytest.fixture(autouse=True)
def _log_to_stderr():
    """As every process does; the tests' own configuration is structlog's default."""
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    yield
    structlog.reset_defaults()


@pytest.fixture
def _at_once(monkeypatch):
    """Another try of a call does not wait."""
    monkeypatch.setattr("urllib3.Retry.get_backoff_time", lambda _retries: 0)


@pytest.fixture
def database_url(sqlite_url):
    return sqlite_url


@pytest.fixture
def store_environ(own_store_environ):
    return own_store_environ


@pytest.fixture
def run(world):
    return runner(world.settings)


@pytest.fixture(scope="module")
def run_without_servers():
    return runner(Settings.from_environ(environment()))


def runner(settings):
    """Return a function that runs `flask media` with these settings."""
    app = create_app(settings, with_commands=True)

    def run(*words, **options):
        result = app.test_cli_runner().invoke(args=["media", *map(str, words)], **options)
        app.extensions["media"].lifecycle.rows.engine.dispose()
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return SimpleNamespace(
            code=result.exit_code,
            out=result.stdout,
            err="".join(
                line for line in result.stderr.splitlines(keepends=True) if "[info" not in line
            ),
            lines=result.stdout.splitlines(),
            json=[json.loads(x) for x in result.stdout.splitlines()] if "--json" in words else None,
        )

    return run


# help


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_says_what_it_is_for(run_without_servers, words):
    shown = run_without_servers(*words, "--help")
    assert shown.code == 0
    assert "--json" in shown.out or words == ["dead-letters"]
    summary = shown.out.split("\n\n")[1].strip()
    assert len(summary) > 20


def names(group, *before):
    """Yield the words of every command of a group, and of its groups."""
    for name, command in group.commands.items():
        yield [*before, name]
        if isinstance(command, click.Group):
            yield from names(command, *before, name)


def test_the_list_of_commands_is_complete():
    assert sorted(names(media)) == sorted(COMMANDS)


def test_the_operations_page_has_every_command_kind_and_nothing_else():
    page = (PROJECT / "docs/operations.md").read_text()
    headings = set(re.findall("`([a-z-]+)`", " ".join(re.findall("^## .*", page, re.MULTILINE))))
    assert headings == {words[0] for words in COMMANDS}
    rows = "".join(re.findall("^[|] `.*?[|]", page, re.MULTILINE))
    assert set(re.findall("`([a-z_]+)`", rows)) == {kind.value for kind in Kind}


@pytest.mark.parametrize(
    "words",
    [
        ["retry"],
        ["retry", "--error-code", "x"],
        ["retry", "--failed", str(UNKNOWN_ID)],
        ["retry", "not-a-uuid"],
        ["delete"],
        ["delete", "--owner", str(UNKNOWN_ID), str(UNKNOWN_ID)],
        ["list"],
        ["list", "--owner", str(UNKNOWN_ID), "--status", "lost"],
        ["show"],
        ["reprocess"],
        ["audit", "--min-age", "-1"],
        ["audit", "--ignore", "everything"],
        ["dead-letters", "drop"],
        ["dead-letters", "requeue", "--all", "an-id"],
        ["upload", "photo.jpg"],
    ],
    ids=" ".join,
)
def test_wrong_use_is_told_and_nothing_is_done(run_without_servers, words):
    shown = run_without_servers(*words)
    assert (shown.code, shown.out) == (2, "")
    assert "Usage:" in shown.err


# servers that are away


@pytest.mark.parametrize(
    ("variables", "words", "told"),
    [
        ({"S3_ENDPOINT": "http://127.0.0.1:9"}, ["audit"], "S3_ENDPOINT"),
        ({"S3_ENDPOINT": "http://127.0.0.1:9"}, ["init"], "S3_ENDPOINT"),
        ({"DATABASE_URL": "postgresql://m:m@127.0.0.1:9/m"}, ["audit"], "DATABASE_URL"),
        ({"DATABASE_URL": "postgresql://m:m@127.0.0.1:9/m"}, ["stats"], "DATABASE_URL"),
        ({"DATABASE_URL": "postgresql://m:m@127.0.0.1:9/m"}, ["retry", "--failed"], "DATABASE_URL"),
        ({"DATABASE_URL": "sqlite:///:memory:"}, ["stats"], "db upgrade"),
        ({"BROKER_URL": "amqp://g:g@127.0.0.1:9/"}, ["stats"], "BROKER_URL"),
        ({"BROKER_URL": "amqp://g:g@127.0.0.1:9/"}, ["init"], "BROKER_URL"),
        ({"BROKER_URL": "amqp://g:g@127.0.0.1:9/"}, ["dead-letters", "list"], "BROKER_URL"),
    ],
)
def test_a_server_that_is_away_is_one_line_with_what_to_do(make_world, variables, words, told):
    shown = runner(make_world(**variables).settings)(*words)
    assert shown.code == 2
    error = [line for line in shown.err.splitlines() if line.startswith("Error:")]
    assert len(error) == 1
    assert "What to do" in error[0]
    assert told in error[0]
    assert "Traceback" not in shown.err


def test_the_real_command_ends_without_a_traceback(make_world):
    world = make_world(S3_ENDPOINT="http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, *FLASK, "media", "audit", "--json"],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], **measured(), **world.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Error: The store call failed: ")
    assert done.stderr.count("\n") == 1


# init and doctor


@pytest.fixture
def world_to_init(make_world, buckets):
    """A world with buckets of the test's own: what `init` allows stays on them."""
    return make_world(**buckets)


def test_init_makes_everything_and_is_safe_to_repeat(world_to_init):
    world, run = world_to_init, runner(world_to_init.settings)
    for _ in range(2):
        (made,) = run("init", "--json").json
        assert made == {
            "raw_bucket": world.storage.raw_bucket,
            "public_bucket": world.storage.public_bucket,
            "web_origins": [ORIGIN],
            "broker": "inline",
        }
    assert "(private)" in run("init").out


def test_the_doctor_tells_each_guarantee_and_ends_by_its_result(world_to_init):
    run = runner(world_to_init.settings)
    run("init")
    checks = run("doctor", "--json").json
    assert checks[-1]["totals"] == {"ok": 21, "warning": 0, "failed": 2, "skipped": 2}
    names = {check["name"]: check for check in checks[:-1]}
    assert {name for name, check in names.items() if check["verdict"] == "failed"} == {
        "migrations",  # the tests' databases are made without them
        "cdn",
    }
    assert set(names["cdn"]) == {"name", "verdict", "guarantee", "found", "remedy"}
    shown = run("doctor")
    assert shown.code == 1
    assert "What to do: flask --app app db upgrade" in shown.out
    assert "\x1b" not in shown.out


@pytest.mark.parametrize(
    ("verdict", "code"), [(Verdict.OK, 0), (Verdict.WARNING, 0), (Verdict.FAILED, 1)]
)
def test_only_a_guarantee_that_does_not_hold_ends_the_doctor_with_1(
    run_without_servers, monkeypatch, verdict, code
):
    checks = [
        Check(one.value, one, "it holds", "seen") for one in (Verdict.OK, Verdict.SKIPPED, verdict)
    ]
    monkeypatch.setattr("mediaservice.commands.doctor.examine_service", lambda *_, **__: checks)
    assert run_without_servers("doctor").code == code


# audit


def test_an_audit_of_a_healthy_service_finds_nothing(run, world):
    world.ready()
    shown = run("audit", "--min-age", 0)
    assert (shown.code, shown.lines) == (
        0,
        ["1 media, 1 originals, 1 public objects", "all in order"],
    )


def test_an_audit_reports_and_repairs_only_when_asked(run, world):
    orphan = uuid4()
    world.put(orphan, b"x")
    found = run("audit", "--min-age", 0)
    assert found.code == 1
    assert f"raw_without_media {world.storage.raw_bucket}/uploads/{orphan}" in found.lines[0]
    assert "nothing was changed" in found.out
    assert world.row(orphan) is None
    emptied = run("audit", "--min-age", 0, "--repair", "--yes")
    assert (emptied.code, emptied.lines) == (2, [])
    assert "There are no media in this database" in emptied.err
    world.pending()
    refused = run("audit", "--min-age", 0, "--repair", input="n\n")
    assert (refused.code, world.row(orphan)) == (1, None)
    assert world.storage.raw_bucket in refused.err
    repaired = run("audit", "--min-age", 0, "--repair", input="y\n")
    assert repaired.code == 0
    assert "all repaired" in repaired.out
    world.purge_due()
    assert not world.has_original(orphan)
    assert run("audit", "--min-age", 0).code == 0


def test_what_only_a_person_can_mend_leaves_exit_code_1(run, world):
    media_id = world.ready()
    world.storage.delete_objects(world.storage.public_bucket, world.public_keys(media_id))
    shown = run("audit", "--min-age", 0, "--repair", "--yes", "--json")
    assert shown.code == 1
    finding, last = shown.json
    assert finding["kind"] == "public_object_missing"
    assert finding["media_id"] == str(media_id)
    assert finding["is_repaired"] is False
    assert f"reprocess {media_id}" in finding["remedy"]
    assert last["totals"]["left"] == last["totals"]["found"]["public_object_missing"] == 1
    assert last["totals"]["repaired"]["public_object_missing"] == 0
    ignored = run("audit", "--min-age", 0, "--ignore", "public_object_missing")
    assert ignored.code == 0


def test_the_default_age_spares_what_is_new(run, world):
    world.put(uuid4(), b"x")
    assert run("audit").code == 0


def test_an_audit_cut_short_says_where_to_go_on(run, world, monkeypatch):
    listed = Storage.list_objects

    def fail_at_the_end(storage, bucket, prefix="", **options):
        yield from listed(storage, bucket, prefix, **options)
        raise StoreUnavailable("list_objects_v2: 500")

    first, second = world.ready(), world.ready()
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "list_objects", fail_at_the_end)
        shown = run("audit", "--min-age", 0)
    assert shown.code == 2
    assert f"The rest is left to: --after {first}\n" in shown.err
    assert "What to do" in shown.err
    rest = run("audit", "--min-age", 0, "--after", first)
    assert (rest.code, rest.lines[0]) == (0, "1 media, 1 originals, 1 public objects")
    assert first < second


# retry and reprocess


def test_media_are_retried_by_id(run, world):
    first, second = world.failed(), world.failed()
    shown = run("retry", first, second, "--json")
    assert shown.json == [
        {"media_id": str(media_id), "error": None} for media_id in (first, second)
    ]
    assert world.status(first) == world.status(second) == "processing"
    assert len(world.processing.claim(10)) == 2


@pytest.mark.parametrize("stage", ["ready", "completed", "pending"])
def test_what_has_not_failed_is_not_retried(run, world, stage):
    media_id = getattr(world, stage)()
    before = world.row(media_id)
    shown = run("retry", media_id)
    assert shown.code == 1
    assert shown.lines == [
        f"{media_id} left alone: Only a media whose processing failed can be retried."
    ]
    assert world.row(media_id) == before


@pytest.mark.parametrize(
    ("command", "stage"), [("retry", "failed"), ("reprocess", "ready")], ids=["retry", "reprocess"]
)
def test_an_unknown_media_does_not_keep_the_others(run_with_broker, make_world, command, stage):
    world = make_world()
    unknown, known = uuid4(), getattr(world, stage)()
    shown = run_with_broker(command, unknown, known, "--json")
    assert shown.code == 1
    assert shown.json == [
        {"media_id": str(unknown), "error": "media_not_found"},
        {"media_id": str(known), "error": None},
    ]


def test_all_failed_media_are_retried_at_once(run, world, monkeypatch):
    monkeypatch.setattr("mediaservice.commands.retry._RETRY_BATCH", 2)
    crashed = [world.failed("decoder_crashed") for _ in range(5)]
    corrupt = world.failed("corrupt_image")
    rejected = world.pending()
    world.put(rejected, b"another size")
    with pytest.raises(Exception, match="size_mismatch"):
        world.complete(rejected)
    deleted = world.failed("decoder_crashed")
    world.delete(deleted)
    shown = run("retry", "--failed", "--error-code", "decoder_crashed", "--json")
    assert shown.json == [{"retried": 5}]
    assert {world.status(media_id) for media_id in crashed} == {"processing"}
    assert (world.status(corrupt), world.status(rejected)) == ("failed", "failed")
    assert world.status(deleted) == "deleted"
    assert run("retry", "--failed").lines == ["1 media to be processed again"]
    assert run("retry", "--failed").lines == ["0 media to be processed again"]


def test_what_fails_again_meanwhile_is_not_retried_for_ever(run, world, monkeypatch):
    monkeypatch.setattr("mediaservice.commands.retry._RETRY_BATCH", 1)
    retry_failed = Processing.retry_failed
    batches = []

    def fail_again(*arguments, **options):
        batches.append(retry_failed(*arguments, **options))
        assert len(batches) < 9
        for claim in world.processing.claim(10):
            world.apply(failed(claim.job))
        return batches[-1]

    monkeypatch.setattr(Processing, "retry_failed", fail_again)
    media_ids = [world.failed() for _ in range(2)]
    assert run("retry", "--failed", "--json").json == [{"retried": 2}]
    assert batches == [1, 1, 0]
    assert {world.status(media_id) for media_id in media_ids} == {"failed"}


@pytest.mark.slow
def test_bulk_retries_and_erasures_on_postgresql(make_world, postgresql_url):
    world = make_world(DATABASE_URL=postgresql_url)
    media_ids = [world.failed() for _ in range(3)]
    assert runner(world.settings)("retry", "--failed", "--json").json == [{"retried": 3}]
    assert {world.status(media_id) for media_id in media_ids} == {"processing"}
    erased = runner(world.settings)("delete", "--owner", world.owner, "--yes", "--json")
    assert erased.json == [{"deleted": 3}]
    assert {world.status(media_id) for media_id in media_ids} == {"deleted"}


# list and show


def test_an_owners_media_are_listed_newest_first(run, world):
    owner_id = uuid4()
    first, second, third = (world.request(owner_id=owner_id).media_id for _ in range(3))
    world.pending()
    world.age(second, 1300)
    world.uploads.expire(10)
    world.lifecycle.deletion.take_down(third)
    shown = run("list", "--owner", owner_id)
    assert [line.split()[2:] for line in shown.lines] == [
        [str(second), "failed", "upload_expired"],
        [str(first), "pending"],
    ]
    (listed,) = run("list", "--owner", owner_id, "--limit", 1, "--json").json
    assert (listed["id"], listed["owner_id"]) == (str(second), str(owner_id))
    assert run("list", "--owner", owner_id, "--status", "ready", "--json").out == ""
    nobody = run("list", "--owner", uuid4())
    assert (nobody.code, nobody.out, nobody.err) == (0, "", "no media\n")


def test_everything_about_a_media_is_shown(run, world):
    media_id = world.ready()
    (shown,) = run("show", media_id, "--json").json
    row = world.row(media_id)
    assert shown["media"] == {
        name: value if value is None or isinstance(value, int | list) else str(value)
        for name, value in row._asdict().items()
    }
    assert [(found["bucket"], found["key"]) for found in shown["objects"]] == [
        (world.storage.raw_bucket, row.raw_key),
        (world.storage.public_bucket, row.public_key),
    ]
    lines = [line.split() for line in run("show", media_id).lines]
    assert ["status", "ready"] in lines
    assert ["objects"] in lines
    assert f"{world.storage.public_bucket}/{row.public_key}" in {line[0] for line in lines}


def test_no_key_of_an_object_steers_the_terminal(run, world):
    media_id = world.ready()
    world.put_public(media_id, "\x9b31mred.webp")
    shown = run("show", media_id)
    assert r"\x9b31mred.webp" in shown.out
    assert "\x9b" not in shown.out


def test_what_is_deleted_is_shown_until_its_row_is_gone(run, world):
    media_id = world.ready()
    world.delete(media_id)
    world.purge_due()
    shown = run("show", media_id)
    assert any(line.startswith("deleted_at ") for line in shown.lines)
    assert shown.lines[-1] == "no objects"


def test_what_a_ready_media_lacks_is_shown(run, world):
    media_id = world.ready()
    key = world.row(media_id).public_key
    world.storage.delete_objects(world.storage.public_bucket, [key])
    assert run("show", media_id).lines[-1].split() == [
        f"{world.storage.public_bucket}/{key}",
        "missing",
    ]
    (shown,) = run("show", media_id, "--json").json
    assert shown["missing"] == [{"bucket": world.storage.public_bucket, "key": key}]


def test_without_the_store_the_row_is_shown_all_the_same(make_world):
    world = make_world(S3_ENDPOINT="http://127.0.0.1:9")
    media_id = world.request().media_id
    shown = runner(world.settings)("show", media_id)
    assert shown.code == 2
    assert ["status", "pending"] in [line.split() for line in shown.lines]
    assert "S3_ENDPOINT" in shown.err


def test_an_unknown_media_cannot_be_shown(run):
    shown = run("show", uuid4())
    assert (shown.code, shown.out) == (1, "")
    assert "There is no such media." in shown.err


# delete


def test_media_are_taken_down_whoever_owns_them(run, world):
    known, other, unknown = world.ready(), world.pending(), uuid4()
    shown = run("delete", known, unknown, "--yes", "--json")
    assert shown.code == 1
    assert shown.json == [
        {"media_id": str(known), "error": None},
        {"media_id": str(unknown), "error": "media_not_found"},
    ]
    assert (world.status(known), world.status(other)) == ("deleted", "pending")
    assert run("delete", known, "--yes").lines == [f"{known} deleted"]
    world.purge_due()
    assert world.is_empty(known)


def test_all_that_an_owner_has_is_erased(run, world, monkeypatch):
    monkeypatch.setattr("mediaservice.commands.delete._ERASE_BATCH", 2)
    erased = [world.ready(), world.pending(), world.completed(), world.failed(), world.pending()]
    owner, world.owner = world.owner, uuid4()
    kept = world.pending()
    assert run("delete", "--owner", owner, "--yes").lines == ["5 media deleted"]
    assert {world.status(media_id) for media_id in erased} == {"deleted"}
    assert world.status(kept) == "pending"
    assert run("delete", "--owner", owner, "--yes", "--json").json == [{"deleted": 0}]


def test_nothing_is_deleted_before_somebody_has_agreed(run, world):
    media_id = world.pending()
    shown = run("delete", media_id, input="n\n")
    assert (shown.code, shown.out) == (1, "")
    assert "Delete 1 media for good?" in shown.err
    asked = run("delete", "--owner", world.owner)
    assert asked.code == 1, "nobody is there to agree"
    assert f"Delete 1 media of {world.owner} for good?" in asked.err
    assert world.status(media_id) == "pending"
    assert run("delete", "--owner", world.owner, input="y\n").lines == ["1 media deleted"]


def test_lost_public_objects_are_written_again_by_the_worker(run, world):
    """With no broker the worker is in this process: what it writes is there at once."""
    body = jpeg(700, 500)
    media_id = world.request(body).media_id
    world.put(media_id, body)
    world.complete(media_id)
    broker = create_app(world.settings).extensions["media"].create_broker()
    (claim,) = world.processing.claim(1)
    broker.publish([Publication(claim.job)])
    (delivery,) = broker.consume(limit=1, wait_seconds=0)
    broker.close()
    world.apply(decode(delivery.routing_key, delivery.body))
    keys = world.public_keys(media_id)
    assert len(keys) == 3
    before = world.row(media_id)
    world.storage.delete_objects(world.storage.public_bucket, keys[:2])
    assert run("audit", "--min-age", 0).code == 1
    shown = run("reprocess", media_id)
    assert shown.lines == [f"{media_id} given to a worker; audit when it is done"]
    assert world.public_keys(media_id) == keys
    assert world.row(media_id) == before
    assert run("audit", "--min-age", 0).code == 0


@pytest.mark.parametrize("stage", ["failed", "completed"])
def test_only_ready_media_are_processed_again(run, world, stage):
    shown = run("reprocess", getattr(world, stage)())
    assert shown.code == 1
    assert "left alone: Only a media that is ready" in shown.out


def test_a_job_that_the_broker_does_not_take_is_told(make_world):
    world = make_world(BROKER_URL="amqp://guest:guest@127.0.0.1:9/")
    shown = runner(world.settings)("reprocess", world.ready())
    assert (shown.code, shown.out) == (2, "")
    assert "it has not taken the job" in shown.err


# stats


def test_stats_tell_what_there_is_and_what_is_due(run, world):
    for media_id in (world.ready(), world.ready(), world.pending()):
        assert world.status(media_id)
    world.failed("corrupt_image")
    world.failed("corrupt_image")
    world.failed("decoder_crashed")
    world.claimed()
    world.delete(world.ready())
    (numbers,) = run("stats", "--json").json
    assert numbers["media"] == {"pending": 1, "processing": 1, "ready": 2, "failed": 3}
    assert numbers["media_is_exact"] is True
    assert numbers["tombstones"] == 1
    assert numbers["failures"] == {"corrupt_image": 2, "decoder_crashed": 1}
    assert numbers["attempts"] == {"1": 1}
    assert numbers["due"]["purge"]["count"] == 1
    assert numbers["due"]["dispatch"]["count"] == 0
    assert numbers["queues"] is None
    shown = run("stats").out
    assert "corrupt_image" in shown
    assert "tombstones of deleted media" in shown


# with RabbitMQ


@pytest.fixture
def run_with_broker(make_world, rabbitmq, amqp):
    return runner(make_world(BROKER_URL=rabbitmq.url).settings)


def test_dead_letters_are_listed_and_stay(run_with_broker, amqp):
    assert run_with_broker("dead-letters", "list").lines == ["no dead letters"]
    put_dead(amqp, MEDIA_FAILED, b'{"a": 1}', "one:1")
    put_dead(amqp, "x", b"\x1b[31mred\xff", "two:1")
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 2)
    first, second = run_with_broker("dead-letters", "list", "--json").json
    assert first == {
        "id": "one:1",
        "routing_key": MEDIA_FAILED,
        "reason": "its reason",
        "correlation_id": None,
        "body": '{"a": 1}',
    }
    assert second["id"] == "two:1"
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 2)
    shown = run_with_broker("dead-letters", "list", "--limit", 5)
    assert "one:1 media.failed: its reason" in shown.out
    assert "\x1b" not in shown.out  # what a stranger sent does not steer the terminal
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 2)


def test_a_parameter_of_the_broker_that_is_wrong_is_told_in_one_line():
    url = "amqp://media:hunter2@127.0.0.1:9/?heartbeat=often"
    shown = runner(Settings.from_environ(environment(BROKER_URL=url)))("dead-letters", "list")
    (line,) = shown.err.splitlines()
    assert (shown.code, shown.out) == (2, "")
    assert "BROKER_URL: " in line
    assert "hunter2" not in line


def test_no_dead_letter_steers_the_terminal(run_with_broker, amqp):
    put_dead(amqp, MEDIA_FAILED, b"{}", "\x1b]0;owned\x07\n1:1")
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 1)
    for words in (["list"], ["requeue", "--all"]):
        shown = run_with_broker("dead-letters", *words)
        assert r"\x1b]0;owned\x07\n1:1 " in shown.out
        assert "\x1b" not in shown.out


@pytest.mark.parametrize(
    "deaths",
    ["text", {"a": 1}, ["text"], [], [{"routing-keys": 5}], [{"routing-keys": []}]],
    ids=str,
)
def test_a_dead_letter_with_a_made_up_account_of_its_deaths_is_handled(
    run_with_broker, amqp, deaths
):
    properties = pika.BasicProperties(message_id="one:1", headers={"x-death": deaths, b"\xff": "x"})
    amqp.basic_publish(DEAD_LETTER_EXCHANGE, MEDIA_FAILED, b"{}", properties)
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 1)
    assert run_with_broker("dead-letters", "list").lines[0].startswith("one:1 media.failed: ")
    assert run_with_broker("dead-letters", "requeue", "--all").lines[-1] == "1 requeued, 0 left"


def test_a_dead_letter_whose_headers_cannot_be_decoded_can_be_dropped(run_with_broker, amqp):
    amqp.basic_publish(DEAD_LETTER_EXCHANGE, MEDIA_FAILED, b"{}", UndecodableProperties())
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 1)
    (line, *_) = run_with_broker("dead-letters", "list").lines
    letter_id, _, _ = line.partition(" ")
    assert run_with_broker("dead-letters", "drop", "--yes", letter_id).code == 0
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 0)


def test_a_list_of_dead_letters_says_if_there_are_more(run_with_broker, amqp):
    for number in range(2):
        put_dead(amqp, MEDIA_FAILED, b"{}", f"{number}:1")
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 2)
    listed = run_with_broker("dead-letters", "list", "--limit", 1)
    assert (len(listed.lines), listed.err) == (2, "1 of 2 shown: see --limit\n")


@pytest.mark.parametrize("words", [["requeue"], ["drop", "--yes"]], ids=" ".join)
def test_an_id_that_is_no_dead_letters_is_told(run_with_broker, amqp, words):
    put_dead(amqp, MEDIA_FAILED, b"{}", "one:1")
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 1)
    mistyped = run_with_broker("dead-letters", *words, "9:9")
    assert (mistyped.code, mistyped.err) == (1, "9:9: no such dead letter\n")
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 1)


def test_dead_letters_are_requeued_by_id_or_all(run_with_broker, amqp):
    for number in range(3):
        put_dead(amqp, MEDIA_FAILED, b"{}", f"{number}:1")
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 3)
    shown = run_with_broker("dead-letters", "requeue", "1:1")
    assert shown.lines == ["1:1 requeued as media.failed", "1 requeued, 0 left"]
    wait_for_count(amqp, RESULTS_QUEUE, 1)
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 2)
    *letters, last = run_with_broker("dead-letters", "requeue", "--all", "--json").json
    assert letters == [{"id": i, "requeued": True, "reason": None} for i in ("0:1", "2:1")]
    assert last == {"totals": {"requeued": 2, "left": 0}}
    wait_for_count(amqp, RESULTS_QUEUE, 3)
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 0)


def test_a_dead_letter_that_nobody_takes_stays_and_is_told(run_with_broker, amqp):
    put_dead(amqp, "foreign.key", b"{}", "one:1")
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 1)
    shown = run_with_broker("dead-letters", "requeue", "--all")
    assert shown.code == 1
    assert shown.lines == ["one:1 stays: no queue takes its routing key", "0 requeued, 1 left"]
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 1)


def test_dropping_asks_first(run_with_broker, amqp):
    for message_id in ("one:1", "two:1"):
        put_dead(amqp, MEDIA_FAILED, b"{}", message_id)
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 2)
    refused = run_with_broker("dead-letters", "drop", "--all", input="n\n")
    assert refused.code == 1
    assert "for good?" in refused.err
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 2)
    assert run_with_broker("dead-letters", "drop", "one:1", input="y\n").code == 0
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 1)
    *_, last = run_with_broker("dead-letters", "drop", "--all", "--yes", "--json").json
    assert last == {"totals": {"dropped": 1}}
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 0)


@pytest.mark.parametrize("words", [["list"], ["requeue", "--all"], ["drop", "--all", "--yes"]])
def test_without_a_broker_there_are_no_dead_letters(run_without_servers, words):
    shown = run_without_servers("dead-letters", *words)
    assert shown.code == 1
    assert "BROKER_URL=inline:" in shown.err


def test_stats_show_queues_and_who_consumes_them(run_with_broker, amqp):
    put_dead(amqp, MEDIA_FAILED, b"{}", "one:1")
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 1)
    (numbers,) = run_with_broker("stats", "--json").json
    assert numbers["queues"] == {
        DEAD_LETTER_QUEUE: {"messages": 1, "consumers": 0},
        PROCESS_QUEUE: {"messages": 0, "consumers": 0},
        RESULTS_QUEUE: {"messages": 0, "consumers": 0},
    }
    shown = run_with_broker("stats").out
    assert "nobody consumes it" in shown
    assert "dead-letters list" in shown


def test_stats_without_the_broker_still_tell_of_the_database(make_world):
    world = make_world(BROKER_URL="amqp://guest:guest@127.0.0.1:9/")
    world.ready()
    shown = runner(world.settings)("stats", "--json")
    assert shown.code == 2
    assert shown.json[0]["media"]["ready"] == 1
    assert shown.json[0]["queues"] is None


def test_reprocessing_publishes_the_job_once(run_with_broker, make_world, rabbitmq, amqp):
    world = make_world(BROKER_URL=rabbitmq.url)
    media_id = world.ready()
    shown = run_with_broker("reprocess", media_id, "--json")
    assert shown.json == [{"media_id": str(media_id), "error": None}]
    wait_for_count(amqp, PROCESS_QUEUE, 1)
    method, _, body = amqp.basic_get(PROCESS_QUEUE, auto_ack=True)
    job = decode(method.routing_key, body)
    assert (job.media_id, job.raw_etag) == (media_id, world.row(media_id).raw_etag)


# upload


@pytest.fixture(scope="module")
def service(seaweedfs, store_client, make_buckets, make_sqlite_url, tmp_path_factory):
    """A running service: web and listener as processes of their own."""
    port, directory = find_free_ports(), tmp_path_factory.mktemp("service")
    with make_buckets() as buckets:
        variables = environment(DATABASE_URL=make_sqlite_url(), POLL_SECONDS="0.2")
        variables |= {**seaweedfs.variables, **buckets, **SETTINGS}
        world = World(variables, store_client)
        world.storage.create_buckets(())
        world.url = f"http://127.0.0.1:{port}"
        own = {"PATH": os.environ["PATH"], "PORT": str(port), "WEB_CONCURRENCY": "1"}
        roles = {"directory": directory, "environ": {**own, **measured(), **variables}}
        web = Role("web", WEB, is_ready=lambda: answers(f"{world.url}/readyz"), **roles)
        with web, Role("listener", LISTENER, **roles):
            yield world
        world.close()


@pytest.mark.slow
def test_files_are_uploaded_to_a_running_service(service, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(jpeg(800, 600))
    (tmp_path / "drawing").write_bytes(png())  # the content counts, not the name
    (tmp_path / "notes.txt").write_text("no image")
    user = uuid4()
    names = ("photo.jpg", "drawing", "notes.txt", "missing.jpg")
    shown = runner(service.settings)(
        "upload",
        *(tmp_path / name for name in names),
        *("--url", service.url, "--user-id", user, "--json"),
    )
    assert shown.code == 1
    photo, drawing, notes, missing = shown.json
    assert [photo["status"], drawing["status"]] == ["ready", "ready"]
    assert (photo["width"], photo["height"], photo["error"]) == (800, 600, None)
    assert [variant["name"] for variant in photo["variants"]] == ["main", "w640", "w320"]
    assert photo["url"].endswith(f"media/{photo['id']}/main.webp")
    row = service.row(UUID(photo["id"]))
    assert row.owner_id == user
    assert row.checksum_sha256
    assert notes["error"] == {
        "code": None,
        "message": "is not an image of a known format: jpeg, png, webp, gif, avif, heic, heif",
    }
    assert "cannot be read" in missing["error"]["message"]
    assert all(set(outcome) == set(photo) for outcome in shown.json)


@pytest.mark.slow
def test_a_file_that_goes_away_before_it_is_sent_keeps_no_other_from_it(
    service, tmp_path, monkeypatch
):
    names = ("gone.jpg", "photo.jpg")
    for name in names:
        (tmp_path / name).write_bytes(jpeg())

    def declare(path):
        declared = _declaration(path)
        (tmp_path / "gone.jpg").unlink(missing_ok=True)
        return declared

    monkeypatch.setattr("mediaservice.client._declaration", declare)
    shown = runner(service.settings)(
        "upload",
        *(tmp_path / name for name in names),
        *("--url", service.url, "--user-id", uuid4(), "--json"),
    )
    gone, photo = shown.json
    assert (shown.code, photo["status"]) == (1, "ready")
    assert gone["error"]["message"].startswith("cannot be read any more: No such file")


@pytest.mark.slow
def test_people_are_shown_what_they_have_uploaded(service, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(jpeg(800, 600))
    where = ("--url", service.url, "--user-id", uuid4())
    shown = runner(service.settings)("upload", tmp_path / "photo.jpg", *where)
    assert shown.code == 0
    first, *rest = shown.lines
    name, status, media_id = first.rsplit(" ", 2)
    assert (name, status) == (f"{tmp_path / 'photo.jpg'}:", "ready")
    base = f"{service.settings.cdn_base_url}/media/{media_id}"
    assert rest == [
        f"  main 800x600 {base}/main.webp",
        f"  w640 640x480 {base}/w640.webp",
        f"  w320 320x240 {base}/w320.webp",
    ]


@pytest.mark.slow
def test_a_client_needs_none_of_the_services_settings(service, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    where = ("--url", service.url, "--user-id", str(uuid4()))
    done = subprocess.run(
        [sys.executable, "-m", "mediaservice", "upload", str(tmp_path / "photo.jpg"), *where],
        cwd=PROJECT,
        env={"PATH": os.environ["PATH"], **measured()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path / 'photo.jpg'}: ready ")


def test_of_a_worker_that_tells_its_main_image_alone_the_url_is_shown(capsys):
    _show(Path("photo.jpg"), {"status": "ready", "id": "7", "url": "http://cdn/m", "variants": []})
    assert capsys.readouterr().out.splitlines() == ["photo.jpg: ready 7", "  http://cdn/m"]


def test_a_token_may_be_in_a_file(run_without_servers, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    (tmp_path / "token").write_text("secret\n")
    refusal = answer(401, b'{"error": "unauthenticated", "message": "no"}')
    with ScriptedStore([refusal]) as service:
        words = ("upload", tmp_path / "photo.jpg", "--url", service.endpoint)
        words = (*words, "--token-file", tmp_path / "token")
        refused = run_without_servers(*words, "--token", "secret")
        assert (refused.code, refused.lines, service.requests) == (2, [], [])
        assert "either --token or --token-file" in refused.err
        shown = run_without_servers(*words)
    assert shown.code == 1
    assert shown.lines[0].startswith(f"{tmp_path / 'photo.jpg'}: failed: ")
    assert "secret" not in shown.out + shown.err
    assert "\r\nAuthorization: Bearer secret\r\n" in service.requests[0]


@pytest.mark.slow
def test_a_refusal_of_the_service_is_told_in_its_words(service, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    shown = runner(service.settings)(
        "upload", tmp_path / "photo.jpg", "--url", service.url, "--json"
    )
    assert shown.code == 1
    assert shown.json[0]["error"]["code"] == "unauthenticated"
    (tmp_path / "broken.png").write_bytes(png()[:60])
    shown = runner(service.settings)(
        *("upload", tmp_path / "broken.png", "--url", service.url, "--user-id", uuid4(), "--json")
    )
    assert shown.json[0]["error"]["code"] == "corrupt_image"


@pytest.mark.slow
def test_waiting_for_an_image_has_an_end(service, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    words = ("--url", service.url, "--user-id", uuid4(), "--timeout", 0, "--json")
    shown = runner(service.settings)("upload", tmp_path / "photo.jpg", *words)
    assert shown.code == 1
    assert shown.json[0]["error"]["message"].startswith("still processing after 0 seconds")


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_call_that_may_succeed_later_is_repeated_as_it_was(status):
    created = answer(200, b'{"upload_id": "1"}', Content_Type="application/json")
    with ScriptedStore([answer(status), created]) as service:
        client = ServiceClient(service.endpoint, Caller())
        presigned = client._call("POST", "request-upload", {}, key="k")
    assert presigned == {"upload_id": "1"}
    first, second = service.requests
    assert first == second
    assert "\r\nIdempotency-Key: k\r\n" in first


def test_a_store_that_is_busy_with_an_earlier_put_is_asked_again(tmp_path):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(jpeg())
    client = ServiceClient("http://127.0.0.1:9", Caller(token="a-token"))
    with ScriptedStore([fault(409, "OperationAborted"), answer(200)]) as store:
        presigned = {"method": "PUT", "upload_url": f"{store.endpoint}/raw/k", "headers": {}}
        client._put(presigned, photo, lambda _count: None)
    first, second = store.requests
    assert first == second
    assert "a-token" not in first


@pytest.mark.slow
def test_a_put_whose_answer_was_lost_is_repeated_without_harm(service, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    client = ServiceClient(service.url, Caller(user_id=str(uuid4())))
    declaration = _declaration(tmp_path / "photo.jpg")
    presigned = client._call("POST", "request-upload", declaration)
    counted = []
    for _ in range(2):
        client._put(presigned, tmp_path / "photo.jpg", counted.append)
    assert sum(counted) == 2 * declaration["size_bytes"]
    status = client._call("POST", "complete", {"upload_id": presigned["upload_id"]})
    assert status["status"] == "processing"


def test_on_a_terminal_there_are_a_bar_and_colours(world):
    ours, theirs = pty.openpty()
    environ = {"PATH": os.environ["PATH"], "TERM": "xterm", **measured(), **world.environ}
    world.ready()
    done = subprocess.run(
        [sys.executable, *FLASK, "media", "audit"],
        cwd=PROJECT,
        env=environ,
        stdout=theirs,
        stderr=theirs,
        check=False,
    )
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "100%" in shown
    assert "\x1b[32mall in order" in shown


@pytest.mark.usefixtures("_at_once")
def test_a_service_that_is_away_is_told_without_a_traceback(run_without_servers, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    shown = run_without_servers("upload", tmp_path / "photo.jpg", "--url", "http://127.0.0.1:9")
    assert shown.code == 1
    assert "photo.jpg: failed: 127.0.0.1:9 does not answer" in shown.out


def test_something_else_than_the_service_is_told(run_without_servers, seaweedfs, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    shown = run_without_servers("upload", tmp_path / "photo.jpg", "--url", seaweedfs.endpoint)
    assert shown.code == 1
    assert "is that the media service?" in shown.out
