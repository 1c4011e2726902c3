//! The root file system: attached, and made the process's root.

use crate::executor::Executor;
use crate::ops::mounts::attributes;
use crate::plan::Text;
use crate::report::{Context, Failure, Outcome};
use crate::sys::{self, Errno};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd};

pub fn root_propagation(flags: u64) -> Outcome {
    sys::mount(None, c"/", None, flags, None).at("mount", "/")
}

/// Attach the rootfs at its own path in the mount namespace, where hooks of the host look for it until the root changes,
/// or over "/" where that path is none of this namespace or out of this user's reach. This process's own root stays
/// beneath it, so that paths of the host mean what they did, and pivot_root(2) finds a mount with a parent.
pub fn attach_root(executor: &mut Executor, slot: &Text, path: Option<&Text>) -> Outcome {
    let mount = executor.slots.take(slot.as_str()).ok_or_else(|| {
        let text = format!("no slot named {}", slot.as_str());
        Failure::new("slot", slot.as_str(), libc::EBADF, text)
    })?;
    // pivot_root(2) refuses a new root that is shared.
    let private = attributes(0, 0, libc::MS_PRIVATE);
    sys::mount_setattr(mount.as_fd(), false, &private).at("mount_setattr", slot.as_str())?;
    let directory = libc::O_PATH | libc::O_DIRECTORY;
    let place = match path.map(|path| sys::open(path.as_c(), directory)) {
        Some(Ok(place)) => place,
        _ => {
            executor.root_on_top = true;
            sys::open(c"/", directory).at("open", "/")?
        }
    };
    sys::move_mount(mount.as_fd(), place.as_fd()).at("move_mount", slot.as_str())?;
    executor.slots.set("root", mount);
    Ok(())
}

pub fn open_root(executor: &mut Executor, path: &Text) -> Outcome {
    let root =
        sys::open(path.as_c(), libc::O_PATH | libc::O_DIRECTORY).at("open", path.as_str())?;
    executor.slots.set("root", root);
    Ok(())
}

pub fn use_root(executor: &mut Executor) -> Outcome {
    let root = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY).at("open", "/")?;
    executor.slots.set("root", root);
    Ok(())
}

/// pivot_root(2) with the new root as the place for the old one, which then lies over it and is taken off.
pub fn pivot_root(executor: &Executor) -> Outcome {
    let old = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY).at("open", "/")?;
    sys::fchdir(executor.slots.get("root")?).at("fchdir", "/")?;
    sys::pivot_root(c".", c".").at("pivot_root", ".")?;
    sys::fchdir(old.as_fd()).at("fchdir", "old root")?;
    // Taking the old mounts off must not propagate to the host's.
    let slave = libc::MS_SLAVE | libc::MS_REC;
    sys::mount(None, c".", None, slave, None).at("mount", "old root")?;
    sys::umount_detach(c".").at("umount2", "old root")?;
    sys::chdir(c"/").at("chdir", "/")
}

/// Without pivot_root(2) the host's mounts stay beneath the root. Each procfs and sysfs of the host is taken away first: a
/// container with capabilities could find it again, and the kernel lets a user namespace mount a bare one where another
/// is fully visible (mount_too_revealing() in fs/namespace.c).
pub fn move_root(executor: &Executor) -> Outcome {
    let number = executor.slots.get("root")?.as_raw_fd();
    let information = read_text(&format!("/proc/self/fdinfo/{number}"))?;
    let table = read_text("/proc/self/mountinfo")?;
    for path in host_mounts(&table, mount_id(&information)).iter().rev() {
        hide_host_mount(path)?;
    }
    // Whoever breaks out of the chroot finds the rootfs at the top of the mount namespace again.
    if !executor.root_on_top {
        let top = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY).at("open", "/")?;
        sys::move_mount(executor.slots.get("root")?, top.as_fd()).at("move_mount", "/")?;
    }
    change_root(executor)
}

fn read_text(path: &str) -> Outcome<String> {
    let bytes = std::fs::read(path).map_err(|error| {
        Failure::new(
            "read",
            path,
            error.raw_os_error().unwrap_or(0),
            error.to_string(),
        )
    })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Return the mount's id from a descriptor's fdinfo: proc_pid_fdinfo(5).
fn mount_id(information: &str) -> &str {
    let line = information.lines().find(|line| line.starts_with("mnt_id:"));
    line.map_or("", |line| line["mnt_id:".len()..].trim())
}

/// Return where procfs and sysfs are mounted outside of the mount `root`, parents first: proc_pid_mountinfo(5).
fn host_mounts(table: &str, root: &str) -> Vec<CString> {
    let mut ours = vec![root];
    let mut found = Vec::new();
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let kind = line
            .split_once(" - ")
            .and_then(|(_, rest)| rest.split(' ').next());
        if fields.len() < 5 {
            continue;
        }
        if ours.contains(&fields[0]) || ours.contains(&fields[1]) {
            ours.push(fields[0]);
        } else if matches!(kind, Some("proc" | "sysfs")) {
            found.extend(CString::new(unescape(fields[4])));
        }
    }
    found
}

/// Undo mountinfo's octal escapes: of space, tab, newline and backslash.
fn unescape(text: &str) -> Vec<u8> {
    let escapes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let replaced = escapes
        .iter()
        .fold(text.to_string(), |text, (from, to)| text.replace(from, to));
    replaced.into_bytes()
}

fn hide_host_mount(path: &CStr) -> Outcome {
    const MOST_LAYERS: usize = 64;
    let name = path.to_str().unwrap_or("");
    for _ in 0..MOST_LAYERS {
        let slave = libc::MS_SLAVE | libc::MS_REC;
        let detached =
            sys::mount(None, path, None, slave, None).and_then(|()| sys::umount_detach(path));
        match detached {
            Ok(()) => {}
            // No mount, or none any more.
            Err(Errno(libc::EINVAL | libc::ENOENT | libc::ENOTDIR)) => return Ok(()),
            // A mount that a user namespace may not take off is covered instead.
            Err(Errno(libc::EPERM)) => {
                return sys::mount(Some(c"tmpfs"), path, Some(c"tmpfs"), 0, None).at("mount", name)
            }
            Err(errno) => return Err(errno).at("umount2", name),
        }
    }
    Err(Errno(libc::EBUSY)).at("umount2", name)
}

pub fn change_root(executor: &Executor) -> Outcome {
    sys::fchdir(executor.slots.get("root")?).at("fchdir", "/")?;
    sys::chroot(c".").at("chroot", ".")?;
    sys::chdir(c"/").at("chdir", "/")
}
