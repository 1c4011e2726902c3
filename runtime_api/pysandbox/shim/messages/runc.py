"""Messages of containerd.runc.v1. Made by pysandbox.ttrpc.generate from proto/runc.proto: do not edit."""

from __future__ import annotations

from pysandbox.ttrpc.message import BOOL, REPEATED, SINGLE, STRING, UINT32, Message

TYPE_CHECKING = False

class Options(Message):
    """containerd.runc.v1.Options."""

    __slots__ = ("no_pivot_root", "no_new_keyring", "shim_cgroup", "io_uid", "io_gid", "binary_name", "root", "criu_path", "systemd_cgroup", "criu_image_path", "criu_work_path", "task_api_address", "task_api_version",)
    NAME = "containerd.runc.v1.Options"
    FIELDS = (
        (1, "no_pivot_root", BOOL, SINGLE, None),
        (2, "no_new_keyring", BOOL, SINGLE, None),
        (3, "shim_cgroup", STRING, SINGLE, None),
        (4, "io_uid", UINT32, SINGLE, None),
        (5, "io_gid", UINT32, SINGLE, None),
        (6, "binary_name", STRING, SINGLE, None),
        (7, "root", STRING, SINGLE, None),
        (8, "criu_path", STRING, SINGLE, None),
        (9, "systemd_cgroup", BOOL, SINGLE, None),
        (10, "criu_image_path", STRING, SINGLE, None),
        (11, "criu_work_path", STRING, SINGLE, None),
        (12, "task_api_address", STRING, SINGLE, None),
        (13, "task_api_version", UINT32, SINGLE, None),
    )
    if TYPE_CHECKING:
        no_pivot_root: bool
        no_new_keyring: bool
        shim_cgroup: str
        io_uid: int
        io_gid: int
        binary_name: str
        root: str
        criu_path: str
        systemd_cgroup: bool
        criu_image_path: str
        criu_work_path: str
        task_api_address: str
        task_api_version: int
        def __init__(self, *, no_pivot_root: bool = False, no_new_keyring: bool = False, shim_cgroup: str = "", io_uid: int = 0, io_gid: int = 0, binary_name: str = "", root: str = "", criu_path: str = "", systemd_cgroup: bool = False, criu_image_path: str = "", criu_work_path: str = "", task_api_address: str = "", task_api_version: int = 0) -> None: ...


class CheckpointOptions(Message):
    """containerd.runc.v1.CheckpointOptions."""

    __slots__ = ("exit", "open_tcp", "external_unix_sockets", "terminal", "file_locks", "empty_namespaces", "cgroups_mode", "image_path", "work_path",)
    NAME = "containerd.runc.v1.CheckpointOptions"
    FIELDS = (
        (1, "exit", BOOL, SINGLE, None),
        (2, "open_tcp", BOOL, SINGLE, None),
        (3, "external_unix_sockets", BOOL, SINGLE, None),
        (4, "terminal", BOOL, SINGLE, None),
        (5, "file_locks", BOOL, SINGLE, None),
        (6, "empty_namespaces", STRING, REPEATED, None),
        (7, "cgroups_mode", STRING, SINGLE, None),
        (8, "image_path", STRING, SINGLE, None),
        (9, "work_path", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        exit: bool
        open_tcp: bool
        external_unix_sockets: bool
        terminal: bool
        file_locks: bool
        empty_namespaces: list[str]
        cgroups_mode: str
        image_path: str
        work_path: str
        def __init__(self, *, exit: bool = False, open_tcp: bool = False, external_unix_sockets: bool = False, terminal: bool = False, file_locks: bool = False, empty_namespaces: list[str] = ..., cgroups_mode: str = "", image_path: str = "", work_path: str = "") -> None: ...


class ProcessDetails(Message):
    """containerd.runc.v1.ProcessDetails."""

    __slots__ = ("exec_id",)
    NAME = "containerd.runc.v1.ProcessDetails"
    FIELDS = (
        (1, "exec_id", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        exec_id: str
        def __init__(self, *, exec_id: str = "") -> None: ...
