"""What a probe is and how probes are made; what they probe is in the modules beside this one."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy.exc import DBAPIError
from urllib3.exceptions import HTTPError

from mediaservice.broker import BrokerUnavailable
from mediaservice.storage import ObjectChanged, ObjectNotFound, StoreUnavailable


class Verdict(StrEnum):
    """What a probe has shown."""

    OK = "ok"
    WARNING = "warning"  # a person should know, but uploads work and are safe
    FAILED = "failed"
    SKIPPED = "skipped"  # could not be tried, or is not wanted


class ProbeWarning(Exception):
    """The guarantee holds only in part: a warning."""


class ProbeFailed(Exception):
    """The guarantee does not hold."""


class ProbeSkipped(Exception):
    """The probe makes no sense here, for the reason given."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One guarantee and how to test it.

    `run` returns what it has seen, or raises ProbeFailed, ProbeWarning or ProbeSkipped with it.
    Once a probe with `is_essential` has failed, those after it are skipped.
    """

    name: str
    guarantee: str
    remedy: str
    run: Callable[[], str]
    is_essential: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one probe; `remedy` is what to do about it, empty if nothing."""

    name: str
    verdict: Verdict
    guarantee: str
    found: str
    remedy: str = ""


def examine(probes: Iterable[Probe]) -> Iterator[Check]:
    """Make the probes one by one; no fault of a server ends the examination."""
    failed: Probe | None = None
    for probe in probes:
        if failed is not None:
            found = f"pointless while this fails: {failed.guarantee}"
            yield Check(probe.name, Verdict.SKIPPED, probe.guarantee, found)
            continue
        check = _run(probe)
        if probe.is_essential and check.verdict is Verdict.FAILED:
            failed = probe
        yield check


def _run(probe: Probe) -> Check:
    try:
        verdict, found = Verdict.OK, probe.run()
    except ProbeSkipped as reason:
        verdict, found = Verdict.SKIPPED, str(reason)
    except ProbeWarning as reason:
        verdict, found = Verdict.WARNING, str(reason)
    except (ProbeFailed, StoreUnavailable, BrokerUnavailable) as reason:
        verdict, found = Verdict.FAILED, str(reason)
    except DBAPIError as reason:
        verdict, found = Verdict.FAILED, str(reason.orig)
    except HTTPError as reason:
        verdict, found = Verdict.FAILED, f"no answer: {reason}"
    except ObjectNotFound as reason:
        verdict, found = Verdict.FAILED, f"the object {reason} is not there"
    except ObjectChanged as reason:
        verdict, found = Verdict.FAILED, f"the object {reason} is not the one that was stored"
    remedy = probe.remedy if verdict in (Verdict.WARNING, Verdict.FAILED) else ""
    return Check(probe.name, verdict, probe.guarantee, " ".join(found.split()), remedy)
