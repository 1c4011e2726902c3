//! Frames: 4 bytes length (little endian), then one JSON object; descriptors come with the first byte.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use pysandbox_guest::sys::{self, Errno};
use serde_json::Value;

/// Bytes. Both sides have the same limit.
const LIMIT: usize = 16 * 1024 * 1024;
const HEADER: usize = 4;
/// Nanoseconds for the other side to take what is sent, or to finish a frame that it has begun.
pub const PATIENCE: u64 = 10_000_000_000;

/// What the other side says.
#[derive(Debug, PartialEq)]
pub enum Message {
    Serving,
    Cold,
    Spawn(Spawn),
    Reap(i32),
    IsChild(i32),
    Adopt,
    Attend(i32),
    Session,
    Enter(Vec<Entrance>),
    Last(i32),
    Exit(i32),
}

/// What this process is to enter, by a descriptor that comes with the message.
#[derive(Debug, PartialEq, Clone, Copy)]
pub enum Entrance {
    /// The `tasks` file of a cgroup of version 1.
    Tasks,
    /// The directory of a cgroup of version 2.
    Cgroup,
    Network,
}

/// See `Caller.spawn` of `pysandbox/caller.py`. In `streams`, 0 and above are the launcher's caller's own descriptors,
/// -1 the first sent one after the program.
#[derive(Debug, PartialEq)]
pub struct Spawn {
    pub program: Option<CString>,
    pub args: Vec<CString>,
    pub env: Option<Vec<CString>>,
    pub streams: Vec<i32>,
    pub group: bool,
}

pub struct Frame {
    pub message: Message,
    pub descriptors: Vec<OwnedFd>,
}

/// What reading has come to.
pub enum Reading {
    Frame(Frame),
    /// Not all of a frame is there yet.
    Partial,
    /// Nothing of a frame is there yet.
    Nothing,
    Closed,
    /// What came is no frame, or none that this program knows.
    Odd,
}

