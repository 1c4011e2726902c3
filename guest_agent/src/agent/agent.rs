//! The agent: one thread, one loop, all that it knows.

use crate::connection::{CallId, Connection, Incoming};
use crate::devices::Pending;
use crate::events::Events;
use crate::launch::{Executor, Waiting};
use crate::port::Port;
use crate::process::{Container, Process};
use crate::rehearsal::Rehearsal;
use crate::status::Answer;
use crate::sys as own;
use crate::watch::{self, Token, Watch};
use pysandbox_guest::sys::{self, Errno};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

/// What a call that is under way waits for.
pub enum Calling {
    /// An answer, which somebody has promised.
    Answer,
    Events,
    /// A stream that has not said whose it is, and one that has.
    Unnamed,
    Stream(u64),
}

pub struct Agent {
    pub watch: Watch,
    pub connection: Connection,
    pub port: Port,
    pub executor: Executor,
    pub signals: OwnedFd,
    pub uevents: Option<OwnedFd>,
    /// inotify(7) of the containers' memory.events.
    pub kills: OwnedFd,
    pub calls: BTreeMap<CallId, Calling>,
    pub containers: BTreeMap<String, Container>,
    pub processes: BTreeMap<u64, Process>,
    pub last_serial: u64,
    /// An executor that is there before it is asked for, and when there is to be another.
    pub spare: Option<Waiting>,
    pub next_spare: u64,
    pub events: Events,
    pub pending: Vec<Pending>,
    /// Something new may have appeared since `pending` was looked at.
    pub news: bool,
    pub rehearsal: Rehearsal,
    /// Some outputs are not watched: the host does not take what it was sent.
    pub held: bool,
    /// This is a guest of its own, not a test on a host: clocks and the like may be set.
    pub is_guest: bool,
}

impl Agent {
    pub fn new(port: Port, executor: Executor, is_guest: bool) -> Result<Agent, Errno> {
        // Signals are read, none interrupts; what is written to nobody is an error, not a signal.
        let of = |signal: i32| 1u64 << (signal - 1);
        sys::set_signal_mask(of(libc::SIGCHLD) | of(libc::SIGPIPE));
        let agent = Agent {
            watch: Watch::new()?,
            connection: Connection::new(),
            port,
            executor,
            signals: sys::signal_descriptor(of(libc::SIGCHLD))?,
            uevents: own::netlink(libc::NETLINK_KOBJECT_UEVENT, 1, true).ok(),
            kills: own::inotify()?,
            calls: BTreeMap::new(),
            containers: BTreeMap::new(),
            processes: BTreeMap::new(),
            last_serial: 0,
            spare: None,
            next_spare: 0,
            events: Events::default(),
            pending: Vec::new(),
            news: false,
            rehearsal: Rehearsal::default(),
            held: false,
            is_guest,
        };
        let set = |fd: &OwnedFd, token| agent.watch.set(fd.as_fd(), watch::READ, token);
        set(&agent.signals, Token::Signals)?;
        set(&agent.kills, Token::Cgroups)?;
        if let Some(uevents) = &agent.uevents {
            set(uevents, Token::Uevents)?;
        }
        Ok(agent)
    }

    /// Serve for ever. Err: what makes it impossible.
    pub fn run(mut self) -> Result<(), Errno> {
        // Before anybody can save this machine as a template.
        self.make_spare();
        if let Some(spare) = &self.spare {
            spare.settle();
        }
        self.open_port()?;
        loop {
            for (events, token) in self.watch.wait(self.deadline())? {
                self.dispatch(events, token)?;
            }
            self.turn()?;
        }
    }

    fn dispatch(&mut self, events: u32, token: Token) -> Result<(), Errno> {
        match token {
            Token::Host => self.connection.wake(events),
            Token::Listener => self.accept()?,
            Token::Signals => {
                while sys::next_signal(self.signals.as_fd()).is_some() {}
                self.reap();
            }
            Token::Uevents => self.read_uevents(),
            Token::Cgroups => self.look_for_kills(),
            Token::Report(serial) => self.hear(serial),
            Token::Input(serial) => self.with_stdio(serial, |stdio, _, connection| {
                stdio.input_ready(events, connection);
            }),
            Token::Output(serial, index) => self.with_stdio(serial, |stdio, ended, connection| {
                stdio.read_output(index, ended, connection);
            }),
        }
        Ok(())
    }

