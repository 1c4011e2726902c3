"""What this backend does with each field of config.json. The longest matching path decides; `*` is any list index.

`guest`: the guest's executor and kernel do it, as the host's would. `enforced`: the host does, whoever is root in the
guest: what is shared, how much the machine as a whole may use, where it is connected.
"""

from __future__ import annotations

from pysandbox.backend import Features

_ENFORCED = """
ociVersion root mounts hooks annotations linux.cgroupsPath linux.resources.memory.limit linux.resources.memory.swap
linux.resources.cpu linux.resources.blockIO linux.namespaces linux.netDevices vm.hwConfig.vcpus vm.hwConfig.memory
vm.kernel.parameters
""".split()

_GUEST = """
process hostname domainname hooks.startContainer linux.uidMappings linux.gidMappings linux.timeOffsets linux.devices
linux.resources linux.rootfsPropagation linux.maskedPaths linux.readonlyPaths linux.sysctl linux.seccomp
linux.personality linux.memoryPolicy
""".split()

#: The guest's kernel has neither AppArmor nor SELinux; nobody manages resctrl; what cannot leave the host stays there.
_REFUSED = """
linux.intelRdt linux.personality.flags process.apparmorProfile process.selinuxLabel linux.mountLabel
linux.seccomp.listenerPath linux.seccomp.listenerMetadata
""".split()

#: What cgroup v2 has no counterpart for, and what a guest has no device for.
_IGNORED = """
linux.resources.memory.kernel linux.resources.memory.kernelTCP linux.resources.memory.useHierarchy
linux.resources.memory.swappiness linux.resources.memory.disableOOMKiller linux.resources.network linux.resources.rdma
vm
""".split()

FEATURES = Features(
    fields={
        **dict.fromkeys(_ENFORCED, "enforced"),
        **dict.fromkeys(_GUEST, "guest"),
        **dict.fromkeys(_REFUSED, "refused"),
        **dict.fromkeys(_IGNORED, "ignored"),
    },
    root_images=True,
)
