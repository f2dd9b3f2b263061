"""Connections that browsers open in advance, to have them when a link is followed."""

import socket
import urllib.request
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest


@pytest.mark.slow
def test_connections_without_a_request_keep_no_worker_busy(site):
    address = urlsplit(site.url)
    with ExitStack() as idle:
        for _ in range(6):
            connection = socket.create_connection((address.hostname, address.port))
            idle.enter_context(connection)
        with urllib.request.urlopen(f"{site.url}/healthz", timeout=10) as response:
            assert response.status == 200
