"""Which image a machine boots, and which it refuses: every refusal says what to do."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from precondition import requires

from pysandbox import executor
from pysandbox.errors import InvalidArgument, NotFound, SandboxError, Unavailable
from pysandbox_microvm import kernel, store
from pysandbox_microvm.image import PROGRAMS, Image, find_image, images_directory

if TYPE_CHECKING:
    from collections.abc import Mapping

NOTE = bytes([4, 0, 0, 0, 8, 0, 0, 0, 18, 0, 0, 0]) + b"Xen\0" + bytes(8)
KERNEL = b"\x7fELF\x02" + bytes(60) + NOTE + b"Linux version 6.1.7-test (root@pysandbox) (gcc) #1 SMP\0"
SOURCE = kernel.Source("linux-source-6.1", "6.1.7-1", "/nowhere")
FRAGMENT = kernel.Fragment("CONFIG_A=y\n", "CONFIG_B=y\n")


class Steps:
    """What a build told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def step(self, text: str) -> None:
        self.texts.append(text)

    def share(self, done: int, total: int) -> None:
        assert done >= 0
        assert total > 0


class Compiler:
    """In the place of the kernel's build: counts, and can fail half way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs = 0
        self.failure: BaseException | None = None
        self.content = KERNEL
        monkeypatch.setattr(kernel, "find_source", lambda: SOURCE)
        monkeypatch.setattr(kernel, "read_fragment", lambda: FRAGMENT)
        monkeypatch.setattr(kernel, "compiler", lambda: "cc 1")
        monkeypatch.setattr(kernel, "check_needs", lambda _: None)
        monkeypatch.setattr(kernel, "build", self.build)

    def build(self, source: object, fragment: object, work: Path, jobs: int, progress: Steps) -> Path:
        self.runs += 1
        built = work / "kernel"
        built.mkdir()
        (work / "log").write_text("what the compiler said")
        (built / "vmlinux").write_bytes(self.content)
        if self.failure is not None:
            raise self.failure
        (built / "config").write_text("CONFIG_A=y\n")
        (built / "System.map").write_text("")
        return built


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    return Compiler(monkeypatch)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation of two programs."""
    directory = tmp_path / "programs"
    directory.mkdir()
    for name in PROGRAMS:
        (directory / name).write_bytes(b"\x7fELF " + name.encode())
    for module in (executor, store):
        monkeypatch.setattr(module, "program_path", lambda name: str(directory / name))
    return directory


@pytest.fixture
def settings(tmp_path: Path) -> Mapping[str, str]:
    return {"directory": str(tmp_path / "microvm")}


@pytest.fixture
def image(settings: Mapping[str, str], compiler: Compiler, programs: Path) -> Image:
    return store.Store(settings).build(Steps())


