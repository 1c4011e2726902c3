"""A server with a service of every kind of method, its own client, and a raw peer."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
from unit.ttrpc.peer import ECHO, Echo, Peer

from pysandbox.ttrpc.client import Client
from pysandbox.ttrpc.server import Limits, Server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def echo() -> Iterator[Echo]:
    service = Echo()
    yield service
    service.release.set()


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
def server(echo: Echo, limits: Limits) -> Iterator[Server]:
    server = Server(limits=limits)
    server.register(ECHO, echo)
    yield server
    server.close()
    assert not server._connections


@pytest.fixture
def peer(server: Server) -> Iterator[Peer]:
    ours, theirs = socket.socketpair()
    server.attach(theirs)
    yield Peer(ours)
    ours.close()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    ours, theirs = socket.socketpair()
    server.attach(theirs)
    with Client(ours) as client:
        yield client
