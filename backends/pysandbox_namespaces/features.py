"""What this backend does with each field of config.json. The longest matching path decides; `*` is any list index."""

from __future__ import annotations

from pysandbox.backend import Features

_ENFORCED = """
ociVersion process root hostname domainname mounts hooks annotations
linux.uidMappings linux.gidMappings linux.namespaces linux.timeOffsets linux.devices linux.netDevices linux.cgroupsPath
linux.resources linux.rootfsPropagation linux.maskedPaths linux.readonlyPaths linux.mountLabel linux.sysctl
linux.seccomp linux.personality linux.memoryPolicy
""".split()

#: Refused when present: nobody here manages resctrl, and the specification names no flag.
_REFUSED = "linux.intelRdt linux.personality.flags".split()

#: Of virtual machines, or what Linux has given up: a warning in the log. Some other limits have a counterpart on one
#: version of cgroups only; they are enforced there, and a warning on the other.
_IGNORED = """
vm linux.resources.memory.kernel linux.resources.memory.kernelTCP linux.resources.memory.useHierarchy
""".split()

FEATURES = Features(
    fields={
        **dict.fromkeys(_ENFORCED, "enforced"),
        **dict.fromkeys(_REFUSED, "refused"),
        **dict.fromkeys(_IGNORED, "ignored"),
    }
)
