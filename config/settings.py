"""The settings of every process: typed, frozen, read from the environment once, at start.

A field's name in capitals is its environment variable. All faults are reported together, each
naming the variable and what it should hold. docs/settings.md and .env.example follow this module; a
test holds them equal.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

IMAGE_CONTENT_TYPES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/gif",
    "image/avif",
    "image/heic",
    "image/heif",
)
MAX_IMAGE_BYTES = 64 * 1024**2  # the reference worker reads no larger ones
LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")
MIN_DIFFERENT_CHARACTERS = 8  # a random secret, even in hex, has more
MIN_SECRET_LENGTH = 32  # bytes; RFC 7518 section 3.2 asks for 256 bits with HS256
MAX_URL_TTL_SECONDS = 7 * 24 * 3600  # SigV4's limit on X-Amz-Expires

MIN_STORE_SECRET_LENGTH = 16  # characters; AWS's have 40
WELL_KNOWN_SECRETS = frozenset(
    ("admin", "changeme", "guest", "minioadmin", "password", "postgres", "root", "secret", "test")
)

_REQUIRED: Any = dataclasses.MISSING
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://([a-z0-9*._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_TOKEN = re.compile("[A-Za-z0-9._~+/=-]+")  # RFC 6750 section 2.1
_VARIABLE = re.compile(r"\b[A-Z0-9]+(?:_[A-Z0-9]+)+\b")


class ConfigurationError(Exception):
    """The environment does not describe a service that can start; `faults` has every reason."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(
            "The configuration is not usable:\n" + "\n".join(f"  - {fault}" for fault in faults)
        )
        self.faults = faults


def _setting(field: fields.Field[Any], description: str, default: Any = _REQUIRED) -> Any:
    return dataclasses.field(default=default, metadata={"field": field, "description": description})


def _number(minimum: int, maximum: int) -> fields.Integer:
    return fields.Integer(validate=validate.Range(minimum, maximum))


def _choice(*choices: str) -> fields.String:
    return fields.String(validate=validate.OneOf(choices))


def _has_address(url: str, *schemes: str) -> bool:
    """Return whether a URL has one of the schemes, a host and, if any, a port that is a number.

    A bare / in a password hides them; what urllib raises then would show a part of it.
    """
    try:
        parts = urlsplit(url)
        return parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_whole_login(url: str) -> bool:
    parts = urlsplit(url)
    return (parts.username is None) == (parts.password is None)


class _Url(fields.String):
    """An absolute URL of one of `schemes`, without a trailing slash."""

    def __init__(self, *schemes: str) -> None:
        super().__init__()
        self._schemes = schemes

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        url = str(super()._deserialize(value, *args, **kwargs)).rstrip("/")
        if not _has_address(url, *self._schemes):
            raise ValidationError(f"should be a URL like {self._schemes[0]}://host[:port]/…")
        return url


class _BaseUrl(_Url):
    """A URL that paths are appended to."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        url = super()._deserialize(value, *args, **kwargs)
        if "?" in url or "#" in url:
            raise ValidationError("should have neither ? nor #: paths are appended to it")
        return url


class _Words(fields.Field[tuple[str, ...]]):
    """A comma-separated list."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        return tuple(word.strip() for word in str(value).split(",") if word.strip())


class _Origins(_Words):
    """A comma-separated list of origins, each as browsers send it, or `*`."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> tuple[str, ...]:
        origins = super()._deserialize(value, *args, **kwargs)
        if not all(_ORIGIN.fullmatch(origin) for origin in origins):
            raise ValidationError(
                "each should be * or like https://host[:port], in lower case, with nothing behind"
            )
        return origins


class _DatabaseUrl(fields.String):
    """A SQLAlchemy URL of one of the two databases this service is tested on."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        url = str(super()._deserialize(value, *args, **kwargs))
        # Platforms hand out postgres:// or postgresql://; SQLAlchemy needs the driver's name.
        for prefix in ("postgres://", "postgresql://"):
            if url.startswith(prefix):
                url = "postgresql+psycopg://" + url.removeprefix(prefix)
        try:
            parts = urlsplit(url)
            is_known = parts.scheme == "postgresql+psycopg" and parts.port != 0
        except ValueError:  # it would show a part of the URL
            is_known = False
        if not is_known and not url.startswith("sqlite:///"):
            raise ValidationError(
                "should be postgresql://user:password@host/name, its password percent-encoded, or "
                "sqlite:///file; several hosts as postgresql://user:password@/name?host=a:5432&host=b:5432"
            )
        return url


