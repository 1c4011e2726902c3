from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pysandbox.cgroup.cgroup import CgroupMount
from pysandbox.errors import InvalidArgument
from pysandbox.oci.mountoptions import MOUNT_OPTIONS, MS_REC, MS_SLAVE
from pysandbox.plan.mounts import ALLOWED_UNDER_PROC, Surroundings, plan_mounts
from pysandbox.plan.plan import Plan

if TYPE_CHECKING:
    from pysandbox.plan.steps import Steps

MAPS = [(0, 100000, 1000)]
MAPPINGS = [{"containerID": 0, "hostID": 5000, "size": 10}]
SLAVE = "set_attributes slot=mount0 propagation=MS_SLAVE recursive"


def steps(mount: dict[str, Any], **around: Any) -> Steps:
    return plan_mounts([mount], Surroundings(bundle="/bundle", propagation=MS_SLAVE | MS_REC, **around))  # type: ignore[list-item]


def bind(*options: str, destination: str = "/data", source: str = "/src", **mount: Any) -> dict[str, Any]:
    return {"destination": destination, "source": source, "options": ["bind", *options], **mount}


def outer(mount: dict[str, Any], **around: Any) -> list[str]:
    return Plan(operations=steps(mount, **around).outer).describe()


def inner(mount: dict[str, Any], **around: Any) -> list[str]:
    return Plan(operations=steps(mount, **around).inner).describe()


def attributes(*options: str, **around: Any) -> list[str]:
    """Return what a bind mount's clone gets after it has been opened and made a slave, until it is attached."""
    lines = outer(bind(*options), **around)[2:] + inner(bind(*options), **around)[:-1]
    return [line.removeprefix("set_attributes slot=mount0 ") for line in lines]


# -- bind mounts ---------------------------------------------------------------------------------------------------------


def test_a_bind_mount_is_a_clone_moved_into_place() -> None:
    assert outer(bind()) == ["open_tree slot=mount0 path=/src", SLAVE]
    assert inner(bind()) == ["mount_bind slot=mount0 destination=/data"]


def test_rbind_takes_what_is_mounted_below_along() -> None:
    assert outer({"destination": "/d", "source": "/s", "options": ["rbind"]})[0].endswith("path=/s recursive")


def test_the_type_bind_is_enough() -> None:
    assert outer({"destination": "/d", "source": "/s", "type": "bind"})[0] == "open_tree slot=mount0 path=/s"


def test_a_relative_source_starts_at_the_bundle() -> None:
    assert outer(bind(source="data"))[0] == "open_tree slot=mount0 path=/bundle/data"


def test_a_source_in_the_rootfs_shows_what_was_mounted_there_before() -> None:
    mount = bind("idmap", "ro", source="/bundle/rootfs/mnt")
    around = {"rootfs": "/bundle/rootfs", "uid_maps": MAPS, "gid_maps": MAPS}
    for user_namespace in (False, True):
        plan = steps(mount, user_namespace=user_namespace, **around)
        assert [operation.name for operation in plan.outer] == ["open_id_map"]
        assert [operation.name for operation in plan.inner] == [
            "open_tree",
            "set_attributes",
            "request_id_map",
            "set_attributes",
            "mount_bind",
        ]
        assert plan.inner[0].arguments["path"] == "/mnt"
        assert plan.inner[0].arguments["inside"]
    assert len(outer(bind(source="/bundle/rootfs-2"), rootfs="/bundle/rootfs")) == 2


@pytest.mark.parametrize(
    ("given", "cleaned"), [("data", "/data"), ("//data//x/", "/data/x"), ("/a/../../etc", "/etc"), ("./x", "/x")]
)
def test_destinations_are_cleaned_and_start_at_the_root(given: str, cleaned: str) -> None:
    assert inner(bind(destination=given)) == [f"mount_bind slot=mount0 destination={cleaned}"]


def test_without_options_a_bind_mount_keeps_its_source_s() -> None:
    assert attributes() == []


def test_with_any_option_a_bind_mount_has_exactly_the_listed_ones() -> None:
    assert attributes("ro") == ["set=MOUNT_ATTR_RDONLY clear=MOUNT_ATTR_NOSUID|MOUNT_ATTR_NODEV|MOUNT_ATTR_NOEXEC"]
    assert attributes("nosuid", "nodev", "noexec", "ro") == [
        "set=MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID|MOUNT_ATTR_NODEV|MOUNT_ATTR_NOEXEC"
    ]
    assert attributes("suid") == ["clear=MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID|MOUNT_ATTR_NODEV|MOUNT_ATTR_NOEXEC"]


