"""Fixtures of the attacks. After each test the canary is compared and everything left behind is counted.

The runtime under test is pysandbox; `PYSANDBOX_SECURITY_RUNTIME=runc` (or any OCI runtime's name) attacks another one,
which is how the harness itself was proved. `…_fails_on_runc_1_1_5` are positive controls: the same attack succeeds on
a runtime that is known to be vulnerable, so the test can fail.
"""

from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))

from harness.fixtures import bundle, canary, compiler, exchanging, place, runc, runtime, succeeds, warm

__all__ = ["bundle", "canary", "compiler", "exchanging", "place", "runc", "runtime", "succeeds", "warm"]
