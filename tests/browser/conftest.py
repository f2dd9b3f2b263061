"""A real browser, a running service with its listener, and the store on another origin.

What is missing fails the tests that need it, with the line that says how to get it. A failed test
leaves a screenshot in artifacts/browser/.
"""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from config.settings import Settings
from devstack.process import answers, find_free_ports
from devstack.roles import LISTENER, WEB, WORKER, Role
from devstack.seaweedfs import SeaweedFS
from mediaservice import PROJECT
from mediaservice.database import create_database_engine
from mediaservice.models import Media
from mediaservice.storage import Storage
from tests.builders import environment
from tests.npm import install

ARTIFACTS = PROJECT / "artifacts" / "browser"
NPM = Path(__file__).parent / "npm"
WAIT_MS = 20_000

expect.set_options(timeout=WAIT_MS)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    # The shell is the same Chromium without a desktop's windows: a page costs a third of the CPU.
    chromium = shutil.which("chromium-headless-shell") or shutil.which("chromium")
    if not chromium:
        pytest.fail(
            "Chromium is missing: apt-get install --no-install-recommends chromium-headless-shell"
        )
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium)
        yield running
        running.close()


@pytest.fixture(scope="session")
def npm_package(tmp_path_factory) -> Callable[[str], Path]:
    """Install a folder of npm/ with its packages as locked, once, somewhere outside the tree."""
    folder = tmp_path_factory.mktemp("npm")
    return cache(lambda name: install(NPM / name, folder))


@dataclass(frozen=True)
class Site:
    """A running service: its processes and SeaweedFS, on origins of their own.

    SQLite and images processed in the listener, unless the variables name servers.
    """

    url: str
    store: SeaweedFS
    storage: Storage

    def allow_uploads(self) -> None:
        """Let the pages of this site, and no others, PUT to the store."""
        self.storage.create_buckets((self.url,))


def _start(directory: Path, store: SeaweedFS, parts: ExitStack, **variables: str) -> Site:
    port = find_free_ports((0,))
    url = f"http://127.0.0.1:{port}"
    variables = {"DATABASE_URL": f"sqlite:///{directory / 'media.sqlite'}", **variables}
    environ = environment(
        WEB_ORIGINS=url,
        PORT=str(port),
        POLL_SECONDS="0.2",  # sites stay until the end, and each look takes time from other tests
        WEB_CONCURRENCY="1",
        **store.variables,
        **variables,
    )
    settings = Settings.from_environ(environ)
    engine = create_database_engine(settings.database_url)
    Media.metadata.create_all(engine)
    engine.dispose()

    own = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    roles: dict[str, Any] = {"directory": directory, "environ": {**own, **environ}}
    parts.enter_context(Role("web", WEB, is_ready=lambda: answers(f"{url}/readyz"), **roles))
    parts.enter_context(Role("listener", LISTENER, **roles))
    if settings.has_broker:
        parts.enter_context(Role("worker", WORKER, **roles))
    return Site(url, store, Storage(settings))


@pytest.fixture(scope="session")
def sites(tmp_path_factory, seaweedfs) -> Iterator[Any]:
    """Start a site with the given settings, or return the one that is running with them."""
    running: dict[tuple[tuple[str, str], ...], Site] = {}
    with ExitStack() as parts:

        def open_site(**variables: str) -> Site:
            key = tuple(sorted(variables.items()))
            if key not in running:
                directory = tmp_path_factory.mktemp("site")
                running[key] = _start(directory, seaweedfs, parts, **variables)
            running[key].allow_uploads()
            return running[key]

        yield open_site


@pytest.fixture
def site(sites) -> Site:
    return sites()


@pytest.fixture
def production_site(site, tmp_path, seaweedfs, postgresql_url, rabbitmq, amqp) -> Iterator[Site]:
    """A site on PostgreSQL and RabbitMQ with a worker of its own, for one test.

    After `site`, for both use the same buckets, and the last to allow uploads is the one allowed.
    """
    servers = {"DATABASE_URL": postgresql_url, "BROKER_URL": rabbitmq.url}
    with ExitStack() as parts:
        site = _start(tmp_path, seaweedfs, parts, **servers)
        site.allow_uploads()
        yield site


@pytest.fixture
def context_options() -> dict[str, Any]:
    """What a module's browser profiles have beyond the usual."""
    return {"viewport": {"width": 1100, "height": 900}}


@pytest.fixture
def context(browser, site, request, context_options) -> Iterator[BrowserContext]:
    """A browser profile of its own, thus another user; no page may break its own policy."""
    # Animations would be drawn on the CPU, for nobody.
    calm = {"reduced_motion": "reduce"}
    opened = browser.new_context(base_url=site.url, **calm, **context_options)
    opened.set_default_timeout(WAIT_MS)
    faults: list[str] = []
    opened.on("weberror", lambda error: faults.append(str(error.error)))
    opened.on("console", lambda message: _note_violation(message.text, faults))
    yield opened
    if request.node.stash.get(FAILED, False):
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        for number, page in enumerate(opened.pages):
            name = re.sub(r"\W+", "-", request.node.name)
            page.screenshot(path=ARTIFACTS / f"{name}-{number}.png", full_page=True)
    for page in opened.pages:
        # A page that polls has requests under way when its test is over: what becomes of them is
        # of no interest any more, and would otherwise be raised in the next test.
        page.unroute_all(behavior="ignoreErrors")
    opened.close()
    assert not faults


@pytest.fixture
def page(context) -> Page:
    return context.new_page()


def _note_violation(text: str, faults: list[str]) -> None:
    if "Content Security Policy" in text or "Trusted" in text:
        faults.append(text)


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    report = yield
    if report.when == "call" and report.failed:
        item.stash[FAILED] = True
    return report
