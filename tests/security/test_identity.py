"""Who gets in: every way to forge, stretch or steal an identity ends in the same 401."""

import base64
import hmac
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any, Self
from uuid import uuid4

import jwt
import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from mediaservice import auth, create_app, jwks
from tests.builders import settings
from tests.security.tokens import (
    ALICE,
    BOB,
    SECRET,
    claims,
    ec_key,
    forged,
    jwk,
    pem,
    rsa_key,
    token,
)

PATH = "/api/media"
RSA_KEY, OTHER_RSA_KEY, EC_KEY = rsa_key(), rsa_key(), ec_key()


@pytest.fixture(scope="module")
def hs256(make_sqlite_url: Callable[[], str]) -> Flask:
    return create_app(
        settings(
            DATABASE_URL=make_sqlite_url(),
            AUTH_MODE="jwt",
            JWT_SECRET=SECRET,
            JWT_LEEWAY_SECONDS=5,
        )
    )


@pytest.fixture
def client(hs256: Flask) -> FlaskClient:
    return hs256.test_client()


@pytest.fixture
def make_client(hs256: Flask, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FlaskClient]:
    """Clients of the same application that knows its callers otherwise: making another is slow."""

    def make(**variables: str) -> FlaskClient:
        authenticate = auth.create_authenticator(settings(**variables))
        parts = replace(hs256.extensions["media"], authenticate=authenticate)
        monkeypatch.setitem(hs256.extensions, "media", parts)
        return hs256.test_client()

    return make


def call(client: FlaskClient, bearer: str | None = None, **headers: str) -> TestResponse:
    if bearer is not None:
        headers["Authorization"] = f"Bearer {bearer}"
    return client.get(PATH, headers={name.replace("_", "-"): v for name, v in headers.items()})


def assert_refused(response: TestResponse) -> None:
    assert response.status_code == 401
    body = response.get_json()
    assert body.pop("request_id")
    assert body == {
        "code": 401,
        "status": "Unauthorized",
        "error": "unauthenticated",
        "message": "Say who you are: the request has no valid credentials.",
    }
    assert response.headers["WWW-Authenticate"] == "Bearer"


# HS256


def test_a_valid_token_is_its_subject(client):
    response = call(client, token())
    assert response.status_code == 200
    refused = client.get(f"{PATH}?owner_id={BOB}", headers={"Authorization": f"Bearer {token()}"})
    assert refused.status_code == 403


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": None},
        {"exp": 0},
        {"exp": "soon"},
        {"exp": [1]},
        {"exp": float("inf")},
        {"nbf": {}},
        {"iat": "yesterday"},
        {"sub": None},
        {"sub": ""},
        {"sub": "alice"},
        {"sub": 7},
        {"sub": [str(ALICE)]},
        {"sub": {"id": str(ALICE)}},
        {"sub": True},
        {"sub": ALICE.hex},
        {"sub": f"urn:uuid:{ALICE}"},
        {"sub": f"{{{ALICE}}}"},
        {"sub": f" {ALICE}"},
        {"sub": f"{ALICE}\n"},
        {"sub": f"{ALICE}\0"},
        {"sub": str(ALICE).replace("0", "\uff10")},
        {"sub": str(ALICE).replace("-", "\u2010")},
        {"sub": "\ud800" * 36},
        {"sub": str(ALICE) * 100},
        {"sub": "00000000-0000-0000-0000-000000000000"},
    ],
    ids=str,
)
def test_a_signed_token_with_wrong_claims_is_refused(client, changes):
    # PyJWT's own encoder refuses some of these, but an issuer may have another.
    payload = json.dumps(claims(**changes)).encode()
    assert_refused(call(client, jwt.PyJWS().encode(payload, SECRET, "HS256")))


@pytest.mark.parametrize(
    "payload", [b"", b"null", b"[]", b'"x"', b"\xff\xfe", b"[" * 4000, b'{"exp":' + b"9" * 5000]
)
def test_a_signed_token_whose_payload_is_no_object_is_refused(client, payload):
    assert_refused(call(client, jwt.PyJWS().encode(payload, SECRET, "HS256")))


