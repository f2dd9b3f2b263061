"""The least each role needs: docs/policies, enforced while the roles do all they ever do."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import boto3
import flask_migrate
import pika
import psycopg
import pytest
import requests
from botocore.exceptions import ClientError
from moto.iam.access_control import S3IAMRequest
from moto.s3.responses import ACTION_MAP
from pika.exceptions import ChannelClosedByBroker

from config.settings import Settings
from devstack.postgresql import PostgreSQL
from devstack.rabbitmq import RabbitMQ
from mediaservice import PROJECT, create_app
from mediaservice.broker import DEAD_LETTER_QUEUE, PROCESS_QUEUE, RESULTS_QUEUE, Publication
from mediaservice.broker.admin import BrokerAdmin
from mediaservice.broker.rabbitmq import RabbitMQBroker
from mediaservice.broker.topology import declare_topology
from mediaservice.doctor.services import database_probes
from mediaservice.messages import MEDIA_FAILED, MEDIA_PROCESS, MEDIA_PROCESSED
from mediaservice.storage import ObjectNotFound, Storage, StoreUnavailable
from mediaworker.contract import SAMPLE_JOB
from tests.builders import environment, jpeg
from tests.counters import grows
from tests.world import World, processed

POLICIES = PROJECT / "docs" / "policies"
ROLES = ("web", "listener", "worker", "operator")
RAW, PUBLIC = "media-raw", "media-public"
MEDIA_ID = uuid4()
RAW_KEY, PUBLIC_PREFIX = f"uploads/{MEDIA_ID}", f"media/{MEDIA_ID}/"


# S3


class PresignedRequest(S3IAMRequest):
    """A request whose key moto finds in its URL, too; `test_storage` has to do with signatures."""

    def __init__(self, *, path: str, headers: Any, **rest: Any) -> None:
        query = parse_qs(urlsplit(path).query)
        if "X-Amz-Credential" in query:
            headers = {**headers, "Authorization": f"Credential={query['X-Amz-Credential'][0]},"}
        super().__init__(path=path, headers=headers, **rest)

    def check_signature(self) -> None:
        """Believe it."""


class Roles:
    """A store that enforces IAM, with a user of each role's policy and nothing more."""

    def __init__(self, url: str) -> None:
        self._url = url
        administrator = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
        iam = boto3.client("iam", region_name="us-east-1", endpoint_url=url, **administrator)
        self._keys = {}
        for role in ROLES:
            iam.create_user(UserName=role)
            document = (POLICIES / f"s3-{role}.json").read_text()
            iam.put_user_policy(UserName=role, PolicyName=role, PolicyDocument=document)
            self._keys[role] = iam.create_access_key(UserName=role)["AccessKey"]

    def credentials(self, role: str) -> dict[str, str]:
        return {
            "aws_access_key_id": self._keys[role]["AccessKeyId"],
            "aws_secret_access_key": self._keys[role]["SecretAccessKey"],
        }

    def client(self, role: str) -> Any:
        return boto3.client(
            "s3", region_name="us-east-1", endpoint_url=self._url, **self.credentials(role)
        )

    def storage(self, role: str) -> Storage:
        keys = self._keys[role]
        variables = environment(
            S3_ENDPOINT=self._url,
            S3_ACCESS_KEY_ID=keys["AccessKeyId"],
            S3_SECRET_ACCESS_KEY=keys["SecretAccessKey"],
            S3_RAW_BUCKET=RAW,
            S3_PUBLIC_BUCKET=PUBLIC,
        )
        return Storage(Settings.from_environ(variables))


@pytest.fixture(scope="module")
def roles(moto: str) -> Iterator[Roles]:
    requests.post(f"{moto}/moto-api/reset", timeout=10)
    found = Roles(moto)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("moto.iam.access_control.S3IAMRequest", PresignedRequest)
        # AWS asks for s3:ListBucket here; there is no s3:HeadBucket.
        patch.setitem(ACTION_MAP["BUCKET"]["HEAD"], "DEFAULT", "ListBucket")
        # From here on moto asks for permission.
        patch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0.0)
        found.storage("operator").create_buckets(("https://app.example.com",))
        yield found


