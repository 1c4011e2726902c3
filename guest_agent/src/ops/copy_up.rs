//! Copy what a directory holds into a new tmpfs before that covers it (`tmpcopyup`).
//!
//! Every step is by a directory's descriptor and follows no symbolic link: the tree may be the container's.

use crate::report::{Context, Failure, Outcome};
use crate::sys;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd};

/// How deep a tree may be: more is a trap for whoever copies it.
const DEEPEST: usize = 128;

/// Copy the entries of the directory `from` into the root of the mount `to`, and that root's owner, mode and times.
pub fn copy_tree(from: BorrowedFd, to: BorrowedFd, path: &str) -> Outcome {
    let from = open_directory(from, c".").at("openat", path)?;
    let to = open_directory(to, c".").at("openat", path)?;
    copy_directory(from.as_fd(), to.as_fd(), path, DEEPEST)
}

fn open_directory(dir: BorrowedFd, name: &CStr) -> sys::Result<std::os::fd::OwnedFd> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW;
    sys::openat(dir, name, flags, 0)
}

fn copy_directory(from: BorrowedFd, to: BorrowedFd, path: &str, depth: usize) -> Outcome {
    if depth == 0 {
        let text = format!("more than {DEEPEST} directories deep");
        return Err(Failure::new("copy", path, libc::ELOOP, text));
    }
    for name in sys::list(from).at("getdents64", path)? {
        let path = format!("{path}/{}", name.to_string_lossy());
        copy_entry(from, to, &name, &path, depth)?;
    }
    let stat = sys::fstat(from).at("fstat", path)?;
    copy_metadata(from, to, &stat, path)?;
    sys::set_times(to, c".", &stat).at("utimensat", path)
}

fn copy_entry(from: BorrowedFd, to: BorrowedFd, name: &CStr, path: &str, depth: usize) -> Outcome {
    let stat = sys::fstatat(from, name).at("fstatat", path)?;
    match stat.st_mode & libc::S_IFMT {
        libc::S_IFDIR => {
            sys::mkdirat(to, name, 0o700).at("mkdirat", path)?;
            let from = open_directory(from, name).at("openat", path)?;
            let to = open_directory(to, name).at("openat", path)?;
            return copy_directory(from.as_fd(), to.as_fd(), path, depth - 1);
        }
        libc::S_IFREG => copy_file(from, to, name, path)?,
        libc::S_IFLNK => copy_link(from, to, name, &stat, path)?,
        // A socket means nothing without the process that listens on it.
        libc::S_IFSOCK => return Ok(()),
        _ => copy_node(to, name, &stat, path)?,
    }
    sys::set_times(to, name, &stat).at("utimensat", path)
}

fn copy_file(from: BorrowedFd, to: BorrowedFd, name: &CStr, path: &str) -> Outcome {
    // O_NONBLOCK: a FIFO put in the file's place must not hold us.
    let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let source = sys::openat(from, name, flags, 0).at("openat", path)?;
    let stat = sys::fstat(source.as_fd()).at("fstat", path)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(Failure::new(
            "openat",
            path,
            libc::ESTALE,
            "changed while it was copied",
        ));
    }
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
    let copy = sys::openat(to, name, flags, 0o600).at("openat", path)?;
    copy_content(source.as_fd(), copy.as_fd()).at("write", path)?;
    copy_metadata(source.as_fd(), copy.as_fd(), &stat, path)
}

fn copy_content(from: BorrowedFd, to: BorrowedFd) -> sys::Result<()> {
    let mut buffer = vec![0u8; 64 * 1024];
    loop {
        let mut data = match sys::read(from, &mut buffer)? {
            0 => return Ok(()),
            length => &buffer[..length],
        };
        while !data.is_empty() {
            data = &data[sys::write(to, data)?..];
        }
    }
}

fn copy_link(
    from: BorrowedFd,
    to: BorrowedFd,
    name: &CStr,
    stat: &libc::stat,
    path: &str,
) -> Outcome {
    let target = sys::readlinkat(from, name).at("readlinkat", path)?;
    sys::symlinkat(&target, to, name).at("symlinkat", path)?;
    sys::fchownat(to, name, stat.st_uid, stat.st_gid).at("fchownat", path)
}

fn copy_node(to: BorrowedFd, name: &CStr, stat: &libc::stat, path: &str) -> Outcome {
    sys::mknodat(to, name, stat.st_mode, stat.st_rdev).at("mknodat", path)?;
    sys::fchownat(to, name, stat.st_uid, stat.st_gid).at("fchownat", path)
}

/// Owner, extended attributes and mode, in this order: changing the owner clears bits of the mode.
fn copy_metadata(from: BorrowedFd, to: BorrowedFd, stat: &libc::stat, path: &str) -> Outcome {
    sys::fchown(to, stat.st_uid, stat.st_gid).at("fchown", path)?;
    for (name, value) in sys::attributes(from).at("fgetxattr", path)? {
        match sys::set_attribute(to, &name, &value) {
            // tmpfs has no user.* before Linux 6.6.
            Ok(()) | Err(sys::Errno(libc::ENOTSUP)) => {}
            Err(errno) => return Err(errno).at("fsetxattr", path),
        }
    }
    sys::fchmod(to, stat.st_mode & 0o7777).at("fchmod", path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};

    #[test]
    fn a_tree_is_copied_with_modes_links_and_times() {
        let base = std::env::temp_dir().join(format!("copy-up-{}", sys::getpid()));
        let (from, to) = (base.join("from"), base.join("to"));
        fs::create_dir_all(from.join("d")).unwrap();
        fs::create_dir_all(&to).unwrap();
        fs::write(from.join("d/f"), b"content").unwrap();
        fs::set_permissions(from.join("d/f"), fs::Permissions::from_mode(0o4711)).unwrap();
        symlink("/nowhere", from.join("l")).unwrap();
        let (source, target) = (fs::File::open(&from).unwrap(), fs::File::open(&to).unwrap());

        copy_tree(source.as_fd(), target.as_fd(), "/x").unwrap();

        let (old, new) = (from.join("d/f"), to.join("d/f"));
        let (old, new) = (fs::metadata(old).unwrap(), fs::metadata(new).unwrap());
        assert_eq!(new.mode(), old.mode());
        assert_eq!(new.mtime_nsec(), old.mtime_nsec());
        assert_eq!(fs::read(to.join("d/f")).unwrap(), b"content");
        assert_eq!(
            fs::read_link(to.join("l")).unwrap().to_str(),
            Some("/nowhere")
        );
        fs::remove_dir_all(base).unwrap();
    }
}
