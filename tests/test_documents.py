"""What README and docs name exists: files, make targets, commands, settings, error codes."""

import re
import shlex
from urllib.parse import unquote

import click
import pytest

from config.settings import IMAGE_CONTENT_TYPES
from docgen.contract import DOCUMENT, render
from docgen.settings import env
from mediaservice import PROJECT
from mediaservice.commands import media
from mediaworker.renditions import MAIN_LONGEST_SIDE, VARIANT_WIDTHS
from tests.documents import blocks, documents, inline_code, prose

CONSTANTS = {
    name
    for folder in ("config", "mediaservice", "mediaworker", "tests")
    for path in (PROJECT / folder).rglob("*.py")
    for name in re.findall(r"^([A-Z][A-Z0-9_]+)(?::.*)? = ", path.read_text(), re.MULTILINE)
}
DECISIONS = PROJECT / "docs" / "decisions.md"
DOCUMENTS = [str(path.relative_to(PROJECT)) for path in documents()]
# In a shell block everything is a command; elsewhere only what stands in backticks is.
SHELL = ("sh", "bash", "console")
LINK = re.compile(r"!?\[[^]]*\]\(([^)\s]+)\)")
MAKE = re.compile(r"\bmake (?:-C \S+ )?([a-z][a-z-]*)")
FLASK = re.compile(r"\bflask --app app ([a-z].*)|^flask media ([a-z].*)", re.MULTILINE)
MODULE = re.compile(r"\bpython3? -m ([a-z_.]+)")
VARIABLE = re.compile(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b")
# Paths below these folders are told from other slashes in prose.
FOLDERS = "config|devstack|docgen|docs|examples|mediaservice|mediaworker|migrations|scripts|tests"
PATH = re.compile(rf"(?:{FOLDERS})/[\w./-]+|[\w-]+\.(?:py|md|in|txt|toml|yaml|json)")


@pytest.fixture(params=DOCUMENTS)
def document(request):
    return PROJECT / request.param


def commands_of(document):
    """Return everything in a document that is for a shell, a line each."""
    lines = [
        line
        for language in SHELL
        for block in blocks(document, language)
        for line in block.splitlines()
    ]
    return [*lines, *inline_code(document)]


def headings(text):
    """Return the anchors of a document's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_documents_are_found():
    assert {"README.md", "docs/contract.md", "docs/tutorial.md", "CHANGELOG.md"} <= set(DOCUMENTS)


def test_every_relative_link_leads_somewhere(document):
    for target in LINK.findall(prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), target
        if anchor:
            assert anchor in headings(linked.read_text()), target


def test_every_make_target_exists(document):
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    named = {name for line in commands_of(document) for name in MAKE.findall(line)}
    assert named <= targets


def test_every_flask_command_and_option_exists(document):
    for line in commands_of(document):
        for groups in FLASK.findall(line):
            words = shlex.split(groups[0] or f"media {groups[1]}", comments=True)
            if words[0] == "media" and words[1:] != ["…"]:
                assert_exists(words[1:], line)


def assert_exists(words, line):
    """Follow a command line through the groups, and look up its options."""
    command = media
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        assert name in command.commands, f"{line}: there is no {name}"
        command = command.commands[name]
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    given = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
    assert given <= known, line


def test_every_module_to_be_run_exists(document):
    own = ("config", "devstack", "docgen", "mediaservice", "mediaworker")
    for line in commands_of(document):
        for name in MODULE.findall(line):
            if name.split(".")[0] in own:
                path = PROJECT / name.replace(".", "/")
                assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), line


def test_every_path_exists(document):
    # A tutorial names the files it makes.
    own = set(re.findall(r"`([\w.]+)`:\n\n```", document.read_text()))
    for text in set(inline_code(document)) - own:
        if not PATH.fullmatch(text):
            continue
        bases = (PROJECT, document.parent, PROJECT / "mediaservice", PROJECT / "mediaworker")
        assert any((base / text).exists() for base in bases), text


def test_every_environment_variable_or_constant_exists(document):
    settings = set(re.findall(r"^(?:# )?([A-Z0-9_]+)=", env(), re.MULTILINE))
    own = set(re.findall(r"^export ([A-Z_]+)=", document.read_text(), re.MULTILINE))
    named = {name for text in inline_code(document) for name in VARIABLE.findall(text)}
    assert named - settings - own - CONSTANTS == set()


def test_the_tables_of_the_contract_are_those_of_the_code():
    kept = DOCUMENT.read_text()
    assert kept == render(kept), "run `make contract` and look at the difference"


def test_the_contract_names_every_width_and_every_format():
    (images,) = re.findall(r"^### Images\n(.*?)^###", prose(DOCUMENT), re.DOTALL | re.MULTILINE)
    words = re.findall(r"\w+", images)
    assert str(MAIN_LONGEST_SIDE) in words
    assert {f"w{width}" for width in VARIANT_WIDTHS.values()} == set(VARIANT_WIDTHS)
    assert {word for word in words if re.fullmatch(r"w\d+", word)} == set(VARIANT_WIDTHS)
    formats = {content_type.removeprefix("image/") for content_type in IMAGE_CONTENT_TYPES}
    assert formats - {word.lower() for word in words} == set()


def test_the_architecture_names_every_module():
    text = (PROJECT / "docs" / "architecture.md").read_text()
    modules = {
        path.stem + ("/" if path.is_dir() else "")
        for path in (PROJECT / "mediaservice").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert {name for name in modules - {"__init__"} if f"`{name}`" not in text} == set()


def test_every_package_that_is_required_is_a_decision():
    chosen = DECISIONS.read_text().lower()
    required = {
        name.lower()
        for path in PROJECT.glob("requirements*.in")
        for name in re.findall(r"^([A-Za-z][\w.-]*)", path.read_text(), re.MULTILINE)
    }
    assert {"flask", "pika", "pytest"} <= required
    named = set(re.findall(r"[a-z][\w-]*", chosen))
    assert {name for name in required if not name.startswith("types-")} - named == set()
