"""Object storage: presigning, inspecting, reading, writing and purging objects in the two buckets.

The only module that imports boto3 or botocore; it knows keys and bytes, never rows. Every fault of
the store leaves here as one of the exceptions below.
"""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader

from config.settings import BaseSettings
from mediaservice import metrics
from mediaservice.errors import STORE_UNAVAILABLE, MediaError
from mediaservice.signing import UrlSigner

# Re-encoded images never change under their key: a new picture is a new media.
PUBLIC_CACHE_CONTROL = "public, max-age=31536000, immutable"
SNIFF_BYTES = 4096
CORS_MAX_AGE_SECONDS = 3600
_RETRY_AFTER_SECONDS = 5
_PURGE_PAGE = 1000  # S3's limit on DeleteObjects


class StoreUnavailable(MediaError):
    """The store could not be reached or answered with a fault of its own; nothing is known."""

    def __init__(self, reason: str) -> None:
        super().__init__(STORE_UNAVAILABLE, retry_after_seconds=_RETRY_AFTER_SECONDS)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class ObjectNotFound(Exception):
    """There is no object under this key."""


class ObjectChanged(Exception):
    """The object under this key is not the one with the expected ETag."""


@dataclass(frozen=True, slots=True)
class PresignedUpload:
    """A request the client makes as it stands: method, URL, and headers to be sent verbatim."""

    method: str
    url: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class UploadedObject:
    """What the store holds under a raw key; `checksum_sha256` is base64, if the store has one."""

    size_bytes: int
    content_type: str
    etag: str
    first_bytes: bytes
    checksum_sha256: str | None


@dataclass(frozen=True, slots=True)
class StoredObject:
    """One line of a bucket listing."""

    key: str
    size_bytes: int
    last_modified: datetime  # by the store's clock


