"""QEMU's command line: which machine, and nothing else. Pure: what is not in here, no machine has.

Everything of the host comes in by descriptor, in places that are always the same (`Place`); the only paths are those
of QEMU's own firmware. Nothing of a spec gets here but numbers and kernel parameters that the settings allow.
For QEMU 7.2 and later: <https://www.qemu.org/docs/master/system/invocation.html>.
"""

from __future__ import annotations

from pysandbox.errors import InvalidArgument
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pysandbox.oci.types import Spec


class Place:
    """What QEMU's descriptors are. 0 is /dev/null, 1 and 2 are where its messages go."""

    QMP = 3
    AGENT = 4
    CONSOLE = 5
    MEMORY = 6
    KERNEL = 7
    INITRD = 8
    STATE = 9
    DISK = 10


#: The agent's port in the guest: /sys/class/virtio-ports/*/name.
PORT_NAME = "agent.0"
#: The id of the same in QMP's events.
PORT = "agent"
#: Root ports that a machine can have: one for each file system, network interface and disk that is plugged in, and one
#: for memory that grows. Each costs milliseconds whenever the guest looks for a new device.
ROOT_PORTS = (4, 8, 16, 32)
#: The root port that memory goes into; `Machine` hands the others out.
MEMORY_ROOT_PORT = "root0"
#: Of the disk that stands in for a root file system in a template. Sparse in every sense; a real one may be smaller.
PLACEHOLDER_SIZE = 1 << 40
#: The node and the device of that disk.
ROOT_NODE, ROOT_DISK = "root", "rootdisk"
#: The serial number of that disk in the guest.
ROOT_SERIAL = "root"

#: How the machine's memory is mapped: shared with file servers, or privately over a template's.
SHARED, PRIVATE = "shared", "private"

