"""The service's own processes, started as they are deployed."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from devstack.process import Process
from mediaservice import PROJECT

GUNICORN: Final = ("-m", "gunicorn", "--config", "config/gunicorn.py")
WEB: Final = (*GUNICORN, "app:app")
LISTENER: Final = ("worker_listener.py",)
WORKER: Final = ("-m", "mediaworker")
# A command's own words come after it.
FLASK: Final = ("-m", "flask", "--app", "app")


class Role(Process):
    """One of them, run by this Python unless given another, with its log in `directory`.

    Unless told by `is_ready` it is ready when it has logged, since its start, that it has started.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str | Path],
        *,
        directory: Path,
        environ: Mapping[str, str],
        is_ready: Callable[[], bool] | None = None,
        python: Sequence[str] = (sys.executable,),
    ) -> None:
        super().__init__(
            name,
            [*python, *arguments],
            log_path=directory / f"{name}.log",
            environ=environ,
            cwd=PROJECT,
            is_ready=is_ready or self._has_logged_its_start,
        )
        self._log_start = 0

    def start(self, *, wait: bool = True) -> None:
        """Start, reading the log from here on."""
        self._log_start = self.log_path.stat().st_size if self.log_path.exists() else 0
        super().start(wait=wait)

    def _has_logged_its_start(self) -> bool:
        return b"_started" in self.log_path.read_bytes()[self._log_start :]
