"""What this process has counted. Counts only grow, over all tests: look at growth."""

from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import REGISTRY


def value(name: str, **labels: object) -> float:
    """Return the value of a series; 0.0 also for one that is not there."""
    return sample(name, **labels) or 0.0


def sample(name: str, **labels: object) -> float | None:
    """Return the value of a series, None for one that is not there."""
    return REGISTRY.get_sample_value(name, {label: str(one) for label, one in labels.items()})


@contextmanager
def grows(name: str, by: float = 1, **labels: object) -> Iterator[None]:
    """Check that a series grows by so much in a block."""
    before = value(name, **labels)
    yield
    assert value(name, **labels) - before == by, (name, labels)
