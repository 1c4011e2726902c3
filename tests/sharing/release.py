"""The virtiofsd of other Debian releases, each in a root directory of its own with the libraries that it needs."""

from __future__ import annotations

import pytest
from daemon.release import Unavailable
from suiteroot import RELEASES as RELEASES
from suiteroot import root_of

from pysandbox.errors import SandboxError
from pysandbox_microvm import virtiofsd

_PROGRAM = "/usr/libexec/virtiofsd"


def server_of(release: str) -> virtiofsd.Server:
    """Return a release's file server; skip the test where it is not to be had."""
    try:
        if release == "installed":
            return virtiofsd.find_server()
        return virtiofsd.find_server(root=str(root_of(release, "virtiofsd", _PROGRAM)))
    except (Unavailable, SandboxError) as missing:
        pytest.skip(f"requires virtiofsd ({release}): {missing}")
