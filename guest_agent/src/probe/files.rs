//! Files of /proc and /sys: settings that must not be open for writing, and what tells of the host.

use crate::fact::{errno_of, facts, outcome, Facts};
use crate::place::c_string;
use crate::Probe;
use pysandbox_guest::sys;
use serde_json::json;
use std::os::fd::AsFd;

/// Settings: opened for writing, and nothing is written.
const SETTINGS: [(&str, &str); 20] = [
    ("core_pattern", "/proc/sys/kernel/core_pattern"),
    ("modprobe", "/proc/sys/kernel/modprobe"),
    ("panic_on_oom", "/proc/sys/vm/panic_on_oom"),
    ("overcommit_memory", "/proc/sys/vm/overcommit_memory"),
    ("mmap_min_addr", "/proc/sys/vm/mmap_min_addr"),
    ("sysrq", "/proc/sys/kernel/sysrq"),
    ("panic", "/proc/sys/kernel/panic"),
    ("randomize_va_space", "/proc/sys/kernel/randomize_va_space"),
    ("kptr_restrict", "/proc/sys/kernel/kptr_restrict"),
    ("pid_max", "/proc/sys/kernel/pid_max"),
    ("file_max", "/proc/sys/fs/file-max"),
    ("suid_dumpable", "/proc/sys/fs/suid_dumpable"),
    ("binfmt_register", "/proc/sys/fs/binfmt_misc/register"),
    ("sysrq_trigger", "/proc/sysrq-trigger"),
    ("irq_affinity", "/proc/irq/default_smp_affinity"),
    ("uevent_helper", "/sys/kernel/uevent_helper"),
    ("ksm_run", "/sys/kernel/mm/ksm/run"),
    ("power_state", "/sys/power/state"),
    (
        "transparent_hugepage",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ),
    ("module_parameter", "/sys/module/printk/parameters/time"),
];

/// What tells of the host: opened for reading, and 64 bytes of a file or the names in a directory are read.
const TELLING: [(&str, &str); 24] = [
    ("kcore", "/proc/kcore"),
    ("kallsyms", "/proc/kallsyms"),
    ("config_gz", "/proc/config.gz"),
    ("interrupts", "/proc/interrupts"),
    ("softirqs", "/proc/softirqs"),
    ("timer_list", "/proc/timer_list"),
    ("keys", "/proc/keys"),
    ("key_users", "/proc/key-users"),
    ("iomem", "/proc/iomem"),
    ("modules", "/proc/modules"),
    ("slabinfo", "/proc/slabinfo"),
    ("vmallocinfo", "/proc/vmallocinfo"),
    ("pagetypeinfo", "/proc/pagetypeinfo"),
    ("diskstats", "/proc/diskstats"),
    ("sched_debug", "/proc/sched_debug"),
    ("latency_stats", "/proc/latency_stats"),
    ("acpi", "/proc/acpi"),
    ("scsi", "/proc/scsi"),
    ("firmware", "/sys/firmware"),
    ("powercap", "/sys/devices/virtual/powercap"),
    (
        "thermal_throttle",
        "/sys/devices/system/cpu/cpu0/thermal_throttle",
    ),
    ("block_devices", "/sys/block"),
    ("debugfs", "/sys/kernel/debug"),
    ("securityfs", "/sys/kernel/security"),
];

/// Files that are opened and not read: a read would take messages away, or could stop a machine.
const OPENED: [(&str, &str); 4] = [
    ("dev_mem", "/dev/mem"),
    ("proc_kmsg", "/proc/kmsg"),
    ("dev_kmsg", "/dev/kmsg"),
    ("tracing", "/sys/kernel/tracing/trace"),
];

pub fn probes() -> Vec<Probe> {
    let settings = SETTINGS.into_iter().map(|(name, path)| {
        let how = format!("open {path} for writing, write nothing");
        Probe::new(format!("setting.{name}"), how, move |_| {
            open(path, libc::O_WRONLY)
        })
    });
    let telling = TELLING.into_iter().map(|(name, path)| {
        let how = format!("read the beginning of {path}");
        Probe::new(format!("file.{name}"), how, move |_| peek(path))
    });
    let opened = OPENED.into_iter().map(|(name, path)| {
        let how = format!("open {path} for reading, read nothing");
        Probe::new(format!("file.{name}"), how, move |_| {
            open(path, libc::O_RDONLY)
        })
    });
    let more = [
        Probe::new(
            "cgroup.release_agent",
            "open /sys/fs/cgroup/*/release_agent for writing, write nothing",
            |_| any("release_agent"),
        ),
        Probe::new(
            "cgroup.procs",
            "open /sys/fs/cgroup/cgroup.procs and /sys/fs/cgroup/*/cgroup.procs for writing, write nothing",
            |_| any("cgroup.procs"),
        ),
        Probe::new(
            "escape.self_exe",
            "open /proc/self/exe and /proc/1/exe for writing, write nothing",
            |_| first(["/proc/self/exe", "/proc/1/exe"].into_iter().map(String::from)),
        ),
    ];
    settings.chain(telling).chain(opened).chain(more).collect()
}

/// Open a file without waiting for anybody.
pub fn open(path: &str, flags: i32) -> Facts {
    let flags = flags | libc::O_NONBLOCK | libc::O_NOCTTY;
    match c_string(path) {
        Ok(path) => outcome(sys::open(&path, flags)),
        Err(_) => outcome::<()>(Err(sys::Errno(libc::EINVAL))),
    }
}

/// How many bytes of a file's first 64, or how many names of a directory, can be read.
fn peek(path: &str) -> Facts {
    let Ok(name) = c_string(path) else {
        return outcome::<()>(Err(sys::Errno(libc::EINVAL)));
    };
    let file = match sys::open(&name, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY) {
        Ok(file) => file,
        Err(errno) => return outcome::<()>(Err(errno)),
    };
    match sys::read_at_most(file.as_fd(), 64) {
        Ok(data) => facts([("bytes", json!(data.len()))]),
        Err(sys::Errno(libc::EISDIR)) => match std::fs::read_dir(path) {
            Ok(entries) => facts([("names", json!(entries.take(1000).count()))]),
            Err(error) => outcome::<()>(Err(errno_of(&error))),
        },
        Err(errno) => outcome::<()>(Err(errno)),
    }
}

/// Try a file of that name in /sys/fs/cgroup and in each hierarchy there.
fn any(name: &str) -> Facts {
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
    let paths = hierarchies
        .flatten()
        .take(64)
        .map(|entry| format!("{}/{name}", entry.path().display()));
    first(std::iter::once(format!("/sys/fs/cgroup/{name}")).chain(paths))
}

/// The first of several files that can be opened for writing, or why the last one that is there cannot.
fn first(paths: impl Iterator<Item = String>) -> Facts {
    let mut seen = outcome::<()>(Err(sys::Errno(libc::ENOENT)));
    for path in paths {
        let found = open(&path, libc::O_WRONLY);
        if found.contains_key("done") {
            return facts([("done", json!(true)), ("path", json!(path))]);
        }
        if found.get("errno") != Some(&json!(libc::ENOENT)) {
            seen = found;
        }
    }
    seen
}
