"""Cold boots in a row: none hangs. Without `tsc_early_khz` half of them did. `PYSANDBOX_SOAK_BOOTS` says how many."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precondition import requires

from pysandbox.record import replace
from pysandbox_microvm.identity import Identity
from pysandbox_microvm.image import find_image
from pysandbox_microvm.jail import find_program, qemu_jail
from pysandbox_microvm.provision import find_qemu, plan_machine, provide_machine
from pysandbox_microvm.size import MIB, Size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pysandbox_microvm.jail import Jail

BOOTS = int(os.environ.get("PYSANDBOX_SOAK_BOOTS", "100"))
#: Seconds for one boot to have an agent: 1.1 on the reference machine when it is idle.
PATIENCE = 20.0


def test_no_cold_boot_hangs(microvm_settings: Mapping[str, Any], tmp_path: Path) -> None:
    requires("root", "command qemu-system-x86_64")
    identity = Identity.take()

    def jailer(kvm: bool) -> Jail:
        return qemu_jail(find_program(find_qemu(microvm_settings)), identity.uid, kvm=kvm)

    settings = {**microvm_settings, "accelerator": "tcg"}
    planned = plan_machine(find_image(settings), Size(1, 256 * MIB), settings, str(tmp_path), jailer)
    planned = replace(planned, templates=False)
    took = []
    try:
        for number in range(BOOTS):
            began = time.monotonic()
            with provide_machine(planned, jailer) as machine:
                try:
                    machine.hello(PATIENCE).check()
                except Exception as error:
                    console = machine.console().decode(errors="replace")
                    raise AssertionError(f"boot {number} of {BOOTS}: {error}\n{console}") from error
            took.append(time.monotonic() - began)
    finally:
        identity.close()
        print(f"{len(took)} boots, median {statistics.median(took or [0]):.2f} s, longest {max(took, default=0):.2f} s")
