"""`python -m mediaworker.contract`: shows a job, and checks the results of a worker.

For authors of other workers, in any language. It judges with the decoder that the service itself
uses, and points out what that decoder would silently ignore. No network: files and stdin only.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast
from uuid import UUID

import msgspec

from mediaservice.errors import PROCESSING_FAILED, PROCESSING_MESSAGES
from mediaservice.keys import public_prefix, raw_key
from mediaservice.messages import (
    MEDIA_FAILED,
    MEDIA_PROCESS,
    MEDIA_PROCESSED,
    MESSAGE_TYPES,
    FailedResult,
    Job,
    MalformedMessage,
    Message,
    ProcessedResult,
    decode,
)

MEDIA_ID: Final = UUID("01980a4e-5c00-7000-8000-1f1e33aa0001")
SAMPLE_JOB: Final = Job(
    media_id=MEDIA_ID,
    attempt=1,
    raw_bucket="raw",
    raw_key=raw_key(MEDIA_ID),
    raw_etag='"5d41402abc4b2a76b9719d911017c592"',
    content_type="image/jpeg",
    size_bytes=348052,
    public_bucket="public",
    public_prefix=public_prefix(MEDIA_ID),
    requested_at=datetime(2026, 11, 23, 10, 0, tzinfo=UTC),
)
STDIN: Final = "-"
OPTIONAL_OF_PROCESSED: Final = {
    "width": "clients get null for it",
    "height": "clients get null for it",
    "placeholder": "clients have nothing to show before the image",
}
OF_LISTED_IMAGE: Final = ("width", "height", "content_type", "size_bytes")
_PUBLIC_KEY: Final = (
    "it starts with the job's public_prefix; after that, names of letters, digits and ._~@+=- "
    "between single slashes"
)
# What the patterns of the contract mean, by the field that is named at the end of a reason.
IN_WORDS: Final = {
    "public_key": _PUBLIC_KEY,
    "key": _PUBLIC_KEY,
    "name": "lower-case letters, digits, _ and -, at most 32, the first a letter or a digit",
    "content_type": "like image/webp, without parameters",
    "code": "lower-case letters, digits and _, at most 64, the first a letter",
    "placeholder": "a ThumbHash in base64",
}
_FIELD_AT_FAULT: Final = re.compile(r"regex .* - at `\$.*?(\w+)`$", re.DOTALL)

EPILOG = f"""\
examples:
  python -m mediaworker.contract sample > job.json
  your-worker < job.json | python -m mediaworker.contract check {MEDIA_PROCESSED} --job job.json
  python -m mediaworker.contract check {MEDIA_FAILED} failed-1.json failed-2.json

exit status: 0 all messages are of the contract; 1 some are not, or have remarks with --strict;
2 it was called wrongly, or a file cannot be read.
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about one message; a `fault` gets it dead-lettered, anything else is a remark."""

    is_fault: bool
    text: str


def check(
    routing_key: str, body: bytes, job: Job | None = None
) -> tuple[Message | None, list[Finding]]:
    """Return the message as the service reads it, None if it refuses it, and what to say of it.

    `job` is the one that the message is the result of, if that is known.
    """
    try:
        message = decode(routing_key, body)
    except MalformedMessage as error:
        return None, [Finding(is_fault=True, text=_in_words(str(error)))]
    findings = [Finding(is_fault=True, text=text) for text in _not_the_result(message, job)]
    remarks = [*_unknown_fields(message, msgspec.json.decode(body)), *_left_out(message, job)]
    findings += [Finding(is_fault=False, text=text) for text in remarks]
    return message, findings


def _in_words(reason: str) -> str:
    """Return a decoder's reason, with the meaning of the pattern that it quotes, if it does."""
    found = _FIELD_AT_FAULT.search(reason)
    words = IN_WORDS.get(found[1]) if found else None
    return f"{reason}: {words}" if words else reason