def test_in_a_user_namespace_unmentioned_options_stay() -> None:
    assert attributes("ro", user_namespace=True) == ["set=MOUNT_ATTR_RDONLY"]
    assert attributes("suid", user_namespace=True) == ["clear=MOUNT_ATTR_NOSUID"]


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        (["noatime"], ["set=MOUNT_ATTR_NOATIME clear=MOUNT_ATTR__ATIME|MOUNT_ATTR_NODIRATIME"]),
        (["relatime"], ["clear=MOUNT_ATTR__ATIME|MOUNT_ATTR_NODIRATIME"]),
        (["strictatime"], ["set=MOUNT_ATTR_STRICTATIME clear=MOUNT_ATTR__ATIME|MOUNT_ATTR_NODIRATIME"]),
        (["nodiratime"], ["set=MOUNT_ATTR_NODIRATIME clear=MOUNT_ATTR__ATIME"]),
        (["noatime", "nodiratime"], ["set=MOUNT_ATTR_NOATIME|MOUNT_ATTR_NODIRATIME clear=MOUNT_ATTR__ATIME"]),
        (["atime"], ["clear=MOUNT_ATTR__ATIME"]),
        (["defaults"], []),
        (["nosymfollow"], ["set=MOUNT_ATTR_NOSYMFOLLOW"]),
        (["symfollow"], ["clear=MOUNT_ATTR_NOSYMFOLLOW"]),
        (["rro"], ["set=MOUNT_ATTR_RDONLY recursive"]),
        (["rnosuid", "rexec"], ["set=MOUNT_ATTR_NOSUID clear=MOUNT_ATTR_NOEXEC recursive"]),
        (["rnoatime"], ["set=MOUNT_ATTR_NOATIME clear=MOUNT_ATTR__ATIME recursive"]),
        (["rrelatime"], ["clear=MOUNT_ATTR__ATIME recursive"]),
        (["rnosymfollow"], ["set=MOUNT_ATTR_NOSYMFOLLOW recursive"]),
        (["private"], ["propagation=MS_PRIVATE"]),
        (["rshared"], ["propagation=MS_SHARED recursive"]),
        (["rslave", "shared"], ["propagation=MS_SLAVE recursive", "propagation=MS_SHARED"]),
        (["runbindable"], ["propagation=MS_UNBINDABLE recursive"]),
    ],
)
def test_options_of_a_bind_mount(options: list[str], changes: list[str]) -> None:
    # In a user namespace only what is asked for changes, which shows each option by itself.
    assert attributes(*options, user_namespace=True) == changes


@pytest.mark.parametrize("option", sorted(MOUNT_OPTIONS.keys() - {"idmap", "ridmap", "remount"}))
def test_masks_are_such_as_mount_setattr_takes(option: str) -> None:
    """The access time is set only where it is cleared whole, and nothing else is set and cleared at once."""
    for operation in steps(bind(option)).outer:
        set_, clear = operation.arguments.get("set", 0), operation.arguments.get("clear", 0)
        assert not set_ & 0x70 or clear & 0x70 == 0x70
        assert clear & 0x70 in (0, 0x70)
        assert not set_ & clear & ~0x70


def test_the_later_of_two_contrary_options_counts() -> None:
    assert attributes("ro", "rw", user_namespace=True) == ["clear=MOUNT_ATTR_RDONLY"]


def test_changes_come_in_runc_s_order() -> None:
    """Id map, own attributes, propagation, recursive attributes."""
    mount = bind("rro", "rshared", "nosuid", uidMappings=MAPPINGS, gidMappings=MAPPINGS)
    kinds = [line.split(maxsplit=2)[2].split("=")[0] for line in outer(mount)[1:]]
    assert kinds == ["propagation", "uid_maps", "set", "propagation", "set"]


def test_in_a_user_namespace_a_bind_is_shared_when_it_has_arrived() -> None:
    """On the way there the kernel makes a slave of what is shared."""
    mount = bind("ro", "rshared")
    assert [line.split()[2].split("=")[0] for line in outer(mount, user_namespace=True)[1:]] == ["propagation", "set"]
    assert inner(mount, user_namespace=True)[0] == "set_attributes slot=mount0 propagation=MS_SHARED recursive"


