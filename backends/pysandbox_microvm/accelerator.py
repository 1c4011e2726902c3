"""What runs the guest's code: KVM where our own kernel has proved it, else QEMU's emulation.

That /dev/kvm is there, opens and answers proves nothing: there are hosts where it does all three, and a guest then
hangs for ever. So the answer is a trial boot with a limit, kept for as long as host, QEMU and kernel are the same.
Under emulation QEMU promises no isolation: <https://www.qemu.org/docs/master/system/security.html>.
"""

from __future__ import annotations

import json
import os

from pysandbox.errors import SandboxError, Unavailable
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

#: What there is: the processor's own virtualisation, a paravirtual KVM without it, and emulation.
VMX, SVM, PVM, TCG = "kvm-vmx", "kvm-svm", "kvm-pvm", "tcg"
DEVICE = "/dev/kvm"
#: Seconds for our kernel to have an agent under KVM: it takes a tenth of one.
TRIAL_TIMEOUT = 5.0
#: The file in the backend's directory that keeps the answers.
ANSWERS = "accelerator.json"
_MOST_ANSWERS = 16
_LONGEST_ANSWERS = 64 * 1024
#: Bytes of /proc/cpuinfo that hold its first processor: the whole of it takes long to read on a large host.
_FIRST_PROCESSOR = 16 * 1024


@dataclass(frozen=True, slots=True)
class Processor:
    """The host's: its name, flags as in /proc/cpuinfo, and its time-stamp counter's frequency in kHz."""

    model: str
    flags: frozenset[str]
    tsc_khz: int


@dataclass(frozen=True, slots=True)
class Answer:
    """An accelerator, and why it is this one."""

    name: str
    reason: str


def read_processor(path: str = "/proc/cpuinfo") -> Processor:
    """Read what the first processor is. Raises Unavailable where its frequency is not told."""
    with open(path, "rb", buffering=0) as file:
        text = file.read(_FIRST_PROCESSOR).decode(errors="replace").split("\n\n", 1)[0]
    pairs = [line.partition(":") for line in text.splitlines()]
    told = {name.strip(): value.strip() for name, _, value in pairs}
    try:
        # Twice the counter's MHz, as the kernel takes its delay loop from the counter (arch/x86/kernel/tsc.c).
        khz = round(float(told["bogomips"]) * 500)
    except (KeyError, ValueError):
        raise Unavailable(f"{path}: does not tell the processor's bogomips") from None
    return Processor(told.get("model name", ""), frozenset(told.get("flags", "").split()), khz)


def find_accelerator(
    wanted: str, processor: Processor, directory: str, key: Mapping[str, str], trial: Callable[[str], None]
) -> Answer:
    """Return what to use, for the setting `accelerator`: "auto", "kvm" or "tcg".

    `key` is what an answer depends on; `trial` boots a machine with an accelerator, and raises where it does not come
    to life. Raises Unavailable for "kvm" where that is not usable.
    """
    if wanted == TCG:
        return Answer(TCG, "the setting accelerator says so")
    name = _hardware(processor)
    if name == PVM and wanted != "kvm":
        return Answer(TCG, "the processor offers no virtualisation: neither vmx nor svm")
    if not os.path.exists(DEVICE):
        answer = Answer(TCG, f"{DEVICE}: there is none")
    else:
        answer = _kept(directory, {**key, "accelerator": name}) or _tried(name, directory, key, trial)
    if wanted == "kvm" and answer.name == TCG:
        raise Unavailable(f'KVM is not usable here: {answer.reason}; remedy: the setting accelerator = "tcg"')
    return answer


def boot_id() -> str:
    """Return the random id of this boot of the host."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _hardware(processor: Processor) -> str:
    return VMX if "vmx" in processor.flags else SVM if "svm" in processor.flags else PVM


def _tried(name: str, directory: str, key: Mapping[str, str], trial: Callable[[str], None]) -> Answer:
    try:
        trial(name)
    except (SandboxError, OSError) as error:
        answer = Answer(TCG, f"a trial boot with {name} failed: {error}"[:500])
    else:
        answer = Answer(name, "a trial boot worked")
    _keep(directory, {**key, "accelerator": name}, answer)
    return answer


def _kept(directory: str, key: Mapping[str, str]) -> Answer | None:
    for entry in _read(directory):
        if entry["key"] == key:
            return Answer(entry["name"], entry["reason"])
    return None


def _keep(directory: str, key: Mapping[str, str], answer: Answer) -> None:
    """Add an answer to those of this boot. Where it cannot be kept, the next trial gives it again."""
    there = [each for each in _read(directory) if each["key"] != key and each["key"].get("boot") == key.get("boot")]
    entries = [*there, {"key": dict(key), "name": answer.name, "reason": answer.reason}][-_MOST_ANSWERS:]
    new = os.path.join(directory, f".{ANSWERS}.{os.getpid()}")
    try:
        with open(new, "w", encoding="utf-8", opener=_private) as file:
            json.dump(entries, file)
        os.replace(new, os.path.join(directory, ANSWERS))
    except OSError:
        _unlink(new)


def _read(directory: str) -> list[dict[str, Any]]:
    """Return what is kept; what is none of ours is nothing."""
    try:
        with open(os.path.join(directory, ANSWERS), "rb", buffering=0) as file:
            entries = json.loads(file.read(_LONGEST_ANSWERS))
    except (OSError, ValueError, RecursionError):
        return []
    return [entry for entry in entries if _is_entry(entry)] if isinstance(entries, list) else []


def _is_entry(entry: object) -> bool:
    match entry:
        case {"key": dict(), "name": "kvm-vmx" | "kvm-svm" | "kvm-pvm" | "tcg", "reason": str()}:
            return True
    return False


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
