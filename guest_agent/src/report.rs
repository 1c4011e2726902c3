//! The report socket: one JSON object in each datagram, to the caller and back.
//!
//! The protocol stands in `runtime_api/pysandbox/executor.py`.

use crate::sys::{self, Errno};
use serde_json::{json, Value};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Why an operation could not be carried out: the call that failed, on what, and the kernel's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub call: String,
    pub path: String,
    pub errno: i32,
    /// What to tell people; the error number's own text where nothing better is known.
    pub text: String,
}

pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub fn new(call: &str, path: &str, errno: i32, text: impl Into<String>) -> Failure {
        Failure {
            call: call.to_string(),
            path: path.to_string(),
            errno,
            text: text.into(),
        }
    }
}

/// Say which call on which path an errno came from.
pub trait Context<T> {
    fn at(self, call: &str, path: &str) -> Outcome<T>;
}

impl<T> Context<T> for sys::Result<T> {
    fn at(self, call: &str, path: &str) -> Outcome<T> {
        self.map_err(|errno| Failure::new(call, path, errno.0, errno.text()))
    }
}

/// The executor's end of the report socket.
pub struct Report(Option<OwnedFd>);

impl Report {
    /// Take over the socket that the command line names, as `report=N`.
    pub fn from_arguments(arguments: impl Iterator<Item = String>) -> Result<Report, String> {
        let mut socket = None;
        for argument in arguments {
            let number = match parse_argument(&argument) {
                Some(number) if socket.is_none() => number,
                _ => return Err(format!("{argument}: not of the form report=N")),
            };
            let fd = sys::adopt(number).map_err(|errno| format!("{argument}: {}", errno.text()))?;
            socket = Some(fd);
        }
        Ok(Report(socket))
    }

    pub fn new(socket: Option<OwnedFd>) -> Report {
        Report(socket)
    }

    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(|socket| socket.as_fd())
    }

    /// Whether the caller still has its end open.
    pub fn alive(&self) -> bool {
        let Some(socket) = self.as_fd() else {
            return false;
        };
        const HANGUP: i16 = libc::POLLHUP | libc::POLLERR | libc::POLLRDHUP;
        matches!(sys::poll(&[(socket, libc::POLLRDHUP)], 0), Ok(events) if events[0] & HANGUP == 0)
    }

    /// Send one object. A caller that has gone is no error here: whoever must not go on without it asks for its word.
    pub fn send(&self, message: &Value) {
        if let Some(socket) = self.as_fd() {
            let _ = sys::send(socket, message.to_string().as_bytes(), 0);
        }
    }

    /// Send one object with write(2), which a seccomp profile allows more often than send(2).
    pub fn write(&self, message: &Value) -> sys::Result<()> {
        let socket = self.as_fd().ok_or(Errno(libc::ENOTCONN))?;
        sys::write(socket, message.to_string().as_bytes()).map(|_| ())
    }

    pub fn send_descriptor(&self, name: &str, descriptor: BorrowedFd) -> sys::Result<()> {
        let socket = self.as_fd().ok_or(Errno(libc::ENOTCONN))?;
        let message = json!({ "descriptor": name }).to_string();
        sys::send_descriptor(socket, message.as_bytes(), descriptor)
    }

    /// Send one object and wait for the caller's word. What could not be sent would be waited for by both sides: exit.
    pub fn ask(&self, message: &Value) {
        if self.write(message).is_err() {
            sys::exit(1);
        }
        self.wait_go();
    }

    /// Wait for `{"go": true}`. Anything else, and the end of the socket, means abort: exit without a word.
    pub fn wait_go(&self) {
        let mut buffer = [0u8; 256];
        let answer = self
            .as_fd()
            .map(|socket| read_word(socket, &mut buffer).unwrap_or(0))
            .and_then(|length| serde_json::from_slice::<Value>(&buffer[..length]).ok());
        if answer.and_then(|answer| answer["go"].as_bool()) != Some(true) {
            sys::exit(1);
        }
    }

    /// Tell which operations have begun, and when.
    pub fn steps(&self, steps: &[(usize, &str, u64)]) {
        if !steps.is_empty() {
            self.send(&json!({ "steps": steps }));
        }
    }

    /// Report what went wrong: the last datagram.
    pub fn error(&self, index: usize, name: &str, failure: &Failure) {
        const LONGEST_TEXT: usize = 8192;
        let text: String = failure.text.chars().take(LONGEST_TEXT).collect();
        self.send(&json!({ "error": {
            "op": name, "index": index, "call": failure.call, "path": failure.path,
            "errno": failure.errno, "text": text,
        }}));
    }
}

/// Read a datagram. A caller that has closed its end with a message of ours unread resets the connection, which is told
/// before what it had sent: its word is still there, behind the error (unix(7)).
fn read_word(socket: BorrowedFd, buffer: &mut [u8]) -> sys::Result<usize> {
    match sys::read(socket, buffer) {
        Err(Errno(libc::ECONNRESET)) => sys::read(socket, buffer),
        result => result,
    }
}

fn parse_argument(argument: &str) -> Option<i32> {
    let number = argument.strip_prefix("report=")?.parse().ok()?;
    (number > 2).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_names_the_socket() {
        assert_eq!(parse_argument("report=7"), Some(7));
    }

    #[test]
    fn stdio_is_no_report_socket_and_nothing_else_is_an_argument() {
        for argument in [
            "report=2",
            "report=-1",
            "report=",
            "report",
            "=5",
            "plan=5",
            "report=5=6",
        ] {
            assert_eq!(parse_argument(argument), None, "{argument}");
        }
    }

    #[test]
    fn a_failure_carries_the_kernels_text_in_lower_case() {
        let outcome: Outcome = Err(Errno(libc::ENOENT)).at("openat2", "/a");
        let failure = outcome.unwrap_err();
        assert_eq!(failure.text, "no such file or directory");
        assert_eq!(
            (failure.call.as_str(), failure.path.as_str()),
            ("openat2", "/a")
        );
    }

    #[test]
    fn a_report_without_a_socket_is_not_alive() {
        assert!(!Report::new(None).alive());
    }
}