pub struct Connection {
    socket: OwnedFd,
    received: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Connection {
    pub fn new(socket: OwnedFd) -> Connection {
        Connection {
            socket,
            received: Vec::new(),
            descriptors: Vec::new(),
        }
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Send a body that stands behind room for its header. EPIPE and the like when nobody is there any more, ETIMEDOUT
    /// when nobody has read it by the deadline (of `sys::monotonic`).
    pub fn send(
        &self,
        mut frame: Vec<u8>,
        mut descriptors: &[RawFd],
        deadline: u64,
    ) -> sys::Result<()> {
        let length = frame.len() - HEADER;
        if length > LIMIT {
            return Err(Errno(libc::EMSGSIZE));
        }
        frame[..HEADER].copy_from_slice(&(length as u32).to_le_bytes());
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            match sys::send_with(self.socket.as_fd(), rest, descriptors) {
                Ok(sent) => {
                    rest = &rest[sent..];
                    descriptors = &[];
                }
                Err(Errno(libc::EAGAIN)) => self.wait_for_room(deadline)?,
                Err(Errno(libc::EINTR)) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn wait_for_room(&self, deadline: u64) -> sys::Result<()> {
        match milliseconds_until(deadline) {
            0 => Err(Errno(libc::ETIMEDOUT)),
            left => sys::poll(&[(self.socket.as_fd(), libc::POLLOUT)], left).map(|_| ()),
        }
    }

    pub fn answer(&self, answer: &str) -> sys::Result<()> {
        let mut frame = begin(answer.len());
        frame.extend_from_slice(answer.as_bytes());
        self.send(frame, &[], sys::monotonic() + PATIENCE)
    }

    /// Whether all that has come was taken: there is nothing to read before there is something to wait for.
    pub fn is_drained(&self) -> bool {
        self.received.is_empty()
    }

    /// Take in what has come, without waiting.
    pub fn read(&mut self) -> Reading {
        let mut buffer = [0u8; 4096];
        loop {
            match self.taken() {
                Reading::Partial | Reading::Nothing => {}
                reading => return reading,
            }
            let socket = self.socket.as_fd();
            let descriptors = &mut self.descriptors;
            match sys::receive_with(socket, &mut buffer, descriptors, libc::MSG_DONTWAIT) {
                Ok(0) | Err(Errno(libc::ECONNRESET)) => return Reading::Closed,
                Ok(length) => self.received.extend_from_slice(&buffer[..length]),
                Err(Errno(libc::EINTR)) => {}
                Err(Errno(libc::EAGAIN)) if self.received.is_empty() => return Reading::Nothing,
                Err(Errno(libc::EAGAIN)) => return Reading::Partial,
                Err(_) => return Reading::Odd,
            }
        }
    }

    /// The first frame of what has been received.
    fn taken(&mut self) -> Reading {
        let (length, message) = match parse(&self.received) {
            Parsed::Whole(length, message) => (length, message),
            Parsed::Partial => return Reading::Partial,
            Parsed::Odd => return Reading::Odd,
        };
        self.received.drain(..length);
        let descriptors = std::mem::take(&mut self.descriptors);
        Reading::Frame(Frame {
            message,
            descriptors,
        })
    }
}

/// Milliseconds until a time of `sys::monotonic`, rounded up; 0 when it has passed.
pub fn milliseconds_until(deadline: u64) -> i32 {
    let left = deadline.saturating_sub(sys::monotonic());
    i32::try_from(left.div_ceil(1_000_000)).unwrap_or(i32::MAX)
}

/// Room for a frame's header, to write the body behind.
pub fn begin(capacity: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + capacity);
    frame.extend_from_slice(&[0; HEADER]);
    frame
}

#[derive(Debug, PartialEq)]
enum Parsed {
    /// How many bytes the frame takes, and what it says.
    Whole(usize, Message),
    Partial,
    Odd,
}

fn parse(received: &[u8]) -> Parsed {
    let Some((header, rest)) = received.split_first_chunk::<HEADER>() else {
        return Parsed::Partial;
    };
    let length = u32::from_le_bytes(*header) as usize;
    if length > LIMIT {
        return Parsed::Odd;
    }
    if rest.len() < length {
        return Parsed::Partial;
    }
    match serde_json::from_slice(&rest[..length]) {
        Ok(Value::Object(object)) if object.len() == 1 => {
            let word = object.into_iter().next();
            let message = word.and_then(|(name, value)| understand(&name, value));
            message.map_or(Parsed::Odd, |said| Parsed::Whole(HEADER + length, said))
        }
        _ => Parsed::Odd,
    }
}

fn understand(name: &str, value: Value) -> Option<Message> {
    match (name, value) {
        ("serving", Value::Bool(true)) => Some(Message::Serving),
        ("cold", Value::String(_)) => Some(Message::Cold),
        ("spawn", value) => spawn(value).map(Message::Spawn),
        ("reap", value) => pid(&value).map(Message::Reap),
        ("is_child", value) => pid(&value).map(Message::IsChild),
        ("adopt", Value::Bool(true)) => Some(Message::Adopt),
        ("attend", value) => pid(&value).map(Message::Attend),
        ("session", Value::Bool(true)) => Some(Message::Session),
        ("enter", Value::Array(kinds)) => {
            let entrances = kinds.iter().map(entrance).collect::<Option<_>>();
            entrances.map(Message::Enter)
        }
        ("last", value) => number(&value).map(Message::Last),
        ("exit", value) => number(&value).map(Message::Exit),
        _ => None,
    }
}

fn entrance(kind: &Value) -> Option<Entrance> {
    match kind.as_str()? {
        "tasks" => Some(Entrance::Tasks),
        "cgroup" => Some(Entrance::Cgroup),
        "network" => Some(Entrance::Network),
        _ => None,
    }
}

fn number(value: &Value) -> Option<i32> {
    value.as_i64().and_then(|number| i32::try_from(number).ok())
}

/// A process: 0 and below mean whole groups of them to the kernel.
fn pid(value: &Value) -> Option<i32> {
    number(value).filter(|&pid| pid > 0)
}

fn spawn(value: Value) -> Option<Spawn> {
    let Value::Object(mut fields) = value else {
        return None;
    };
    let mut field = |name| fields.remove(name);
    let spawn = Spawn {
        program: match field("program")? {
            Value::Null => None,
            value => Some(text(value)?),
        },
        args: texts(field("args")?)?,
        env: match field("env")? {
            Value::Null => None,
            value => Some(texts(value)?),
        },
        streams: numbers(&field("streams")?)?,
        group: field("group")?.as_bool()?,
    };
    fields.is_empty().then_some(spawn)
}

fn text(value: Value) -> Option<CString> {
    match value {
        Value::String(text) => CString::new(text).ok(),
        _ => None,
    }
}

fn texts(value: Value) -> Option<Vec<CString>> {
    match value {
        Value::Array(values) => values.into_iter().map(text).collect(),
        _ => None,
    }
}

fn numbers(value: &Value) -> Option<Vec<i32>> {
    value.as_array()?.iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(body: &str) -> Vec<u8> {
        let length = (body.len() as u32).to_le_bytes();
        [&length, body.as_bytes()].concat()
    }

    fn said(body: &str) -> Option<Message> {
        match parse(&framed(body)) {
            Parsed::Whole(length, message) => {
                assert_eq!(length, HEADER + body.len());
                Some(message)
            }
            Parsed::Odd => None,
            Parsed::Partial => panic!("a whole frame was taken for a part"),
        }
    }

    #[test]
    fn every_message_is_understood() {
        assert_eq!(said(r#"{"serving": true}"#), Some(Message::Serving));
        assert_eq!(said(r#"{"cold": "why"}"#), Some(Message::Cold));
        assert_eq!(said(r#"{"reap": 7}"#), Some(Message::Reap(7)));
        assert_eq!(said(r#"{"is_child": 7}"#), Some(Message::IsChild(7)));
        assert_eq!(said(r#"{"adopt": true}"#), Some(Message::Adopt));
        assert_eq!(said(r#"{"attend": 7}"#), Some(Message::Attend(7)));
        assert_eq!(said(r#"{"session": true}"#), Some(Message::Session));
        let all = vec![Entrance::Tasks, Entrance::Cgroup, Entrance::Network];
        let enter = r#"{"enter": ["tasks", "cgroup", "network"]}"#;
        assert_eq!(said(enter), Some(Message::Enter(all)));
        assert_eq!(said(r#"{"last": 3}"#), Some(Message::Last(3)));
        assert_eq!(said(r#"{"exit": 3}"#), Some(Message::Exit(3)));
        let spawn = Spawn {
            program: None,
            args: vec![c"a".to_owned(), c"".to_owned()],
            env: Some(vec![]),
            streams: vec![0, -1],
            group: true,
        };
        let body =
            r#"{"spawn":{"program":null,"args":["a",""],"env":[],"streams":[0,-1],"group":true}}"#;
        assert_eq!(said(body), Some(Message::Spawn(spawn)));
    }

    #[test]
    fn anything_else_is_odd() {
        let odd = [
            "",
            "{}",
            "[]",
            "null",
            "x",
            r#"{"exit": 1"#,
            r#"{"exit": "1"}"#,
            r#"{"exit": 1, "reap": 2}"#,
            r#"{"reap": 0}"#,
            r#"{"reap": -1}"#,
            r#"{"attend": 4294967297}"#,
            r#"{"serving": false}"#,
            r#"{"session": false}"#,
            r#"{"enter": ["mnt"]}"#,
            r#"{"enter": "tasks"}"#,
            r#"{"last": "1"}"#,
            r#"{"sing": true}"#,
            r#"{"spawn": {}}"#,
            r#"{"spawn": null}"#,
            r#"{"spawn":{"program":"/a\u0000b","args":[],"env":null,"streams":[],"group":false}}"#,
            r#"{"spawn":{"program":"/a","args":[1],"env":null,"streams":[],"group":false}}"#,
            r#"{"spawn":{"program":"/a","args":[],"env":null,"streams":[],"group":false,"more":1}}"#,
        ];
        for body in odd {
            assert_eq!(said(body), None, "{body}");
        }
    }

    #[test]
    fn a_part_of_a_frame_waits_for_the_rest() {
        let frame = framed(r#"{"exit": 3}"#);
        for length in 0..frame.len() {
            assert_eq!(parse(&frame[..length]), Parsed::Partial);
        }
        let two = [frame.as_slice(), b"\0"].concat();
        assert_eq!(parse(&two), Parsed::Whole(frame.len(), Message::Exit(3)));
    }

    #[test]
    fn a_frame_beyond_the_limit_is_not_waited_for() {
        assert_eq!(parse(&(LIMIT as u32).to_le_bytes()), Parsed::Partial);
        assert_eq!(parse(&(LIMIT as u32 + 1).to_le_bytes()), Parsed::Odd);
    }
}