def put_original(roles: Roles, role: str = "web") -> str:
    """Store an original as an upload URL does, with the key that signed it."""
    etag: str = roles.client(role).put_object(
        Bucket=RAW, Key=RAW_KEY, Body=jpeg(), ContentType="image/jpeg"
    )["ETag"]
    return etag


def test_the_policies_are_enough_for_a_whole_life(roles: Roles):
    web, listener, worker = (roles.storage(role) for role in ("web", "listener", "worker"))
    web.ping()
    with pytest.raises(ObjectNotFound):
        web.inspect_upload(RAW_KEY, with_checksum=False)
    with pytest.raises(ObjectNotFound):
        worker.read_original(RAW_KEY, etag='"x"')
    etag = put_original(roles)
    assert web.inspect_upload(RAW_KEY, with_checksum=True).etag == etag
    assert worker.read_original(RAW_KEY, etag=etag)
    worker.write_public(f"{PUBLIC_PREFIX}main.webp", b"RIFF", content_type="image/webp")
    assert listener.purge(raw_key=RAW_KEY, public_prefix=PUBLIC_PREFIX)
    for role in ("web", "listener", "operator"):
        assert list(roles.storage(role).list_objects(PUBLIC)) == []


FORBIDDEN: dict[str, dict[str, Callable[[Any], object]]] = {
    "web": {
        "delete an original": lambda s3: s3.delete_object(Bucket=RAW, Key=RAW_KEY),
        "delete a rendition": lambda s3: s3.delete_object(Bucket=PUBLIC, Key="media/x"),
        "write a rendition": lambda s3: s3.put_object(Bucket=PUBLIC, Key="media/x", Body=b""),
        "write elsewhere": lambda s3: s3.put_object(Bucket=RAW, Key="x", Body=b""),
        "set a policy": lambda s3: s3.put_bucket_policy(Bucket=PUBLIC, Policy="{}"),
    },
    "listener": {
        "write an original": lambda s3: s3.put_object(Bucket=RAW, Key=RAW_KEY, Body=b""),
        "write a rendition": lambda s3: s3.put_object(Bucket=PUBLIC, Key="media/x", Body=b""),
        "delete elsewhere": lambda s3: s3.delete_object(Bucket=PUBLIC, Key="index.html"),
        "delete a bucket": lambda s3: s3.delete_bucket(Bucket=PUBLIC),
    },
    "worker": {
        "write an original": lambda s3: s3.put_object(Bucket=RAW, Key=RAW_KEY, Body=b""),
        "delete an original": lambda s3: s3.delete_object(Bucket=RAW, Key=RAW_KEY),
        "delete a rendition": lambda s3: s3.delete_object(Bucket=PUBLIC, Key="media/x"),
        "write elsewhere": lambda s3: s3.put_object(Bucket=PUBLIC, Key="index.html", Body=b""),
        "list renditions": lambda s3: s3.list_objects_v2(Bucket=PUBLIC),
        "set CORS": lambda s3: s3.put_bucket_cors(
            Bucket=RAW,
            CORSConfiguration={"CORSRules": [{"AllowedOrigins": ["*"], "AllowedMethods": ["PUT"]}]},
        ),
    },
}


@pytest.mark.parametrize("role", FORBIDDEN)
def test_no_role_may_do_anothers_work(roles: Roles, role: str):
    client = roles.client(role)
    for deed, attempt in FORBIDDEN[role].items():
        with pytest.raises(ClientError) as raised:
            attempt(client)
        assert raised.value.response["Error"]["Code"] == "AccessDenied", deed


def test_a_role_without_its_policy_can_do_nothing(roles: Roles):
    """Or else the test above would prove nothing of the policies."""
    with pytest.raises(StoreUnavailable):
        roles.storage("worker").purge(raw_key=RAW_KEY, public_prefix=PUBLIC_PREFIX)


