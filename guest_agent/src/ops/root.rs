//! The root file system: attached, and made the process's root.

use crate::executor::Executor;
use crate::ops::mounts::attributes;
use crate::plan::Text;
use crate::report::{Context, Failure, Outcome};
use crate::sys::{self, Errno};
use std::ffi::CStr;
use std::os::fd::AsFd;

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

/// Without pivot_root(2) the host's mounts stay beneath the root: /proc and /sys of the host, which a container with
/// capabilities could find again, are taken away first.
pub fn move_root(executor: &Executor) -> Outcome {
    for path in [c"/proc", c"/sys"] {
        hide_host_mount(path)?;
    }
    // Whoever breaks out of the chroot finds the rootfs at the top of the mount namespace again.
    if !executor.root_on_top {
        let top = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY).at("open", "/")?;
        sys::move_mount(executor.slots.get("root")?, top.as_fd()).at("move_mount", "/")?;
    }
    change_root(executor)
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
            Err(Errno(libc::EINVAL)) => return Ok(()),
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
