"""How a container gets its machine: the accelerator, a clone of its size class's template or a boot, then growth."""

from __future__ import annotations

import os

from pysandbox.errors import InvalidArgument, NotFound, SandboxError
from pysandbox.record import dataclass, replace
from pysandbox_microvm.accelerator import TCG, TRIAL_TIMEOUT, Answer, boot_id, find_accelerator, read_processor
from pysandbox_microvm.arguments import ROOT_PORTS, Hardware, arguments, command_line
from pysandbox_microvm.machine import BOOT_TIMEOUT, Machine
from pysandbox_microvm.size import LEAST_MEMORY, Size, most_size, size_class
from pysandbox_microvm.template import find_template, key_of, provide_template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from pysandbox_microvm.accelerator import Processor
    from pysandbox_microvm.arguments import Disk
    from pysandbox_microvm.image import Image
    from pysandbox_microvm.jail import Jail
    from pysandbox_microvm.template import Template

    #: Returns the jail of a QEMU that is about to be started, with KVM or without; None for none.
    Jailer = Callable[[bool], Jail | None]

QEMU = "/usr/bin/qemu-system-x86_64"
TEMPLATES = "templates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provision:
    """All that a machine of one size comes from.

    `directory` is the backend's own, `qemu` a path. `root_disk`: the machine has a disk for the root file system.
    `parameters` are the kernel's beyond ours: there is no template with any.
    """

    image: Image
    size: Size
    directory: str
    processor: Processor
    accelerator: Answer
    most: Size
    qemu: str = QEMU
    root_ports: int = ROOT_PORTS[0]
    root_disk: bool = False
    parameters: tuple[str, ...] = ()
    templates: bool = True

    def hardware(self, size: Size) -> Hardware:
        """Return the hardware of a machine that starts with so much."""
        return Hardware(
            vcpus=size.vcpus,
            memory=size.memory,
            most_vcpus=self.most.vcpus,
            most_memory=max(self.most.memory, size.memory),
            accelerator=self.accelerator.name,
            root_ports=self.root_ports,
            root_disk=self.root_disk,
        )

    def command_line(self) -> str:
        """Return the kernel's command line."""
        return command_line(self.processor.tsc_khz, self.accelerator.name, self.parameters)


def plan_machine(
    image: Image,
    size: Size,
    settings: Mapping[str, Any],
    directory: str,
    jailer: Jailer,
    *,
    devices: int = 2,
    root_disk: bool = False,
    parameters: tuple[str, ...] = (),
) -> Provision:
    """Work out what a machine comes from. The first time on a host that may take a trial boot.

    `devices` is how many file systems, interfaces and disks it can be plugged at least, not counting the root disk.
    Raises Unavailable where the settings want KVM and it is not usable; NotFound for no QEMU.
    """
    qemu = find_qemu(settings)
    processor = read_processor()
    provision = Provision(
        image=image,
        size=size,
        directory=directory,
        processor=processor,
        accelerator=Answer(TCG, ""),
        most=most_size(settings),
        qemu=qemu,
        root_ports=_root_ports(devices),
        root_disk=root_disk,
        parameters=parameters,
        templates=settings.get("template", True) and not parameters,
    )
    return replace(provision, accelerator=_accelerator(provision, settings, jailer))


def _root_ports(devices: int) -> int:
    needed = devices + 1  # for memory that grows
    for ports in ROOT_PORTS:
        if needed <= ports:
            return ports
    raise InvalidArgument(f"{devices} file systems, interfaces and disks are more than a machine takes")


def find_qemu(settings: Mapping[str, Any]) -> str:
    """Return QEMU's path: the setting `qemu`, else Debian's. Raises NotFound."""
    path = settings.get("qemu", QEMU)
    if not isinstance(path, str) or not path.startswith("/"):
        raise InvalidArgument(f"backends.microvm.qemu: must be an absolute path, not {path!r}")
    if not os.access(path, os.X_OK):
        raise NotFound(
            f"{path}: no QEMU there; remedy: apt install qemu-system-x86, or the setting backends.microvm.qemu"
        )
    return path


