//! What this process was started with, and the file it was started from.

use std::ffi::{CStr, CString};

use pysandbox_guest::sys::{self, Strings};

pub struct Caller {
    pub arguments: Strings,
    pub environment: Strings,
    /// This program's file in its installation; None without a /proc.
    pub file: Option<Vec<u8>>,
}

impl Caller {
    pub fn new(arguments: Strings, environment: Strings) -> Caller {
        let here = sys::borrow(libc::AT_FDCWD);
        let link = sys::readlinkat(here, c"/proc/self/exe").ok();
        Caller {
            arguments,
            environment,
            file: link.map(|path| installed(kept_name(path.into_bytes()), environment)),
        }
    }

    /// The value of an environment variable; the first counts, as for getenv(3).
    pub fn variable(&self, name: &str) -> Option<&'static [u8]> {
        variable(self.environment, name)
    }

    /// The file of the same installation with another name: `name` in this program's directory.
    pub fn beside(&self, name: &str) -> Option<CString> {
        let file = self.file.as_ref()?;
        let slash = file.iter().rposition(|&byte| byte == b'/')?;
        CString::new([&file[..=slash], name.as_bytes()].concat()).ok()
    }

    /// The script that does this program's work cold: this file's path and `-cold`.
    pub fn cold_file(&self) -> Option<CString> {
        let executed = || sys::executed_path().map(|path| path.to_bytes().to_vec());
        let file = self.file.clone().or_else(executed)?;
        CString::new([&file, b"-cold".as_slice()].concat()).ok()
    }

    /// The name this program is installed under.
    pub fn program(&self) -> &[u8] {
        let file = self.file.as_deref().unwrap_or_default();
        file.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
    }
}

/// The kernel marks the path of a file that an upgrade has replaced; the new one lies at the same place.
fn kept_name(mut path: Vec<u8>) -> Vec<u8> {
    if path.ends_with(b" (deleted)") {
        path.truncate(path.len() - b" (deleted)".len());
    }
    path
}

/// The file itself where its script lies beside it. A copy of it that lies elsewhere (a shim by containerd's
/// `runtime_path`) belongs to the installation that the caller's PATH leads to under the same name.
fn installed(file: Vec<u8>, environment: Strings) -> Vec<u8> {
    if script_status(&file).is_some() {
        return file;
    }
    let name = file.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let path = variable(environment, "PATH").unwrap_or_default();
    let mut candidates = path
        .split(|&byte| byte == b':')
        .filter(|directory| directory.starts_with(b"/") && is_protected(directory))
        .map(|directory| [directory, b"/", name].concat());
    let found = candidates.find(|file| script_status(file).is_some_and(|status| is_roots(&status)));
    found.unwrap_or(file)
}

fn script_status(file: &[u8]) -> Option<libc::stat> {
    sys::stat(&CString::new([file, b"-cold"].concat()).ok()?).ok()
}

fn is_protected(directory: &[u8]) -> bool {
    let status = CString::new(directory).map(|path| sys::stat(&path));
    status.is_ok_and(|status| status.is_ok_and(|status| is_roots(&status)))
}

/// Whether nobody but root could have put it there.
fn is_roots(status: &libc::stat) -> bool {
    status.st_uid == 0 && status.st_mode & 0o022 == 0
}

fn variable(environment: Strings, name: &str) -> Option<&'static [u8]> {
    let mut values = environment.iter().map(CStr::to_bytes);
    values.find_map(|entry| value_of(entry, name.as_bytes()))
}

fn value_of<'a>(entry: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    entry.strip_prefix(name)?.strip_prefix(b"=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_is_looked_for_at_its_place() {
        assert_eq!(kept_name(b"/bin/p (deleted)".to_vec()), b"/bin/p");
        assert_eq!(kept_name(b"/bin/p".to_vec()), b"/bin/p");
    }

    #[test]
    fn a_variable_is_found_by_its_whole_name() {
        assert_eq!(
            value_of(b"PYSANDBOX_WARM=off", b"PYSANDBOX_WARM"),
            Some(b"off".as_slice())
        );
        assert_eq!(value_of(b"PYSANDBOX_WARMER=off", b"PYSANDBOX_WARM"), None);
        assert_eq!(value_of(b"PYSANDBOX_WARM", b"PYSANDBOX_WARM"), None);
    }
}
