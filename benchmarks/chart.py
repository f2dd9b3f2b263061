"""The chart of a run: every judged figure as how far it is from its goal."""

import math
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Patch

from benchmarks.goals import Goal, Verdict
from benchmarks.report import Figure, Report, number

COLOURS: Final = {
    Verdict.STRETCH: "#1b7f5c",
    Verdict.GOAL: "#63b995",
    Verdict.MISS: "#d1495b",
}
_WORDS: Final = {
    Verdict.STRETCH: "reaches the stretch goal",
    Verdict.GOAL: "reaches the goal",
    Verdict.MISS: "misses the goal",
}
_INK: Final = "#22303c"
# Further off than this a bar is cut: the number beside it tells.
_FURTHEST: Final = 8.0


def draw(report: Report, path: Path) -> None:
    """Write a PNG with a bar for each judged figure: to the right of the line it is reached."""
    figures = [figure for figure in report.figures if figure.goal][::-1]
    canvas = Canvas(figsize=(11, 1.4 + 0.36 * len(figures)), dpi=160, layout="constrained")
    canvas.set_facecolor("white")
    axes = canvas.add_subplot()
    margins = [
        min(_FURTHEST, max(1 / _FURTHEST, _goal_of(figure).margin(figure.judged)))
        for figure in figures
    ]
    places = range(len(figures))
    axes.barh(
        places,
        [math.log2(margin) for margin in margins],
        height=0.62,
        color=[COLOURS[figure.verdict] for figure in figures],
        zorder=2,
    )
    for place, figure, margin in zip(places, figures, margins, strict=True):
        at = math.log2(margin)
        axes.annotate(
            _label(figure),
            (at, place),
            xytext=(6 if at >= 0 else -6, 0),
            textcoords="offset points",
            ha="left" if at >= 0 else "right",
            va="center",
            fontsize=9,
            color=_INK,
        )
    _set_axes(axes, figures)
    _set_legend(axes, {figure.verdict for figure in figures})
    canvas.savefig(path, format="png", metadata={"Software": None})


def _set_axes(axes: Axes, figures: Sequence[Figure]) -> None:
    axes.set_yticks(range(len(figures)), [_title(figure) for figure in figures], fontsize=9.5)
    axes.set_ylim(-0.7, len(figures) - 0.3)
    ticks = [1 / 4, 1 / 2, 1, 2, 4]
    axes.set_xticks(
        [math.log2(tick) for tick in ticks],
        ["a quarter", "half as good", "the goal", "twice as good", "4 times"],
    )
    axes.set_xlim(-math.log2(_FURTHEST) - 0.2, math.log2(_FURTHEST) + 0.2)
    axes.tick_params(length=0, colors=_INK)
    axes.grid(axis="x", color="#e6eaee", zorder=0)
    axes.axvline(0, color=_INK, linewidth=1.2, zorder=3)
    for side in axes.spines.values():
        side.set_visible(False)


def _set_legend(axes: Axes, verdicts: Container[Verdict]) -> None:
    axes.set_title(
        "How far each figure is from its goal", loc="left", color=_INK, fontsize=13, pad=26
    )
    axes.legend(
        handles=[Patch(color=COLOURS[v], label=_WORDS[v]) for v in _WORDS if v in verdicts],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(_WORDS),
        frameon=False,
        fontsize=9,
        borderaxespad=0.2,
        handlelength=1,
    )


def _title(figure: Figure) -> str:
    if not figure.reference_title:
        return figure.title
    return f"{figure.title} / {figure.reference_title}"


def _goal_of(figure: Figure) -> Goal:
    if figure.goal is None:
        raise ValueError(f"{figure.name} is not judged")
    return figure.goal


def _label(figure: Figure) -> str:
    goal = _goal_of(figure)
    shown = number(figure.judged)
    if figure.reference is None:
        shown = f"{shown} {figure.unit}".strip()
    return f"{shown}  ({'≥' if goal.at_least else '≤'} {goal.goal:g})"
