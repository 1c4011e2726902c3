//! What executors say while they carry a plan out, and what the agent does about it.

use crate::agent::Agent;
use crate::ending::end_process;
use crate::launch::{aborted, write_process_file, Launch, Purpose, Word};
use crate::lifecycle::SPARE_PAUSE;
use crate::messages::ProcessResponse;
use crate::process::Process;
use crate::protobuf::Message;
use crate::status::{
    refuse, Answer, Said, Status, ABORTED, DEADLINE_EXCEEDED, FAILED_PRECONDITION,
    INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED, UNKNOWN,
};
use crate::sys as own;
use pysandbox_guest::sys;
use std::os::fd::AsFd;

impl Agent {
    /// Hear all that an executor says now.
    pub fn hear(&mut self, serial: u64) {
        loop {
            let process = self.processes.get_mut(&serial);
            let Some(launch) = process.and_then(|process| process.launch.as_mut()) else {
                return;
            };
            let heard = launch.hear();
            let outcome = match heard {
                Ok(None) => return,
                Ok(Some(word)) => self.obey(serial, word),
                Err(status) => Err(status),
            };
            if let Err(status) = outcome {
                return self.fail(serial, status);
            }
        }
    }

    fn obey(&mut self, serial: u64, word: Word) -> Answer<()> {
        match word {
            Word::Nothing => Ok(()),
            Word::Pid(pid) => self.learn_pid(serial, pid),
            Word::Descriptor(name) if name == "console" => self.take_console(serial),
            Word::Descriptor(_) => Ok(()),
            Word::Stop(name) => self.stop(serial, &name),
            Word::Listener => refuse(
                UNIMPLEMENTED,
                "a seccomp listener has nobody in a guest to listen",
            ),
            Word::Error(datagram) => Err(aborted(datagram)),
            Word::End => self.executed(serial),
        }
    }

    /// The pid is told twice: by the process itself, and by the one that made it.
    fn learn_pid(&mut self, serial: u64, pid: i32) -> Answer<()> {
        let process = self.process(serial)?;
        if process.pid == pid {
            return Ok(());
        }
        // Whoever may trace the executor can say any number: only a child is believed in.
        if process.pid != 0 || sys::ended_child(Some(pid)).is_err() {
            return refuse(
                UNKNOWN,
                format!("the executor says that it is process {pid}"),
            );
        }
        process.pidfd = Some(sys::pidfd_open(pid).said("pidfd_open", "")?);
        process.pid = pid;
        Ok(())
    }

    fn process(&mut self, serial: u64) -> Answer<&mut Process> {
        match self.processes.get_mut(&serial) {
            Some(process) => Ok(process),
            None => refuse(NOT_FOUND, "the process has gone"),
        }
    }

    fn take_console(&mut self, serial: u64) -> Answer<()> {
        let process = self.process(serial)?;
        let Some(launch) = process.launch.as_mut() else {
            return Ok(());
        };
        let wants_input = launch.wants_input;
        let Some((_, master)) = launch.received.pop().filter(|_| process.stdio.terminal) else {
            return refuse(
                INVALID_ARGUMENT,
                "the plan makes a terminal, and the call asks for none",
            );
        };
        own::set_nonblocking(master.as_fd()).said("fcntl", "console")?;
        let input = match wants_input {
            true => Some(sys::duplicate_beyond(master.as_fd(), 3).said("fcntl", "console")?),
            false => None,
        };
        process.stdio.set_terminal(master, input);
        Ok(())
    }

    fn stop(&mut self, serial: u64, name: &str) -> Answer<()> {
        let process = self.process(serial)?;
        let container = process.container.clone();
        let Some(launch) = process.launch.as_mut() else {
            return Ok(());
        };
        let pid = match process.pid {
            0 => launch.outer.unwrap_or(0),
            pid => pid,
        };
        match name {
            "runtime_created" => {
                let limits = std::mem::take(&mut launch.request.limits);
                let cgroup = &self.container(&container)?.cgroup;
                limits.iter().try_for_each(|limit| cgroup.write(limit))?;
            }
            "cgroup" => {
                let below = launch.request.cgroup.clone();
                self.container(&container)?.cgroup.add(&below, pid)?;
            }
            "id_maps" => {
                write_process_file(pid, "uid_map", launch.request.uid_map.as_bytes())?;
                write_process_file(pid, "gid_map", launch.request.gid_map.as_bytes())?;
            }
            "time_offsets" => {
                write_process_file(
                    pid,
                    "timens_offsets",
                    launch.request.time_offsets.as_bytes(),
                )?;
            }
            "id_map_mount" | "id_map_tree" => map_mount(launch, name == "id_map_tree")?,
            "ready" => return self.ready(serial),
            _ => {
                return refuse(
                    UNIMPLEMENTED,
                    format!("the executor stops at {name:?}, which no guest has"),
                )
            }
        }
        if let Some(launch) = self.process(serial)?.launch.as_mut() {
            launch.go();
        }
        Ok(())
    }