@pytest.mark.parametrize(("name", "seconds"), [("exp", -60), ("nbf", 600), ("iat", 600)])
def test_a_token_out_of_its_time_is_refused(client, name, seconds):
    assert_refused(call(client, token(**{name: int(time.time()) + seconds})))


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
def test_clocks_may_differ_by_the_leeway(client, name):
    seconds = -1 if name == "exp" else 3
    assert call(client, token(**{name: int(time.time()) + seconds})).status_code == 200


def test_a_token_that_has_been_verified_before_still_expires(client, monkeypatch):
    now = time.time()
    bearer = token(exp=int(now) + 60)
    assert call(client, bearer).status_code == 200
    monkeypatch.setattr(auth.time, "time", lambda: now + 66)
    assert_refused(call(client, bearer))


def test_a_token_that_has_been_verified_before_is_known_by_its_whole_text(client):
    bearer = token()
    assert call(client, bearer).status_code == 200
    head, payload, signature = bearer.split(".")
    for changed in (f"{head}.{payload}.", f"{head}.{payload}.{signature[:-4]}AAAA", bearer[:-1]):
        assert_refused(call(client, changed))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, 7, ["HS256"]])
def test_a_token_without_a_signature_is_refused(client, algorithm):
    assert_refused(call(client, forged({"alg": algorithm, "typ": "JWT"}, claims())))
    assert_refused(call(client, forged({"typ": "JWT"}, claims())))


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_the_algorithm_is_pinned_even_for_the_right_secret(client, algorithm):
    assert_refused(call(client, token(SECRET * 2, algorithm)))
    header = forged({"alg": algorithm}, b"").split(".")[0]
    assert_refused(call(client, ".".join([header, *token().split(".")[1:]])))


def test_another_secret_a_changed_payload_and_a_cut_signature_are_refused(client):
    good = token()
    header, payload, signature = good.split(".")
    other = token(sub=str(BOB)).split(".")[1]
    for bad in (
        token("x" + SECRET),
        f"{header}.{other}.{signature}",
        f"{header}.{payload}.{signature[:-2]}",
        f"{header}.{payload}.",
        f"{header}.{payload}",
        f"{good}.{signature}",
        f"{header}\n.{payload}.{signature}".replace("\n", " "),
    ):
        assert_refused(call(client, bad))


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 6000,
        b'{"a":' * 1000,
        b'{"alg":' + b"9" * 5000 + b"}",
        {"alg": "HS256", "crit": ["exp"]},
        {"alg": "HS256", "b64": False},
        {"alg": "HS256", "kid": {"$ne": None}},
        {"alg": "HS256", "jku": "http://127.0.0.1:9/keys", "x5u": "http://127.0.0.1:9/"},
        {"alg": "HS256", "jwk": {"kty": "oct", "k": "AA"}},
        [],
        b"\xff",
        b"",
    ],
    ids=lambda header: str(header)[:40],
)
def test_a_hostile_header_is_refused(client, header):
    assert_refused(call(client, forged(header, claims(), b"x" * 32)))


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer  ",
        "Basic YTpi",
        "bearer",
        "Bearer .",
        "Bearer ..",
        "Bearer a.b.c",
        "Bearer " + "a" * 8193,
        "Bearer " + "a" * 60_000,
        "Bearer \xe9\xff",
        "Token abc",
        "Bearer a, Bearer b",
    ],
    ids=lambda value: value[:20],
)
def test_a_header_without_a_token_is_refused(client, authorization):
    assert_refused(client.get(PATH, headers={"Authorization": authorization}))


def test_a_token_in_query_body_or_cookie_is_no_token(client):
    assert_refused(client.get(f"{PATH}?access_token={token()}"))
    assert_refused(client.post(f"{PATH}/complete", json={"access_token": token()}))
    assert_refused(client.get(PATH, headers={"Cookie": f"Authorization=Bearer {token()}"}))


