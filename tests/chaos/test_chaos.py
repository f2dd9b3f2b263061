"""A short chaos run; `make chaos` runs a long one."""

import os
import secrets
import subprocess
import sys

import pytest

from mediaservice import PROJECT


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost_stuck_orphaned_or_illegal_under_faults() -> None:
    seed = os.environ.get("SEED") or str(secrets.randbelow(10**6))
    run = subprocess.run(
        [sys.executable, "-m", "tests.chaos.main"],
        cwd=PROJECT,
        env={**os.environ, "N": os.environ.get("N", "120"), "SEED": seed},
        capture_output=True,
        text=True,
        check=False,
    )
    print(run.stdout)
    assert run.returncode == 0, f"seed {seed}\n{run.stdout}\n{run.stderr}"
