"""config.json of a bundle: what the image says, what the caller wants, and that the bundle runs."""

from __future__ import annotations

import json
import os
import pty
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import layout
import pytest
from layout import archive, directory, entry, layout_of
from precondition import requires

from pysandbox.errors import SandboxError
from pysandbox.oci.default import default_spec

if TYPE_CHECKING:
    from runtime import Runtime

PASSWD = b"root:x:0:0::/root:/bin/sh\n# a comment\nbroken:line\napp:x:1000:1001::/app:/bin/sh\nbig:x:4294967295:1::/:\n"
GROUP = b"root:x:0:\nstaff:x:50:other,app\naudio:x:29:app\nwheel:x:10:\n"
LAYER = archive(entry("etc/passwd", PASSWD), entry("etc/group", GROUP))


@pytest.fixture(autouse=True)
def _as_root() -> None:
    requires("root")


def spec(
    tmp_path: Path, config: dict[str, Any] | None = None, *, layer: bytes = LAYER, **options: Any
) -> dict[str, Any]:
    """Make a bundle of a small image, and return its spec."""
    members = options.pop("members", {})
    layout.bundle(layout_of(tmp_path / "image", layer, config=config, **members), tmp_path / "bundle", **options)
    return layout.spec_of(tmp_path / "bundle")


def test_what_the_image_leaves_open_is_what_spec_writes(tmp_path: Path, pysandbox: Runtime) -> None:
    found = spec(tmp_path)
    pysandbox.ok("spec", "--bundle", tmp_path)
    template = json.loads((tmp_path / "config.json").read_text())

    assert (found["process"].pop("args"), template["process"].pop("args")) == (["true"], ["sh"])
    assert (found["process"].pop("terminal"), template["process"].pop("terminal")) == (False, True)
    assert (found["root"].pop("readonly"), template["root"].pop("readonly")) == (False, True)
    assert set(template["process"].pop("env")) - set(found["process"].pop("env")) == {"TERM=xterm"}
    del found["annotations"]
    assert found == template


def test_a_root_file_system_has_the_command_that_spec_writes(tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    layout.bundle(tmp_path / "rootfs", tmp_path / "bundle")

    assert layout.spec_of(tmp_path / "bundle")["process"]["args"] == default_spec()["process"]["args"]


ENTRY = {"Entrypoint": ["/init", "--"], "Cmd": ["serve"]}


@pytest.mark.parametrize(
    ("config", "wishes", "args"),
    [
        (ENTRY, {}, ["/init", "--", "serve"]),
        (ENTRY, {"args": ["sh", "-c", "x"]}, ["/init", "--", "sh", "-c", "x"]),
        (ENTRY, {"entrypoint": "env"}, ["env"]),
        (ENTRY, {"entrypoint": "env", "args": ["-0"]}, ["env", "-0"]),
        (ENTRY, {"entrypoint": "", "args": ["sh"]}, ["sh"]),
        ({"Entrypoint": None, "Cmd": ["sh"]}, {}, ["sh"]),
        ({"Entrypoint": ["sh"], "Cmd": None}, {}, ["sh"]),
    ],
)
def test_the_command_is_as_under_docker(
    tmp_path: Path, config: dict[str, Any], wishes: dict[str, Any], args: list[str]
) -> None:
    assert spec(tmp_path, config, **wishes)["process"]["args"] == args


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", {"uid": 0, "gid": 0}),
        ("0", {"uid": 0, "gid": 0}),
        ("app", {"uid": 1000, "gid": 1001, "additionalGids": [50, 29]}),
        ("1000", {"uid": 1000, "gid": 1001, "additionalGids": [50, 29]}),
        ("1000:1000", {"uid": 1000, "gid": 1000}),
        ("app:staff", {"uid": 1000, "gid": 50}),
        ("app:0", {"uid": 1000, "gid": 0}),
        (":wheel", {"uid": 0, "gid": 10}),
        ("65534", {"uid": 65534, "gid": 0}),
        ("4294967294", {"uid": 4294967294, "gid": 0}),
    ],
)
@pytest.mark.parametrize("asked", ["by the image", "by the caller"])
def test_the_user_is_who_the_images_files_say(tmp_path: Path, user: str, expected: dict[str, Any], asked: str) -> None:
    if asked == "by the image":
        found = spec(tmp_path, {"User": user})
    else:
        found = spec(tmp_path, {"User": "nobody at all"}, user=user)

    assert found["process"]["user"] == expected


