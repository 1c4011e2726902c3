//! OCI hooks that run in the container's namespaces.

use crate::executor::Executor;
use crate::plan::{Hook, Text};
use crate::report::{Context, Failure, Outcome};
use crate::sys;
use serde_json::Value;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How long a hook without a time-out of its own may take.
const LONGEST: u64 = 24 * 3600;
/// How much of a hook's output goes into the error.
const MOST_OUTPUT: usize = 4096;

pub fn run_hooks(executor: &Executor, kind: &Text, hooks: &[Hook], state: &Value) -> Outcome {
    if kind.as_str() == "createContainer" {
        // As under runc they run in the root file system that is about to become the root.
        sys::fchdir(executor.slots.get("root")?).at("fchdir", "root")?;
    }
    let mut state = state.clone();
    state["pid"] = sys::getpid().into();
    let state = state.to_string();
    for (index, hook) in hooks.iter().enumerate() {
        run_hook(hook, state.as_bytes(), executor.umask).map_err(|mut failure| {
            failure.text = format!(
                "error running {} hook #{index}: {}",
                kind.as_str(),
                failure.text
            );
            failure
        })?;
    }
    Ok(())
}

/// Run one hook; its end with anything but 0 is an error.
fn run_hook(hook: &Hook, state: &[u8], umask: u32) -> Outcome {
    let path = hook.path.as_str();
    let (input, input_end) = sys::stream_pair().at("socketpair", path)?;
    let (output, output_end) = sys::pipe().at("pipe2", path)?;
    let Some(pid) = sys::clone(0).at("clone3", path)? else {
        become_hook(hook, input_end.as_fd(), output_end.as_fd(), umask);
    };
    drop((input_end, output_end));
    let watch = watch(pid, input, output.as_fd(), state, hook.timeout);
    if watch.is_err() {
        let _ = sys::kill(pid, libc::SIGKILL);
    }
    let status = sys::waitpid(pid).at("waitpid", path)?;
    let output = watch.map_err(|errno| {
        let text = match errno {
            sys::Errno(libc::ETIMEDOUT) => format!("{path}: timed out"),
            errno => format!("{path}: {}", errno.text()),
        };
        Failure::new("hook", path, errno.0, text)
    })?;
    judge(path, status, &output)
}

/// In the child: stdio, nothing else, and the hook's program. What it makes is not for everybody to write: the umask of
/// this process is 0, so that modes of the plan are exact.
fn become_hook(hook: &Hook, input: BorrowedFd, output: BorrowedFd, umask: u32) -> ! {
    sys::umask(umask);
    let redirected = sys::duplicate_to(input, 0)
        .and_then(|()| sys::duplicate_to(output, 1))
        .and_then(|()| sys::duplicate_to(output, 2))
        .and_then(|()| sys::close_range(3, u32::MAX, true));
    if redirected.is_ok() {
        let args: Vec<&CStr> = hook.args.iter().map(Text::as_c).collect();
        let env: Vec<&CStr> = hook.env.iter().map(Text::as_c).collect();
        let errno = sys::execve(hook.path.as_c(), &args, &env);
        let line = format!("exec {}: {}", hook.path.as_str(), errno.text());
        let _ = sys::write(sys::borrow(2), line.as_bytes());
    }
    sys::exit(127)
}

/// Feed the state, collect the output and wait for the process's end; ETIMEDOUT where that takes too long.
fn watch(
    pid: i32,
    input: OwnedFd,
    output: BorrowedFd,
    mut state: &[u8],
    timeout: Option<u64>,
) -> sys::Result<Vec<u8>> {
    let process = sys::pidfd_open(pid)?;
    let deadline = sys::monotonic() + timeout.unwrap_or(LONGEST).min(LONGEST) * 1_000_000_000;
    let mut input = Some(input);
    let mut collected = Vec::new();
    loop {
        input = feed(input, &mut state);
        let now = sys::monotonic();
        if now >= deadline {
            return Err(sys::Errno(libc::ETIMEDOUT));
        }
        let remaining = (deadline - now).div_ceil(1_000_000).min(60_000) as i32;
        let mut wanted = vec![(process.as_fd(), libc::POLLIN), (output, libc::POLLIN)];
        if let Some(input) = &input {
            wanted.push((input.as_fd(), libc::POLLOUT));
        }
        let events = sys::poll(&wanted, remaining)?;
        let readable = events[1] & libc::POLLIN != 0;
        if readable {
            collect(output, &mut collected)?;
        }
        if events[0] != 0 && !readable {
            return Ok(collected);
        }
        if events[1] & libc::POLLHUP != 0 && !readable {
            // All writers have gone: only the end of the process is left to wait for.
            return wait_end(process.as_fd(), deadline).map(|()| collected);
        }
    }
}

