//! Device nodes: made in the probe's own directory, opened without waiting, and removed. A device is only opened: nothing
//! is read, written or asked of it.

use crate::fact::{cut, errno_of, facts, outcome, unable, Facts};
use crate::place::{c_string, Place};
use crate::Probe;
use pysandbox_guest::sys;
use serde_json::{json, Value};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Name, type, major and minor number (the kernel's admin-guide/devices.txt).
const DEVICES: [(&str, u32, u32, u32); 18] = [
    ("disk_sda", libc::S_IFBLK, 8, 0),
    ("disk_vda", libc::S_IFBLK, 254, 0),
    ("disk_vda_old", libc::S_IFBLK, 253, 0),
    ("disk_nvme", libc::S_IFBLK, 259, 0),
    ("disk_loop", libc::S_IFBLK, 7, 0),
    ("mem", libc::S_IFCHR, 1, 1),
    ("port", libc::S_IFCHR, 1, 4),
    ("kmsg", libc::S_IFCHR, 1, 11),
    ("kvm", libc::S_IFCHR, 10, 232),
    ("fuse", libc::S_IFCHR, 10, 229),
    ("cuse", libc::S_IFCHR, 10, 203),
    ("loop_control", libc::S_IFCHR, 10, 237),
    ("vhost_vsock", libc::S_IFCHR, 10, 241),
    ("vhost_net", libc::S_IFCHR, 10, 238),
    ("tun", libc::S_IFCHR, 10, 200),
    ("vfio", libc::S_IFCHR, 10, 196),
    ("uinput", libc::S_IFCHR, 10, 223),
    ("btrfs_control", libc::S_IFCHR, 10, 234),
];
/// What every container has in /dev: the specification's, terminals, and standard streams.
const KNOWN: [(u64, Option<u64>); 7] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, None),
    (136, None),
];
const MANY: usize = 40;

pub fn probes() -> Vec<Probe> {
    let mut probes: Vec<Probe> = DEVICES
        .into_iter()
        .map(|(name, kind, major, minor)| {
            let letter = if kind == libc::S_IFBLK { 'b' } else { 'c' };
            let how = format!(
                "mknod {letter} {major}:{minor} in a directory of its own, open it for reading"
            );
            let device = libc::makedev(major, minor);
            Probe::new(format!("device.{name}"), how, move |place| {
                node(place, kind, device)
            })
        })
        .collect();
    probes.push(Probe::new(
        "devices.listed",
        "device nodes in /dev beyond those of every container",
        |_| listed(),
    ));
    probes
}

fn node(place: &Place, kind: u32, device: u64) -> Facts {
    let directory = match place.open() {
        Ok(directory) => directory,
        Err(errno) => return unable(&format!("no directory for the node: {}", errno.text())),
    };
    let name = c_string(&format!(".pysandbox-probe-{}", sys::getpid())).unwrap_or_default();
    if let Err(sys::Errno(errno)) = sys::mknodat(directory.as_fd(), &name, kind | 0o600, device) {
        return facts([("mknod", json!(errno))]);
    }
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
    let opened = sys::openat(directory.as_fd(), &name, flags, 0);
    let _ = sys::unlinkat(directory.as_fd(), &name, 0);
    outcome(opened)
}

fn listed() -> Facts {
    let entries = match std::fs::read_dir("/dev") {
        Ok(entries) => entries,
        Err(error) => return outcome::<()>(Err(errno_of(&error))),
    };
    let found: Vec<Value> = entries
        .flatten()
        .take(2000)
        .filter_map(|entry| {
            let status = entry.metadata().ok()?;
            let device =
                status.file_type().is_char_device() || status.file_type().is_block_device();
            let (major, minor) = numbers(status.rdev());
            let known = status.file_type().is_char_device()
                && KNOWN
                    .iter()
                    .any(|&(one, other)| one == major && other.is_none_or(|other| other == minor));
            let name = entry.file_name();
            (device && !known)
                .then(|| json!(cut(&format!("{} {major}:{minor}", name.to_string_lossy()))))
        })
        .take(MANY)
        .collect();
    facts([("found", json!(found))])
}

fn numbers(device: u64) -> (u64, u64) {
    (libc::major(device).into(), libc::minor(device).into())
}
