//! The life of containers and their processes: made, started, ended, removed.

use crate::agent::Agent;
use crate::cgroup::Cgroup;
use crate::connection::CallId;
use crate::launch::{aborted, write_process_file, Launch, Purpose, Stops, Waiting, Word};
use crate::messages::{CreateRequest, ExecRequest, ProcessResponse, Stdio as Streams};
use crate::process::{check_id, exit_code, Container, Process, Removal};
use crate::protobuf::Message;
use crate::status::{
    refuse, Answer, Said, Status, ABORTED, ALREADY_EXISTS, DEADLINE_EXCEEDED, FAILED_PRECONDITION,
    INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED, UNIMPLEMENTED, UNKNOWN,
};
use crate::stdio::Stdio;
use crate::sys as own;
use crate::watch::{self, Token};
use pysandbox_guest::sys;
use std::os::fd::{AsFd, OwnedFd};

/// Processes that are known at one time, and containers.
const MOST_PROCESSES: usize = 4096;
const MOST_CONTAINERS: usize = 512;
/// Nanoseconds between two looks at a container that is being removed, and until that is given up.
pub const REMOVAL_TICK: u64 = 3_000_000;
const REMOVAL_PATIENCE: u64 = 20_000_000_000;
/// Nanoseconds after a beginning until the next executor is started ahead: what has begun has the processor first.
const SPARE_PAUSE: u64 = 500_000_000;

/// Both ends of a process's stdio; the far ones are closed once it is started.
struct Ends {
    stdio: Stdio,
    far: [OwnedFd; 3],
}

/// Pipes, or /dev/null until a terminal takes its place.
fn make_ends(serial: u64, asked: &Streams) -> Answer<Ends> {
    let null = || sys::open(c"/dev/null", libc::O_RDWR | libc::O_NOCTTY).said("open", "/dev/null");
    if asked.terminal {
        return Ok(Ends {
            stdio: Stdio::new(serial, true, None, [None, None]),
            far: [null()?, null()?, null()?],
        });
    }
    let pipe = || sys::pipe().said("pipe2", "");
    let (output, far_output) = pipe()?;
    let (errors, far_errors) = pipe()?;
    let (far_input, input) = match asked.stdin {
        true => pipe().map(|(far, near)| (far, Some(near)))?,
        false => (null()?, None),
    };
    for near in [Some(&output), Some(&errors), input.as_ref()]
        .into_iter()
        .flatten()
    {
        own::set_nonblocking(near.as_fd()).said("fcntl", "")?;
    }
    Ok(Ends {
        stdio: Stdio::new(serial, false, input, [Some(output), Some(errors)]),
        far: [far_input, far_output, far_errors],
    })
}

impl Agent {
    // -- beginnings ---------------------------------------------------------------------------------------------------

    pub fn create(&mut self, call: CallId, mut request: CreateRequest) -> Answer<()> {
        check_id(&request.container)?;
        if self.containers.contains_key(&request.container) {
            let text = format!("container {} is in the guest already", request.container);
            return refuse(ALREADY_EXISTS, text);
        }
        if self.containers.len() >= MOST_CONTAINERS {
            return refuse(RESOURCE_EXHAUSTED, "too many containers");
        }
        let cgroup = Cgroup::create(&request.cgroup)?;
        let begun = self.begin_init(call, &mut request, &cgroup);
        let (serial, watch) = match begun {
            Ok(begun) => begun,
            Err(status) => {
                let _ = cgroup.remove();
                return Err(status);
            }
        };
        let container = Container {
            memory_kills: cgroup.memory_kills(),
            cgroup,
            init: serial,
            watch,
            removal: None,
        };
        self.containers.insert(request.container, container);
        Ok(())
    }

