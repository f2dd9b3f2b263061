"""Reading README and docs: their code blocks, links and names."""

import re
from collections.abc import Iterator
from pathlib import Path

from mediaservice import PROJECT

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def documents() -> list[Path]:
    """Return every Markdown file of the project."""
    return sorted(
        [
            *PROJECT.glob("*.md"),
            *(PROJECT / "docs").rglob("*.md"),
            *(PROJECT / "examples").glob("*/*.md"),
        ]
    )


def blocks(document: Path, language: str) -> list[str]:
    """Return a document's code blocks in a language, in their order."""
    return [body for name, body in _BLOCK.findall(document.read_text()) if name == language]


def prose(document: Path) -> str:
    """Return a document without its code blocks."""
    return _BLOCK.sub("", document.read_text())


def inline_code(document: Path) -> Iterator[str]:
    """Yield what stands between single backticks."""
    return (found[1] for found in re.finditer(r"`([^`\n]+)`", prose(document)))
