//! Destinations: paths of the container, found and made below a root descriptor, never as a string of the host.

use crate::report::{Context, Failure, Outcome};
use crate::sys::{self, Errno};
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How many dangling links are followed on the way to what must be made: as many as the kernel follows.
const MOST_LINKS: usize = 40;

/// What is made where a destination is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    Directory,
    File,
}

/// Whether symbolic links in a destination are followed (below the root) or refused.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Links {
    Follow,
    Refuse,
}

impl Links {
    pub fn of(follow: bool) -> Links {
        if follow {
            Links::Follow
        } else {
            Links::Refuse
        }
    }

    fn resolve_flags(self) -> u64 {
        let refuse = match self {
            Links::Follow => 0,
            Links::Refuse => sys::RESOLVE_NO_SYMLINKS,
        };
        sys::RESOLVE_IN_ROOT | sys::RESOLVE_NO_MAGICLINKS | refuse
    }
}

fn c_string(text: &str) -> CString {
    // Components come from strings of the plan, or from links, which cannot hold a NUL.
    CString::new(text).unwrap_or_default()
}

/// Find a destination that exists: an O_PATH descriptor.
pub fn resolve(root: BorrowedFd, path: &str, links: Links) -> sys::Result<OwnedFd> {
    let below = path.trim_start_matches('/');
    let below = if below.is_empty() { "." } else { below };
    sys::openat2(root, &c_string(below), libc::O_PATH, links.resolve_flags())
}

/// Find what a path names itself: a link at its end is not followed, but opened.
pub fn resolve_itself(root: BorrowedFd, path: &str) -> sys::Result<OwnedFd> {
    let below = c_string(path.trim_start_matches('/'));
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    sys::openat2(root, &below, flags, Links::Follow.resolve_flags())
}