class _BrokerUrl(fields.String):
    """An AMQP URL, or `inline:` to process without a broker."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        url = str(super()._deserialize(value, *args, **kwargs))
        if url != "inline:" and not (_has_address(url, "amqp", "amqps") and _is_whole_login(url)):
            raise ValidationError(
                "should be amqp://user:password@host:5672/vhost, its password percent-encoded, "
                "or inline:"
            )
        return url


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseSettings:
    """What every process needs: the store, the broker, how to log."""

    app_env: str = _setting(
        _choice("production", "development"),
        "`production` or `development`. Development relaxes authentication, on loopback only.",
        "production",
    )
    log_level: str = _setting(
        _choice("DEBUG", "INFO", "WARNING", "ERROR"),
        "Lowest log level written: `DEBUG`, `INFO`, `WARNING` or `ERROR`.",
        "INFO",
    )
    metrics_port: int = _setting(
        _number(0, 65_535),
        "Port where listener and worker serve `/metrics` and `/healthz`; 0 for none. Each process "
        "on a machine needs its own.",
        0,
    )
    metrics_host: str = _setting(
        fields.String(),
        "Address to bind for that port; `0.0.0.0` or `::` binds all. It asks for no token: keep it "
        "off the internet.",
        "127.0.0.1",
    )
    otel_exporter_otlp_endpoint: str = _setting(
        _BaseUrl("https", "http"),
        "OpenTelemetry collector that receives traces by OTLP over HTTP, e.g. "
        "`http://localhost:4318`; needs requirements-otel.txt. The other standard `OTEL_…` "
        "variables apply too.",
        "",
    )
    broker_url: str = _setting(
        _BrokerUrl(),
        "RabbitMQ, as `amqp://user:password@host:5672/vhost`, with TLS `amqps://` and port 5671; "
        "`inline:` processes images inside the listener, with the worker's settings and without a "
        "broker.",
    )
    s3_endpoint: str = _setting(
        _BaseUrl("https", "http"),
        "The store as this service reaches it, e.g. `https://s3.eu-west-1.amazonaws.com`.",
    )
    s3_region: str = _setting(fields.String(), "Region that requests are signed for.", "us-east-1")
    s3_addressing_style: str = _setting(
        _choice("path", "virtual"),
        "`path` (`host/bucket/key`) or `virtual` (`bucket.host/key`).",
        "path",
    )
    s3_access_key_id: str = _setting(
        fields.String(),
        "Access key of the store. Without it and its secret the keys are looked for where AWS's "
        "own tools do: environment, profile, web identity, role of the machine.",
        "",
    )
    s3_secret_access_key: str = _setting(fields.String(), "Secret key of the store.", "")
    s3_raw_bucket: str = _setting(
        fields.String(), "Private bucket that browsers PUT originals into."
    )
    s3_public_bucket: str = _setting(
        fields.String(), "Bucket of the finished images, readable by the CDN."
    )

    secret_fields: ClassVar[frozenset[str]] = frozenset(
        {
            "s3_secret_access_key",
            "broker_url",
            "database_url",
            "jwt_secret",
            "gateway_token",
            "metrics_token",
        }
    )

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """Return the settings, or raise ConfigurationError naming every fault at once.

        An empty variable counts as unset.
        """
        declared = {f.name: f for f in dataclasses.fields(cls)}
        schema = Schema.from_dict({name: f.metadata["field"] for name, f in declared.items()})(
            unknown=EXCLUDE
        )
        given = {
            name: value for name in declared if (value := environ.get(name.upper(), "").strip())
        }
        missing = [n for n, f in declared.items() if _is_required(f) and n not in given]
        faults = [
            f"{name.upper()} is required: {declared[name].metadata['description']}"
            for name in missing
        ]
        at_fault = {name.upper() for name in missing}
        try:
            values = schema.load(given)
        except ValidationError as error:
            values = error.valid_data
            at_fault |= {name.upper() for name in error.messages_dict}
            faults += [
                f"{name.upper()}: {' '.join(reasons)}"
                for name, reasons in error.messages_dict.items()
            ]
        # Faulty values are left out, so that all the others can be checked against each other.
        settings = cls(**{n: "" for n, f in declared.items() if _is_required(f)} | values)
        faults += [
            fault
            for fault in settings._contradictions()
            if at_fault.isdisjoint(_VARIABLE.findall(fault))
        ]
        if faults:
            raise ConfigurationError(faults)
        return settings

    @property
    def development(self) -> bool:
        """Whether this is the configuration for one person's own machine."""
        return self.app_env == "development"

    @property
    def has_broker(self) -> bool:
        """Whether there is RabbitMQ; without it the listener processes images itself."""
        return self.broker_url != "inline:"

    def _contradictions(self) -> Iterator[str]:
        """Yield what is wrong with values that are each fine alone."""
        if self.s3_raw_bucket == self.s3_public_bucket:
            yield "S3_RAW_BUCKET and S3_PUBLIC_BUCKET must differ: originals are never public."
        if bool(self.s3_access_key_id) != bool(self.s3_secret_access_key):
            yield (
                "S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY belong together: set both, or neither "
                "where the process gets its keys from AWS."
            )
        if not self.development:
            yield from self._not_for_production()

    def _not_for_production(self) -> Iterator[str]:
        """Yield what nobody but a developer at their own machine may have."""
        secret = self.s3_secret_access_key
        if secret and (
            len(secret) < MIN_STORE_SECRET_LENGTH or secret.lower() in WELL_KNOWN_SECRETS
        ):
            yield (
                f"S3_SECRET_ACCESS_KEY is short or well known: give the store's user a secret of "
                f"{MIN_STORE_SECRET_LENGTH} characters or more."
            )
        yield from _well_known_password("BROKER_URL", self.broker_url)

    def __repr__(self) -> str:
        shown = (
            f"{f.name}={'***' if f.name in self.secret_fields else repr(getattr(self, f.name))}"
            for f in dataclasses.fields(self)
        )
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class WorkerSettings(BaseSettings):
    """The settings of the reference worker."""

    max_image_pixels: int = _setting(
        _number(1, 2**31 - 1), "Largest width x height that is decoded.", 50_000_000
    )
    decode_timeout_seconds: int = _setting(_number(1, 3600), "Wall-clock limit on one image.", 60)
    decode_memory_bytes: int = _setting(
        _number(64 * 1024**2, 2**40), "Memory limit on one image, in bytes.", 1024**3
    )


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Settings(WorkerSettings):
    """The settings of web, listener and the command line; `inline:` makes a worker of them."""

    database_url: str = _setting(
        _DatabaseUrl(),
        "PostgreSQL, as `postgresql://user:password@host/name`. Across a network add "
        "`?sslmode=verify-full&sslrootcert=/path/of/ca.pem`, such as "
        "`/etc/ssl/certs/ca-certificates.crt`: by default the driver accepts any certificate, or "
        "no TLS.",
    )
    s3_public_endpoint: str = _setting(
        _BaseUrl("https", "http"),
        "The store as browsers reach it; upload URLs are signed for this host. "
        "Default: `S3_ENDPOINT`.",
        "",
    )
    cdn_base_url: str = _setting(
        _BaseUrl("https", "http"),
        "Base URL of the CDN; public keys are appended, e.g. `https://cdn.example.com`.",
    )
    web_origins: tuple[str, ...] = _setting(
        _Origins(),
        "Comma-separated origins whose pages may PUT to the raw bucket, "
        "e.g. `https://app.example.com`.",
        (),
    )

    auth_mode: str = _setting(
        _choice("jwt", "gateway", "development"),
        "`jwt` (bearer tokens), `gateway` (a BFF's static token plus `X-User-ID`) or "
        "`development` (`X-User-ID` alone).",
        "jwt",
    )
    jwt_algorithm: str = _setting(
        _choice("HS256", "RS256", "ES256"),
        "The one algorithm accepted: `HS256`, `RS256` or `ES256`.",
        "HS256",
    )
    jwt_secret: str = _setting(
        fields.String(),
        "HS256 key, at least 32 bytes; required with the default `AUTH_MODE` and `JWT_ALGORITHM`.",
        "",
    )
    jwt_jwks_url: str = _setting(
        _Url("https", "http"),
        "URL of the public keys (JWKS); required with `RS256` and `ES256`.",
        "",
    )
    jwt_audience: str = _setting(
        fields.String(),
        "If set, the `aud` that tokens must have. Set it, or `JWT_ISSUER`, if the same keys sign "
        "tokens for other services: those would be accepted, too.",
        "",
    )
    jwt_issuer: str = _setting(fields.String(), "If set, the `iss` that tokens must have.", "")
    jwt_leeway_seconds: int = _setting(
        _number(0, 300), "Clock difference tolerated in `exp` and `nbf`.", 30
    )
    gateway_token: str = _setting(
        fields.String(), "The BFF's bearer token in gateway mode, at least 32 characters.", ""
    )
    metrics_token: str = _setting(
        fields.String(),
        "Bearer token for web's `/metrics`, at least 32 characters. Without one nobody may read "
        "it, except this machine in development.",
        "",
    )

    upload_page: str = _setting(
        _choice("auto", "on", "off"),
        "The upload page at `/`: `on`, `off`, or `auto`, which is on in development only.",
        "auto",
    )

    max_upload_bytes: int = _setting(
        _number(1, MAX_IMAGE_BYTES),
        f"Largest original accepted, in bytes; {MAX_IMAGE_BYTES} at most, which is what the "
        "reference worker reads.",
        20 * 1024**2,
    )
    allowed_content_types: tuple[str, ...] = _setting(
        _Words(), "Comma-separated image types accepted.", IMAGE_CONTENT_TYPES
    )
    max_pending_uploads: int = _setting(
        _number(1, 100_000), "Unfinished uploads one owner may have.", 100
    )
    max_pending_bytes: int = _setting(
        _number(1, 2**50), "Declared bytes of unfinished uploads one owner may have.", 2 * 1024**3
    )
    upload_url_ttl_seconds: int = _setting(
        _number(1, MAX_URL_TTL_SECONDS), "Lifetime of an upload URL.", 900
    )
    upload_grace_seconds: int = _setting(
        _number(1, 86_400),
        "Extra time after an upload URL expires, for uploads in flight and clocks that differ.",
        300,
    )
    late_upload_seconds: int = _setting(
        _number(0, 30 * 86_400),
        "How long after its URL has expired an upload that began in time may still arrive: the "
        "objects of a media that was deleted, or has expired, are looked for once more then.",
        86_400,
    )

    max_attempts: int = _setting(_number(1, 100), "Attempts per media before it fails.", 3)
    processing_timeout_seconds: int = _setting(
        _number(1, 86_400), "Time for one attempt, including its wait in the queue.", 600
    )
    retry_backoff_seconds: int = _setting(
        _number(1, 3600),
        "Wait before the second attempt; it doubles with each further one, up to an hour.",
        10,
    )
    raw_retention_days: int = _setting(
        _number(0, 36_500),
        "Days an original, with its EXIF and GPS, is kept once its media is ready; 0 keeps it. "
        "After shortening it run `flask --app app media audit --repair` once, for older originals.",
        0,
    )
    failed_retention_days: int = _setting(
        _number(1, 36_500),
        "Days a failed media, with its original, is kept and can be retried. Fewer days count for "
        "what fails from then on.",
        7,
    )
    poll_seconds: float = _setting(
        fields.Float(validate=validate.Range(0.005, 60)),
        "How often the listener looks for due work.",
        0.05,
    )

    @property
    def presign_endpoint(self) -> str:
        """The endpoint that upload URLs are signed for."""
        return self.s3_public_endpoint or self.s3_endpoint

    @property
    def has_upload_page(self) -> bool:
        """Whether people are offered the upload page."""
        return self.upload_page == "on" or (self.upload_page == "auto" and self.development)

    def _contradictions(self) -> Iterator[str]:
        yield from super()._contradictions()
        if self.auth_mode == "development" and not self.development:
            yield "AUTH_MODE=development trusts anybody: it needs APP_ENV=development."
        if self.auth_mode == "gateway":
            yield from _weak_secret("GATEWAY_TOKEN", self.gateway_token)
        if self.auth_mode == "jwt" and self.jwt_algorithm == "HS256":
            yield from _weak_secret("JWT_SECRET", self.jwt_secret)
        if self.auth_mode == "jwt" and self.jwt_algorithm != "HS256":
            yield from self._bad_jwks_url()
        unknown = sorted(set(self.allowed_content_types) - set(IMAGE_CONTENT_TYPES))
        if unknown or not self.allowed_content_types:
            yield (
                f"ALLOWED_CONTENT_TYPES: {', '.join(unknown) or 'an empty list'} is not a choice "
                f"of {', '.join(IMAGE_CONTENT_TYPES)}."
            )
        if self.max_upload_bytes > self.max_pending_bytes:
            yield (
                "MAX_UPLOAD_BYTES must not exceed MAX_PENDING_BYTES: the largest uploads would "
                "always be too many."
            )
        url_seconds = self.upload_url_ttl_seconds + self.upload_grace_seconds
        if self.raw_retention_days and self.raw_retention_days * 86_400 < url_seconds:
            yield (
                "RAW_RETENTION_DAYS must outlast UPLOAD_URL_TTL_SECONDS + UPLOAD_GRACE_SECONDS: "
                "once its original is purged, an upload URL that still lives stores another."
            )
        if self.metrics_token:
            yield from _weak_secret("METRICS_TOKEN", self.metrics_token)

    def _bad_jwks_url(self) -> Iterator[str]:
        if not self.jwt_jwks_url:
            yield f"JWT_JWKS_URL is required with JWT_ALGORITHM={self.jwt_algorithm}."
        elif not self.development and urlsplit(self.jwt_jwks_url).scheme != "https":
            yield "JWT_JWKS_URL should be https: whoever can change the keys can be anybody."

    def _not_for_production(self) -> Iterator[str]:
        yield from super()._not_for_production()
        yield from _well_known_password("DATABASE_URL", self.database_url)
        if _is_plain_and_remote(self.cdn_base_url):
            yield "CDN_BASE_URL should be https: pages that are will not show its images."
        if _is_plain_and_remote(self.presign_endpoint):
            variable = "S3_PUBLIC_ENDPOINT" if self.s3_public_endpoint else "S3_ENDPOINT"
            yield (
                f"{variable} should be https: upload URLs and images would travel in the clear. "
                "A store with a private http address needs S3_PUBLIC_ENDPOINT as browsers reach it."
            )
        if self.database_url.startswith("sqlite"):
            yield "DATABASE_URL: SQLite is for APP_ENV=development; production needs PostgreSQL."
        if not self.has_broker:
            yield "BROKER_URL=inline: is for APP_ENV=development; production needs RabbitMQ."


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING


def _is_plain_and_remote(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in LOOPBACK_HOSTS


def _well_known_password(variable: str, url: str) -> Iterator[str]:
    """Yield a fault if a URL has a password that everybody tries first; loopback may have one."""
    parts = urlsplit(url)
    if (parts.password or "").lower() in WELL_KNOWN_SECRETS and (
        parts.hostname not in LOOPBACK_HOSTS
    ):
        yield f"{variable} has a well-known password: try `openssl rand -hex 32`."


def _weak_secret(variable: str, value: str) -> Iterator[str]:
    if len(value.encode()) < MIN_SECRET_LENGTH:
        yield f"{variable} needs {MIN_SECRET_LENGTH} random bytes or more: `openssl rand -hex 32`."
    elif len(set(value)) < MIN_DIFFERENT_CHARACTERS:
        yield f"{variable} looks like a placeholder: `openssl rand -hex 32`."
    elif variable != "JWT_SECRET" and not _TOKEN.fullmatch(value):
        yield f"{variable} travels in a header: letters, digits and -._~+/= only."
