//! An executor on its way: started from a sealed copy, given its plan, and heard until the program has been executed.
//! The protocol of its report socket stands in `runtime_api/pysandbox/executor.py`.

use crate::connection::CallId;
use crate::messages::{CreateRequest, FileWrite};
use crate::status::{refuse, Answer, Said, Status, ABORTED, UNKNOWN};
use crate::sys as own;
use pysandbox_guest::sys::{self, Errno};
use serde_json::{json, Value};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Nanoseconds that an executor may say nothing, unless the host says more.
const PATIENCE: u64 = 60_000_000_000;

/// The sealed copy of the executor that all are started from, and the environment that it is not given.
pub struct Executor {
    pub file: OwnedFd,
    pub environment: sys::Strings,
}

/// What the call that an executor works for has it do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Purpose {
    /// Until init waits for `start`.
    Create,
    /// Until the program is executed.
    Execute,
    /// Nothing: it waits.
    Wait,
    Start,
}

pub struct Launch {
    report: OwnedFd,
    /// The process that was spawned, until it is reaped.
    pub outer: Option<i32>,
    /// Its terminal is to have input.
    pub wants_input: bool,
    pub purpose: Purpose,
    pub call: Option<CallId>,
    pub deadline: Option<u64>,
    patience: u64,
    /// Descriptors that came, by name.
    pub received: Vec<(String, OwnedFd)>,
    pub request: Stops,
}

/// What is to be done at the stops of an executor.
#[derive(Default)]
pub struct Stops {
    pub limits: Vec<FileWrite>,
    pub uid_map: String,
    pub gid_map: String,
    pub time_offsets: String,
    /// Below the container's cgroup.
    pub cgroup: String,
}

impl Stops {
    pub fn of(request: &mut CreateRequest) -> Stops {
        Stops {
            limits: std::mem::take(&mut request.limits),
            uid_map: std::mem::take(&mut request.uid_map),
            gid_map: std::mem::take(&mut request.gid_map),
            time_offsets: std::mem::take(&mut request.time_offsets),
            cgroup: String::new(),
        }
    }
}

/// What an executor says.
#[derive(Debug, PartialEq)]
pub enum Word {
    Nothing,
    Stop(String),
    Pid(i32),
    Descriptor(String),
    Listener,
    Error(String),
    /// The socket has ended: the program was executed, or the process has died.
    End,
}

/// An executor that waits for its plan.
pub struct Waiting {
    report: OwnedFd,
    pub outer: i32,
}

impl Waiting {
    /// Start one with /dev/null for its stdio, which comes with the plan.
    pub fn start(executor: &Executor) -> Answer<Waiting> {
        let (report, theirs) = own::message_pair().said("socketpair", "")?;
        own::set_nonblocking(report.as_fd()).said("fcntl", "")?;
        let null = sys::open(c"/dev/null", libc::O_RDWR | libc::O_NOCTTY);
        let null = null.said("open", "/dev/null")?;
        let streams = [null.as_fd(), null.as_fd(), null.as_fd(), theirs.as_fd()];
        let outer = spawn(executor.file.as_fd(), executor.environment, &streams)?;
        Ok(Waiting { report, outer })
    }

    /// Whether it still waits: whatever killed it, the news of that may not have come yet.
    pub fn is_there(&self) -> bool {
        let hung_up = sys::poll(&[(self.report.as_fd(), 0)], 0);
        hung_up.is_ok_and(|events| events == [0])
    }

    /// Let it come so far that it waits.
    pub fn settle(&self) {
        const LONGEST: u64 = 500_000_000;
        let deadline = sys::monotonic() + LONGEST;
        let is_asleep = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.outer));
            stat.is_ok_and(|stat| stat.contains(") S "))
        };
        while !is_asleep() && sys::monotonic() < deadline {
            let _ = sys::poll(&[], 2);
        }
    }
}

impl Launch {
    pub fn new(waiting: Waiting, purpose: Purpose, call: CallId, patience_ms: u32) -> Launch {
        let patience = match patience_ms {
            0 => PATIENCE,
            milliseconds => u64::from(milliseconds) * 1_000_000,
        };
        Launch {
            report: waiting.report,
            outer: Some(waiting.outer),
            wants_input: false,
            purpose,
            call: Some(call),
            deadline: Some(sys::monotonic() + patience),
            patience,
            received: Vec::new(),
            request: Stops::default(),
        }
    }

    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.report.as_fd()
    }

    /// Hand over the plan, and descriptors by name.
    pub fn give(&self, plan: &[u8], slots: &[(&str, BorrowedFd)]) -> Answer<()> {
        let file = own::memory_file(c"plan", false).said("memfd_create", "plan")?;
        let mut rest = plan;
        while !rest.is_empty() {
            let written = sys::write(file.as_fd(), rest).said("write", "plan")?;
            rest = &rest[written..];
        }
        own::rewind(file.as_fd()).said("lseek", "plan")?;
        let mut names = vec!["plan"];
        let mut numbers = vec![file.as_raw_fd()];
        for (name, descriptor) in slots {
            names.push(name);
            numbers.push(descriptor.as_raw_fd());
        }
        let datagram = json!({ "slots": names }).to_string();
        sys::send_with(self.report.as_fd(), datagram.as_bytes(), &numbers)
            .said("sendmsg", "plan")
            .map(|_| ())
    }

    /// Let it go on from a stop.
    pub fn go(&mut self) {
        self.wait();
        let _ = sys::send(self.report.as_fd(), br#"{"go":true}"#, 0);
    }

    /// It has its time from now on.
    pub fn wait(&mut self) {
        self.deadline = Some(sys::monotonic() + self.patience);
    }

    /// What it says next; None if nothing now.
    pub fn hear(&mut self) -> Answer<Option<Word>> {
        let mut buffer = vec![0u8; 64 * 1024];
        let mut descriptors = Vec::new();
        let report = self.report.as_fd();
        let length = match sys::receive_with(report, &mut buffer, &mut descriptors, 0) {
            Ok(0) | Err(Errno(libc::ECONNRESET)) => return Ok(Some(Word::End)),
            Ok(length) => length,
            Err(Errno(libc::EAGAIN)) => return Ok(None),
            Err(Errno(libc::EINTR)) => return Ok(Some(Word::Nothing)),
            Err(errno) => return Err(errno).said("recvmsg", "report"),
        };
        if self.deadline.is_some() {
            self.wait();
        }
        let word = interpret(&buffer[..length], !descriptors.is_empty());
        let Some(word) = word else {
            let said = String::from_utf8_lossy(&buffer[..length.min(200)]).into_owned();
            return refuse(UNKNOWN, format!("the executor says {said:?}"));
        };
        if let Word::Descriptor(name) = &word {
            const MOST: usize = 8;
            if self.received.len() < MOST {
                self.received
                    .extend(descriptors.pop().map(|fd| (name.clone(), fd)));
            }
        }
        Ok(Some(word))
    }
}

