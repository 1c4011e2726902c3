"""The cache of compiled seccomp profiles: it gives what libseccomp gave, and nobody can put another filter into it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from precondition import requires

from pysandbox import filtercache
from pysandbox.errors import InvalidArgument
from pysandbox.filtercache import compile_filter
from pysandbox.plan.seccomp import compile_profile

if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime import MakeBundle, Runtime

    from pysandbox.plan.filter import Filter

NOBODY = 65534
REPOSITORY = Path(__file__).parents[2]


def denying(*names: str) -> Any:
    """A profile that forbids some system calls and allows all others."""
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [*names], "action": "SCMP_ACT_ERRNO"}]}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a cache that is not there yet."""
    requires("root")
    monkeypatch.setenv("PYSANDBOX_WARM", str(tmp_path / "server"))
    return tmp_path / "server/seccomp"


@pytest.fixture
def launcher(cold_script: Path) -> Path:
    """No server: it would have its own files beside the cache."""
    return cold_script


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every profile that libseccomp has had to compile."""
    profiles = []

    def count(profile: Any) -> Filter | None:
        profiles.append(profile)
        return compile_profile(profile)

    monkeypatch.setattr(filtercache, "_compile", count)
    return profiles


def only(directory: Path) -> Path:
    """The one file in the cache."""
    (path,) = directory.iterdir()
    return path


# -- what it is for ------------------------------------------------------------------------------------------------------


def test_a_profile_is_compiled_once(cache: Path, compiled: list[Any]) -> None:
    first, second = compile_filter(denying("chroot")), compile_filter(denying("chroot"))

    assert first == second == compile_profile(denying("chroot"))
    assert len(compiled) == 1
    assert only(cache).stat().st_mode & 0o7777 == 0o600
    assert cache.stat().st_mode & 0o7777 == cache.parent.stat().st_mode & 0o7777 == 0o700


def test_another_profile_is_another_entry(cache: Path, compiled: list[Any]) -> None:
    assert compile_filter(denying("chroot")) != compile_filter(denying("mount"))
    assert (len(compiled), len(list(cache.iterdir()))) == (2, 2)


def test_a_name_that_nobody_knows_is_told_each_time(cache: Path, compiled: list[Any]) -> None:
    for _ in range(2):
        found = compile_filter(denying("chroot", "there_is_no_such_call"))
        assert found is not None
        assert list(found.ignored) == ["there_is_no_such_call"]
    assert len(compiled) == 1


def test_a_profile_that_is_refused_is_refused_each_time(cache: Path, compiled: list[Any]) -> None:
    wrong = {"defaultAction": "SCMP_ACT_NOTHING"}
    for _ in range(2):
        with pytest.raises(InvalidArgument, match="SCMP_ACT_NOTHING"):
            compile_filter(wrong)  # type: ignore[arg-type]
    assert list(cache.iterdir()) == []


def test_what_is_found_is_used_without_libseccomp_and_ctypes(cache: Path) -> None:
    compile_filter(denying("chroot"))
    program = f"""
