"""`make contract`: the tables of error codes in docs/contract.md, from `mediaservice.errors`."""

from collections.abc import Iterator
from operator import attrgetter
from typing import Final

from docgen.marks import replace_between
from mediaservice import PROJECT, errors
from mediaservice.errors import PROCESSING_MESSAGES, UPLOAD_FAILURES, Failure

DOCUMENT: Final = PROJECT / "docs" / "contract.md"
# Of the command line; no call answers with it.
UNROUTED: Final = {errors.REPROCESSING_NOT_POSSIBLE.code}


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
    for failure in sorted(known, key=attrgetter("http_status", "code")):
        again = "yes" if failure.retryable else "no"
        end = " Ends the upload." if failure.code in UPLOAD_FAILURES else ""
        yield f"| {failure.http_status} | `{failure.code}` | {again} | {failure.message}{end} |"


def _processing() -> Iterator[str]:
    yield "| `error.code` | what happened |"
    yield "|---|---|"
    for code, message in PROCESSING_MESSAGES.items():
        yield f"| `{code}` | {message} |"


if __name__ == "__main__":
    DOCUMENT.write_text(render(DOCUMENT.read_text()))
