//! Where the probes may make files of their own, and what the host told us.

use crate::fact::Facts;
use crate::status;
use pysandbox_guest::sys::{self, Errno};
use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

/// The arguments. `directory` is the one in which files may be made, if there is one.
#[derive(Default)]
pub struct Place {
    pub own: String,
    pub directory: Option<CString>,
    pub canary: String,
    pub listed: bool,
    pub descriptors: Facts,
}

impl Place {
    pub fn from_arguments(mut words: impl Iterator<Item = String>) -> Result<Place, String> {
        let mut place = Place {
            descriptors: status::descriptors(),
            ..Place::default()
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word}: needs a value"));
            match word.as_str() {
                "--own" => place.own = value()?,
                "--canary" => place.canary = value()?,
                "--place" => {
                    let path = c_string(&value()?)?;
                    if place.directory.is_none() && sys::may_write(&path).is_ok() {
                        place.directory = Some(path);
                    }
                }
                "--listed" => place.listed = true,
                _ => return Err(format!("{word}: unknown argument")),
            }
        }
        Ok(place)
    }

    /// Open the directory for files of our own.
    pub fn open(&self) -> Result<OwnedFd, Errno> {
        let path = self.directory.as_deref().ok_or(Errno(libc::ENOENT))?;
        sys::open(path, libc::O_RDONLY | libc::O_DIRECTORY)
    }

    /// Make an empty directory of our own, have `act` use it, and remove it.
    pub fn with_directory<T>(&self, act: impl FnOnce(&str) -> T) -> Result<T, Errno> {
        let directory = self.open()?;
        let name = c_string(&format!(".pysandbox-probe-{}", sys::getpid())).unwrap_or_default();
        sys::mkdirat(directory.as_fd(), &name, 0o700)?;
        let whole = [
            self.directory.clone().unwrap_or_default().into_bytes(),
            name.clone().into_bytes(),
        ];
        let result = act(&OsString::from_vec(whole.join(&b'/')).to_string_lossy());
        sys::unlinkat(directory.as_fd(), &name, libc::AT_REMOVEDIR)?;
        Ok(result)
    }
}

pub fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{text:?}: holds a null character"))
}
