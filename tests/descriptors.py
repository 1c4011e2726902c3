"""Which descriptors this process has: whoever opens some is to close them again."""

from __future__ import annotations

import gc
import os


def open_descriptors() -> set[str]:
    """Return their numbers. What other tests have dropped is closed before, not at some moment of this one."""
    gc.collect()
    return set(os.listdir("/proc/self/fd"))
