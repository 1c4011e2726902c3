"""Which mounts of a spec the host shares, and what the guest makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from pysandbox.errors import InvalidArgument
from pysandbox.oci import mountoptions as mo
from pysandbox_microvm import tree

INERT = mo.MOUNT_ATTR_NODEV | mo.MOUNT_ATTR_NOSUID | mo.MOUNT_ATTR_NOSYMFOLLOW
STORAGE = "/run/storage/c"


def spec(*mounts: dict[str, Any], **more: Any) -> Any:
    return {"ociVersion": "1.2.0", "root": {"path": "rootfs"}, "mounts": list(mounts), **more}


def bind(source: str, *options: str, **more: Any) -> dict[str, Any]:
    return {"destination": "/d", "type": "bind", "source": source, "options": ["bind", *options], **more}


def names(planned: tree.Tree) -> list[str]:
    return [part.name for part in planned.parts]


def of_slot(planned: tree.Tree, slot: str) -> list[Any]:
    return [each for each in (*planned.opened, *planned.attached) if each.arguments.get("slot") == slot]


def guest(document: Any, **more: Any) -> list[Any]:
    return tree.guest_mounts(document, "/b", STORAGE, **more)


def test_the_rootfs_is_shared_with_all_that_is_mounted_in_it() -> None:
    planned = tree.host_tree(spec(), "/b")
    assert names(planned) == ["rootfs"]
    assert of_slot(planned, "rootfs")[0].arguments == {
        "slot": "rootfs", "path": "/b/rootfs", "recursive": True, "follow": True, "inside": False,
    }  # fmt: skip


def test_a_root_that_is_a_disk_is_no_part_of_the_tree() -> None:
    assert names(tree.host_tree(spec(), "/b", block_root=True)) == []


def test_a_read_only_root_is_writable_until_its_mount_points_are_made() -> None:
    planned = tree.host_tree(spec(root={"path": "rootfs", "readonly": True}), "/b")
    assert planned.read_only_root
    assert all(not each.arguments.get("set", 0) & mo.MOUNT_ATTR_RDONLY for each in planned.opened)


@pytest.mark.parametrize(
    "kind", ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "hugetlbfs", "ramfs"]
)
def test_what_a_kernel_makes_out_of_nothing_is_made_in_the_guest(kind: str) -> None:
    mount = {"destination": "/d", "type": kind, "source": kind, "options": ["nosuid"]}
    assert names(tree.host_tree(spec(mount), "/b")) == ["rootfs"]
    assert guest(spec(mount)) == [mount]


def test_a_bind_mount_is_shared_under_its_number_in_the_spec() -> None:
    proc = {"destination": "/proc", "type": "proc", "source": "proc"}
    document = spec(proc, bind("/data"), bind("relative"))
    planned = tree.host_tree(document, "/b")
    assert names(planned) == ["rootfs", "mounts/1", "mounts/2"]
    assert [of_slot(planned, f"mount{n}")[0].arguments["path"] for n in (1, 2)] == ["/data", "/b/relative"]
    assert [mount.get("source") for mount in guest(document)] == ["proc", f"{STORAGE}/mounts/1", f"{STORAGE}/mounts/2"]


def test_every_mount_of_the_tree_is_inert_before_it_is_attached() -> None:
    """No device, no set-id bit and no link of what a guest makes means anything to the host."""
    planned = tree.host_tree(spec(bind("/data", "rw", "dev", "suid", "rdev", "rsuid", "symfollow")), "/b")
    for slot in ("rootfs", "mount0"):
        steps = of_slot(planned, slot)
        last = max(i for i, each in enumerate(steps) if each.name == "mount_bind")
        assert steps[last - 1].name == "set_attributes"
        assert steps[last - 1].arguments["set"] == INERT
        assert steps[last - 1].arguments["recursive"]


def test_a_read_only_bind_mount_is_read_only_on_the_host_and_in_the_guest() -> None:
    document = spec(bind("/data", "ro"))
    set_on_host = [each.arguments.get("set", 0) for each in of_slot(tree.host_tree(document, "/b"), "mount0")]
    assert any(mask & mo.MOUNT_ATTR_RDONLY for mask in set_on_host)
    assert "ro" in guest(document)[0]["options"]


def test_recursive_attributes_are_set_on_the_host() -> None:
    steps = of_slot(tree.host_tree(spec(bind("/data", "rbind", "rro")), "/b"), "mount0")
    assert steps[0].arguments["recursive"]
    assert any(each.arguments.get("set") == mo.MOUNT_ATTR_RDONLY and each.arguments["recursive"] for each in steps)


def test_an_id_map_is_the_hosts_work_alone() -> None:
    maps = [{"containerID": 0, "hostID": 1000, "size": 10}]
    document = spec(bind("/data", "idmap", uidMappings=maps, gidMappings=maps))
    steps = of_slot(tree.host_tree(document, "/b"), "mount0")
    assert [each.arguments["uid_maps"] for each in steps if each.name == "id_map_mount"] == [[(0, 1000, 10)]]
    mount = guest(document)[0]
    assert "uidMappings" not in mount
    assert "idmap" not in mount["options"]


def test_an_id_map_of_a_user_namespace_that_is_joined_is_refused() -> None:
    linux = {"namespaces": [{"type": "user", "path": "/proc/1/ns/user"}]}
    with pytest.raises(InvalidArgument, match=r"mounts\[0\]\.options: idmap needs mappings of its own"):
        tree.host_tree(spec(bind("/data", "idmap"), linux=linux), "/b")


def test_a_source_in_the_rootfs_is_one_in_the_guest() -> None:
    document = spec(bind("rootfs/etc"), bind("/b/rootfs"), bind("/b/rootfs-other"))
    assert names(tree.host_tree(document, "/b")) == ["rootfs", "mounts/2"]
    assert [mount["source"] for mount in guest(document)] == [
        f"{STORAGE}/rootfs/etc", f"{STORAGE}/rootfs", f"{STORAGE}/mounts/2",
    ]  # fmt: skip


def test_a_source_in_a_root_that_is_a_disk_is_where_the_disk_is() -> None:
    assert guest(spec(bind("rootfs/etc")), root="/run/storage/disk")[0]["source"] == "/run/storage/disk/etc"


@pytest.mark.parametrize(
    "source", ["/proc", "/proc/cpuinfo", "/sys/fs/cgroup", "/dev", "/dev/fuse", "/x/../proc/1/root"]
)
def test_what_is_the_machine_itself_is_the_guests_own(source: str) -> None:
    assert names(tree.host_tree(spec(bind(source)), "/b")) == ["rootfs"]


@pytest.mark.parametrize("source", ["/dev/shm", "/dev/shm/x", "/process", "/system", "/proc/../data"])
def test_what_only_looks_like_it_is_shared(source: str) -> None:
    assert names(tree.host_tree(spec(bind(source)), "/b")) == ["rootfs", "mounts/0"]


def test_a_file_system_of_the_hosts_is_mounted_there_and_shared() -> None:
    options = ["lowerdir=/a:/b", "ro"]
    document = spec({"destination": "/d", "type": "overlay", "source": "overlay", "options": options})
    planned = tree.host_tree(document, "/b")
    mounted = next(each for each in planned.attached if each.name == "mount_filesystem")
    assert mounted.arguments["destination"] == "/share/mounts/0"
    inert = next(each for each in planned.attached if each.name == "remount")
    assert inert.arguments["set"] == INERT
    assert guest(document)[0] == {
        "destination": "/d", "type": "bind", "source": f"{STORAGE}/mounts/0", "options": ["rbind", "ro"],
    }  # fmt: skip


def test_an_image_is_a_disk_of_the_guest() -> None:
    document = spec({"destination": "/d", "type": "ext4", "source": "i.img", "options": ["loop", "noatime"]})
    assert names(tree.host_tree(document, "/b")) == ["rootfs"]
    assert tree.images(document, "/b") == [tree.Image(index=0, source="/b/i.img", kind="ext4", read_only=False)]
    assert guest(document, images={0: "/run/storage/i"})[0] == {
        "destination": "/d", "type": "bind", "source": "/run/storage/i", "options": ["rbind", "noatime"],
    }  # fmt: skip


def test_a_remount_stays_one() -> None:
    mount = {"destination": "/d", "options": ["remount", "ro"]}
    assert guest(spec(mount)) == [mount]


def test_a_refusal_names_the_mount_of_the_spec() -> None:
    with pytest.raises(InvalidArgument, match=r"^mounts\[1\]\.source: missing"):
        tree.host_tree(spec(bind("/data"), {"destination": "/d", "type": "bind", "source": ""}), "/b")


def test_the_spec_itself_is_not_changed() -> None:
    document = spec(bind("/data", "ro"))
    guest(document)
    assert document == spec(bind("/data", "ro"))


def test_a_sysfs_of_a_user_namespace_is_the_guests_own() -> None:
    # The kernel mounts one only for the owner of the network namespace, which is the guest itself.
    mount = {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "ro"]}

    (own,) = guest(spec(mount))
    (shared,) = guest(spec(mount, linux={"namespaces": [{"type": "mount"}, {"type": "user"}]}))

    assert own == mount
    assert shared == {"destination": "/sys", "type": "bind", "source": "/sys", "options": ["bind", "nosuid", "ro"]}
