"""RabbitMQ as we use it: topology, confirms, dead letters, and every way to lose a connection."""

import hashlib
import json
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from uuid import uuid4

import pika
import pytest
from pika.exceptions import AMQPError, ChannelClosedByBroker

from config.settings import ConfigurationError
from devstack.process import wait_until
from mediaservice.broker import (
    DEAD_LETTER_QUEUE,
    EXCHANGE,
    PROCESS_QUEUE,
    REASON_HEADER,
    RESULTS_QUEUE,
    BrokerUnavailable,
    Publication,
    connection,
)
from mediaservice.broker.admin import BrokerAdmin, QueueState
from mediaservice.broker.connection import Link, connect, create_topology
from mediaservice.broker.inline import InlineBroker
from mediaservice.broker.rabbitmq import RabbitMQBroker
from mediaservice.broker.topology import DELIVERY_LIMIT
from mediaservice.listener import PUBLISHERS
from mediaservice.messages import (
    MEDIA_FAILED,
    MEDIA_PROCESS,
    MEDIA_PROCESSED,
    FailedResult,
    ProcessedResult,
    decode,
    encode,
)
from tests.builders import process_request
from tests.counters import grows, sample, value
from tests.queues import QUEUES, count, put, put_dead, settled, take, wait_for_count


@pytest.fixture
def make_broker(amqp):
    made = []

    def make(url, *, queue=RESULTS_QUEUE, prefetch=50, publishers=1, wait=lambda seconds: None):
        made.append(
            RabbitMQBroker(url, queue=queue, prefetch=prefetch, publishers=publishers, wait=wait)
        )
        return made[-1]

    yield make
    for broker in made:
        broker.close()


@pytest.fixture
def broker(make_broker, rabbitmq):
    return make_broker(rabbitmq.url)


@pytest.fixture
def proxy(make_proxy, rabbitmq):
    return make_proxy(rabbitmq.port)


@pytest.fixture
def url_by_proxy(proxy):
    return f"amqp://guest:guest@127.0.0.1:{proxy.port}/"


def job(**fields):
    return Publication(process_request(**fields), correlation_id="request-1")


def result():
    media_id = uuid4()
    return ProcessedResult(media_id=media_id, public_key=f"media/{media_id}/main.webp")


def consume(broker, count=1, limit=100):
    """Return `count` deliveries, in as many calls as it takes."""
    found = []

    def arrived():
        found.extend(broker.consume(limit=limit, wait_seconds=0.2))
        return len(found) >= count

    wait_until(arrived, seconds=15, what=f"{count} deliveries")
    assert len(found) == count
    return found


# topology


def test_the_topology_is_safe_to_declare_again(rabbitmq):
    for _ in range(3):
        create_topology(rabbitmq.url)


