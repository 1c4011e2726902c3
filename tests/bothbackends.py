"""Which tests of the namespaces backend run on the microvm backend too, and where that does not do the same, and why.

An exception is expected to fail: one that begins to hold has to be struck off the list.
"""

from __future__ import annotations

#: Files whose `pysandbox` is each backend in turn.
FILES = frozenset(
    {
        "test_program.py", "test_mounts.py", "test_user_namespace.py", "test_cgroup_limits.py",
    }
)  # fmt: skip

_NO_MOUNT_NAMESPACE = "a container without a mount namespace would mount in the guest's own, and is refused"
_GUESTS_LIMIT = "the limit is the guest's; the host's cgroup is that of the whole machine, with what that takes added"
_OF_THE_HOST = "the test looks at the container's init on the host, where the sandbox process stands for it"

#: Test (with parameters: only with those) → why a machine does not do the same.
EXCEPTIONS = {
    "test_a_deadline_beside_a_set_of_cpus_is_told_in_runcs_words": "the set is of the host's cpus: the guest has no cpuset that a deadline could contradict",
    "test_a_source_in_the_rootfs_shows_the_mounts_made_before_it[microvm--idmap]": "the guest's virtiofs cannot be id-mapped; what lies outside the rootfs is id-mapped on the host",
    "test_a_source_in_the_rootfs_shows_the_mounts_made_before_it[microvm-userns-idmap]": "the guest's virtiofs cannot be id-mapped; what lies outside the rootfs is id-mapped on the host",
    "test_mounts_of_the_hosts_namespace_go_with_the_container": _NO_MOUNT_NAMESPACE,
    "test_a_program_without_a_mount_namespace_sees_its_mounts": _NO_MOUNT_NAMESPACE,
    "test_a_mount_that_was_at_the_rootfs_before_stays": _NO_MOUNT_NAMESPACE,
    "test_a_mount_that_somebody_made_there_later_stays": _NO_MOUNT_NAMESPACE,
    "test_a_create_that_was_killed_leaves_no_mount_once_it_is_deleted": _NO_MOUNT_NAMESPACE,
    "test_the_hosts_root_is_mounted_on_by_nobody": "refused as well, for the missing mount namespace",
    "test_cgroup2_without_a_namespace_is_the_hosts_own_and_looks_like_a_new_one": "the cgroups that a container sees are the guest's",
    "test_root_of_the_container_is_nobody_on_the_host": _OF_THE_HOST,
    "test_init_and_exec_are_in_the_containers_cgroups": "the cgroups that a container sees are the guest's",
    "test_the_kernel_has_the_limit_that_the_spec_asks_for[microvm-memory]": _GUESTS_LIMIT,
    "test_the_kernel_has_the_limit_that_the_spec_asks_for[microvm-pids]": _GUESTS_LIMIT,
    "test_update_changes_what_is_given_and_leaves_the_rest": _GUESTS_LIMIT,
}  # fmt: skip
