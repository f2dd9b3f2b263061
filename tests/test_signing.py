"""Our signer against botocore's: the same URL, to the byte."""

import hmac
import time
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, parse_qsl, urlsplit

import boto3
import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from hypothesis import example, given
from hypothesis import strategies as st

from mediaservice.signing import UrlSigner

# Without a key it is about the bucket.
keys = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=80).filter(
    lambda key: not key.startswith("/")
)
header_values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
headers = st.dictionaries(
    st.sampled_from(
        ["content-type", "content-length", "if-none-match", "x-amz-checksum-sha256", "x-amz-meta-a"]
    ),
    header_values,
)
queries = st.dictionaries(
    st.sampled_from(["continuation-token", "encoding-type", "list-type", "prefix", "versioning"]),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=60),
)
hosts = st.lists(st.text("az9-", min_size=1, max_size=9), min_size=1, max_size=3).map(".".join)
endpoints = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https"]),
    hosts,
    st.sampled_from(["", ":80", ":443", ":8333"]),
    st.sampled_from(["", "/s3", "/a/b"]),
)
secrets = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=50)
times = st.integers(1_500_000_000, 4_000_000_000).map(lambda s: datetime.fromtimestamp(s, UTC))


def sign_with_botocore(credentials, method, url, headers, region, ttl_seconds, at, monkeypatch):
    request = AWSRequest(method, url, headers=headers)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: at.replace(tzinfo=None))
    S3SigV4QueryAuth(credentials, "s3", region, ttl_seconds).add_auth(request)
    return request.url


@given(
    method=st.sampled_from(["PUT", "GET", "HEAD", "DELETE"]),
    key=keys,
    headers=headers,
    query=queries,
    endpoint=endpoints,
    style=st.sampled_from(["path", "virtual"]),
    region=st.sampled_from(["us-east-1", "eu-west-1", "auto"]),
    access_key=secrets,
    secret_key=secrets,
    token=st.none() | secrets,
    ttl_seconds=st.integers(1, 604_800),
    at=times,
)
@example(
    method="PUT",
    key="uploads/ü/a b+c~d%20.jpg",
    headers={"content-type": "image/jpeg", "content-length": "1", "if-none-match": "*"},
    query={
        "prefix": "ü/a b+c~d%20&=",
        "list-type": "2",
        "continuation-token": "a/b+==",
        "encoding-type": "X-Amz-Algorithm=",
    },
    endpoint="https://s3.example.com",
    style="virtual",
    region="eu-west-1",
    access_key="AKIA",
    secret_key="s/+=",
    token="a/b+c==",
    ttl_seconds=900,
    at=datetime(2026, 1, 1, tzinfo=UTC),
)
@example(
    method="PUT",
    key="k",
    headers={"x-amz-meta-a": "  several   words "},
    query={},
    endpoint="http://[::1]:8333",
    style="path",
    region="us-east-1",
    access_key="a",
    secret_key="s",
    token=None,
    ttl_seconds=1,
    at=datetime(2026, 1, 1, tzinfo=UTC),
)
def test_a_url_equals_botocores_to_the_byte(  # noqa: PLR0917 - hypothesis gives names
    method,
    key,
    headers,
    query,
    endpoint,
    style,
    region,
    access_key,
    secret_key,
    token,
    ttl_seconds,
    at,
):
    credentials = Credentials(access_key, secret_key, token)
    signer = UrlSigner(
        credentials.get_frozen_credentials,
        endpoint=endpoint,
        region=region,
        addressing_style=style,
    )
    ours = signer.presign(method, "raw", key, headers, ttl_seconds=ttl_seconds, at=at, query=query)
    with pytest.MonkeyPatch.context() as monkeypatch:
        theirs = sign_with_botocore(
            credentials,
            method,
            ours.partition("X-Amz-Algorithm=")[0].rstrip("?&"),
            headers,
            region,
            ttl_seconds,
            at,
            monkeypatch,
        )
    assert ours == theirs
    named = dict(parse_qsl(urlsplit(ours).query, keep_blank_values=True))
    assert {n: value for n, value in named.items() if not n.startswith("X-Amz-")} == query


def signer_of(find_credentials):
    """Return a signer of one plain store."""
    return UrlSigner(find_credentials, endpoint="http://store", region="r", addressing_style="path")


def test_a_signer_that_lives_for_days_signs_each_url_as_of_its_day():
    credentials = Credentials("access", "secret")
    signer = signer_of(credentials.get_frozen_credentials)
    midnight = datetime(2026, 5, 6, tzinfo=UTC)
    for seconds in (-2, -1, 0, 1, -1):
        at = midnight + timedelta(seconds=seconds)
        ours = signer.presign("GET", "raw", "k", {}, ttl_seconds=9, at=at)
        with pytest.MonkeyPatch.context() as monkeypatch:
            theirs = sign_with_botocore(
                credentials, "GET", "http://store/raw/k", {}, "r", 9, at, monkeypatch
            )
        assert ours == theirs


