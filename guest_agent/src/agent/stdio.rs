//! The stdio of one process: pipes or a terminal on this side, chunks with credit on the other (`Stream` of agent.proto).
//!
//! Nothing is read from a process that the host has no credit for: a slow reader stops the process's writes, as a full
//! pipe does. Nothing is lost at an exit either: an output ends when all of it was sent.

use crate::connection::{CallId, Connection};
use crate::messages::Chunk;
use crate::watch::{self, Token, Watch};
use pysandbox_guest::sys::{self, Errno};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

/// Credit that may be open in one stream, what a chunk of data costs at least, and what it may hold.
pub const WINDOW: usize = 256 * 1024;
const LEAST_COST: usize = 16 * 1024;
const LONGEST: usize = 64 * 1024;

fn cost(length: usize) -> usize {
    length.max(LEAST_COST)
}

/// What the process reads.
#[derive(Default)]
struct Input {
    descriptor: Option<OwnedFd>,
    pending: VecDeque<Vec<u8>>,
    /// How much of the first of them is written.
    written: usize,
    /// What the host may still send, and what it may send again and was not told of yet.
    credit: usize,
    returned: usize,
    /// The host has said its last.
    ended: bool,
}

/// What the process writes.
#[derive(Default)]
struct Output {
    descriptor: Option<OwnedFd>,
    credit: usize,
    drained: bool,
}

#[derive(Default)]
pub struct Stdio {
    pub terminal: bool,
    input: Input,
    outputs: [Output; 2],
    call: Option<CallId>,
    serial: u64,
}

impl Stdio {
    /// The near ends of a process's pipes. A terminal's comes later.
    pub fn new(
        serial: u64,
        terminal: bool,
        input: Option<OwnedFd>,
        outputs: [Option<OwnedFd>; 2],
    ) -> Stdio {
        let output = |descriptor| Output {
            descriptor,
            ..Output::default()
        };
        let [first, second] = outputs;
        Stdio {
            terminal,
            input: Input {
                descriptor: input,
                ..Input::default()
            },
            outputs: [output(first), output(second)],
            call: None,
            serial,
        }
    }

    /// The terminal's master; `input` is another descriptor of it, where there is input.
    pub fn set_terminal(&mut self, output: OwnedFd, input: Option<OwnedFd>) {
        self.outputs[0].descriptor = Some(output);
        self.input.descriptor = input;
    }

    pub fn resize(&self, width: u16, height: u16) -> sys::Result<()> {
        let terminal = self.outputs[0]
            .descriptor
            .as_ref()
            .or(self.input.descriptor.as_ref());
        let terminal = terminal
            .filter(|_| self.terminal)
            .ok_or(Errno(libc::ENOTTY))?;
        sys::set_window_size(terminal.as_fd(), width, height)
    }

    pub fn is_streaming(&self) -> bool {
        self.call.is_some()
    }

    /// Whether there will be no more output, all of it sent (or refused).
    pub fn is_over(&self) -> bool {
        self.outputs
            .iter()
            .all(|output| output.descriptor.is_none())
    }

    /// The host has gone: another may take over. What was on its way is lost with it.
    pub fn disconnect(&mut self, watch: &Watch) {
        self.call = None;
        for output in &mut self.outputs {
            output.credit = 0;
            output.drained = false;
        }
        self.watch(watch, true);
    }

    /// The host asks for the stream, with credit for each output.
    pub fn open(&mut self, call: CallId, credit: u32, connection: &mut Connection) {
        self.call = Some(call);
        for output in &mut self.outputs {
            output.credit = (credit as usize).min(WINDOW);
        }
        let word = match self.input.descriptor.is_some() && !self.input.ended {
            true => {
                let held: usize = self.input.pending.iter().map(|data| cost(data.len())).sum();
                (self.input.credit, self.input.returned) = (WINDOW.saturating_sub(held), 0);
                Chunk {
                    credit: self.input.credit as u32,
                    ..Chunk::default()
                }
            }
            false => Chunk {
                end: true,
                ..Chunk::default()
            },
        };
        connection.send_message(call, &word, None);
    }

