//! The connection to the host: frames in, frames out, and which calls are under way.
//!
//! The descriptor is watched edge-triggered: a virtio port without a host behind it is hung up all the time. Nothing is
//! read while the host takes no answers, and streams wait long before that.

use crate::frame::{self, Frame, Reader};
use crate::messages::Response;
use crate::protobuf::Message;
use crate::status::{Answer, Status};
use pysandbox_guest::sys::{self, Errno};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes that wait for the host, from which on streams wait, and from which on no call is read any more.
pub const STREAMS_WAIT: usize = 256 * 1024;
const CALLS_WAIT: usize = 1024 * 1024;
/// Nanoseconds that a frame may stop in its middle before it is given up.
const STALL: u64 = 30_000_000_000;

/// One call of the host: a stream of the connection, as long as it is with the same host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId {
    era: u64,
    pub stream: u32,
}

/// What came.
pub enum Incoming {
    Request(CallId, u8, Vec<u8>),
    Data(CallId, u8, Vec<u8>),
    /// A new host, or none: all calls are forgotten.
    Reset,
}

struct Outgoing {
    bytes: Vec<u8>,
    /// Which event it tells.
    event: Option<u64>,
}

pub struct Connection {
    descriptor: Option<OwnedFd>,
    reader: Reader,
    readable: bool,
    writable: bool,
    hung_up: bool,
    read_at: u64,
    outgoing: VecDeque<Outgoing>,
    /// How much of the first is written, and how much waits in all.
    written: usize,
    waiting: usize,
    era: u64,
    last_stream: u32,
    /// The number of the last event that was written wholly.
    pub delivered: u64,
}

impl Connection {
    pub fn new() -> Connection {
        Connection {
            descriptor: None,
            reader: Reader::default(),
            readable: false,
            writable: false,
            hung_up: false,
            read_at: 0,
            outgoing: VecDeque::new(),
            written: 0,
            waiting: 0,
            era: 0,
            last_stream: 0,
            delivered: 0,
        }
    }

