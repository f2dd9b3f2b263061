"""Who may import whom, who may read the environment, who may write a status: read from the code."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from mediaservice import PROJECT
from tests.builders import loaded_by

# Lower layers first, as the diagram of docs/architecture.md has them; a module imports from its own
# or those before it. A package stands for all that is in it.
LAYERS = (
    {"config"},
    {
        "mediaservice.states",
        "mediaservice.errors",
        "mediaservice.keys",
        "mediaservice.messages",
        "mediaservice.signing",
        "mediaservice.database",
        "mediaservice.logs",
        "mediaservice.tracing",
        "mediaservice.sniffing",
        "mediaservice.threads",
    },
    {"mediaservice.models", "mediaservice.metrics"},
    {
        "mediaservice.s3",
        "mediaservice.storage",
        "mediaservice.broker",
        "mediaservice.monitoring",
        "mediaservice.process",
    },
    {"mediaservice.lifecycle"},
    {
        "mediaservice.jwks",
        "mediaservice.auth",
        "mediaservice.parsing",
        "mediaservice.schemas",
        "mediaservice.openapi",
        "mediaservice.web",
        "mediaservice.api",
        "mediaservice.health",
        "mediaservice.pages",
    },
    {
        "mediaservice.audit",
        "mediaservice.doctor",
        "mediaservice.client",
        "mediaservice.commands",
        "mediaservice.__main__",
    },
    {"mediaservice.listener", "mediaworker"},
    {"mediaservice"},
    {"app", "worker_listener"},
)
LAYER_OF = {part: number for number, layer in enumerate(LAYERS) for part in layer}
ENTRIES = {"app", "worker_listener", "mediaworker.__main__"}
HTTP_EDGE = {
    f"mediaservice.{name}" for name in ("api", "web", "health", "commands", "pages", "parsing")
}
SERVICE = sorted((PROJECT / "mediaservice").rglob("*.py"))
PRODUCT = sorted(
    [
        *SERVICE,
        *(PROJECT / "mediaworker").rglob("*.py"),
        *(PROJECT / "config").rglob("*.py"),
        PROJECT / "app.py",
        PROJECT / "worker_listener.py",
    ]
)


def module_of(path: Path) -> str:
    parts = path.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """Return everything in a file's code, outer before inner."""
    return tuple(ast.walk(ast.parse(path.read_text())))


@functools.cache
def imports_of(path: Path) -> frozenset[str]:
    """Return every module a file imports, wherever in the file, and `module.name` of `from`s."""
    return frozenset(_imports_of(path))


def _imports_of(path: Path) -> Iterator[str]:
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: imports are absolute"
            assert node.module
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def importers_of(package: str, files: list[Path]) -> set[str]:
    return {
        module_of(path)
        for path in files
        if any(name == package or name.startswith(package + ".") for name in imports_of(path))
    }


def part_of(module: str) -> str:
    """Return the module or package, of the service or beside it, that a module belongs to."""
    names = module.split(".")
    return ".".join(names[:2]) if names[0] == "mediaservice" else names[0]


def layer_of(imported: str) -> int:
    """Return the layer of a name that is imported; libraries are below all."""
    part = part_of(imported)
    if part.startswith("mediaservice.") and part not in LAYER_OF:
        part = "mediaservice"
    return LAYER_OF.get(part, -1)


def test_every_module_is_in_a_layer():
    assert {part_of(module_of(path)) for path in PRODUCT} == set(LAYER_OF)


@pytest.mark.parametrize("path", PRODUCT, ids=module_of)
def test_imports_point_to_lower_layers_only(path: Path):
    own = LAYER_OF[part_of(module_of(path))]
    # `from mediaservice import errors` is no import of what the package itself puts together.
    imported = imports_of(path) - {"mediaservice"}
    assert {name for name in imported if layer_of(name) > own} == set()


def test_storage_and_broker_do_not_know_each_other():
    assert "mediaservice.storage" not in importers_of("mediaservice.broker", SERVICE)
    importers = importers_of("mediaservice.storage", SERVICE)
    assert not {module for module in importers if part_of(module) == "mediaservice.broker"}


@pytest.mark.parametrize("package", ["boto3", "botocore"])
def test_only_one_module_imports_boto3(package: str):
    assert importers_of(package, PRODUCT) == {"mediaservice.s3"}


def test_only_broker_imports_pika():
    importers = importers_of("pika", PRODUCT)
    assert {part_of(module) for module in importers} == {"mediaservice.broker"}
    assert "mediaservice.broker" not in importers  # the web imports this one


def test_only_tracing_imports_opentelemetry():
    assert importers_of("opentelemetry", PRODUCT) == {"mediaservice.tracing"}


