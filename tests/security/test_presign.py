"""The upload URL in the wrong hands: whatever is changed in it, nothing else comes of it."""

import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.builders import jpeg, sha256
from tests.security.service import Service
from tests.world import TIMES

BODY = jpeg()
OTHER_ID = "0190a8e5-6c1f-7d3a-9b7e-1f2e3d4c5b6c"


@dataclass(frozen=True)
class Put:
    """A request to the store, in the parts an attacker can change one by one."""

    host: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: dict[str, str]
    body: bytes = BODY
    method: str = "PUT"
    chunked: bool = False

    @classmethod
    def of(cls, presigned: dict[str, Any]) -> "Put":
        url = urlsplit(presigned["upload_url"])
        return cls(url.netloc, url.path, tuple(parse_qsl(url.query)), dict(presigned["headers"]))

    @property
    def bucket(self) -> str:
        return self.path.split("/")[1]

    @property
    def key(self) -> str:
        return self.path.removeprefix(f"/{self.bucket}/")

    def asking(self, **parameters: str | None) -> "Put":
        """Change query parameters, named with `_` for `-`; None leaves one out."""
        changes = {name.replace("_", "-"): value for name, value in parameters.items()}
        kept = tuple((n, v) for n, v in self.query if n not in changes)
        return replace(
            self, query=kept + tuple((n, v) for n, v in changes.items() if v is not None)
        )

    def saying(self, **headers: str | None) -> "Put":
        changes = {name.replace("_", "-"): value for name, value in headers.items()}
        merged = {**self.headers, **changes}
        return replace(self, headers={n: v for n, v in merged.items() if v is not None})

    @property
    def url(self) -> str:
        return f"{self.path}?{urlencode(self.query, quote_via=quote)}"

    def send(self) -> int:
        """Send it byte for byte, for libraries would tidy it up; return the status."""
        connection = http.client.HTTPConnection(self.host, timeout=10)
        headers = {"Host": self.host, **self.headers}
        if self.chunked:
            pieces = iter([self.body])
            connection.request(self.method, self.url, pieces, headers, encode_chunked=True)
        else:
            connection.request(self.method, self.url, self.body, headers)
        status = connection.getresponse().status
        connection.close()
        return status


def earlier(put: Put) -> str:
    date = dict(put.query)["X-Amz-Date"]
    moved = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) - timedelta(minutes=5)
    return moved.strftime("%Y%m%dT%H%M%SZ")


Attack = Callable[[Put], Put]