def test_a_header_that_names_a_user_means_nothing_in_jwt_mode(client):
    assert_refused(call(client, X_User_ID=str(ALICE)))
    response = client.get(
        f"{PATH}?owner_id={BOB}",
        headers={"Authorization": f"Bearer {token()}", "X-User-ID": str(BOB)},
    )
    assert response.status_code == 403


def test_no_bytes_in_the_header_are_an_error_of_ours(client):
    @given(st.text(st.characters(min_codepoint=1, max_codepoint=255, exclude_characters="\r\n")))
    def refused(value):
        assert_refused(client.get(PATH, headers={"Authorization": f"Bearer {value}"}))

    refused()


# Audience and issuer


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"aud": "media", "iss": "https://id"}, 200),
        ({"aud": ["other", "media"], "iss": "https://id"}, 200),
        ({"aud": "other", "iss": "https://id"}, 401),
        ({"aud": ["other"], "iss": "https://id"}, 401),
        ({"aud": [], "iss": "https://id"}, 401),
        ({"aud": [["media"]], "iss": "https://id"}, 401),
        ({"aud": {"media": 1}, "iss": "https://id"}, 401),
        ({"aud": "media,other", "iss": "https://id"}, 401),
        ({"iss": "https://id"}, 401),
        ({"aud": "media"}, 401),
        ({"aud": "media", "iss": "https://id/"}, 401),
        ({"aud": "media", "iss": ["https://id"]}, 401),
        ({"aud": "media", "iss": 7}, 401),
    ],
    ids=str,
)
def test_audience_and_issuer_must_be_ours_when_configured(make_client, changes, status):
    client = make_client(
        AUTH_MODE="jwt", JWT_SECRET=SECRET, JWT_AUDIENCE="media", JWT_ISSUER="https://id"
    )
    payload = json.dumps(claims(**changes)).encode()
    assert call(client, jwt.PyJWS().encode(payload, SECRET, "HS256")).status_code == status


# Gateway and development


def test_the_gateway_is_believed_by_its_token_alone(make_client):
    client = make_client(AUTH_MODE="gateway", GATEWAY_TOKEN=SECRET)
    assert call(client, SECRET, X_User_ID=str(ALICE)).status_code == 200
    for bearer, user in (
        (SECRET, ""),
        (SECRET, "alice"),
        (SECRET, f"{ALICE}, {BOB}"),
        (SECRET[:-1], str(ALICE)),
        (SECRET + "x", str(ALICE)),
        (SECRET.lower(), str(ALICE)),
        ("\xe9" * 32, str(ALICE)),
        (token(), str(ALICE)),
    ):
        assert_refused(call(client, bearer, X_User_ID=user))
    assert_refused(call(client, X_User_ID=str(ALICE)))
    assert_refused(call(client, SECRET))


@pytest.mark.parametrize(
    ("environ", "status"),
    [
        ({"REMOTE_ADDR": "127.0.0.1"}, 200),
        ({"REMOTE_ADDR": "127.8.9.1"}, 200),
        ({"REMOTE_ADDR": "::1", "HTTP_HOST": "[::1]:8000"}, 200),
        ({"REMOTE_ADDR": "10.0.0.1"}, 401),
        ({"REMOTE_ADDR": "::ffff:10.0.0.1"}, 401),
        ({"REMOTE_ADDR": ""}, 401),
        ({"REMOTE_ADDR": "unix:"}, 401),
        ({"HTTP_X_FORWARDED_FOR": "203.0.113.7"}, 401),
        ({"HTTP_FORWARDED": "for=203.0.113.7"}, 401),
        ({"HTTP_HOST": "rebound.example.com"}, 401),
        ({"HTTP_HOST": "127.0.0.1.example.com:8000"}, 401),
    ],
    ids=str,
)
def test_development_believes_this_machine_alone(make_client, environ, status):
    client = make_client(AUTH_MODE="development")
    environ = {"HTTP_HOST": "localhost:8000", "HTTP_X_USER_ID": str(ALICE), **environ}
    assert client.get(PATH, environ_overrides=environ).status_code == status


# Every endpoint