    fn begin_init(
        &mut self,
        call: CallId,
        request: &mut CreateRequest,
        cgroup: &Cgroup,
    ) -> Answer<(u64, Option<i32>)> {
        if !request.device_program.is_empty() {
            let program = self.rehearsal.program(&request.device_program)?;
            cgroup.set_device_program(program.as_fd())?;
        }
        let (fifo, starter) = sys::pipe().said("pipe2", "")?;
        let streams = request.stdio.take().unwrap_or_default();
        let timing = (Purpose::Create, request.timeout_ms);
        let stops = Stops::of(request);
        let slots = [("start", fifo.as_fd()), ("cgroup", cgroup.descriptor())];
        let name = (request.container.as_str(), "");
        let serial = self.begin(call, name, &request.plan, &streams, timing, stops, &slots)?;
        if let Some(process) = self.processes.get_mut(&serial) {
            process.starter = Some(starter);
        }
        // Without the memory controller there is nothing to watch.
        let watch = own::inotify_watch(self.kills.as_fd(), &cgroup.memory_events()).ok();
        Ok((serial, watch))
    }

    pub fn execute(&mut self, call: CallId, request: ExecRequest) -> Answer<()> {
        check_id(&request.exec_id)?;
        let init = self.find(&request.container, "")?;
        if self.find(&request.container, &request.exec_id).is_ok() {
            let text = format!("process {} is in the guest already", request.exec_id);
            return refuse(ALREADY_EXISTS, text);
        }
        let container = self.container(&request.container)?;
        let cgroup = container.cgroup.below(&request.cgroup)?;
        let init = &self.processes[&init];
        let process = match &init.pidfd {
            Some(process) if init.code.is_none() => process
                .try_clone()
                .map_err(|_| Status::new(RESOURCE_EXHAUSTED, "fcntl: too many open files"))?,
            _ => {
                return refuse(
                    FAILED_PRECONDITION,
                    format!("container {} does not run", request.container),
                )
            }
        };
        let stops = Stops {
            cgroup: request.cgroup,
            ..Stops::default()
        };
        let slots = [("process", process.as_fd()), ("cgroup", cgroup.as_fd())];
        let streams = request.stdio.unwrap_or_default();
        let name = (request.container.as_str(), request.exec_id.as_str());
        self.begin(
            call,
            name,
            &request.plan,
            &streams,
            (Purpose::Execute, 0),
            stops,
            &slots,
        )
        .map(|_| ())
    }

    #[allow(clippy::too_many_arguments)] // all that a beginning needs
    fn begin(
        &mut self,
        call: CallId,
        (container, exec_id): (&str, &str),
        plan: &[u8],
        streams: &Streams,
        (purpose, patience_ms): (Purpose, u32),
        stops: Stops,
        slots: &[(&str, std::os::fd::BorrowedFd)],
    ) -> Answer<u64> {
        if self.processes.len() >= MOST_PROCESSES {
            return refuse(RESOURCE_EXHAUSTED, "too many processes");
        }
        let serial = self.last_serial + 1;
        let ends = make_ends(serial, streams)?;
        let waiting = match self.spare.take().filter(Waiting::is_there) {
            Some(spare) => spare,
            None => Waiting::start(&self.executor)?,
        };
        self.next_spare = sys::monotonic() + SPARE_PAUSE;
        let mut launch = Launch::new(waiting, purpose, call, patience_ms);
        launch.request = stops;
        launch.wants_input = streams.stdin;
        let [stdin, stdout, stderr] = ends.far.each_ref().map(|end| end.as_fd());
        let stdio = [("stdin", stdin), ("stdout", stdout), ("stderr", stderr)];
        // Where that fails its socket closes, and the executor ends.
        launch.give(plan, &[slots, &stdio].concat())?;
        self.watch
            .set(launch.descriptor(), watch::READ, Token::Report(serial))
            .said("epoll_ctl", "report")?;
        self.last_serial = serial;
        let process = Process {
            container: container.to_string(),
            exec_id: exec_id.to_string(),
            pid: 0,
            pidfd: None,
            launch: Some(launch),
            starter: None,
            stdio: ends.stdio,
            code: None,
            known: false,
            told: false,
        };
        self.processes.insert(serial, process);
        Ok(serial)
    }

    /// Start an executor before anybody asks for it: whoever does finds it waiting. Where that fails, the next process
    /// waits for its own, or is told why not.
    pub fn make_spare(&mut self) {
        self.next_spare = sys::monotonic() + SPARE_PAUSE;
        self.spare = Waiting::start(&self.executor).ok();
    }

