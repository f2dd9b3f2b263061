"""`make run` as a process of its own, on a copy of the project."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from devstack.process import wait_until
from mediaservice import PROJECT

READY = "media-service: ready"


def copy_project(copy: Path) -> Path:
    """Copy what `make run` needs, so that its data is nobody else's."""
    for name in ("config", "devstack", "mediaservice", "mediaworker", "migrations"):
        # Bytecode is being written, under names that do not last, by the tests beside this one.
        shutil.copytree(PROJECT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("app.py", "worker_listener.py"):
        shutil.copy(PROJECT / name, copy)
    return copy


class Run:
    """One `python -m devstack.run`."""

    def __init__(self, project: Path, port: int, **environ: str) -> None:
        self.project = project
        self.url = f"http://127.0.0.1:{port}"
        self._out, self._err = project / f"out-{port}.txt", project / f"err-{port}.txt"
        with self._out.open("w") as out, self._err.open("w") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "devstack.run"],
                cwd=project,
                env={**os.environ, "PORT": str(port), "WEB_CONCURRENCY": "1", **environ},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def wait_for(self, text: str) -> Self:
        """Wait until it has printed a text."""
        wait_until(
            lambda: text in self._out.read_text() or self._process.poll() is not None,
            seconds=300,  # no less than its parts are given
            what=f"{text!r} in the output",
        )
        assert text in self._out.read_text(), self._err.read_text()
        return self

    def interrupt(self) -> tuple[int, list[str]]:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)
        return self.end()

    def end(self) -> tuple[int, list[str]]:
        """Wait for the end; return the exit code, and the lines on standard error."""
        return self._process.wait(60), self._err.read_text().splitlines()

    def kill(self) -> None:
        """Kill the supervisor alone."""
        self._process.kill()
        self._process.wait()

    def part(self, *words: str) -> int:
        """Return the process id of the child whose command line has all these words."""
        tasks = Path(f"/proc/{self._process.pid}/task").iterdir()
        children = [child for task in tasks for child in (task / "children").read_text().split()]
        (found,) = [
            int(child)
            for child in children
            if all(word in Path(f"/proc/{child}/cmdline").read_text() for word in words)
        ]
        return found
