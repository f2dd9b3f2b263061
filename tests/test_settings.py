"""Settings: every fault at once, no contradiction accepted, no secret shown."""

import dataclasses
import re

import pytest

from config.settings import MAX_IMAGE_BYTES, ConfigurationError, Settings, WorkerSettings
from mediaworker.renditions import MAX_INPUT_BYTES
from tests.builders import environment, production

STRONG = "k3Jv0sD8aQ1xZ7mN5bR2tY6uP4wE9cL0"


def faults_of(environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        Settings.from_environ(environ)
    return raised.value.faults


def test_all_missing_variables_are_reported_together():
    required = {
        field.name.upper()
        for field in dataclasses.fields(Settings)
        if field.default is dataclasses.MISSING
    }
    faults = faults_of({})
    # Without any setting tokens are HS256's, which need a secret.
    assert {fault.split()[0] for fault in faults} == required | {"JWT_SECRET"}
    assert {"S3_ENDPOINT", "DATABASE_URL", "BROKER_URL", "CDN_BASE_URL"} <= required


def test_missing_and_wrong_variables_are_reported_together():
    environ = environment(
        S3_ENDPOINT="ftp://store", MAX_ATTEMPTS="many", APP_ENV="staging", POLL_SECONDS="0"
    )
    del environ["CDN_BASE_URL"]
    faults = faults_of(environ)
    named = {fault.split(":")[0].split()[0] for fault in faults}
    wrong = {"S3_ENDPOINT", "MAX_ATTEMPTS", "APP_ENV", "POLL_SECONDS", "CDN_BASE_URL"}
    # An environment that is not known to be development has production's rules.
    assert named == wrong | {"S3_SECRET_ACCESS_KEY"}


@pytest.mark.parametrize("variable", ["S3_ENDPOINT", "CDN_BASE_URL", "BROKER_URL"])
@pytest.mark.parametrize("authority", ["[::1", "host:port", "host:99999", "user:hunt/er4@host"])
def test_an_address_that_cannot_be_read_is_a_fault_that_quotes_nothing(variable, authority):
    scheme = "amqp" if variable == "BROKER_URL" else "http"
    (fault,) = faults_of(environment(**{variable: f"{scheme}://{authority}/x"}))
    assert fault.startswith(f"{variable}: should be ")
    assert authority not in fault
    assert "hunt" not in fault


def test_a_database_url_that_cannot_be_read_is_a_fault_that_quotes_nothing():
    (fault,) = faults_of(environment(DATABASE_URL="postgresql://media:hunt[er4@db/media"))
    assert fault.startswith("DATABASE_URL: should be ")
    assert "hunt" not in fault


@pytest.mark.parametrize("hosts", ["host=/run/postgresql", "host=a:5432&host=b:5432"])
def test_a_database_may_be_reached_by_its_socket_or_at_several_hosts(hosts: str):
    url = f"postgresql:///media?{hosts}"
    settings = Settings.from_environ(environment(DATABASE_URL=url))
    assert settings.database_url == url.replace("postgresql", "postgresql+psycopg", 1)


def test_the_message_of_the_error_has_every_fault_on_its_own_line():
    environ = environment(S3_ENDPOINT="nowhere", MAX_ATTEMPTS="0")
    with pytest.raises(ConfigurationError) as raised:
        Settings.from_environ(environ)
    lines = str(raised.value).splitlines()
    assert sum(line.strip().startswith("- ") for line in lines) == 2


def test_an_empty_variable_counts_as_unset():
    settings = Settings.from_environ(environment(MAX_ATTEMPTS=" ", S3_PUBLIC_ENDPOINT=""))
    assert settings.max_attempts == 3
    assert settings.presign_endpoint == settings.s3_endpoint


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        ({"AUTH_MODE": "development"}, "AUTH_MODE=development"),
        ({"JWT_SECRET": ""}, "JWT_SECRET needs"),
        ({"JWT_SECRET": STRONG[:31]}, "JWT_SECRET needs"),
        ({"JWT_SECRET": "changeme" * 4 + "change"}, "JWT_SECRET looks like a placeholder"),
        ({"JWT_ALGORITHM": "RS256"}, "JWT_JWKS_URL is required"),
        ({"JWT_ALGORITHM": "ES256", "JWT_JWKS_URL": "http://id.example.com/k"}, "JWT_JWKS_URL"),
        ({"AUTH_MODE": "gateway"}, "GATEWAY_TOKEN needs"),
        ({"AUTH_MODE": "gateway", "GATEWAY_TOKEN": "x" * 40}, "GATEWAY_TOKEN looks like"),
        ({"AUTH_MODE": "gateway", "GATEWAY_TOKEN": "ключ" + STRONG}, "GATEWAY_TOKEN travels in"),
        ({"METRICS_TOKEN": STRONG[:31]}, "METRICS_TOKEN needs"),
        ({"S3_SECRET_ACCESS_KEY": "minioadmin"}, "S3_SECRET_ACCESS_KEY is short or well known"),
        ({"S3_SECRET_ACCESS_KEY": "123456789012345"}, "S3_SECRET_ACCESS_KEY is short"),
        ({"BROKER_URL": "amqp://guest:guest@mq.example.com/"}, "BROKER_URL has a well-known"),
        ({"DATABASE_URL": "postgresql://postgres:postgres@db/m"}, "DATABASE_URL has a well-known"),
        ({"S3_ENDPOINT": "http://store.example.com"}, "S3_ENDPOINT should be https"),
        ({"S3_PUBLIC_ENDPOINT": "http://s3.example.com"}, "S3_PUBLIC_ENDPOINT should be https"),
        ({"CDN_BASE_URL": "http://cdn.example.com"}, "CDN_BASE_URL should be https"),
        ({"DATABASE_URL": "sqlite:///media.db"}, "DATABASE_URL: SQLite"),
        ({"BROKER_URL": "inline:"}, "BROKER_URL=inline:"),
        ({"S3_PUBLIC_BUCKET": "raw"}, "S3_RAW_BUCKET and S3_PUBLIC_BUCKET"),
        ({"ALLOWED_CONTENT_TYPES": "image/png,image/svg+xml"}, "image/svg+xml"),
        ({"ALLOWED_CONTENT_TYPES": ","}, "an empty list"),
        ({"MAX_PENDING_BYTES": "20971519"}, "MAX_UPLOAD_BYTES must not exceed MAX_PENDING_BYTES"),
    ],
)
def test_production_refuses_a_contradiction(variables: dict[str, str], fault: str):
    faults = faults_of({**production(), **variables})
    assert len(faults) == 1
    assert fault in faults[0]