def test_links_can_be_refused_at_both_ends() -> None:
    assert outer(bind("src-nofollow"))[0] == "open_tree slot=mount0 path=/src nofollow"
    assert inner(bind("dest-nofollow")) == ["mount_bind slot=mount0 destination=/data nofollow"]


def test_an_id_mapped_mount_takes_its_own_maps_first() -> None:
    mount = bind("ridmap", uidMappings=MAPPINGS, gidMappings=MAPPINGS)
    assert outer(mount, user_namespace=True, uid_maps=MAPS, gid_maps=MAPS)[2] == (
        "id_map_mount slot=mount0 uid_maps=[[0,5000,10]] gid_maps=[[0,5000,10]] recursive"
    )


def test_an_id_mapped_mount_takes_the_user_namespace_s_maps_else() -> None:
    assert outer(bind("idmap"), user_namespace=True, uid_maps=MAPS, gid_maps=MAPS)[2] == (
        "id_map_mount slot=mount0 uid_maps=[[0,100000,1000]] gid_maps=[[0,100000,1000]]"
    )
    assert outer(bind("idmap"), user_namespace=True, user_path="/u")[2] == "id_map_mount slot=mount0 namespace=/u"


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        (bind("idmap"), r"^mounts\[0\].options: idmap needs mappings"),
        (bind(uidMappings=MAPPINGS), r"^mounts\[0\]: an id-mapped mount needs both"),
        ({"destination": "/t", "type": "tmpfs", "options": ["idmap"]}, "only supported for bind mounts"),
        ({"destination": "/t", "options": ["bind"]}, r"^mounts\[0\].source: missing"),
        ({"destination": "/t"}, r"^mounts\[0\].type: missing"),
        (bind(destination="/"), r"^mounts\[0\].destination: cannot mount over the container's root"),
        (bind(destination="/x/.."), "cannot mount over the container's root"),
    ],
)
def test_what_cannot_be_mounted_is_refused(mount: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        steps(mount)


# -- /proc and /sys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "destination", ["/proc", "/proc/self", "/proc/self/attr", "/proc/sys/kernel/hostname", "proc/net", "/x/../proc/1"]
)
@pytest.mark.parametrize(
    "mount",
    [
        bind(),
        {"type": "tmpfs"},
        {"type": "sysfs"},
        {"type": "cgroup"},
        {"type": "tmpfs", "options": ["remount"]},
        {"type": "overlay"},
    ],
)
def test_nothing_is_mounted_on_or_below_proc(mount: dict[str, Any], destination: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^mounts\[0\].destination: /proc.* because it is inside /proc"):
        steps({**mount, "destination": destination})


def test_procfs_below_proc_is_refused_too() -> None:
    with pytest.raises(InvalidArgument, match="inside /proc"):
        steps({"destination": "/proc/self", "type": "proc"})


@pytest.mark.parametrize("destination", sorted(ALLOWED_UNDER_PROC))
def test_what_lxcfs_provides_may_cover_procfs(destination: str) -> None:
    assert inner(bind(destination=destination)) == [f"mount_bind slot=mount0 destination={destination} on_proc"]


def test_the_host_s_procfs_may_be_bound_to_a_real_proc_directory() -> None:
    assert inner(bind(destination="/proc", source="/proc")) == ["mount_bind slot=mount0 destination=/proc nofollow"]


@pytest.mark.parametrize(("kind", "destination"), [("proc", "/proc"), ("sysfs", "/sys")])
def test_procfs_and_sysfs_want_a_real_directory(kind: str, destination: str) -> None:
    assert inner({"destination": destination, "type": kind, "source": kind}) == [
        f"mount_filesystem kind={kind} source={kind} destination={destination} nofollow"
    ]


# -- file systems ----------------------------------------------------------------------------------------------------------


def filesystem(kind: str, *options: str, **around: Any) -> str:
    (line,) = inner({"destination": "/m", "type": kind, "source": "dev", "options": list(options)}, **around)
    return line.removeprefix(f"mount_filesystem kind={kind} source=dev destination=/m").strip()


def test_unknown_options_are_the_file_system_s_own() -> None:
    assert filesystem("ext4", "data=journal", "nobarrier") == 'options=[["data","journal"],["nobarrier",null]]'


def test_one_option_may_hold_several_of_the_file_system_s() -> None:
    assert filesystem("ext4", "a=1,b") == 'options=[["a","1"],["b",null]]'


def test_flags_of_the_superblock_go_there_too() -> None:
    assert filesystem("ext4", "ro", "sync", "lazytime") == (
        'options=[["ro",null],["sync",null],["lazytime",null]] attributes=MOUNT_ATTR_RDONLY'
    )


def test_a_kernel_file_system_is_read_only_by_its_mount() -> None:
    assert filesystem("devpts", "ro") == "attributes=MOUNT_ATTR_RDONLY"


def test_recursive_options_and_propagation_of_a_new_file_system() -> None:
    assert filesystem("ext4", "rro", "shared") == "propagation=MS_SHARED recursive_set=MOUNT_ATTR_RDONLY"


def test_a_tmpfs_keeps_the_mode_of_what_it_hides_unless_told() -> None:
    assert filesystem("tmpfs", "size=1m") == 'options=[["size","1m"]] keep_mode'
    assert filesystem("tmpfs", "mode=700") == 'options=[["mode","700"]]'


def test_tmpcopyup_copies_what_the_tmpfs_hides() -> None:
    assert filesystem("tmpfs", "tmpcopyup") == "copy_up keep_mode"


def test_a_tmpfs_becomes_read_only_when_everything_in_it_is_made() -> None:
    made = steps({"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "nosuid"]})
    assert Plan(operations=made.inner).describe() == [
        "mount_filesystem kind=tmpfs source=tmpfs destination=/run attributes=MOUNT_ATTR_NOSUID keep_mode"
    ]
    assert Plan(operations=made.late).describe() == ["remount destination=/run set=MOUNT_ATTR_RDONLY"]


def test_long_values_go_through_mount2() -> None:
    layers = "lowerdir=" + ":".join(f"/layer{number}" for number in range(60))
    line = filesystem("overlay", layers, "upperdir=/u", "workdir=/w", "nosuid")
    assert line == f"attributes=MOUNT_ATTR_NOSUID legacy_flags=MS_NOSUID legacy_data={layers},upperdir=/u,workdir=/w"
    assert "legacy" not in filesystem("overlay", "lowerdir=" + "x" * 255)
    assert "legacy" in filesystem("overlay", "lowerdir=" + "x" * 256)


def test_more_data_than_a_page_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=r"^mounts\[0\].options: longer than the 4095 bytes"):
        filesystem("overlay", "lowerdir=" + "x" * 4096)


def test_iversion_goes_through_mount2() -> None:
    assert filesystem("ext4", "iversion") == "legacy_flags=MS_I_VERSION"


def test_remount_changes_what_is_there() -> None:
    mount = {"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "ro", "size=1m"]}
    assert inner(mount) == [
        "mount_filesystem kind=tmpfs source=tmpfs destination=/m legacy_flags=MS_RDONLY|MS_REMOUNT legacy_data=size=1m"
    ]


def test_owners_must_be_mapped_in_a_user_namespace() -> None:
    assert filesystem("devpts", "gid=5", user_namespace=True, gid_maps=MAPS) == 'options=[["gid","5"]]'
    with pytest.raises(InvalidArgument, match=r"^mounts\[0\].options: gid=1000 is not mapped in linux.gidMappings"):
        filesystem("devpts", "gid=1000", user_namespace=True, uid_maps=MAPS, gid_maps=MAPS)


def test_a_label_is_given_to_what_can_have_one() -> None:
    assert filesystem("tmpfs", "mode=755", label="a:b:c:s0,s1") == 'options=[["mode","755"],["context","a:b:c:s0,s1"]]'
    assert filesystem("proc", label="a:b") == "nofollow"


# -- cgroup ----------------------------------------------------------------------------------------------------------------

HIERARCHIES = (
    CgroupMount(version=1, name="cpu,cpuacct", source="/cg/cpu/x", options="cpu,cpuacct", links=("cpu", "cpuacct")),
    CgroupMount(version=1, name="systemd", source="/cg/systemd/x", options="none,name=systemd"),
)
UNIFIED = (CgroupMount(version=2, name="", source="/cg/x"),)
CGROUP = {"destination": "/cg", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "ro"]}


def test_cgroup_v1_is_a_tmpfs_with_a_bind_for_each_hierarchy() -> None:
    assert outer(CGROUP, cgroup_mounts=lambda: HIERARCHIES) == [
        "open_tree slot=mount0_0 path=/cg/cpu/x",
        "set_attributes slot=mount0_0 set=MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID propagation=MS_SLAVE",
        "open_tree slot=mount0_1 path=/cg/systemd/x",
        "set_attributes slot=mount0_1 set=MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID propagation=MS_SLAVE",
    ]
    assert inner(CGROUP, cgroup_mounts=lambda: HIERARCHIES) == [
        (
            'mount_filesystem kind=tmpfs source=tmpfs destination=/cg options=[["mode","755"]] '
            "attributes=MOUNT_ATTR_NOSUID|MOUNT_ATTR_NODEV|MOUNT_ATTR_NOEXEC"
        ),
        "mount_bind slot=mount0_0 destination=/cg/cpu,cpuacct",
        "make_link path=/cg/cpu target=cpu,cpuacct",
        "make_link path=/cg/cpuacct target=cpu,cpuacct",
        "mount_bind slot=mount0_1 destination=/cg/systemd",
        "remount destination=/cg set=MOUNT_ATTR_RDONLY",
    ]


def test_cgroup_v1_in_a_cgroup_namespace_is_mounted_anew() -> None:
    made = inner(CGROUP, cgroup_mounts=lambda: HIERARCHIES, cgroup_namespace=True)
    assert outer(CGROUP, cgroup_mounts=lambda: HIERARCHIES, cgroup_namespace=True) == []
    assert made[4] == (
        'mount_filesystem kind=cgroup source=cgroup destination=/cg/systemd options=[["none",null],["name","systemd"]] '
        "attributes=MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID|MOUNT_ATTR_NODEV|MOUNT_ATTR_NOEXEC"
    )


def test_a_writable_cgroup_v1_is_not_made_read_only() -> None:
    made = inner({**CGROUP, "options": []}, cgroup_mounts=lambda: HIERARCHIES)
    assert not any("RDONLY" in line for line in made)


def test_cgroup_v2_is_mounted_itself() -> None:
    assert inner(CGROUP, cgroup_mounts=lambda: UNIFIED) == [
        "mount_filesystem kind=cgroup2 source=cgroup destination=/cg attributes=MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID"
    ]


WHOLE = (CgroupMount(version=2, name="", source="/cg/x", whole="/cg"),)


def test_cgroup_v2_of_the_hosts_own_namespace_is_cloned_with_nothing_of_the_hosts_mount_but_the_file_system() -> None:
    assert inner(CGROUP, cgroup_mounts=lambda: WHOLE) == ["mount_bind slot=mount0 destination=/cg"]
    opened, changed = outer(CGROUP, cgroup_mounts=lambda: WHOLE)
    assert opened == "open_tree slot=mount0 path=/cg"  # not recursive: what the host has mounted below is not copied
    assert changed == (
        "set_attributes slot=mount0 set=MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID "
        "clear=MOUNT_ATTR_NODEV|MOUNT_ATTR_NOEXEC|MOUNT_ATTR__ATIME|MOUNT_ATTR_NODIRATIME|MOUNT_ATTR_NOSYMFOLLOW "
        "propagation=MS_PRIVATE"
    )


@pytest.mark.parametrize(
    ("mount", "around"),
    [
        ({}, {"cgroup_namespace": True}),
        ({}, {"cgroup_mounts": lambda: UNIFIED}),
        ({"options": ["nsdelegate"]}, {}),
    ],
    ids=["cgroup namespace", "the host has none to clone", "options of the file system"],
)
def test_cgroup_v2_is_mounted_anew_where_a_clone_would_not_be_the_same(
    mount: dict[str, Any], around: dict[str, Any]
) -> None:
    around = {"cgroup_mounts": lambda: WHOLE, **around}
    assert outer({**CGROUP, **mount}, **around) == []
    assert inner({**CGROUP, **mount}, **around)[0].startswith("mount_filesystem kind=cgroup2 ")


def test_cgroup_v2_is_bound_where_a_user_namespace_may_not_mount_it() -> None:
    assert inner(CGROUP, cgroup_mounts=lambda: UNIFIED, user_namespace=True) == [
        "mount_bind slot=mount0 destination=/cg"
    ]
    assert outer(CGROUP, cgroup_mounts=lambda: UNIFIED, user_namespace=True)[0] == "open_tree slot=mount0 path=/cg/x"
    assert outer(CGROUP, cgroup_mounts=lambda: UNIFIED, user_namespace=True, cgroup_namespace=True) == []