def provide_machine(
    provision: Provision, jailer: Jailer, *, disk: Disk | None = None, warn: Callable[[str], None] = lambda _: None
) -> Machine:
    """Start a machine: a clone of its template, which is made if there is none; boot it where that does not work.

    It has its size when this returns, as far as the host is concerned: the guest has to bring what was plugged in into
    use. `warn` gets a line for every time that a template was of no use. Raises as `Machine.start`.
    """
    if provision.templates:
        try:
            return _clone(provision, jailer, disk, warn)
        except (SandboxError, OSError) as error:
            warn(f"no machine from a template, so it is booted: {error}")
    return _start(provision, provision.size, jailer, disk=disk)


def make_template(provision: Provision, jailer: Jailer, broken: Template | None = None) -> Template:
    """Return the template of the machine's size class, made if there is none or only one that is `broken`."""
    return provide_template(
        os.path.join(provision.directory, TEMPLATES),
        template_key(provision),
        lambda: _rehearsed(_booted(provision, jailer, size_class(provision.size), BOOT_TIMEOUT)),
        broken,
    )


def template_key(provision: Provision) -> str:
    """Return the name of the machine's template: of everything that goes into it."""
    hardware = provision.hardware(size_class(provision.size))
    argv = arguments(hardware, provision.command_line(), qemu=provision.qemu)
    host = "" if provision.accelerator.name == TCG else [provision.processor.model, *sorted(provision.processor.flags)]
    return key_of([argv, provision.image.digest, _identity(provision.qemu), host])


def _clone(provision: Provision, jailer: Jailer, disk: Disk | None, warn: Callable[[str], None]) -> Machine:
    """Start a clone. A template that QEMU does not take is made anew, once."""
    found = find_template(os.path.join(provision.directory, TEMPLATES), template_key(provision))
    template = found or make_template(provision, jailer)
    try:
        return _start(provision, size_class(provision.size), jailer, template=template, disk=disk)
    except (SandboxError, OSError) as error:
        warn(f"{template.directory}: of no use, so it is made anew: {error}")
    template = make_template(provision, jailer, broken=template)
    return _start(provision, size_class(provision.size), jailer, template=template, disk=disk)


def _start(
    provision: Provision, size: Size, jailer: Jailer, *, template: Template | None = None, disk: Disk | None = None
) -> Machine:
    machine = Machine.start(
        provision.image,
        provision.hardware(size),
        provision.command_line(),
        qemu=provision.qemu,
        jail=jailer(provision.accelerator.name != TCG),
        template=template,
        disk=disk,
    )
    if size != provision.size:
        try:
            machine.grow(provision.size)
        except BaseException:
            machine.close()
            raise
    return machine


def _booted(provision: Provision, jailer: Jailer, size: Size, patience: float) -> Machine:
    """Boot a machine, and wait until its agent has said hello."""
    machine = _start(replace(provision, size=size), size, jailer)
    try:
        machine.hello(patience).check()
    except BaseException:
        machine.close()
        raise
    return machine


def _rehearsed(machine: Machine) -> Machine:
    """Have a machine do what no clone of it is to do again."""
    from pysandbox_microvm.planning import common_device_programs

    try:
        for program in common_device_programs():
            machine.hello().rehearse(program)
    except BaseException:
        machine.close()
        raise
    return machine


def _accelerator(provision: Provision, settings: Mapping[str, Any], jailer: Jailer) -> Answer:
    def trial(name: str) -> None:
        tried = replace(provision, accelerator=Answer(name, ""), root_disk=False)
        _booted(tried, jailer, Size(1, LEAST_MEMORY), TRIAL_TIMEOUT).close()

    key = {"boot": boot_id(), "qemu": _identity_text(provision.qemu), "image": provision.image.digest}
    wanted = settings.get("accelerator", "auto")
    return find_accelerator(wanted, provision.processor, provision.directory, key, trial)


def _identity_text(path: str) -> str:
    """Return what tells a program from a later one under the same path."""
    return "-".join(str(number) for number in _identity(path))


def _identity(path: str) -> list[int]:
    status = os.stat(path)
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]
