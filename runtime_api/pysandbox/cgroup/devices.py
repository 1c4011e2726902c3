"""Which devices a container may use: OCI rules to one policy, the policy to v1 writes (v2 programs: `device_program`).

Everything is denied before the first rule, whatever the rules say, so an empty list, or one that only allows, never
leaves more open than it names (runc's GHSA-g54h-m393-cpwq). The devices every container needs are appended, as runc
does, without its `c 10:200` (/dev/net/tun), which a spec has to name.

Sources: runtime-spec config-linux.md "Allowed Device list", the kernel's admin-guide/cgroup-v1/devices.rst.
"""

from __future__ import annotations

from pysandbox.cgroup.resources import Write
from pysandbox.errors import InvalidArgument
from pysandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

#: Stands for every number, as `*` does in the files of v1.
ANY = -1

#: read, write, mknod: in the order in which the kernel prints them.
ALL = "rwm"

#: (type, major, minor)
Device = tuple[str, int, int]

#: What every container may do beside what its spec says: make any node, and use the ones that each /dev has.
DEFAULT_ALLOWED: tuple[tuple[Device, str], ...] = (
    (("c", ANY, ANY), "m"),
    (("b", ANY, ANY), "m"),
    (("c", 1, 3), ALL),  # null
    (("c", 1, 8), ALL),  # random
    (("c", 1, 7), ALL),  # full
    (("c", 5, 0), ALL),  # tty
    (("c", 1, 5), ALL),  # zero
    (("c", 1, 9), ALL),  # urandom
    (("c", 136, ANY), ALL),  # pts/*
    (("c", 5, 2), ALL),  # ptmx
)


@dataclass(slots=True)
class Policy:
    """One answer for all devices and the exceptions from it, with the accesses that are excepted."""

    allow: bool = False
    exceptions: dict[Device, str] = field(default_factory=dict)

    def reset(self, *, allow: bool) -> None:
        """Start over with one answer for everything."""
        self.allow = allow
        self.exceptions.clear()

    def add(self, device: Device, access: str) -> None:
        """Except more accesses."""
        self.exceptions[device] = _union(self.exceptions.get(device, ""), access)

    def subtract(self, device: Device, access: str) -> None:
        """Except fewer accesses."""
        left = _difference(self.exceptions.get(device, ""), access)
        if left:
            self.exceptions[device] = left
        else:
            self.exceptions.pop(device, None)

    def wider(self, device: Device, access: str) -> Device | None:
        """Return an exception for more than this device that has one of these accesses."""
        kind, major, minor = device
        for other in ((kind, ANY, minor), (kind, major, ANY), (kind, ANY, ANY)):
            if other != device and set(self.exceptions.get(other, "")) & set(access):
                return other
        return None


def device_policy(rules: Iterable[Mapping[str, Any]]) -> Policy:
    """Return the policy of `linux.resources.devices`, defaults included. Raises InvalidArgument with the JSON path."""
    policy = Policy()
    for index, rule in enumerate(rules):
        _apply(policy, rule, f"linux.resources.devices[{index}]")
    for device, access in DEFAULT_ALLOWED:
        if not policy.allow:
            policy.add(device, access)
        elif policy.wider(device, access) is None:
            policy.subtract(device, access)
    return policy


def _apply(policy: Policy, rule: Mapping[str, Any], path: str) -> None:
    kind, allow = rule.get("type") or "a", rule["allow"]
    major, minor = rule.get("major"), rule.get("minor")
    numbers = (ANY if major is None else major, ANY if minor is None else minor)
    access = _checked_access(rule.get("access") or "", path)
    if kind not in ("a", "b", "c"):
        raise InvalidArgument(f'{path}.type: "{kind}" is not one of a, b, c')
    if min(numbers) < ANY:
        raise InvalidArgument(f"{path}: device numbers {numbers[0]}:{numbers[1]} must be -1 (any) or more")
    if kind == "a" and numbers == (ANY, ANY) and (not allow or access == ALL):
        policy.reset(allow=allow)
        return
    # The kernel, and runc, read `a` as "everything" even beside numbers. Here it means both types with these numbers.
    for each in ("b", "c") if kind == "a" else (kind,):
        _except(policy, (each, *numbers), access, path, allow=allow)


def _except(policy: Policy, device: Device, access: str, path: str, *, allow: bool) -> None:
    if allow != policy.allow:
        policy.add(device, access)
        return
    wider = policy.wider(device, access)
    if wider is not None:
        raise InvalidArgument(f"{path}: {_text(device)} cannot be taken out of the earlier rule for {_text(wider)}")
    policy.subtract(device, access)


def _checked_access(access: str, path: str) -> str:
    if not access:
        raise InvalidArgument(f"{path}.access: device access cannot be empty")
    known = _union(access, "")
    if not known:
        raise InvalidArgument(f'{path}.access: "{access}" has none of the letters r, w and m')
    return known


def _union(one: str, other: str) -> str:
    return "".join(letter for letter in ALL if letter in one or letter in other)


def _difference(one: str, other: str) -> str:
    return "".join(letter for letter in one if letter not in other)


def _text(device: Device) -> str:
    kind, major, minor = device
    return f"{kind} {'*' if major == ANY else major}:{'*' if minor == ANY else minor}"


def v1_device_writes(policy: Policy, current: str) -> list[Write]:
    """Return the writes that lead from `current` (the text of devices.list) to the policy.

    Changes only what differs: a running container never sees a moment in which its own devices are denied. A list in
    allow-all mode does not show its exceptions, so from there it starts over.
    """
    old = _parse_list(current)
    writes = []
    if old.allow or policy.allow:
        writes.append(_write("a *:* rwm", allow=policy.allow))
        old = Policy(allow=policy.allow)
    for device, access in old.exceptions.items():
        dropped = _difference(access, policy.exceptions.get(device, ""))
        if dropped:
            writes.append(_write(f"{_text(device)} {dropped}", allow=policy.allow))
    for device, access in policy.exceptions.items():
        gained = _difference(access, old.exceptions.get(device, ""))
        if gained:
            writes.append(_write(f"{_text(device)} {gained}", allow=not policy.allow))
    return writes


def _write(line: str, *, allow: bool) -> Write:
    file = "devices.allow" if allow else "devices.deny"
    return Write("devices", file, "a" if line.startswith("a") else line, "linux.resources.devices")


def _parse_list(text: str) -> Policy:
    policy = Policy()
    for line in text.splitlines():
        kind, numbers, access = line.split()
        if kind == "a":
            policy.reset(allow=True)
            continue
        major, minor = (ANY if number == "*" else int(number) for number in numbers.split(":"))
        policy.add((kind, major, minor), _union(access, ""))
    return policy