def _not_the_result(message: Message, job: Job | None) -> Iterator[str]:
    """Yield why a message, sound in itself, is not the result of a job."""
    if job is None:
        return
    if isinstance(message, Job):
        yield "a job is not a result"
    elif message.media_id != job.media_id:
        yield f"media_id is {message.media_id}; the job's is {job.media_id}"
    elif message.attempt not in (None, job.attempt):
        yield f"attempt is {message.attempt}; the job's is {job.attempt}"


def _unknown_fields(message: Any, given: Any, at: str = "$") -> Iterator[str]:
    """Yield the fields that are ignored: newer than this service, or spelt wrong."""
    if isinstance(given, list):
        for index, (element, part) in enumerate(zip(message, given, strict=True)):
            yield from _unknown_fields(element, part, f"{at}[{index}]")
    elif isinstance(given, dict) and isinstance(message, msgspec.Struct):
        known = {field.name for field in msgspec.structs.fields(message)}
        for name in sorted(given.keys() - known):
            choices = ", ".join(sorted(known))
            yield f"unknown field {name!r} at {at} is ignored; known are: {choices}"
        for name in sorted(given.keys() & known):
            yield from _unknown_fields(getattr(message, name), given[name], f"{at}.{name}")


def _left_out(message: Message, job: Job | None) -> Iterator[str]:
    """Yield what the message does without, where that has a price."""
    if isinstance(message, ProcessedResult):
        for name, price in OPTIONAL_OF_PROCESSED.items():
            if getattr(message, name) is None:
                yield f"no {name}: {price}"
        missing = [name for name in OF_LISTED_IMAGE if getattr(message, name) is None]
        if missing and not message.lists_main:
            yield f"no {', no '.join(missing)}: the image is not listed among the variants"
    elif isinstance(message, FailedResult):
        if message.attempt is None:
            number = job.attempt if job else "the job's"
            yield f"no attempt: if it comes late it fails the attempt after it; give {number}"
        if message.error.code not in PROCESSING_MESSAGES:
            words = PROCESSING_MESSAGES[PROCESSING_FAILED]
            yield f"error.code {message.error.code!r} has no sentence; clients read: {words}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "sample":
        sys.stdout.write(_indented(SAMPLE_JOB))
        return 0
    try:
        job = _read_job(options.job) if options.job else None
        messages = [(name, _read(name)) for name in options.files]
    except (OSError, MalformedMessage) as error:
        parser.error(str(error))
    is_faulty = False
    for name, body in messages:
        message, findings = check(options.routing_key, body, job)
        is_faulty |= any(finding.is_fault or options.strict for finding in findings)
        _report("stdin" if name == STDIN else name, options.routing_key, message, findings)
    return int(is_faulty)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mediaworker.contract",
        description="Check a worker's messages as the service would. See docs/contract.md.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("sample", help=f"print a job, the JSON body of a {MEDIA_PROCESS}")
    checking = commands.add_parser("check", help="say of each message whether it is accepted")
    checking.add_argument(
        "routing_key", metavar="ROUTING_KEY", choices=MESSAGE_TYPES, help=", ".join(MESSAGE_TYPES)
    )
    checking.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        default=[STDIN],
        help="one JSON message each; standard input without any",
    )
    checking.add_argument(
        "--job",
        metavar="FILE",
        help="the job that the message is the result of, e.g. what `sample` printed",
    )
    checking.add_argument("--strict", action="store_true", help="remarks are faults, too")
    return parser


def _read(name: str) -> bytes:
    return sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()


def _read_job(name: str) -> Job:
    try:
        return cast(Job, decode(MEDIA_PROCESS, _read(name)))
    except MalformedMessage as error:
        raise MalformedMessage(f"{name} is no {MEDIA_PROCESS}: {error}") from None


def _indented(message: Message) -> str:
    return msgspec.json.format(msgspec.json.encode(message), indent=2).decode() + "\n"


def _report(
    name: str, routing_key: str, message: Message | None, findings: Sequence[Finding]
) -> None:
    refused = message is None or any(finding.is_fault for finding in findings)
    print(f"{name}: {'invalid' if refused else 'valid'} {routing_key}")  # noqa: T201
    for finding in findings:
        print(f"  {'fault' if finding.is_fault else 'remark'}: {finding.text}")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
