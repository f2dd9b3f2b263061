"""Probes of uploads: that an upload URL stores what was declared, once, and nothing else."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

from mediaservice.doctor.probes import Probe, ProbeFailed
from mediaservice.doctor.store_client import CONTENT_TYPE, StoreClient

_OTHER_TYPE = "text/html"
_SIGNED = {"content-length", "content-type", "host", "if-none-match", "x-amz-checksum-sha256"}
_VERIFY = (
    "the store does not hold clients to what was signed: use one that verifies SigV4 with every "
    "signed header (AWS S3, SeaweedFS, Ceph, MinIO), or none of the limits on uploads hold"
)


class UploadProbes:
    """The probes of one store's uploads."""

    def __init__(self, client: StoreClient) -> None:
        self._client = client

    def probes(self) -> Iterator[Probe]:
        """Yield them in the order they need: without a good upload the bad ones tell nothing."""
        yield Probe(
            "presign_sigv4",
            "upload URLs are signed with SigV4, over every header that protects them",
            "a defect of this release, which signs them itself: report it, and run another release",
            self._signature,
        )
        yield Probe(
            "upload",
            "an upload URL stores the object as declared",
            "look at S3_PUBLIC_ENDPOINT (it must be reachable from here as from browsers), at "
            "proxies that change the Host header, and at the clocks",
            self._upload,
        )
        for name, guarantee, run in (
            ("signature", "a forged upload URL stores nothing", self._forged),
            ("upload_length", "a body of another length is refused", self._length),
            ("upload_type", "another Content-Type is refused", self._type),
            ("upload_condition", "a PUT without If-None-Match is refused", self._condition),
            ("upload_copy", "a PUT cannot be turned into a copy of another object", self._copy),
            ("upload_checksum", "bytes with another SHA-256 are refused", self._checksum),
            ("upload_expiry", "a dead upload URL stores nothing", self._expiry),
            ("upload_once", "a second PUT cannot replace the object", self._once),
        ):
            yield Probe(name, guarantee, _VERIFY, run)

    def _signature(self) -> str:
        query = parse_qs(urlsplit(self._client.presign(self._client.new_key()).url).query)
        algorithm = query.get("X-Amz-Algorithm", ["none"])[0]
        signed = set(query.get("X-Amz-SignedHeaders", [""])[0].split(";"))
        if algorithm != "AWS4-HMAC-SHA256" or not signed >= _SIGNED:
            missing = ", ".join(sorted(_SIGNED - signed)) or "nothing"
            raise ProbeFailed(f"algorithm: {algorithm}; not signed: {missing}")
        return ", ".join(sorted(signed))

    def _upload(self) -> str:
        key = self._client.new_key()
        response = self._client.put(self._client.presign(key))
        if response.status != 200:
            raise ProbeFailed(f"HTTP {response.status}")
        found = self._client.storage.inspect_upload(key, with_checksum=True)
        if (found.size_bytes, found.content_type) != (len(self._client.body), CONTENT_TYPE):
            raise ProbeFailed(f"stored as {found.size_bytes} bytes of {found.content_type}")
        self._client.has_uploaded = True
        return f"HTTP 200, {found.size_bytes} bytes of {found.content_type}"

    def _forged(self) -> str:
        key = self._client.new_key()
        upload = self._client.presign(key)
        signature = parse_qs(urlsplit(upload.url).query).get("X-Amz-Signature", [""])[0]
        forged = replace(upload, url=upload.url.replace(signature, signature[::-1]))
        return self._client.refused(key, self._client.put(forged))

    def _length(self) -> str:
        found = []
        for body in (self._client.body + b"!", self._client.body[:-1]):
            key = self._client.new_key()
            upload = self._client.presign(key, with_checksum=False)
            found.append(self._client.refused(key, self._client.put(upload, body)))
        return f"longer: {found[0]}; shorter: {found[1]}"

    def _type(self) -> str:
        key = self._client.new_key()
        response = self._client.put(
            self._client.presign(key), changed={"Content-Type": _OTHER_TYPE}
        )
        return self._client.refused(key, response)

    def _condition(self) -> str:
        key = self._client.new_key()
        response = self._client.put(self._client.presign(key), changed={"If-None-Match": None})
        return self._client.refused(key, response)

    def _copy(self) -> str:
        source = f"{self._client.storage.raw_bucket}/{self._client.upload()}"
        key = self._client.new_key()
        upload = self._client.presign(key, with_checksum=False)
        response = self._client.put(upload, changed={"x-amz-copy-source": source})
        return self._client.refused(key, response)

    def _checksum(self) -> str:
        key = self._client.new_key()
        response = self._client.put(self._client.presign(key), self._client.body[::-1])
        return self._client.refused(key, response)

    def _once(self) -> str:
        self._client.require_uploads()
        key = self._client.new_key()
        upload = self._client.presign(key, with_checksum=False)
        self._client.put(upload)
        first = self._client.storage.inspect_upload(key, with_checksum=False)
        response = self._client.put(upload, self._client.body[::-1])
        second = self._client.storage.inspect_upload(key, with_checksum=False)
        if response.status < 300 or second.first_bytes != first.first_bytes:
            raise ProbeFailed(f"HTTP {response.status}: the object was replaced")
        return f"refused with HTTP {response.status}"

    def _expiry(self) -> str:
        key = self._client.new_key()
        long_ago = datetime.now(UTC) - timedelta(hours=1)
        return self._client.refused(key, self._client.put(self._client.presign(key, at=long_ago)))
