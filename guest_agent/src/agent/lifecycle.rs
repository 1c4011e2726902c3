//! Containers and their processes: made and started. `reports.rs` is how that goes on, `ending.rs` how it ends.

use crate::agent::Agent;
use crate::cgroup::Cgroup;
use crate::connection::CallId;
use crate::launch::{Launch, Purpose, Stops, Waiting};
use crate::messages::{CreateRequest, ExecRequest, Stdio as Streams};
use crate::process::{check_id, Container, Process};
use crate::status::{
    refuse, Answer, Said, Status, ALREADY_EXISTS, FAILED_PRECONDITION, NOT_FOUND,
    RESOURCE_EXHAUSTED,
};
use crate::stdio::Stdio;
use crate::sys as own;
use crate::watch::{self, Token};
use pysandbox_guest::sys;
use std::os::fd::{AsFd, OwnedFd};

/// Processes that are known at one time, and containers.
const MOST_PROCESSES: usize = 4096;
const MOST_CONTAINERS: usize = 512;
/// Nanoseconds after a beginning until the next executor is started ahead: what has begun has the processor first.
pub const SPARE_PAUSE: u64 = 500_000_000;

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
}
