"""Object storage: presigning, inspecting, reading, writing and purging objects in the two buckets.

It knows keys and bytes, never rows; `s3` makes the calls. Every fault of the store leaves here as
one of the exceptions below.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from urllib.parse import unquote_plus, urlsplit
from xml.etree import ElementTree as ET

import urllib3

from config.settings import BaseSettings
from mediaservice.s3 import EmptyObject, ObjectChanged, ObjectNotFound, S3Client, StoreUnavailable
from mediaservice.sniffing import SNIFF_BYTES

__all__ = [
    "ObjectChanged",
    "ObjectNotFound",
    "PresignedUpload",
    "Storage",
    "StoreUnavailable",
    "StoredObject",
    "UploadedObject",
]

# Re-encoded images never change under their key: a new picture is a new media.
PUBLIC_CACHE_CONTROL = "public, max-age=31536000, immutable"
CORS_MAX_AGE_SECONDS = 3600
AWS_FIRST_REGION = "us-east-1"  # the only one that CreateBucket must not be told


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

    URLs that are handed out are signed for `presign_endpoint`, the host that browsers see: the host
    is part of the signature, so it cannot be rewritten afterwards. Everything else goes to
    `s3_endpoint`.

    Every method raises StoreUnavailable when the store cannot be reached or fails, and with
    `with_circuit_breaker` for a while after it hung.
    """

    def __init__(
        self,
        settings: BaseSettings,
        *,
        presign_endpoint: str | None = None,
        with_circuit_breaker: bool = False,
    ) -> None:
        self.raw_bucket = settings.s3_raw_bucket
        self.public_bucket = settings.s3_public_bucket
        self._region = settings.s3_region
        self._s3 = S3Client(settings, with_circuit_breaker=with_circuit_breaker)
        self._signer = self._s3.create_signer(presign_endpoint or settings.s3_endpoint)

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
        return PresignedUpload("PUT", url, headers)

    def presign_read(self, bucket: str, key: str, *, ttl_seconds: int) -> str:
        """Return the URL of a GET; without its query it is the object's plain address."""
        return self._signer.presign("GET", bucket, key, {}, ttl_seconds=ttl_seconds)

    @cached_property
    def upload_origin(self) -> str:
        """The origin that upload URLs point to, e.g. `https://raw.s3.example.com`."""
        parts = urlsplit(self.presign_read(self.raw_bucket, "any", ttl_seconds=1))
        return f"{parts.scheme}://{parts.netloc}"

    def inspect_upload(self, key: str, *, with_checksum: bool) -> UploadedObject:
        """Return what was uploaded, with its first bytes, or raise ObjectNotFound.

        One ranged GET answers for one version of the object, where a HEAD followed by a GET could
        see two. The checksum of the whole object needs a HEAD of its own.
        """
        try:
            response = self._s3.request(
                "get_object",
                "GET",
                self.raw_bucket,
                key,
                headers={"range": f"bytes=0-{SNIFF_BYTES - 1}"},
            )
        except EmptyObject:
            return UploadedObject(0, "", "", b"", None)
        etag = _etag(response)
        checksum = None
        if with_checksum:
            try:
                head = self._s3.request(
                    "head_object",
                    "HEAD",
                    self.raw_bucket,
                    key,
                    headers={"if-match": etag, "x-amz-checksum-mode": "ENABLED"},
                )
            except ObjectChanged:
                raise StoreUnavailable("the object changed while it was looked at") from None
            checksum = head.headers.get("x-amz-checksum-sha256")
        return UploadedObject(
            size_bytes=_full_size(response),
            content_type=response.headers.get("Content-Type", ""),
            etag=etag,
            first_bytes=response.data,
            checksum_sha256=checksum,
        )

    def read_original(self, key: str, *, etag: str) -> bytes:
        """Return the pinned original; raises ObjectNotFound, or ObjectChanged if it is another."""
        response = self._s3.request(
            "get_object", "GET", self.raw_bucket, key, headers={"if-match": etag}
        )
        if _etag(response) != etag:  # a store without conditional reads
            raise ObjectChanged(key)
        return response.data

    def write_public(self, key: str, body: bytes, *, content_type: str) -> None:
        """Store a finished image for the CDN; the store compares what it got with the MD5."""
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        self._s3.request(
            "put_object",
            "PUT",
            self.public_bucket,
            key,
            headers={
                "cache-control": PUBLIC_CACHE_CONTROL,
                "content-length": str(len(body)),
                "content-md5": base64.b64encode(digest).decode(),
                "content-type": content_type,
            },
            body=body,
        )

    def purge(self, *, raw_key: str, public_prefix: str | None) -> bool:
        """Delete the original and all under the prefix; check again and return whether all is gone.

        Safe to repeat. Without a prefix only the original is purged.
        """
        self.delete_objects(self.raw_bucket, [raw_key])
        if public_prefix is not None:
            self.delete_objects(
                self.public_bucket,
                [found.key for found in self.list_objects(self.public_bucket, public_prefix)],
            )
            if next(self.list_objects(self.public_bucket, public_prefix), None) is not None:
                return False
        return not self._exists(self.raw_bucket, raw_key)

    def delete_objects(self, bucket: str, keys: list[str]) -> None:
        """Delete keys, one by one; missing ones are fine."""
        for key in keys:
            with suppress(ObjectNotFound):  # some stores say so
                self._s3.request("delete_object", "DELETE", bucket, key)

    def list_objects(
        self, bucket: str, prefix: str = "", *, start_after: str = ""
    ) -> Iterator[StoredObject]:
        """Yield a bucket's objects in the order of their keys, a page in memory at a time."""
        query = {"encoding-type": "url", "list-type": "2", "prefix": prefix}
        if start_after:
            query["start-after"] = start_after
        while True:
            response = self._s3.request("list_objects_v2", "GET", bucket, query=query)
            found, token = _parse_listing(response.data)
            yield from found
            if token is None:
                return
            query["continuation-token"] = token

    def versioning(self, bucket: str) -> str | None:
        """Return `Enabled`, `Suspended` if it was, or None: whether deleted bytes may stay."""
        status: str | None = self._s3.administer("get_bucket_versioning", Bucket=bucket).get(
            "Status"
        )
        return status

    def ping(self) -> None:
        """Raise StoreUnavailable unless both buckets can be reached with our credentials."""
        for bucket in (self.raw_bucket, self.public_bucket):
            if not self._exists(bucket):
                raise StoreUnavailable(f"there is no bucket {bucket}")

    def create_buckets(self, web_origins: tuple[str, ...]) -> None:
        """Make both buckets, open `public` to readers and `raw` to PUTs from pages of the origins.

        Safe to repeat. A policy that `public` has already stays: it may be for the CDN alone.
        """
        elsewhere = {}
        if self._region != AWS_FIRST_REGION:
            elsewhere["CreateBucketConfiguration"] = {"LocationConstraint": self._region}
        for bucket in (self.raw_bucket, self.public_bucket):
            if not self._exists(bucket):
                self._s3.administer("create_bucket", Bucket=bucket, **elsewhere)
        try:
            self._allow_pages(web_origins)
        finally:  # neither waits for what the other may not do
            if not self._has_policy(self.public_bucket):
                self._open_to_readers(self.public_bucket)

    def _allow_pages(self, web_origins: tuple[str, ...]) -> None:
        try:
            self._set_cors(web_origins)
        except StoreUnavailable as error:
            if not error.is_refusal:
                raise
            if not web_origins and "NotImplemented" in error.reason:  # so there are no rules
                return
            raise StoreUnavailable(
                f"{error}: the bucket {self.raw_bucket} does not take CORS rules. A store without "
                "PutBucketCors needs them in its own configuration; what else can be done is done",
                is_refusal=True,
            ) from None

    def _set_cors(self, web_origins: tuple[str, ...]) -> None:
        if not web_origins:
            with suppress(ObjectNotFound):  # some stores say so when there were no rules
                self._s3.administer("delete_bucket_cors", Bucket=self.raw_bucket)
            return
        rule = {
            "AllowedOrigins": list(web_origins),
            "AllowedMethods": ["PUT"],
            "AllowedHeaders": ["content-type", "if-none-match", "x-amz-checksum-sha256"],
            "ExposeHeaders": ["ETag"],
            "MaxAgeSeconds": CORS_MAX_AGE_SECONDS,
        }
        self._s3.administer(
            "put_bucket_cors", Bucket=self.raw_bucket, CORSConfiguration={"CORSRules": [rule]}
        )

    def _has_policy(self, bucket: str) -> bool:
        try:
            self._s3.administer("get_bucket_policy", Bucket=bucket)
        except ObjectNotFound:
            return False
        return True

    def _open_to_readers(self, bucket: str) -> None:
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Sid": "PublicRead",
                    "Effect": "Allow",
                    "Principal": "*",
                    "Action": ["s3:GetObject"],
                    "Resource": [f"arn:aws:s3:::{bucket}/*"],
                }
            ],
        }
        try:
            self._s3.administer("put_bucket_policy", Bucket=bucket, Policy=json.dumps(policy))
        except StoreUnavailable as error:
            if not error.is_refusal:
                raise
            raise StoreUnavailable(
                f"{error}: the bucket {bucket} may not be opened to readers. On AWS let it have "
                "public policies (Block Public Access), or give it a policy for your CDN alone; "
                "what else can be done is done"
            ) from None

    def _exists(self, bucket: str, key: str = "") -> bool:
        try:
            self._s3.request("head_object" if key else "head_bucket", "HEAD", bucket, key)
        except ObjectNotFound:
            return False
        return True


