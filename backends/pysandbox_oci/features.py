"""What becomes of each field of config.json. The longest matching path decides.

The whole document goes to the runtime: `enforced` says that it is asked to, and that its specification knows the field.
What a version of it does is its own word. Fields younger than runtime-spec 1.0 are `ignored` where no released version
of that runtime is known to read them; of one that nobody knows, all that is younger than 1.1 is.
"""

from __future__ import annotations

import os

from pysandbox.backend import Features

_BASIC = """
ociVersion process root hostname mounts hooks annotations
linux.uidMappings linux.gidMappings linux.namespaces linux.devices linux.cgroupsPath linux.resources
linux.rootfsPropagation linux.maskedPaths linux.readonlyPaths linux.mountLabel linux.sysctl linux.seccomp
linux.intelRdt linux.personality
""".split()
_YOUNG = ["domainname", "linux.timeOffsets", "linux.netDevices", "linux.memoryPolicy", "process.scheduler"]
_YOUNG += ["process.ioPriority", "process.execCPUAffinity", "vm"]
#: Runtime → what of the young ones it reads (in its newest versions: runc 1.4, crun 1.23).
_READS = {
    "runc": frozenset(_YOUNG) - {"vm"},
    "crun": frozenset(_YOUNG) - {"vm"},
}
#: gVisor's own kernel does what a process can see; these it does not look at.
_GVISOR_IGNORES = """
linux.seccomp linux.devices linux.rootfsPropagation linux.mountLabel linux.sysctl linux.intelRdt linux.personality
linux.readonlyPaths linux.maskedPaths process.apparmorProfile process.selinuxLabel process.oomScoreAdj
""".split()


def features_of(runtime: str) -> Features:
    """Return the table for a runtime's name or path."""
    name = os.path.basename(runtime)
    if name == "runsc":
        fields = {
            **dict.fromkeys(_BASIC, "guest"),
            **dict.fromkeys(("linux.resources", "linux.cgroupsPath", "hooks", "root", "annotations"), "enforced"),
            **dict.fromkeys([*_GVISOR_IGNORES, *_YOUNG], "ignored"),
        }
        return Features(fields=fields)
    reads = _READS.get(name, frozenset())
    return Features(
        fields={
            **dict.fromkeys(_BASIC, "enforced"),
            **{field: "enforced" if field in reads else "ignored" for field in _YOUNG},
        }
    )
