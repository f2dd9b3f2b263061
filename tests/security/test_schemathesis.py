"""Schemathesis: requests made from the OpenAPI document, good and bad, against the real server.

Every check it has is on. The run is deterministic: a failure comes again, with the same request.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.security.service import Web
from tests.security.tokens import token

LONGEST_SECONDS = 300  # a tenth, unless the machine is busy with much else
CONFIG = ("--config-file", str(Path(__file__).parent / "schemathesis.toml"))

pytestmark = pytest.mark.timeout(LONGEST_SECONDS + 20)


def schemathesis(web: Web, directory: Path, *options: str, examples: int) -> None:
    """Run it; raises AssertionError with its report if a check failed."""
    command = [
        *(sys.executable, "-m", "schemathesis.cli", *CONFIG, "run", f"{web.url}/api/openapi.json"),
        *("--checks", "all", "--generation-deterministic", "--max-examples", str(examples)),
        *("--continue-on-failure", "--no-color", "--report-dir", str(directory)),
        *options,
    ]
    run = subprocess.run(
        command,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
        check=False,
    )
    print(run.stdout)
    assert run.returncode == 0, run.stdout + run.stderr
    assert '"level":"error"' not in web.log_path.read_text()


def test_every_answer_to_a_caller_is_as_documented(web: Web, tmp_path: Path):
    schemathesis(web, tmp_path, "--header", f"Authorization: Bearer {token()}", examples=40)


def test_every_answer_to_a_stranger_is_as_documented(web: Web, tmp_path: Path):
    """A few examples will do: what a stranger sends is refused before it is read."""
    schemathesis(web, tmp_path, "--exclude-checks", "positive_data_acceptance", examples=5)