def test_no_policy_has_wildcards_for_actions_or_buckets():
    files = sorted(POLICIES.glob("s3-*.json"))
    assert {path.stem for path in files} == {f"s3-{role}" for role in ROLES}
    for path in files:
        for statement in json.loads(path.read_text())["Statement"]:
            for name in ("Action", "Resource"):
                values = statement[name]
                for value in [values] if isinstance(values, str) else values:
                    assert "*" not in value.removesuffix("/*"), (path.name, value)


# PostgreSQL


@pytest.fixture(scope="module")
def database_urls(
    postgresql: PostgreSQL, make_database: Callable[..., AbstractContextManager[str]]
) -> Iterator[dict[str, str]]:
    """A migrated database as each role sees it, with its grants and nothing more."""
    roles = ("web", "listener")
    with make_database("template1") as url:
        settings = Settings.from_environ(environment(DATABASE_URL=url))
        app = create_app(settings, with_commands=True)
        with app.app_context():
            flask_migrate.upgrade()
        app.extensions["media"].lifecycle.rows.engine.dispose()
        name, password = url.rpartition("/")[2], uuid4().hex
        with postgresql.connect(name) as connection:
            for role in roles:
                connection.execute(f"CREATE ROLE media_{role} LOGIN PASSWORD '{password}'")
            connection.execute((POLICIES / "postgresql.sql").read_bytes())
        yield {
            role: f"postgresql://media_{role}:{password}@127.0.0.1:{postgresql.port}/{name}"
            for role in roles
        }
    with postgresql.connect() as connection:
        for role in roles:
            connection.execute(f"DROP ROLE media_{role}")


def test_the_grants_are_enough_for_a_whole_life(
    make_world: Callable[..., World], database_urls: dict[str, str]
):
    web, listener = (make_world(DATABASE_URL=database_urls[role]) for role in ("web", "listener"))
    media_id = web.completed()
    expired = web.pending()
    listener.age(expired, days=1)
    assert [claim.job.media_id for claim in listener.processing.claim(10)] == [media_id]
    assert listener.apply(processed(media_id)) == ["applied"]
    assert listener.uploads.expire(10) == 1
    assert listener.processing.give_up(10) == 0
    assert listener.deletion.retire(10) == 0
    for gone in (media_id, expired):
        web.delete(gone)
    assert listener.purge_due() == 2
    for gone in (media_id, expired):
        listener.age(gone, days=2)
    assert listener.purge_due() == 2
    assert web.count() == 0
    assert all(work.count == 0 for work in listener.lifecycle.statistics.due().values())
    for probe in database_probes(listener.engine, PROJECT / "migrations"):
        assert probe.run()


def test_no_role_changes_tables_and_only_the_listener_deletes_rows(database_urls: dict[str, str]):
    deeds = {role: ["DROP TABLE media", "TRUNCATE media"] for role in database_urls}
    deeds["web"].append("DELETE FROM media")
    for role, statements in deeds.items():
        with psycopg.connect(database_urls[role], autocommit=True) as connection:
            for statement in statements:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)


# RabbitMQ


