"""`make settings`: write README's table of settings and .env.example, from `config.settings`."""

from pathlib import Path
from typing import Final

from config.__main__ import env, table

PROJECT: Final = Path(__file__).resolve().parent.parent
README: Final = PROJECT / "README.md"
EXAMPLE: Final = PROJECT / ".env.example"
BEGIN: Final = "<!-- settings: make settings -->\n"
END: Final = "<!-- /settings -->"


def render(readme: str) -> str:
    """Return README with its table as the code has it."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


if __name__ == "__main__":
    README.write_text(render(README.read_text()))
    EXAMPLE.write_text(env())
