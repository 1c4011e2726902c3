//! Where the host is: a virtio port found by its name, a port of vsock(7), or a socket that a test hands over. Who
//! connects while another is connected takes its place.

use crate::sys as own;
use crate::watch::{self, Token, Watch};
use pysandbox_guest::sys::{self, Errno};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

/// The name that the machine gives the port.
const NAME: &str = "agent.0";

pub enum Port {
    Virtio,
    /// Its listener, once there is one.
    Vsock(u32, Option<OwnedFd>),
    /// A socket that tests connect to, as a vsock's hosts do.
    Listener(OwnedFd),
    /// A socket; its end is the agent's.
    Descriptor(Option<OwnedFd>),
}

impl Port {
    /// Where the kernel's command line says that the host is: `pysandbox.agent=vsock:PORT`, else the virtio port.
    pub fn of_command_line(text: &str) -> Port {
        let word = text
            .split_whitespace()
            .find_map(|word| word.strip_prefix("pysandbox.agent=vsock:"));
        match word.and_then(|port| port.parse().ok()) {
            Some(port) => Port::Vsock(port, None),
            None => Port::Virtio,
        }
    }

    /// Whether a hang-up is the end of one host only, not that of the connection.
    pub fn comes_back(&self) -> bool {
        matches!(self, Port::Virtio)
    }

    /// Open it. None where a connection has yet to be accepted. Err where there will never be one.
    pub fn open(&mut self, watch: &Watch) -> Result<Option<OwnedFd>, Errno> {
        match self {
            Port::Virtio => open_virtio().map(Some),
            Port::Vsock(port, listener) => {
                if listener.is_none() {
                    let socket = own::vsock_listener(*port)?;
                    watch.set(socket.as_fd(), watch::READ, Token::Listener)?;
                    *listener = Some(socket);
                }
                Ok(None)
            }
            Port::Listener(listener) => {
                watch.set(listener.as_fd(), watch::READ, Token::Listener)?;
                Ok(None)
            }
            Port::Descriptor(descriptor) => match descriptor.take() {
                Some(descriptor) => Ok(Some(descriptor)),
                None => Err(Errno(libc::ENOTCONN)),
            },
        }
    }

    pub fn accept(&self) -> Option<OwnedFd> {
        match self {
            Port::Vsock(_, Some(listener)) => own::accept_host(listener.as_fd()).ok(),
            Port::Listener(listener) => own::accept(listener.as_fd()).ok(),
            _ => None,
        }
    }
}

/// Wait for the port to appear: its driver has just been started.
fn open_virtio() -> Result<OwnedFd, Errno> {
    const PATIENCE: u64 = 30_000_000_000;
    const PAUSE: i32 = 5;
    let deadline = sys::monotonic() + PATIENCE;
    loop {
        match find_virtio() {
            Some(path) => match sys::open(&path, libc::O_RDWR | libc::O_NONBLOCK) {
                // Not yet in /dev, or still held by the connection before.
                Err(Errno(libc::ENOENT | libc::ENXIO | libc::EBUSY)) => {}
                result => return result,
            },
            None if sys::monotonic() > deadline => return Err(Errno(libc::ENODEV)),
            None => {}
        }
        sys::poll(&[], PAUSE)?;
    }
}

/// The node of the port that has our name.
fn find_virtio() -> Option<CString> {
    let entries = std::fs::read_dir("/sys/class/virtio-ports").ok()?;
    entries.flatten().find_map(|entry| {
        let name = std::fs::read_to_string(entry.path().join("name")).ok()?;
        let node = format!("/dev/{}", entry.file_name().to_str()?);
        (name.trim_end() == NAME).then(|| CString::new(node).ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_may_name_a_vsock_port() {
        let port = |text| Port::of_command_line(text);
        assert!(matches!(
            port("quiet pysandbox.agent=vsock:1024\n"),
            Port::Vsock(1024, None)
        ));
        for text in [
            "",
            "quiet",
            "pysandbox.agent=vsock:",
            "pysandbox.agent=vsock:x",
            "xpysandbox.agent=vsock:1",
        ] {
            assert!(matches!(port(text), Port::Virtio), "{text}");
        }
    }
}
