"""How thorough a run is, and what of."""

import sys
from dataclasses import dataclass
from pathlib import Path

SMALL_ROWS = 10_000
LARGE_ROWS = 10_000_000


@dataclass(frozen=True, slots=True)
class Options:
    """`seconds` is the length of one turn of a load, `requests` and `messages` those of a turn.

    `photos` is a folder of originals; without one, photos are made up. `python` runs the processes
    that are measured.
    """

    rounds: int = 5
    seconds: float = 4.0
    requests: int = 2_000
    messages: int = 10_000
    samples: int = 40
    rows: int = LARGE_ROWS
    photos: Path | None = None
    python: str = sys.executable