def test_an_account_whose_id_is_none_is_no_account(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match='no user "big"'):
        spec(tmp_path, {"User": "big"})


def test_account_files_may_be_links_in_the_image(tmp_path: Path) -> None:
    layer = archive(layout.symlink("etc/passwd", "/lib/../lib/users"), entry("lib/users", PASSWD))

    assert spec(tmp_path, {"User": "app"}, layer=layer)["process"]["user"] == {"uid": 1000, "gid": 1001}


def test_variables_of_the_caller_come_before_those_of_the_image(tmp_path: Path) -> None:
    env = spec(tmp_path, {"Env": ["PATH=/app", "A=1", "B=2", "A=3"]}, env=["B=x=y", "C="])["process"]["env"]

    assert env == ["PATH=/app", "A=3", "B=x=y", "C="]


def test_without_a_path_the_image_gets_one(tmp_path: Path) -> None:
    assert spec(tmp_path)["process"]["env"] == [default_spec()["process"]["env"][0]]


def test_a_terminal_is_the_callers_wish(tmp_path: Path) -> None:
    process = spec(tmp_path, terminal=True)["process"]

    assert process["terminal"]
    assert "TERM=xterm" in process["env"]


def test_the_working_directory_is_made_where_it_is_missing(tmp_path: Path) -> None:
    assert spec(tmp_path, {"WorkingDir": "/app//data/./"})["process"]["cwd"] == "/app/data"
    assert (tmp_path / "bundle/rootfs/app/data").stat().st_mode & 0o777 == 0o755


def test_volumes_are_directories_and_writable_in_a_read_only_root(tmp_path: Path) -> None:
    layer = archive(directory("data", mode=0o700, uid=7))
    found = spec(tmp_path, {"Volumes": {"/data": {}, "/new/one": {}}}, layer=layer, readonly=True)

    assert (tmp_path / "bundle/rootfs/new/one").is_dir()
    assert (tmp_path / "bundle/rootfs/data").stat().st_uid == 7
    assert [(one["destination"], one["type"]) for one in found["mounts"][-2:]] == [
        ("/data", "tmpfs"),
        ("/new/one", "tmpfs"),
    ]
    assert found["root"]["readonly"]


def test_what_an_image_says_of_itself_becomes_annotations(tmp_path: Path) -> None:
    config = {
        "StopSignal": "SIGQUIT", "ExposedPorts": {"80/tcp": {}, "443/tcp": {}},
        "Labels": {"maintainer": "me", "org.opencontainers.image.created": "label wins"},
    }  # fmt: skip
    found = spec(tmp_path, config, members={"created": "2024-01-01T00:00:00Z", "author": "me"})

    prefix = "org.opencontainers.image."
    assert found["annotations"] == {
        f"{prefix}os": "linux", f"{prefix}architecture": layout.ARCHITECTURE, f"{prefix}author": "me",
        f"{prefix}stopSignal": "SIGQUIT", f"{prefix}exposedPorts": "443/tcp,80/tcp", f"{prefix}created": "label wins",
        "maintainer": "me",
    }  # fmt: skip


def test_host_and_domain_name_are_the_images(tmp_path: Path) -> None:
    found = spec(tmp_path, {"Hostname": "web", "Domainname": "example.test"})

    assert (found["hostname"], found["domainname"]) == ("web", "example.test")


def test_capabilities_are_added_by_name_or_as_docker_has_them(tmp_path: Path) -> None:
    sets = spec(tmp_path, capabilities=["docker", "net_admin", "CAP_SYS_PTRACE"])["process"]["capabilities"]

    assert set(sets) == {"bounding", "effective", "permitted"}
    for members in sets.values():
        assert len(members) == len(set(members)) == 16
        assert {"CAP_CHOWN", "CAP_NET_ADMIN", "CAP_SYS_PTRACE"} <= set(members)


