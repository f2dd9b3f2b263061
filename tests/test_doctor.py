"""The doctor finds a good service good, and each fault that is planted in one.

SeaweedFS keeps every promise. moto, which verifies hardly anything, stands for the stores that
accept what protects an upload and do not act on it.
"""

import json
from contextlib import closing
from datetime import UTC, datetime, timedelta

import boto3
import flask_migrate
import pika
import pytest
import requests

from config.settings import Settings
from mediaservice import PROJECT, create_app
from mediaservice.broker import PROCESS_QUEUE
from mediaservice.broker.connection import create_topology
from mediaservice.doctor import Verdict, examine_servers, examine_service
from tests.builders import ORIGIN, environment

OTHER_ORIGIN = "https://admin.example.com"
MIGRATIONS = PROJECT / "migrations"


class Patient:
    """One service, and the outcome of the last examination."""

    def __init__(self, environ):
        self.settings = Settings.from_environ(environ)
        self.app = create_app(self.settings, with_commands=True)
        self.parts = self.app.extensions["media"]
        self.storage = self.parts.storage
        self.checks = {}

    def migrate(self):
        with self.app.app_context():
            flask_migrate.upgrade()

    def examine(self):
        checks = examine_service(
            self.settings, self.storage, self.parts.lifecycle, migrations=MIGRATIONS
        )
        self.checks = {check.name: check for check in checks}

    def examine_services(self, now=None):
        """Examine all but the store."""
        checks = examine_servers(
            self.settings,
            self.parts.lifecycle.rows,
            migrations=MIGRATIONS,
            store_ahead_seconds=None,
            now=now,
        )
        self.checks = {check.name: check for check in checks}

    def verdict(self, name):
        return self.checks[name].verdict

    @property
    def not_ok(self):
        return {
            name: check.verdict.value
            for name, check in self.checks.items()
            if check.verdict is not Verdict.OK
        }

    def keys(self):
        buckets = (self.storage.raw_bucket, self.storage.public_bucket)
        return [found.key for bucket in buckets for found in self.storage.list_objects(bucket)]

    def close(self):
        self.parts.lifecycle.rows.engine.dispose()


def admit(folder, seaweedfs, buckets, **variables):
    """Return a patient whose database has nothing in it, and whose buckets are as they should."""
    patient = Patient(
        environment(
            DATABASE_URL=f"sqlite:///{folder / 'empty.sqlite'}",
            WEB_ORIGINS=f"{ORIGIN},{OTHER_ORIGIN}",
        )
        | seaweedfs.variables
        | {"CDN_BASE_URL": f"{seaweedfs.endpoint}/{buckets['S3_PUBLIC_BUCKET']}"}
        | buckets
        | variables
    )
    patient.storage.create_buckets(patient.settings.web_origins)
    return patient


@pytest.fixture
def make_patient(tmp_path, seaweedfs, buckets):
    made = []

    def make(**variables):
        made.append(admit(tmp_path, seaweedfs, buckets, **variables))
        return made[-1]

    yield make
    for patient in made:
        patient.close()


@pytest.fixture
def patient(make_patient):
    return make_patient()


@pytest.fixture(scope="module")
def unmigrated(tmp_path_factory, seaweedfs, module_buckets):
    """An examination of a patient that is well but for its database."""
    with closing(admit(tmp_path_factory.mktemp("doctor"), seaweedfs, module_buckets)) as patient:
        patient.examine()
        yield patient


@pytest.fixture
def examine_services(environ):
    """Examine database, broker and clocks of a patient that has no store."""

    def examine_services(behind=None, **variables):
        with closing(Patient(environ | variables)) as patient:
            patient.examine_services(None if behind is None else datetime.now(UTC) - behind)
        return patient

    return examine_services


# in good health


def test_a_good_store_keeps_every_promise(patient):
    patient.migrate()
    patient.examine()
    assert patient.not_ok == {"broker": "skipped", "broker_topology": "skipped"}
    assert len(patient.checks) == 25


def test_nothing_is_left_behind(unmigrated):
    assert unmigrated.keys() == []


def test_a_service_on_real_servers_is_healthy(make_patient, postgresql_url, rabbitmq):
    create_topology(rabbitmq.url)
    patient = make_patient(DATABASE_URL=postgresql_url, BROKER_URL=rabbitmq.url)
    with patient.app.app_context():
        flask_migrate.stamp()
    patient.examine()
    assert patient.not_ok == {}


def test_without_origins_cors_is_not_tried_for_ours(make_patient):
    patient = make_patient(WEB_ORIGINS="")
    patient.examine()
    assert patient.verdict("cors") is Verdict.SKIPPED
    assert patient.verdict("cors_foreign") is Verdict.OK


def test_a_store_that_calls_missing_objects_something_else_is_found_out(patient, monkeypatch):
    monkeypatch.setattr("mediaservice.s3._MISSING", ("NoSuchObject",))
    patient.examine()
    assert patient.verdict("delete") is Verdict.FAILED
    assert "HTTP 404 NoSuchKey" in patient.checks["delete"].found