import sys
sys.path.insert(0, {str(REPOSITORY / "runtime_api")!r})
from pysandbox.filtercache import compile_filter
assert compile_filter({denying("chroot")!r}) is not None
assert not any("libseccomp" in line for line in open("/proc/self/maps"))
print(sorted({{"ctypes", "hashlib", "pysandbox.plan.seccomp"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_the_oldest_entries_make_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filtercache, "MOST_ENTRIES", 3)
    for name in ("chroot", "mount", "umount2"):
        compile_filter(denying(name))
    first = min(cache.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    (cache / "draft-of-a-killed-command").touch()
    os.utime(cache / "draft-of-a-killed-command", (1, 1))

    compile_filter(denying("swapon"))

    names = {path.name for path in cache.iterdir()}
    assert len(names) == 3
    assert names.isdisjoint({first.name, "draft-of-a-killed-command"})


def test_a_container_runs_under_what_was_kept(cache: Path, pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    def forbid_mkdir(spec: dict[str, Any]) -> None:
        spec["linux"]["seccomp"] = denying("mkdir", "mkdirat")

    bundle = make_bundle(["mkdir", "/tmp/new"], forbid_mkdir)
    for _ in range(2):
        done = pysandbox("run", "--bundle", bundle, pysandbox.new_id())
        assert done.returncode == 1
        assert "Operation not permitted" in done.stderr
        entry = only(cache)
    written = entry.stat().st_mtime_ns
    assert pysandbox("run", "--bundle", bundle, pysandbox.new_id()).returncode == 1
    assert only(cache).stat().st_mtime_ns == written


def test_planning_alone_keeps_nothing(cache: Path, pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(["true"], lambda spec: spec["linux"].update(seccomp=denying("chroot")))

    assert '"op": "seccomp"' in pysandbox.ok("run", "--plan", "--bundle", bundle)
    assert not cache.exists()


# -- what it must not believe --------------------------------------------------------------------------------------------


def _cut_short(entry: Path) -> None:
    entry.write_bytes(entry.read_bytes()[:-1])


def _change_a_byte(entry: Path) -> None:
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 1
    entry.write_bytes(data)


def _empty(entry: Path) -> None:
    entry.write_bytes(b"")


def _too_long(entry: Path) -> None:
    with entry.open("ab") as file:
        file.truncate(1 << 30)


def _of_another_profile(entry: Path) -> None:
    compile_filter(denying("swapon"))
    (other,) = set(entry.parent.iterdir()) - {entry}
    other.rename(entry)


def _link(entry: Path) -> None:
    target = entry.parent.parent / "target"
    entry.rename(target)
    entry.symlink_to(target)


def _foreign(entry: Path) -> None:
    os.chown(entry, NOBODY, NOBODY)


def _readable_by_others(entry: Path) -> None:
    entry.chmod(0o644)


def _fifo(entry: Path) -> None:
    entry.unlink()
    os.mkfifo(entry, 0o600)


def _made_by_another_libseccomp(entry: Path) -> None:
    name, body = entry.name, entry.read_bytes()[32:].replace(b"/libseccomp", b"/libseccomq")
    entry.write_bytes(filtercache._hash(name.encode() + body) + body)


@pytest.mark.parametrize(
    "spoil",
    [
        _cut_short, _change_a_byte, _empty, _too_long, _of_another_profile, _link, _foreign, _readable_by_others, _fifo,
        _made_by_another_libseccomp,
    ],
)  # fmt: skip
def test_an_entry_that_is_not_as_we_wrote_it_is_compiled_anew_and_replaced(
    cache: Path, compiled: list[Any], spoil: Callable[[Path], None]
) -> None:
    profile, right = denying("chroot"), compile_profile(denying("chroot"))
    compile_filter(profile)
    entry = only(cache)
    spoil(entry)
    compiled.clear()

    assert compile_filter(profile) == right
    assert compile_filter(profile) == right
    assert compiled == [profile]
    assert only(cache) == entry
    assert (entry.is_symlink(), entry.stat().st_uid, entry.stat().st_mode & 0o777) == (False, 0, 0o600)


def _others_may_enter(directory: Path) -> None:
    directory.chmod(0o755)


def _not_roots(directory: Path) -> None:
    os.chown(directory, NOBODY, NOBODY)


def _linked(directory: Path) -> None:
    target = directory.parent.parent / "elsewhere"
    directory.rename(target)
    directory.symlink_to(target)


def _a_file(directory: Path) -> None:
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    directory.write_text("")


@pytest.mark.parametrize("spoil", [_others_may_enter, _not_roots, _linked, _a_file])
def test_a_directory_that_is_not_roots_alone_is_neither_read_nor_written(
    cache: Path, compiled: list[Any], spoil: Callable[[Path], None]
) -> None:
    profile, right = denying("chroot"), compile_profile(denying("chroot"))
    compile_filter(profile)
    compiled.clear()
    before = {path.name for path in cache.iterdir()}
    spoil(cache)

    assert compile_filter(profile) == right
    assert compile_filter(denying("mount")) == compile_profile(denying("mount"))
    assert len(compiled) == 2
    assert cache.is_file() or {path.name for path in cache.iterdir()} == before


def test_nothing_is_made_in_a_servers_directory_that_others_may_enter(cache: Path, compiled: list[Any]) -> None:
    cache.parent.mkdir(mode=0o755)
    assert compile_filter(denying("chroot")) == compile_profile(denying("chroot"))
    assert not cache.exists()


@pytest.mark.parametrize("variable", ["LD_LIBRARY_PATH", "LD_PRELOAD", "LD_AUDIT"])
def test_with_a_libseccomp_that_the_environment_chooses_nothing_is_kept(
    cache: Path, compiled: list[Any], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "/nowhere")
    compile_filter(denying("chroot"))
    assert not cache.exists()


def test_a_cache_that_is_full_is_no_error(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    assert compile_filter(denying("chroot")) == compile_profile(denying("chroot"))
    assert list(cache.iterdir()) == []


def test_a_relative_directory_is_no_cache(cache: Path, compiled: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSANDBOX_WARM", "relative")
    assert compile_filter(denying("chroot")) == compile_profile(denying("chroot"))
    assert not Path("relative").exists()
