"""The kernel's build: what it needs, what it takes of the configuration, how it ends."""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path

import pytest
from precondition import requires
from runtime import eventually

from pysandbox.errors import InvalidArgument, Unavailable
from pysandbox_microvm import kernel

MAKE = """\
#!/bin/sh
# In the place of make(1): a kernel's build that takes a moment. The last argument is the target.
for word; do case $word in O=*) objects=${word#O=};; KCONFIG_ALLCONFIG=*) wanted=${word#*=};; esac; done
case "$word" in
allnoconfig) grep -v CONFIG_UNKNOWN "$wanted" > "$objects/.config"; echo "MAKEFLAGS=$MAKEFLAGS LANG=$LANG";;
vmlinux) for n in 1 2 3; do echo "  CC      $n.o"; done; %s
   cp /bin/true "$objects/vmlinux"; : > "$objects/System.map";;
esac
"""


class Shares:
    """What a build told."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.shares: list[int] = []

    def step(self, text: str) -> None:
        self.texts.append(text)

    def share(self, done: int, total: int) -> None:
        self.shares.append(done)


@pytest.fixture
def source(tmp_path: Path) -> kernel.Source:
    """A source package with nothing but a Kconfig in it."""
    requires("command xz", "command gcc")
    tree = tmp_path / "linux-source-6.1"
    (tree / "drivers/gpu").mkdir(parents=True)
    (tree / "Kconfig").write_text("")
    (tree / "drivers/gpu/big.c").write_text("")
    archive = tmp_path / "linux-source-6.1.tar.xz"
    subprocess.run(["tar", "-cJf", archive, "-C", tmp_path, tree.name], check=True)
    return kernel.Source("linux-source-6.1", "6.1.7-1", str(archive))


def fake_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str = "") -> None:
    """Have `build` find a make(1) of ours."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "make").write_text(MAKE % action)
    (programs / "make").chmod(0o755)
    monkeypatch.setattr(kernel, "_environment", lambda: {"PATH": f"{programs}:/usr/bin:/bin", "LC_ALL": "C"})


def work_directory(tmp_path: Path) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    return work


FRAGMENT = kernel.Fragment('# comment\nCONFIG_A=y\nCONFIG_B="x"\n', "CONFIG_UNKNOWN_LATER=y\n")


# -- building ----------------------------------------------------------------------------------------------------------


def test_a_build_gives_a_stripped_kernel_its_configuration_and_its_symbols(
    tmp_path: Path, source: kernel.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_make(tmp_path, monkeypatch)
    shares = Shares()
    built = kernel.build(source, FRAGMENT, work_directory(tmp_path), 2, shares)
    assert sorted(path.name for path in built.iterdir()) == ["System.map", "config", "vmlinux"]
    assert 'CONFIG_B="x"' in (built / "config").read_text()
    assert shares.shares == [0, 1, 2]
    assert len(shares.texts) == 3
    assert not (tmp_path / "work/source/drivers/gpu/big.c").exists()
    assert (tmp_path / "work/source/Kconfig").exists()


def test_a_line_that_this_kernel_does_not_take_is_named(
    tmp_path: Path, source: kernel.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_make(tmp_path, monkeypatch)
    fragment = kernel.Fragment("CONFIG_A=y\nCONFIG_UNKNOWN=y\n", "")
    with pytest.raises(InvalidArgument, match="does not take CONFIG_UNKNOWN=y of the configuration fragment"):
        kernel.build(source, fragment, work_directory(tmp_path), 2, Shares())


def test_the_compilers_first_error_is_the_reason(
    tmp_path: Path, source: kernel.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_make(tmp_path, monkeypatch, "echo 'a.c:7:1: error: no such thing'; echo 'make: *** Error 2'; exit 2;")
    work = work_directory(tmp_path)
    with pytest.raises(Unavailable, match=r"make failed: a\.c:7:1: error: no such thing"):
        kernel.build(source, FRAGMENT, work, 2, Shares())
    assert "make: *** Error 2" in (work / "log").read_text()


def test_nothing_of_the_callers_environment_changes_a_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAKEFLAGS", "-j99 --jobserver-auth=3,4")
    monkeypatch.setenv("KCFLAGS", "-O0")
    assert not {"MAKEFLAGS", "KCFLAGS"} & set(kernel._environment())


def test_an_interrupted_build_leaves_no_process(
    tmp_path: Path, source: kernel.Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_make(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; sleep 1000 & echo $! >> {tmp_path}/pid; wait;")
    main = threading.main_thread().ident
    assert main is not None

    def interrupt() -> None:
        eventually(lambda: len(_words(tmp_path / "pid")) == 2, "the compiler runs")
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        kernel.build(source, FRAGMENT, work_directory(tmp_path), 2, Shares())
    thread.join()
    for pid in _words(tmp_path / "pid"):
        eventually(lambda pid=pid: not _runs(int(pid)), f"process {pid} has ended")


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- what it needs -----------------------------------------------------------------------------------------------------


def test_the_newest_source_is_taken(tmp_path: Path) -> None:
    for name in (
        "linux-source-6.9.tar.xz",
        "linux-source-6.12.tar.xz",
        "linux-source-6.1.tar",
        "linux-source-x.tar.xz",
    ):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "linux-source-6.13").mkdir()
    assert kernel.find_source(tmp_path).package == "linux-source-6.12"


def test_without_a_source_the_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"no kernel source in .*; remedy: apt-get install linux-source"):
        kernel.find_source(tmp_path)


def test_without_a_compiler_the_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match="remedy: apt-get install bc binutils bison flex gcc make"):
        kernel.check_needs(str(tmp_path))


def test_without_a_header_its_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requires("command gcc")
    monkeypatch.setattr(kernel, "TOOLS", {})
    monkeypatch.setattr(kernel, "HEADERS", {"stdlib.h": "libc6-dev", "no-such.h": "libno-dev"})
    with pytest.raises(Unavailable, match="remedy: apt-get install libno-dev$"):
        kernel.check_needs(str(tmp_path))


def test_too_little_space_is_told_before_anything_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "missing", list)
    monkeypatch.setattr(kernel, "SPACE", 1 << 60)
    with pytest.raises(Unavailable, match=rf"{tmp_path}: \d+ MiB free, .* remedy: make room"):
        kernel.check_needs(str(tmp_path))


# -- the fragment ------------------------------------------------------------------------------------------------------


def test_every_line_of_the_fragment_is_a_comment_or_an_option_named_once() -> None:
    fragment = kernel.read_fragment()
    for text in (fragment.required, fragment.optional):
        options = [line.partition("=")[0] for line in text.splitlines() if line and not line.startswith("#")]
        assert all(option.startswith("CONFIG_") for option in options)
        assert len(options) == len(set(options))


@pytest.mark.parametrize(
    "option", ["MODULES", "IA32_EMULATION", "KEXEC", "DEVMEM", "DEBUG_FS", "VT", "IO_URING", "KPROBES"]
)
def test_what_a_guest_must_not_have_is_not_in_it(option: str) -> None:
    fragment = kernel.read_fragment()
    assert f"CONFIG_{option}=y" not in fragment.required + fragment.optional