def tree(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*")}


# -- finding -----------------------------------------------------------------------------------------------------------


def test_what_was_built_is_found_and_verified(settings: Mapping[str, str], image: Image) -> None:
    found = find_image(settings)
    assert found == image
    assert found.release == "6.1.7-test"
    found.verify()
    opened = found.open()
    assert os.read(opened[0], 4) == b"\x7fELF"
    assert os.read(opened[1], 6) == b"070701"
    assert not any(os.get_inheritable(descriptor) for descriptor in opened)
    for descriptor in opened:
        os.close(descriptor)


def test_without_an_image_the_remedy_is_named(settings: Mapping[str, str]) -> None:
    with pytest.raises(NotFound, match="no guest image in .*/images; remedy: pysandbox image build"):
        find_image(settings)


@pytest.mark.parametrize("name", ["kernel", "initrd"])
def test_a_changed_byte_is_seen_before_a_boot(name: str, settings: Mapping[str, str], image: Image) -> None:
    path = Path(getattr(image, name))
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    with pytest.raises(Unavailable, match=rf"{path}: is not what was built .*; remedy: pysandbox image build"):
        find_image(settings).verify()


def test_a_file_cut_short_is_seen(settings: Mapping[str, str], image: Image) -> None:
    os.truncate(image.kernel, 10)
    with pytest.raises(Unavailable, match="is not what was built"):
        find_image(settings).verify()


def test_a_missing_file_is_seen(settings: Mapping[str, str], image: Image) -> None:
    Path(image.kernel).unlink()
    with pytest.raises(Unavailable, match="vmlinux: No such file or directory; remedy"):
        find_image(settings).verify()


@pytest.mark.parametrize(
    "manifest", ["", "{", "[]", "{}", '{"form": 2}', '{"form": 1}', '{"form": 1, "kernel": []}', "[" * 60000]
)
def test_a_manifest_that_none_of_us_wrote_is_refused(manifest: str, settings: Mapping[str, str], image: Image) -> None:
    path = Path(image.kernel).parent / "manifest.json"
    path.chmod(0o600)
    path.write_text(manifest)
    with pytest.raises(Unavailable, match="remedy: pysandbox image build"):
        find_image(settings)


@pytest.mark.parametrize("program", PROGRAMS)
def test_an_image_with_another_agent_than_this_installations_is_refused(
    program: str, settings: Mapping[str, str], image: Image, programs: Path
) -> None:
    find_image(settings)
    (programs / program).write_bytes(b"a newer one")
    with pytest.raises(Unavailable, match=rf"holds another {program} .*; remedy: pysandbox image build"):
        find_image(settings)


def test_a_program_is_read_only_where_it_may_have_changed(
    settings: Mapping[str, str], image: Image, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    monkeypatch.setattr("pysandbox_microvm.image.program_digest", lambda name: read.append(name) or "none")
    find_image(settings)
    assert read == []

    path = programs / "pysandbox-agent"
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(Unavailable, match="holds another pysandbox-agent"):
        find_image(settings)
    assert read == ["pysandbox-agent"]


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
def test_what_others_can_write_is_not_booted(mode: int, settings: Mapping[str, str], image: Image) -> None:
    images = Path(images_directory(settings))
    for path in (Path(image.kernel).parent, images, images.parent):
        path.chmod(mode)
        with pytest.raises(Unavailable, match="only root can write"):
            find_image(settings)
        path.chmod(0o700)
    for name in (image.kernel, image.initrd):
        Path(name).chmod(mode)
        with pytest.raises(Unavailable, match="only root can write"):
            find_image(settings).verify()
        Path(name).chmod(0o400)
    find_image(settings).verify()


def test_nothing_is_built_where_others_can_write(
    settings: Mapping[str, str], compiler: Compiler, programs: Path
) -> None:
    directory = Path(settings["directory"])
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(Unavailable, match="only root can write"):
        store.Store(settings).build(Steps())
    assert (compiler.runs, list(directory.iterdir())) == (0, [])


def test_what_belongs_to_somebody_else_is_not_booted(settings: Mapping[str, str], image: Image) -> None:
    requires("root")
    os.chown(image.initrd, 1000, 1000)
    with pytest.raises(Unavailable, match="only root can write"):
        find_image(settings).verify()


@pytest.mark.parametrize("target", ["..", "../../x", "/etc", "", ".build", "a/b"])
def test_the_current_image_is_one_of_the_images(target: str, settings: Mapping[str, str], image: Image) -> None:
    current = Path(images_directory(settings)) / "current"
    current.unlink()
    if target:
        current.symlink_to(target)
    with pytest.raises(SandboxError, match="remedy: pysandbox image build"):
        find_image(settings)


# -- settings ----------------------------------------------------------------------------------------------------------


def test_an_own_kernel_goes_with_the_images_initrd(tmp_path: Path, settings: Mapping[str, str], image: Image) -> None:
    own = tmp_path / "own"
    own.write_bytes(KERNEL.replace(b"6.1.7", b"6.6.6"))
    own.chmod(0o600)
    found = find_image({**settings, "kernel": str(own)})
    assert (found.kernel, found.initrd, found.release) == (str(own), image.initrd, "6.6.6-test")
    assert found.digest != image.digest
    found.verify()


def test_an_own_kernel_and_initrd_need_no_image(tmp_path: Path, settings: Mapping[str, str]) -> None:
    for name in ("kernel", "initrd"):
        (tmp_path / name).write_bytes(KERNEL)
        (tmp_path / name).chmod(0o600)
    own = {**settings, "kernel": str(tmp_path / "kernel"), "initrd": str(tmp_path / "initrd")}
    before = find_image(own)
    before.verify()
    (tmp_path / "initrd").write_bytes(b"another")
    assert find_image(own).digest != before.digest, "a template of the old one would be taken for one of the new"


@pytest.mark.parametrize("name", ["kernel", "initrd", "directory", "images"])
@pytest.mark.parametrize("value", ["relative", 7, "/a\0b", ["/x"]])
def test_a_setting_that_is_no_absolute_path_is_named(name: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=rf"backends\.microvm\.{name}: must be an absolute path"):
        find_image({name: value})


def test_an_own_kernel_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"backends\.microvm\.kernel: .*/none: no such file"):
        find_image({"kernel": str(tmp_path / "none")})


@pytest.mark.parametrize(
    "content",
    [b"", b"MZ bzImage", KERNEL.replace(b"Xen", b"Zen"), KERNEL.replace(b"\x7fELF\x02", b"\x7fELF\x01"), NOTE],
)
def test_an_own_kernel_that_qemu_would_not_enter_is_refused(content: bytes, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_bytes(content)
    own.chmod(0o600)
    with pytest.raises(InvalidArgument, match=r"backends\.microvm\.kernel: .*/own: is no ELF file with a PVH note"):
        find_image({"kernel": str(own)})


# -- building ----------------------------------------------------------------------------------------------------------


def test_a_second_build_compiles_nothing(settings: Mapping[str, str], compiler: Compiler, programs: Path) -> None:
    one = store.Store(settings)
    first, steps = one.build(Steps()), Steps()
    assert one.build(steps) == first
    assert compiler.runs == 1
    assert any("built before" in text for text in steps.texts)


def test_a_changed_agent_costs_an_initrd_and_no_kernel(
    settings: Mapping[str, str], compiler: Compiler, programs: Path
) -> None:
    first = store.Store(settings).build(Steps())
    (programs / "pysandbox-agent").write_bytes(b"a newer one")
    second = store.Store(settings).build(Steps())
    assert compiler.runs == 1
    assert (second.kernel_digest, second.initrd_digest == first.initrd_digest) == (first.kernel_digest, False)
    assert os.stat(first.kernel).st_ino == os.stat(second.kernel).st_ino
    assert find_image(settings) == second


@pytest.mark.parametrize("what", ["source", "required", "optional", "compiler", "recipe"])
def test_a_kernel_is_kept_by_all_that_it_was_built_from(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.kernel_key(SOURCE, FRAGMENT, "cc 1")
    assert before == store.kernel_key(SOURCE, FRAGMENT, "cc 1")
    source = kernel.Source("linux-source-6.1", "6.1.8-1", "/nowhere") if what == "source" else SOURCE
    fragment = {
        "required": kernel.Fragment("CONFIG_A=n\n", FRAGMENT.optional),
        "optional": kernel.Fragment(FRAGMENT.required, ""),
    }.get(what, FRAGMENT)
    if what == "recipe":
        monkeypatch.setattr(kernel, "RECIPE", kernel.RECIPE + 1)
    assert store.kernel_key(source, fragment, "cc 2" if what == "compiler" else "cc 1") != before


@pytest.mark.parametrize("failure", [Unavailable("gcc failed"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_a_failed_build_leaves_nothing_but_its_log(
    failure: BaseException, settings: Mapping[str, str], compiler: Compiler, programs: Path
) -> None:
    compiler.failure = failure
    with pytest.raises(type(failure)):
        store.Store(settings).build(Steps())
    left = tree(Path(settings["directory"]))
    assert left - {"build.log"} == {"images", "kernels", ".lock"}
    compiler.failure = None
    store.Store(settings).build(Steps())
    find_image(settings).verify()


def test_a_failed_build_keeps_the_image_that_was_there(
    settings: Mapping[str, str], compiler: Compiler, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "compiler", lambda: "cc 2")
    compiler.failure = Unavailable("gcc failed")
    with pytest.raises(Unavailable, match="gcc failed"):
        store.Store(settings).build(Steps())
    assert find_image(settings) == image
    image.verify()


def test_what_a_killed_build_has_left_is_removed_by_the_next(
    settings: Mapping[str, str], compiler: Compiler, programs: Path
) -> None:
    left = Path(settings["directory"], ".build/source/half")
    left.mkdir(parents=True)
    store.Store(settings).build(Steps())
    assert not Path(settings["directory"], ".build").exists()


def test_a_damaged_image_is_built_again(settings: Mapping[str, str], image: Image, compiler: Compiler) -> None:
    for path in (Path(image.kernel), Path(image.initrd)):
        path.chmod(0o600)
        path.write_bytes(b"damaged")
    store.Store(settings).build(Steps())
    assert compiler.runs == 2, "the kept kernel is the same file, so it was damaged too"
    find_image(settings).verify()


def test_builds_at_the_same_time_wait_for_each_other(
    settings: Mapping[str, str], compiler: Compiler, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    one = store.Store(settings)
    one.build(Steps())
    monkeypatch.setattr(store, "LOCK_LIMIT", 0.3)
    holder = os.open(Path(settings["directory"], ".lock"), os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    steps = Steps()
    with pytest.raises(Unavailable, match=r"another build has held the lock for 0\.3 s"):
        one.build(steps)
    assert steps.texts == ["waiting for another build to end"]
    os.close(holder)
    one.build(Steps())


def test_old_images_and_kernels_go(
    settings: Mapping[str, str], compiler: Compiler, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = store.Store(settings)
    images = []
    for number in range(store.KEPT + 2):
        monkeypatch.setattr(kernel, "compiler", lambda number=number: f"cc {number}")
        compiler.content = KERNEL + bytes([number])
        images.append(one.build(Steps()))
        for path in (Path(images[-1].kernel).parent, *(one.directory / "kernels").iterdir()):
            os.utime(path, (number, number))
    assert [Path(image.kernel).exists() for image in images] == [False] * 2 + [True] * store.KEPT
    assert len(list((one.directory / "kernels").iterdir())) == store.KEPT


def test_a_kernel_stays_that_is_in_use_whatever_is_built_beside(
    tmp_path: Path, settings: Mapping[str, str], compiler: Compiler, programs: Path
) -> None:
    own = tmp_path / "own"
    own.write_bytes(KERNEL.replace(b"6.1.7", b"6.6.6"))
    own.chmod(0o600)
    store.Store(settings).build(Steps())
    for number in range(store.KEPT + 2):
        (programs / "pysandbox-agent").write_bytes(b"another %d" % number)
        store.Store({**settings, "kernel": str(own)}).build(Steps())
    store.Store(settings).build(Steps())
    assert compiler.runs == 1


def test_an_own_kernel_is_taken_into_the_image(
    tmp_path: Path, settings: Mapping[str, str], compiler: Compiler, programs: Path
) -> None:
    own = tmp_path / "own"
    own.write_bytes(KERNEL.replace(b"6.1.7", b"6.6.6"))
    own.chmod(0o600)
    built = store.Store({**settings, "kernel": str(own)}).build(Steps())
    assert compiler.runs == 0
    own.unlink()
    assert find_image(settings) == built
    assert built.release == "6.6.6-test"
    built.verify()


def test_only_root_gets_to_an_image(settings: Mapping[str, str], image: Image) -> None:
    directory = Path(settings["directory"])
    for path in (directory, *(path for path in directory.rglob("*") if path.is_dir() and not path.is_symlink())):
        assert path.stat().st_mode & 0o077 == 0, path


def test_whether_a_build_would_compile_is_known_before(
    settings: Mapping[str, str], compiler: Compiler, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not store.Store(settings).is_compiled()
    store.Store(settings).build(Steps())
    assert store.Store(settings).is_compiled()
    assert store.Store({**settings, "kernel": "/own"}).is_compiled()
    monkeypatch.setattr(kernel, "compiler", lambda: "cc 2")
    assert not store.Store(settings).is_compiled()


# -- listing -----------------------------------------------------------------------------------------------------------


def test_the_list_tells_which_is_current_and_which_is_damaged(
    settings: Mapping[str, str], image: Image, programs: Path
) -> None:
    (programs / "pysandbox-agent").write_bytes(b"a newer one")
    second = store.Store(settings).build(Steps())
    Path(image.initrd).chmod(0o600)
    Path(image.initrd).write_bytes(b"damaged")
    listed = {one.digest: one for one in store.Store(settings).list()}
    assert {digest: one.current for digest, one in listed.items()} == {image.digest: False, second.digest: True}
    assert listed[image.digest].damaged == "its files are not what was built"
    assert listed[second.digest].damaged == ""
    assert listed[second.digest].size == sum(os.path.getsize(path) for path in (second.kernel, second.initrd))


def test_the_list_shows_what_it_cannot_read(settings: Mapping[str, str], image: Image) -> None:
    manifest = Path(image.kernel).parent / "manifest.json"
    document = json.loads(manifest.read_text())
    del document["initrd"]
    manifest.chmod(0o600)
    manifest.write_text(json.dumps(document))
    assert [bool(one.damaged) for one in store.Store(settings).list()] == [True]
    shutil.rmtree(settings["directory"])
    assert store.Store(settings).list() == []
