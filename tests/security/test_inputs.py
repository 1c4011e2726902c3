"""Hostile config.json, ids and command lines: one clear line, exit code 1, nothing created."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness.bundle import Bundle
from harness.host import Canary, records
from harness.runtime import Result, Runtime


def run_as_it_is(runtime: Runtime, bundle: Bundle, limit: float = 20) -> Result:
    """`run` without writing config.json first."""
    return runtime.call("run", "--bundle", os.fspath(bundle.path), runtime.new_id(), limit=limit)


def fifo(path: Path, text: str) -> None:
    os.mkfifo(path)


def directory(path: Path, text: str) -> None:
    path.mkdir()


def link_to_a_good_file(path: Path, text: str) -> None:
    path.with_name("elsewhere.json").write_text(text)
    path.symlink_to("elsewhere.json")


def link_to_dev_zero(path: Path, text: str) -> None:
    path.symlink_to("/dev/zero")


def link_to_itself(path: Path, text: str) -> None:
    path.symlink_to(path.name)


def zero_device(path: Path, text: str) -> None:
    os.mknod(path, 0o020666, os.makedev(1, 5))


def socket(path: Path, text: str) -> None:
    os.mknod(path, 0o140666)


def huge_sparse_file(path: Path, text: str) -> None:
    path.write_text(text)
    os.truncate(path, 8 << 30)


def nothing(path: Path, text: str) -> None:
    """config.json is missing."""


@pytest.mark.parametrize(
    "make",
    [
        fifo,
        directory,
        link_to_a_good_file,
        link_to_dev_zero,
        link_to_itself,
        zero_device,
        socket,
        huge_sparse_file,
        nothing,
    ],
)
def test_config_json_must_be_a_regular_file_of_a_sane_size(
    runtime: Runtime, bundle: Bundle, make: Callable[[Path, str], None]
) -> None:
    path = bundle.write() / "config.json"
    text = path.read_text()
    path.unlink()
    make(path, text)

    answer = run_as_it_is(runtime, bundle)

    answer.assert_one_clear_line("config.json")
    assert answer.seconds < 10
    assert records(runtime.root) == []


def spec_with(**parts: object) -> bytes:
    """A spec with some of its top-level properties replaced."""
    from harness.bundle import spec

    return json.dumps({**spec(), **parts}).encode()


GOOD = spec_with()
TEXTS: dict[str, bytes] = {
    "empty": b"",
    "space": b" \n",
    "truncated": GOOD[:-10],
    "trailing": GOOD + b"{}",
    "not json": b"#!/bin/sh\n",
    "a list": b"[]",
    "null": b"null",
    "a string": b'"spec"',
    "a number": b"1",
    "duplicate keys": GOOD[:-1] + b', "hostname": "other"}',
    "duplicate nested keys": GOOD.replace(b'"uid": 0', b'"uid": 0, "uid": 0'),
    "NaN": GOOD.replace(b'"uid": 0', b'"uid": NaN'),
    "Infinity": GOOD.replace(b'"uid": 0', b'"uid": Infinity'),
    "float": GOOD.replace(b'"uid": 0', b'"uid": 0.5'),
    "exponent": GOOD.replace(b'"uid": 0', b'"uid": 1e400'),
    "bool for int": GOOD.replace(b'"uid": 0', b'"uid": true'),
    "a number of 5000 digits": GOOD.replace(b'"uid": 0', b'"uid": 1' + b"0" * 5000),
    "deep lists": GOOD[:-1] + b', "x": ' + b"[" * 100000 + b"]" * 100000 + b"}",
    "deep objects": GOOD[:-1] + b', "x": ' + b'{"a":' * 50000 + b"1" + b"}" * 50000 + b"}",
    "not UTF-8": GOOD.replace(b"attacked", b"\xff\xfe"),
    "UTF-16": GOOD.decode().encode("utf-16"),
    "NUL in a string": GOOD.replace(b"/bin/true", b"/bin/true\\u0000x"),
    "NUL in the file": GOOD.replace(b"/bin/true", b"/bin/true\x00"),
    "lone surrogate": GOOD.replace(b"/bin/true", b"/bin/\\ud800"),
    "control character": GOOD.replace(b"attacked", b"\x01"),
    "args a string": GOOD.replace(b'["/bin/true"]', b'"/bin/true"'),
    "args empty": GOOD.replace(b'["/bin/true"]', b"[]"),
    "args of numbers": GOOD.replace(b'["/bin/true"]', b"[1]"),
    "no process": spec_with(process=None),
    "process a list": spec_with(process=[]),
    "root a string": spec_with(root="rootfs"),
    "root path empty": spec_with(root={"path": ""}),
    "no root": spec_with(root=None),
    "mounts an object": spec_with(mounts={}),
    "a mount a string": spec_with(mounts=["/proc"]),
    "a mount without destination": spec_with(mounts=[{"type": "proc"}]),
    "version of the future": spec_with(ociVersion="99.0.0"),
    "version a number": spec_with(ociVersion=1),
    "no version": spec_with(ociVersion=None),
    "relative cwd": GOOD.replace(b'"cwd": "/"', b'"cwd": "tmp"'),
    "an unknown namespace": GOOD.replace(b'"type": "uts"', b'"type": "utc"'),
    "a namespace twice": GOOD.replace(b'"type": "uts"', b'"type": "ipc"'),
    "an unknown rlimit": GOOD.replace(b'"cwd": "/"', b'"cwd": "/", "rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]'),
    "soft above hard": GOOD.replace(b'"cwd": "/"', b'"cwd": "/", "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 1}]'),
    "an rlimit twice": GOOD.replace(b'"cwd": "/"', b'"cwd": "/", "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0},{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]'),
    "a masked path that is relative": GOOD.replace(b'"/proc/acpi"', b'"proc/acpi"'),
    "a negative oom score": GOOD.replace(b'"cwd": "/"', b'"cwd": "/", "oomScoreAdj": -1001'),
    "a hook without a path": spec_with(hooks={"prestart": [{"args": ["x"]}]}),
    "a hook with a relative path": spec_with(hooks={"prestart": [{"path": "bin/true"}]}),
    "a hook with a negative timeout": spec_with(hooks={"prestart": [{"path": "/bin/true", "timeout": -1}]}),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_a_bad_spec_is_refused_in_one_line(runtime: Runtime, bundle: Bundle, name: str) -> None:
    assert TEXTS[name] != GOOD, "the mutation found nothing to change"
    (bundle.path / "config.json").write_bytes(TEXTS[name])

    answer = run_as_it_is(runtime, bundle)

    answer.assert_one_clear_line()
    assert answer.seconds < 10
    assert records(runtime.root) == []


def test_a_spec_with_unknown_properties_runs(runtime: Runtime, bundle: Bundle) -> None:
    """The control: it is what is wrong that is refused, not what is new."""
    bundle.spec["future"] = {"deep": [[[[1]]]]}
    bundle.process["future"] = "x"

    assert runtime.run(bundle).code == 0


BAD_IDS = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/abs",
    "a\nb",
    "a b",
    "-x\0"[:2],
    "é",
    "a" * 300,
    "a" * 5000,
    "%s",
    "a;b",
    "\x1b[31m",
]


@pytest.mark.parametrize("container", BAD_IDS, ids=[repr(name)[:20] for name in BAD_IDS])
@pytest.mark.parametrize("command", ["create", "state", "delete", "kill", "exec"])
def test_a_container_id_is_no_path(runtime: Runtime, bundle: Bundle, command: str, container: str) -> None:
    arguments = {
        "create": ["create", "--bundle", os.fspath(bundle.write()), container],
        "exec": ["exec", container, "/bin/true"],
    }.get(command, [command, container])

    answer = runtime.call(*arguments, limit=20)

    assert answer.refused, answer
    assert "Traceback" not in answer.err
    assert records(runtime.root) == []
    assert not (runtime.root.parent / "x").exists()


def test_delete_force_of_a_path_removes_nothing(runtime: Runtime, bundle: Bundle, canary: Canary) -> None:
    runtime.root.mkdir(mode=0o700, exist_ok=True)

    for name in (f"../{canary.path.name}", os.fspath(canary.path), "..", "."):
        answer = runtime.call("delete", "--force", name)
        assert answer.refused, (name, answer)

    canary.assert_unchanged()


LARGE = 70_000


def many_mounts(spec: dict[str, Any]) -> None:
    spec["mounts"] += [{"destination": f"/tmp/m{number}", "type": "tmpfs", "source": "tmpfs"} for number in range(300)]


def a_long_mount_option(spec: dict[str, Any]) -> None:
    spec["mounts"].append(
        {"destination": "/tmp/x", "type": "tmpfs", "source": "tmpfs", "options": ["size=1", "x" * LARGE]}
    )


def a_long_source(spec: dict[str, Any]) -> None:
    spec["mounts"].append({"destination": "/tmp/x", "type": "bind", "source": "/" + "x" * LARGE, "options": ["bind"]})


def a_long_destination(spec: dict[str, Any]) -> None:
    spec["mounts"].append({"destination": "/tmp" + "/d" * LARGE, "type": "tmpfs", "source": "tmpfs"})


def a_long_namespace_path(spec: dict[str, Any]) -> None:
    spec["linux"]["namespaces"][1]["path"] = "/proc/" + "./" * LARGE + "self/ns/net"


def long_id_maps(spec: dict[str, Any]) -> None:
    spec["linux"]["namespaces"].append({"type": "user"})
    spec["linux"]["uidMappings"] = [{"containerID": n, "hostID": 100000 + n, "size": 1} for n in range(5000)]
    spec["linux"]["gidMappings"] = [{"containerID": n, "hostID": 100000 + n, "size": 1} for n in range(5000)]


def a_long_hostname(spec: dict[str, Any]) -> None:
    spec["hostname"] = "h" * LARGE


def a_long_argument(spec: dict[str, Any]) -> None:
    spec["process"]["args"] = ["/bin/true", "a" * (256 * 1024)]


def a_long_environment(spec: dict[str, Any]) -> None:
    spec["process"]["env"] += [f"V{number}={'v' * 1000}" for number in range(LARGE // 100)]


def a_long_cwd(spec: dict[str, Any]) -> None:
    spec["process"]["cwd"] = "/" + "c" * LARGE


def long_annotations(spec: dict[str, Any]) -> None:
    spec["annotations"] = {f"org.example.a{number}": "x" * LARGE for number in range(8)}


def many_masks(spec: dict[str, Any]) -> None:
    spec["linux"]["maskedPaths"] += [f"/nowhere/{'m' * 60}/{number}" for number in range(2000)]


def a_long_cgroups_path(spec: dict[str, Any]) -> None:
    spec["linux"]["cgroupsPath"] = "/" + "g" * LARGE


@pytest.mark.parametrize(
    "grow",
    [
        many_mounts, a_long_mount_option, a_long_source, a_long_destination, a_long_namespace_path, long_id_maps, a_long_hostname,
        a_long_argument, a_long_environment, a_long_cwd, long_annotations, many_masks, a_long_cgroups_path,
    ],
)  # fmt: skip
def test_an_input_above_64_kib_works_or_is_refused_never_cut_off(
    runtime: Runtime, bundle: Bundle, grow: Callable[[dict[str, Any]], None]
) -> None:
    """CVE-2021-43784: a 16-bit length in the runtime's own bootstrap protocol."""
    grow(bundle.spec)

    answer = runtime.run(bundle, limit=60)

    assert "Traceback" not in answer.err, answer
    if answer.code != 0:
        if answer.err.startswith("exec /"):
            # What only execve(2) finds out the container's own process says, as under runc.
            assert answer.code == 255, answer
            answer.code = 1
        answer.assert_one_clear_line()


