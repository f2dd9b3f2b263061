"""The OpenAPI document: kept, valid, complete, and true of what the service answers."""

import json
import re
import secrets

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from config.settings import Settings
from docgen.openapi import DOCUMENT, render
from mediaservice import PROJECT, create_app, errors
from mediaservice.errors import Failure
from tests.builders import environment, production
from tests.conformance import operations, resolve, schema_of
from tests.documents import blocks


@pytest.fixture
def document():
    return json.loads(DOCUMENT.read_text())


def test_the_kept_document_is_the_one_of_the_code():
    assert DOCUMENT.read_text() == render(), "run `make openapi` and look at the difference"


def test_the_contract_shows_a_media_and_an_error_as_they_are(document):
    shown = [json.loads(block) for block in blocks(PROJECT / "docs" / "contract.md", "json")]
    for example, name in zip(shown, ("Media", "Error"), strict=True):
        schema = resolve(document, {"$ref": f"#/components/schemas/{name}"})
        OAS31Validator({**schema, "components": document["components"]}).validate(example)
        assert example.keys() == schema["properties"].keys() - {"errors"}


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
    unrouted = {errors.METHOD_NOT_ALLOWED.code}
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


def test_what_is_asked_is_closed_and_what_is_answered_may_grow(document):
    schemas = document["components"]["schemas"]
    closed = {name for name, schema in schemas.items() if not schema.get("additionalProperties", 1)}
    assert closed == {"RequestUpload", "CompleteUpload"}
    # A generated client need not doubt what is always there.
    optional = {
        (name, member)
        for name, schema in schemas.items()
        for member in schema["properties"].keys() - set(schema["required"])
        if name not in closed
    }
    assert optional == {("Error", "errors")}


def test_a_page_has_as_many_media_as_the_contract_says(document):
    listing = document["paths"]["/api/media"]["get"]["parameters"]
    (limit,) = [parameter["schema"] for parameter in listing if parameter["name"] == "limit"]
    contract = (PROJECT / "docs" / "contract.md").read_text()
    (said,) = re.findall(r"`limit` is (\d+) to (\d+) and (\d+) by default", contract)
    assert said == tuple(str(limit[name]) for name in ("minimum", "maximum", "default"))


def test_generated_clients_have_a_name_for_every_call(document):
    names = [operation["operationId"] for _, operation in operations(document)]
    assert len(names) == len(set(names)) == 7
    requested = document["paths"]["/api/media/request-upload"]["post"]["responses"]["201"]
    assert {link["operationId"] for link in requested["links"].values()} < set(names)


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


def examples(document):
    """Yield the name of each call with each of its examples and the content that it is of."""
    for name, operation in operations(document):
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for content in (c for body in bodies for c in body.get("content", {}).values()):
            for example in content.get("examples", {}).values():
                yield name, resolve(document, example)["value"], content
            if "example" in content:
                yield name, content["example"], content


def test_every_example_is_of_its_schema(document):
    checked = set()
    for name, example, content in examples(document):
        OAS31Validator(schema_of(document, content)).validate(example)
        checked.add(name)
    assert checked == {name for name, _ in operations(document)}
    for header in document["components"]["headers"].values():
        OAS31Validator(header["schema"]).validate(header["example"])


def test_a_failed_media_in_an_example_is_described_as_the_service_describes_it(document):
    failed = [
        example["error"]
        for _, example, _ in examples(document)
        if isinstance(example.get("error"), dict)
    ]
    assert failed
    for error in failed:
        code = error["code"]
        assert error["retryable"] == errors.is_worth_retrying(code, is_pinned=True)
        assert error["message"] == errors.describe_error_code(code, is_pinned=True)
