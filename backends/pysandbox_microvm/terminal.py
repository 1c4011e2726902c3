"""The host's half of a terminal: a pty whose master is the caller's, and whose slave is pumped into the guest's pty.

The guest's pty is the one that translates, echoes and makes signals; ours passes everything on as it is (`raw` of
termios(3)). It is some process's controlling terminal, so that a change of its size is a SIGWINCH to that process.
"""

from __future__ import annotations

import fcntl
import os

_TIOCSCTTY, _TIOCGWINSZ, _TIOCSWINSZ = 0x540E, 0x5413, 0x5414  # asm-generic/ioctls.h


def open_terminal(width: int, height: int) -> tuple[int, int]:
    """Return master and slave of a new pty, both the caller's, in raw mode; 0 for a size that nobody said."""
    import termios

    master, slave = os.openpty()
    try:
        attributes = termios.tcgetattr(slave)
        attributes[0] &= ~(termios.BRKINT | termios.ICRNL | termios.INPCK | termios.ISTRIP | termios.IXON)
        attributes[1] &= ~termios.OPOST
        attributes[2] = attributes[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
        attributes[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        if width or height:
            size = height.to_bytes(2, "little") + width.to_bytes(2, "little") + bytes(4)
            fcntl.ioctl(slave, _TIOCSWINSZ, size)
    except BaseException:
        os.close(master)
        os.close(slave)
        raise
    return master, slave


def terminal_size(slave: int) -> tuple[int, int]:
    """Return a terminal's width and height in characters."""
    data = fcntl.ioctl(slave, _TIOCGWINSZ, bytes(8))
    return int.from_bytes(data[2:4], "little"), int.from_bytes(data[:2], "little")


def take_control(slave: int) -> None:
    """Make a terminal the controlling one of this process, which leads a session without one: ioctl_tty(2)."""
    fcntl.ioctl(slave, _TIOCSCTTY, 0)