def test_every_fault_comes_with_what_to_do(unmigrated):
    assert all(
        bool(check.remedy) == (check.verdict in (Verdict.FAILED, Verdict.WARNING))
        for check in unmigrated.checks.values()
    )


# faults of the store's set-up


def allow(store_client, bucket, *actions):
    statement = {"Effect": "Allow", "Principal": "*", "Action": list(actions)}
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    policy = {"Version": "2012-10-17", "Statement": [{**statement, "Resource": resources}]}
    store_client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))


def test_readable_originals_are_found(patient, store_client):
    allow(store_client, patient.storage.raw_bucket, "s3:GetObject")
    patient.examine()
    assert patient.not_ok.keys() >= {"raw_private"}
    assert "GET: HTTP 200" in patient.checks["raw_private"].found


def test_a_public_bucket_that_anybody_may_list_is_found(patient, store_client):
    allow(store_client, patient.storage.public_bucket, "s3:GetObject", "s3:ListBucket")
    patient.examine()
    assert patient.verdict("public_closed") is Verdict.FAILED
    assert patient.verdict("cdn") is Verdict.OK


def test_a_closed_public_bucket_is_a_fault_where_it_is_the_cdn(patient, store_client):
    store_client.delete_bucket_policy(Bucket=patient.storage.public_bucket)
    patient.examine()
    assert patient.verdict("cdn") is Verdict.FAILED
    assert patient.verdict("public_read") is Verdict.WARNING


@pytest.mark.parametrize("cdn", ["http://127.0.0.1:9", "http://127.0.0.1:9/public"])
def test_a_cdn_that_is_not_there_is_found(make_patient, cdn):
    patient = make_patient(CDN_BASE_URL=cdn)
    patient.examine()
    assert patient.verdict("cdn") is Verdict.FAILED
    assert "Connection refused" in patient.checks["cdn"].found


def test_a_cdn_of_another_bucket_is_found(make_patient, seaweedfs):
    patient = make_patient(CDN_BASE_URL=f"{seaweedfs.endpoint}/public")
    patient.examine()
    assert patient.checks["cdn"].found.startswith("HTTP 4")


def set_cors(store_client, bucket, **rule):
    rules = [{"AllowedMethods": ["PUT"], "AllowedHeaders": ["*"], "AllowedOrigins": ["*"], **rule}]
    store_client.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": rules})


def test_cors_for_everybody_is_found(patient, store_client):
    set_cors(store_client, patient.storage.raw_bucket)
    patient.examine()
    assert patient.verdict("cors") is Verdict.OK
    assert patient.verdict("cors_foreign") is Verdict.FAILED


@pytest.mark.parametrize(
    ("rule", "fault"),
    [
        ({"AllowedOrigins": [ORIGIN]}, f"{OTHER_ORIGIN} is not allowed"),
        ({"AllowedHeaders": ["content-type"]}, ORIGIN),
        ({"AllowedMethods": ["GET"]}, ORIGIN),
    ],
    ids=["origins", "headers", "methods"],
)
def test_cors_that_would_stop_our_own_pages_is_found(patient, store_client, rule, fault):
    origins = {"AllowedOrigins": [ORIGIN, OTHER_ORIGIN]}
    set_cors(store_client, patient.storage.raw_bucket, **{**origins, **rule})
    patient.examine()
    assert patient.verdict("cors") is Verdict.FAILED
    assert fault in patient.checks["cors"].found


@pytest.mark.parametrize("status", ["Enabled", "Suspended"])
def test_a_bucket_that_may_keep_versions_is_a_warning(patient, store_client, status):
    store_client.put_bucket_versioning(
        Bucket=patient.storage.raw_bucket, VersioningConfiguration={"Status": status}
    )
    patient.examine()
    assert patient.verdict("no_versions") is Verdict.WARNING
    assert f"versioning is {status} in" in patient.checks["no_versions"].found
    versions = store_client.list_object_versions(Bucket=patient.storage.raw_bucket)
    for found in versions.get("Versions", []) + versions.get("DeleteMarkers", []):
        store_client.delete_object(
            Bucket=patient.storage.raw_bucket, Key=found["Key"], VersionId=found["VersionId"]
        )


@pytest.mark.parametrize(
    "fault",
    [
        {"S3_ENDPOINT": "http://127.0.0.1:9"},
        {"S3_SECRET_ACCESS_KEY": "wrong"},
        {"S3_RAW_BUCKET": "no-such-bucket"},
    ],
    ids=["away", "keys", "bucket"],
)
def test_a_store_that_cannot_be_reached_is_one_fault_and_the_rest_is_skipped(
    environ, seaweedfs, tmp_path, fault
):
    database = {"DATABASE_URL": f"sqlite:///{tmp_path / 'empty.sqlite'}"}
    patient = Patient({**environ, **seaweedfs.variables, **database, **fault})
    patient.migrate()
    patient.examine()
    patient.close()
    verdicts = {name: check.verdict for name, check in patient.checks.items()}
    assert [name for name, verdict in verdicts.items() if verdict is Verdict.FAILED] == ["store"]
    assert verdicts["upload"] is verdicts["delete"] is Verdict.SKIPPED
    assert verdicts["database"] is verdicts["migrations"] is Verdict.OK


