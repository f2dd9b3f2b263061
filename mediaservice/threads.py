"""Calls that may hang beyond any time-out of theirs, in threads that can be left behind."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def start_in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Return at once what the call will return or raise.

    Unlike an executor's, its thread does not keep the process from ending, nor other calls waiting.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            outcome.set_exception(error)

    threading.Thread(target=run, name=call.__name__, daemon=True).start()
    return outcome