def rules_of(app: Flask) -> Iterator[tuple[str, str]]:
    for rule in app.url_map.iter_rules():
        path = rule.rule.replace("<uuid:media_id>", str(uuid4()))
        for argument in rule.arguments - {"media_id"}:
            path = path.replace(f"<path:{argument}>", "x").replace(f"<{argument}>", "x")
        for method in sorted((rule.methods or set()) - {"OPTIONS"}):
            yield method, path


def test_every_endpoint_needs_a_caller_but_those_that_are_for_all(client):
    open_to_all = ("/", "/healthz", "/readyz", "/api/openapi.json")
    checked = []
    for method, path in rules_of(client.application):
        if path in open_to_all or path.startswith(("/static/", "/api/docs")):
            continue
        response = client.open(path, method=method, headers={"X-User-ID": str(ALICE)})
        if path == "/metrics":
            assert response.status_code in (200, 401)
            continue
        assert response.status_code == 401, (method, path)
        checked.append((method, path.split("/")[-1]))
    assert {"request-upload", "complete", "media", "status"} <= {name for _, name in checked}
    assert {"GET", "HEAD", "POST", "DELETE"} <= {method for method, _ in checked}


def test_the_document_says_that_every_call_needs_a_caller():
    for mode, schemes in (
        ({"AUTH_MODE": "jwt", "JWT_SECRET": SECRET}, {"bearer"}),
        ({"AUTH_MODE": "gateway", "GATEWAY_TOKEN": SECRET}, {"bearer", "user"}),
        ({"AUTH_MODE": "development"}, {"user"}),
    ):
        app = create_app(settings(**mode))
        document = app.test_client().get("/api/openapi.json").get_json()
        assert set(document["components"]["securitySchemes"]) == schemes
        assert document["security"] == [{scheme: [] for scheme in schemes}]


# RS256 and ES256


class Provider:
    """An identity provider on loopback: what it answers, and how often it was asked."""

    def __init__(self) -> None:
        self.answer: bytes | None = b""
        self.status = 200
        self.requests = 0
        self.asked_by = ""
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.requests += 1
                provider.asked_by = self.headers["User-Agent"]
                if provider.answer is None:
                    return
                self.send_response(provider.status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(provider.answer)))
                self.end_headers()
                self.wfile.write(provider.answer)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"

    def publish(self, *keys: dict[str, Any]) -> None:
        self.answer = json.dumps({"keys": keys}).encode()


@pytest.fixture
def provider() -> Iterator[Provider]:
    found = Provider()
    thread = Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(jwks, "time", found)
    return found


@pytest.fixture
def rs256(make_client, provider, clock) -> FlaskClient:
    provider.publish(jwk(RSA_KEY, "one"))
    return make_client(AUTH_MODE="jwt", JWT_ALGORITHM="RS256", JWT_JWKS_URL=provider.url)


def signed(key: Any = RSA_KEY, kid: str | None = "one", **changes: Any) -> str:
    return token(key, "RS256", kid, **changes)


def test_a_published_key_is_fetched_once_and_lets_in(rs256, provider):
    for _ in range(3):
        assert call(rs256, signed()).status_code == 200
    assert (provider.requests, provider.asked_by) == (1, "media-service")
    assert_refused(call(rs256, signed(exp=1)))
    assert_refused(call(rs256, signed(OTHER_RSA_KEY)))
    assert provider.requests == 1


def test_elliptic_keys_do_as_well(make_client, provider):
    provider.publish(jwk(RSA_KEY, "rsa"), jwk(EC_KEY, "ec"))
    client = make_client(AUTH_MODE="jwt", JWT_ALGORITHM="ES256", JWT_JWKS_URL=provider.url)
    assert call(client, token(EC_KEY, "ES256", "ec")).status_code == 200
    assert_refused(call(client, token(EC_KEY, "ES256", "rsa")))
    assert_refused(call(client, signed(kid="rsa")))
    assert_refused(call(client, token(ec_key(), "ES256", "ec")))


