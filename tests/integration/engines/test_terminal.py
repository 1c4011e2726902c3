"""`-t`: the container's program on a pty of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daemon.engine import Engine


def test_run_has_a_controlling_terminal_and_echoes(engine: Engine) -> None:
    with engine.terminal(*engine.run_arguments("-it"), "sh") as terminal:
        terminal.type("tty; echo $((20 + 22))\n")
        terminal.expect("/dev/pts/0")
        terminal.expect("42")
        terminal.type("exit 5\n")

        assert terminal.wait() == 5


def test_run_without_stdin_still_gets_a_terminal(engine: Engine) -> None:
    container = engine.start(["sh", "-c", "tty <&1; ls -l /dev/console; exec sleep 1000"], "--tty")

    engine.ok("exec", container, "true")
    logged = engine.ok("logs", container)
    assert "/dev/console" in logged


def test_control_c_interrupts_the_program(engine: Engine) -> None:
    with engine.terminal(*engine.run_arguments("-it"), "sh") as terminal:
        terminal.type("sleep 1000; echo code $?\n")
        terminal.expect("sleep 1000")
        terminal.type("\x03")

        terminal.type("echo still here $((1 + 1))\n")
        terminal.expect("still here 2")
        terminal.type("exit\n")
        terminal.wait()


def test_run_has_the_window_s_size_and_follows_it(engine: Engine) -> None:
    with engine.terminal(*engine.run_arguments("-it"), "sh", rows=31, columns=97) as terminal:
        terminal.type("until stty size | grep 31; do sleep 0.1; done; echo ready$((0))\n")
        assert "31 97" in terminal.expect("ready0")

        terminal.resize(42, 123)
        terminal.type("until stty size | grep 42; do sleep 0.1; done; echo ready$((1))\n")
        assert "42 123" in terminal.expect("ready1")
        terminal.type("exit\n")
        terminal.wait()


def test_exec_has_a_terminal_of_its_own(engine: Engine) -> None:
    container = engine.start(["sleep", "1000"])

    with engine.terminal("exec", "-it", container, "sh") as terminal:
        terminal.type("tty; echo $((20 + 22))\n")
        terminal.expect("/dev/pts/")
        terminal.expect("42")
        terminal.type("exit 6\n")

        assert terminal.wait() == 6
