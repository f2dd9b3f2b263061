"""The message contract as other workers see it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from mediaservice.messages import MESSAGE_TYPES, ProcessRequest, decode
from mediaworker import contract

PROJECT = Path(__file__).resolve().parents[2]
MEDIA_ID = "01a207bc-b354-75a0-b9dd-772dce02be82"
MINIMAL = {
    "media.processed": {"media_id": MEDIA_ID, "public_key": f"media/{MEDIA_ID}/a.webp"},
    "media.failed": {"media_id": MEDIA_ID},
}


@pytest.fixture
def run():
    return CliRunner().invoke


def test_the_documents_are_those_of_the_code():
    written = {path.name: path.read_text() for path in (PROJECT / "docs/messages").glob("*.json")}
    assert written == contract.documents(), "run: python -m mediaworker.contract write"


@pytest.mark.parametrize("routing_key", MESSAGE_TYPES)
def test_each_schema_is_one_and_takes_its_messages(routing_key):
    schema = json.loads(contract.documents()[f"{routing_key}.schema.json"])
    Draft202012Validator.check_schema(schema)
    message = MINIMAL.get(routing_key) or json.loads(
        CliRunner().invoke(contract.main, ["sample"]).output
    )
    Draft202012Validator(schema).validate(message)
    assert not Draft202012Validator(schema).is_valid({"media_id": 1})


def test_asyncapi_describes_every_message():
    document = json.loads(contract.documents()["asyncapi.json"])
    assert set(document["channels"]) == set(document["operations"]) == set(MESSAGE_TYPES)
    assert document["channels"]["media.process"]["x-queue"]["name"] == "media-worker.process"


def test_the_sample_is_a_job(run):
    shown = run(contract.main, ["sample"])
    assert isinstance(decode("media.process", shown.output.encode()), ProcessRequest)


@pytest.mark.parametrize("routing_key", MINIMAL)
def test_a_minimal_answer_passes(run, routing_key):
    checked = run(contract.main, ["check", routing_key], input=json.dumps(MINIMAL[routing_key]))
    assert (checked.exit_code, checked.output) == (0, "-: ok\n")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({}, "media_id"),
        (
            {
                "media_id": MEDIA_ID,
                "public_key": "media/01a207bc-0000-75a0-b9dd-772dce02be82/a.webp",
            },
            "below",
        ),
        ({"media_id": MEDIA_ID, "public_key": 7}, "public_key"),
    ],
)
def test_an_answer_that_would_be_dead_lettered_says_why(run, message, reason):
    checked = run(contract.main, ["check", "media.processed"], input=json.dumps(message))
    assert checked.exit_code == 1
    assert reason in checked.output


def test_every_file_is_checked(run, tmp_path):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(json.dumps(MINIMAL["media.failed"]))
    bad.write_text("{")
    checked = run(contract.main, ["check", "media.failed", str(bad), str(good)])
    assert checked.exit_code == 1
    assert f"{good}: ok" in checked.output
