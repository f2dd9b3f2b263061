"""A short chaos run; `make chaos` runs a long one."""

import os
import secrets
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from mediaservice import PROJECT
from tests.chaos import faults, main


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


def test_a_run_that_is_broken_off_ends_its_faults_first_and_tells_its_seed(monkeypatch, capsys):
    before, left = set(threading.enumerate()), []
    stack = SimpleNamespace(
        proxies={},
        engines=[],
        roles=[],
        bad_worker=SimpleNamespace(stop=lambda: None),
        close=lambda: left.append(set(threading.enumerate()) - before),
    )

    def load(*_):
        raise KeyboardInterrupt

    monkeypatch.setenv("SEED", "7")
    monkeypatch.setattr(faults, "PAUSE_SECONDS", (60, 60))
    monkeypatch.setattr(main, "Stack", lambda *_: stack)
    monkeypatch.setattr(main, "load", load)
    with pytest.raises(KeyboardInterrupt):
        main.main()
    assert left == [set()]
    assert "FAILED seed=7" in capsys.readouterr().err
