"""Documents have the settings that the code has, and clients that work as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from devstack.process import find_free_ports
from docgen.settings import DOCUMENT, env, render
from mediaservice import PROJECT
from tests.builders import jpeg
from tests.documents import blocks
from tests.supervised import READY, Run, copy_project

ADDRESS = "http://127.0.0.1:8000"
CLIENT_SECONDS = 60
CLIENTS = (PROJECT / "README.md", PROJECT / "docs" / "clients.md")


def test_the_settings_table_is_the_settings():
    kept = DOCUMENT.read_text()
    assert kept == render(kept), "run `make settings` and look at the difference"


def test_the_example_environment_has_every_variable():
    assert (PROJECT / ".env.example").read_text() == env(), "run `make settings`"


def test_a_shell_loads_the_example_environment_as_documented(tmp_path):
    every = re.sub(r"^# (?=[A-Z0-9_]+=)", "", env(), flags=re.MULTILINE)
    (tmp_path / ".env").write_text(every)
    (load,) = blocks(DOCUMENT, "sh")
    loaded = subprocess.run(
        ["sh", "-eu", "-c", f"{load}env"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    variables = re.findall(r"^[A-Z0-9_]+=.*", every, re.MULTILINE)
    assert set(variables) <= set(loaded.stdout.splitlines())


@pytest.fixture(scope="module")
def service_url(tmp_path_factory):
    """The address of a service as `make run` starts it."""
    run = Run(copy_project(tmp_path_factory.mktemp("readme") / "project"), find_free_ports())
    try:
        yield run.wait_for(READY).url
    finally:
        assert run.interrupt() == (0, [])


def client(language: str, mark: str) -> str:
    """Return the one documented client in a language that has a mark in it."""
    (found,) = [block for path in CLIENTS for block in blocks(path, language) if mark in block]
    assert ADDRESS in found
    return found


def run_client(command: list[str], folder: Path, photo: bytes | None = None) -> str:
    """Run a client beside a photo; return what it printed."""
    (folder / "photo.jpg").write_bytes(photo or jpeg(900, 600, exif=True))
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=CLIENT_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_is_image(url: str) -> None:
    answer = requests.get(url, timeout=10)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/webp")


@pytest.mark.slow
def test_the_curl_client_uploads_a_photo(service_url, tmp_path):
    script = client("sh", "request-upload").replace(ADDRESS, service_url)
    said = run_client(["sh", "-eu", "-c", script], tmp_path)
    url = re.findall(r'"url": ?"([^"]+)"', said)[0]
    assert_is_image(url)
    assert '"status":"ready"' in said.replace(" ", "")


@pytest.mark.slow
def test_the_python_client_uploads_a_photo(service_url, tmp_path):
    program = client("python", "request-upload").replace(ADDRESS, service_url)
    assert_is_image(run_client([sys.executable, "-c", program], tmp_path).strip())


@pytest.mark.slow
def test_the_javascript_client_uploads_a_photo(service_url, tmp_path):
    program = client("js", "request-upload").replace(ADDRESS, service_url)
    (tmp_path / "client.mjs").write_text(program)
    assert_is_image(run_client(["node", "client.mjs"], tmp_path).strip())


@pytest.mark.slow
@pytest.mark.parametrize("language", ["python", "js"])
def test_a_client_says_why_a_photo_failed(service_url, tmp_path, language):
    program = client(language, "request-upload").replace(ADDRESS, service_url)
    (tmp_path / "client.mjs").write_text(program)
    command = [sys.executable, "-c", program] if language == "python" else ["node", "client.mjs"]
    assert "corrupt_image" in run_client(command, tmp_path, b"\xff\xd8\xff\xe0" + b"\0" * 500)
