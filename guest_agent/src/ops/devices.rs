//! Device nodes, links and directories of the container: always made by a descriptor of their directory, and never
//! through a symbolic link (CVE-2026-41579).

use crate::executor::Executor;
use crate::ops::paths::{self, Links, Make};
use crate::plan::Text;
use crate::report::{Context, Failure, Outcome};
use crate::sys::{self, Errno};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd};

/// The directory that a path lies in, made if missing, and the path's last component. Of devices and links in a row
/// that lie in the same one, only the first looks for it: nothing was mounted since.
fn directory_of<'a>(executor: &'a mut Executor, path: &str) -> Outcome<(BorrowedFd<'a>, CString)> {
    let (directory, name) = paths::split(path)?;
    let kept = executor.directory.take().filter(|kept| kept.0 == directory);
    let kept = match kept {
        Some(kept) => kept,
        None => {
            let root = executor.slots.get("root")?;
            let found =
                paths::resolve_or_make(root, &directory, Links::Refuse, Make::Directory, 0o755)?;
            (directory, found)
        }
    };
    Ok((executor.directory.insert(kept).1.as_fd(), name))
}

pub fn device_kind(kind: &Text, path: &str) -> Outcome<u32> {
    match kind.as_str() {
        "c" | "u" => Ok(libc::S_IFCHR),
        "b" => Ok(libc::S_IFBLK),
        "p" => Ok(libc::S_IFIFO),
        other => {
            let text = format!("unknown kind of device {other:?}");
            Err(Failure::new("mknodat", path, libc::EINVAL, text))
        }
    }
}

pub fn make_device(
    executor: &mut Executor,
    path: &Text,
    kind: &Text,
    (major, minor): (u32, u32),
    mode: u32,
    (uid, gid): (u32, u32),
) -> Outcome {
    let path = path.as_str();
    let kind = device_kind(kind, path)?;
    let (directory, name) = directory_of(executor, path)?;
    let device = match kind {
        libc::S_IFIFO => 0,
        _ => libc::makedev(major, minor),
    };
    match sys::mknodat(directory, &name, kind | (mode & 0o7777), device) {
        Ok(()) => sys::fchownat(directory, &name, uid, gid).at("fchownat", path),
        Err(Errno(libc::EEXIST)) => keep_device(directory, &name, kind, device, path),
        Err(errno) => Err(errno).at("mknodat", path),
    }
}

/// A node that is there already stays, if it is the one asked for.
fn keep_device(directory: BorrowedFd, name: &CStr, kind: u32, device: u64, path: &str) -> Outcome {
    let stat = sys::fstatat(directory, name).at("fstatat", path)?;
    if stat.st_mode & libc::S_IFMT == kind && (kind == libc::S_IFIFO || stat.st_rdev == device) {
        return Ok(());
    }
    Err(Failure::new(
        "mknodat",
        path,
        libc::EEXIST,
        "exists and is not the device asked for",
    ))
}

pub fn make_link(executor: &mut Executor, path: &Text, target: &Text, replace: bool) -> Outcome {
    let path = path.as_str();
    let (directory, name) = directory_of(executor, path)?;
    match sys::symlinkat(target.as_c(), directory, &name) {
        Err(Errno(libc::EEXIST)) if replace => {
            remove(directory, &name).at("unlinkat", path)?;
            sys::symlinkat(target.as_c(), directory, &name).at("symlinkat", path)
        }
        Ok(()) | Err(Errno(libc::EEXIST)) => Ok(()),
        Err(errno) => Err(errno).at("symlinkat", path),
    }
}

fn remove(directory: BorrowedFd, name: &CStr) -> sys::Result<()> {
    match sys::unlinkat(directory, name, 0) {
        Err(Errno(libc::EISDIR)) => sys::unlinkat(directory, name, libc::AT_REMOVEDIR),
        result => result,
    }
}

pub fn make_directory(executor: &Executor, path: &Text, mode: u32) -> Outcome {
    let root = executor.slots.get("root")?;
    let made = paths::resolve_or_make(root, path.as_str(), Links::Follow, Make::Directory, mode)?;
    let kind = sys::fstat(made.as_fd()).at("fstat", path.as_str())?.st_mode & libc::S_IFMT;
    if kind != libc::S_IFDIR {
        return Err(Errno(libc::ENOTDIR)).at("mkdirat", path.as_str());
    }
    Ok(())
}