@pytest.mark.parametrize("queue", QUEUES)
def test_queues_are_durable_quorum_queues_with_a_limit(amqp, queue):
    """RabbitMQ refuses to declare a queue again with other arguments: it says what it has."""
    arguments = {"x-queue-type": "quorum"}
    if queue == DEAD_LETTER_QUEUE:
        arguments |= {"x-delivery-limit": 1_000_000}
    else:
        arguments |= {
            "x-delivery-limit": DELIVERY_LIMIT,
            "x-dead-letter-exchange": "media.dead",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
    amqp.queue_declare(queue, durable=True, arguments=arguments)
    with pytest.raises(ChannelClosedByBroker):
        amqp.queue_declare(queue, durable=True, arguments={})


@pytest.mark.parametrize(
    ("routing_key", "queue"),
    [
        (MEDIA_PROCESS, PROCESS_QUEUE),
        (MEDIA_PROCESSED, RESULTS_QUEUE),
        (MEDIA_FAILED, RESULTS_QUEUE),
    ],
)
def test_a_routing_key_leads_to_its_queue_alone(amqp, routing_key, queue):
    put(amqp, routing_key, b"{}")
    assert take(amqp, queue)[0].routing_key == routing_key
    for other in QUEUES:
        assert amqp.basic_get(other) == (None, None, None)


def test_a_broker_that_is_not_there_is_unavailable():
    with pytest.raises(BrokerUnavailable):
        create_topology("amqp://guest:guest@127.0.0.1:9/")


# TLS


@pytest.fixture
def tls_server(certificate):
    """A server that takes one connection: its URL, and the first words that come by TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:
        server.settimeout(30)

        def listen():
            connection, _ = server.accept()
            with context.wrap_socket(connection, server_side=True) as secured:
                return secured.recv(8)

        yield f"amqps://guest:guest@127.0.0.1:{server.getsockname()[1]}/", pool.submit(listen)


def test_a_broker_whom_the_machine_trusts_is_spoken_to_by_tls(tls_server, certificate, monkeypatch):
    url, heard = tls_server
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with pytest.raises(AMQPError):  # it has nothing to answer
        connect(url, "secure")
    assert heard.result() == b"AMQP\0\0\x09\x01"


def test_a_broker_that_nobody_vouches_for_is_told_nothing(tls_server):
    url, heard = tls_server
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(url, "secure")
    with pytest.raises(ssl.SSLError):
        heard.result()


# publish


def test_a_published_job_arrives_as_the_contract_says(amqp, broker):
    publication = job(attempt=3)
    assert broker.publish([publication]) == []
    method, properties, body = take(amqp, PROCESS_QUEUE)
    assert method.routing_key == MEDIA_PROCESS
    assert decode(method.routing_key, body) == publication.message
    assert properties.message_id == f"{publication.message.media_id}:3"
    assert properties.correlation_id == "request-1"
    assert properties.content_type == "application/json"
    assert properties.delivery_mode == 2


def test_a_batch_arrives_in_order(amqp, broker):
    jobs = [job() for _ in range(20)]
    assert broker.publish(jobs) == []
    assert broker.count_waiting(PROCESS_QUEUE) == 20
    for expected in jobs:
        _, _, body = amqp.basic_get(PROCESS_QUEUE, auto_ack=True)
        assert json.loads(body)["media_id"] == str(expected.message.media_id)


def test_what_no_queue_takes_is_returned_and_the_rest_is_published(amqp, broker):
    assert broker.can_publish()
    amqp.queue_unbind(PROCESS_QUEUE, EXCHANGE, MEDIA_PROCESS)
    first, second = job(), Publication(result())
    assert broker.publish([first, second]) == [first]
    take(amqp, RESULTS_QUEUE)
    amqp.queue_bind(PROCESS_QUEUE, EXCHANGE, MEDIA_PROCESS)
    assert broker.publish([first]) == []
    take(amqp, PROCESS_QUEUE)


def test_publishing_without_a_broker_returns_everything(make_broker):
    broker = make_broker("amqp://guest:guest@127.0.0.1:9/")
    jobs = [job(), job()]
    assert broker.publish(jobs) == jobs
    assert not broker.can_publish()
    assert broker.count_waiting(PROCESS_QUEUE) == 0


def test_publishing_goes_on_after_the_connection_was_cut(amqp, make_broker, proxy, url_by_proxy):
    broker = make_broker(url_by_proxy)
    assert broker.publish([job()]) == []
    take(amqp, PROCESS_QUEUE)
    proxy.cut()
    left = [job(), job()]

    def all_published():
        left[:] = broker.publish(left)
        return not left

    wait_until(all_published, seconds=10, what="everything to be published")
    assert broker.count_waiting(PROCESS_QUEUE) == 2


@pytest.mark.parametrize(
    "parameter",
    [
        "heartbeat=abc",
        "foo=1",
        "ssl_options=xx",
        "ssl_options={",
        "ssl_options=1",
        "ssl_options={'server_hostname':'mq.example'}",
    ],
)
def test_a_parameter_that_pika_does_not_know_is_a_fault_of_the_configuration(
    make_broker, parameter
):
    broker = make_broker(f"amqp://media:hunter2@127.0.0.1:9/?{parameter}")
    with pytest.raises(ConfigurationError, match="BROKER_URL: ") as raised:
        broker.can_publish()
    assert "hunter2" not in str(raised.value)


def test_it_can_publish_as_soon_as_the_broker_is_back(make_broker, proxy, url_by_proxy):
    broker = make_broker(url_by_proxy)
    link = f"{RESULTS_QUEUE} publisher 1"
    proxy.refuse()
    with grows("media_broker_connections_total", link=link, outcome="refused"):
        assert not broker.can_publish()
    assert sample("media_broker_connected", link=link) == 0
    proxy.accept()
    with grows("media_broker_connections_total", link=link, outcome="opened"):
        wait_until(broker.can_publish, seconds=10, what="a new connection")
    assert sample("media_broker_connected", link=link) == 1


def test_reconnecting_backs_off(make_broker):
    """While it does, no connection is tried, so a loop may ask as often as it likes."""
    broker = make_broker("amqp://guest:guest@127.0.0.1:9/")
    assert not broker.can_publish()
    assert broker._publishing[0]._retry_at > time.monotonic()
    waits = []
    for _ in range(8):
        broker._publishing[0]._retry_at = 0
        assert not broker.can_publish()
        waits.append(broker._publishing[0]._retry_at - time.monotonic())
    assert waits[-1] > waits[0]
    assert max(waits) <= 10


def test_what_a_full_queue_refuses_is_returned(amqp, broker, rabbitmq):
    assert broker.can_publish()
    rabbitmq.control("set_policy", "full", f"^{PROCESS_QUEUE}$", '{"max-length": 1}')
    jobs = [job(), job()]
    try:
        # RabbitMQ tells a queue its limit, and a publisher that it is reached, in its own time.
        wait_until(
            lambda: broker.publish(jobs) == jobs, seconds=15, what="the queue to refuse both"
        )
        taken = count(amqp, PROCESS_QUEUE)
        for _ in range(taken):
            take(amqp, PROCESS_QUEUE)
        wait_until(lambda: not broker.publish([jobs[1]]), seconds=15, what="the queue to take one")
        assert take(amqp, PROCESS_QUEUE)[2] == encode(jobs[1].message)[1]
    finally:
        rabbitmq.control("clear_policy", "full")


# publish over several connections


@pytest.fixture
def parallel(make_broker, rabbitmq):
    """A broker that publishes as the listener's does."""
    broker = make_broker(rabbitmq.url, publishers=PUBLISHERS)
    assert broker.can_publish()
    return broker


@pytest.mark.parametrize("size", [1, 3, 4, 21])
def test_every_message_of_a_shared_batch_arrives_once(amqp, parallel, size):
    jobs = [job() for _ in range(size)]
    assert parallel.publish(jobs) == []
    arrived = [take(amqp, PROCESS_QUEUE)[1].message_id for _ in jobs]
    assert sorted(arrived) == sorted(publication.message_id for publication in jobs)
    assert count(amqp, PROCESS_QUEUE) == 0


def test_what_no_queue_takes_is_returned_from_every_share(amqp, parallel):
    unroutable = [job() for _ in range(PUBLISHERS)]
    routable = [Publication(result()) for _ in range(PUBLISHERS)]
    amqp.queue_unbind(PROCESS_QUEUE, EXCHANGE, MEDIA_PROCESS)
    returned = parallel.publish([*unroutable, *routable])  # one of each in every share
    amqp.queue_bind(PROCESS_QUEUE, EXCHANGE, MEDIA_PROCESS)
    assert sorted(p.message_id for p in returned) == sorted(p.message_id for p in unroutable)
    arrived = {take(amqp, RESULTS_QUEUE)[1].message_id for _ in routable}
    assert arrived == {publication.message_id for publication in routable}


def test_a_lost_connection_returns_its_share_alone(amqp, parallel, proxy, url_by_proxy):
    parallel._publishing[2].drop()
    parallel._publishing[2] = Link(url_by_proxy, "cut", lambda c: c.confirm_delivery())
    assert parallel.can_publish()
    proxy.cut()
    jobs = [job() for _ in range(3 * PUBLISHERS)]
    share = jobs[2::PUBLISHERS]
    assert parallel.publish(jobs) == share
    arrived = {take(amqp, PROCESS_QUEUE)[1].message_id for _ in range(len(jobs) - len(share))}
    assert arrived == {p.message_id for p in jobs if p not in share}
    assert count(amqp, PROCESS_QUEUE) == 0


@pytest.mark.parametrize("refused", [0, 2])
def test_a_connection_that_is_refused_stops_no_other(amqp, parallel, refused):
    """As a limit of connections at the broker would refuse it, for ever."""
    parallel._publishing[refused].drop()
    nowhere = Link("amqp://guest:guest@127.0.0.1:9/", "refused", lambda _channel: None)
    nowhere.blocked = True  # as it was when it was lost; the others know that this is over
    parallel._publishing[refused] = nowhere
    assert parallel.can_publish()
    assert nowhere.is_backing_off
    jobs = [job() for _ in range(3 * PUBLISHERS)]
    assert parallel.publish(jobs) == []
    assert parallel.count_waiting(PROCESS_QUEUE) == len(jobs)


# consume


def test_messages_are_consumed_in_batches_up_to_a_limit(amqp, broker):
    for _ in range(7):
        put(amqp, *encode(result()))
    first = broker.consume(limit=3, wait_seconds=5)
    assert 1 <= len(first) <= 3
    rest = consume(broker, 7 - len(first), limit=3)
    broker.ack(first + rest)
    assert broker.consume(limit=3, wait_seconds=0.01) == []


def test_a_delivery_carries_the_message_as_it_was_sent(amqp, broker):
    message = result()
    routing_key, body = encode(message)
    amqp.basic_publish(
        EXCHANGE,
        routing_key,
        body,
        pika.BasicProperties(message_id="m:1", correlation_id="r-9"),
    )
    (delivery,) = consume(broker)
    assert (delivery.routing_key, delivery.body) == (routing_key, body)
    assert (delivery.message_id, delivery.correlation_id) == ("m:1", "r-9")
    assert not delivery.redelivered


def test_what_was_acknowledged_does_not_come_again(amqp, make_broker, rabbitmq):
    put(amqp, *encode(result()))
    first = make_broker(rabbitmq.url)
    first.ack(consume(first))
    first.close()
    assert make_broker(rabbitmq.url).consume(limit=1, wait_seconds=0.2) == []


def test_acknowledging_a_later_one_leaves_an_earlier_one_in_hand(amqp, make_broker, rabbitmq):
    for _ in range(4):
        put(amqp, *encode(result()))
    first = make_broker(rabbitmq.url)
    deliveries = consume(first, 4)
    first.ack([deliveries[3], deliveries[1]])
    first.ack([deliveries[0]])
    first.close()
    (again,) = consume(make_broker(rabbitmq.url))
    assert again.body == deliveries[2].body


def test_what_was_not_acknowledged_comes_again_to_somebody(amqp, make_broker, rabbitmq):
    put(amqp, *encode(result()))
    first, second = make_broker(rabbitmq.url), make_broker(rabbitmq.url)
    (delivery,) = consume(first)
    first.close()
    (again,) = consume(second)
    assert (again.body, again.redelivered) == (delivery.body, True)
    second.ack([again])


def test_without_a_connection_consuming_waits_and_returns_nothing(make_broker):
    waits = []
    broker = make_broker("amqp://guest:guest@127.0.0.1:9/", wait=waits.append)
    assert broker.consume(limit=5, wait_seconds=0.7) == []
    assert waits == [0.7]


def test_consuming_goes_on_after_the_connection_was_cut(amqp, make_broker, proxy, url_by_proxy):
    broker = make_broker(url_by_proxy)
    put(amqp, *encode(result()))
    name = "media_broker_deliveries_total"
    with grows(name, routing_key=MEDIA_PROCESSED, redelivered="no"):
        (delivery,) = consume(broker)
    proxy.cut()
    wait_until(
        lambda: broker.consume(limit=1, wait_seconds=0.05) == [] and not broker._consuming.is_open,
        seconds=10,
        what="the loss to be noticed",
    )
    broker.ack([delivery])  # nobody to tell: it comes again
    with grows(name, routing_key=MEDIA_PROCESSED, redelivered="yes"):
        (again,) = consume(broker)
    assert (again.body, again.redelivered) == (delivery.body, True)
    broker.ack([again])


@pytest.mark.parametrize("settle", [RabbitMQBroker.ack, RabbitMQBroker.dead_letter])
def test_what_is_settled_as_the_connection_is_lost_comes_again(
    amqp, make_broker, proxy, url_by_proxy, settle
):
    broker = make_broker(url_by_proxy)
    put(amqp, *encode(result()))
    (delivery,) = consume(broker)
    assert broker.can_publish()
    proxy.cut()
    settle(
        broker, *(([delivery],) if settle is RabbitMQBroker.ack else (delivery, "it is garbage"))
    )
    (again,) = consume(broker)
    assert (again.body, again.redelivered) == (delivery.body, True)
    broker.ack([again])
    assert amqp.basic_get(DEAD_LETTER_QUEUE) == (None, None, None)


def test_a_connection_that_is_lost_while_nothing_is_done_is_noticed(
    make_broker, proxy, url_by_proxy
):
    broker = make_broker(url_by_proxy)
    links = [*broker._publishing, broker._consuming]
    assert all(link.open().is_open for link in links)
    proxy.cut()

    def noticed():
        broker.sleep(0)
        return not any(link.is_open for link in links)

    name = "media_broker_connections_total"
    with (
        grows(name, link=f"{RESULTS_QUEUE} publisher 1", outcome="lost"),
        grows(name, link=f"{RESULTS_QUEUE} consumer", outcome="lost"),
    ):
        wait_until(noticed, seconds=10, what="both losses to be noticed")
    for link in links:
        assert sample("media_broker_connected", link=link.name) == 0
    wait_until(broker.can_publish, seconds=10, what="a new connection")


def test_what_waits_is_counted_and_unknown_when_the_connection_is_lost(
    amqp, make_broker, proxy, url_by_proxy
):
    broker = make_broker(url_by_proxy)
    put(amqp, *encode(result()))
    assert broker.can_publish()
    proxy.cut()
    assert broker.count_waiting(RESULTS_QUEUE) == 0
    count_waiting = partial(broker.count_waiting, RESULTS_QUEUE)
    wait_until(lambda: count_waiting() == 1, seconds=10, what="a new connection")


def test_a_delivery_of_a_lost_connection_acknowledges_nothing_on_the_next(
    amqp, make_broker, proxy, url_by_proxy, rabbitmq
):
    """Delivery tags start again at 1: an old one would acknowledge another message."""
    broker = make_broker(url_by_proxy)
    put(amqp, *encode(result()))
    (old,) = consume(broker)
    proxy.cut()
    (again,) = consume(broker)
    assert (again.delivery_tag, again.body) == (old.delivery_tag, old.body)
    broker.ack([old])
    broker.close()
    other = make_broker(rabbitmq.url)
    (left,) = consume(other)
    assert left.body == old.body
    other.ack([left])


def test_a_channel_closed_by_the_broker_is_replaced(amqp, broker):
    """Such as after consumer_timeout; pika's connection does not report it."""
    consumed = broker.consume(limit=1, wait_seconds=0.01)
    assert consumed == []
    broker._consuming.channel.basic_ack(4711)  # an unknown tag: RabbitMQ closes the channel
    put(amqp, *encode(result()))
    broker.ack(consume(broker))


def test_a_queue_that_was_deleted_is_declared_anew(amqp, broker):
    assert broker.consume(limit=1, wait_seconds=0.01) == []
    amqp.queue_delete(RESULTS_QUEUE)
    wait_until(
        lambda: not broker.consume(limit=1, wait_seconds=0.05) and not broker._consuming.is_open,
        seconds=10,
        what="the cancelled consumer to be noticed",
    )
    wait_until(lambda: is_there(broker), seconds=10, what="the queue")
    put(amqp, *encode(result()))
    broker.ack(consume(broker))


def is_there(broker):
    broker.consume(limit=1, wait_seconds=0.05)
    return broker._consuming.is_open


# dead letters


def test_a_message_set_aside_keeps_its_body_and_gets_a_reason(amqp, broker):
    amqp.basic_publish(
        EXCHANGE,
        MEDIA_PROCESSED,
        b"garbage",
        pika.BasicProperties(message_id="m:1", correlation_id="r-9"),
    )
    (delivery,) = consume(broker)
    with grows("media_broker_dead_letters_total", routing_key=MEDIA_PROCESSED):
        broker.dead_letter(delivery, "it is garbage")
    method, properties, body = take(amqp, DEAD_LETTER_QUEUE)
    assert (method.routing_key, body) == (MEDIA_PROCESSED, b"garbage")
    assert properties.headers[REASON_HEADER] == "it is garbage"
    assert (properties.message_id, properties.correlation_id) == ("m:1", "r-9")
    broker.close()
    assert settled(amqp, RESULTS_QUEUE)


def test_setting_aside_works_even_if_nothing_can_be_published(amqp, broker):
    put(amqp, MEDIA_PROCESSED, b"garbage")
    (delivery,) = consume(broker)
    broker._publishing[0].fail(RuntimeError("lost"))  # and backs off now
    broker.dead_letter(delivery, "it is garbage")
    _, properties, body = take(amqp, DEAD_LETTER_QUEUE)
    assert body == b"garbage"
    assert properties.headers["x-first-death-reason"] == "rejected"


def test_a_message_that_kills_every_consumer_is_set_aside(amqp, make_broker, rabbitmq):
    put(amqp, *encode(FailedResult(media_id=uuid4())))
    deliveries = 0
    while count(amqp, DEAD_LETTER_QUEUE) == 0:
        assert deliveries <= DELIVERY_LIMIT + 1
        victim = make_broker(rabbitmq.url)
        deliveries += len(victim.consume(limit=1, wait_seconds=1))
        victim.close()
    _, properties, _ = take(amqp, DEAD_LETTER_QUEUE)
    assert properties.headers["x-first-death-reason"] == "delivery_limit"
    assert deliveries == DELIVERY_LIMIT + 1


# alarms


def test_a_blocked_broker_is_not_published_to_but_still_consumed_from(
    amqp, broker, rabbitmq, monkeypatch
):
    """RabbitMQ blocks publishers while it is short of memory; here, because it is told it is."""
    monkeypatch.setattr(connection, "BLOCKED_TIMEOUT_SECONDS", 1)
    put(amqp, *encode(result()))
    assert broker.can_publish()
    told = partial(value, "media_broker_blocked_total", link=f"{RESULTS_QUEUE} publisher 1")
    before = told()
    rabbitmq.control("set_vm_memory_high_watermark", "0.000001")
    try:
        refused = job()
        assert broker.publish([refused]) == [refused]  # which makes RabbitMQ block the connection
        assert told() == before + 1
        wait_until(
            lambda: not broker.can_publish(), seconds=10, what="the connection to be blocked"
        )
        broker.ack(consume(broker))
    finally:
        rabbitmq.control("set_vm_memory_high_watermark", "absolute", "512MiB")
    broker._publishing[0]._retry_at = 0.0  # its back-off is for ten seconds
    wait_until(broker.can_publish, seconds=15, what="publishing to be possible again")
    assert broker.publish([job()]) == []


def test_nothing_is_published_while_one_of_several_connections_is_blocked(
    amqp, parallel, rabbitmq, monkeypatch
):
    """RabbitMQ tells a connection when a message comes by it."""
    monkeypatch.setattr(connection, "BLOCKED_TIMEOUT_SECONDS", 120)
    parallel._publishing[2].drop()
    # It awaits no confirm, which would end in a time-out and a new connection.
    told = parallel._publishing[2] = Link(rabbitmq.url, "unconfirmed", lambda _channel: None)
    rabbitmq.control("set_vm_memory_high_watermark", "0.000001")
    try:
        told.open().basic_publish(EXCHANGE, *encode(result()))
        wait_until(lambda: not parallel.can_publish(), seconds=30, what="a blocked connection")
        assert [link.blocked for link in parallel._publishing] == [False, False, True, False]
    finally:
        rabbitmq.control("set_vm_memory_high_watermark", "absolute", "512MiB")
    wait_until(parallel.can_publish, seconds=30, what="publishing to be possible again")
    take(amqp, RESULTS_QUEUE)


def test_a_link_knows_whether_it_is_blocked(rabbitmq, amqp, monkeypatch):
    """RabbitMQ says so when a message comes, and again when it takes messages."""
    monkeypatch.setattr(connection, "BLOCKED_TIMEOUT_SECONDS", 120)
    link = Link(rabbitmq.url, "unconfirmed", lambda _channel: None)
    routing_key, body = encode(result())
    rabbitmq.control("set_vm_memory_high_watermark", "0.000001")
    try:
        link.open().basic_publish(EXCHANGE, routing_key, body)
        wait_until(
            lambda: link.process_events() or link.blocked, seconds=30, what="the link to be blocked"
        )
    finally:
        rabbitmq.control("set_vm_memory_high_watermark", "absolute", "512MiB")
    wait_until(
        lambda: link.process_events() or not link.blocked, seconds=30, what="the link to be free"
    )
    assert link.is_open
    assert take(amqp, RESULTS_QUEUE)[2] == body
    link.drop()


def test_what_is_not_confirmed_in_time_is_returned_and_its_connection_left(
    amqp, make_broker, proxy, url_by_proxy, monkeypatch
):
    broker = make_broker(url_by_proxy)
    assert broker.can_publish()
    (hung,) = broker._publishing
    proxy.stall()
    late, on_time = [job() for _ in range(3)], [job() for _ in range(2)]
    with monkeypatch.context() as patch, grows("media_broker_publishes_total", outcome="lost"):
        patch.setattr("mediaservice.broker.rabbitmq.CONFIRM_SECONDS", 0.5)
        assert broker.publish(late) == late
    assert not broker.can_publish(), "it takes its time to connect again"
    proxy.resume()
    wait_until(lambda: hung.connection is None, seconds=30, what="the connection to be given up")
    broker._publishing[0]._retry_at = 0.0
    assert broker.can_publish()
    assert broker.publish(on_time) == []
    assert sample("media_broker_connected", link=f"{RESULTS_QUEUE} publisher 1") == 1
    arrived = [take(amqp, PROCESS_QUEUE)[1].message_id for _ in range(3)]
    assert arrived == [publication.message_id for publication in (late[0], *on_time)]
    assert count(amqp, PROCESS_QUEUE) == 0, "the rest was not published behind anybody's back"


def test_a_message_is_set_aside_though_nothing_is_confirmed(
    amqp, broker, proxy, url_by_proxy, monkeypatch
):
    put(amqp, MEDIA_FAILED, b"garbage")
    (delivery,) = consume(broker)
    broker._publishing[0].drop()
    hung = Link(url_by_proxy, "hung", lambda c: c.confirm_delivery())
    broker._publishing = [hung]
    assert broker.can_publish()
    proxy.stall()
    with monkeypatch.context() as patch:
        patch.setattr("mediaservice.broker.rabbitmq.CONFIRM_SECONDS", 0.5)
        broker.dead_letter(delivery, "no result")
    assert take(amqp, DEAD_LETTER_QUEUE)[2] == b"garbage"
    proxy.resume()
    wait_until(lambda: hung.connection is None, seconds=30, what="the connection to be given up")


def test_a_broker_that_answers_no_more_is_left_in_time(
    make_broker, proxy, url_by_proxy, monkeypatch
):
    monkeypatch.setattr(connection, "CLOSE_SECONDS", 0.3)
    broker = make_broker(url_by_proxy)
    assert broker.can_publish()
    assert broker.consume(limit=1, wait_seconds=0) == []
    proxy.stall()
    closing = threading.Thread(target=broker.close, daemon=True)
    closing.start()
    closing.join(timeout=10)
    is_left = not closing.is_alive()
    proxy.resume()
    closing.join()
    assert is_left


# without a broker


def failing_inline_broker(stopping):
    return InlineBroker(
        lambda job: FailedResult(media_id=job.media_id, attempt=job.attempt), stopping
    )


def test_the_inline_broker_answers_what_is_published_in_order():
    broker = failing_inline_broker(threading.Event())
    jobs = [job(), job(), job()]
    assert broker.can_publish()
    assert broker.publish(jobs) == []
    assert broker.count_waiting(PROCESS_QUEUE) == 0
    first = broker.consume(limit=2, wait_seconds=0)
    rest = broker.consume(limit=2, wait_seconds=0)
    answers = [decode(d.routing_key, d.body) for d in first + rest]
    assert [a.media_id for a in answers] == [j.message.media_id for j in jobs]
    assert {d.correlation_id for d in first} == {"request-1"}
    broker.ack(first + rest)
    assert broker.consume(limit=2, wait_seconds=0) == []


def test_the_inline_broker_waits_only_when_there_is_nothing():
    waits = []
    stopping = threading.Event()
    stopping.wait = waits.append
    broker = failing_inline_broker(stopping)
    broker.publish([job()])
    assert len(broker.consume(limit=5, wait_seconds=0.5)) == 1
    assert waits == []
    assert broker.consume(limit=5, wait_seconds=0.5) == []
    assert waits == [0.5]


def test_the_inline_broker_returns_what_it_has_not_begun_when_it_is_to_stop():
    stopping = threading.Event()

    def work(job):
        stopping.set()
        return FailedResult(media_id=job.media_id)

    jobs = [job(), job(), job()]
    broker = InlineBroker(work, stopping)
    assert broker.publish(jobs) == jobs[1:]
    assert len(broker.consume(limit=5, wait_seconds=0)) == 1


# the admin side: what a person sees and does


@pytest.fixture
def admin(amqp, rabbitmq):
    with BrokerAdmin(rabbitmq.url) as admin:
        yield admin


def test_dead_letters_are_looked_at_without_losing_any(amqp, rabbitmq):
    put_dead(amqp, MEDIA_FAILED, b"{}", "one:1", correlation_id="request-1")
    put_dead(amqp, "foreign.key", b"garbage")
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 2)
    for _ in range(DELIVERY_LIMIT + 5):  # looking often costs nothing either
        with BrokerAdmin(rabbitmq.url) as admin:
            first, second = admin.dead_letters(100)
        wait_for_count(amqp, DEAD_LETTER_QUEUE, 2)
    assert (first.id, first.routing_key, first.reason) == ("one:1", MEDIA_FAILED, "its reason")
    assert (first.body, first.correlation_id) == (b"{}", "request-1")
    assert second.id == f"sha256:{hashlib.sha256(b'garbage').hexdigest()[:16]}"
    with BrokerAdmin(rabbitmq.url) as admin:
        assert admin.dead_letters(0) == []
        assert admin.dead_letters(1) == [first]