    /// Init has done all but the program.
    fn ready(&mut self, serial: u64) -> Answer<()> {
        let process = self.process(serial)?;
        let pid = process.pid;
        let Some(launch) = process.launch.as_mut() else {
            return Ok(());
        };
        let call = launch
            .call
            .take()
            .filter(|_| launch.purpose == Purpose::Create && pid > 0);
        let Some(call) = call else {
            return refuse(UNKNOWN, "the executor is ready before its time");
        };
        launch.go();
        launch.purpose = Purpose::Wait;
        launch.deadline = None;
        process.known = true;
        self.answer(call, Ok(ProcessResponse { pid: pid as u32 }.encode()));
        Ok(())
    }

    /// Why an executor may have ended without a word: in runc's words, if it was killed.
    fn wordless(&self, container: &str) -> Status {
        let found = self.containers.get(container);
        match found.is_some_and(|container| container.cgroup.memory_kills() > 0) {
            true => Status::new(
                FAILED_PRECONDITION,
                "container init was OOM-killed (memory limit too low?)",
            ),
            false => Status::new(UNKNOWN, "the executor ended without a word"),
        }
    }

    /// The report socket has ended: the program runs, or the process has died without a word.
    fn executed(&mut self, serial: u64) -> Answer<()> {
        let process = self.process(serial)?;
        let (pid, container) = (process.pid, process.container.clone());
        let Some(launch) = process.launch.take() else {
            return Ok(());
        };
        let answer = match launch.purpose {
            Purpose::Create => Err(self.wordless(&container)),
            Purpose::Execute if pid == 0 => Err(self.wordless(&container)),
            Purpose::Execute => {
                let process = self.process(serial)?;
                process.known = true;
                Ok(ProcessResponse { pid: pid as u32 }.encode())
            }
            Purpose::Wait | Purpose::Start => Ok(Vec::new()),
        };
        if let Err(status) = answer {
            self.process(serial)?.launch = Some(launch);
            return Err(status);
        }
        self.next_spare = sys::monotonic() + SPARE_PAUSE; // what has just begun goes first
        if let Some(call) = launch.call {
            self.answer(call, answer);
        }
        self.tell_exit(serial);
        Ok(())
    }

    /// A launch has failed: end what was made, and say why.
    fn fail(&mut self, serial: u64, status: Status) {
        let Some(process) = self.processes.get_mut(&serial) else {
            return;
        };
        let Some(launch) = process.launch.take() else {
            return;
        };
        if let Some(outer) = launch.outer {
            let _ = sys::kill(outer, libc::SIGKILL);
        }
        if status.code != ABORTED {
            end_process(process); // the executor that tells an error ends by itself
        }
        if process.known {
            if let Some(call) = launch.call {
                self.answer(call, Err(status));
            }
            return self.tell_exit(serial);
        }
        let container = process.container.clone();
        match launch.purpose {
            Purpose::Create => self.remove(&container, launch.call, Err(status)),
            _ => {
                self.processes.remove(&serial);
                if let Some(call) = launch.call {
                    self.answer(call, Err(status));
                }
            }
        }
    }

    pub fn end_silent_launches(&mut self) {
        let now = sys::monotonic();
        let is_late = |process: &Process| {
            let deadline = process.launch.as_ref().and_then(|launch| launch.deadline);
            deadline.is_some_and(|deadline| deadline <= now)
        };
        let late = self
            .processes
            .iter()
            .filter(|(_, process)| is_late(process));
        for serial in late.map(|(serial, _)| *serial).collect::<Vec<_>>() {
            let text = "the executor has said nothing for too long";
            self.fail(serial, Status::new(DEADLINE_EXCEEDED, text));
        }
    }
}

/// Give a detached mount the id map of a user namespace; the executor has sent both.
fn map_mount(launch: &mut Launch, recursive: bool) -> Answer<()> {
    let mut take = |name: &str| {
        let position = launch.received.iter().position(|(each, _)| each == name);
        match position {
            Some(position) => Ok(launch.received.swap_remove(position).1),
            None => refuse(UNKNOWN, format!("the executor has not sent {name}")),
        }
    };
    let (mount, namespace) = (take("mount")?, take("id_map")?);
    let attributes = sys::MountAttr {
        set: sys::MOUNT_ATTR_IDMAP,
        userns: std::os::fd::AsRawFd::as_raw_fd(&namespace) as u64,
        ..sys::MountAttr::default()
    };
    sys::mount_setattr(mount.as_fd(), recursive, &attributes).said("mount_setattr", "id map")
}
