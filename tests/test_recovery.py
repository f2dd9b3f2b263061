"""The failure matrix with real processes: servers go and come back, processes are killed, and
nothing is lost, nobody restarts what was not killed.
"""

import signal

from devstack.process import wait_until
from mediaservice.broker import DEAD_LETTER_QUEUE, EXCHANGE, PROCESS_QUEUE, RESULTS_QUEUE
from mediaservice.messages import MEDIA_PROCESSED
from tests.builders import jpeg
from tests.queues import count, take


def wait_until_logged(process, event, media_ids):
    """Wait until a process has left a line about an event of each media."""

    def is_logged(media_id):
        return any(
            f'"{event}"' in line and f'"{media_id}"' in line
            for line in process.log_path.read_text().splitlines()
        )

    wait_until(lambda: all(map(is_logged, media_ids)), seconds=60, what=event)


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
    service.wait_until_final(service.process(jpeg()))  # a worker that consumes
    service.worker.signal(signal.SIGSTOP)
    media_id = service.process(jpeg())
    wait_until_logged(service.listener, "job_dispatched", [media_id])
    wait_until(lambda: count(amqp, PROCESS_QUEUE) == 0, seconds=20, what="the delivery")
    service.worker.kill()
    service.worker.start()
    assert service.wait_until_final(media_id)["status"] == "ready"
    assert count(amqp, DEAD_LETTER_QUEUE) == 0


def test_listener_killed_with_answers_in_hand(service, amqp):
    copies = amqp.queue_declare("", exclusive=True).method.queue
    amqp.queue_bind(copies, EXCHANGE, MEDIA_PROCESSED)
    service.worker.signal(signal.SIGSTOP)
    media_ids = [service.process(jpeg()) for _ in range(3)]
    wait_until_logged(service.listener, "job_dispatched", media_ids)
    service.listener.signal(signal.SIGSTOP)
    service.worker.signal(signal.SIGCONT)
    wait_until_logged(service.worker, "message", media_ids)
    for _ in media_ids:
        take(amqp, copies)  # the worker publishes an answer after its line about it
    wait_until(lambda: count(amqp, RESULTS_QUEUE) == 0, seconds=20, what="the deliveries")
    service.listener.kill()
    wait_until(
        lambda: count(amqp, RESULTS_QUEUE) == len(media_ids),
        seconds=20,
        what="the answers that it had in hand",
    )
    service.recover()
    for media_id in media_ids:
        assert service.wait_until_final(media_id)["status"] == "ready"
    assert count(amqp, DEAD_LETTER_QUEUE) == 0
