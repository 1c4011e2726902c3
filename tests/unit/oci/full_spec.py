"""A valid spec that says something in every field, and the means to break one of them."""

from __future__ import annotations

import json
import re
from typing import Any


def full_spec() -> dict[str, Any]:
    """Return it, new at each call."""
    spec: dict[str, Any] = json.loads(json.dumps(_FULL))  # by value: parts of _FULL are shared
    return spec


def keys_of(path: str) -> list[str | int]:
    """Take a JSON path apart: `linux.devices[0].major`."""
    return [int(index) if index else name for name, index in re.findall(r"([A-Za-z][\w]*)|\[(\d+)\]", path)]


def put(document: Any, path: str, value: Any) -> Any:
    """Set one value of a document, in place, and return the document."""
    *way, last = keys_of(path)
    node = document
    for key in way:
        node = node[key]
    node[last] = value
    return document


def cut(document: Any, path: str) -> Any:
    """Remove one member of a document, in place, and return the document."""
    *way, last = keys_of(path)
    node = document
    for key in way:
        node = node[key]
    del node[last]
    return document


_MAPPINGS = [{"containerID": 0, "hostID": 100000, "size": 65536}, {"containerID": 65536, "hostID": 300000, "size": 10}]
_HOOK = {"path": "/usr/bin/hook", "args": ["hook", "x"], "env": ["A=b"], "timeout": 5}
_THROTTLE = {"major": 8, "minor": 0, "rate": 600}
_CAPABILITIES = ["CAP_KILL", "CAP_NET_RAW"]

_FULL: dict[str, Any] = {
    "ociVersion": "1.2.1",
    "process": {
        "terminal": True,
        "consoleSize": {"height": 24, "width": 80},
        "user": {"uid": 1, "gid": 2, "umask": 18, "additionalGids": [5, 6], "username": "someone"},
        "args": ["sh", "-c", ""],
        "env": ["PATH=/bin", "EMPTY=", "TWO=a=b"],
        "cwd": "/",
        "capabilities": {
            "bounding": _CAPABILITIES,
            "effective": _CAPABILITIES,
            "inheritable": [],
            "permitted": _CAPABILITIES,
            "ambient": [],
        },
        "rlimits": [
            {"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 2**64 - 1},
        ],
        "noNewPrivileges": True,
        "apparmorProfile": "docker-default",
        "selinuxLabel": "system_u:system_r:container_t:s0:c1,c2",
        "oomScoreAdj": 100,
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "scheduler": {
            "policy": "SCHED_DEADLINE",
            "nice": 0,
            "priority": 0,
            "flags": ["SCHED_FLAG_RESET_ON_FORK"],
            "runtime": 10,
            "deadline": 20,
            "period": 30,
        },
        "execCPUAffinity": {"initial": "0-1,3", "final": "0"},
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "box",
    "domainname": "example.org",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/data",
            "type": "bind",
            "source": "/srv/data",
            "options": ["rbind", "ro", "rprivate", "ridmap"],
            "uidMappings": _MAPPINGS,
            "gidMappings": _MAPPINGS,
        },
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=1777", "tmpcopyup"]},
    ],
    "hooks": {
        "prestart": [_HOOK],
        "createRuntime": [_HOOK],
        "createContainer": [_HOOK],
        "startContainer": [_HOOK],
        "poststart": [_HOOK],
        "poststop": [_HOOK],
    },
    "annotations": {"org.example.key": "value", "empty": ""},
    "linux": {
        "uidMappings": _MAPPINGS,
        "gidMappings": _MAPPINGS,
        "timeOffsets": {"monotonic": {"secs": -5, "nanosecs": 1}, "boottime": {"secs": 5}},
        "sysctl": {"net.ipv4.ip_forward": "1", "kernel.sem": "250\t32000 32 128", "fs.mqueue.msg_max": "10"},
        "resources": {
            "devices": [
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "c", "major": 1, "minor": -1, "access": "rw"},
            ],
            "memory": {
                "limit": 1 << 26,
                "reservation": 1 << 25,
                "swap": 1 << 27,
                "kernel": -1,
                "kernelTCP": -1,
                "swappiness": 60,
                "disableOOMKiller": False,
                "useHierarchy": True,
                "checkBeforeUpdate": True,
            },
            "cpu": {
                "shares": 512,
                "quota": 50000,
                "burst": 1000,
                "period": 100000,
                "realtimeRuntime": 0,
                "realtimePeriod": 0,
                "cpus": "0-1",
                "mems": "0",
                "idle": 0,
            },
            "pids": {"limit": 100},
            "blockIO": {
                "weight": 500,
                "leafWeight": 0,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 500, "leafWeight": 300}],
                "throttleReadBpsDevice": [_THROTTLE],
                "throttleWriteBpsDevice": [_THROTTLE],
                "throttleReadIOPSDevice": [_THROTTLE],
                "throttleWriteIOPSDevice": [_THROTTLE],
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 1 << 22}],
            "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 500}]},
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}},
            "unified": {"memory.high": "1000000", "io.max": "8:0 rbps=1\n8:16 rbps=2"},
        },
        "cgroupsPath": "/pysandbox/test",
        "namespaces": [
            {"type": "pid"},
            {"type": "network", "path": ""},
            {"type": "mount"},
            {"type": "ipc", "path": "/proc/1/ns/ipc"},
            {"type": "uts"},
            {"type": "user"},
            {"type": "cgroup"},
            {"type": "time"},
        ],
        "devices": [
            {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438, "uid": 0, "gid": 0},
            {"path": "/dev/pipe", "type": "p"},
        ],
        "netDevices": {"eth7": {"name": "inside0"}, "eth8": {}},
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "listenerPath": "/run/agent.sock",
            "listenerMetadata": "data",
            "syscalls": [
                {
                    "names": ["read", "no_such_call"],
                    "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}],
                },
                {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
                {"names": ["chown"], "action": "SCMP_ACT_NOTIFY"},
            ],
        },
        "rootfsPropagation": "rslave",
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "mountLabel": "system_u:object_r:container_file_t:s0",
        "personality": {"domain": "LINUX32", "flags": []},
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]},
    },
    "vm": {
        "hypervisor": {"path": "/usr/bin/qemu", "parameters": ["-x"]},
        "kernel": {"path": "/boot/vmlinuz", "parameters": ["quiet"], "initrd": "/boot/initrd"},
        "image": {"path": "/srv/image", "format": "raw"},
        "hwConfig": {
            "deviceTree": "/boot/dtb",
            "vcpus": 2,
            "memory": 1 << 28,
            "dtdevs": ["a"],
            "iomems": [{"firstGFN": 1, "firstMFN": 2, "nrMFNs": 3}],
            "irqs": [1],
        },
    },
}
