//! Exits and out-of-memory kills: kept until the host was told, in order.

use crate::connection::{CallId, Connection};
use crate::messages::Event;
use crate::sys;
use std::collections::VecDeque;

#[derive(Default)]
pub struct Events {
    queue: VecDeque<Event>,
    last: u64,
    call: Option<CallId>,
    /// The last that the present call was sent.
    sent: u64,
}

impl Events {
    pub fn exit(&mut self, container: &str, exec_id: &str, code: u32) {
        self.push(Event {
            container: container.to_string(),
            exec_id: exec_id.to_string(),
            code,
            ..Event::default()
        });
    }

    /// One word for all kills that the host was not told of.
    pub fn out_of_memory(&mut self, container: &str) {
        let is_same =
            |event: &Event| event.oom && event.container == container && event.sequence > self.sent;
        if !self.queue.iter().any(is_same) {
            self.push(Event {
                container: container.to_string(),
                oom: true,
                ..Event::default()
            });
        }
    }

    fn push(&mut self, event: Event) {
        self.last += 1;
        self.queue.push_back(Event {
            realtime_ns: sys::realtime(),
            sequence: self.last,
            ..event
        });
    }

    /// The host listens; false if it does so already.
    pub fn open(&mut self, call: CallId) -> bool {
        if self.call.is_some() {
            return false;
        }
        (self.call, self.sent) = (Some(call), 0);
        true
    }

    /// The host has gone: the next is told what this one was not.
    pub fn disconnect(&mut self) {
        (self.call, self.sent) = (None, 0);
    }

    pub fn send(&mut self, connection: &mut Connection) {
        while self
            .queue
            .front()
            .is_some_and(|event| event.sequence <= connection.delivered)
        {
            self.queue.pop_front();
        }
        let Some(call) = self.call else { return };
        for event in &self.queue {
            if event.sequence > self.sent {
                connection.send_message(call, event, Some(event.sequence));
                self.sent = event.sequence;
            }
        }
    }
}
