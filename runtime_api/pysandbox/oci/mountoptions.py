"""Mount options: what each name stands for, for mount(2), for mount_setattr(2) and for fsconfig(2).

One table serves three readers: the planner, `features` (its names are `mountOptions`) and the validator. A name that is
not in it is a file system's own option and goes to the file system as it is.
"""

from __future__ import annotations

from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pysandbox.oci.types import Mount

# mount(2): include/uapi/linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOSYMFOLLOW = 256
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_REC = 16384
MS_SILENT = 32768
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_I_VERSION = 1 << 23
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

# mount_setattr(2), Linux 5.12; MOUNT_ATTR_NOSYMFOLLOW since 5.14
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_NOSYMFOLLOW = 0x200000


@dataclass(frozen=True, slots=True, kw_only=True)
class MountOption:
    """What one option does.

    `set_flags` and `clear_flags` are MS_* of mount(2). The attributes are MOUNT_ATTR_* for this mount alone, the
    recursive ones for it and all below (AT_RECURSIVE). `propagation` is MS_SHARED, MS_SLAVE, MS_PRIVATE or
    MS_UNBINDABLE, with MS_REC where the name begins with r. `superblock` is the key for fsconfig(FSCONFIG_SET_FLAG) by
    which a new file system gets the same; it means nothing for a bind mount. `extension` is a runtime's own word.
    """

    set_flags: int = 0
    clear_flags: int = 0
    set_attributes: int = 0
    clear_attributes: int = 0
    set_recursive: int = 0
    clear_recursive: int = 0
    propagation: int = 0
    superblock: str = ""
    extension: str = ""


def _set(flag: int, attribute: int = 0, superblock: str = "") -> MountOption:
    return MountOption(set_flags=flag, set_attributes=attribute, superblock=superblock)


def _clear(flag: int, attribute: int = 0, superblock: str = "") -> MountOption:
    return MountOption(clear_flags=flag, clear_attributes=attribute, superblock=superblock)


def _atime(flag: int, attribute: int) -> MountOption:
    # The access time is one field of several bits: the kernel wants all of it cleared where any of it is set.
    return MountOption(set_flags=flag, set_attributes=attribute, clear_attributes=MOUNT_ATTR__ATIME)


def _recursively(set: int = 0, clear: int = 0) -> MountOption:  # noqa: A002
    return MountOption(set_recursive=set, clear_recursive=clear)


def _propagation(flag: int) -> MountOption:
    return MountOption(propagation=flag)


def _extension(name: str) -> MountOption:
    return MountOption(extension=name)


