"""What each figure is to reach. A figure without a line here is shown and not judged."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Verdict(StrEnum):
    """How a figure stands to its goal."""

    STRETCH = "stretch"
    GOAL = "goal"
    MISS = "MISS"
    UNJUDGED = ""


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on a ratio, or on the figure itself where there is no reference."""

    goal: float
    stretch: float | None = None
    at_least: bool = False

    def judge(self, value: float) -> Verdict:
        """Return whether `value` is within the stretch goal, the goal, or neither."""
        if self.stretch is not None and self._reached(value, self.stretch):
            return Verdict.STRETCH
        return Verdict.GOAL if self._reached(value, self.goal) else Verdict.MISS

    def margin(self, value: float) -> float:
        """Return how many times better than the goal `value` is; below 1 it misses it."""
        better, worse = (value, self.goal) if self.at_least else (self.goal, value)
        return better / max(worse, 1e-9)

    def _reached(self, value: float, bound: float) -> bool:
        return value >= bound if self.at_least else value <= bound


FLAT: Final = Goal(1.15, 1.05)
# By the names of figures.
GOALS: Final[dict[str, Goal]] = {
    "request_upload_cpu": Goal(2.0, 1.6),
    "request_upload_rate": Goal(1.2, 1.4, at_least=True),
    "presign_rate": Goal(15, 30, at_least=True),
    "status_cpu": Goal(0.8, 0.6),
    "get_cpu": Goal(0.8, 0.6),
    "results_rate": Goal(0.4, 0.6, at_least=True),
    "dispatch_rate": Goal(0.9, 3, at_least=True),
    "dispatch_latency": Goal(100, 30),
    "render_rate": Goal(1.8, 2.5, at_least=True),
    "render_bytes": Goal(1.08),
    "render_ssim": Goal(0.01),
    "pipeline_rate": Goal(0.9, 0.97, at_least=True),
    "request_upload_growth": FLAT,
    "complete_growth": FLAT,
    "status_growth": FLAT,
    "list_growth": FLAT,
    "claim_growth": FLAT,
    "web_memory": Goal(90, 70),
    "listener_memory": Goal(70, 50),
}
