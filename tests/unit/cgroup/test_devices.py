"""Device rules: nothing is open that is not named, on v1 and on v2 alike."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from pysandbox.cgroup.device_program import device_program
from pysandbox.cgroup.devices import ALL, ANY, DEFAULT_ALLOWED, Policy, device_policy, v1_device_writes
from pysandbox.errors import InvalidArgument

DENY_ALL = {"allow": False, "access": "rwm"}
ALLOW_ALL = {"allow": True, "access": "rwm"}

ACCESS = {"m": 1, "r": 2, "w": 4}
TYPE = {"b": 1, "c": 2}


def rule(text: str, *, allow: bool = True) -> dict[str, Any]:
    """`c 1:3 rwm` as an OCI rule."""
    kind, numbers, access = text.split()
    major, minor = (None if number == "*" else int(number) for number in numbers.split(":"))
    return {"allow": allow, "type": kind, "major": major, "minor": minor, "access": access}


def run(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """Run a device program as the kernel would: an interpreter for the few instructions it consists of."""
    asked = sum(ACCESS[letter] for letter in access)
    context = struct.pack("=III", asked << 16 | TYPE[kind], major, minor)
    instructions = list(struct.iter_unpack("=BBhi", program))
    registers = [0] * 11
    at = 0
    while True:
        code, both, offset, immediate = instructions[at]
        target, source = both & 15, both >> 4
        at += 1
        match code:
            case 0x61:
                assert source == 1
                registers[target] = struct.unpack_from("=I", context, offset)[0]
            case 0xBC:
                registers[target] = registers[source]
            case 0x54:
                registers[target] &= immediate
            case 0x74:
                registers[target] >>= immediate
            case 0xB7:
                registers[target] = immediate
            case 0x55:
                at += offset if registers[target] != immediate else 0
            case 0x15:
                at += offset if registers[target] == immediate else 0
            case 0x5D:
                at += offset if registers[target] != registers[source] else 0
            case 0x95:
                return bool(registers[0])
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


def allows(policy: Policy, kind: str, major: int, minor: int, access: str) -> bool:
    """Say what the policy says, in the words of admin-guide/cgroup-v1/devices.rst."""
    for (other, first, second), excepted in policy.exceptions.items():
        if other != kind or first not in (ANY, major) or second not in (ANY, minor):
            continue
        if policy.allow and set(access) & set(excepted):
            return False
        if not policy.allow and set(access) <= set(excepted):
            return True
    return policy.allow


@pytest.mark.parametrize("rules", [[], [DENY_ALL], [rule("c 10:229 rwm")], [rule("a 1:3 r")]])
def test_a_disk_and_kernel_memory_stay_closed_unless_named(rules: list[dict[str, Any]]) -> None:
    """runc's GHSA-g54h-m393-cpwq: a list whose first rule does not deny was read as a list of denials."""
    program = device_program(device_policy(rules))

    for kind, major, minor in (("b", 8, 0), ("b", 254, 0), ("c", 1, 1), ("c", 1, 11), ("c", 10, 200), ("c", 5, 1)):
        for access in ("r", "w", "rw"):
            assert not run(program, kind, major, minor, access), (kind, major, minor, access)


@pytest.mark.parametrize(("device", "access"), DEFAULT_ALLOWED)
def test_every_container_has_the_default_devices(device: tuple[str, int, int], access: str) -> None:
    kind, major, minor = device
    program = device_program(device_policy([DENY_ALL]))

    assert run(program, kind, 7 if major == ANY else major, 7 if minor == ANY else minor, access)


def test_allow_all_is_allow_all() -> None:
    program = device_program(device_policy([DENY_ALL, ALLOW_ALL]))

    assert run(program, "b", 8, 0, "rwm")


def test_the_last_rule_for_everything_wins() -> None:
    assert not device_policy([ALLOW_ALL, DENY_ALL]).allow


def test_type_a_with_numbers_means_both_types_and_no_more() -> None:
    """The kernel's own v1 file takes any line that begins with `a` for everything; so does runc."""
    policy = device_policy([rule("a 8:0 r")])

    assert allows(policy, "b", 8, 0, "r")
    assert allows(policy, "c", 8, 0, "r")
    assert not allows(policy, "b", 8, 1, "r")
    assert not allows(policy, "b", 8, 0, "w")


