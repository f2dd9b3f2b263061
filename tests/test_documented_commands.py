"""Every command in README and docs is executed: by the test that is named here for it, or here.

A command that is in no table fails, and so does an entry that no document has any more.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mediaservice import PROJECT
from tests.documents import blocks, documents, inline_code

PROGRAMS = "docker|flask|gunicorn|make|npm|python3?|rabbitmqctl"
COMMAND = re.compile(rf"(?:[A-Z_]+=(?:\$\(.*?\)|\S+) )*(?:\.venv/bin/)?(?:{PROGRAMS}) [a-z./-].*")

# Where each command is executed. Arguments may differ there, such as the port or the id.
CLI = "tests/test_commands.py"
DEPLOYED = "tests/test_acceptance.py::test_a_photo_goes_in_and_a_clean_image_comes_out"
DOCTOR = f"{CLI}::test_the_doctor_tells_each_guarantee_and_ends_by_its_result"
REQUEUE = f"{CLI}::test_dead_letters_are_requeued_by_id_or_all"
REPROCESS = f"{CLI}::test_lost_public_objects_are_written_again_by_the_worker"
MIGRATE = "tests/test_documented_commands.py::test_a_new_column_gets_its_migration"
RUN = "tests/test_run.py::test_an_image_survives_a_restart_under_the_same_address"
CHAOS = "tests/chaos/test_chaos.py::test_nothing_is_lost_stuck_orphaned_or_illegal_under_faults"
POLICIES = (
    "tests/security/test_policies.py"
    "::test_a_role_declares_consumes_and_publishes_its_own_messages_alone"
)
NODE = "tests/contract/test_foreign_worker.py::test_a_photo_gets_ready_and_clean"
TUTORIAL = (
    "tests/browser/test_documents.py"
    "::test_a_user_of_the_tutorials_web_app_uploads_a_picture_and_finds_it_again"
)
PUBLISH = "tests/test_benchmarks.py::test_publishing_writes_the_tables_and_the_chart"
ENVIRONMENT = "tests/test_readme.py::test_a_shell_loads_the_example_environment_as_documented"
CHECKER = "tests/test_documented_commands.py::test_the_checker_is_called_as_documented"
EXECUTED_BY = {
    "flask --app app db upgrade": DEPLOYED,
    "flask --app app media audit": f"{CLI}::test_an_audit_of_a_healthy_service_finds_nothing",
    "flask --app app media dead-letters drop": f"{CLI}::test_dropping_asks_first",
    "flask --app app media dead-letters list": f"{CLI}::test_dead_letters_are_listed_and_stay",
    "flask --app app media dead-letters requeue": REQUEUE,
    "flask --app app media delete": f"{CLI}::test_media_are_taken_down_whoever_owns_them",
    "flask --app app media delete --owner": f"{CLI}::test_all_that_an_owner_has_is_erased",
    "flask --app app media doctor": DOCTOR,
    "flask --app app media init": DEPLOYED,
    "flask --app app media reprocess": REPROCESS,
    "flask --app app media retry": f"{CLI}::test_media_are_retried_by_id",
    "flask --app app media retry --failed": f"{CLI}::test_all_failed_media_are_retried_at_once",
    "flask --app app media list": f"{CLI}::test_an_owners_media_are_listed_newest_first",
    "flask --app app media show": f"{CLI}::test_everything_about_a_media_is_shown",
    "flask --app app media stats": f"{CLI}::test_stats_tell_what_there_is_and_what_is_due",
    "flask --app app media upload": f"{CLI}::test_files_are_uploaded_to_a_running_service",
    "flask media init": f"{CLI}::test_init_makes_everything_and_is_safe_to_repeat",
    "gunicorn --config config/gunicorn.py app:app": DEPLOYED,
    "python worker_listener.py": DEPLOYED,
    "python -m benchmarks.publish": PUBLISH,
    "python -m mediaservice upload": f"{CLI}::test_a_client_needs_none_of_the_services_settings",
    "python -m mediaworker": DEPLOYED,
    "make run": RUN,
    "make chaos": CHAOS,
    "npm ci": NODE,
    "npm start": NODE,
    "rabbitmqctl import_definitions": POLICIES,
    "set -a; . ./.env; set +a": ENVIRONMENT,
}
# Whole blocks: clients, and the tutorial's web app.
BLOCKS_EXECUTED_BY = {
    "photo=photo.jpg": "tests/test_readme.py::test_the_curl_client_uploads_a_photo",
    "python3 -m venv .venv": TUTORIAL,
    "export MEDIA_SERVICE_URL": TUTORIAL,
    "python -m mediaworker.contract": CHECKER,
    "export APP_ENV=development": MIGRATE,
}
# Executed below as they stand: they change nothing.
HERE = ("make help",)
# Executed below in a copy of the project, which they must leave as it is: their output is kept.
IN_A_COPY = ("make contract", "make format", "make openapi", "make settings")
# Not executed here; their recipes are expanded, so that they have one. The reasons:
EXPANDED = {
    "make bench": "it loads the machine for minutes, and measures nothing beside other tests",
    "make chaos": "its program is executed by the test above, its environment is made by `make`",
    "make coverage": "it runs the tests, and this is one of them",
    "make lint": "a minute on four cores; the gate before each change runs it",
    "make requirements": "it asks for the newest packages, so that its result is never the same",
    "make run": "its program is executed by the test above, its environment is made by `make`",
    "make test": "it runs the tests, and this is one of them",
    "make test-fast": "it runs the tests, and this is one of them",
}
# This cannot be executed where the tests run, and a person has to.
BY_HAND = {"docker compose up --build": "needs Docker"}


def known() -> set[str]:
    return {*EXECUTED_BY, *HERE, *IN_A_COPY, *EXPANDED, *BY_HAND}


def commands_of(document: Path) -> list[str]:
    """Return a document's commands: from shell blocks, after a `$` of a session, and in prose."""
    lines = [
        line for block in blocks(document, "sh") if not is_whole(block) for line in lines_of(block)
    ]
    sessions = [
        line.removeprefix("$ ")
        for block in blocks(document, "")
        for line in block.splitlines()
        if line.startswith("$ ")
    ]
    prose = [text for text in inline_code(document) if COMMAND.fullmatch(text) and "…" not in text]
    return [*lines, *sessions, *prose]


