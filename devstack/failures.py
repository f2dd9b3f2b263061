"""The tables of error codes in docs/contract.md, made from `mediaservice.errors`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from devstack.marks import replace_between
from mediaservice import errors
from mediaservice.errors import HTTP_ERRORS, PROCESSING_FAILURES, UPLOAD_FAILURES, Failure

DOCUMENT: Final = Path(__file__).resolve().parent.parent / "docs" / "contract.md"
# Of the command line; no call answers with it.
UNROUTED: Final = {errors.REPROCESSING_NOT_POSSIBLE.code}

# Python's own phrases change from one version to the next.
HTTP_WORDS: Final = {
    "bad_request": "The request is malformed, or its body is not valid JSON.",
    "not_found": "There is nothing at this address.",
    "method_not_allowed": "This address has no such method; the header `Allow` names those it has.",
    "request_too_large": "The body is longer than any request here has to be.",
    "unsupported_media_type": "The body is not `application/json`.",
    "invalid_request": "`errors` tells what is wrong, by field.",
}


def render(document: str) -> str:
    """Return the document with its two tables as the code has them."""
    for name, rows in (("failures", _failures()), ("processing", _processing())):
        begin, end = f"<!-- {name}: make contract -->\n", f"<!-- /{name} -->"
        document = replace_between(document, begin, end, "".join(f"{row}\n" for row in rows))
    return document


def _failures() -> Iterator[str]:
    yield "| status | `error` | again | what happened |"
    yield "|---|---|---|---|"
    known = [
        failure
        for failure in vars(errors).values()
        if isinstance(failure, Failure) and failure.code not in UNROUTED
    ]
    codes = {failure.code for failure in known}
    rows = [(f.http_status, f.code, f.retryable, f.message) for f in known]
    rows += [
        (status, code, False, HTTP_WORDS[code])
        for status, code in HTTP_ERRORS.items()
        if code not in codes
    ]
    for status, code, retryable, message in sorted(rows):
        end = " Ends the upload." if code in UPLOAD_FAILURES else ""
        yield f"| {status} | `{code}` | {'yes' if retryable else 'no'} | {message}{end} |"


def _processing() -> Iterator[str]:
    yield "| `error.code` | what happened |"
    yield "|---|---|"
    for code, message in PROCESSING_FAILURES.items():
        yield f"| `{code}` | {message} |"


if __name__ == "__main__":
    DOCUMENT.write_text(render(DOCUMENT.read_text()))