def test_refusals_count_for_nothing_where_nothing_can_be_uploaded(make_patient):
    """Browsers reach the store under another name, and here nobody does."""
    patient = make_patient(S3_PUBLIC_ENDPOINT="http://127.0.0.1:9")
    patient.examine()
    assert patient.verdict("upload") is Verdict.FAILED
    assert Verdict.OK not in {
        patient.verdict(name)
        for name in ("upload_length", "upload_type", "upload_once", "upload_expiry", "raw_private")
    }
    assert patient.verdict("delete") is Verdict.OK


# faults of database, broker and clocks


def test_a_database_without_the_migrations_is_found(unmigrated):
    assert unmigrated.verdict("database") is Verdict.OK
    assert unmigrated.verdict("migrations") is Verdict.FAILED
    assert unmigrated.checks["migrations"].found.startswith("applied: none")
    assert "db upgrade" in unmigrated.checks["migrations"].remedy


def test_a_database_that_is_away_is_found(examine_services):
    patient = examine_services(DATABASE_URL="postgresql://media:media@127.0.0.1:9/media")
    assert patient.verdict("database") is Verdict.FAILED
    assert patient.verdict("migrations") is Verdict.SKIPPED
    assert patient.verdict("clocks") is Verdict.SKIPPED, "it is one fault"
    assert "\n" not in patient.checks["database"].found


def test_a_broker_that_is_away_is_found(examine_services):
    patient = examine_services(BROKER_URL="amqp://guest:guest@127.0.0.1:9/")
    assert patient.verdict("broker") is Verdict.FAILED
    assert patient.verdict("broker_topology") is Verdict.SKIPPED


def test_a_queue_with_other_arguments_is_found(examine_services, rabbitmq):
    create_topology(rabbitmq.url)
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url)) as connection:
        channel = connection.channel()
        channel.queue_delete(PROCESS_QUEUE)
        channel.queue_declare(PROCESS_QUEUE, durable=True)
        patient = examine_services(BROKER_URL=rabbitmq.url)
        channel.queue_delete(PROCESS_QUEUE)
    assert patient.verdict("broker_topology") is Verdict.FAILED
    assert PROCESS_QUEUE in patient.checks["broker_topology"].found


@pytest.mark.parametrize(
    ("behind", "verdict"),
    [
        (timedelta(0), Verdict.OK),
        (timedelta(minutes=1), Verdict.WARNING),
        (timedelta(hours=1), Verdict.FAILED),
        (timedelta(hours=-1), Verdict.FAILED),
    ],
)
def test_a_clock_that_is_off_is_found(examine_services, behind, verdict):
    patient = examine_services(behind)
    assert patient.verdict("clocks") is verdict


# a store that enforces little


@pytest.fixture(scope="module")
def careless(moto, tmp_path_factory):
    """An examination of moto."""
    requests.post(f"{moto}/moto-api/reset", timeout=10)
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test-secret"}
    client = boto3.client("s3", endpoint_url=moto, region_name="us-east-1", **keys)
    for bucket in ("raw", "public"):
        client.create_bucket(Bucket=bucket)
    patient = Patient(
        {
            "APP_ENV": "development",
            "AUTH_MODE": "development",
            "DATABASE_URL": f"sqlite:///{tmp_path_factory.mktemp('doctor') / 'empty.sqlite'}",
            "BROKER_URL": "inline:",
            "S3_ENDPOINT": moto,
            "S3_ACCESS_KEY_ID": "test",
            "S3_SECRET_ACCESS_KEY": "test-secret",
            "S3_RAW_BUCKET": "raw",
            "S3_PUBLIC_BUCKET": "public",
            "CDN_BASE_URL": f"{moto}/public",
            "WEB_ORIGINS": ORIGIN,
        }
    )
    patient.storage.create_buckets(patient.settings.web_origins)
    patient.examine()
    yield patient
    patient.close()


@pytest.mark.parametrize(
    "name",
    [
        "signature",
        "upload_length",
        "upload_type",
        "upload_condition",
        "upload_copy",
        "upload_checksum",
        "upload_expiry",
        "raw_private",
        "public_closed",
        "cors_foreign",
    ],
)
def test_what_a_careless_store_does_not_enforce_is_told(careless, name):
    check = careless.checks[name]
    assert check.verdict is Verdict.FAILED
    assert check.found
    assert check.remedy


@pytest.mark.parametrize("name", ["store", "presign_sigv4", "upload", "cdn", "delete"])
def test_what_a_careless_store_does_is_told_too(careless, name):
    assert careless.verdict(name) is Verdict.OK


def test_nothing_is_left_in_a_careless_store(careless):
    assert careless.keys() == []
