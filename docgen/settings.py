"""`make settings`: docs/settings.md's tables and .env.example, from `config.settings`."""

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any, Final

from config.settings import BaseSettings, Settings, WorkerSettings
from docgen.marks import replace_between
from mediaservice import PROJECT

DOCUMENT: Final = PROJECT / "docs" / "settings.md"
EXAMPLE: Final = PROJECT / ".env.example"
BEGIN: Final = "<!-- settings: make settings -->\n"
END: Final = "<!-- /settings -->"

SECTIONS = {
    "Every process": BaseSettings,
    "Web, listener and command line": Settings,
    "Worker": WorkerSettings,
}
# Read by config/gunicorn.py, before there is an application.
GUNICORN = {
    "HOST": (
        "0.0.0.0",  # noqa: S104
        "Address that web binds to, with IPv6 `::`; development binds 127.0.0.1.",
    ),
    "PORT": ("8000", "Port that web binds to."),
    "WEB_CONCURRENCY": (
        "2",
        "Web worker processes, one or more; each serves one request at a time.",
    ),
    "PROMETHEUS_MULTIPROC_DIR": (
        "",
        "Empty or new folder for the metrics of web's processes alone. Default: a temporary one.",
    ),
}


def render(document: str) -> str:
    """Return the document with its tables as the code has them."""
    return replace_between(document, BEGIN, END, table())


def table() -> str:
    """Return the settings as Markdown tables, one for each kind of process."""
    lines = []
    for title, rows in _sections():
        lines += [f"**{title}**", "", "| variable | default | |", "|---|---|---|"]
        for name, default, text, needed in rows:
            shown = "required" if needed else f"`{default}`" if default else ""
            lines.append(f"| `{name}` | {shown} | {text} |")
        lines.append("")
    return "\n".join(lines)


def env() -> str:
    """Return an environment file with a sentence for each variable, the defaults commented out."""
    blocks = []
    for title, rows in _sections():
        blocks.append(f"# ---- {title} ----")
        blocks += [
            f"# {text}\n{'' if needed else '# '}{name}={'' if needed else default}"
            for name, default, text, needed in rows
        ]
    return "\n\n".join(blocks) + "\n"


def _sections() -> Iterator[tuple[str, list[tuple[str, str, str, bool]]]]:
    for title, settings in SECTIONS.items():
        yield (
            title,
            [
                (
                    field.name.upper(),
                    _written(field.default),
                    field.metadata["description"],
                    field.default is dataclasses.MISSING,
                )
                for field in dataclasses.fields(settings)
                if field.name in inspect.get_annotations(settings)
            ],
        )
    yield "gunicorn", [(name, default, text, False) for name, (default, text) in GUNICORN.items()]


def _written(default: Any) -> str:
    if default is dataclasses.MISSING:
        return ""
    return ",".join(default) if isinstance(default, tuple) else str(default)


if __name__ == "__main__":
    DOCUMENT.write_text(render(DOCUMENT.read_text()))
    EXAMPLE.write_text(env())