    /// What is to be done in every turn: calls, deadlines, and what is to be sent.
    fn turn(&mut self) -> Result<(), Errno> {
        const MOST: usize = 64;
        for _ in 0..MOST {
            match self.connection.next() {
                Ok(Some(incoming)) => self.take(incoming),
                Ok(None) => break,
                Err(_) => self.lost()?,
            }
        }
        if self.connection.is_hung_up() && !self.port.comes_back() {
            self.lost()?;
        }
        self.on_time();
        self.events.send(&mut self.connection);
        if self.connection.flush().is_err() {
            self.lost()?;
        }
        self.events.send(&mut self.connection); // forgets what was delivered
        self.release();
        Ok(())
    }

    fn take(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Request(call, flags, payload) => self.serve(call, flags, &payload),
            Incoming::Data(call, flags, payload) => self.take_data(call, flags, &payload),
            Incoming::Reset => self.disconnect(),
        }
    }

    /// The host that was is no more. Containers stay as they are.
    fn disconnect(&mut self) {
        self.calls.clear();
        self.events.disconnect();
        for process in self.processes.values_mut() {
            process.stdio.disconnect(&self.watch);
        }
        self.held = false;
    }

    /// Watch outputs again when the host has taken enough.
    fn release(&mut self) {
        if self.held && self.connection.has_room() {
            self.held = false;
            for process in self.processes.values() {
                process.stdio.watch(&self.watch, true);
            }
        }
    }

    // -- the port -----------------------------------------------------------------------------------------------------

    fn open_port(&mut self) -> Result<(), Errno> {
        let descriptor = self.port.open(&self.watch)?;
        self.connect(descriptor)
    }

    fn connect(&mut self, descriptor: Option<OwnedFd>) -> Result<(), Errno> {
        if let Some(descriptor) = &descriptor {
            own::set_nonblocking(descriptor.as_fd())?;
            self.watch
                .set(descriptor.as_fd(), watch::CHANGES, Token::Host)?;
        }
        self.connection.replace(descriptor);
        self.disconnect();
        Ok(())
    }

    /// The connection is broken: wait for another, or end where there will be none.
    fn lost(&mut self) -> Result<(), Errno> {
        self.connect(None)?;
        self.open_port()
    }

    fn accept(&mut self) -> Result<(), Errno> {
        match self.port.accept() {
            Some(descriptor) => self.connect(Some(descriptor)),
            None => Ok(()),
        }
    }

    // -- time ---------------------------------------------------------------------------------------------------------

    /// When there is something to do, if nothing happens before.
    fn deadline(&self) -> Option<u64> {
        if self.connection.descriptor().is_some() && self.connection.is_ready() {
            return Some(0);
        }
        let launches = self
            .processes
            .values()
            .filter_map(|process| process.launch.as_ref()?.deadline);
        let removals = self
            .containers
            .values()
            .filter(|container| container.removal.is_some());
        launches
            .chain(removals.map(|_| sys::monotonic() + crate::ending::REMOVAL_TICK))
            .chain(self.pending.iter().map(Pending::next_look))
            .chain(self.connection.deadline())
            .chain(self.spare.is_none().then_some(self.next_spare))
            .min()
    }

    fn on_time(&mut self) {
        self.end_silent_launches();
        self.go_on_removing();
        self.look_at_pending();
        if self.spare.is_none() && self.next_spare <= sys::monotonic() {
            self.make_spare_if_idle();
        }
    }

    // -- calls --------------------------------------------------------------------------------------------------------

    pub fn answer(&mut self, call: CallId, answer: Answer) {
        self.calls.remove(&call);
        self.connection.answer(call, answer);
    }

    /// Do something with a process's stdio, then what follows from it.
    pub fn with_stdio(
        &mut self,
        serial: u64,
        what: impl FnOnce(&mut crate::stdio::Stdio, bool, &mut Connection),
    ) {
        let Some(process) = self.processes.get_mut(&serial) else {
            return;
        };
        let ended = process.code.is_some();
        what(&mut process.stdio, ended, &mut self.connection);
        if ended {
            process.stdio.tell_drained(&mut self.connection);
        }
        if let Some(call) = process.stdio.end_if_over(ended, &mut self.connection) {
            self.calls.remove(&call);
        }
        let has_room = self.connection.has_room();
        self.held |= !has_room;
        process.stdio.watch(&self.watch, has_room);
        self.forget_if_over(serial);
    }
}