def test_what_the_broker_set_aside_itself_has_its_reason_too(amqp, admin):
    put(amqp, MEDIA_FAILED, b"garbage")
    wait_for_count(amqp, RESULTS_QUEUE, 1)
    method, _, _ = amqp.basic_get(RESULTS_QUEUE)
    amqp.basic_reject(method.delivery_tag, requeue=False)
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 1)
    ((letter, refusal),) = admin.requeue(None)
    assert (letter.routing_key, letter.reason, refusal) == (MEDIA_FAILED, "rejected", None)
    assert set(take(amqp, RESULTS_QUEUE)[1].headers) == {"x-delivery-count"}


def test_a_requeued_message_is_as_it_was_and_gone_from_the_dead(amqp, admin):
    routing_key, body = encode(result())
    put_dead(amqp, routing_key, body, "one:1", correlation_id="request-1")
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 1)
    ((letter, refusal),) = admin.requeue(None)
    assert (letter.id, refusal) == ("one:1", None)
    method, properties, found = take(amqp, RESULTS_QUEUE)
    assert (method.routing_key, found) == (routing_key, body)
    assert (properties.message_id, properties.correlation_id) == ("one:1", "request-1")
    assert properties.delivery_mode == 2
    assert properties.headers == {"traceparent": "00-1-2-01", "x-delivery-count": 0}
    admin.__exit__()
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 0)