CHANGED: dict[str, Attack] = {
    "another key": lambda p: replace(p, path=f"/{p.bucket}/uploads/{OTHER_ID}"),
    "a key below it": lambda p: replace(p, path=f"{p.path}/x"),
    "a key with dots": lambda p: replace(p, path=f"/{p.bucket}/uploads/../uploads/{OTHER_ID}"),
    "a key with encoded dots": lambda p: replace(p, path=f"{p.path}%2f%2e%2e%2f{OTHER_ID}"),
    "a key in capitals": lambda p: replace(p, path=p.path.replace("uploads", "UPLOADS")),
    "a doubled slash": lambda p: replace(p, path=p.path.replace("/uploads", "//uploads")),
    "the bucket itself": lambda p: replace(p, path=f"/{p.bucket}"),
    "GET": lambda p: replace(p, method="GET", body=b""),
    "HEAD": lambda p: replace(p, method="HEAD", body=b""),
    "DELETE": lambda p: replace(p, method="DELETE", body=b""),
    "POST": lambda p: replace(p, method="POST"),
    "POST that says PUT": lambda p: replace(p, method="POST").saying(X_HTTP_Method_Override="PUT"),
    "a longer body": lambda p: replace(p, body=BODY + b"x"),
    "a shorter body": lambda p: replace(p, body=BODY[:-1]),
    "no body": lambda p: replace(p, body=b""),
    "a chunked body": lambda p: replace(p, chunked=True),
    "an AWS-chunked body": lambda p: p.saying(
        Content_Encoding="aws-chunked", X_Amz_Content_Sha256="STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    ),
    "another type": lambda p: p.saying(Content_Type="text/html"),
    "a type with a parameter": lambda p: p.saying(Content_Type="image/jpeg; charset=utf-8"),
    "no type": lambda p: p.saying(Content_Type=None),
    "no If-None-Match": lambda p: p.saying(If_None_Match=None),
    "another If-None-Match": lambda p: p.saying(If_None_Match='"x"'),
    "If-Match instead": lambda p: p.saying(If_None_Match=None, If_Match="*"),
    "a later expiry": lambda p: p.asking(X_Amz_Expires="604800"),
    "an endless expiry": lambda p: p.asking(X_Amz_Expires="99999999999"),
    "a negative expiry": lambda p: p.asking(X_Amz_Expires="-1"),
    "no expiry": lambda p: p.asking(X_Amz_Expires=None),
    "two expiries": lambda p: replace(p, query=(*p.query, ("X-Amz-Expires", "604800"))),
    "another date": lambda p: p.asking(X_Amz_Date=earlier(p)),
    "fewer signed headers": lambda p: p.asking(X_Amz_SignedHeaders="host").saying(
        If_None_Match=None
    ),
    "no signature": lambda p: p.asking(X_Amz_Signature=None),
    "an empty signature": lambda p: p.asking(X_Amz_Signature=""),
    "a wrong signature": lambda p: p.asking(X_Amz_Signature="0" * 64),
    "another algorithm": lambda p: p.asking(X_Amz_Algorithm="AWS4-HMAC-SHA1"),
    "another user": lambda p: p.asking(
        X_Amz_Credential="somebody/" + dict(p.query)["X-Amz-Credential"].split("/", 1)[1]
    ),
    "another region": lambda p: p.asking(
        X_Amz_Credential=dict(p.query)["X-Amz-Credential"].replace("us-east-1", "eu-west-1")
    ),
    "a session": lambda p: p.asking(X_Amz_Security_Token="x"),
    "no query": lambda p: replace(p, query=()),
    "another host": lambda p: p.saying(Host="store.example.com"),
    "another name of the host": lambda p: p.saying(Host=p.host.replace("127.0.0.1", "localhost")),
    "an access list in the query": lambda p: p.asking(x_amz_acl="public-read"),
    "the sub-resource acl": lambda p: p.asking(acl=""),
    "the sub-resource tagging": lambda p: p.asking(tagging=""),
    "the sub-resource policy": lambda p: replace(p, path=f"/{p.bucket}").asking(policy=""),
    "a part of an upload": lambda p: p.asking(partNumber="1", uploadId="x"),
    "a version": lambda p: p.asking(versionId="null"),
    "another answer's type": lambda p: p.asking(response_content_type="text/html"),
}


def assert_refused_and_nothing_stored(service: Service, attack: Attack) -> None:
    put = Put.of(service.request(BODY))
    before = service.objects()
    assert attack(put).send() >= 400
    assert service.objects() == before
    assert put.send() == 200, "it was the change that was refused"


@pytest.mark.parametrize("attack", CHANGED.values(), ids=CHANGED)
def test_a_changed_upload_is_refused_and_stores_nothing(service: Service, attack: Attack):
    assert_refused_and_nothing_stored(service, attack)


ELSEWHERE: dict[str, Callable[[Put, str], Put]] = {
    "in the path": lambda p, bucket: replace(p, path=f"/{bucket}/{p.key}"),
    "in the host": lambda p, bucket: p.saying(Host=f"{bucket}.{p.host}"),
}


@pytest.mark.parametrize("attack", ELSEWHERE.values(), ids=ELSEWHERE)
def test_an_upload_to_the_public_bucket_is_refused_and_stores_nothing(
    service: Service, attack: Callable[[Put, str], Put]
):
    public = service.storage.public_bucket
    assert_refused_and_nothing_stored(service, lambda put: attack(put, public))


UNSIGNED = {
    "an access list": {"x-amz-acl": "public-read"},
    "a grant": {"x-amz-grant-read": 'uri="http://acs.amazonaws.com/groups/global/AllUsers"'},
    "a redirect": {"x-amz-website-redirect-location": "https://example.com"},
    "a tag": {"x-amz-tagging": "a=b"},
    "user's metadata": {"x-amz-meta-a": "b"},
    "a content encoding": {"Content-Encoding": "gzip"},
    "a disposition": {"Content-Disposition": "inline"},
    "another method": {"X-HTTP-Method-Override": "DELETE"},
}


@pytest.mark.parametrize("headers", UNSIGNED.values(), ids=UNSIGNED)
def test_an_added_header_makes_nothing_public_and_nothing_else_stored(
    service: Service, headers: dict[str, str]
):
    """AWS refuses `x-amz-` headers that are not signed; a store that takes them opens nothing."""
    presigned = service.request(BODY)
    put = Put.of(presigned)
    before = service.objects()
    status = put.saying(**headers).send()
    assert status == 200 or 400 <= status < 500
    anonymous = replace(put, method="GET", query=(), headers={}, body=b"")
    assert anonymous.send() == 403
    after = service.objects()
    assert (after.pop((put.bucket, put.key), None) is not None) == (status == 200)
    assert after == before
    if status == 200:
        done = service.call("POST", "/complete", json={"upload_id": presigned["upload_id"]})
        assert done.status_code == 202


def test_a_copy_of_somebody_elses_original_is_refused(service: Service):
    """A PUT becomes a copy by one header: with it anybody's original could be made one's own."""
    media_id = service.upload(BODY)  # of the declared size and type
    put = Put.of(service.request(BODY))
    victim = f"{put.bucket}/uploads/{media_id}"
    before = service.objects()
    assert put.saying(x_amz_copy_source=victim).send() == 403
    assert service.objects() == before


CHECKSUMS: dict[str, Attack] = {
    "another body of the same length": lambda p: replace(p, body=BODY[:-1] + b"x"),
    "another checksum": lambda p: replace(p, body=BODY[:-1] + b"x").saying(
        **{"x-amz-checksum-sha256": sha256(BODY[:-1] + b"x")}
    ),
    "no checksum": lambda p: p.saying(**{"x-amz-checksum-sha256": None}),
    "a weaker checksum": lambda p: p.saying(
        **{"x-amz-checksum-sha256": None, "x-amz-checksum-crc32": "AAAAAA=="}
    ),
}


@pytest.mark.parametrize("attack", CHECKSUMS.values(), ids=CHECKSUMS)
def test_a_declared_checksum_admits_no_other_bytes(service: Service, attack: Attack):
    put = Put.of(service.request(BODY, checksum_sha256=sha256(BODY)))
    before = service.objects()
    assert 400 <= attack(put).send() < 500
    assert service.objects() == before
    assert put.send() == 200


def test_a_url_stores_once(service: Service):
    put = Put.of(service.request(BODY))
    assert put.send() == 200
    before = service.objects()
    assert put.send() == 412
    assert replace(put, body=BODY[:-1] + b"x").send() == 412
    assert service.objects() == before


def test_a_url_that_has_expired_stores_nothing(
    service: Service, make_service: Callable[..., Service], monkeypatch
):
    """Signed an hour ago, for less than that."""
    patient = make_service(UPLOAD_URL_TTL_SECONDS=3660)
    with monkeypatch.context() as patch:
        patch.setattr("mediaservice.signing.time", lambda: time.time() - 3600)
        expired, alive = Put.of(service.request(BODY)), Put.of(patient.request(BODY))
    assert alive.send() == 200
    before = service.objects()
    for attack in (expired, expired.asking(X_Amz_Expires="7200")):
        assert attack.send() == 403
    assert service.objects() == before


def test_what_a_url_stores_after_the_delete_is_purged_again(service: Service):
    """A deleted media's URL may live on: its tombstone outlives it, and looks again."""
    presigned = service.request(BODY)
    put = Put.of(presigned)
    key = (put.bucket, put.key)
    assert put.send() == 200
    assert service.call("DELETE", f"/{presigned['upload_id']}").status_code == 204
    purge(service)
    assert key not in service.objects()
    assert put.send() == 200
    done = service.call("POST", "/complete", json={"upload_id": presigned["upload_id"]})
    assert done.status_code == 404
    age_all(service, hours=1)
    purge(service)
    assert key not in service.objects()


def test_an_upload_that_outlasts_its_url_and_the_media_is_purged_in_the_end(service: Service):
    """The store looks at the time when the PUT begins, not when it ends."""
    put = Put.of(presigned := service.request(BODY))
    connection = http.client.HTTPConnection(put.host, timeout=10)
    connection.putrequest("PUT", put.url, skip_host=True)
    for name, value in {"Host": put.host, "Content-Length": str(len(BODY)), **put.headers}.items():
        connection.putheader(name, value)
    connection.endheaders(BODY[:10])
    assert service.call("DELETE", f"/{presigned['upload_id']}").status_code == 204
    for hours in (0, 1):  # the URL is dead, and nothing has come
        age_all(service, hours)
        purge(service)
    connection.send(BODY[10:])
    assert connection.getresponse().status == 200
    connection.close()
    assert (put.bucket, put.key) in service.objects()
    age_all(service, hours=24)
    purge(service)
    assert (put.bucket, put.key) not in service.objects()
    assert service.lifecycle.rows.find(UUID(presigned["upload_id"])) is None


def purge(service: Service) -> None:
    for row in service.lifecycle.deletion.claim(100):
        service.lifecycle.deletion.purge(row)


def age_all(service: Service, hours: int) -> None:
    passed = ", ".join(f"{name} = {name} - make_interval(hours => {hours})" for name in TIMES)
    with service.lifecycle.rows.engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE media SET {passed}"))


def test_keys_come_from_ids_alone(service: Service):
    """Nothing a client says gets into a key."""
    presigned = service.request(BODY, owner_type="event", checksum_sha256=sha256(BODY))
    put = Put.of(presigned)
    assert put.path == f"/{service.storage.raw_bucket}/uploads/{presigned['upload_id']}"


# Who may read


def test_originals_are_not_for_strangers_and_public_objects_only_to_read(service: Service):
    media_id = service.upload(BODY)
    raw_bucket, public_bucket = service.storage.raw_bucket, service.storage.public_bucket
    service.s3.put_object(Bucket=public_bucket, Key=f"media/{media_id}/main.webp", Body=b"x")
    put = Put.of(service.request(BODY))
    anonymous = replace(put, query=(), headers={})
    raw, public = (
        f"/{raw_bucket}/uploads/{media_id}",
        f"/{public_bucket}/media/{media_id}/main.webp",
    )
    buckets = (f"/{raw_bucket}", f"/{public_bucket}", f"/{raw_bucket}/", f"/{public_bucket}/")
    before = service.objects()
    allowed = [
        (method, path, query)
        for method in ("GET", "HEAD", "PUT", "POST", "DELETE", "PATCH")
        for path in (raw, public, *buckets, "/", f"{raw}/../x")
        for query in ((), (("acl", ""),), (("list-type", "2"),), (("versions", ""),))
        if replace(anonymous, method=method, path=path, query=query, body=b"").send() < 300
    ]
    assert service.objects() == before
    assert {(method, path) for method, path, _ in allowed} <= {("GET", public), ("HEAD", public)}
    assert ("GET", public, ()) in allowed
