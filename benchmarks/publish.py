"""`python -m benchmarks.publish`: docs/benchmarks.md and its chart, from the run that is kept.

What the document says of the figures besides is written by hand: read it again after a new run.
"""

from pathlib import Path
from typing import Final

from benchmarks.chart import draw
from benchmarks.report import Report, markdown_table
from docgen.marks import replace_between
from mediaservice import PROJECT

RESULTS: Final = PROJECT / "benchmarks" / "results.json"
DOCUMENT: Final = PROJECT / "docs" / "benchmarks.md"
CHART: Final = PROJECT / "docs" / "images" / "benchmarks.png"
_BEGIN: Final = "<!-- figures -->\n"
_END: Final = "<!-- /figures -->\n"


def render(document: str, report: Report) -> str:
    """Return a document with the table of a run between its marks, and the rest as it was."""
    return replace_between(document, _BEGIN, _END, markdown_table(report.figures))


def main(results: Path = RESULTS, document: Path = DOCUMENT, chart: Path = CHART) -> None:
    """Write the table and draw the chart."""
    report = Report.read(results)
    document.write_text(render(document.read_text(), report))
    draw(report, chart)


if __name__ == "__main__":
    main()