class Storage:
    """The raw and the public bucket.

    Upload URLs are signed for `presign_endpoint`, the host that browsers see: the host is part of
    the signature, so it cannot be rewritten afterwards. Everything else goes to `s3_endpoint`.
    Every method raises StoreUnavailable when the store cannot answer.
    """

    def __init__(self, settings: BaseSettings, *, presign_endpoint: str | None = None) -> None:
        self.raw_bucket = settings.s3_raw_bucket
        self.public_bucket = settings.s3_public_bucket
        session = _session(settings)
        self._client = _client(session, settings)
        self._signer = UrlSigner(
            session.get_credentials().get_frozen_credentials,
            endpoint=presign_endpoint or settings.s3_endpoint,
            region=settings.s3_region,
            addressing_style=settings.s3_addressing_style,
        )

    def presign_upload(
        self,
        key: str,
        *,
        content_type: str,
        size_bytes: int,
        checksum_sha256: str | None,
        ttl_seconds: int,
        at: datetime | None = None,
    ) -> PresignedUpload:
        """Return a PUT that stores exactly this type, size and checksum, and only once.

        It is good for `ttl_seconds` from `at`, by default from now.

        Content-Length is signed too, but clients set it from the body themselves, so it is not
        among the returned headers.
        """
        headers = {"Content-Type": content_type, "If-None-Match": "*"}
        signed = {
            "content-length": str(size_bytes),
            "content-type": content_type,
            "if-none-match": "*",
        }
        if checksum_sha256 is not None:
            headers["x-amz-checksum-sha256"] = checksum_sha256
            signed["x-amz-checksum-sha256"] = checksum_sha256
        url = self._signer.presign(
            "PUT", self.raw_bucket, key, signed, ttl_seconds=ttl_seconds, at=at
        )
        metrics.PRESIGNED_UPLOADS.inc()
        return PresignedUpload("PUT", url, headers)

    def presign_read(self, bucket: str, key: str, *, ttl_seconds: int) -> str:
        """Return the URL of a GET; without its query it is the object's plain address."""
        return self._signer.presign("GET", bucket, key, {}, ttl_seconds=ttl_seconds)

    @cached_property
    def upload_origin(self) -> str:
        """The origin that upload URLs point to, e.g. `https://raw.s3.example.com`."""
        upload = self.presign_upload(
            "any", content_type="image/png", size_bytes=1, checksum_sha256=None, ttl_seconds=1
        )
        parts = urlsplit(upload.url)
        return f"{parts.scheme}://{parts.netloc}"

    def inspect_upload(self, key: str, *, with_checksum: bool) -> UploadedObject:
        """Return what was uploaded, with its first bytes, or raise ObjectNotFound.

        One ranged GET answers for one version of the object, where a HEAD followed by a GET could
        see two. The checksum of the whole object needs a HEAD of its own.
        """
        try:
            response = self._call(
                "get_object",
                Bucket=self.raw_bucket,
                Key=key,
                Range=f"bytes=0-{SNIFF_BYTES - 1}",
            )
        except _EmptyObject:
            return UploadedObject(0, "", "", b"", None)
        try:
            first_bytes = response["Body"].read()
        except (BotoCoreError, OSError) as error:
            raise StoreUnavailable(_reason(error)) from None
        etag = response["ETag"]
        checksum = None
        if with_checksum:
            try:
                head = self._call(
                    "head_object",
                    Bucket=self.raw_bucket,
                    Key=key,
                    IfMatch=etag,
                    ChecksumMode="ENABLED",
                )
            except ObjectChanged:
                raise StoreUnavailable("the object changed while it was looked at") from None
            checksum = head.get("ChecksumSHA256")
        return UploadedObject(
            size_bytes=_full_size(response),
            content_type=response.get("ContentType", ""),
            etag=etag,
            first_bytes=first_bytes,
            checksum_sha256=checksum,
        )

    def read_original(self, key: str, *, etag: str) -> bytes:
        """Return the pinned original; raises ObjectNotFound, or ObjectChanged if it is another."""
        response = self._call("get_object", Bucket=self.raw_bucket, Key=key, IfMatch=etag)
        if response["ETag"] != etag:  # a store without conditional reads
            raise ObjectChanged(key)
        try:
            return bytes(response["Body"].read())
        except (BotoCoreError, OSError) as error:
            raise StoreUnavailable(_reason(error)) from None

    def write_public(self, key: str, body: bytes, *, content_type: str) -> None:
        """Store a finished image for the CDN."""
        self._call(
            "put_object",
            Bucket=self.public_bucket,
            Key=key,
            Body=body,
            ContentType=content_type,
            CacheControl=PUBLIC_CACHE_CONTROL,
        )

    def purge(self, *, raw_key: str, public_prefix: str | None) -> bool:
        """Delete the original and everything under the prefix, look again, say if all is gone.

        Safe to repeat. Without a prefix only the original is purged.
        """
        self._call("delete_object", Bucket=self.raw_bucket, Key=raw_key)
        if public_prefix is not None:
            self.delete_objects(
                self.public_bucket,
                [found.key for found in self.list_objects(self.public_bucket, public_prefix)],
            )
            if next(self.list_objects(self.public_bucket, public_prefix), None) is not None:
                return False
        return not self._exists(self.raw_bucket, raw_key)

    def delete_objects(self, bucket: str, keys: list[str]) -> None:
        """Delete keys, in as few requests as S3 allows; missing ones are fine."""
        for start in range(0, len(keys), _PURGE_PAGE):
            page = [{"Key": key} for key in keys[start : start + _PURGE_PAGE]]
            response = self._call(
                "delete_objects", Bucket=bucket, Delete={"Objects": page, "Quiet": True}
            )
            if response.get("Errors"):
                raise StoreUnavailable(f"DeleteObjects: {response['Errors'][0].get('Code')}")

    def list_objects(self, bucket: str, prefix: str = "") -> Iterator[StoredObject]:
        """Yield a bucket's objects in the order of their keys, a page in memory at a time."""
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Bucket=bucket, Prefix=prefix, **token)
            for entry in page.get("Contents", []):
                yield StoredObject(entry["Key"], entry["Size"], entry["LastModified"])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def keeps_versions(self, bucket: str) -> bool:
        """Say whether the bytes of deleted objects may stay in this bucket as older versions."""
        return bool(self._call("get_bucket_versioning", Bucket=bucket).get("Status"))

    def ping(self) -> None:
        """Raise StoreUnavailable unless both buckets can be reached with our credentials."""
        for bucket in (self.raw_bucket, self.public_bucket):
            try:
                self._call("head_bucket", Bucket=bucket)
            except ObjectNotFound:
                raise StoreUnavailable(f"there is no bucket {bucket}") from None

    def create_buckets(self, web_origins: tuple[str, ...]) -> None:
        """Make both buckets, open `public` to readers and `raw` to PUTs from pages of the origins.

        Safe to repeat: each part is set to what it should be.
        """
        for bucket in (self.raw_bucket, self.public_bucket):
            if not self._bucket_exists(bucket):
                self._call("create_bucket", Bucket=bucket)
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "PublicRead",
                    "Effect": "Allow",
                    "Principal": "*",
                    "Action": ["s3:GetObject"],
                    "Resource": [f"arn:aws:s3:::{self.public_bucket}/*"],
                }
            ],
        }
        self._call("put_bucket_policy", Bucket=self.public_bucket, Policy=json.dumps(policy))
        if not web_origins:
            with suppress(ObjectNotFound):  # some stores say so when there were no rules
                self._call("delete_bucket_cors", Bucket=self.raw_bucket)
            return
        rule = {
            "AllowedOrigins": list(web_origins),
            "AllowedMethods": ["PUT"],
            "AllowedHeaders": ["content-type", "if-none-match", "x-amz-checksum-sha256"],
            "ExposeHeaders": ["ETag"],
            "MaxAgeSeconds": CORS_MAX_AGE_SECONDS,
        }
        self._call(
            "put_bucket_cors", Bucket=self.raw_bucket, CORSConfiguration={"CORSRules": [rule]}
        )

    def _bucket_exists(self, bucket: str) -> bool:
        try:
            self._call("head_bucket", Bucket=bucket)
        except ObjectNotFound:
            return False
        return True

    def _exists(self, bucket: str, key: str) -> bool:
        try:
            self._call("head_object", Bucket=bucket, Key=key)
        except ObjectNotFound:
            return False
        return True

    def _call(self, operation: str, **params: Any) -> Any:
        started_at = time.perf_counter()
        outcome = "unavailable"
        try:
            response = getattr(self._client, operation)(**params)
            outcome = "ok"
        except ClientError as error:
            translated = _translated(error, params.get("Key", params["Bucket"]))
            outcome = _OUTCOMES[type(translated)]
            raise translated from None
        except (BotoCoreError, OSError) as error:
            raise StoreUnavailable(_reason(error)) from None
        finally:
            metrics.STORE_REQUESTS.labels(operation, outcome).observe(
                time.perf_counter() - started_at
            )
        return response


