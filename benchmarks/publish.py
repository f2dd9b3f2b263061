"""`python -m benchmarks.publish`: docs/benchmarks.md, its chart and docs/scale.md's tables.

All from the run that is kept. What the documents say of the figures besides is written by hand:
read it again after a new run.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.report import Report, markdown_table
from benchmarks.scale import render_scale
from docgen.marks import replace_between
from mediaservice import PROJECT

RESULTS: Final = PROJECT / "benchmarks" / "results.json"
DOCUMENT: Final = PROJECT / "docs" / "benchmarks.md"
SCALE: Final = PROJECT / "docs" / "scale.md"
CHART: Final = PROJECT / "docs" / "images" / "benchmarks.png"
_RENDERED: Final[dict[str, Callable[[Report], str]]] = {
    "figures": lambda report: markdown_table(report.figures),
    "scale": render_scale,
}


def render(document: str, part: str, report: Report) -> str:
    """Return a document with a run's `figures` or `scale` between its marks, the rest as it was."""
    return replace_between(
        document, f"<!-- {part} -->\n", f"<!-- /{part} -->\n", _RENDERED[part](report)
    )


def main(
    results: Path = RESULTS, document: Path = DOCUMENT, scale: Path = SCALE, chart: Path = CHART
) -> None:
    """Write the tables and draw the chart."""
    from benchmarks.chart import draw

    report = Report.read(results)
    for path, part in ((document, "figures"), (scale, "scale")):
        path.write_text(render(path.read_text(), part, report))
    draw(report, chart)


if __name__ == "__main__":
    main()