fn interpret(datagram: &[u8], has_descriptor: bool) -> Option<Word> {
    let Value::Object(members) = serde_json::from_slice(datagram).ok()? else {
        return None;
    };
    let (name, value) = members.iter().next().filter(|_| members.len() == 1)?;
    let text = || value.as_str().map(str::to_string);
    match name.as_str() {
        "steps" => Some(Word::Nothing),
        "stop" => text().map(Word::Stop),
        "pid" => {
            let pid = value.as_i64().and_then(|pid| i32::try_from(pid).ok());
            pid.filter(|&pid| pid > 1).map(Word::Pid)
        }
        "descriptor" if has_descriptor => text().map(Word::Descriptor),
        "listener" => Some(Word::Listener),
        "error" => Some(Word::Error(String::from_utf8_lossy(datagram).into_owned())),
        _ => None,
    }
}

/// Start the executor; its report socket is the descriptor 3. It waits for the plan, so it can still be changed: it is
/// not to be spared when memory runs out, as this process is.
fn spawn(executor: BorrowedFd, environment: sys::Strings, streams: &[BorrowedFd]) -> Answer<i32> {
    let root = sys::open(c"/", libc::O_PATH | libc::O_DIRECTORY).said("open", "/")?;
    let path = CString::new(format!("/proc/self/fd/{}", executor.as_raw_fd())).unwrap_or_default();
    let pid = sys::spawn(&sys::Program {
        path: &path,
        args: &[c"pysandbox-init".to_owned(), c"report=3".to_owned()],
        env: Some(&[]),
        given_env: environment,
        streams,
        directory: root.as_fd(),
        group: false,
    })
    .said("posix_spawn", "pysandbox-executor")?;
    let _ = write_process_file(pid, "oom_score_adj", b"0");
    Ok(pid)
}

/// Write a file of /proc/PID in the one write(2) that the kernel accepts; nothing to write is no call.
pub fn write_process_file(pid: i32, name: &str, content: &[u8]) -> Answer<()> {
    if content.is_empty() {
        return Ok(());
    }
    let path = format!("/proc/{pid}/{name}");
    let file = CString::new(path.as_str()).unwrap_or_default();
    let file = sys::open(&file, libc::O_WRONLY).said("open", &path)?;
    sys::write(file.as_fd(), content)
        .said("write", &path)
        .map(|_| ())
}

/// The executor's own words about what failed.
pub fn aborted(datagram: String) -> Status {
    Status::new(ABORTED, datagram)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_the_executor_is_understood() {
        let heard = |text: &str| interpret(text.as_bytes(), true);
        assert_eq!(
            heard(r#"{"stop":"ready"}"#),
            Some(Word::Stop("ready".into()))
        );
        assert_eq!(heard(r#"{"pid":7}"#), Some(Word::Pid(7)));
        assert_eq!(
            heard(r#"{"descriptor":"console"}"#),
            Some(Word::Descriptor("console".into()))
        );
        assert_eq!(heard(r#"{"listener":5}"#), Some(Word::Listener));
        assert_eq!(heard(r#"{"steps":[[0,"x",1]]}"#), Some(Word::Nothing));
        let error = r#"{"error":{"op":"x"}}"#;
        assert_eq!(heard(error), Some(Word::Error(error.into())));
    }

    #[test]
    fn what_is_no_word_of_it_is_not() {
        for text in [
            "",
            "x",
            "[]",
            "{}",
            r#"{"pid":0}"#,
            r#"{"pid":1}"#,
            r#"{"pid":-5}"#,
            r#"{"pid":4294967299}"#,
            r#"{"pid":"7"}"#,
            r#"{"stop":1}"#,
            r#"{"sing":1}"#,
            r#"{"stop":"a","pid":2}"#,
        ] {
            assert_eq!(interpret(text.as_bytes(), true), None, "{text}");
        }
        assert_eq!(interpret(br#"{"descriptor":"console"}"#, false), None);
    }
}