def test_a_capability_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="--cap-add sys_evil: no such capability"):
        spec(tmp_path, capabilities=["sys_evil"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing", "d"], "no such file or directory; it must be on this machine"),
        (["i"], "requires a minimum of 2 argument"),
        (["i", "missing/d"], "no such file or directory"),
        (["i", "d", "--devices", "some"], "must be skip, keep or refuse"),
        (["i", "d", "--max-size", "16X"], "--max-size 16X"),
        (["i", "d", "--max-entries", "0"], "must be at least 1"),
        (["i", "d", "--platform", "windows/amd64"], "--platform windows/amd64"),
        (["i:tag", "d"], "no image layout and no docker archive"),
        (["/dev/null", "d"], "must be a directory, a file or a pipe"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(
    tmp_path: Path, pysandbox: Runtime, arguments: list[str], said: str
) -> None:
    (tmp_path / "i").mkdir()

    done = pysandbox("bundle", *arguments, cwd=tmp_path)

    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == ["i"]


@pytest.fixture(scope="session")
def busybox_layer(busybox_rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The busybox root file system as a layer."""
    path = tmp_path_factory.mktemp("layer") / "layer.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(busybox_rootfs, ".")
    return path.read_bytes()


def test_a_bundle_runs(tmp_path: Path, busybox_layer: bytes, pysandbox: Runtime, leaks: object) -> None:
    script = "id -u; id -g; pwd; echo $GREETING; cat /etc/hostname; touch /work/new && ls /work"
    config = {
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": [script], "User": "user", "WorkingDir": "/work", "Env": ["GREETING=hello"],
    }  # fmt: skip
    second = archive(directory("work", uid=1000), entry("etc/hostname", b"layered\n"))
    image = layout_of(tmp_path / "image", busybox_layer, second, config=config)

    said = pysandbox.ok("bundle", image, tmp_path / "bundle")
    done = pysandbox("run", tmp_path / "bundle")

    assert f"pysandbox run {tmp_path / 'bundle'}" in said
    assert done.stdout.split() == ["1000", "1000", "/work", "hello", "layered", "new"]
    assert done.stderr == ""


def test_the_command_line_is_the_callers(tmp_path: Path, busybox_layer: bytes, pysandbox: Runtime) -> None:
    image = layout_of(tmp_path / "image", busybox_layer, config={"Entrypoint": ["/bin/echo", "from the image"]})
    script = "id -un; echo $A; grep -c . /proc/self/status >/dev/null && echo $0"
    pysandbox.ok(
        "bundle", "--entrypoint", "", "--user", "daemon", "-e", "A=b c", image, tmp_path / "bundle",
        "--", "sh", "-c", script, "--user",
    )  # fmt: skip

    assert pysandbox.ok("run", tmp_path / "bundle") == "daemon\nb c\n--user\n"


def test_a_read_only_bundle_runs_with_its_volumes(tmp_path: Path, busybox_layer: bytes, pysandbox: Runtime) -> None:
    script = "touch /data/new; ls /data; touch /no 2>/dev/null || echo read-only"
    config = {"Cmd": ["sh", "-c", script], "Volumes": {"/data": {}}}
    image = layout_of(tmp_path / "image", busybox_layer, archive(entry("data/old")), config=config)

    pysandbox.ok("bundle", "--read-only", "--quiet", image, tmp_path / "bundle")

    assert pysandbox.ok("run", tmp_path / "bundle").split() == ["new", "old", "read-only"]


def test_a_terminal_shows_each_step(tmp_path: Path, pysandbox: Runtime) -> None:
    image = layout_of(tmp_path / "image", LAYER, archive(entry("b")))
    ours, theirs = pty.openpty()
    try:
        pysandbox.ok("bundle", image, tmp_path / "bundle", stdout=theirs)
        shown = os.read(ours, 65536).decode()
    finally:
        os.close(ours)
        os.close(theirs)

    assert "unpacking layer 1 of 2" in shown
    assert "unpacking layer 2 of 2" in shown


def test_quiet_says_nothing(tmp_path: Path, pysandbox: Runtime) -> None:
    assert pysandbox.ok("bundle", "-q", layout_of(tmp_path / "image", LAYER), tmp_path / "bundle") == ""
