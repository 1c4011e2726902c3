//! The cold start: what must not be served, and executing the script that does it.

use std::ffi::CStr;
use std::os::fd::AsFd;

use pysandbox_guest::sys::{self, Errno};

use crate::caller::Caller;
use crate::signals::Signals;

const CONFIG: &CStr = c"/etc/pysandbox/config.toml";
/// The settings file may not be longer.
const CONFIG_LIMIT: usize = 1024 * 1024;

/// Why this command is not even tried warm.
pub fn reason(caller: &Caller) -> Option<&'static str> {
    if sys::geteuid() != 0 {
        return Some("not root");
    }
    if caller.file.is_none() {
        return Some("no /proc");
    }
    // Both speak of one process: systemd counts the pid.
    if caller.variable("NOTIFY_SOCKET").is_some() {
        return Some("NOTIFY_SOCKET");
    }
    let listener = caller.variable("LISTEN_PID");
    if listener.is_some_and(|pid| pid == sys::getpid().to_string().as_bytes()) {
        return Some("LISTEN_PID");
    }
    config_says_cold().then_some("warm = false")
}

fn config_says_cold() -> bool {
    let Ok(file) = sys::open(CONFIG, libc::O_RDONLY | libc::O_NONBLOCK) else {
        return false;
    };
    let text = sys::read_at_most(file.as_fd(), CONFIG_LIMIT);
    text.is_ok_and(|text| says_cold(&text))
}

/// Whether settings hold `warm = false` before any table. Python reads them all, and says what is wrong with them.
fn says_cold(settings: &[u8]) -> bool {
    let lines = settings
        .split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii);
    let mut top = lines.take_while(|line| !line.starts_with(b"["));
    top.any(|line| {
        let mut sides = line.splitn(2, |&byte| byte == b'=');
        let (key, value) = (
            sides.next().unwrap_or_default(),
            sides.next().unwrap_or_default(),
        );
        let value = value.split(|&byte| byte == b'#').next().unwrap_or_default();
        key.trim_ascii() == b"warm" && value.trim_ascii() == b"false"
    })
}

/// Become the script: same arguments, environment, directory, umask, signal mask and actions. What has come of signals
/// meanwhile is still pending, and acts as it would have.
pub fn execute(caller: &Caller, signals: &Signals) -> ! {
    let Some(script) = caller.cold_file() else {
        crate::fail("cannot tell where it is installed: /proc is not mounted");
    };
    signals.give_back();
    let errno = sys::execve_given(&script, caller.arguments, caller.environment);
    let script = String::from_utf8_lossy(script.to_bytes()).into_owned();
    crate::fail(&format!("{script}: {}", remedy(errno)))
}

fn remedy(errno: Errno) -> String {
    let text = errno.text();
    match errno.0 {
        libc::ENOENT => format!(
            "{text} (the script or its interpreter): run `make setup` or `make install` again"
        ),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_say_cold_before_any_table() {
        assert!(says_cold(b"warm = false"));
        assert!(says_cold(b"backend = \"x\"\n  warm=false # for now\n"));
        assert!(!says_cold(b"warm = true\n"));
        assert!(!says_cold(b"# warm = false\n"));
        assert!(!says_cold(b"[other]\nwarm = false\n"));
        assert!(!says_cold(b"warmer = false\nx = \"warm = false\"\n"));
        assert!(!says_cold(b""));
    }
}