    /// A chunk from the host. Err: it breaks the rules.
    pub fn take(&mut self, chunk: Chunk, connection: &mut Connection) -> Result<(), &'static str> {
        if chunk.stream == 0 {
            return self.take_input(chunk, connection);
        }
        let output = self
            .outputs
            .get_mut(chunk.stream as usize - 1)
            .ok_or("there is no such stream")?;
        if !chunk.data.is_empty() {
            return Err("data for an output");
        }
        output.credit = (output.credit + chunk.credit as usize).min(WINDOW);
        if chunk.end {
            output.descriptor = None;
        }
        Ok(())
    }

    fn take_input(
        &mut self,
        chunk: Chunk,
        connection: &mut Connection,
    ) -> Result<(), &'static str> {
        if !chunk.data.is_empty() && self.input.descriptor.is_some() && !self.input.ended {
            let price = cost(chunk.data.len());
            if chunk.data.len() > LONGEST || price > self.input.credit {
                return Err("more input than there is credit for");
            }
            self.input.credit -= price;
            self.input.pending.push_back(chunk.data);
        }
        self.input.ended |= chunk.end;
        self.write_input(connection);
        Ok(())
    }

    /// The host says no more.
    pub fn end_input(&mut self, connection: &mut Connection) {
        self.input.ended = true;
        self.write_input(connection);
    }

    /// Write what the process takes of its input, and close it after the last.
    pub fn write_input(&mut self, connection: &mut Connection) {
        let input = &mut self.input;
        let mut refused = false;
        while let (Some(descriptor), Some(first)) = (&input.descriptor, input.pending.front()) {
            match sys::write(descriptor.as_fd(), &first[input.written..]) {
                Ok(length) if input.written + length < first.len() => input.written += length,
                Ok(_) => {
                    input.returned += cost(first.len());
                    input.written = 0;
                    input.pending.pop_front();
                }
                Err(Errno(libc::EAGAIN)) => break,
                Err(_) => {
                    refused = true; // nobody reads it any more
                    input.descriptor = None;
                    input.pending.clear();
                }
            }
        }
        if refused {
            return self.refuse_input(connection);
        }
        if input.ended && input.pending.is_empty() && !self.terminal {
            input.descriptor = None;
        }
        self.return_credit(connection);
    }

    fn refuse_input(&mut self, connection: &mut Connection) {
        if let (Some(call), false) = (self.call, self.input.ended) {
            let end = Chunk {
                end: true,
                ..Chunk::default()
            };
            connection.send_message(call, &end, None);
        }
        self.input.ended = true;
    }

    fn return_credit(&mut self, connection: &mut Connection) {
        let input = &mut self.input;
        let is_worth_it = input.returned >= WINDOW / 4 || input.pending.is_empty();
        if let (Some(call), true, false) = (self.call, is_worth_it, input.ended) {
            if input.returned > 0 {
                input.credit += input.returned;
                let credit = Chunk {
                    credit: input.returned as u32,
                    ..Chunk::default()
                };
                connection.send_message(call, &credit, None);
                input.returned = 0;
            }
        }
    }

    /// Something happened at the input: there is room again, or nobody reads it any more.
    pub fn input_ready(&mut self, events: u32, connection: &mut Connection) {
        const GONE: u32 = (libc::EPOLLERR | libc::EPOLLHUP) as u32;
        if events & GONE != 0 && !self.terminal {
            self.input.descriptor = None;
            self.input.pending.clear();
            self.refuse_input(connection);
        } else {
            self.write_input(connection);
        }
    }

    /// Send some of an output, if there is room for it.
    pub fn read_output(&mut self, index: usize, ended: bool, connection: &mut Connection) {
        let Some(call) = self.call else { return };
        let output = &mut self.outputs[index];
        let Some(descriptor) = &output.descriptor else {
            return;
        };
        if output.credit < LEAST_COST || !connection.has_room() {
            return;
        }
        let mut chunk = Chunk {
            stream: index as u32 + 1,
            data: vec![0; LONGEST.min(output.credit)],
            ..Chunk::default()
        };
        match sys::read(descriptor.as_fd(), &mut chunk.data) {
            Ok(length) if length > 0 => {
                chunk.data.truncate(length);
                output.credit -= cost(length);
                connection.send_message(call, &chunk, None);
            }
            Err(Errno(libc::EAGAIN)) => {}
            // The end; of a terminal that nobody has open any more it is EIO.
            Ok(_) | Err(_) => {
                chunk.data.clear();
                (chunk.end, chunk.drained) = (true, ended);
                output.descriptor = None;
                connection.send_message(call, &chunk, None);
            }
        }
    }

    /// The process has ended: tell of each output that is empty now that nothing of it is missing.
    pub fn tell_drained(&mut self, connection: &mut Connection) {
        let Some(call) = self.call else { return };
        for (index, output) in self.outputs.iter_mut().enumerate() {
            let Some(descriptor) = output.descriptor.as_ref().filter(|_| !output.drained) else {
                continue;
            };
            let wanted = [(descriptor.as_fd(), libc::POLLIN)];
            if matches!(sys::poll(&wanted, 0), Ok(events) if events[0] == 0) {
                output.drained = true;
                let word = Chunk {
                    stream: index as u32 + 1,
                    drained: true,
                    ..Chunk::default()
                };
                connection.send_message(call, &word, None);
            }
        }
    }

    /// End the stream when all is said: no output any more, and nobody to take input.
    pub fn end_if_over(&mut self, ended: bool, connection: &mut Connection) -> Option<CallId> {
        if !self.is_over() || !(ended || self.input.descriptor.is_none()) {
            return None;
        }
        let call = self.call.take()?;
        connection.end_stream(call);
        Some(call)
    }

    /// Watch what there is something to do with; outputs only while the host takes `more`.
    pub fn watch(&self, watch: &Watch, more: bool) {
        for (index, output) in self.outputs.iter().enumerate() {
            let Some(descriptor) = &output.descriptor else {
                continue;
            };
            match self.call.is_some() && more && output.credit >= LEAST_COST {
                true => {
                    let token = Token::Output(self.serial, index);
                    let _ = watch.set(descriptor.as_fd(), watch::READ, token);
                }
                false => watch.remove(descriptor.as_fd()),
            }
        }
        if let Some(descriptor) = &self.input.descriptor {
            let token = Token::Input(self.serial);
            let _ = match (self.input.pending.is_empty(), self.terminal) {
                (false, _) => watch.set(descriptor.as_fd(), watch::WRITE, token),
                (true, false) => watch.set(descriptor.as_fd(), watch::NOTHING, token),
                (true, true) => {
                    watch.remove(descriptor.as_fd());
                    Ok(())
                }
            };
        }
    }
}