def lines_of(block: str) -> list[str]:
    return [line.partition("  #")[0].strip() for line in block.splitlines() if line.strip()]


def is_whole(block: str) -> bool:
    return any(block.startswith(start) for start in BLOCKS_EXECUTED_BY)


def entry_of(command: str) -> str | None:
    """Return the longest entry that a command begins with, its variables left out."""
    bare = re.sub(r"^(?:[A-Z_]+=(?:\$\(.*?\)|\S+) )*(?:\.venv/bin/)?", "", command)
    if bare.startswith("python -m mediaworker.contract"):
        return "python -m mediaworker"  # the checker: see the block above
    return max((one for one in known() if f"{bare} ".startswith(f"{one} ")), key=len, default=None)


DOCUMENTED = [
    pytest.param(command, id=f"{document.relative_to(PROJECT)}: {command}")
    for document in documents()
    for command in dict.fromkeys(commands_of(document))
]


@pytest.mark.parametrize("command", DOCUMENTED)
def test_a_documented_command_is_executed_by_a_test(command):
    """That this file names one, which exists; that it executes the command is for its author."""
    assert entry_of(command), "name the test that executes it in this file, or execute it here"


def test_no_entry_is_left_of_a_command_that_no_document_has():
    used = {entry_of(command) for document in documents() for command in commands_of(document)}
    assert known() - used == set()
    shell = [block for document in documents() for block in blocks(document, "sh")]
    assert [s for s in BLOCKS_EXECUTED_BY if not any(b.startswith(s) for b in shell)] == []


@pytest.mark.parametrize("test", sorted({*EXECUTED_BY.values(), *BLOCKS_EXECUTED_BY.values()}))
def test_the_tests_that_are_named_exist(test):
    path, _, name = test.partition("::")
    assert re.search(rf"^def {name}\(", (PROJECT / path).read_text(), re.MULTILINE)


def run(command: list[str], *, cwd: Path = PROJECT, **options) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the project's files, for commands that write to them."""
    return shutil.copytree(
        PROJECT,
        tmp_path / "project",
        # Neighbours' files of coverage and Hypothesis go while this looks.
        ignore=shutil.ignore_patterns(
            ".git",
            ".venv",
            ".*_cache",
            ".coverage*",  # tests beside this one make these and remove them
            ".hypothesis",
            "__pycache__",
            "artifacts",
            "node_modules",
            "var",
        ),
    )


def contents(folder: Path) -> dict[Path, bytes]:
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {"__pycache__", ".ruff_cache"} & set(path.parts)
    }


@pytest.mark.parametrize("command", HERE)
def test_commands_that_only_tell_something(command):
    words = command.split()
    assert run([sys.executable if words[0] == "python" else words[0], *words[1:]]).strip()


@pytest.mark.slow
@pytest.mark.parametrize("command", IN_A_COPY)
def test_what_make_writes_is_what_is_kept(command, copy):
    before = contents(copy)
    # The tests' own packages, instead of an environment that is made first.
    run([*command.split(), f"python={shlex.quote(sys.executable)}", "--assume-old=venv"], cwd=copy)
    assert contents(copy) == before


@pytest.mark.parametrize("command", EXPANDED)
def test_recipes_of_make_have_commands(command):
    _, target = command.split()
    assert ".venv/bin/python" in run(["make", "--dry-run", target])


@pytest.mark.slow
def test_a_new_column_gets_its_migration(copy, tmp_path):
    (block,) = [b for b in blocks(copy / "docs" / "contributing.md", "sh") if "db migrate" in b]
    flask = shlex.quote(str(Path(sys.executable).with_name("flask")))
    script = block.replace(".venv/bin/flask", flask)
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(copy), "TMPDIR": str(tmp_path)}

    def migrate() -> str:
        return run(["sh", "-ec", script], cwd=copy, env=environ)

    versions = copy / "migrations" / "versions"
    kept = set(versions.glob("*.py"))
    models = copy / "mediaservice" / "models.py"
    last = '    Column("traceparent", Text),'
    column = '    Column("caption", Text),\n'
    models.write_text(models.read_text().replace(last, column + last))
    migrate()
    (written,) = set(versions.glob("*.py")) - kept
    assert "add_column(sa.Column('caption', sa.Text()" in written.read_text()
    assert "No changes" in migrate()


def test_the_checker_is_called_as_documented(tmp_path):
    checker = [sys.executable, "-m", "mediaworker.contract"]
    job = run([*checker, "sample"])
    (tmp_path / "job.json").write_text(job)
    sample = json.loads(job)
    answer = {"media_id": sample["media_id"], "public_key": sample["public_prefix"] + "main.webp"}
    check = [*checker, "check", "media.processed", "--job", str(tmp_path / "job.json")]
    run(check, input=json.dumps(answer))
    assert "check" in run([*checker, "--help"])