    /// Use another descriptor from now on; the one before is closed.
    pub fn replace(&mut self, descriptor: Option<OwnedFd>) {
        self.descriptor = descriptor;
        (self.readable, self.writable) = (true, true);
        self.hung_up = false;
        self.reset();
    }

    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.descriptor.as_ref().map(|fd| fd.as_fd())
    }

    /// Forget the host that was: its calls, what it half said, and what it was half told.
    fn reset(&mut self) {
        self.era += 1;
        self.last_stream = 0;
        self.reader = Reader::default();
        self.outgoing.clear();
        (self.written, self.waiting) = (0, 0);
    }

    /// epoll has something to say.
    pub fn wake(&mut self, events: u32) {
        const READ: u32 = (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLERR) as u32;
        self.readable |= events & READ != 0;
        self.writable |= events & libc::EPOLLOUT as u32 != 0;
    }

    /// Whether streams may send more.
    pub fn has_room(&self) -> bool {
        self.waiting < STREAMS_WAIT
    }

    /// Whether there is something to do without waiting for epoll.
    pub fn is_ready(&self) -> bool {
        (self.readable && self.waiting < CALLS_WAIT) || (self.writable && self.waiting > 0)
    }

    /// When a frame that has stopped in its middle is given up.
    pub fn deadline(&self) -> Option<u64> {
        self.reader.is_partial().then_some(self.read_at + STALL)
    }

    /// The next thing that came, if there is any and answers are being taken. Err: there is no connection any more.
    pub fn next(&mut self) -> Result<Option<Incoming>, Errno> {
        if self.waiting >= CALLS_WAIT || self.descriptor.is_none() {
            return Ok(None);
        }
        loop {
            while let Some(frame) = self.reader.next() {
                if let Some(incoming) = self.sort(frame) {
                    return Ok(Some(incoming));
                }
            }
            if !self.readable {
                return Ok(None);
            }
            if let Some(incoming) = self.read()? {
                return Ok(Some(incoming));
            }
        }
    }

    fn read(&mut self) -> Result<Option<Incoming>, Errno> {
        let now = sys::monotonic();
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.reader.lose();
        }
        let mut buffer = [0u8; 32 * 1024];
        let descriptor = self.descriptor.as_ref().ok_or(Errno(libc::ENOTCONN))?;
        match sys::read(descriptor.as_fd(), &mut buffer) {
            // A port whose host has gone: it may come back.
            Ok(0) => {
                self.readable = false;
                if self.hung_up {
                    return Ok(None);
                }
                self.hung_up = true;
                self.reset();
                Ok(Some(Incoming::Reset))
            }
            Ok(length) => {
                self.hung_up = false;
                self.read_at = now;
                self.reader.feed(&buffer[..length]);
                Ok(None)
            }
            Err(Errno(libc::EAGAIN)) => {
                self.readable = false;
                Ok(None)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Whether the last word of the other side was that it goes: a socket does not come back.
    pub fn is_hung_up(&self) -> bool {
        self.hung_up
    }

    fn sort(&mut self, frame: Frame) -> Option<Incoming> {
        match frame {
            Frame::Reset(bytes) => {
                let rest = std::mem::take(&mut self.reader);
                self.reset();
                self.reader = rest;
                self.queue(bytes, None);
                Some(Incoming::Reset)
            }
            Frame::Request {
                stream,
                flags,
                payload,
            } => {
                if stream % 2 == 0 || stream <= self.last_stream {
                    return None; // no host of ours does that
                }
                self.last_stream = stream;
                Some(Incoming::Request(self.call(stream), flags, payload))
            }
            Frame::Data {
                stream,
                flags,
                payload,
            } => Some(Incoming::Data(self.call(stream), flags, payload)),
        }
    }

    fn call(&self, stream: u32) -> CallId {
        CallId {
            era: self.era,
            stream,
        }
    }

    // -- answers ------------------------------------------------------------------------------------------------------

    /// Answer a call. One of a host that has gone hears nothing.
    pub fn answer(&mut self, call: CallId, answer: Answer) {
        let response = match answer {
            Ok(payload) if payload.len() <= frame::LIMIT - 64 => Response {
                status: None,
                payload,
            },
            Ok(payload) => {
                let text = format!("answer of {} bytes is too long", payload.len());
                let status = Status::new(crate::status::RESOURCE_EXHAUSTED, text);
                return self.answer(call, Err(status));
            }
            Err(status) => Response {
                status: Some(status.message()),
                payload: Vec::new(),
            },
        };
        self.send(call, frame::RESPONSE, 0, &response.encode(), None);
    }

    /// One message of a stream; `event` is the number of the event that it tells.
    pub fn send_message(&mut self, call: CallId, message: &impl Message, event: Option<u64>) {
        self.send(call, frame::DATA, 0, &message.encode(), event);
    }

    pub fn end_stream(&mut self, call: CallId) {
        let flags = frame::REMOTE_CLOSED | frame::NO_DATA;
        self.send(call, frame::DATA, flags, &[], None);
    }

    fn send(&mut self, call: CallId, kind: u8, flags: u8, payload: &[u8], event: Option<u64>) {
        if call.era == self.era {
            self.queue(frame::encode(call.stream, kind, flags, payload), event);
        }
    }

    fn queue(&mut self, bytes: Vec<u8>, event: Option<u64>) {
        self.waiting += bytes.len();
        self.outgoing.push_back(Outgoing { bytes, event });
    }

    /// Write what waits, as far as there is room for it. Err: there is no connection any more.
    pub fn flush(&mut self) -> Result<(), Errno> {
        while let (true, Some(first)) = (self.writable, self.outgoing.front()) {
            let descriptor = self.descriptor.as_ref().ok_or(Errno(libc::ENOTCONN))?;
            match sys::write(descriptor.as_fd(), &first.bytes[self.written..]) {
                Ok(length) => self.wrote(length),
                Err(Errno(libc::EAGAIN)) => self.writable = false,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn wrote(&mut self, length: usize) {
        self.written += length;
        self.waiting -= length;
        let is_whole = |first: &Outgoing| self.written == first.bytes.len();
        if self.outgoing.front().is_some_and(is_whole) {
            self.written = 0;
            if let Some(Outgoing {
                event: Some(number),
                ..
            }) = self.outgoing.pop_front()
            {
                self.delivered = number;
            }
        }
    }
}
