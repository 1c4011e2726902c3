//! How a call of the host fails: a code of google.rpc.Code and a line of text.

use crate::messages;
use crate::protobuf::Malformed;
use pysandbox_guest::report::Failure;
use pysandbox_guest::sys::Errno;

pub const UNKNOWN: u32 = 2;
pub const INVALID_ARGUMENT: u32 = 3;
pub const DEADLINE_EXCEEDED: u32 = 4;
pub const NOT_FOUND: u32 = 5;
pub const ALREADY_EXISTS: u32 = 6;
pub const PERMISSION_DENIED: u32 = 7;
pub const RESOURCE_EXHAUSTED: u32 = 8;
pub const FAILED_PRECONDITION: u32 = 9;
/// What the executor says, as it says it.
pub const ABORTED: u32 = 10;
pub const UNIMPLEMENTED: u32 = 12;

#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub code: u32,
    pub text: String,
}

pub type Answer<T = Vec<u8>> = Result<T, Status>;

impl Status {
    pub fn new(code: u32, text: impl Into<String>) -> Status {
        Status {
            code,
            text: text.into(),
        }
    }

    pub fn message(&self) -> messages::Status {
        const LONGEST: usize = 64 * 1024;
        messages::Status {
            code: self.code,
            message: self.text.chars().take(LONGEST).collect(),
        }
    }
}

pub fn refuse<T>(code: u32, text: impl Into<String>) -> Answer<T> {
    Err(Status::new(code, text))
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Status {
        let words = [&failure.call, &failure.path, &failure.text];
        let words: Vec<&str> = words
            .into_iter()
            .map(String::as_str)
            .filter(|word| !word.is_empty())
            .collect();
        Status::new(code_of(failure.errno), words.join(": "))
    }
}

impl From<Malformed> for Status {
    fn from(_: Malformed) -> Status {
        Status::new(INVALID_ARGUMENT, "message not understood")
    }
}

fn code_of(errno: i32) -> u32 {
    match errno {
        libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::ENXIO => NOT_FOUND,
        libc::EEXIST => ALREADY_EXISTS,
        libc::EINVAL | libc::ERANGE | libc::ENAMETOOLONG => INVALID_ARGUMENT,
        libc::EPERM | libc::EACCES => PERMISSION_DENIED,
        libc::EBUSY | libc::ENOTEMPTY => FAILED_PRECONDITION,
        libc::ENOSPC | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EAGAIN => {
            RESOURCE_EXHAUSTED
        }
        libc::ENOSYS | libc::EOPNOTSUPP => UNIMPLEMENTED,
        libc::ETIMEDOUT => DEADLINE_EXCEEDED,
        _ => UNKNOWN,
    }
}

/// Say which call on which path an errno came from, as a status.
pub trait Said<T> {
    fn said(self, call: &str, path: &str) -> Answer<T>;
}

impl<T> Said<T> for Result<T, Errno> {
    fn said(self, call: &str, path: &str) -> Answer<T> {
        self.map_err(|errno| Failure::new(call, path, errno.0, errno.text()).into())
    }
}