/// Find a destination, or None where it is missing.
pub fn resolve_existing(root: BorrowedFd, path: &str) -> Outcome<Option<OwnedFd>> {
    match resolve(root, path, Links::Follow) {
        Err(Errno(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        result => result.at("openat2", path).map(Some),
    }
}

/// The components of a path, with `.` and empty ones left out.
fn components(path: &str) -> Vec<&str> {
    let parts = path.split('/');
    parts
        .filter(|part| !part.is_empty() && *part != ".")
        .collect()
}

/// Split a destination into its directory and its last component; EINVAL where there is none.
pub fn split(path: &str) -> Outcome<(String, CString)> {
    let mut parts = components(path);
    match parts.pop() {
        Some(name) if name != ".." => Ok((format!("/{}", parts.join("/")), c_string(name))),
        _ => Err(Failure::new(
            "split",
            path,
            libc::EINVAL,
            "names no file of the container",
        )),
    }
}

/// Find a destination and make what is missing of it: directories on the way, at its end what `make` says.
pub fn resolve_or_make(
    root: BorrowedFd,
    path: &str,
    links: Links,
    make: Make,
    mode: u32,
) -> Outcome<OwnedFd> {
    let mut path = path.to_string();
    for _ in 0..MOST_LINKS {
        match resolve(root, &path, links) {
            Err(Errno(libc::ENOENT)) => {}
            result => return result.at("openat2", &path),
        }
        match make_missing(root, &path, links, make, mode)? {
            Made::There(fd) => return Ok(fd),
            Made::Link(target) => path = target,
        }
    }
    Err(Failure::new(
        "openat2",
        &path,
        libc::ELOOP,
        Errno(libc::ELOOP).text(),
    ))
}

/// What came of an attempt to make a path.
enum Made {
    There(OwnedFd),
    /// On the way stands a link to something missing: the path that it leads to, still below the root.
    Link(String),
}

fn make_missing(
    root: BorrowedFd,
    path: &str,
    links: Links,
    make: Make,
    mode: u32,
) -> Outcome<Made> {
    let parts = components(path);
    let (mut dir, existing) = longest_existing(root, &parts, links)?;
    for (index, name) in parts.iter().enumerate().skip(existing) {
        if *name == ".." {
            return Err(Failure::new(
                "mkdirat",
                path,
                libc::ENOENT,
                "\"..\" below a directory that is missing",
            ));
        }
        let last = index + 1 == parts.len();
        let what = if last { make } else { Make::Directory };
        let step_mode = if last { mode } else { 0o755 };
        match make_one(dir.as_fd(), &c_string(name), what, step_mode) {
            Ok(fd) => dir = fd,
            Err(Errno(libc::EEXIST)) if links == Links::Follow => {
                return follow_dangling(dir.as_fd(), &parts, index).at("readlinkat", path)
            }
            Err(errno) => return Err(errno).at(call_of(what), path),
        }
    }
    Ok(Made::There(dir))
}

fn call_of(make: Make) -> &'static str {
    match make {
        Make::Directory => "mkdirat",
        Make::File => "openat",
    }
}

/// The deepest directory of the path that exists, and how many components it has.
fn longest_existing(root: BorrowedFd, parts: &[&str], links: Links) -> Outcome<(OwnedFd, usize)> {
    for length in (0..parts.len()).rev() {
        let path = parts[..length].join("/");
        match resolve(root, &path, links) {
            Err(Errno(libc::ENOENT)) => {}
            result => return result.at("openat2", &path).map(|fd| (fd, length)),
        }
    }
    Err(Failure::new("openat2", "/", libc::ENOENT, "no root"))
}

/// Make one file or directory in `dir` and open it, whatever anybody puts in its place meanwhile.
pub fn make_one(dir: BorrowedFd, name: &CStr, make: Make, mode: u32) -> sys::Result<OwnedFd> {
    if make == Make::File {
        let flags = libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_RDONLY;
        return sys::openat(dir, name, flags, mode);
    }
    match sys::mkdirat(dir, name, mode) {
        // Somebody made the same directory first: as good, unless it is a link.
        Ok(()) | Err(Errno(libc::EEXIST)) => {}
        Err(errno) => return Err(errno),
    }
    // Not O_NOFOLLOW: with O_PATH that would open the link itself instead of refusing it.
    let resolve = sys::RESOLVE_BENEATH | sys::RESOLVE_NO_SYMLINKS;
    match sys::openat2(dir, name, libc::O_PATH | libc::O_DIRECTORY, resolve) {
        Err(Errno(libc::ELOOP)) => Err(Errno(libc::EEXIST)),
        result => result,
    }
}

/// The path to make instead of `parts`, whose component `index` in `dir` is a link to something missing.
fn follow_dangling(dir: BorrowedFd, parts: &[&str], index: usize) -> sys::Result<Made> {
    let target = match sys::readlinkat(dir, &c_string(parts[index])) {
        // No link: somebody else made what was missing. Look again.
        Err(Errno(libc::EINVAL)) => return Ok(Made::Link(parts.join("/"))),
        target => target?,
    };
    let target = target.to_str().map_err(|_| Errno(libc::EILSEQ))?;
    Ok(Made::Link(replace_link(parts, index, target)))
}

fn replace_link(parts: &[&str], index: usize, target: &str) -> String {
    let before = if target.starts_with('/') {
        String::new()
    } else {
        parts[..index].join("/")
    };
    let after = parts[index + 1..].join("/");
    format!("/{before}/{target}/{after}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_splits_into_directory_and_name() {
        let (directory, name) = split("/dev//pts/./ptmx").unwrap();
        assert_eq!((directory.as_str(), name.as_c_str()), ("/dev/pts", c"ptmx"));
    }

    #[test]
    fn the_root_and_a_parent_have_no_name() {
        assert!(split("/").is_err());
        assert!(split("/dev/..").is_err());
    }

    #[test]
    fn a_relative_link_leads_on_from_its_directory() {
        assert_eq!(
            components(&replace_link(&["var", "run", "x"], 1, "../run")),
            ["var", "..", "run", "x"]
        );
    }

    #[test]
    fn an_absolute_link_leads_on_from_the_root() {
        assert_eq!(
            components(&replace_link(&["var", "run", "x"], 1, "/run")),
            ["run", "x"]
        );
    }
}
