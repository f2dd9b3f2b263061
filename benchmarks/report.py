"""Figures, and the ways to show them: a table for terminals and documents, JSON.

A figure is judged by its ratio to a reference of the same run or, where nothing is comparable, by
itself.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.goals import GOALS, Goal, Verdict
from benchmarks.measure import Cost, Costs, median

HEADINGS: Final = ("figure", "ours", "reference", "ratio", "goal", "stretch", "verdict")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure; `rounds` are the values that `judged` is the median of.

    `title` says what and by which unit; `details` are further measurements, by a name with its
    unit.
    """

    name: str
    title: str
    unit: str
    ours: float
    reference: float | None = None
    reference_title: str = ""
    rounds: Sequence[float] = ()
    details: dict[str, float] = field(default_factory=dict)

    @property
    def judged(self) -> float:
        """The median ratio or, without a reference, the figure."""
        if self.rounds:
            return median(self.rounds)
        return self.ours / self.reference if self.reference else self.ours

    @property
    def goal(self) -> Goal | None:
        """What is to be reached, if anything is."""
        return GOALS.get(self.name)

    @property
    def verdict(self) -> Verdict:
        """Whether it is reached."""
        return self.goal.judge(self.judged) if self.goal else Verdict.UNJUDGED

    @classmethod
    def wait(cls, name: str, title: str, seconds: Sequence[float]) -> Self:
        """Return the figure of how long something takes, the median of single times."""
        p95 = sorted(seconds)[int(len(seconds) * 0.95)]
        details = {"p95_ms": p95 * 1e3, "samples": len(seconds)}
        return cls(name, title, "ms", median(seconds) * 1e3, details=details)

    @classmethod
    def compare(
        cls,
        name: str,
        title: str,
        costs: Costs,
        *,
        ours: str,
        reference: str,
        reference_title: str = "",
        unit: str = "/s",
        of: Callable[[Cost], float] = attrgetter("per_second"),
    ) -> Self:
        """Return the figure of one side beside another, compared round by round, by their rates.

        `of` takes something else of a cost, in `unit`. A reference without a title is called as
        its side is.
        """
        pairs = list(zip(costs[ours], costs[reference], strict=True))
        return cls(
            name,
            title,
            unit,
            median(of(a) for a, _ in pairs),
            median(of(b) for _, b in pairs),
            reference_title or reference,
            [of(a) / of(b) for a, b in pairs],
            details_of(costs[ours]),
        )


def details_of(costs: Iterable[Cost]) -> dict[str, float]:
    """Return everything a side has cost per operation, medians of its rounds."""
    every = list(costs)
    found = {
        "per_second": median(cost.per_second for cost in every),
        "cpu_us": median(cost.cpu_us for cost in every),
        "wal_bytes": median(cost.wal_bytes / cost.operations for cost in every),
        "latency_ms": median(cost.latency_ms for cost in every),
    }
    for server in every[0].servers:
        microseconds = [cost.servers[server] / cost.operations * 1e6 for cost in every]
        found[f"{server}_cpu_us"] = median(microseconds)
    return {name: value for name, value in found.items() if value}


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of a run, and what they were measured on."""

    about: dict[str, Any]
    figures: list[Figure]

    def write(self, path: Path) -> None:
        """Write the run as JSON."""
        figures = [
            {
                **asdict(figure),
                "judged": figure.judged,
                "goal": figure.goal and asdict(figure.goal),
                "verdict": figure.verdict,
            }
            for figure in self.figures
        ]
        whole = _rounded({"about": self.about, "figures": figures})
        path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the run that was written; it is judged by the goals of today."""
        whole = json.loads(path.read_text())
        names = Figure.__dataclass_fields__
        return cls(
            whole["about"],
            [
                Figure(**{name: value for name, value in figure.items() if name in names})
                for figure in whole["figures"]
            ],
        )

    def __getitem__(self, name: str) -> Figure:
        """Return a figure by its name."""
        return next(figure for figure in self.figures if figure.name == name)


def text_table(figures: Iterable[Figure]) -> str:
    """Return the table for a terminal."""
    lines = [HEADINGS, *map(_cells, figures)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            # Words to the left, numbers to the right.
            cell.ljust(width) if column in (0, 6) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown_table(figures: Iterable[Figure]) -> str:
    """Return the table for a document."""
    rule = ["---", *["---:"] * 5, "---"]
    lines = [HEADINGS, rule, *map(_cells, figures)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def number(value: float) -> str:
    """Return a number with about three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 or not value else f"{value:.4f}"


def _cells(figure: Figure) -> tuple[str, ...]:
    reference = ratio = goal = stretch = ""
    if figure.reference is not None:
        reference = f"{number(figure.reference)} {figure.unit}".strip()
        ratio = f"{figure.judged:.2f}"
    if figure.goal:
        sign = "≥" if figure.goal.at_least else "≤"
        goal = f"{sign} {figure.goal.goal:g}"
        stretch = "" if figure.goal.stretch is None else f"{sign} {figure.goal.stretch:g}"
    title = figure.title
    if figure.reference_title:
        title = f"{title} / {figure.reference_title}"
    ours = f"{number(figure.ours)} {figure.unit}".strip()
    return (title, ours, reference, ratio, goal, stretch, figure.verdict.value)


def _rounded(value: Any) -> Any:
    """Return data with five digits that count: more is noise, here and in differences of files."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return value
