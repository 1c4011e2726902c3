"""What this backend does with each field of config.json. The longest matching path decides; `*` is any list index."""

from __future__ import annotations

from pysandbox.backend import Features

_ENFORCED = """
ociVersion process root hostname domainname mounts hooks annotations
linux.uidMappings linux.gidMappings linux.namespaces linux.timeOffsets linux.devices linux.netDevices linux.cgroupsPath
linux.resources linux.rootfsPropagation linux.maskedPaths linux.readonlyPaths linux.mountLabel linux.sysctl
linux.seccomp linux.personality linux.memoryPolicy
""".split()

#: Refused when present: what the kernel of a plain container host cannot give, or what nobody has asked for yet.
_REFUSED = "linux.intelRdt".split()

#: Of other platforms, or of virtual machines: read by nobody here, and said so in the log.
_IGNORED = "vm solaris windows zos freebsd linux.resources.memory.kernel linux.resources.memory.kernelTCP".split()

FEATURES = Features(
    fields={
        **dict.fromkeys(_ENFORCED, "enforced"),
        **dict.fromkeys(_REFUSED, "refused"),
        **dict.fromkeys(_IGNORED, "ignored"),
    }
)
