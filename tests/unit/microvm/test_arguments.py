"""QEMU's command line, word by word: what is not here, no machine has."""

from __future__ import annotations

import pytest

from pysandbox.errors import InvalidArgument
from pysandbox_microvm.arguments import (
    PRIVATE,
    Disk,
    Hardware,
    Place,
    arguments,
    command_line,
    kernel_parameters,
)

HARDWARE = Hardware(vcpus=1, memory=512 << 20, most_vcpus=2, most_memory=8 << 30, accelerator="tcg")

GOLDEN = """
qemu-system-x86_64
-nodefaults -no-user-config -display none -monitor none -parallel none -no-reboot
-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny
-machine q35,memory-backend=memory,smm=off,sata=off,smbus=off,usb=off,vmport=off,i8042=off,hpet=off,pit=off,graphics=off,dump-guest-core=off,mem-merge=off
-accel tcg
-cpu max,vmx=off,svm=off
-smp cpus=1,maxcpus=2,sockets=1,cores=2,threads=1
-m size=524288k,maxmem=8388608k
-object memory-backend-file,id=memory,size=536870912,mem-path=/proc/self/fd/6,prealloc=off,share=on
-chardev socket,id=qmp,fd=3 -mon chardev=qmp,mode=control
-chardev socket,id=console,fd=5 -serial chardev:console
-device virtio-serial-pci,id=serial,addr=2,disable-legacy=on,max_ports=2
-chardev socket,id=agent,fd=4
-device virtserialport,id=agent,bus=serial.0,nr=1,chardev=agent,name=agent.0
-object rng-builtin,id=entropy
-device virtio-rng-pci,addr=3,disable-legacy=on,rng=entropy
-device pcie-root-port,id=root0,chassis=1,addr=4.0,multifunction=on
-device pcie-root-port,id=root1,chassis=2,addr=4.1
-device pcie-root-port,id=root2,chassis=3,addr=4.2
-device pcie-root-port,id=root3,chassis=4,addr=4.3
-bios qboot.rom
-kernel /proc/self/fd/7 -initrd /proc/self/fd/8 -append
""".split()


def test_a_machine_that_boots_has_just_these_devices():
    assert arguments(HARDWARE, "quiet panic=-1") == [*GOLDEN, "quiet panic=-1"]


def test_a_clone_differs_from_its_template_in_where_its_state_comes_from_and_nothing_else():
    assert arguments(HARDWARE, "quiet", incoming=True) == [*arguments(HARDWARE, "quiet"), "-incoming", "defer"]


def test_under_kvm_the_guest_sees_the_hosts_processor_without_its_virtualisation():
    words = arguments(Hardware(vcpus=1, memory=1 << 29, most_vcpus=2, most_memory=1 << 33, accelerator="kvm-svm"), "")
    assert words[words.index("-accel") + 1] == "kvm"
    assert words[words.index("-cpu") + 1] == "host,migratable=on,vmx=off,svm=off,pmu=off"


def test_a_root_disk_is_raw_and_nothing_else_whatever_its_first_bytes_say():
    hardware = Hardware(vcpus=1, memory=1, most_vcpus=1, most_memory=1, accelerator="tcg", root_disk=True)
    words = arguments(hardware, "", disk=Disk(99, read_only=True))
    assert words[words.index("-add-fd") + 1] == "fd=10,set=1"
    assert words[words.index("-blockdev") + 1] == (
        "driver=raw,node-name=root,read-only=on,auto-read-only=off,file.driver=file,file.filename=/dev/fdset/1,"
        "file.locking=off,file.auto-read-only=off"
    )
    assert "99" not in "".join(words)


def test_in_a_template_nothing_stands_in_the_root_disks_place():
    hardware = Hardware(vcpus=1, memory=1, most_vcpus=1, most_memory=1, accelerator="tcg", root_disk=True)
    words = arguments(hardware, "")
    assert words[words.index("-blockdev") + 1].startswith("driver=null-co,node-name=root,")
    assert "-add-fd" not in words


def test_a_block_device_is_opened_as_one():
    hardware = Hardware(vcpus=1, memory=1, most_vcpus=1, most_memory=1, accelerator="tcg", root_disk=True)
    words = arguments(hardware, "", disk=Disk(99, read_only=False, device=True))
    node = words[words.index("-blockdev") + 1]
    assert "file.driver=host_device" in node
    assert ",read-only=off," in node


def test_memory_of_a_template_is_mapped_privately():
    words = arguments(HARDWARE, "", memory=PRIVATE)
    assert words[words.index("-object") + 1].endswith(",share=off")


def test_no_word_names_a_path_of_the_host():
    words = arguments(HARDWARE, command_line(2_400_000, "tcg"), incoming=True)
    paths = [word for word in words if "/" in word]
    assert all(f"/proc/self/fd/{place}" in "".join(paths) for place in (Place.MEMORY, Place.KERNEL, Place.INITRD))
    assert [path for path in paths if "/proc/self/fd/" not in path] == []


def test_the_kernel_is_told_the_clock_and_to_end_when_it_fails():
    words = command_line(2_445_425, "kvm-vmx").split()
    assert "tsc_early_khz=2445425" in words
    assert {"panic=-1", "oops=panic", "reboot=t", "init_on_alloc=1", "slab_nomerge"} <= set(words)
    assert "mitigations=off" not in words


def test_only_under_emulation_are_mitigations_off():
    assert "mitigations=off" in command_line(1, "tcg").split()


# -- what a spec may add -----------------------------------------------------------------------------------------------


def spec_with(*parameters: str) -> dict:
    return {"vm": {"kernel": {"path": "/k", "parameters": list(parameters)}}}


def test_no_parameter_of_a_spec_is_allowed_by_itself():
    with pytest.raises(InvalidArgument, match=r"vm\.kernel\.parameters\[0\]: 'debug' is not allowed"):
        kernel_parameters(spec_with("debug"), {})


def test_a_parameter_is_allowed_whole_or_with_any_value():
    settings = {"kernel_parameters": ["debug", "loglevel=", "numa=off"]}
    assert kernel_parameters(spec_with("debug", "loglevel=7", "numa=off"), settings) == (
        "debug",
        "loglevel=7",
        "numa=off",
    )


@pytest.mark.parametrize(
    "parameter",
    [
        "loglevel=7 init=/bin/sh",
        "loglevel=7\tinit=/x",
        "loglevel=7\ninit=/x",
        'loglevel="7 init=/x"',
        "loglevel=7=8 --",
        "loglevel",
        "loglevel==7",
        "loglevel=/etc",
        "init=/bin/sh",
        "--",
        "",
        "=7",
        "Loglevel=7",
        "loglevel\u00a0=7",
        "loglevel=\u0667",
        "numa=on",
    ],
)
def test_a_parameter_that_is_another_or_more_than_one_is_refused(parameter):
    with pytest.raises(InvalidArgument, match=r"vm\.kernel\.parameters\[1\]"):
        kernel_parameters(spec_with("loglevel=3", parameter), {"kernel_parameters": ["loglevel=", "numa=off"]})


def test_a_blank_in_a_setting_allows_no_second_parameter():
    with pytest.raises(InvalidArgument, match="not allowed"):
        kernel_parameters(spec_with("debug init=/bin/sh"), {"kernel_parameters": ["debug init=/bin/sh"]})
