"""README and .env.example say what the code says."""

import re
from pathlib import Path

from config.__main__ import env, table

PROJECT = Path(__file__).resolve().parent.parent


def test_the_settings_table_is_the_settings():
    readme = (PROJECT / "README.md").read_text()
    shown = re.search(r"<!-- settings: [^>]* -->\n(.*)\n<!-- /settings -->", readme, re.DOTALL)
    assert shown, "README.md has no settings table"
    assert shown[1].strip() == table().strip(), "run: python -m config table"


def test_the_example_environment_has_every_variable():
    assert (PROJECT / ".env.example").read_text() == env(), "run: python -m config env"