/// Write what the hook takes; give the socket up when all is written, or when the hook has closed its stdin.
fn feed(input: Option<OwnedFd>, state: &mut &[u8]) -> Option<OwnedFd> {
    let socket = input?;
    match sys::send(socket.as_fd(), state, libc::MSG_DONTWAIT) {
        Ok(length) => *state = &state[length..],
        Err(sys::Errno(libc::EAGAIN)) => {}
        Err(_) => return None,
    }
    (!state.is_empty()).then_some(socket)
}

fn collect(output: BorrowedFd, collected: &mut Vec<u8>) -> sys::Result<()> {
    let mut buffer = [0u8; MOST_OUTPUT];
    let length = sys::read(output, &mut buffer)?;
    let room = MOST_OUTPUT.saturating_sub(collected.len());
    collected.extend_from_slice(&buffer[..length.min(room)]);
    Ok(())
}

fn wait_end(process: BorrowedFd, deadline: u64) -> sys::Result<()> {
    loop {
        let now = sys::monotonic();
        if now >= deadline {
            return Err(sys::Errno(libc::ETIMEDOUT));
        }
        let remaining = (deadline - now).div_ceil(1_000_000).min(60_000) as i32;
        if sys::poll(&[(process, libc::POLLIN)], remaining)?[0] != 0 {
            return Ok(());
        }
    }
}

/// Turn a hook's wait status into an outcome.
fn judge(path: &str, status: i32, output: &[u8]) -> Outcome {
    if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
        return Ok(());
    }
    let how = if libc::WIFEXITED(status) {
        format!("exit status {}", libc::WEXITSTATUS(status))
    } else {
        format!("signal: {}", sys::signal_text(libc::WTERMSIG(status)))
    };
    let output = String::from_utf8_lossy(output);
    let text = format!("{path}: {how}, output: {}", output.trim_end());
    Err(Failure::new("hook", path, libc::ECHILD, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(args: &[&str], timeout: Option<u64>) -> Hook {
        let texts = |texts: &[&str]| texts.iter().map(|text| Text::new(text).unwrap()).collect();
        Hook {
            path: Text::new(args[0]).unwrap(),
            args: texts(args),
            env: texts(&["A=b"]),
            timeout,
        }
    }

    #[test]
    fn a_hook_gets_the_state_and_only_its_own_environment() {
        let script = r#"read state; [ "$state" = '{"a":1}' ] && [ "$A" = b ] && [ -z "$HOME" ]"#;
        assert_eq!(
            run_hook(
                &hook(&["/bin/sh", "-c", script], None),
                b"{\"a\":1}\n",
                0o022
            ),
            Ok(())
        );
    }

    #[test]
    fn a_hook_gets_the_umask_it_is_given() {
        let script = r#"[ "$(umask)" = 0027 ]"#;
        assert_eq!(
            run_hook(&hook(&["/bin/sh", "-c", script], None), b"{}", 0o027),
            Ok(())
        );
    }

    #[test]
    fn a_hook_that_fails_is_named_with_its_output() {
        let failure = run_hook(
            &hook(&["/bin/sh", "-c", "echo no >&2; exit 3"], None),
            b"{}",
            0o022,
        );
        assert_eq!(
            failure.unwrap_err().text,
            "/bin/sh: exit status 3, output: no"
        );
    }

    #[test]
    fn a_hook_that_does_not_read_its_stdin_is_no_error() {
        let state = vec![b' '; 4 << 20];
        assert_eq!(run_hook(&hook(&["/bin/true"], None), &state, 0o022), Ok(()));
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed() {
        let failure = run_hook(&hook(&["/bin/sleep", "600"], Some(1)), b"{}", 0o022).unwrap_err();
        assert_eq!(failure.errno, libc::ETIMEDOUT);
    }

    #[test]
    fn a_hook_whose_child_keeps_the_output_open_is_not_waited_for() {
        let script = "sleep 3 & exit 0";
        let start = sys::monotonic();
        assert_eq!(
            run_hook(&hook(&["/bin/sh", "-c", script], None), b"{}", 0o022),
            Ok(())
        );
        assert!(sys::monotonic() - start < 2_000_000_000);
    }

    #[test]
    fn a_hook_that_is_missing_is_an_error() {
        let failure = run_hook(&hook(&["/nonexistent"], None), b"{}", 0o022).unwrap_err();
        assert!(failure.text.contains("no such file or directory"));
    }
}
