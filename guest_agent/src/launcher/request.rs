//! The request: all that the spare needs to stand in for this process, as one JSON object.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use pysandbox_guest::sys::{self, Errno};

use crate::caller::Caller;
use crate::frame;
use crate::signals::Signals;

/// A caller with more is not served: one message carries 253.
const MOST_DESCRIPTORS: usize = 200;
/// Bytes, of most requests: the environment is all that is long.
const USUAL_SIZE: usize = 8192;

pub struct Request {
    pub frame: Vec<u8>,
    /// The descriptors that the caller left open: to be sent with it, behind the launcher's own.
    pub inherited: Vec<RawFd>,
}

impl Request {
    /// To be made before anything is opened here: only what is the caller's is told. An error for what cannot be told.
    pub fn new(caller: &Caller, signals: &mut Signals) -> sys::Result<Request> {
        let inherited = open_descriptors()?;
        let mut frame = frame::begin(USUAL_SIZE);
        write(&mut frame, caller, signals, &inherited)?;
        Ok(Request { frame, inherited })
    }
}

/// The numbers of all open descriptors in ascending order. EMFILE for more than are served.
fn open_descriptors() -> sys::Result<Vec<RawFd>> {
    let directory = sys::open(c"/proc/self/fd", libc::O_RDONLY | libc::O_DIRECTORY)?;
    let mut numbers: Vec<RawFd> = Vec::with_capacity(16);
    let mut buffer = [0u8; 4096];
    sys::each_entry(directory.as_fd(), &mut buffer, |name| {
        numbers.extend(
            name.to_str()
                .ok()
                .and_then(|name| name.parse::<RawFd>().ok()),
        );
    })?;
    numbers.retain(|&number| number != directory.as_raw_fd());
    numbers.sort_unstable();
    if numbers.len() > MOST_DESCRIPTORS {
        return Err(Errno(libc::EMFILE));
    }
    Ok(numbers)
}

/// What proc(5) says of a process in its `status`: one read, where umask(2) and sigaction(2) would be 66 calls.
#[derive(Debug, PartialEq)]
struct Status {
    umask: u32,
    /// Bit n-1 for signal n.
    ignored: u64,
}

fn status() -> sys::Result<Status> {
    let file = sys::open(c"/proc/self/status", libc::O_RDONLY)?;
    let mut buffer = [0u8; 4096];
    let length = sys::read(file.as_fd(), &mut buffer)?;
    read_status(&buffer[..length]).ok_or(Errno(libc::EINVAL))
}

fn read_status(text: &[u8]) -> Option<Status> {
    let text = String::from_utf8_lossy(text); // a program's name can be any bytes
    let value = |name| {
        let mut lines = text.lines();
        lines
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    Some(Status {
        umask: u32::from_str_radix(value("Umask:")?, 8).ok()?,
        ignored: u64::from_str_radix(value("SigIgn:")?, 16).ok()?,
    })
}

/// The frame's body. EILSEQ for a text that is not UTF-8.
fn write(
    into: &mut Vec<u8>,
    caller: &Caller,
    signals: &mut Signals,
    inherited: &[RawFd],
) -> sys::Result<()> {
    let status = status()?;
    signals.ignored = status.ignored;
    into.extend_from_slice(b"{\"program\":");
    write_text(into, caller.program())?;
    into.extend_from_slice(b",\"args\":");
    write_texts(into, caller.arguments.iter().skip(1))?;
    into.extend_from_slice(b",\"env\":");
    write_texts(into, caller.environment.iter())?;
    let numbers = format!(
        ",\"umask\":{},\"securebits\":{},\"ignored\":{},\"blocked\":{},\"descriptors\":{inherited:?}}}",
        status.umask,
        sys::securebits()?,
        status.ignored,
        signals.blocked,
    );
    into.extend_from_slice(numbers.as_bytes());
    Ok(())
}

fn write_texts(into: &mut Vec<u8>, texts: impl Iterator<Item = &'static CStr>) -> sys::Result<()> {
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
    Ok(())
}

fn write_text(into: &mut Vec<u8>, text: &[u8]) -> sys::Result<()> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let text = std::str::from_utf8(text).map_err(|_| Errno(libc::EILSEQ))?;
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
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &[u8]) -> Option<String> {
        let mut body = Vec::new();
        write_text(&mut body, text).ok()?;
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
    fn the_status_of_a_process_is_read_by_its_lines() {
        let text = b"Name:\tUmask:\nUmask:\t0027\nSigBlk:\t1\nSigIgn:\t8000000000000800\n";
        let status = Status {
            umask: 0o27,
            ignored: 1 << 63 | 1 << 11,
        };
        assert_eq!(read_status(text), Some(status));
        assert_eq!(read_status(b"Umask:\t0022\n"), None);
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
