"""Ways in which a process of root's can have less than another: each function takes something from the calling thread.

Run as a program, it is a caller of the server that does not care what the launcher would do: it confines itself, connects,
confines itself further, sends a request of any form, and prints what it was answered.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from pysandbox.warm import proof, wire

_LIBC = ctypes.CDLL(None, use_errno=True)
_CAPSET, _CAPGET = 126, 125  # x86_64
_PIDFD_GETFD = 438
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
#: What a Landlock domain without any rule takes away: making regular files, and writing to them.
_LANDLOCK_WRITE_FILE, _LANDLOCK_MAKE_REG = 1 << 1, 1 << 8
CAP_DAC_OVERRIDE, CAP_CHOWN = 1, 0
SO_PEERPIDFD = 77


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _prctl(option: int, *arguments: int) -> None:
    _check(_LIBC.prctl(option, *(ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4])))


def _sets(change: Any) -> None:
    """Change the calling thread's effective, permitted and inheritable sets: `change` gets and returns three masks."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    words = (ctypes.c_uint32 * 6)()
    _check(_LIBC.syscall(_CAPGET, header, words))
    masks = [words[at] | words[at + 3] << 32 for at in range(3)]
    for at, mask in enumerate(change(*masks)):
        words[at], words[at + 3] = mask & 0xFFFFFFFF, mask >> 32
    _check(_LIBC.syscall(_CAPSET, header, words))


_WITHOUT = ~(1 << CAP_DAC_OVERRIDE)


def effective() -> None:
    """Lay down one capability, which can be taken up again."""
    _sets(lambda effective, permitted, inheritable: (effective & _WITHOUT, permitted, inheritable))


def permitted() -> None:
    """Lose one capability."""
    _sets(lambda effective, permitted, inheritable: (effective & _WITHOUT, permitted & _WITHOUT, inheritable))


def bounding() -> None:
    """Let no program that is executed from now on have one capability."""
    _prctl(24, CAP_DAC_OVERRIDE)  # PR_CAPBSET_DROP


def inheritable() -> None:
    """Hand one capability on to programs that ask for it."""
    _sets(lambda effective, permitted, inheritable: (effective, permitted, inheritable | 1 << CAP_CHOWN))


def ambient() -> None:
    """Hand one capability on to every program."""
    inheritable()
    _prctl(47, 2, CAP_CHOWN)  # PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE


def noroot() -> None:
    """Make uid 0 mean nothing at the next execve(2), and lock that."""
    _prctl(28, 0x3)  # PR_SET_SECUREBITS: SECBIT_NOROOT, SECBIT_NOROOT_LOCKED


def no_new_privileges() -> None:
    """Let no program have more than this process."""
    _prctl(38, 1)


def seccomp() -> None:
    """Filter system calls: mkdir(2) fails, all others pass."""
    program = struct.pack(
        "HBBIHBBIHBBIHBBI", 0x20, 0, 0, 0, 0x15, 0, 1, 83, 0x06, 0, 0, 0x50001, 0x06, 0, 0, 0x7FFF0000
    )
    buffer = ctypes.create_string_buffer(program)
    filter_ = struct.pack("HxxxxxxP", 4, ctypes.addressof(buffer))
    _check(_LIBC.syscall(317, 1, 0, filter_))  # seccomp(SECCOMP_SET_MODE_FILTER)