class _EmptyObject(Exception):
    """A ranged GET of an object without bytes (416)."""


_OUTCOMES: dict[type[Exception], str] = {
    ObjectNotFound: "missing",
    ObjectChanged: "changed",
    _EmptyObject: "ok",
    StoreUnavailable: "unavailable",
}


def _translated(error: ClientError, key: str) -> Exception:
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = error.response.get("Error", {}).get("Code", "")
    # A missing bucket is a fault of the set-up: taking it for a missing object would fail uploads.
    if status == 404 and code != "NoSuchBucket":
        return ObjectNotFound(key)
    if status == 412:
        return ObjectChanged(key)
    if status == 416:
        return _EmptyObject(key)
    return StoreUnavailable(f"{error.operation_name}: HTTP {status} {code}")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _full_size(response: dict[str, Any]) -> int:
    """Return the object's size from `Content-Range: bytes 0-4095/123456`."""
    content_range = response.get("ContentRange", "")
    total = content_range.rpartition("/")[2]
    return int(total) if total.isdigit() else int(response["ContentLength"])


class _DataWithoutEndpoints(Loader):  # type: ignore[misc]  # botocore has no types
    """Botocore's data files but for the endpoints of all services, 7 MB: ours is always given."""

    def load_data_with_path(self, name: str) -> tuple[Any, str]:
        if name == "endpoints":
            return {"partitions": []}, ""
        loaded: tuple[Any, str] = super().load_data_with_path(name)
        return loaded


def _session(settings: BaseSettings) -> boto3.Session:
    core = botocore.session.get_session()
    core.register_component("data_loader", _DataWithoutEndpoints())
    return boto3.Session(
        aws_access_key_id=settings.s3_access_key_id,
        aws_secret_access_key=settings.s3_secret_access_key,
        botocore_session=core,
    )


def _client(session: boto3.Session, settings: BaseSettings) -> Any:
    return session.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        config=Config(
            signature_version="s3v4",
            s3={
                "addressing_style": settings.s3_addressing_style,
                # Else botocore looks for us-east-1 in the table that it is spared here.
                "us_east_1_regional_endpoint": "regional",
            },
            # Many S3-compatible stores do not know the checksums botocore adds since 1.36.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            retries={"mode": "standard", "total_max_attempts": 2},
            # Two attempts of a call, and the two calls of a completion, end before web's time-out.
            connect_timeout=3,
            read_timeout=7,
        ),
    )
