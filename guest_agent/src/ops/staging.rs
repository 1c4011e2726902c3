//! Mounts of the host on their way into a user namespace, and how they are locked on that way.
//!
//! A detached copy that is moved into a mount namespace of another user namespace keeps its flags, but root of that one
//! may clear them (read-only, nosuid, nodev) and take apart what lies over one another. The kernel locks both only where
//! it copies a whole mount namespace for another user namespace (mount_namespaces(7), "Restrictions on mount
//! namespaces"). So the copies are attached in a mount namespace of the host's, which is then copied; the working
//! directory is the way to the locked ones.

use crate::executor::Executor;
use crate::ops::mounts::{kind_of, private_tmpfs};
use crate::ops::paths::make_one;
use crate::plan::Text;
use crate::report::{Context, Outcome};
use crate::sys;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

/// Attach every tree that was opened, in a new mount namespace: in a tmpfs over `path`, where nobody looks until the
/// rootfs comes there.
pub fn stage_mounts(executor: &mut Executor, path: &Text) -> Outcome {
    sys::unshare(libc::CLONE_NEWNS).at("unshare", "mount")?;
    let slave = libc::MS_SLAVE | libc::MS_REC;
    sys::mount(None, c"/", None, slave, None).at("mount", "/")?;
    let stage = attach_stage(path)?;
    for slot in executor.trees.clone() {
        let Some(tree) = executor.slots.take(&slot) else {
            continue;
        };
        let kind = kind_of(tree.as_fd()).at("fstat", &slot)?;
        let place = make_one(stage.as_fd(), &name_of(&slot), kind, 0o755).at("mkdirat", &slot)?;
        sys::move_mount(tree.as_fd(), place.as_fd()).at("move_mount", &slot)?;
    }
    sys::fchdir(stage.as_fd()).at("fchdir", "stage")
}

fn attach_stage(path: &Text) -> Outcome<OwnedFd> {
    let stage = private_tmpfs().at("fsmount", "tmpfs")?;
    let place = sys::open(path.as_c(), libc::O_PATH | libc::O_DIRECTORY);
    let place = place.at("open", path.as_str())?;
    sys::move_mount(stage.as_fd(), place.as_fd()).at("move_mount", path.as_str())?;
    Ok(stage)
}

/// Detach copies of what `stage_mounts` attached, now that the mount namespace is one of the user namespace's.
pub fn take_mounts(executor: &mut Executor) -> Outcome {
    let stage = sys::open(c".", libc::O_PATH | libc::O_DIRECTORY).at("open", "stage")?;
    let flags = sys::OPEN_TREE_CLONE | sys::AT_RECURSIVE | sys::AT_SYMLINK_NOFOLLOW;
    for slot in std::mem::take(&mut executor.trees) {
        let tree = sys::open_tree(stage.as_fd(), &name_of(&slot), flags).at("open_tree", &slot)?;
        executor.slots.set(&slot, tree);
    }
    sys::chdir(c"/").at("chdir", "/")
}

fn name_of(slot: &str) -> CString {
    // A slot's name is a string of the plan, or of the command line, which cannot hold a NUL.
    CString::new(slot).unwrap_or_default()
}