@pytest.fixture(scope="module")
def broker_urls(rabbitmq: RabbitMQ, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A user with a role's permissions and nothing more, for each role, in a vhost of their own."""
    vhost, password = "policies", uuid4().hex
    permissions = json.loads((POLICIES / "rabbitmq.json").read_text())
    for entry in permissions["permissions"] + permissions["topic_permissions"]:
        entry["vhost"] = vhost
    users = sorted({entry["user"] for entry in permissions["permissions"]})
    definitions = permissions | {
        "vhosts": [{"name": vhost}],
        "users": [{"name": user, "password": password, "tags": ""} for user in users],
    }
    path: Path = tmp_path_factory.mktemp("rabbitmq") / "definitions.json"
    path.write_text(json.dumps(definitions))
    rabbitmq.control("import_definitions", str(path))
    assert users == ["media-listener", "media-operator", "media-worker"]
    return {
        user.removeprefix("media-"): f"amqp://{user}:{password}@127.0.0.1:{rabbitmq.port}/{vhost}"
        for user in users
    }


@pytest.mark.parametrize(
    ("role", "queue", "may", "may_not"),
    [
        ("listener", RESULTS_QUEUE, [MEDIA_PROCESS], [MEDIA_PROCESSED, MEDIA_FAILED, "x"]),
        ("worker", PROCESS_QUEUE, [MEDIA_PROCESSED, MEDIA_FAILED], [MEDIA_PROCESS, "x"]),
        ("operator", DEAD_LETTER_QUEUE, [MEDIA_PROCESS, MEDIA_PROCESSED, MEDIA_FAILED], ["x"]),
    ],
)
def test_a_role_declares_consumes_and_publishes_its_own_messages_alone(
    broker_urls: dict[str, str], role: str, queue: str, may: list[str], may_not: list[str]
):
    connection = pika.BlockingConnection(pika.URLParameters(broker_urls[role]))
    channel = connection.channel()
    declare_topology(channel)
    channel.confirm_delivery()
    channel.basic_get(queue, auto_ack=True)
    for routing_key in may:
        channel.basic_publish("media", routing_key, b"{}", mandatory=True)
    channel.basic_publish("media.dead", "x", b"{}", mandatory=True)
    for exchange, routing_key in [("media", key) for key in may_not] + [("", queue)]:
        refused = connection.channel()
        refused.confirm_delivery()
        with pytest.raises(ChannelClosedByBroker) as raised:
            refused.basic_publish(exchange, routing_key, b"{}", mandatory=True)
        assert raised.value.reply_code == 403
    for declare in (
        lambda c: c.queue_declare("mine"),
        lambda c: c.exchange_declare("mine"),
        lambda c: c.exchange_declare("amq.topic", "topic", passive=False, durable=True),
    ):
        refused = connection.channel()
        with pytest.raises(ChannelClosedByBroker) as raised:
            declare(refused)
        assert raised.value.reply_code == 403
    connection.close()


def test_a_job_that_may_not_be_published_is_counted_as_refused(broker_urls: dict[str, str]):
    broker = RabbitMQBroker(broker_urls["worker"], queue=PROCESS_QUEUE, prefetch=1)
    jobs = [Publication(SAMPLE_JOB), Publication(SAMPLE_JOB)]
    with grows("media_broker_publishes_total", outcome="refused"):
        assert broker.publish(jobs) == jobs
    broker.close()


def test_whoever_requeues_needs_the_operators_user(broker_urls: dict[str, str]):
    connection = pika.BlockingConnection(pika.URLParameters(broker_urls["worker"]))
    channel = connection.channel()
    declare_topology(channel)
    channel.queue_purge(DEAD_LETTER_QUEUE)
    for name in ("one", "two"):
        dead = pika.BasicProperties(message_id=name)
        channel.confirm_delivery()
        channel.basic_publish("media.dead", MEDIA_PROCESS, b"{}", dead)
    with BrokerAdmin(broker_urls["worker"]) as admin:
        refused = [(letter.id, reason) for letter, reason in admin.requeue(None)]
    assert [name for name, _ in refused] == ["one", "two"]
    assert all("ACCESS_REFUSED" in reason for _, reason in refused)
    with BrokerAdmin(broker_urls["operator"]) as admin:
        assert [(letter.id, reason) for letter, reason in admin.requeue(None)] == [
            ("one", None),
            ("two", None),
        ]
    connection.close()


# What docs/security.md says


def test_every_test_that_is_said_to_hold_a_threat_is_there():
    text = (PROJECT / "docs" / "security.md").read_text()
    short = {"S": "tests/security", "W": "tests/worker", "tests": "tests"}
    named = re.findall(r"`(S|W|tests)/(test_\w+\.py)`", text)
    assert len(named) > 30
    assert [name for folder, name in named if not (PROJECT / short[folder] / name).exists()] == []
    ours = {path.name for path in (PROJECT / "tests" / "security").glob("test_*.py")}
    assert ours <= {name for _, name in named}
