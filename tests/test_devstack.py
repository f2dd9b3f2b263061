"""Child processes and servers of `devstack`: what they say when they fail, and what they leave."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import uuid4

import pytest

from devstack.process import (
    Process,
    ServiceError,
    answers,
    find_free_ports,
    left_over,
    wait_until,
)
from devstack.roles import WEB, Role
from devstack.seaweedfs import SOCKETS, YOUNG_SECONDS, remove_dead_sockets
from mediaservice import PROJECT
from tests.builders import environment

SERVERS = """
import sys, threading
from pathlib import Path
from devstack.postgresql import PostgreSQL
from devstack.rabbitmq import RabbitMQ
from devstack.seaweedfs import SeaweedFS
servers = [kind(Path(sys.argv[1], kind.__name__)) for kind in (PostgreSQL, RabbitMQ, SeaweedFS)]
for server in servers:
    server.start()
print("ready", flush=True)
threading.Event().wait()
"""


def program(directory, code):
    return Process(
        "the program",
        [sys.executable, "-c", code],
        log_path=directory / "program.log",
        environ={},
        cwd=directory,
        is_ready=lambda: False,
    )


def test_what_ends_instead_of_starting_is_reported_with_its_last_words(tmp_path):
    with pytest.raises(ServiceError, match=r"^the program did not start; .*\nno such luck$"):
        program(tmp_path, "print('no such luck')").start()


def test_what_never_gets_ready_is_stopped_and_reported_with_its_last_words(tmp_path):
    wait = "import threading; print('busy', flush=True); threading.Event().wait()"
    process = program(tmp_path, wait)
    process.start(wait=False)
    wait_until(lambda: "busy" in process.log_path.read_text(), seconds=30, what="its log")
    with pytest.raises(ServiceError, match=r"^gave up .* the program to be ready; .*\nbusy$"):
        process.wait_until_ready(seconds=0)
    assert left_over(tmp_path) == []


def test_a_port_is_promised_once_whoever_asks():
    port = find_free_ports()
    ask = "import sys; from devstack.process import _claim; print(_claim([int(sys.argv[1])]))"
    asked = subprocess.run(
        [sys.executable, "-c", ask, str(port)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout == "False\n"


def test_sockets_of_servers_that_were_killed_are_removed():
    def make(name):
        path = SOCKETS / f"seaweedfs-{name}-grpc-{uuid4().hex}.sock"
        made = socket.socket(socket.AF_UNIX)
        made.bind(str(path))
        return made, path

    (dead, dead_path), (young, young_path), (live, live_path) = map(make, ("dead", "young", "live"))
    live.listen()
    past = time.time() - 2 * YOUNG_SECONDS
    os.utime(dead_path, (past, past))
    os.utime(live_path, (past, past))
    dead.close()
    young.close()
    remove_dead_sockets()
    left = [path.exists() for path in (dead_path, young_path, live_path)]
    live.close()
    for path in (dead_path, young_path, live_path):
        path.unlink(missing_ok=True)
    assert left == [False, True, True]


@pytest.mark.slow
def test_servers_die_with_their_parent():
    # Not pytest's own folder: PostgreSQL, started by root as another user, could not reach it.
    folder = Path(tempfile.mkdtemp(prefix="media-servers-"))
    folder.chmod(0o755)
    parent = subprocess.Popen(
        [sys.executable, "-c", SERVERS, folder], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout.readline() == "ready\n"
        # PostgreSQL, RabbitMQ, epmd and SeaweedFS, some with children of their own.
        assert len(left_over(folder)) >= 4
        parent.kill()
    wait_until(lambda: not left_over(folder), seconds=60, what="the servers to end")
    shutil.rmtree(folder)


def test_postgresql_starts_again_right_after_it_was_killed(postgresql):
    with closing(postgresql.connect()) as connection:
        # A backend that computes does not notice that its server is gone.
        connection.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 3000000)")
        postgresql.kill()
        postgresql.start()
    with closing(postgresql.connect()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.slow
def test_metrics_of_a_web_that_was_killed_go_when_the_next_one_starts(tmp_path):
    parts = ExitStack()

    def start():
        port = find_free_ports()
        web = Role(
            "web",
            WEB,
            directory=tmp_path,
            environ=environment(PATH=os.environ["PATH"], PORT=str(port), WEB_CONCURRENCY="1"),
            is_ready=lambda: answers(f"http://127.0.0.1:{port}/healthz"),
        )
        parts.enter_context(web)
        return web, metrics_folder(web.pid)

    with parts:
        (first, abandoned), (second, kept) = start(), start()
        first.kill()
        assert kept.exists()
        third, last = start()
        assert (abandoned.exists(), kept.exists(), last.exists()) == (False, True, True)
        assert (second.stop(), third.stop()) == (0, 0)
    assert (kept.exists(), last.exists()) == (False, False)


def metrics_folder(pid):
    """The folder that a gunicorn holds."""
    files = (opened.resolve() for opened in Path(f"/proc/{pid}/fd").iterdir())
    (folder,) = {file.parent for file in files if file.parent.name.startswith("media-metrics-")}
    return folder