#: Every option that is not a file system's own, by name.
MOUNT_OPTIONS: Mapping[str, MountOption] = {
    "async": _clear(MS_SYNCHRONOUS, superblock="async"),
    "atime": MountOption(clear_flags=MS_NOATIME, clear_attributes=MOUNT_ATTR__ATIME),
    "bind": _set(MS_BIND),
    "defaults": MountOption(),
    "dev": _clear(MS_NODEV, MOUNT_ATTR_NODEV),
    "diratime": _clear(MS_NODIRATIME, MOUNT_ATTR_NODIRATIME),
    "dirsync": _set(MS_DIRSYNC, superblock="dirsync"),
    "exec": _clear(MS_NOEXEC, MOUNT_ATTR_NOEXEC),
    "iversion": _set(MS_I_VERSION),
    "lazytime": _set(MS_LAZYTIME, superblock="lazytime"),
    "loud": _clear(MS_SILENT),
    "mand": _set(MS_MANDLOCK, superblock="mand"),
    "noatime": _atime(MS_NOATIME, MOUNT_ATTR_NOATIME),
    "nodev": _set(MS_NODEV, MOUNT_ATTR_NODEV),
    "nodiratime": _set(MS_NODIRATIME, MOUNT_ATTR_NODIRATIME),
    "noexec": _set(MS_NOEXEC, MOUNT_ATTR_NOEXEC),
    "noiversion": _clear(MS_I_VERSION),
    "nolazytime": _clear(MS_LAZYTIME, superblock="nolazytime"),
    "nomand": _clear(MS_MANDLOCK, superblock="nomand"),
    "norelatime": _clear(MS_RELATIME),
    "nostrictatime": MountOption(clear_flags=MS_STRICTATIME, clear_attributes=MOUNT_ATTR__ATIME),
    "nosuid": _set(MS_NOSUID, MOUNT_ATTR_NOSUID),
    "nosymfollow": _set(MS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW),
    "rbind": _set(MS_BIND | MS_REC),
    "relatime": _atime(MS_RELATIME, MOUNT_ATTR_RELATIME),
    "remount": _set(MS_REMOUNT),
    "ro": _set(MS_RDONLY, MOUNT_ATTR_RDONLY, superblock="ro"),
    "rw": _clear(MS_RDONLY, MOUNT_ATTR_RDONLY, superblock="rw"),
    "silent": _set(MS_SILENT),
    "strictatime": _atime(MS_STRICTATIME, MOUNT_ATTR_STRICTATIME),
    "suid": _clear(MS_NOSUID, MOUNT_ATTR_NOSUID),
    "symfollow": _clear(MS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW),
    "sync": _set(MS_SYNCHRONOUS, superblock="sync"),
    # propagation
    "private": _propagation(MS_PRIVATE),
    "rprivate": _propagation(MS_PRIVATE | MS_REC),
    "rshared": _propagation(MS_SHARED | MS_REC),
    "rslave": _propagation(MS_SLAVE | MS_REC),
    "runbindable": _propagation(MS_UNBINDABLE | MS_REC),
    "shared": _propagation(MS_SHARED),
    "slave": _propagation(MS_SLAVE),
    "unbindable": _propagation(MS_UNBINDABLE),
    # for the whole tree
    "ratime": _recursively(clear=MOUNT_ATTR__ATIME),
    "rdev": _recursively(clear=MOUNT_ATTR_NODEV),
    "rdiratime": _recursively(clear=MOUNT_ATTR_NODIRATIME),
    "rexec": _recursively(clear=MOUNT_ATTR_NOEXEC),
    "rnoatime": _recursively(MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME),
    "rnodev": _recursively(MOUNT_ATTR_NODEV),
    "rnodiratime": _recursively(MOUNT_ATTR_NODIRATIME),
    "rnoexec": _recursively(MOUNT_ATTR_NOEXEC),
    "rnorelatime": MountOption(),  # clears a field that is 0: nothing
    "rnostrictatime": _recursively(clear=MOUNT_ATTR__ATIME),
    "rnosuid": _recursively(MOUNT_ATTR_NOSUID),
    "rnosymfollow": _recursively(MOUNT_ATTR_NOSYMFOLLOW),
    "rrelatime": _recursively(MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME),
    "rro": _recursively(MOUNT_ATTR_RDONLY),
    "rrw": _recursively(clear=MOUNT_ATTR_RDONLY),
    "rstrictatime": _recursively(MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME),
    "rsuid": _recursively(clear=MOUNT_ATTR_NOSUID),
    "rsymfollow": _recursively(clear=MOUNT_ATTR_NOSYMFOLLOW),
    # a runtime's own words: runc's, then crun's
    "idmap": _extension("idmap"),
    "ridmap": _extension("ridmap"),
    "tmpcopyup": _extension("tmpcopyup"),
    "dest-nofollow": _extension("dest-nofollow"),
    "src-nofollow": _extension("src-nofollow"),
}


class ParsedOptions:
    """What a list of options comes to. Masks as in `MountOption`; `data` are the file system's own options."""

    def __init__(self) -> None:
        self.set_flags = 0
        self.clear_flags = 0
        self.set_attributes = 0
        self.clear_attributes = 0
        self.set_recursive = 0
        self.clear_recursive = 0
        self.propagation: list[int] = []
        self.superblock: list[str] = []
        self.extensions: set[str] = set()
        self.data: list[str] = []

    @property
    def bind(self) -> bool:
        """Say whether `bind` or `rbind` is among them."""
        return bool(self.set_flags & MS_BIND)

    @property
    def recursive(self) -> bool:
        """Say whether `rbind` is among them."""
        return bool(self.set_flags & MS_REC)


def parse_mount_options(options: Iterable[str]) -> ParsedOptions:
    """Put options together from left to right: a later one overrides an earlier one, as mount(8) has it."""
    parsed = ParsedOptions()
    for name in filter(None, options):
        option = MOUNT_OPTIONS.get(name)
        if option is None:
            parsed.data.append(name)
        else:
            _add(parsed, option)
    return parsed


def _add(parsed: ParsedOptions, option: MountOption) -> None:
    parsed.set_flags = parsed.set_flags & ~option.clear_flags | option.set_flags
    parsed.clear_flags = parsed.clear_flags & ~option.set_flags | option.clear_flags
    parsed.set_attributes = parsed.set_attributes & ~option.clear_attributes | option.set_attributes
    parsed.clear_attributes = parsed.clear_attributes & ~option.set_attributes | option.clear_attributes
    parsed.set_recursive = parsed.set_recursive & ~option.clear_recursive | option.set_recursive
    parsed.clear_recursive = parsed.clear_recursive & ~option.set_recursive | option.clear_recursive
    if option.propagation:
        parsed.propagation.append(option.propagation)
    if option.superblock:
        parsed.superblock.append(option.superblock)
    if option.extension:
        parsed.extensions.add(option.extension)


def is_bind(mount: Mount) -> bool:
    """Say whether a mount of the spec is a bind mount: by its options, or by its type alone."""
    return mount.get("type") == "bind" or not {"bind", "rbind"}.isdisjoint(mount.get("options", ()))