def test_the_signing_key_is_derived_once_a_day(monkeypatch):
    digest, derivations = hmac.digest, []

    def derive(*arguments):
        derivations.append(arguments)
        return digest(*arguments)

    monkeypatch.setattr("mediaservice.signing.hmac.digest", derive)
    signer = signer_of(Credentials("access", "secret").get_frozen_credentials)
    midnight = datetime(2026, 5, 6, tzinfo=UTC)
    counts = []
    for seconds in (0, 1, 86_399, 86_400):
        at = midnight + timedelta(seconds=seconds)
        signer.presign("GET", "raw", "k", {}, ttl_seconds=9, at=at)
        counts.append(len(derivations))
    assert counts == [4, 4, 4, 8]


@pytest.mark.parametrize("zone", ["UTC+11", "UTC-14"])
def test_urls_are_signed_in_utc_wherever_the_machine_is(zone):
    signer = signer_of(Credentials("access", "secret").get_frozen_credentials)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        before = datetime.now(UTC).replace(microsecond=0)
        url = signer.presign("GET", "raw", "k", {}, ttl_seconds=1)
        after = datetime.now(UTC)
    time.tzset()
    (date,) = parse_qs(urlsplit(url).query)["X-Amz-Date"]
    assert before <= datetime.strptime(date, "%Y%m%dT%H%M%S%z") <= after


@pytest.mark.parametrize("style", ["path", "virtual"])
@pytest.mark.parametrize("key", ["uploads/01a2", "a b/ü+~(1).jpg", "x/../y//z"])
def test_a_url_equals_what_a_boto3_client_presigns(monkeypatch, style, key):
    at = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: at.replace(tzinfo=None))
    session = boto3.Session("access", "secret", region_name="eu-west-1")
    client = session.client(
        "s3",
        endpoint_url="https://store.example.com:9000",
        config=Config(signature_version="s3v4", s3={"addressing_style": style}),
    )
    theirs = client.generate_presigned_url(
        "put_object",
        Params={
            "Bucket": "raw",
            "Key": key,
            "ContentType": "image/png",
            "ContentLength": 7,
            "IfNoneMatch": "*",
            "ChecksumSHA256": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        },
        ExpiresIn=60,
    )
    signer = UrlSigner(
        session.get_credentials().get_frozen_credentials,
        endpoint="https://store.example.com:9000",
        region="eu-west-1",
        addressing_style=style,
    )
    ours = signer.presign(
        "PUT",
        "raw",
        key,
        {
            "content-type": "image/png",
            "content-length": "7",
            "if-none-match": "*",
            "x-amz-checksum-sha256": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        },
        ttl_seconds=60,
        at=at,
    )
    assert ours == theirs


@pytest.mark.parametrize("style", ["path", "virtual"])
def test_a_url_about_a_bucket_equals_what_a_boto3_client_presigns(monkeypatch, style):
    at = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: at.replace(tzinfo=None))
    session = boto3.Session("access", "secret", region_name="eu-west-1")
    endpoint = "https://store.example.com:9000"
    client = session.client(
        "s3",
        endpoint_url=endpoint,
        config=Config(signature_version="s3v4", s3={"addressing_style": style}),
    )
    listed = {"Bucket": "raw", "Prefix": "ü/a b", "ContinuationToken": "a/b+=="}
    theirs = client.generate_presigned_url("list_objects_v2", Params=listed, ExpiresIn=60)
    signer = UrlSigner(
        session.get_credentials().get_frozen_credentials,
        endpoint=endpoint,
        region="eu-west-1",
        addressing_style=style,
    )
    query = {
        "prefix": "ü/a b",
        "continuation-token": "a/b+==",
        "list-type": "2",
        "encoding-type": "url",
    }
    ours = signer.presign("GET", "raw", "", {}, ttl_seconds=60, at=at, query=query)
    # Ours are in order, boto3's are not.
    assert in_order(ours) == in_order(theirs)


def in_order(url):
    """Return a URL without its query, and what stands in that, in order."""
    address, _, query = url.partition("?")
    return address, sorted(query.split("&"))


@pytest.mark.parametrize("rotated", [("second", "2"), ("second", "1"), ("first", "2")])
def test_keys_that_rotate_are_asked_for_at_every_signature(rotated):
    before, after = Credentials("first", "1", "t1"), Credentials(*rotated, "t2")

    def presign(*keys):
        asked = iter(keys)
        signer = signer_of(lambda: next(asked).get_frozen_credentials())
        at = datetime(2026, 1, 1, tzinfo=UTC)
        return [signer.presign("GET", "raw", "k", {}, ttl_seconds=1, at=at) for _ in keys]

    urls = presign(before, after)
    assert urls == [*presign(before), *presign(after)]
    assert "X-Amz-Security-Token=t2" in urls[1]
