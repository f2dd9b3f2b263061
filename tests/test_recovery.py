"""The failure matrix with real processes: servers go and come back, processes are killed, and
nothing is lost, nobody restarts what was not killed.
"""

import signal

from devstack.process import wait_until
from mediaservice.broker import DEAD_LETTER_QUEUE
from tests.builders import jpeg
from tests.queues import count


def test_database_restart_under_web_listener_and_worker(service, postgresql):
    pids = [process.pid for process in service.processes]
    before = service.upload(jpeg())
    postgresql.kill()
    down = service.complete(before)
    assert (down.status_code, down.json()["error"]) == (503, "database_unavailable")
    assert int(down.headers["Retry-After"]) > 0
    postgresql.start()
    wait_until(lambda: service.complete(before).ok, seconds=20, what="web to recover")
    assert service.wait_until_final(before)["status"] == "ready"
    assert [process.pid for process in service.processes] == pids
    assert all(process.is_running for process in service.processes)


def test_broker_killed_under_listener_and_worker(service, rabbitmq):
    pids = [process.pid for process in service.processes]
    service.wait_until_final(service.process(jpeg()))
    rabbitmq.kill()
    media_id = service.process(jpeg())
    rabbitmq.start()
    assert service.wait_until_final(media_id)["status"] == "ready"
    assert [process.pid for process in service.processes] == pids


def test_worker_killed_with_the_job_in_hand(service, amqp):
    service.worker.signal(signal.SIGSTOP)
    media_id = service.process(jpeg())
    wait_until(
        lambda: service.call("GET", f"/{media_id}/status").json()["status"] == "processing",
        seconds=10,
        what="the job",
    )
    service.worker.kill()
    service.worker.start()
    assert service.wait_until_final(media_id)["status"] == "ready"
    assert count(amqp, DEAD_LETTER_QUEUE) == 0


def test_listener_killed_with_answers_in_hand(service, amqp):
    service.listener.signal(signal.SIGSTOP)
    media_ids = [service.process(jpeg()) for _ in range(3)]
    service.listener.kill()
    service.listener.start()
    for media_id in media_ids:
        assert service.wait_until_final(media_id)["status"] == "ready"
    assert count(amqp, DEAD_LETTER_QUEUE) == 0