def test_metrics_are_made_in_one_place():
    assert importers_of("prometheus_client.Counter", PRODUCT) == {"mediaservice.metrics"}
    assert importers_of("prometheus_client.Gauge", PRODUCT) == {"mediaservice.metrics"}
    assert importers_of("prometheus_client.Histogram", PRODUCT) == {"mediaservice.metrics"}


def test_only_the_edge_imports_flask():
    allowed = HTTP_EDGE | {"mediaservice.auth", "mediaservice"}
    assert {part_of(module) for module in importers_of("flask", PRODUCT)} <= allowed


def test_the_request_is_known_in_the_edge_only():
    ambient = {"flask.current_app", "flask.g", "flask.request", "flask.session"}
    users = {part_of(module_of(p)) for p in PRODUCT if ambient & set(imports_of(p))}
    assert users <= HTTP_EDGE


def test_only_the_entries_read_the_environment():
    def reads(path: Path) -> bool:
        return any(
            isinstance(node, ast.Attribute)
            and node.attr in ("environ", "environb", "getenv", "putenv")
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
            for node in nodes_of(path)
        ) or any(name in ("os.environ", "os.getenv") for name in imports_of(path))

    readers = {module_of(path) for path in PRODUCT if reads(path)}
    assert readers <= ENTRIES | {"config.settings", "config.gunicorn"}


def test_only_lifecycle_writes_to_the_database():
    """Statements that change rows are built in `lifecycle` alone."""
    writers, dialects = {"update", "insert", "delete"}, {"postgresql", "sqlite"}
    for path in PRODUCT:
        if part_of(module_of(path)) == "mediaservice.lifecycle":
            continue
        names = {n.rpartition(".")[2] for n in imports_of(path) if n.startswith("sqlalchemy")}
        assert not names & writers, path
        if module_of(path) != "mediaservice.database":
            assert not names & dialects, path
        for node in nodes_of(path):
            if isinstance(node, ast.Attribute) and node.attr in writers:
                assert ast.unparse(node.value) != "Media", path


def test_what_is_taken_from_sqlalchemy_is_imported_by_name():
    """With the module itself a statement could be built that no import tells of."""
    for path in PRODUCT:
        for node in nodes_of(path):
            if isinstance(node, ast.Import):
                modules = {alias.name.partition(".")[0] for alias in node.names}
                assert "sqlalchemy" not in modules, path


def test_the_store_is_not_called_inside_a_transaction():
    """As far as it can be seen: not in the block itself."""
    blocks = [
        node
        for path in sorted((PROJECT / "mediaservice" / "lifecycle").glob("*.py"))
        for node in nodes_of(path)
        if isinstance(node, ast.With)
        and any(ast.unparse(item.context_expr) == "self._rows.begin()" for item in node.items)
    ]
    assert blocks
    calls = {
        ast.unparse(node.func)
        for block in blocks
        for node in ast.walk(block)
        if isinstance(node, ast.Call)
    }
    assert not {call for call in calls if call.startswith("self._storage.")}


def test_nothing_that_runs_in_production_knows_the_tools_around_it():
    for package in ("devstack", "docgen", "tests", "benchmarks", "moto", "pytest"):
        assert importers_of(package, PRODUCT) == set()


def test_worker_and_listener_do_without_flask():
    """Module-level imports only: what a process loads at its start."""

    def at_start(path: Path) -> set[str]:
        tree = ast.parse(path.read_text())
        return {
            name
            for node in tree.body
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [str(node.module)]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }

    seen: set[str] = set()
    files = {module_of(path): path for path in PRODUCT}
    queue = ["worker_listener", "mediaservice.listener", "mediaworker.__main__"]
    while queue:
        module = queue.pop()
        if module in files and module not in seen:
            queue += at_start(files[module])
        seen.add(module)
    assert "mediaservice.lifecycle" in seen
    assert not {name for name in seen if name.split(".")[0] in ("flask", "flask_smorest")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "spared"),
    [
        (
            "app",
            {
                "alembic",
                "boto3",
                "botocore",
                "flask_migrate",
                "mediaservice.commands",
                "mediaservice.doctor",
                "pika",
            },
        ),
        ("worker_listener", {"alembic", "boto3", "botocore", "flask", "werkzeug", "jwt"}),
        ("mediaworker.__main__", {"boto3", "botocore", "flask", "sqlalchemy"}),
    ],
)
def test_a_process_loads_nothing_that_it_does_not_need(entry: str, spared: set[str]):
    loaded = loaded_by(entry)
    assert entry in loaded
    assert not {*spared, "opentelemetry.sdk"} & loaded