def test_a_large_environment_arrives_whole(runtime: Runtime, bundle: Bundle) -> None:
    a_long_environment(bundle.spec)

    answer = runtime.run(bundle.runs("/bin/sh", "-c", "env | grep -c ^V"), limit=60)

    assert answer.out.strip() == str(LARGE // 100), answer


@pytest.mark.parametrize("command", ["checkpoint", "restore"])
def test_checkpoint_and_restore_are_refused_and_never_read_their_image(
    runtime: Runtime, bundle: Bundle, place: Path, command: str
) -> None:
    """containerd CVE-2026-53492: an archive that is trusted again. A FIFO would hold whoever opens it."""
    image = place / "image"
    image.mkdir()
    os.mkfifo(image / "descriptors.json")
    os.mkfifo(image / "inventory.img")

    answer = runtime.call(command, "--image-path", os.fspath(image), runtime.new_id(), limit=20, cwd=bundle.write())

    answer.assert_one_clear_line(command)


ANNOTATIONS = {
    "io.pysandbox.backend": "../../evil", "io.pysandbox.hypervisor.path": "/bin/evil", "io.pysandbox.args": "--sandbox=none -o source=/",
    "org.systemd.property.ExecStart": "/bin/evil", "run.oci.handler": "krun", "run.oci.hooks.stdout": "{canary}/stolen",
    "run.oci.delegate-cgroup": "../../..", "io.katacontainers.config.hypervisor.path": "/bin/evil",
    "io.containerd.runtime.v2.shim.failpoint.Create": "1*panic(x)", "run.oci.keep_original_groups": "1",
}  # fmt: skip


@pytest.mark.parametrize("key", ANNOTATIONS)
def test_an_annotation_is_data(runtime: Runtime, bundle: Bundle, canary: Canary, key: str) -> None:
    """CVE-2024-3154, CVE-2026-44210, CVE-2026-53488: it starts no program, names no file, changes no isolation."""
    bundle.spec["annotations"] = {key: ANNOTATIONS[key].format(canary=canary.path)}
    bundle.runs("/bin/sh", "-c", "hostname; readlink /proc/self/ns/pid; ls /proc | grep -c ^[0-9]")

    answer = runtime.run(bundle)

    canary.assert_unchanged()
    if answer.code == 0:
        hostname, namespace, processes = answer.out.split()
        assert (hostname, int(processes)) < ("attacked", 6)
        assert namespace != os.readlink("/proc/self/ns/pid")
    else:
        answer.assert_one_clear_line(key)


OPTIONS = [
    ["--no-such-option"], ["run"], ["run", "a", "b"], ["run", "--bundle"], ["run", "--bundle", "/nonexistent", "x"], ["nonsense"],
    ["kill", "x", "NOSIGNAL"], ["--log-format", "xml", "list"], ["list", "--format", "xml"], ["--root", "", "list"],
    ["exec"], ["exec", "x"], ["update", "--pids-limit", "many", "x"], ["events", "--interval", "-1s", "x"], ["\udcff"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", OPTIONS, ids=" ".join)
def test_a_bad_command_line_gets_no_traceback(runtime: Runtime, arguments: list[str]) -> None:
    answer = runtime.call(*arguments, limit=20)

    assert answer.code != 0, answer
    assert "Traceback" not in answer.err + answer.out
    assert answer.err.strip() or answer.out.strip()