def test_a_public_key_is_no_secret_to_sign_with(rs256):
    """RS256 to HS256: the classic confusion, with the public key as the HMAC's."""
    for secret in (pem(RSA_KEY), json.dumps(jwk(RSA_KEY, "one")).encode(), b""):
        for algorithm in ("HS256", "none"):
            unsigned = forged({"alg": algorithm, "kid": "one"}, claims()).rpartition(".")[0]
            signature = hmac.digest(secret, unsigned.encode(), "sha256")
            assert_refused(call(rs256, forged_with(unsigned, signature)))


def forged_with(unsigned: str, signature: bytes) -> str:
    return f"{unsigned}.{forged(b'', b'', signature).rpartition('.')[2]}"


def test_a_shared_secret_among_the_published_keys_is_not_used(rs256, provider):
    secret = {"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T", "kid": "one"}
    provider.publish(secret, {**secret, "alg": "RS256"}, jwk(RSA_KEY, "two"))
    key = base64.urlsafe_b64decode(secret["k"] + "==")
    assert_refused(call(rs256, token(key, "HS256", "one")))
    assert_refused(call(rs256, signed(kid="one")))
    assert call(rs256, signed(kid="two")).status_code == 200


@pytest.mark.parametrize(
    "kid",
    [
        "../../../../dev/null",
        "' OR 1=1 --",
        "http://127.0.0.1:9/",
        "one\0",
        "one\n",
        "ONE",
        "",
        "x" * 5000,
        "\ud800",
        None,
    ],
    ids=lambda kid: str(kid)[:20].encode("unicode_escape").decode(),
)
def test_a_key_id_is_only_ever_compared(rs256, provider, kid):
    header = {"alg": "RS256"} if kid is None else {"alg": "RS256", "kid": kid}
    assert_refused(call(rs256, forged(header, claims(), b"x" * 256)))
    assert provider.requests <= 1


@pytest.mark.parametrize("kid", [7, ["one"], {"one": 1}, True])
def test_a_key_id_that_is_no_text_is_refused(rs256, kid):
    assert_refused(call(rs256, forged({"alg": "RS256", "kid": kid}, claims(), b"x" * 256)))


@pytest.mark.parametrize("field", [{"use": "enc"}, {"alg": "RS512"}, {"alg": "PS256"}])
def test_a_key_published_for_something_else_is_not_used(rs256, provider, field):
    provider.publish(jwk(RSA_KEY, "one", **field), jwk(OTHER_RSA_KEY, "two"))
    assert_refused(call(rs256, signed()))
    assert call(rs256, signed(OTHER_RSA_KEY, "two")).status_code == 200


def test_a_rotated_key_lets_in_and_the_old_one_no_more(rs256, provider, clock):
    assert call(rs256, signed()).status_code == 200
    provider.publish(jwk(OTHER_RSA_KEY, "two"))
    clock.now += jwks.RETRY_SECONDS
    assert call(rs256, signed(OTHER_RSA_KEY, "two")).status_code == 200
    assert_refused(call(rs256, signed()))
    assert provider.requests == 2


def test_a_token_that_was_verified_by_a_replaced_key_is_refused(rs256, provider, clock):
    bearer = signed()
    assert call(rs256, bearer).status_code == 200
    provider.publish(jwk(OTHER_RSA_KEY, "one"))
    assert call(rs256, bearer).status_code == 200
    clock.now += jwks.LIFESPAN_SECONDS
    assert_refused(call(rs256, bearer))


def test_a_withdrawn_key_is_forgotten_when_the_keys_are_old(rs256, provider, clock):
    assert call(rs256, signed()).status_code == 200
    provider.publish(jwk(OTHER_RSA_KEY, "two"))
    clock.now += jwks.LIFESPAN_SECONDS
    assert_refused(call(rs256, signed()))


def test_made_up_key_ids_cannot_make_us_storm_the_provider(rs256, provider, clock):
    for second in range(30):
        clock.now += 1
        for _ in range(5):
            assert_refused(call(rs256, signed(kid=f"made-up-{second}")))
    assert provider.requests <= 1 + 30 / jwks.RETRY_SECONDS
    assert call(rs256, signed()).status_code == 200