def _etag(response: urllib3.BaseHTTPResponse) -> str:
    etag = response.headers.get("ETag")
    if not etag:
        raise StoreUnavailable("the store does not say which version of the object it has")
    return etag


def _full_size(response: urllib3.BaseHTTPResponse) -> int:
    """Return the object's size from `Content-Range: bytes 0-4095/123456`."""
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(total) if total.isdigit() else len(response.data)


def _parse_listing(page: bytes) -> tuple[list[StoredObject], str | None]:
    """Return a page of a listing, and the token of the next one.

    Expat, below ElementTree, reads nothing from elsewhere, and bounds what entities grow to.
    """
    try:
        root = ET.fromstring(page)  # noqa: S314 - see above
        if not root.tag.endswith("ListBucketResult"):
            raise ValueError(root.tag)
        decode = unquote_plus if root.findtext("{*}EncodingType") == "url" else str
        found = [
            StoredObject(
                decode(entry.findtext("{*}Key", "")),
                int(entry.findtext("{*}Size", "")),
                datetime.fromisoformat(entry.findtext("{*}LastModified", "")),
            )
            for entry in root.iterfind("{*}Contents")
        ]
        if root.findtext("{*}IsTruncated") != "true":
            return found, None
        token = root.findtext("{*}NextContinuationToken")
        if not token:
            raise ValueError("there is more, and no token to ask for it")
    except (ET.ParseError, ValueError) as error:
        raise StoreUnavailable(f"list_objects_v2: not a listing: {error}") from None
    return found, token
