//! The service of `agent.proto`: which function answers which call.

use crate::agent::{Agent, Calling};
use crate::connection::CallId;
use crate::frame::{NO_DATA, REMOTE_CLOSED};
use crate::messages::{
    Chunk, ContainerRequest, PidsResponse, ReadRequest, ReadResponse, Request, ResizeRequest,
    SignalRequest, StartRequest, WriteRequest,
};
use crate::process::check_id;
use crate::protobuf::Message;
use crate::status::{
    refuse, Answer, Said, ALREADY_EXISTS, FAILED_PRECONDITION, INVALID_ARGUMENT, NOT_FOUND,
    RESOURCE_EXHAUSTED, UNIMPLEMENTED,
};
use pysandbox_guest::sys;
use std::os::fd::AsFd;

const SERVICE: &str = "pysandbox.agent.v1.Agent";
/// Calls under way.
const MOST_CALLS: usize = 8192;
/// Files of one Read, and bytes of its answer.
const MOST_FILES: usize = 128;
const LONGEST_ANSWER: usize = 2 * 1024 * 1024;

impl Agent {
    /// Serve one call: answer it, or remember what it waits for.
    pub fn serve(&mut self, call: CallId, flags: u8, payload: &[u8]) {
        if self.calls.len() >= MOST_CALLS {
            return self.answer(call, refuse(RESOURCE_EXHAUSTED, "too many calls"));
        }
        let outcome = match Request::decode(payload) {
            Ok(request) if request.service == SERVICE => self.dispatch_call(call, flags, &request),
            Ok(request) => refuse(
                UNIMPLEMENTED,
                format!("{}: no such service", request.service),
            ),
            Err(malformed) => Err(malformed.into()),
        };
        match outcome {
            Ok(Some(answer)) => self.answer(call, Ok(answer)),
            Ok(None) => {}
            Err(status) => self.answer(call, Err(status)),
        }
    }

    /// The answer of a call, None for one that is answered later.
    fn dispatch_call(
        &mut self,
        call: CallId,
        flags: u8,
        request: &Request,
    ) -> Answer<Option<Vec<u8>>> {
        let payload = request.payload.as_slice();
        let done = |_: ()| Some(Vec::new());
        match request.method.as_str() {
            "Check" => Ok(Some(crate::machine::check().encode())),
            "Prepare" => self.prepare(Message::decode(payload)?).map(done),
            "Signal" => self.signal(Message::decode(payload)?).map(done),
            "Resize" => self.resize(Message::decode(payload)?).map(done),
            "Pids" => self.pids(Message::decode(payload)?).map(Some),
            "Read" => self.read(Message::decode(payload)?).map(Some),
            "Write" => self.write(Message::decode(payload)?).map(done),
            "Rehearse" => self.rehearse(Message::decode(payload)?).map(done),
            method => {
                self.calls.insert(call, Calling::Answer);
                self.begin_call(call, flags, method, payload).map(|()| None)
            }
        }
    }

    /// Calls that are answered later.
    fn begin_call(&mut self, call: CallId, flags: u8, method: &str, payload: &[u8]) -> Answer<()> {
        match method {
            "Create" => self.create(call, Message::decode(payload)?),
            "Exec" => self.execute(call, Message::decode(payload)?),
            "Start" => self.start(call, &StartRequest::decode(payload)?.container),
            "Delete" => self.delete(call, &ContainerRequest::decode(payload)?.container),
            "Attach" => self.attach(call, Message::decode(payload)?),
            "Detach" => self.detach(call, Message::decode(payload)?),
            "Grow" => self.grow(call, Message::decode(payload)?),
            "Connect" => self.connect_network(call, Message::decode(payload)?),
            "Events" => self.listen(call),
            "Stream" if flags & REMOTE_CLOSED == 0 => {
                self.calls.insert(call, Calling::Unnamed);
                match payload.is_empty() {
                    true => Ok(()),
                    false => self.take_chunk(call, payload),
                }
            }
            _ => refuse(UNIMPLEMENTED, format!("{method}: no such method")),
        }
    }

    fn listen(&mut self, call: CallId) -> Answer<()> {
        if !self.events.open(call) {
            return refuse(FAILED_PRECONDITION, "events are being told already");
        }
        self.calls.insert(call, Calling::Events);
        Ok(())
    }

    // -- streams ------------------------------------------------------------------------------------------------------