def test_type_a_with_some_accesses_allows_only_those() -> None:
    policy = device_policy([{"allow": True, "access": "r"}])

    assert allows(policy, "b", 8, 0, "r")
    assert not allows(policy, "b", 8, 0, "w")


def test_a_denied_device_is_closed_in_an_open_list() -> None:
    program = device_program(device_policy([ALLOW_ALL, rule("b 8:0 w", allow=False)]))

    assert run(program, "b", 8, 0, "r")
    assert not run(program, "b", 8, 0, "w")
    assert not run(program, "b", 8, 0, "rw")


def test_accesses_of_several_rules_add_up_and_can_be_taken_back() -> None:
    policy = device_policy([rule("b 8:0 r"), rule("b 8:0 w"), rule("b 8:0 r", allow=False)])

    assert policy.exceptions["b", 8, 0] == "w"


def test_letters_without_a_meaning_are_passed_over() -> None:
    assert device_policy([rule("b 8:0 rwa")]).exceptions["b", 8, 0] == "rw"


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ([DENY_ALL, {"allow": True, "type": "p", "access": "r"}], 'linux.resources.devices[1].type: "p" is not one of'),
        (
            [{"allow": True, "type": "c", "access": "x"}],
            'linux.resources.devices[0].access: "x" has none of the letters',
        ),
        ([{"allow": True, "type": "c"}], "linux.resources.devices[0].access: device access cannot be empty"),
        ([rule("c -2:0 r")], "linux.resources.devices[0]: device numbers -2:0 must be"),
        (
            [rule("b 8:* rwm"), rule("b 8:0 w", allow=False)],
            "linux.resources.devices[1]: b 8:0 cannot be taken out of the earlier rule for b 8:*",
        ),
    ],
)
def test_refused(rules: list[dict[str, Any]], text: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        device_policy(rules)

    assert text in str(refusal.value)


def test_the_program_answers_as_the_policy_does() -> None:
    chance = random.Random(20261121)
    for _ in range(300):
        policy = Policy(allow=chance.random() < 0.3)
        for _ in range(chance.randrange(8)):
            device = (chance.choice("bc"), chance.choice([ANY, 1, 8, 254]), chance.choice([ANY, 0, 3, 1 << 19]))
            policy.add(device, "".join(letter for letter in ALL if chance.random() < 0.6) or "r")
        program = device_program(policy)
        for _ in range(60):
            asked = (chance.choice("bc"), chance.choice([1, 8, 9, 254]), chance.choice([0, 1, 3, 1 << 19]))
            access = chance.choice(["r", "w", "rw", "m"])
            assert run(program, *asked, access) == allows(policy, *asked, access), (policy, asked, access)


# -- v1 writes ---------------------------------------------------------------------------------------------------------


def lines(policy: Policy, current: str) -> list[tuple[str, str]]:
    return [(write.file, write.value) for write in v1_device_writes(policy, current)]


def test_v1_closes_everything_first() -> None:
    writes = lines(device_policy([rule("b 8:0 r")]), "a *:* rwm\n")

    assert writes[:2] == [("devices.deny", "a"), ("devices.allow", "b 8:0 r")]
    assert {file for file, _ in writes[1:]} == {"devices.allow"}


def test_v1_changes_only_what_differs() -> None:
    """A container that is writing to /dev/null must not be refused during an update."""
    now = "c *:* m\nb *:* m\nc 1:3 rwm\nc 1:8 rwm\nc 1:7 rwm\nc 5:0 rwm\nc 1:5 rwm\nc 1:9 rwm\nc 136:* rwm\nc 5:2 rwm\n"

    assert lines(device_policy([]), now) == []
    assert lines(device_policy([rule("b 8:0 rw")]), now) == [("devices.allow", "b 8:0 rw")]
    assert lines(device_policy([]), now + "b 8:0 rw\n") == [("devices.deny", "b 8:0 rw")]
    assert lines(device_policy([rule("b 8:0 r")]), now + "b 8:0 rw\n") == [("devices.deny", "b 8:0 w")]


def test_v1_opens_everything_with_one_line() -> None:
    assert lines(device_policy([ALLOW_ALL]), "c 1:3 rwm\n") == [("devices.allow", "a")]


def test_v1_starts_over_from_an_open_list_because_its_exceptions_cannot_be_read() -> None:
    policy = device_policy([ALLOW_ALL, rule("b 8:0 w", allow=False)])

    assert lines(policy, "a *:* rwm\n") == [("devices.allow", "a"), ("devices.deny", "b 8:0 w")]
