"""A bundle derived from the user's: the same config.json with our gauge as its program, on a view of its root.

The view is an overlay (Linux 3.18): what a runtime or the gauge writes goes into a directory of the bench's own, and
the gauge lies there. Of the user's bundle nothing is changed, and nothing is made in it.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pysandbox.errors import InvalidArgument, Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from pysandbox.oci.bundle import Bundle

#: Where the gauge lies in the container. Nobody's image has it, and processes are told by it.
DIRECTORY = "/.pysandbox-gauge"
PROGRAM = f"{DIRECTORY}/pysandbox-gauge"
#: Where the gauge may write, whoever the process's user is.
FILES = f"{DIRECTORY}/files"
#: A version of the specification that every runtime of today knows: crun 1.8 refuses 1.2.
OLDEST = ("1", "0", "2")
_NETWORK = "the one that linux.namespaces names: what is in it stays as it is"
MNT_DETACH = 2
MS_NOSUID = 2


def derive(spec: Any, directory: str, root: str, words: Sequence[str]) -> tuple[Any, list[str]]:
    """Return a spec that runs the gauge with these words on another root, and what was changed, in sentences. Pure.

    `directory` is that of the spec: relative sources of bind mounts are meant from there.
    """
    derived = copy.deepcopy(dict(spec))
    if tuple(spec["ociVersion"].split(".")) > OLDEST:
        derived["ociVersion"] = ".".join(OLDEST)
    derived["root"] = {"path": root, "readonly": False}
    derived["process"] = {**derived["process"], "args": [PROGRAM, *words], "cwd": "/", "terminal": False}
    derived["process"].pop("consoleSize", None)
    changes = [
        f"process.args is {PROGRAM}, a static program of ours, in / and without a terminal",
        "the root is a view of yours: what is written in it goes elsewhere and is thrown away",
    ]
    if derived["ociVersion"] != spec["ociVersion"]:
        changes.append(
            f"ociVersion is {derived['ociVersion']}, which old runtimes take (yours is {spec['ociVersion']})"
        )
    if spec["root"].get("readonly"):
        changes.append("the root can be written to, so that files can be measured (yours is read-only)")
    for mount in derived.get("mounts", ()):
        source = mount.get("source", "")
        if {"bind", "rbind"} & set(mount.get("options", ())) and not source.startswith("/"):
            mount["source"] = os.path.normpath(os.path.join(directory, source))
    changes += _without(derived, ("hooks",), "your hooks are not run")
    linux = derived.get("linux", {})
    changes += _own_network(linux)
    changes += _without(linux, ("netDevices",), "no network device of the host is moved into a sandbox")
    changes += _without(linux, ("cgroupsPath",), "each sandbox is in a cgroup of its own, not in linux.cgroupsPath")
    return derived, changes


def _own_network(linux: dict[str, Any]) -> list[str]:
    """Give each sandbox a network namespace of its own, in the place of one that has a path.

    In that one several would be in each other's way, and in its user's: gVisor takes the addresses from the interfaces
    that it finds, and a machine the packets.
    """
    found = [each for each in linux.get("namespaces", ()) if each["type"] == "network" and each.get("path")]
    for each in found:
        del each["path"]
    return [f"each sandbox has a network namespace of its own, with a loopback, not {_NETWORK}"] if found else []


def _without(document: dict[str, Any], names: Sequence[str], change: str) -> list[str]:
    found = [document.pop(name) for name in names if name in document]
    return [change] if any(found) else []


class View:
    """A writable view of a directory that stays as it is, with the gauge in it; gone with the `with` block.

    `in_memory` tells that the changes are on a tmpfs: `directory` is on a file system that can hold no overlay's, as
    an overlay itself is none, which a container's /tmp may be.
    """

    def __init__(self, lower: str, gauge: str, directory: Path) -> None:
        self._lower, self._gauge, self._changes = lower, gauge, directory / "changes"
        self.root = directory / "root"
        self.in_memory = False
        self._mounted: list[Path] = []

    def __enter__(self) -> Self:
        """Mount it. Raises Unavailable where the kernel will not."""
        for path in (self._changes, self.root):
            path.mkdir(parents=True)
        lower = os.open(self._lower, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._mount(lower)
        except OSError as error:
            self.__exit__()
            raise Unavailable(f"cannot lay a view over {self._lower}: overlay: {error.strerror}") from None
        finally:
            os.close(lower)
        return self

    def __exit__(self, *_: object) -> None:
        """Unmount it; the directories are the caller's to remove."""
        while self._mounted:
            ctypes.CDLL(None).umount2(os.fsencode(self._mounted.pop()), MNT_DETACH)

    def _mount(self, lower: int) -> None:
        try:
            self._overlay(lower)
        except OSError:
            _mount(b"tmpfs", os.fsencode(self._changes), "mode=0700")
            self._mounted.append(self._changes)
            self.in_memory = True
            self._overlay(lower)

    def _overlay(self, lower: int) -> None:
        upper, work = self._changes / "upper", self._changes / "work"
        for path in (upper, work):
            path.mkdir()
        self._put_gauge(upper / DIRECTORY.lstrip("/"))
        # The top directory's attributes are the upper one's: a user without root must be able to enter.
        status = os.fstat(lower)
        os.chown(upper, status.st_uid, status.st_gid)
        upper.chmod(status.st_mode & 0o7777)
        _mount_overlay(lower, upper, work, self.root)
        self._mounted.append(self.root)

    def _put_gauge(self, directory: Path) -> None:
        files = directory / Path(FILES).name
        files.mkdir(parents=True)
        directory.chmod(0o755)
        files.chmod(0o1777)
        target = directory / Path(PROGRAM).name
        shutil.copyfile(self._gauge, target)
        target.chmod(0o755)


def _mount_overlay(lower: int, upper: Path, work: Path, target: Path) -> None:
    """Mount by descriptor: no character of a path can be taken for one of overlay's own."""
    with contextlib.ExitStack() as stack:
        paths = []
        for path in (upper, work, target):
            descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            paths.append(f"/proc/self/fd/{descriptor}")
        options = f"lowerdir=/proc/self/fd/{lower},upperdir={paths[0]},workdir={paths[1]}"
        _mount(b"overlay", paths[2].encode(), options)


def _mount(kind: bytes, target: bytes, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(kind, target, kind, ctypes.c_ulong(MS_NOSUID), options.encode()) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


def make_bundles(bundle: Bundle, view: View, directory: Path, programs: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """Write one bundle for each program, name → words of the gauge; return name → directory."""
    made = {}
    for name, words in programs.items():
        spec, _ = derive(bundle.spec, bundle.path, os.fspath(view.root), words)
        made[name] = directory / name
        made[name].mkdir()
        (made[name] / "config.json").write_text(json.dumps(spec))
    return made


def mapped_group(spec: Any) -> int | None:
    """Return the host's group that is 0 in the container's user namespace; None where it has none of its own."""
    maps = spec.get("linux", {}).get("gidMappings", ())
    return next((each["hostID"] - each["containerID"] for each in maps if each["containerID"] == 0), None)


def check(bundle: Bundle) -> None:
    """Refuse what no view can be laid over."""
    if bundle.image:
        raise InvalidArgument(f"{bundle.path}: root.path is an image: bench and compare need a directory")
    if DIRECTORY.lstrip("/") in os.listdir(bundle.rootfs):
        raise InvalidArgument(
            f"{bundle.rootfs}{DIRECTORY}: is there already: a bundle derived by us is none to measure"
        )
