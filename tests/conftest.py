"""The real servers, one of each for a process that tests, started when a test first asks for them.

A server that cannot be had fails the tests that need it, with the line that says how to get it.
"""

import functools
import gc
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import hypothesis
import pika
import pytest
from botocore.loaders import create_loader
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from flask import Flask
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from config.settings import Settings
from devstack.postgresql import PostgreSQL
from devstack.rabbitmq import RabbitMQ
from devstack.seaweedfs import SeaweedFS
from mediaservice import create_app
from mediaservice.broker import RESULTS_QUEUE
from mediaservice.broker.rabbitmq import RabbitMQBroker
from mediaservice.database import create_database_engine
from mediaservice.listener import Listener
from mediaservice.models import Media
from tests.builders import environment
from tests.chaos.proxy import Proxy
from tests.queues import empty
from tests.service import Service
from tests.world import SETTINGS, World

SHAPE = """
    SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace),
           (SELECT count(*) FROM pg_constraint WHERE connamespace = 'public'::regnamespace),
           (SELECT count(*) FROM pg_statistic WHERE starelid = 'public.media'::regclass)"""
END_OTHER_SESSIONS = """
    SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()"""
SERVICE_FIXTURES = {"postgresql", "rabbitmq", "seaweedfs", "browser"}


def pytest_configure() -> None:
    """Keep out the tester's environment, proxies before loopback, and how busy this machine is."""
    gc.disable()  # until all is collected: what stays to the end would be gone through many times
    for name in list(os.environ):
        if name.startswith(("S3_", "JWT_", "AUTH_", "AWS_")):
            del os.environ[name]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    # Hypothesis would fail an example that takes 200 ms, as any may on a busy machine.
    hypothesis.settings.register_profile("untimed", deadline=None, print_blob=True)
    hypothesis.settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SERVICE_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    # The longest goes first: as the last one it would have a core to itself.
    items.sort(key=lambda item: item.path.parent.name != "chaos")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def botocore_loader() -> Iterator[None]:
    """One loader for all of boto3's sessions: each would read megabytes of JSON for its client."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.session.create_loader", functools.cache(create_loader))
        yield


@pytest.fixture(scope="session")
def servers_directory() -> Iterator[Path]:
    # Not pytest's own: PostgreSQL, which root must start as another user, could not reach that.
    directory = Path(tempfile.mkdtemp(prefix="media-tests-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def seaweedfs(servers_directory: Path) -> Iterator[SeaweedFS]:
    server = SeaweedFS(servers_directory / "seaweedfs")
    server.start()
    yield server
    server.kill()  # nobody wants its data


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The address of moto, which verifies nothing and needs no server; its state is this process's.

    Whoever needs it empty posts to its /moto-api/reset.
    """
    from moto.server import ThreadedMotoServer  # half a second, which not all processes need

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture(scope="session")
def make_buckets(store_client: Any) -> Callable[[], AbstractContextManager[dict[str, str]]]:
    """Make two buckets, which are there as long as the context of their variables."""

    @contextmanager
    def make() -> Iterator[dict[str, str]]:
        raw, public = f"raw-{uuid.uuid4()}", f"public-{uuid.uuid4()}"
        names = {"S3_RAW_BUCKET": raw, "S3_PUBLIC_BUCKET": public}
        for name in names.values():
            store_client.create_bucket(Bucket=name)
        yield names
        for name in names.values():
            empty_bucket(store_client, name)
            store_client.delete_bucket(Bucket=name)

    return make


def empty_bucket(client: Any, name: str) -> None:
    found = client.list_objects_v2(Bucket=name).get("Contents", [])
    if found:
        keys = [{"Key": one["Key"]} for one in found]
        client.delete_objects(Bucket=name, Delete={"Objects": keys})


@pytest.fixture
def buckets(make_buckets: Callable[..., Any]) -> Iterator[dict[str, str]]:
    """The variables of two buckets of this test's own, for what changes more than their objects."""
    with make_buckets() as names:
        yield names


@pytest.fixture(scope="module")
def module_buckets(make_buckets: Callable[..., Any]) -> Iterator[dict[str, str]]:
    """The variables of two buckets of the module's own; `own_store_environ` empties them."""
    with make_buckets() as names:
        yield names


@pytest.fixture(scope="session")
def postgresql(servers_directory: Path) -> Iterator[PostgreSQL]:
    with PostgreSQL(servers_directory / "postgresql") as server:
        with server.connect() as connection:
            connection.execute("CREATE DATABASE media_template")
        engine = create_database_engine(server.url_of("media_template"))
        Media.metadata.create_all(engine)
        engine.dispose()
        yield server


@pytest.fixture(scope="session")
def make_database(postgresql: PostgreSQL) -> Callable[..., AbstractContextManager[str]]:
    """Make a database, which is there as long as its URL's context.

    By default with the empty table in it; `template1` has nothing.
    """

    @contextmanager
    def make(template: str = "media_template") -> Iterator[str]:
        name = f"module_{uuid.uuid4().hex}"
        with postgresql.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield postgresql.url_of(name)
        with postgresql.connect() as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    return make


@pytest.fixture(scope="session")
def new_shape(postgresql: PostgreSQL) -> Any:
    """What SHAPE tells of a new database."""
    with postgresql.connect("media_template") as connection:
        return connection.execute(SHAPE).fetchone()


@pytest.fixture(scope="session")
def spare_databases() -> list[str]:
    """Databases that nobody uses and that are as new: making one takes longer than many a test."""
    return []