def test_missing_wrong_and_weak_variables_are_reported_together():
    environ = production(MAX_ATTEMPTS="many", RAW_RETENTION_DAYS="-1") | {
        "JWT_SECRET": "short",
        "BROKER_URL": "inline:",
        "S3_SECRET_ACCESS_KEY": "secret",
    }
    del environ["CDN_BASE_URL"]
    named = {re.split("[: =]", fault)[0] for fault in faults_of(environ)}
    expected = {"MAX_ATTEMPTS", "RAW_RETENTION_DAYS", "JWT_SECRET", "BROKER_URL", "CDN_BASE_URL"}
    assert named == expected | {"S3_SECRET_ACCESS_KEY"}


def test_contradictions_are_reported_together():
    faults = faults_of(
        production() | {"JWT_SECRET": "", "BROKER_URL": "inline:", "S3_PUBLIC_BUCKET": "raw"}
    )
    assert len(faults) == 3


def test_an_original_may_not_be_purged_while_its_upload_url_is_alive():
    """Its URL stores an object once: only as long as there is one under the key."""
    faults = faults_of(environment(RAW_RETENTION_DAYS="1", UPLOAD_URL_TTL_SECONDS="90000"))
    assert len(faults) == 1
    assert faults[0].startswith("RAW_RETENTION_DAYS")


