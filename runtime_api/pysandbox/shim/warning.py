"""What the shim has to say for containerd's log, which is its standard error."""

from __future__ import annotations

import contextlib
import json
import os
import time


def warn(text: str) -> None:
    """Write one line for containerd's log. A full FIFO loses it: nothing waits for a reader."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with contextlib.suppress(OSError):
        os.write(2, f'time="{now}" level=warning msg={json.dumps(text)}\n'.encode())
