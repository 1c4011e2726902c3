//! The request: all that the spare needs to stand in for this process, as one JSON object.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use pysandbox_guest::sys::{self, Strings};

/// A caller with more is not served: one message carries 253.
const MOST_DESCRIPTORS: usize = 200;

pub struct Request<'a> {
    pub program: &'a [u8],
    pub args: Strings,
    pub env: Strings,
    pub umask: u32,
    pub securebits: i64,
    pub ignored: u64,
    pub blocked: u64,
    pub descriptors: &'a [RawFd],
}

impl Request<'_> {
    /// A frame's body, appended to `into`; None if a text in it is not UTF-8.
    pub fn write(&self, into: &mut Vec<u8>) -> Option<()> {
        into.extend_from_slice(b"{\"program\":");
        write_text(into, self.program)?;
        into.extend_from_slice(b",\"args\":");
        write_texts(into, self.args.iter().skip(1))?;
        into.extend_from_slice(b",\"env\":");
        write_texts(into, self.env.iter())?;
        let numbers = format!(
            ",\"umask\":{},\"securebits\":{},\"ignored\":{},\"blocked\":{},\"descriptors\":{:?}}}",
            self.umask, self.securebits, self.ignored, self.blocked, self.descriptors
        );
        into.extend_from_slice(numbers.as_bytes());
        Some(())
    }
}

fn write_texts(into: &mut Vec<u8>, texts: impl Iterator<Item = &'static CStr>) -> Option<()> {
    let mut before = b'[';
    for text in texts {
        into.push(before);
        write_text(into, text.to_bytes())?;
        before = b',';
    }
    if before == b'[' {
        into.push(before);
    }
    into.push(b']');
    Some(())
}

fn write_text(into: &mut Vec<u8>, text: &[u8]) -> Option<()> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let text = std::str::from_utf8(text).ok()?;
    into.push(b'"');
    for &byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => into.extend_from_slice(&[b'\\', byte]),
            0..0x20 => {
                into.extend_from_slice(b"\\u00");
                into.push(DIGITS[usize::from(byte >> 4)]);
                into.push(DIGITS[usize::from(byte & 15)]);
            }
            _ => into.push(byte),
        }
    }
    into.push(b'"');
    Some(())
}

/// The numbers of all open descriptors in ascending order; None for more than are served.
pub fn open_descriptors() -> Option<Vec<RawFd>> {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY;
    let directory = sys::open(c"/proc/self/fd", flags).ok()?;
    let mut numbers = Vec::with_capacity(16);
    let mut buffer = [0u8; 4096];
    sys::each_entry(directory.as_fd(), &mut buffer, |name| {
        let number: Option<RawFd> = name.to_str().ok().and_then(|name| name.parse().ok());
        numbers.extend(number.filter(|&number| number != directory.as_raw_fd()));
    })
    .ok()?;
    numbers.sort_unstable();
    (numbers.len() <= MOST_DESCRIPTORS).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &[u8]) -> Option<String> {
        let mut body = Vec::new();
        write_text(&mut body, text)?;
        String::from_utf8(body).ok()
    }

    #[test]
    fn texts_are_quoted_as_json_wants_it() {
        let text = "a\"\\\n\u{1}\u{1f}\u{7f}ä\u{2028}😀/";
        let json = written(text.as_bytes()).unwrap();
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn a_text_that_is_not_utf8_is_refused() {
        assert_eq!(written(b"\xff"), None);
        assert_eq!(written(b"ok").as_deref(), Some("\"ok\""));
    }

    #[test]
    fn lists_of_texts_are_json_lists() {
        let write = |texts: &[&'static CStr]| {
            let mut body = Vec::new();
            write_texts(&mut body, texts.iter().copied()).unwrap();
            String::from_utf8(body).unwrap()
        };
        assert_eq!(write(&[]), "[]");
        assert_eq!(write(&[c"a"]), "[\"a\"]");
        assert_eq!(write(&[c"a", c""]), "[\"a\",\"\"]");
    }
}
