"""`python -m mediaworker.contract`: what authors of other workers are told."""

import io
import json
import subprocess
import sys

import pytest

from mediaservice import PROJECT
from mediaservice.messages import MEDIA_FAILED, MEDIA_PROCESS, MEDIA_PROCESSED, decode
from mediaworker.contract import IN_WORDS, SAMPLE_JOB, main

ANSWER = {
    "media_id": str(SAMPLE_JOB.media_id),
    "attempt": 1,
    "public_key": f"{SAMPLE_JOB.public_prefix}main.webp",
    "width": 640,
    "height": 480,
    "content_type": "image/webp",
    "size_bytes": 1234,
    "placeholder": "1QcSHQRnh493V4dIh4eXh1h4kJUI",
}
FAILURE = {"media_id": ANSWER["media_id"], "attempt": 1, "error": {"code": "corrupt_image"}}


@pytest.fixture
def write(tmp_path):
    def write(message, name="message.json"):
        path = tmp_path / name
        path.write_text(message if isinstance(message, str) else json.dumps(message))
        return str(path)

    return write


@pytest.fixture
def job(write, capsys):
    """The file of the job that `sample` prints."""
    assert main(["sample"]) == 0
    return write(capsys.readouterr().out, "job.json")


@pytest.fixture
def say(capsys):
    """Run the command; return the status and what was printed."""

    def say(*arguments):
        status = main(arguments)
        return status, capsys.readouterr().out

    return say


def test_the_sample_is_a_job(capsys):
    assert main(["sample"]) == 0
    assert decode(MEDIA_PROCESS, capsys.readouterr().out.encode()) == SAMPLE_JOB


@pytest.mark.parametrize(
    ("routing_key", "message"), [(MEDIA_PROCESSED, ANSWER), (MEDIA_FAILED, FAILURE)]
)
def test_a_complete_answer_is_valid_without_remarks(say, write, job, routing_key, message):
    path = write(message)
    status, said = say("check", routing_key, path, "--job", job, "--strict")
    assert (status, said) == (0, f"{path}: valid {routing_key}\n")


def test_two_fields_are_enough_and_what_that_costs_is_said(say, write):
    path = write({name: ANSWER[name] for name in ("media_id", "public_key")})
    status, said = say("check", MEDIA_PROCESSED, path)
    assert status == 0
    for name in ("width", "height", "placeholder"):
        assert f"remark: no {name}" in said
    assert "no width, no height, no content_type, no size_bytes: the image is not listed" in said
    assert say("check", "--strict", MEDIA_PROCESSED, path)[0] == 1


@pytest.mark.parametrize("name", ["width", "height", "content_type", "size_bytes"])
def test_an_image_is_listed_by_the_worker_or_if_all_is_known_of_it(say, write, name):
    message = {field: value for field, value in ANSWER.items() if field != name}
    assert f"no {name}: the image is not listed" in say("check", MEDIA_PROCESSED, write(message))[1]
    facts = {field: ANSWER[field] for field in ("width", "height", "content_type", "size_bytes")}
    listed = {**message, "variants": [{"name": "main", "key": ANSWER["public_key"], **facts}]}
    assert "is not listed" not in say("check", MEDIA_PROCESSED, write(listed))[1]


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ({**ANSWER, "publicKey": "x"}, "$"),
        ({**ANSWER, "variants": [{**ANSWER, "name": "a"}]}, "[0]"),
    ],
)
def test_fields_that_would_be_ignored_are_pointed_out(say, write, message, place):
    for variant in message.get("variants", []):
        variant["key"] = variant.pop("public_key")
    status, said = say("check", MEDIA_PROCESSED, write(message))
    assert status == 0
    assert "unknown field" in said
    assert place in said


@pytest.mark.parametrize(
    ("routing_key", "message", "reason"),
    [
        (MEDIA_PROCESSED, "not JSON", "malformed"),
        (MEDIA_PROCESSED, {"media_id": ANSWER["media_id"]}, "public_key"),
        (MEDIA_PROCESSED, {**ANSWER, "width": "640"}, "$.width"),
        (MEDIA_PROCESSED, {**ANSWER, "public_key": "main.webp"}, IN_WORDS["public_key"]),
        (MEDIA_PROCESSED, {**ANSWER, "content_type": "webp"}, IN_WORDS["content_type"]),
        (MEDIA_FAILED, {**FAILURE, "error": {"code": "Bad!"}}, IN_WORDS["code"]),
        (MEDIA_FAILED, {**FAILURE, "media_id": 7}, "$.media_id"),
    ],
)
def test_a_refused_message_is_a_fault_with_its_reason(say, write, routing_key, message, reason):
    status, said = say("check", routing_key, write(message))
    assert status == 1
    assert f"invalid {routing_key}" in said
    assert "fault: " in said
    assert reason in said


def test_every_pattern_of_the_contract_is_put_in_words():
    found = set()

    def visit(node):
        if isinstance(node, dict):
            for name, rule in node.get("properties", {}).items():
                if '"pattern"' in json.dumps(rule):
                    found.add(name)
            for part in node.values():
                visit(part)

    for path in (PROJECT / "docs" / "messages").glob("*.json"):
        visit(json.loads(path.read_text()))
    assert found - {"error", "variants"} == IN_WORDS.keys()


@pytest.mark.parametrize(
    "changed", [{"media_id": "01980a4e-5c00-7000-8000-1f1e33aa0002"}, {"attempt": 2}]
)
def test_an_answer_to_another_job_is_a_fault(say, write, job, changed):
    path = write({**FAILURE, **changed})
    assert say("check", MEDIA_FAILED, path)[0] == 0
    status, said = say("check", MEDIA_FAILED, path, "--job", job)
    assert status == 1
    assert "the job's is" in said


def test_a_failure_without_attempt_or_with_a_code_of_its_own_is_remarked_on(say, write):
    message = {"media_id": ANSWER["media_id"], "error": {"code": "too_blue"}}
    status, said = say("check", MEDIA_FAILED, write(message))
    assert status == 0
    assert "remark: no attempt" in said
    assert "'too_blue'" in said


def test_one_faulty_file_among_many_is_enough_and_all_are_told_of(say, write):
    good, bad = write(FAILURE, "good.json"), write({}, "bad.json")
    status, said = say("check", MEDIA_FAILED, bad, good)
    assert status == 1
    assert f"{bad}: invalid" in said
    assert f"{good}: valid" in said


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["check"],
        ["check", "media.unheard-of"],
        ["check", MEDIA_FAILED, "no/such/file.json"],
        ["check", MEDIA_FAILED, "--job", "no/such/file.json"],
    ],
)
def test_a_wrong_call_is_told_apart_from_a_faulty_message(arguments, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"{}")))
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_job_file_that_is_none_is_said_so(write, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["check", MEDIA_FAILED, write(FAILURE), "--job", write({}, "job.json")])
    assert ended.value.code == 2
    assert f"is no {MEDIA_PROCESS}" in capsys.readouterr().err


def test_it_reads_standard_input_and_needs_neither_settings_nor_network():
    done = subprocess.run(
        [sys.executable, "-m", "mediaworker.contract", "check", MEDIA_FAILED],
        cwd=PROJECT,
        env={"PYTHONPATH": str(PROJECT)},
        input=json.dumps(FAILURE),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"stdin: valid {MEDIA_FAILED}\n", "")


def test_help_says_how_to_use_it(capsys):
    for arguments in (["--help"], ["check", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "exit status" in said
    assert "--job" in said
