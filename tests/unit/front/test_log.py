from __future__ import annotations

import os

from pysandbox.cli.log import Log


def test_a_terminal_gets_no_control_characters_of_an_error() -> None:
    """The name of an image's file may be in it: "\\x1b]0;…" would be an order to the operator's terminal."""
    master, slave = os.openpty()
    kept = os.dup(2)
    os.dup2(slave, 2)
    try:
        Log().error("openat: /x\x1b[2Jé\x07")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(slave)
    with open(master, "rb", buffering=0) as terminal:
        assert terminal.read(200) == "ERRO[0000] openat: /x\\x1b[2Jé\\x07\r\n".encode()
