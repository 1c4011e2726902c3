"""The fake backend keeps the contract: what the tests of the front end rest on."""

from __future__ import annotations

from pysandbox.testing.contract import BackendContract
from pysandbox.testing.fake import FakeBackend


class TestFake(BackendContract):
    backend_class = FakeBackend