#: Of the guest's kernel (Documentation/admin-guide/kernel-parameters.txt), whatever the accelerator.
_KERNEL = (
    "quiet", "console=ttyS0", "8250.nr_uarts=1",
    "panic=-1", "oops=panic", "reboot=t",  # a panic ends the machine at once
    "tsc=reliable", "no_timer_check", "rcupdate.rcu_expedited=1", "swiotlb=noforce", "cryptomgr.notests",
    "memhp_default_state=online",
    "noreplace-smp",  # one processor may become two: else 7000 instructions are patched, and patched back
    "init_on_alloc=1", "slab_nomerge", "randomize_kstack_offset=1", "vsyscall=none",
)  # fmt: skip
#: Without isolation there is nothing that these could still keep apart: emulation promises none (docs/security.md).
_KERNEL_EMULATED = ("mitigations=off",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What the guest sees. Two machines of which one is a clone of the other must have the same."""

    vcpus: int
    memory: int  # bytes
    most_vcpus: int
    most_memory: int
    accelerator: str  # a name of accelerator.py
    root_ports: int = ROOT_PORTS[0]
    root_disk: bool = False


@dataclass(frozen=True, slots=True)
class Disk:
    """An open raw image, `descriptor`, or with `device` a block device. `read_only` as it was opened."""

    descriptor: int
    read_only: bool
    device: bool = False


def command_line(tsc_khz: int, accelerator: str, parameters: tuple[str, ...] = ()) -> str:
    """Return the guest kernel's command line.

    Without `tsc_early_khz` an emulated guest measures its clock by luck: half of all boots hang (recipes.md).
    """
    words = [*_KERNEL, *(_KERNEL_EMULATED if accelerator == "tcg" else ()), f"tsc_early_khz={tsc_khz}", *parameters]
    return " ".join(words)


def kernel_parameters(spec: Spec, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Return `vm.kernel.parameters`; each must be named in the setting `kernel_parameters`, with its value.

    An entry of the setting that ends in `=` allows any value of letters, digits and `._,:-`. Raises InvalidArgument.
    """
    allowed = settings.get("kernel_parameters", [])
    if not isinstance(allowed, list) or not all(isinstance(each, str) for each in allowed):
        raise InvalidArgument("backends.microvm.kernel_parameters: must be a list of strings")
    parameters = tuple(spec.get("vm", {}).get("kernel", {}).get("parameters", ()))
    for index, parameter in enumerate(parameters):
        if not _is_allowed(parameter, allowed):
            raise InvalidArgument(
                f"vm.kernel.parameters[{index}]: {parameter!r} is not allowed by the setting "
                "backends.microvm.kernel_parameters"
            )
    return parameters


def _is_allowed(parameter: str, allowed: list[str]) -> bool:
    # Whatever the settings say: a blank would begin another parameter, `--` end them and begin init's arguments.
    if not _is_plain(parameter):
        return False
    name, equals, _ = parameter.partition("=")
    return parameter in allowed or (bool(equals) and name + "=" in allowed)


def _is_plain(parameter: str) -> bool:
    bare = parameter.replace("=", "", 1)
    return bare.isascii() and bare[:1].isalnum() and all(letter.isalnum() or letter in "._,:-" for letter in bare)


def arguments(
    hardware: Hardware,
    kernel_command_line: str,
    *,
    qemu: str = "qemu-system-x86_64",
    memory: str = SHARED,
    incoming: bool = False,
    disk: Disk | None = None,
) -> list[str]:
    """Return QEMU's argv, for descriptors as `Place` says.

    `incoming`: the machine's state comes from `Place.STATE` when QMP says so. `disk` is the root disk, where the
    hardware has one, at `Place.DISK`; None for the one that stands in for it.
    """
    return [
        qemu,
        *_process(),
        *_board(hardware),
        *_memory(hardware, memory),
        *_channels(),
        *_devices(hardware),
        *(_root_disk(disk) if hardware.root_disk else ()),
        *_firmware(kernel_command_line),
        *(("-incoming", "defer") if incoming else ()),
    ]


def _process() -> list[str]:
    return [
        "-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-parallel", "none",
        "-no-reboot",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]  # fmt: skip


def _board(hardware: Hardware) -> list[str]:
    kvm = hardware.accelerator.startswith("kvm")
    options = (
        "q35", "memory-backend=memory", "smm=off", "sata=off", "smbus=off", "usb=off", "vmport=off", "i8042=off",
        "hpet=off", "pit=off", "graphics=off", "dump-guest-core=off", "mem-merge=off",
    )  # fmt: skip
    # Nested virtualisation off: it is the guest's largest way into the host's kernel, and no state of it is saved.
    cpu = "host,migratable=on,vmx=off,svm=off,pmu=off" if kvm else "max,vmx=off,svm=off"
    return [
        "-machine", ",".join(options),
        "-accel", "kvm" if kvm else "tcg",
        "-cpu", cpu,
        "-smp", f"cpus={hardware.vcpus},maxcpus={hardware.most_vcpus},sockets=1,cores={hardware.most_vcpus},threads=1",
        "-m", f"size={hardware.memory // 1024}k,maxmem={hardware.most_memory // 1024}k",
    ]  # fmt: skip


def _memory(hardware: Hardware, kind: str) -> list[str]:
    backend = f"memory-backend-file,id=memory,size={hardware.memory},mem-path=/proc/self/fd/{Place.MEMORY},prealloc=off"
    return ["-object", f"{backend},share={_switch(on=kind == SHARED)}"]


def _channels() -> list[str]:
    return [
        "-chardev", f"socket,id=qmp,fd={Place.QMP}", "-mon", "chardev=qmp,mode=control",
        "-chardev", f"socket,id=console,fd={Place.CONSOLE}", "-serial", "chardev:console",
        # One port beside the console's, which a port that is no console must leave free: few queues, little memory.
        "-device", "virtio-serial-pci,id=serial,addr=2,disable-legacy=on,max_ports=2",
        "-chardev", f"socket,id={PORT},fd={Place.AGENT}",
        "-device", f"virtserialport,id={PORT},bus=serial.0,nr=1,chardev={PORT},name={PORT_NAME}",
    ]  # fmt: skip


def _devices(hardware: Hardware) -> list[str]:
    words = [
        "-object", "rng-builtin,id=entropy",
        "-device", "virtio-rng-pci,addr=3,disable-legacy=on,rng=entropy",
    ]  # fmt: skip
    for number in range(hardware.root_ports):
        slot, function = 4 + number // 8, number % 8
        several = ",multifunction=on" if function == 0 else ""
        words += ["-device", f"pcie-root-port,id=root{number},chassis={number + 1},addr={slot}.{function}{several}"]
    return words


def _root_disk(disk: Disk | None) -> list[str]:
    if disk is None:
        given = []
        node = f"driver=null-co,node-name={ROOT_NODE},size={PLACEHOLDER_SIZE},read-zeroes=on"
    else:
        given = ["-add-fd", f"fd={Place.DISK},set=1"]
        # The format is named, so that nothing looks into the file for another: a qcow2 header names further files.
        access = f"read-only={_switch(on=disk.read_only)},auto-read-only=off"
        file = f"file.driver={'host_device' if disk.device else 'file'},file.filename=/dev/fdset/1,file.locking=off"
        node = f"driver=raw,node-name={ROOT_NODE},{access},{file},file.auto-read-only=off"
    return [
        *given,
        "-blockdev", node,
        "-device", f"virtio-blk-pci,id={ROOT_DISK},addr=10,disable-legacy=on,drive={ROOT_NODE},serial={ROOT_SERIAL}",
    ]  # fmt: skip


def _switch(*, on: bool) -> str:
    return "on" if on else "off"


def _firmware(kernel_command_line: str) -> list[str]:
    return [
        "-bios", "qboot.rom",
        "-kernel", f"/proc/self/fd/{Place.KERNEL}",
        "-initrd", f"/proc/self/fd/{Place.INITRD}",
        "-append", kernel_command_line,
    ]  # fmt: skip