    /// A message of a stream. What is for none that is open is late, not wrong: its process has just ended.
    pub fn take_data(&mut self, call: CallId, flags: u8, payload: &[u8]) {
        let outcome = match flags & NO_DATA {
            0 => self.take_chunk(call, payload),
            _ => Ok(()),
        };
        if let Err(status) = outcome {
            if let Some(Calling::Stream(serial)) = self.calls.get(&call) {
                let serial = *serial;
                if let Some(process) = self.processes.get_mut(&serial) {
                    process.stdio.disconnect(&self.watch);
                }
            }
            return self.answer(call, Err(status));
        }
        if flags & REMOTE_CLOSED != 0 {
            if let Some(Calling::Stream(serial)) = self.calls.get(&call) {
                self.with_stdio(*serial, |stdio, _, connection| stdio.end_input(connection));
            }
        }
    }

    fn take_chunk(&mut self, call: CallId, payload: &[u8]) -> Answer<()> {
        let serial = match self.calls.get(&call) {
            Some(Calling::Stream(serial)) => *serial,
            Some(Calling::Unnamed) => return self.open_stream(call, Chunk::decode(payload)?),
            _ => return Ok(()),
        };
        let chunk = Chunk::decode(payload)?;
        let mut outcome = Ok(());
        self.with_stdio(serial, |stdio, _, connection| {
            outcome = stdio.take(chunk, connection)
        });
        outcome.or_else(|why| refuse(INVALID_ARGUMENT, why))
    }

    fn open_stream(&mut self, call: CallId, first: Chunk) -> Answer<()> {
        let serial = self.find(&first.container, &first.exec_id)?;
        let process = &self.processes[&serial];
        if process.stdio.is_streaming() {
            return refuse(
                ALREADY_EXISTS,
                "the process's stdio is being streamed already",
            );
        }
        self.calls.insert(call, Calling::Stream(serial));
        self.with_stdio(serial, |stdio, _, connection| {
            stdio.open(call, first.credit, connection)
        });
        Ok(())
    }

    // -- calls that are answered at once ------------------------------------------------------------------------------

    fn signal(&mut self, request: SignalRequest) -> Answer<()> {
        let number = i32::try_from(request.signal)
            .ok()
            .filter(|number| (0..=64).contains(number));
        let Some(number) = number else {
            return refuse(
                INVALID_ARGUMENT,
                format!("{}: is no signal", request.signal),
            );
        };
        if request.everyone {
            let cgroup = &self.container(&request.container)?.cgroup;
            if number == libc::SIGKILL {
                cgroup.kill();
            } else {
                cgroup.pids().into_iter().for_each(|pid| {
                    let _ = sys::kill(pid, number); // one that has ended meanwhile
                });
            }
            return Ok(());
        }
        let process = &self.processes[&self.find(&request.container, &request.exec_id)?];
        match (&process.pidfd, process.code) {
            (Some(pidfd), None) => sys::pidfd_send_signal(pidfd.as_fd(), number)
                .said("pidfd_send_signal", &request.container),
            _ => refuse(
                NOT_FOUND,
                format!("the process of container {} has ended", request.container),
            ),
        }
    }

    fn resize(&mut self, request: ResizeRequest) -> Answer<()> {
        let process = &self.processes[&self.find(&request.container, &request.exec_id)?];
        let (Ok(width), Ok(height)) = (u16::try_from(request.width), u16::try_from(request.height))
        else {
            return refuse(
                INVALID_ARGUMENT,
                "a terminal has at most 65535 columns and rows",
            );
        };
        process
            .stdio
            .resize(width, height)
            .said("ioctl", "TIOCSWINSZ")
    }

    fn pids(&self, request: ContainerRequest) -> Answer<Vec<u8>> {
        let pids = self.container(&request.container)?.cgroup.pids();
        let pids = pids
            .into_iter()
            .filter_map(|pid| u32::try_from(pid).ok())
            .collect();
        Ok(PidsResponse { pids }.encode())
    }

    fn read(&self, request: ReadRequest) -> Answer<Vec<u8>> {
        let cgroup = &self.container(&request.container)?.cgroup;
        if request.files.len() > MOST_FILES {
            return refuse(INVALID_ARGUMENT, format!("more than {MOST_FILES} files"));
        }
        let mut answer = ReadResponse::default();
        let mut length = 0;
        for file in request.files {
            if let Some(text) = cgroup.read(&file)? {
                length += text.len();
                answer.contents.insert(file, text);
            }
            if length > LONGEST_ANSWER {
                return refuse(RESOURCE_EXHAUSTED, "the files are too long");
            }
        }
        Ok(answer.encode())
    }

    fn write(&mut self, request: WriteRequest) -> Answer<()> {
        check_id(&request.container)?;
        let cgroup = &self.container(&request.container)?.cgroup;
        request
            .writes
            .iter()
            .try_for_each(|write| cgroup.write(write))?;
        match request.device_program.is_empty() {
            true => Ok(()),
            false => {
                let program = self.rehearsal.program(&request.device_program)?;
                cgroup.set_device_program(program.as_fd())
            }
        }
    }
}
