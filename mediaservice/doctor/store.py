"""Probes of the object store as a whole: access, reading, serving, CORS, deleting."""

import secrets
from collections.abc import Iterator
from contextlib import suppress

import urllib3

from config.settings import Settings
from mediaservice.doctor.probes import Probe, ProbeFailed, ProbeSkipped, ProbeWarning
from mediaservice.doctor.store_client import PUBLIC_TYPE, StoreClient
from mediaservice.doctor.uploads import UploadProbes
from mediaservice.storage import PUBLIC_CACHE_CONTROL, ObjectNotFound

_INIT = "flask --app app media init, with the keys of somebody who may change the buckets"


class StoreProbes:
    """The probes of one store."""

    def __init__(self, client: StoreClient, settings: Settings) -> None:
        self._client = client
        self._storage = client.storage
        self._cdn_base_url = settings.cdn_base_url
        self._web_origins = settings.web_origins
        self._uploads = UploadProbes(client)

    def probes(self) -> Iterator[Probe]:
        """Yield every probe, those that others need first."""
        yield Probe(
            "store",
            "both buckets can be reached with our keys",
            "look at S3_ENDPOINT, S3_REGION, the keys and the buckets' names; "
            "flask --app app media init makes missing buckets",
            self._reach,
            is_essential=True,
        )
        yield from self._uploads.probes()
        yield from self._read_probes()
        yield from self._cors_probes()
        yield from self._delete_probes()

    def _read_probes(self) -> Iterator[Probe]:
        yield Probe(
            "read_if_match",
            "workers read the accepted original or none (If-Match)",
            "the service compares ETags itself too; workers of others may not: prefer a store with "
            "conditional reads",
            self._if_match,
        )
        yield Probe(
            "raw_private",
            "nobody without keys reads or lists originals",
            "take every public policy and ACL off the raw bucket (AWS: Block Public Access)",
            self._raw_private,
        )
        yield Probe(
            "cdn",
            "CDN_BASE_URL serves public objects, with type and caching",
            "look at CDN_BASE_URL and the CDN's origin; flask --app app media init opens the "
            "public bucket to readers",
            self._cdn,
        )
        yield Probe(
            "public_read",
            "the public bucket can be read without keys",
            f"nothing, if only the CDN is to read it; otherwise {_INIT}",
            self._public_read,
        )
        yield Probe(
            "public_closed",
            "nobody without keys lists or writes the public bucket",
            f"allow anonymous s3:GetObject alone: {_INIT}",
            self._public_closed,
        )

    def _cors_probes(self) -> Iterator[Probe]:
        yield Probe(
            "cors",
            "pages of each WEB_ORIGINS may upload",
            f"{_INIT}; stores without PutBucketCors need it in their own configuration",
            self._own_origins,
        )
        yield Probe(
            "cors_foreign",
            "pages of other origins may not",
            f"{_INIT}; look at the store's own CORS setting too (SeaweedFS: -s3.allowedOrigins)",
            self._foreign_origin,
        )

    def _delete_probes(self) -> Iterator[Probe]:
        yield Probe(
            "delete",
            "what is deleted is gone, and the store says so",
            "the keys need s3:DeleteObject and s3:ListBucket on both buckets; of what is not there "
            "the store must say NoSuchKey",
            self._delete,
        )
        yield Probe(
            "no_versions",
            "deleted bytes are not kept as older versions",
            "let a lifecycle rule expire noncurrent versions, which stay even once versioning is "
            "suspended: deletion is a promise to the owner, and originals hold EXIF and GPS",
            self._versions,
        )

    def _reach(self) -> str:
        self._storage.ping()
        return f"{self._storage.raw_bucket} and {self._storage.public_bucket} answer"

    def _if_match(self) -> str:
        key = self._client.upload()
        found = self._storage.inspect_upload(key, with_checksum=False)
        url = self._client.read_url(key)
        right = self._client.request("GET", url, headers={"If-Match": found.etag})
        wrong = self._client.request("GET", url, headers={"If-Match": '"another"'})
        if right.status != 200 or right.data != self._client.body:
            raise ProbeFailed(f"the right ETag: HTTP {right.status}")
        if wrong.status != 412:
            raise ProbeWarning(f"a wrong ETag: HTTP {wrong.status}")
        return "the right ETag: HTTP 200; a wrong one: HTTP 412"

    def _raw_private(self) -> str:
        key = self._client.upload()
        read = self._client.request("GET", self._client.address(self._storage.raw_bucket, key))
        listed = self._client.request("GET", self._client.address(self._storage.raw_bucket, ""))
        if read.status < 300 or listed.status < 300:
            raise ProbeFailed(f"anonymous GET: HTTP {read.status}; list: HTTP {listed.status}")
        return f"anonymous GET: HTTP {read.status}; list: HTTP {listed.status}"

    def _cdn(self) -> str:
        self._client.write_public()
        response = self._client.request("GET", f"{self._cdn_base_url}/{self._client.public_key}")
        self._check_public(response)
        return f"HTTP 200, {response.headers['Content-Type']}, {response.headers['Cache-Control']}"

    def _public_read(self) -> str:
        self._client.write_public()
        response = self._client.request("GET", self._client.public_address)
        if response.status in (401, 403):
            raise ProbeWarning(f"anonymous GET: HTTP {response.status}")
        self._check_public(response)
        return "anonymous GET: HTTP 200"

    def _public_closed(self) -> str:
        listed = self._client.request("GET", self._client.address(self._storage.public_bucket, ""))
        written = self._client.request(
            "PUT",
            self._client.public_address,
            body=self._client.body,
        )
        found = f"anonymous list: HTTP {listed.status}; PUT: HTTP {written.status}"
        if listed.status < 300 or written.status < 300:
            raise ProbeFailed(found)
        return found

    def _check_public(self, response: urllib3.BaseHTTPResponse) -> None:
        if response.status != 200:
            raise ProbeFailed(f"HTTP {response.status}")
        if response.data != self._client.body:
            raise ProbeFailed("HTTP 200, with other bytes")
        for header, expected in (
            ("Content-Type", PUBLIC_TYPE),
            ("Cache-Control", PUBLIC_CACHE_CONTROL),
        ):
            if response.headers.get(header) != expected:
                raise ProbeFailed(f"{header}: {response.headers.get(header)}, not {expected}")

    def _own_origins(self) -> str:
        origins = self._web_origins
        if not origins:
            raise ProbeSkipped("WEB_ORIGINS is not set: no page of another origin may upload")
        refused = [fault for origin in origins if (fault := self._cors_fault(origin))]
        if refused:
            raise ProbeFailed("; ".join(refused))
        return f"allowed: {', '.join(origins)}"

    def _foreign_origin(self) -> str:
        if "*" in self._web_origins:
            raise ProbeSkipped("WEB_ORIGINS allows every origin")
        foreign = f"https://{secrets.token_hex(8)}.invalid"
        allowed = self._preflight(foreign).headers.get("Access-Control-Allow-Origin")
        if allowed in (foreign, "*"):
            raise ProbeFailed(f"Access-Control-Allow-Origin: {allowed} for {foreign}")
        return "no Access-Control-Allow-Origin for a foreign origin"

    def _cors_fault(self, origin: str) -> str | None:
        """Return why a page of this origin may not upload, or None."""
        response = self._preflight(origin)
        if response.headers.get("Access-Control-Allow-Origin") not in (origin, "*"):
            return f"{origin} is not allowed (HTTP {response.status})"
        if "PUT" not in _words(response, "Access-Control-Allow-Methods"):
            return f"{origin} may not PUT"
        allowed = _words(response, "Access-Control-Allow-Headers")
        missing = {name.upper() for name in self._client.presign("any").headers} - allowed
        if missing and "*" not in allowed:
            return f"{origin} may not use {', '.join(sorted(missing)).lower()}"
        return None

    def _preflight(self, origin: str) -> urllib3.BaseHTTPResponse:
        upload = self._client.presign(self._client.new_key())
        return self._client.request(
            "OPTIONS",
            upload.url,
            headers={
                "Origin": origin,
                "Access-Control-Request-Method": "PUT",
                "Access-Control-Request-Headers": ",".join(sorted(upload.headers)).lower(),
            },
        )

    def _delete(self) -> str:
        key = self._client.new_key()
        if self._client.has_uploaded:
            key = self._client.upload()
        self._client.write_public()
        prefix = self._client.public_key.rpartition("/")[0] + "/"
        if not self._storage.purge(raw_key=key, public_prefix=prefix):
            raise ProbeFailed("objects were still there after their deletion")
        with suppress(ObjectNotFound):
            self._storage.inspect_upload(key, with_checksum=False)
            raise ProbeFailed("the original could be read after its deletion")
        return "both buckets are empty of it"

    def _versions(self) -> str:
        buckets = (self._storage.raw_bucket, self._storage.public_bucket)
        found = {bucket: self._storage.versioning(bucket) for bucket in buckets}
        kept = [f"{status} in {bucket}" for bucket, status in found.items() if status]
        if kept:
            raise ProbeWarning(f"versioning is {', '.join(kept)}")
        return "versioning is off"


def _words(response: urllib3.BaseHTTPResponse, header: str) -> set[str]:
    return {word.strip().upper() for word in response.headers.get(header, "").split(",")}
