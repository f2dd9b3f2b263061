"""Dashboard, alerts and documents name what exists; the runbook has an entry for all of it."""

import ast
import json
import re
from itertools import chain

import promql_parser
import pytest
import yaml
from prometheus_client.metrics import MetricWrapperBase

from mediaservice import PROJECT, errors, metrics
from mediaservice.errors import Failure

DOCS = PROJECT / "docs"
RUNBOOK = (DOCS / "runbook.md").read_text()
DASHBOARD = json.loads((DOCS / "observability" / "grafana-dashboard.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((DOCS / "observability" / "alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
METRICS = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
}


def labels_of(metric):
    return set(metric._labelnames)


def series():
    """Return every series' name there is, with its labels."""
    return {
        f"{metric._name}{suffix}": labels_of(metric) | ({"le"} if suffix == "_bucket" else set())
        for metric in METRICS
        for suffix in SUFFIXES[metric._type]
    }


def panels():
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries():
    """Yield where a query stands, and the query as Prometheus gets it."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")


def selectors(expression):
    """Yield every vector selector in a query's tree."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for name in ("expr", "lhs", "rhs", "vector_selector", "vs"):
        child = getattr(expression, name, None)
        if child is not None:
            yield from selectors(child)
    for argument in getattr(expression, "args", None) or []:
        yield from selectors(argument)


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_a_query_is_promql_over_metrics_that_exist(where, query):
    found = list(selectors(promql_parser.parse(query)))
    assert {one.name for one in found} == set(re.findall(r"\bmedia_\w+", query)), where
    for selector in found:
        assert selector.name in series(), where
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert matched <= series()[selector.name], where
    grouped = {
        name.strip()
        for names in re.findall(r"\bby \(([^)]*)\)", query)
        for name in names.split(",")
    }
    made = {"instance", *re.findall(r'label_replace\(\w+, "(\w+)"', query)}  # Prometheus' own
    assert grouped - made <= set(chain.from_iterable(series()[one.name] for one in found)), where


def test_every_metric_is_shown_on_the_dashboard():
    shown = " ".join(
        query for where, query in queries() if where not in {r["alert"] for r in RULES}
    )
    assert [metric._name for metric in METRICS if metric._name not in shown] == []


def test_the_dashboard_is_one_that_grafana_can_lay_out():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    titles = [panel["title"] for panel in panels()]
    assert len(titles) == len(set(titles)) >= 20


def test_metric_names_follow_the_conventions():
    for metric in METRICS:
        assert re.fullmatch(r"media_[a-z_]+", metric._name)
        assert metric._documentation.endswith(".")
        if metric._type == "histogram":
            assert metric._name.endswith("_seconds")
    assert len({metric._name for metric in METRICS}) == len(METRICS) > 20


def test_the_table_of_metrics_is_that_of_the_code():
    section = (DOCS / "observability.md").read_text().split("## Metrics\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(media_\w+)` \|([^|]*)\|", section, re.MULTILINE)
    documented = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    expected = {
        metric._name + ("_total" if metric._type == "counter" else ""): labels_of(metric)
        for metric in METRICS
    }
    assert documented == expected


def test_every_alert_says_how_bad_it_is_and_leads_to_its_entry():
    entries = re.findall(r"^### (\w+)\n\n\*\*(Page|Ticket)", RUNBOOK, re.MULTILINE)
    assert dict(entries) == {
        rule["alert"]: rule["labels"]["severity"].capitalize() for rule in RULES
    }
    for rule in RULES:
        assert rule["annotations"]["summary"].endswith(".")
        anchor = rule["alert"].lower()
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{anchor}"


def rows_of(heading):
    """Return the first column's codes of the table below a heading of the runbook."""
    section = RUNBOOK.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    cells = re.findall(r"^\| (`[^|]*) \|", section, re.MULTILINE)
    return set(re.findall(r"`(\w+)`", " ".join(cells)))


def test_every_error_code_has_a_line_in_the_runbook():
    codes = {failure.code for failure in vars(errors).values() if isinstance(failure, Failure)}
    codes |= set(errors.PROCESSING_MESSAGES)
    assert rows_of("Error codes") == codes


def logged_events():
    """Return the events logged at each level; None for one that is an expression."""
    events = {"warning": set(), "error": set()}
    for path in chain(
        (PROJECT / "mediaservice").rglob("*.py"), (PROJECT / "mediaworker").rglob("*.py")
    ):
        for call in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and isinstance(call.func.value, ast.Name)
                and call.func.value.id == "log"
            ):
                level = {"exception": "error", "critical": "error"}.get(
                    call.func.attr, call.func.attr
                )
                event = call.args[0]
                constant = event.value if isinstance(event, ast.Constant) else None
                events.setdefault(level, set()).add(constant)
    return events


def test_every_failure_in_the_logs_has_a_line_in_the_runbook():
    events = logged_events()
    # Failures of requests are logged under their code.
    server_faults = {
        failure.code
        for failure in vars(errors).values()
        if isinstance(failure, Failure) and failure.http_status >= 500
    }
    assert None in events["error"]
    expected = (events["error"] | events["warning"] | server_faults) - {None}
    assert rows_of("Failures in the logs") - expected == set()
    assert expected - rows_of("Failures in the logs") == set()


def test_log_events_are_static_names():
    names = set().union(*logged_events().values()) - {None}
    assert {"request", "message", "media_transition"} <= names
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in names)


def test_links_within_the_runbook_lead_to_alerts():
    anchors = set(re.findall(r"\]\(#(\w+)\)", RUNBOOK))
    assert anchors <= {rule["alert"].lower() for rule in RULES}
