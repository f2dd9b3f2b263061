"""docs/messages: kept, valid, and of one mind with the decoder of the code."""

import json

import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator

from docgen.messages import ASYNCAPI, FOLDER, render, schema_name
from mediaservice import PROJECT
from mediaservice.messages import (
    MEDIA_FAILED,
    MEDIA_PROCESS,
    MEDIA_PROCESSED,
    MESSAGE_TYPES,
    MalformedMessage,
    decode,
)
from mediaworker.contract import SAMPLE_JOB
from tests.npm import install

KEY = f"{SAMPLE_JOB.public_prefix}main.webp"
MEDIA_ID = str(SAMPLE_JOB.media_id)


def schema_of(routing_key):
    return json.loads((FOLDER / schema_name(routing_key)).read_text())


@pytest.fixture(scope="module")
def asyncapi():
    return yaml.safe_load((FOLDER / ASYNCAPI).read_text())


def test_the_kept_files_are_those_of_the_code():
    kept = {path.name: path.read_text() for path in FOLDER.iterdir() if path.suffix != ".md"}
    assert kept == render(), "run `make contract` and look at the difference"


@pytest.mark.parametrize("routing_key", MESSAGE_TYPES)
def test_schemas_are_valid_and_take_their_own_examples_as_the_decoder_does(routing_key):
    schema = schema_of(routing_key)
    Draft202012Validator.check_schema(schema)
    assert schema["examples"]
    for example in schema["examples"]:
        Draft202012Validator(schema).validate(example)
        assert decode(routing_key, json.dumps(example).encode())


@pytest.mark.parametrize(
    ("routing_key", "message"),
    [
        (MEDIA_PROCESSED, {"media_id": MEDIA_ID}),
        (MEDIA_PROCESSED, {"public_key": KEY}),
        (MEDIA_PROCESSED, {"media_id": MEDIA_ID, "public_key": "elsewhere/main.webp"}),
        (MEDIA_PROCESSED, {"media_id": MEDIA_ID, "public_key": f"{KEY}/../x"}),
        (MEDIA_PROCESSED, {"media_id": MEDIA_ID, "public_key": KEY, "width": 0}),
        (MEDIA_PROCESSED, {"media_id": MEDIA_ID, "public_key": KEY, "height": "640"}),
        (MEDIA_PROCESSED, {"media_id": MEDIA_ID, "public_key": KEY, "variants": [{"name": "x"}]}),
        (MEDIA_PROCESSED, {"media_id": MEDIA_ID, "public_key": KEY, "placeholder": "<script>"}),
        (MEDIA_FAILED, {}),
        (MEDIA_FAILED, {"media_id": MEDIA_ID, "attempt": 0}),
        (MEDIA_FAILED, {"media_id": MEDIA_ID, "error": {"code": "Not A Code"}}),
        (MEDIA_FAILED, {"media_id": MEDIA_ID, "error": "it broke"}),
        (MEDIA_PROCESS, {"media_id": MEDIA_ID}),
    ],
)
def test_what_a_schema_refuses_the_decoder_refuses(routing_key, message):
    assert list(Draft202012Validator(schema_of(routing_key)).iter_errors(message))
    with pytest.raises(MalformedMessage):
        decode(routing_key, json.dumps(message).encode())


def test_both_take_messages_that_are_newer_than_they_are():
    message = {"media_id": MEDIA_ID, "public_key": KEY, "colours": ["red"]}
    Draft202012Validator(schema_of(MEDIA_PROCESSED)).validate(message)
    assert decode(MEDIA_PROCESSED, json.dumps(message).encode())


@pytest.mark.slow
def test_the_document_is_valid_asyncapi(asyncapi, tmp_path):
    packages = install(PROJECT / "tests" / "contract" / "npm", tmp_path)
    rules = packages / "node_modules/@asyncapi/specs/schemas/3.0.0-without-$id.json"
    validator = Draft7Validator(json.loads(rules.read_text()))
    assert [error.message for error in validator.iter_errors(asyncapi)] == []
    del asyncapi["channels"]["process"]["bindings"]["amqp"]["exchange"]["name"]
    asyncapi["channels"]["process"]["address"] = 7
    assert not validator.is_valid(asyncapi), "it finds nothing, whatever there is"


def test_every_reference_of_the_document_leads_somewhere(asyncapi):
    references = list(references_in(asyncapi))
    assert references
    for reference in references:
        file, _, pointer = reference.partition("#")
        target = json.loads((FOLDER / file).read_text()) if file else asyncapi
        for name in pointer.split("/")[1:]:
            target = target[name]
        assert target


def references_in(node):
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        node = list(node.values())
    if isinstance(node, list):
        for part in node:
            yield from references_in(part)
