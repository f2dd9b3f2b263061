"""`make run` for one person: it starts, keeps its data, says what is wrong, and leaves nothing.

The real supervisor, on a copy of the project in a folder with a space in its name.
"""

import os
import signal
import socket
from uuid import uuid4

import pytest
import requests

from devstack.process import answers, find_free_ports, left_over, wait_until
from tests.builders import jpeg
from tests.service import put_upload
from tests.supervised import READY, Run, copy_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture
def project(tmp_path):
    return copy_project(tmp_path / "a copy")


@pytest.fixture
def run(project):
    """Start the service; afterwards nothing that it started may be left."""
    runs = []

    def start(port=None, **environ):
        runs.append(Run(project, port or find_free_ports(), **environ))
        return runs[-1]

    yield start
    for started in runs:
        started.interrupt()
    assert left_over(project) == []


def send_image(url, user):
    """Upload an image and return its media once it is ready."""
    body = jpeg()
    caller = {"X-User-ID": user}
    upload = requests.post(
        f"{url}/api/media/request-upload",
        json={"content_type": "image/jpeg", "size_bytes": len(body)},
        headers=caller,
        timeout=10,
    ).json()
    assert put_upload(upload, body).status_code == 200
    identity = {"upload_id": upload["upload_id"]}
    requests.post(f"{url}/api/media/complete", json=identity, headers=caller, timeout=10)

    def media():
        return requests.get(
            f"{url}/api/media/{upload['upload_id']}", headers=caller, timeout=10
        ).json()

    wait_until(lambda: media()["status"] == "ready", seconds=30, what="the image")
    return media()


def test_an_image_survives_a_restart_under_the_same_address(run):
    user = str(uuid4())
    first = run().wait_for(READY)
    for page in ("/", "/api/docs"):
        assert requests.get(first.url + page, timeout=10).status_code == 200
    media = send_image(first.url, user)
    assert first.interrupt() == (0, [])
    assert left_over(first.project) == []

    second = run().wait_for(READY)
    again = requests.get(
        f"{second.url}/api/media/{media['id']}", headers={"X-User-ID": user}, timeout=10
    )
    assert again.json()["url"] == media["url"]
    assert requests.get(media["url"], timeout=10).headers["Content-Type"] == "image/webp"


def test_of_the_shells_own_settings_only_the_web_apps_named_there_count(run):
    own, other = "http://127.0.0.1:3000", "http://127.0.0.1:3001"
    started = run(
        WEB_ORIGINS=own,
        AWS_PROFILE="somebody-elses",
        S3_PUBLIC_ENDPOINT="http://192.0.2.1",
        GUNICORN_CMD_ARGS="--bind 127.0.0.1:9",
        http_proxy="http://127.0.0.1:9",
        HTTP_PROXY="http://127.0.0.1:9",
    ).wait_for(READY)
    assert send_image(started.url, str(uuid4()))["width"]
    presigned = requests.post(
        f"{started.url}/api/media/request-upload",
        json={"content_type": "image/jpeg", "size_bytes": 1000},
        headers={"X-User-ID": str(uuid4())},
        timeout=10,
    ).json()
    allowed = {}
    for origin in (own, other, started.url):
        asked = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
        answer = requests.options(presigned["upload_url"], headers=asked, timeout=10)
        allowed[origin] = answer.headers.get("Access-Control-Allow-Origin")
    assert allowed == {own: own, other: None, started.url: started.url}


def test_a_taken_port_is_said_in_one_line_with_the_way_out(run):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, (line,) = run(port).end()
    assert code == 1
    assert f"port {port} is taken" in line
    assert f"PORT={port + 1} make run" in line


def test_a_second_start_on_the_same_data_is_refused(run):
    first = run().wait_for("preparing")
    code, (line,) = run().end()
    assert code == 1
    assert "running already" in line
    assert first.interrupt() == (0, [])


def test_a_setting_that_is_wrong_is_named_in_one_line(run):
    code, (line,) = run(LOG_LEVEL="LOUD").end()
    assert code == 1
    assert "LOG_LEVEL" in line


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SeaweedFS", ["weed", "mini"]),
        ("listener", ["worker_listener.py"]),
    ],
)
def test_when_a_part_crashes_the_rest_stops_and_one_line_says_so(run, name, words):
    started = run().wait_for(READY)
    os.kill(started.part(*words), signal.SIGKILL)
    code, (line,) = started.end()
    assert code == 1
    assert f"{name} has ended" in line
    assert left_over(started.project) == []


@pytest.mark.parametrize("moment", ["starting SeaweedFS", "preparing", "starting web"])
def test_ctrl_c_during_the_start_stops_everything(run, moment):
    started = run().wait_for(moment)
    assert started.interrupt() == (0, [])
    assert left_over(started.project) == []


def test_when_the_supervisor_is_killed_its_parts_die_with_it(run):
    started = run().wait_for(READY)
    started.kill()
    # gunicorn's workers look for their master every 30 seconds, and at each request.
    wait_until(
        lambda: not answers(started.url) and not left_over(started.project),
        seconds=60,
        what="the parts to end",
    )