def test_only_the_chosen_are_requeued(amqp, rabbitmq):
    for number in range(3):
        put_dead(amqp, MEDIA_FAILED, b"%d" % number, f"{number}:1")
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 3)
    with BrokerAdmin(rabbitmq.url) as admin:
        assert [letter.id for letter, _ in admin.requeue({"1:1", "unknown"})] == ["1:1"]
    assert take(amqp, RESULTS_QUEUE)[2] == b"1"
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 2)
    with BrokerAdmin(rabbitmq.url) as admin:
        assert [letter.id for letter in admin.dead_letters(9)] == ["0:1", "2:1"]


def test_what_no_queue_takes_stays_among_the_dead(amqp, rabbitmq):
    put_dead(amqp, "foreign.key", b"x", "foreign")
    put_dead(amqp, MEDIA_FAILED, b"{}", "one:1")
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 2)
    with BrokerAdmin(rabbitmq.url) as admin:
        answers = {letter.id: refusal for letter, refusal in admin.requeue(None)}
    assert answers == {"foreign": "no queue takes its routing key", "one:1": None}
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 1)
    with BrokerAdmin(rabbitmq.url) as admin:
        assert admin.dead_letters(9)[0].reason == "its reason"


def test_a_message_that_dies_again_at_once_is_requeued_once(amqp, rabbitmq, make_broker):
    put_dead(amqp, MEDIA_FAILED, b"garbage", "one:1")
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 1)
    with BrokerAdmin(rabbitmq.url) as admin:
        for _ in admin.requeue(None):
            broker = make_broker(rabbitmq.url)
            broker.dead_letter(consume(broker)[0], "garbage again")
    with BrokerAdmin(rabbitmq.url) as admin:
        assert [letter.reason for letter in admin.dead_letters(9)] == ["garbage again"]