def landlock() -> None:
    """Forbid making files and writing to any: with CAP_SYS_ADMIN, so that no_new_privs stays unset."""
    attributes = struct.pack("Q", _LANDLOCK_WRITE_FILE | _LANDLOCK_MAKE_REG)
    ruleset = _check(_LIBC.syscall(_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0))
    _check(_LIBC.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def saved_user() -> None:
    """Keep another user id at hand."""
    os.setresuid(0, 0, 65534)


def user_namespace() -> None:
    """Be root of a user namespace only, with as many capabilities there as one had outside."""
    before: list[int] = []
    _sets(lambda effective, permitted, inheritable: (before.append(permitted) or effective, permitted, inheritable))
    os_unshare(0x10000000)
    for name, text in (("uid_map", "0 0 1"), ("setgroups", "deny"), ("gid_map", "0 0 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    _bound(before[0])


def _bound(mask: int) -> None:
    for number in range(64):
        if not mask >> number & 1 and _LIBC.prctl(23, number, 0, 0, 0) == 1:  # PR_CAPBSET_READ
            _prctl(24, number)
    _sets(lambda effective, permitted, inheritable: (effective & mask, permitted & mask, inheritable))


def pid_namespace() -> None:
    """Go on as the first process of a pid namespace; the one outside waits for it."""
    os_unshare(0x20000000)
    _go_on()


def time_namespace() -> None:
    """Go on in a time namespace."""
    os_unshare(0x80)
    _go_on()


def _go_on() -> None:
    child = os.fork()
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


def os_unshare(kinds: int) -> None:
    """unshare(2): not in Python 3.11."""
    _check(_LIBC.unshare(kinds))


def root_directory(path: str) -> None:
    """Have another root directory."""
    os.chroot(path)
    os.chdir("/")


def mount_namespace() -> None:
    """Be in a mount namespace of its own, where mounting is nobody's business."""
    os_unshare(0x00020000)
    _mount("none", "/", 0x44000)  # MS_REC | MS_PRIVATE


def covered_root() -> None:
    """Mount the root directory on itself and go there: its path is `/` still."""
    _mount("/", "/", 0x5000)  # MS_BIND | MS_REC
    os.chroot("/..")
    os.chdir("/")


def bound_root() -> None:
    """In a mount namespace of its own, have the root directory at another place for root."""
    mount_namespace()
    _mount("/", "/mnt", 0x5000)
    os.chroot("/mnt")
    os.chdir("/")


def _mount(source: str, target: str, flags: int) -> None:
    _check(_LIBC.mount(source.encode(), target.encode(), None, ctypes.c_ulong(flags), None))


def enter_mounts(pid: str) -> None:
    """Join the mount namespace of a process."""
    descriptor = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    _check(_LIBC.setns(descriptor, 0))
    os.close(descriptor)


def confine(steps: Sequence[Sequence[str]]) -> None:
    """Take the steps: a function's name and its arguments."""
    for name, *arguments in steps:
        globals()[name](*arguments)


# -- a caller ----------------------------------------------------------------------------------------------------------


class Caller:
    """What a launcher would send, but for what `said` says otherwise."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.said = said
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(5)

    def connect(self) -> None:
        self.connection.connect(self.said["socket"])

    def take_proof(self) -> int:
        """Take the server's descriptor; one that proves nothing, if it is not given. Or what the test says instead."""
        if "proof" in self.said:
            return os.open(self.said["proof"], os.O_RDONLY)
        pidfd = self.connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
        number: int = _LIBC.syscall(_PIDFD_GETFD, pidfd, proof.NUMBER, 0)
        return number if number >= 0 else os.memfd_create("no proof", os.MFD_ALLOW_SEALING)

    def send(self, sent_proof: int) -> None:
        request = {
            "program": "pysandbox", "args": self.said["args"], "env": [], "umask": 0o22, "securebits": 0,
            "ignored": 0, "blocked": 0, "descriptors": [0, 1, 2], **self.said.get("request", {}),
        }  # fmt: skip
        self.life = os.pipe()
        here = os.open(".", os.O_PATH)
        with contextlib.suppress(wire.Closed):  # we have been sent away before
            self._send(request, sent_proof, here)

    def _send(self, request: dict[str, Any], sent_proof: int, here: int) -> None:
        wire.send(self.connection, request, [self._claim(), self.life[0], here, sent_proof])

    def _claim(self) -> int:
        return os.open(self.said["claim"], os.O_RDWR) if "claim" in self.said else os.eventfd(1, os.EFD_NONBLOCK)

    def answers(self) -> list[Any]:
        """All that is said in answer, up to `exit`."""
        found: list[Any] = []
        try:
            while "exit" not in (found[-1] if found else {}) and "cold" not in (found[-1] if found else {}):
                found.append(wire.receive(self.connection)[0])
        except (wire.Closed, OSError) as error:
            found.append(repr(error))
        return found


def _call(caller: Caller, said: dict[str, Any]) -> list[Any]:
    confine(said.get("before", ()))
    caller.connect()
    sent = caller.take_proof()
    time.sleep(0.1 if said.get("after") else 0)  # for the spare to look at us as we are
    confine(said.get("after", ()))
    caller.send(sent)
    return caller.answers()


def _pass_on(caller: Caller, said: dict[str, Any]) -> list[Any]:
    """Connect, and have a child that is confined say the rest."""
    caller.connect()
    child = os.fork()
    if child:
        if said["pass_on"] == "and end":
            os._exit(0)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    time.sleep(0.1 if said["pass_on"] == "and end" else 0)
    confine(said["confined"])
    caller.send(caller.take_proof())
    return caller.answers()


def main() -> None:
    """Be the caller that the argument describes."""
    signal.alarm(20)
    said = json.loads(sys.stdin.read())
    output = os.dup(1)
    os.dup2(os.open("/dev/null", os.O_RDWR), 1)  # what the command writes to
    caller = Caller(said)
    found: list[Any] = []
    call = _pass_on if "pass_on" in said else _call
    if said.get("thread"):
        thread = threading.Thread(target=lambda: found.extend(call(caller, said)))
        thread.start()
        thread.join()
    else:
        found = call(caller, said)
    with open(output, "w") as file:
        json.dump(found, file)


def call_server(path: os.PathLike[str], args: Sequence[str], **said: Any) -> list[Any]:
    """Start such a caller; return what it was answered."""
    text = json.dumps({"socket": os.fspath(path), "args": list(args), **said})
    environment = {**os.environ, "PYTHONPATH": os.path.join(os.path.dirname(__file__), "../../../runtime_api")}
    argv = [sys.executable, __file__]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        out, _ = process.communicate(text, timeout=30)
    answers: list[Any] = json.loads(out)
    return answers


if __name__ == "__main__":
    main()
