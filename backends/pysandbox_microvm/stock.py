"""The templates of a host, for who looks after them: `pysandbox template`. Containers make their own on first use."""

from __future__ import annotations

import os

from pysandbox.record import dataclass
from pysandbox_microvm.identity import Identity
from pysandbox_microvm.image import directory_of, find_image
from pysandbox_microvm.jail import find_program, qemu_jail
from pysandbox_microvm.provision import TEMPLATES, find_qemu, make_template, plan_machine
from pysandbox_microvm.settings import uids
from pysandbox_microvm.size import MIB, Size, check_size, size_of
from pysandbox_microvm.template import MEMORY, list_templates, remove_template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pysandbox_microvm.jail import Jail
    from pysandbox_microvm.template import Template


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One template: `size` is the bytes that it takes on disk, `ports` how many devices can be plugged, less one."""

    key: str
    vcpus: int
    memory: int
    ports: int
    disk: bool
    accelerator: str
    size: int
    created: float


class Stock:
    """The templates below the directory that the settings name."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._templates = os.path.join(directory_of(settings), TEMPLATES)

    def create(self, vcpus: int = 0, memory: int = 0, *, devices: int = 2, disk: bool = False) -> Stored:
        """Return the template of a size class, made if there is none; 0 is what a container without limits gets.

        `memory` is in MiB. Raises InvalidArgument for a size that this host does not have; what `plan_machine` and
        `make_template` raise.
        """
        usual = size_of({"ociVersion": "1.0.0", "process": {}, "root": {"path": "/"}}, self._settings)  # type: ignore[typeddict-item]
        size = Size(vcpus or usual.vcpus, memory * MIB or usual.memory)
        check_size(size, self._settings)
        image = find_image(self._settings)
        program = find_program(find_qemu(self._settings))
        identity = Identity.take(uids(self._settings))

        def jailer(kvm: bool) -> Jail:  # noqa: FBT001 (what `provision.Jailer` is)
            return qemu_jail(program, identity.uid, kvm=kvm)

        try:
            directory = directory_of(self._settings)
            os.makedirs(directory, 0o700, exist_ok=True)
            planned = plan_machine(image, size, self._settings, directory, jailer, devices=devices, root_disk=disk)
            return _stored(make_template(planned, jailer))
        finally:
            identity.close()

    def list(self) -> list[Stored]:
        """Return the templates that can be used."""
        return [_stored(template) for template in list_templates(self._templates)]

    def remove(self, key: str) -> None:
        """Remove one; machines that are its clones go on. Raises NotFound."""
        remove_template(self._templates, key)


def _stored(template: Template) -> Stored:
    told = template.manifest
    return Stored(
        key=template.key,
        vcpus=told["vcpus"],
        memory=told["memory_size"],
        ports=told["root_ports"],
        disk=told["root_disk"],
        accelerator=told["accelerator"],
        size=os.stat(os.path.join(template.directory, MEMORY)).st_blocks * 512,
        created=told["created"],
    )