def test_dropped_messages_are_gone_and_the_others_stay(amqp, rabbitmq):
    for number in range(3):
        put_dead(amqp, MEDIA_FAILED, b"%d" % number, f"{number}:1")
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 3)
    with BrokerAdmin(rabbitmq.url) as admin:
        assert [letter.id for letter in admin.drop({"0:1"})] == ["0:1"]
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 2)
    with BrokerAdmin(rabbitmq.url) as admin:
        assert len(list(admin.drop(None))) == 2
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 0)


def test_queues_are_counted_with_their_consumers(amqp, make_broker, rabbitmq, admin):
    put_dead(amqp, MEDIA_FAILED, b"1")
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 1)
    make_broker(rabbitmq.url, queue=RESULTS_QUEUE).consume(limit=1, wait_seconds=0)
    assert admin.queues() == {
        DEAD_LETTER_QUEUE: QueueState(1, 0),
        PROCESS_QUEUE: QueueState(0, 0),
        RESULTS_QUEUE: QueueState(0, 1),
    }


@pytest.fixture
def deleted_queue(amqp):
    """The worker's queue, away for one test."""
    amqp.queue_delete(PROCESS_QUEUE)
    yield PROCESS_QUEUE
    amqp.queue_delete(PROCESS_QUEUE)


