"""The OpenAPI document: kept, valid, complete, and true of what the service answers."""

import json
import secrets

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from config.settings import Settings
from docgen.openapi import DOCUMENT, render
from mediaservice import create_app, errors
from mediaservice.errors import Failure
from tests.builders import environment, production
from tests.conformance import operations, resolve, schema_of


@pytest.fixture
def document():
    return json.loads(DOCUMENT.read_text())


def test_the_kept_document_is_the_one_of_the_code():
    assert DOCUMENT.read_text() == render(), "run `make openapi` and look at the difference"


@pytest.mark.parametrize(
    "variables",
    [
        production(),
        environment(MAX_UPLOAD_BYTES="1", ALLOWED_CONTENT_TYPES="image/png"),
        environment(AUTH_MODE="gateway", GATEWAY_TOKEN=secrets.token_hex(32)),
    ],
    ids=["production", "limits", "gateway"],
)
def test_no_setting_changes_the_document_but_for_authentication(document, variables):
    app = create_app(Settings.from_environ(variables))
    served = app.test_client().get("/api/openapi.json").json
    for one in (served, document):
        assert one.pop("security")
        assert one["components"].pop("securitySchemes")
    assert served == document


def test_the_document_is_valid_openapi(document):
    validate(document)
    assert document["openapi"].startswith("3.1")


def test_every_failure_there_is_belongs_to_a_call(document):
    documented = {
        code
        for _, operation in operations(document)
        for response in operation["responses"].values()
        for content in response.get("content", {}).values()
        for code in content.get("examples", {})
    }
    known = {value.code for value in vars(errors).values() if isinstance(value, Failure)}
    unrouted = {errors.NOT_FOUND.code, errors.METHOD_NOT_ALLOWED.code}
    known -= {errors.REPROCESSING_NOT_POSSIBLE.code}  # of the command line
    assert known - unrouted <= documented


def test_every_schema_is_referred_to(document):
    text = json.dumps(document)
    unused = {
        name
        for name in document["components"]["schemas"]
        if f'"#/components/schemas/{name}"' not in text
    }
    assert unused == set()


def test_every_call_is_told_in_words_and_examples(document):
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        for status, response in operation["responses"].items():
            assert response["description"], (name, status)
            assert "X-Request-ID" in response["headers"], (name, status)
            for content in response.get("content", {}).values():
                assert content.get("example") or content.get("examples"), (name, status)
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert content["example"], name


def test_every_example_is_of_its_schema(document):
    checked = 0
    for name, operation in operations(document):
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for content in (c for body in bodies for c in body.get("content", {}).values()):
            examples = [resolve(document, e)["value"] for e in content.get("examples", {}).values()]
            for example in [*examples, *([content["example"]] if "example" in content else [])]:
                OAS31Validator(schema_of(document, content)).validate(example)
                checked += 1
        assert checked, name
    for header in document["components"]["headers"].values():
        OAS31Validator(header["schema"]).validate(header["example"])
