//! Ends: of processes, which are reaped and told, and of containers, whose cgroups are emptied and removed.

use crate::agent::Agent;
use crate::connection::CallId;
use crate::process::{exit_code, Process, Removal};
use crate::status::{refuse, Answer, DEADLINE_EXCEEDED, FAILED_PRECONDITION};
use crate::sys as own;
use pysandbox_guest::sys;
use std::os::fd::AsFd;

/// Nanoseconds between two looks at a container that is being removed, and until that is given up.
pub const REMOVAL_TICK: u64 = 3_000_000;
const REMOVAL_PATIENCE: u64 = 20_000_000_000;

impl Agent {
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
    pub fn tell_exit(&mut self, serial: u64) {
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
    pub fn remove(&mut self, id: &str, call: Option<CallId>, answer: Answer) {
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

pub fn end_process(process: &Process) {
    if let (Some(pidfd), None) = (&process.pidfd, process.code) {
        let _ = sys::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
    }
}
