"""Packages from npm, as locked, installed somewhere outside the tree."""

import shutil
import subprocess
from pathlib import Path

import pytest


def install(source: Path, folder: Path) -> Path:
    """Copy a package's own files into `folder`, install what its lock names; return the copy.

    No install script runs. What is missing fails the test, with the line that says how to get it.
    """
    if not shutil.which("npm"):
        pytest.fail("npm is missing: apt-get install --no-install-recommends nodejs npm")
    target = folder / source.name
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("node_modules"))
    done = subprocess.run(
        ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
        cwd=target,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"`npm ci` in {source.name} failed; it needs a registry\n{done.stderr}")
    return target