@pytest.fixture
def postgresql_url(
    postgresql: PostgreSQL, new_shape: Any, spare_databases: list[str]
) -> Iterator[str]:
    """A database of this test's own, with the empty table in it."""
    if spare_databases:
        name = spare_databases.pop()
    else:
        name = f"media_{uuid.uuid4().hex}"
        with postgresql.connect() as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE media_template")
    yield postgresql.url_of(name)
    with postgresql.connect(name) as connection:
        connection.execute(END_OTHER_SESSIONS)
        connection.execute("TRUNCATE media")
        connection.execute("SELECT pg_stat_reset()")
        # Nobody else is given one whose tables, constraints or statistics a test has changed.
        if connection.execute(SHAPE).fetchone() == new_shape:
            spare_databases.append(name)


@pytest.fixture(scope="session")
def make_sqlite_url(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """Make database files, each with the table in it."""
    folder = tmp_path_factory.mktemp("sqlite")
    template = folder / "template"
    engine = create_database_engine(f"sqlite:///{template}")
    Media.metadata.create_all(engine)
    engine.dispose()
    return lambda: f"sqlite:///{shutil.copy(template, folder / uuid.uuid4().hex)}"


@pytest.fixture
def sqlite_url(make_sqlite_url: Callable[[], str]) -> str:
    """A database file of this test's own, with the table in it."""
    return make_sqlite_url()


@pytest.fixture(scope="session")
def rabbitmq(servers_directory: Path) -> Iterator[RabbitMQ]:
    with RabbitMQ(servers_directory / "rabbitmq") as server:
        yield server


@pytest.fixture
def amqp(rabbitmq: RabbitMQ) -> Iterator[BlockingChannel]:
    """A channel of an onlooker, over the topology with empty queues."""
    connection = pika.BlockingConnection(pika.URLParameters(rabbitmq.url))
    channel = connection.channel()
    empty(channel)
    yield channel
    with suppress(AMQPError):  # a test may have killed the server
        connection.close()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the key and the certificate of 127.0.0.1, which vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "media")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "media.pem"
    form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(key.private_bytes(*form) + made.public_bytes(Encoding.PEM))
    return path


@pytest.fixture
def make_proxy() -> Iterator[Callable[[int], Proxy]]:
    """Make proxies to ports, whose connections can be cut, stalled or refused."""
    made = []

    def make(target_port: int) -> Proxy:
        made.append(Proxy(target_port))
        return made[-1]

    yield make
    for proxy in made:
        proxy.close()


@pytest.fixture(scope="module")
def sqlite_app(make_sqlite_url: Callable[[], str]) -> Iterator[Flask]:
    """An application without servers, a module's: making one takes longer than many a test."""
    app = create_app(Settings.from_environ(environment(DATABASE_URL=make_sqlite_url())))
    yield app
    app.extensions["media"].lifecycle.rows.engine.dispose()


@pytest.fixture
def environ(sqlite_url: str) -> dict[str, str]:
    """Environment variables of a complete development configuration without servers."""
    return environment(DATABASE_URL=sqlite_url)


@pytest.fixture
def settings(environ: dict[str, str]) -> Settings:
    return Settings.from_environ(environ)


@pytest.fixture(scope="session")
def store_client(seaweedfs: SeaweedFS) -> Any:
    """The onlooker's boto3 client; making one takes as long as many a test."""
    return seaweedfs.client()


@pytest.fixture
def database_url(postgresql_url: str) -> str:
    """Where worlds keep their rows; a test module may choose otherwise."""
    return postgresql_url


@pytest.fixture
def store_environ(seaweedfs: SeaweedFS) -> dict[str, str]:
    """The variables of the store of worlds; a test module may choose `own_store_environ`."""
    return seaweedfs.variables


@pytest.fixture
def own_store_environ(
    seaweedfs: SeaweedFS, module_buckets: dict[str, str], store_client: Any
) -> Iterator[dict[str, str]]:
    """The variables of a store with nothing in it, for what looks at all there is."""
    yield {**seaweedfs.variables, **module_buckets}
    for name in module_buckets.values():
        empty_bucket(store_client, name)


@pytest.fixture
def make_world(
    environ: dict[str, str], database_url: str, store_environ: dict[str, str], store_client: Any
) -> Iterator[Callable[..., World]]:
    """Make worlds on one database and store."""
    made = []

    def make(**variables: str) -> World:
        service = {**environ, **store_environ, **SETTINGS}
        made.append(World({**service, "DATABASE_URL": database_url, **variables}, store_client))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest.fixture
def make_listener(amqp: BlockingChannel, rabbitmq: RabbitMQ) -> Iterator[Callable[..., Listener]]:
    """Make listeners over a world, on RabbitMQ or at another address."""
    made = []

    def make(world: World, url: str = rabbitmq.url) -> Listener:
        stopping = threading.Event()
        made.append(RabbitMQBroker(url, queue=RESULTS_QUEUE, prefetch=200, wait=stopping.wait))
        return Listener(world.lifecycle, made[-1], stopping, poll_seconds=0.02)

    yield make
    for broker in made:
        broker.close()


@pytest.fixture
def listener(make_listener: Callable[..., Listener], world: World) -> Listener:
    return make_listener(world)


@pytest.fixture(scope="module")
def running_service(
    postgresql: PostgreSQL,
    rabbitmq: RabbitMQ,
    seaweedfs: SeaweedFS,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Service]:
    name = f"service_{uuid.uuid4().hex}"
    with postgresql.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}")
    service = Service(
        tmp_path_factory.mktemp("service"),
        postgresql=postgresql,
        database=name,
        rabbitmq=rabbitmq,
        seaweedfs=seaweedfs,
    )
    try:
        service.start()
        yield service
    finally:
        service.stop()
    with postgresql.connect() as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def service(amqp: BlockingChannel, running_service: Service) -> Iterator[Service]:
    """The service's processes, whole, and queues without messages of other tests."""
    running_service.recover()
    yield running_service
    running_service.recover()