def test_production_settings_are_accepted_without_a_fault():
    settings = Settings.from_environ(production())
    assert not settings.development
    assert settings.jwt_algorithm == "HS256"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql+psycopg://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("sqlite:///media.db", "sqlite:///media.db"),
    ],
)
def test_database_urls_as_platforms_give_them_are_understood(given: str, used: str):
    assert Settings.from_environ(environment(DATABASE_URL=given)).database_url == used


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_URL", "mysql://h/d"),
        ("DATABASE_URL", "postgresql://u:p@h1:5432,h2:5432/d"),
        ("BROKER_URL", "redis://h"),
        ("BROKER_URL", "inline"),
        ("BROKER_URL", "amqp://user@mq.example.com/"),
        ("S3_ENDPOINT", "https://"),
        ("S3_ENDPOINT", "s3.amazonaws.com"),
        ("CDN_BASE_URL", "cdn.example.com"),
        ("S3_ADDRESSING_STYLE", "auto"),
        ("JWT_ALGORITHM", "none"),
        ("UPLOAD_URL_TTL_SECONDS", "604801"),
        ("UPLOAD_URL_TTL_SECONDS", "0"),
        ("MAX_UPLOAD_BYTES", "67108865"),
        ("MAX_ATTEMPTS", "1.5"),
        ("LOG_LEVEL", "debug"),
        ("CDN_BASE_URL", "https://cdn.example.com/?v=1"),
        ("S3_ENDPOINT", "https://s3.example.com?"),
        ("S3_PUBLIC_ENDPOINT", "https://s3.example.com/#part"),
        ("WEB_ORIGINS", "https://app.example.com/"),
        ("WEB_ORIGINS", "https://app.example.com,https://app.example.com/path"),
        ("WEB_ORIGINS", "https://app.example.com?x"),
        ("WEB_ORIGINS", "https://user@app.example.com"),
        ("WEB_ORIGINS", "https://App.example.com"),
        ("WEB_ORIGINS", "https://app.example.com:port"),
        ("WEB_ORIGINS", "app.example.com"),
    ],
)
def test_a_wrong_value_names_its_variable(variable: str, value: str):
    faults = faults_of(environment(**{variable: value}))
    assert len(faults) == 1
    assert faults[0].startswith(f"{variable}: ")


def test_no_upload_is_accepted_that_the_worker_would_not_read():
    settings = Settings.from_environ(environment(MAX_UPLOAD_BYTES=str(MAX_INPUT_BYTES)))
    assert settings.max_upload_bytes == MAX_INPUT_BYTES == MAX_IMAGE_BYTES


def test_urls_lose_their_trailing_slash_and_lists_their_spaces():
    settings = Settings.from_environ(
        environment(
            CDN_BASE_URL="https://cdn.example.com/",
            WEB_ORIGINS="https://a.example.com, https://b.example.com,",
        )
    )
    assert settings.cdn_base_url == "https://cdn.example.com"
    assert settings.web_origins == ("https://a.example.com", "https://b.example.com")


@pytest.mark.parametrize(
    "origin",
    ["*", "http://localhost:3000", "http://[::1]:8000", "https://*.example.com", "app://localhost"],
)
def test_what_browsers_and_stores_know_as_an_origin_is_accepted(origin: str):
    assert Settings.from_environ(environment(WEB_ORIGINS=origin)).web_origins == (origin,)


def test_the_address_of_public_keys_may_have_a_query():
    """Some identity providers choose the keys by it."""
    url = "https://id.example.com/keys?policy=p1"
    environ = production(JWT_ALGORITHM="RS256", JWT_JWKS_URL=url)
    assert Settings.from_environ(environ).jwt_jwks_url == url


@pytest.mark.parametrize("kind", [Settings, WorkerSettings])
def test_no_secret_is_ever_shown(kind: type[Settings]):
    token = "gW7" + STRONG
    environ = production() | {
        "S3_SECRET_ACCESS_KEY": "very-secret-store-key",
        "AUTH_MODE": "gateway",
        "GATEWAY_TOKEN": token,
    }
    settings = kind.from_environ(environ)
    for shown in (repr(settings), str(settings), f"{settings}", f"{[settings]}"):
        for secret in ("very-secret-store-key", STRONG, "hunter2", "hunter3", token):
            assert secret not in shown
        assert "s3_raw_bucket='raw'" in shown


def test_no_secret_is_in_a_fault():
    faults = faults_of(
        production() | {"JWT_SECRET": "tiny-secret", "DATABASE_URL": "mysql://u:hunter2@db/media"}
    )
    assert not any("tiny-secret" in fault or "hunter2" in fault for fault in faults)


def test_settings_cannot_be_changed():
    settings = Settings.from_environ(environment())
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.max_attempts = 9  # type: ignore[misc]


def test_every_setting_has_a_description():
    for kind in (Settings, WorkerSettings):
        for field in dataclasses.fields(kind):
            assert field.metadata["description"].endswith(".")


def test_the_worker_needs_neither_database_nor_cdn():
    environ = production()
    del environ["DATABASE_URL"], environ["CDN_BASE_URL"], environ["JWT_SECRET"]
    assert WorkerSettings.from_environ(environ).max_image_pixels == 50_000_000
