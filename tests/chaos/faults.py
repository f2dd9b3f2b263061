"""Faults: one after another at random, each undone, while the load runs."""

import random
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable
from typing import Self

from devstack.process import Process
from tests.chaos.stack import Stack

PAUSE_SECONDS = (0.1, 0.8)
OUTAGE_SECONDS = (0.2, 2.0)
# Web gives requests in progress ten; the rest is for a machine with much else to do.
STOP_SECONDS = 30


class Faults:
    """Injects faults in a thread of its own for a block; `counts` says which, and how many."""

    def __init__(self, stack: Stack, seed: int) -> None:
        self._stack = stack
        self._random = random.Random(seed)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.counts: Counter[str] = Counter()
        self.failure: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End, with every proxy flowing and every process running but the bad worker."""
        self._stopping.set()
        self._thread.join()
        if self.failure:
            raise self.failure
        for proxy in self._stack.proxies.values():
            proxy.resume()
        self._stack.bad_worker.stop()
        for process in (*self._stack.engines, *self._stack.roles[:-1]):
            if not process.is_running:
                process.start()

    def _run(self) -> None:
        # Engines take long to come back, so roles and connections fail more often.
        faults: list[tuple[int, Callable[[], None]]] = [
            (5, self._kill_role),
            (4, self._terminate_role),
            (1, self._kill_engine),
            (3, self._cut),
            (2, self._stall),
            (2, self._half_close),
        ]
        try:
            while not self._stopping.wait(self._random.uniform(*PAUSE_SECONDS)):
                weights = [weight for weight, _ in faults]
                self._random.choices(faults, weights)[0][1]()
                if not self._stack.bad_worker.is_running:
                    self._stack.bad_worker.start()
        except BaseException as error:  # noqa: BLE001 - raised again at the end
            self.failure = error

    def _kill_role(self) -> None:
        role = self._random.choice(self._stack.roles)
        self._note("kill", role)
        role.kill()
        self._outage()
        role.start()

    def _terminate_role(self) -> None:
        role = self._random.choice(self._stack.roles[:-1])
        self._note("terminate", role)
        role.signal(signal.SIGTERM)
        try:
            code: object = role.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            code = "nothing yet"
        if code != 0:
            raise AssertionError(f"{role.name} ended with {code} on SIGTERM\n{role.last_words()}")
        self._outage()
        role.start()

    def _kill_engine(self) -> None:
        engine = self._random.choice(self._stack.engines)
        self._note("kill", engine)
        engine.kill()
        self._outage()
        engine.start()

    def _cut(self) -> None:
        name, proxy = self._random.choice(list(self._stack.proxies.items()))
        self.counts[f"cut {name}"] += 1
        proxy.cut()

    def _half_close(self) -> None:
        name, proxy = self._random.choice(list(self._stack.proxies.items()))
        self.counts[f"half-close {name}"] += 1
        proxy.half_close()

    def _stall(self) -> None:
        name, proxy = self._random.choice(list(self._stack.proxies.items()))
        self.counts[f"stall {name}"] += 1
        proxy.stall()
        self._outage()
        proxy.resume()

    def _outage(self) -> None:
        self._stopping.wait(self._random.uniform(*OUTAGE_SECONDS))

    def _note(self, what: str, process: Process) -> None:
        self.counts[f"{what} {process.name}"] += 1