    /// Make one, unless something is being started: that goes first.
    pub fn make_spare_if_idle(&mut self) {
        let is_under_way = |launch: &Launch| launch.purpose != Purpose::Wait;
        let mut launches = self.processes.values().flat_map(|process| &process.launch);
        match launches.any(is_under_way) {
            true => self.next_spare = sys::monotonic() + SPARE_PAUSE,
            false => self.make_spare(),
        }
    }

    pub fn start(&mut self, call: CallId, container: &str) -> Answer<()> {
        let serial = self.find(container, "")?;
        let Some(process) = self.processes.get_mut(&serial) else {
            return refuse(NOT_FOUND, "");
        };
        let waiting = process.launch.as_mut();
        let waiting = waiting.filter(|launch| launch.purpose == Purpose::Wait);
        let (Some(launch), Some(starter)) = (waiting, process.starter.take()) else {
            return refuse(
                FAILED_PRECONDITION,
                format!("container {container} does not wait for start"),
            );
        };
        launch.purpose = Purpose::Start;
        launch.call = Some(call);
        launch.wait();
        sys::write(starter.as_fd(), &[0])
            .said("write", "start")
            .map(|_| ())
    }

    /// The serial number of a process.
    pub fn find(&self, container: &str, exec_id: &str) -> Answer<u64> {
        let init = self.container(container)?.init;
        if exec_id.is_empty() {
            return Ok(init);
        }
        let found = self
            .processes
            .iter()
            .find(|(_, process)| process.container == container && process.exec_id == exec_id);
        match found {
            Some((serial, _)) => Ok(*serial),
            None => refuse(
                NOT_FOUND,
                format!("container {container} has no process {exec_id}"),
            ),
        }
    }

    pub fn container(&self, id: &str) -> Answer<&Container> {
        match self
            .containers
            .get(id)
            .filter(|container| container.removal.is_none())
        {
            Some(container) => Ok(container),
            None => refuse(
                NOT_FOUND,
                format!("there is no container {id} in the guest"),
            ),
        }
    }

    // -- what the executor says ---------------------------------------------------------------------------------------

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

    // -- ends ---------------------------------------------------------------------------------------------------------

    /// Reap every child that has ended.
    pub fn reap(&mut self) {
        while let Ok(Some(pid)) = sys::ended_child(None) {
            // It told its pid before it ended: hear that first.
            if !self.is_known_child(pid) {
                let launching = self
                    .processes
                    .iter()
                    .filter(|(_, process)| process.launch.is_some());
                for serial in launching.map(|(serial, _)| *serial).collect::<Vec<_>>() {
                    self.hear(serial);
                }
            }
            let Ok(Some(status)) = sys::try_wait(pid) else {
                return;
            };
            self.ended(pid, status);
        }
    }

    fn is_known_child(&self, pid: i32) -> bool {
        self.processes.values().any(|process| process.pid == pid)
            || self
                .pending
                .iter()
                .any(|pending| pending.worker() == Some(pid))
    }

    fn ended(&mut self, pid: i32, status: i32) {
        if self.worker_ended(pid, status) {
            return;
        }
        self.spare.take_if(|spare| spare.outer == pid); // killed for want of memory, it may be
        for launch in self
            .processes
            .values_mut()
            .filter_map(|process| process.launch.as_mut())
        {
            if launch.outer == Some(pid) {
                launch.outer = None;
                return;
            }
        }
        let found = self
            .processes
            .iter_mut()
            .find(|(_, process)| process.pid == pid && process.code.is_none());
        let Some((&serial, process)) = found else {
            return; // the executor's outer process, or an orphan
        };
        process.code = Some(exit_code(status));
        let container = process.container.clone();
        self.look_for_kill(&container); // told before the exit that it caused
        self.tell_exit(serial);
        self.with_stdio(serial, |_, _, _| ());
    }

    /// Tell of an exit when the process has ended, its call is answered, and it was not told before.
    fn tell_exit(&mut self, serial: u64) {
        if let Some(process) = self.processes.get_mut(&serial) {
            if let (Some(code), true, false) = (
                process.code,
                process.known && process.launch.is_none(),
                process.told,
            ) {
                process.told = true;
                self.events.exit(&process.container, &process.exec_id, code);
            }
        }
        self.forget_if_over(serial);
    }

