"""Apply one layer to a tree: its entries in order, whiteouts, and what it may not say twice (image-spec, layer.md)."""

from __future__ import annotations

import os

from pysandbox.bundle.entry import DEVICES, DIRECTORY, FILE, LINK
from pysandbox.bundle.name import shown, split
from pysandbox.bundle.tree import Place, directory_at
from pysandbox.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pysandbox.bundle.entry import Content, Entry
    from pysandbox.bundle.tree import Tree

WHITEOUT = b".wh."
_META = b".wh..wh."
_OPAQUE = b".wh..wh..opq"
#: What becomes of device nodes.
SKIP, KEEP, REFUSE = "skip", "keep", "refuse"


class Layer:
    """What one layer has made so far. `whiteouts`: whether names with `.wh.` are marks; elsewhere they are names."""

    def __init__(
        self, tree: Tree, what: str, *, whiteouts: bool, devices: str, warn: Callable[[str, bytes], None]
    ) -> None:
        self._tree, self._what, self._whiteouts, self._devices, self._warn = tree, what, whiteouts, devices, warn
        #: Directories that this layer made something in, and what, with whether it is a directory.
        self._made: dict[bytes, dict[bytes, bool]] = {}
        self._skipped: set[bytes] = set()
        self._marks: set[bytes] = set()

    def apply(self, entry: Entry, content: Content) -> None:
        """Apply one entry. Raises InvalidArgument for what no layer may hold."""
        if self._whiteouts and WHITEOUT in entry.name and self._mark(entry):
            return
        if not entry.name:
            self._tree.set_root(entry)
            return
        what = f"{self._what}: {shown(entry.name)}"
        if entry.kind in DEVICES and self._devices != KEEP:
            self._leave_out_device(entry, what)
            return
        if entry.kind == LINK:
            self._link(entry, what)
            return
        place = self._tree.place(entry.name, what)
        self._claim(place, what, directory=entry.kind == DIRECTORY)
        self._tree.put(place, entry, content)

    def _leave_out_device(self, entry: Entry, what: str) -> None:
        if self._devices == REFUSE:
            major, minor = entry.device
            raise InvalidArgument(f"{what}: device node {entry.kind} {major}:{minor} (--devices skip leaves them out)")
        self._skipped.add(entry.name)
        self._warn("device nodes (--devices keep makes them)", entry.name)

    def _link(self, entry: Entry, what: str) -> None:
        if entry.target in self._skipped:
            self._skipped.add(entry.name)
            return
        if not entry.target:
            raise InvalidArgument(f"{what}: hard link to the root, which is a directory")
        try:
            found = self._tree.place(entry.target, what, make=False)
        except FileNotFoundError:
            raise InvalidArgument(f"{what}: hard link to {shown(entry.target)}, which is not there") from None
        target = Place(os.dup(found.descriptor), found.directory, found.name)
        try:
            place = self._tree.place(entry.name, what)
            self._claim(place, what, directory=False)
            self._tree.put_link(place, target, what)
        finally:
            os.close(target.descriptor)

    # -- each name once

    def _claim(self, place: Place, what: str, *, directory: bool) -> None:
        """Note that this layer makes a name. Raises InvalidArgument if it has made it before, as something else."""
        if place.path in self._made and not directory:
            raise InvalidArgument(f"{what}: is a directory and a file in one layer")
        names = self._made[place.directory] if place.directory in self._made else self._enter(place.directory)
        if not names.get(place.name, True) or (place.name in names and not directory):
            raise InvalidArgument(f"{what}: twice in one layer")
        names[place.name] = directory

    def _enter(self, directory: bytes) -> dict[bytes, bool]:
        """Note that something is made in a directory, and so in those above it."""
        names = self._made[directory] = {}
        while directory:
            directory, _ = split(directory)
            if directory in self._made:
                break
            self._made[directory] = {}
        return names

    # -- whiteouts

    def _mark(self, entry: Entry) -> bool:
        """Do what a name with `.wh.` asks for; say whether it is a mark at all."""
        *way, last = entry.name.split(b"/")
        marks = [part for part in way if part.startswith(WHITEOUT)]
        if any(part.startswith(_META) for part in [*marks, last]) and last != _OPAQUE:
            return True  # AUFS' own bookkeeping: no program of an image has ever seen it
        what = f"{self._what}: {shown(entry.name)}"
        if marks:
            raise InvalidArgument(f"{what}: a whiteout is no directory")
        if not last.startswith(WHITEOUT):
            return False
        if entry.kind not in (FILE, LINK):
            raise InvalidArgument(f"{what}: a whiteout is an empty file, not a {entry.kind}")
        hidden = last[len(WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise InvalidArgument(f"{what}: whiteout of {shown(hidden)}: it would reach beyond its directory")
        self._hide(entry.name, hidden, what)
        return True

    def _hide(self, mark: bytes, hidden: bytes, what: str) -> None:
        """Hide what lower layers have: one name, or all of a directory. What this layer has made stays."""
        try:
            place = self._tree.place(mark, what, make=False)
        except FileNotFoundError:
            return
        if place.path in self._marks:
            # Each looks at everything in a directory: a layer of nothing else would take for ever.
            raise InvalidArgument(f"{what}: twice in one layer")
        self._marks.add(place.path)
        if place.name == _OPAQUE:
            self._hide_all(place.descriptor, place.directory)
        else:
            self._hide_one(Place(place.descriptor, place.directory, hidden))

    def _hide_all(self, descriptor: int, directory: bytes) -> None:
        for name in os.listdir(descriptor):
            self._hide_one(Place(descriptor, directory, os.fsencode(name)))

    def _hide_one(self, place: Place) -> None:
        made = self._made.get(place.directory, {}).get(place.name)
        if made is False:
            return
        if self._tree.is_directory(place) and (made or place.path in self._made):
            with directory_at(place) as descriptor:
                self._hide_all(descriptor, place.path)
        else:
            self._tree.remove(place)