def test_the_topology_we_declare_is_without_faults(admin):
    assert admin.topology_faults() == []


def test_a_missing_queue_is_a_fault_and_is_not_made(deleted_queue, admin):
    for _ in range(2):
        (fault,) = admin.topology_faults()
        assert fault.startswith(f"queue {deleted_queue}: NOT_FOUND")
    assert admin.queues()[deleted_queue] is None


def test_a_queue_that_was_declared_otherwise_is_a_fault(amqp, deleted_queue, admin):
    amqp.queue_declare(deleted_queue, durable=True)
    (fault,) = admin.topology_faults()
    assert "PRECONDITION_FAILED" in fault
    assert deleted_queue in fault


def test_a_broker_that_is_away_is_unavailable_to_the_desk():
    with pytest.raises(BrokerUnavailable), BrokerAdmin("amqp://guest:guest@127.0.0.1:9/"):
        pass


def test_a_connection_lost_at_the_desk_is_reported_as_such(rabbitmq, url_by_proxy, proxy, amqp):
    put_dead(amqp, MEDIA_FAILED, b"1")
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 1)
    with BrokerAdmin(url_by_proxy) as admin:
        proxy.close()
        with pytest.raises(BrokerUnavailable):
            admin.dead_letters(1)
    wait_for_count(amqp, DEAD_LETTER_QUEUE, 1)