def test_a_token_of_another_algorithm_makes_nobody_be_asked(rs256, provider):
    assert_refused(call(rs256, token(kid="new")))
    assert_refused(call(rs256, forged({"alg": "none", "kid": "new"}, claims())))
    assert provider.requests == 0


def assert_unavailable(response: TestResponse) -> None:
    assert response.status_code == 503
    assert response.get_json()["error"] == "authentication_unavailable"
    assert int(response.headers["Retry-After"]) == jwks.RETRY_SECONDS


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (500, b"{}"),
        (404, b"not found"),
        (302, b""),
        (200, b""),
        (200, b"<html>"),
        (200, b"null"),
        (200, b"[]"),
        (200, b'{"keys": []}'),
        (200, b'{"keys": 7}'),
        (200, b'{"keys": [7, null, {"kty": "RSA", "n": 7, "e": []}]}'),
        (200, b"[" * 100_000),
        (200, b'{"keys": ["' + b"x" * jwks.MAX_BYTES + b'"]}'),
        (200, None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_provider_that_fails_is_a_503_and_is_not_asked_at_once_again(
    rs256, provider, clock, status, answer
):
    provider.status, provider.answer = status, answer
    for _ in range(3):
        assert_unavailable(call(rs256, signed()))
    assert provider.requests == 1
    provider.status = 200
    provider.publish(jwk(RSA_KEY, "one"))
    clock.now += jwks.RETRY_SECONDS
    assert call(rs256, signed()).status_code == 200


def test_a_provider_that_only_has_weak_keys_is_a_503(rs256, provider):
    weak = rsa_key(1024)
    provider.publish(jwk(weak, "weak"))
    good_looking = forged({"alg": "RS256", "kid": "weak"}, claims(), b"x" * 128)
    assert_unavailable(call(rs256, good_looking))


def test_known_keys_outlive_an_outage_but_not_for_ever(rs256, provider, clock):
    assert call(rs256, signed()).status_code == 200
    provider.status = 500
    clock.now += jwks.LIFESPAN_SECONDS
    assert call(rs256, signed()).status_code == 200
    assert_refused(call(rs256, signed(OTHER_RSA_KEY)))
    assert_unavailable(call(rs256, signed(kid="perhaps-new")))
    clock.now += jwks.STALE_SECONDS
    assert_unavailable(call(rs256, signed()))


def test_a_provider_that_cannot_be_reached_is_a_503(make_client):
    client = make_client(
        AUTH_MODE="jwt", JWT_ALGORITHM="RS256", JWT_JWKS_URL="http://127.0.0.1:9/keys"
    )
    assert_unavailable(call(client, signed()))


def test_a_provider_that_hangs_is_left_and_asked_again_only_after_a_pause(
    provider, clock, monkeypatch
):
    """As when a resolver does not answer, which no time-out of a socket bounds."""
    keys = jwks.SigningKeys(provider.url, "RS256")
    asked, left = [], Event()

    def hang(*_: object, **__: object) -> None:
        asked.append(clock.now)
        clock.now += jwks.RETRY_SECONDS
        assert left.wait(60), "the caller waits for the provider"

    monkeypatch.setattr(jwks, "TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(keys._opener, "open", hang)
    for _ in range(2):
        with pytest.raises(jwks.KeysUnavailable):
            keys.find("one")
    assert len(asked) == 1
    clock.now += jwks.RETRY_SECONDS
    with pytest.raises(jwks.KeysUnavailable):
        keys.find("one")
    assert len(asked) == 2
    left.set()


def test_an_answer_that_trickles_is_given_up(clock, provider, monkeypatch):
    """Each piece comes in time, the whole never does."""

    class Trickle:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read1(self, _: int) -> bytes:
            clock.now += jwks.TIMEOUT_SECONDS / 4
            return b" "

    keys = jwks.SigningKeys(provider.url, "RS256")
    monkeypatch.setattr(keys._opener, "open", lambda *_, **__: Trickle())
    started = clock.now
    with pytest.raises(jwks.KeysUnavailable):
        keys.find("one")
    assert clock.now - started <= 2 * jwks.TIMEOUT_SECONDS
