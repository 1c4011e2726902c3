//! Known ways out of a root directory, and a file of the host's that none of them may lead to.

use crate::fact::{facts, outcome, unable, Facts};
use crate::place::{c_string, Place};
use crate::Probe;
use pysandbox_guest::sys::{self, Errno};
use serde_json::json;
use std::os::fd::AsFd;

pub fn probes() -> Vec<Probe> {
    vec![
        Probe::new(
            "escape.dotdot",
            "open ../ 64 times up from the working directory, compare with /",
            |_| compare(&format!("/proc/self/cwd/{}", "../".repeat(64))),
        ),
        Probe::new(
            "escape.proc_root",
            "open /proc/1/root, compare with /",
            |_| compare("/proc/1/root/"),
        ),
        Probe::new(
            "escape.chroot",
            "chroot into a directory of its own with / held open, go up from there, compare with /",
            chroot,
        ),
        Probe::new(
            "escape.nsenter",
            "setns to /proc/1/ns/mnt, where that is another's",
            |_| nsenter(),
        ),
        Probe::new(
            "escape.canary",
            "open a file of the host's by its path from /, /proc/1/root, /proc/self/cwd and /proc/PID/root",
            canary,
        ),
    ]
}

/// done: it is another directory than our root.
fn compare(path: &str) -> Facts {
    let path = c_string(path).unwrap_or_default();
    match (sys::stat(&path), sys::stat(c"/")) {
        (Ok(there), Ok(root)) if same(&there, &root) => facts([("same", json!(true))]),
        (Ok(_), Ok(_)) => facts([("done", json!(true))]),
        (Err(errno), _) | (_, Err(errno)) => outcome::<()>(Err(errno)),
    }
}

fn same(one: &libc::stat, other: &libc::stat) -> bool {
    (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
}

/// chroot(2) does not change the working directory: above the new root there is no end but that of the mount tree.
fn chroot(place: &Place) -> Facts {
    let walk = |directory: &str| -> sys::Result<bool> {
        let root = sys::stat(c"/")?;
        let held = sys::open(c"/", libc::O_RDONLY | libc::O_DIRECTORY)?;
        sys::chroot(&c_string(directory).unwrap_or_default())?;
        sys::fchdir(held.as_fd())?;
        for _ in 0..64 {
            sys::chdir(c"..")?;
        }
        let reached = sys::stat(c".")?;
        sys::chroot(c".")?;
        Ok(same(&root, &reached))
    };
    let tried = place.with_directory(|directory| {
        // In a process of its own: this one has to remove the directory.
        crate::child::observe(2_000, || match walk(directory) {
            Ok(true) => facts([("same", json!(true))]),
            Ok(false) => facts([("done", json!(true))]),
            Err(errno) => outcome::<()>(Err(errno)),
        })
    });
    tried.unwrap_or_else(|errno| unable(&format!("no directory of its own: {}", errno.text())))
}

fn nsenter() -> Facts {
    let namespace = match sys::open(c"/proc/1/ns/mnt", libc::O_RDONLY) {
        Ok(namespace) => namespace,
        Err(errno) => return outcome::<()>(Err(errno)),
    };
    let own = sys::stat(c"/proc/self/ns/mnt");
    match (sys::fstat(namespace.as_fd()), own) {
        (Ok(theirs), Ok(ours)) if same(&theirs, &ours) => facts([("same", json!(true))]),
        _ => outcome(sys::setns(namespace.as_fd(), libc::CLONE_NEWNS)),
    }
}

fn canary(place: &Place) -> Facts {
    if place.canary.is_empty() {
        return unable("the host named no file");
    }
    let up = format!("/proc/self/cwd/{}", "../".repeat(64));
    let parent = format!("/proc/{}/root", std::os::unix::process::parent_id());
    let mut last = outcome::<()>(Err(Errno(libc::ENOENT)));
    for from in ["", "/proc/1/root", "/proc/self/root", &parent, &up] {
        let found = crate::files::open(&format!("{from}{}", place.canary), libc::O_RDONLY);
        if found.contains_key("done") {
            return facts([("done", json!(true)), ("from", json!(from))]);
        }
        last = found;
    }
    last
}