    /// A process beside init is forgotten once its exit was told and its output has ended. Init stays with its container.
    pub fn forget_if_over(&mut self, serial: u64) {
        let Some(process) = self.processes.get(&serial) else {
            return;
        };
        let is_held = self
            .containers
            .get(&process.container)
            .is_some_and(|container| process.exec_id.is_empty() && container.init == serial);
        if process.told && !is_held && process.stdio.is_over() && !process.stdio.is_streaming() {
            self.processes.remove(&serial);
        }
    }

    pub fn look_for_kills(&mut self) {
        let _ = sys::read(self.kills.as_fd(), &mut [0u8; 4096]);
        for container in self.containers.keys().cloned().collect::<Vec<_>>() {
            self.look_for_kill(&container);
        }
    }

    fn look_for_kill(&mut self, id: &str) {
        let Some(container) = self
            .containers
            .get_mut(id)
            .filter(|container| container.watch.is_some())
        else {
            return;
        };
        let kills = container.cgroup.memory_kills();
        if kills > container.memory_kills {
            container.memory_kills = kills;
            self.events.out_of_memory(id);
        }
    }

    // -- removal ------------------------------------------------------------------------------------------------------

    pub fn delete(&mut self, call: CallId, id: &str) -> Answer<()> {
        self.container(id)?;
        self.remove(id, Some(call), Ok(Vec::new()));
        Ok(())
    }

    /// End what is left of a container; when nothing is, its cgroup is removed and the call answered.
    fn remove(&mut self, id: &str, call: Option<CallId>, answer: Answer) {
        let Some(container) = self.containers.get_mut(id) else {
            if let Some(call) = call {
                self.answer(call, answer);
            }
            return;
        };
        container.cgroup.kill();
        container.removal = Some(Removal {
            call,
            answer,
            deadline: sys::monotonic() + REMOVAL_PATIENCE,
        });
        let mut given_up = Vec::new();
        for process in self
            .processes
            .values_mut()
            .filter(|process| process.container == id)
        {
            end_process(process);
            given_up.extend(process.launch.take().and_then(|launch| launch.call));
        }
        for call in given_up {
            let text = format!("container {id} is being deleted");
            self.answer(call, refuse(FAILED_PRECONDITION, text));
        }
        self.go_on_removing();
    }

    pub fn go_on_removing(&mut self) {
        let removing = self
            .containers
            .iter()
            .filter(|(_, container)| container.removal.is_some());
        for id in removing.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            let outcome = self.try_to_remove(&id);
            let Some(container) = self.containers.get(&id) else {
                continue;
            };
            let is_late = container
                .removal
                .as_ref()
                .is_some_and(|removal| removal.deadline <= sys::monotonic());
            match outcome {
                Ok(()) => self.removed(&id, None),
                Err(why) if is_late => self.removed(&id, Some(why)),
                Err(_) => {}
            }
        }
    }

    /// Err: what it still waits for.
    fn try_to_remove(&self, id: &str) -> Result<(), &'static str> {
        let Some(container) = self.containers.get(id) else {
            return Ok(());
        };
        let runs = |process: &Process| {
            process.container == id && process.code.is_none() && process.pid != 0
        };
        if container.cgroup.is_populated() {
            container.cgroup.kill(); // what was forked meanwhile
            return Err("processes do not end");
        }
        if self.processes.values().any(runs) {
            return Err("processes are not reaped");
        }
        container
            .cgroup
            .remove()
            .map_err(|_| "the cgroup cannot be removed")
    }

    fn removed(&mut self, id: &str, why_not: Option<&str>) {
        let Some(container) = self.containers.remove(id) else {
            return;
        };
        if let Some(watch) = container.watch {
            own::inotify_forget(self.kills.as_fd(), watch);
        }
        let answer = container
            .removal
            .and_then(|removal| removal.call.map(|call| (call, removal.answer)));
        // What streams still have to say, they say.
        self.processes
            .retain(|_, process| process.container != id || process.stdio.is_streaming());
        if let Some((call, answer)) = answer {
            let answer = match why_not {
                Some(why) => refuse(DEADLINE_EXCEEDED, format!("delete {id}: {why}")),
                None => answer,
            };
            self.answer(call, answer);
        }
    }
}

fn end_process(process: &Process) {
    if let (Some(pidfd), None) = (&process.pidfd, process.code) {
        let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
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
