//! What a probe saw: a small JSON object of raw facts. `errno`: the call failed with it; `done`: it did not.

use pysandbox_guest::sys::{Errno, Result};
use serde_json::{json, Map, Value};

pub type Facts = Map<String, Value>;

/// Bytes of a text that is reported.
const TEXT: usize = 1024;

pub fn facts<const N: usize>(entries: [(&str, Value); N]) -> Facts {
    entries
        .into_iter()
        .map(|(name, value)| (name.to_string(), value))
        .collect()
}

/// Whether a call failed, and how.
pub fn outcome<T>(result: Result<T>) -> Facts {
    match result {
        Ok(_) => facts([("done", json!(true))]),
        Err(Errno(errno)) => facts([("errno", json!(errno))]),
    }
}

/// Why nothing could be tried.
pub fn unable(why: &str) -> Facts {
    facts([("unable", json!(why))])
}

pub fn text(value: &str) -> Facts {
    facts([("text", json!(cut(value)))])
}

/// The beginning of a text.
pub fn cut(value: &str) -> &str {
    let mut end = value.len().min(TEXT);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    &value[..end]
}

/// The error number of an `std::io` call.
pub fn errno_of(error: &std::io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}
