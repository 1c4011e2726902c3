//! Network interfaces, addresses, routes and neighbours: rtnetlink(7), one request and one acknowledgement each.

use crate::messages::{ConnectRequest, Interface, Neighbour, Route};
use crate::status::{refuse, Answer, Said, Status, INVALID_ARGUMENT};
use crate::sys as own;
use pysandbox_guest::sys::{self, Errno};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

const MOST: usize = 1024;

/// Say whether a request can be carried out, before its devices are waited for.
pub fn check(request: &ConnectRequest) -> Answer<()> {
    if [
        request.interfaces.len(),
        request.routes.len(),
        request.neighbours.len(),
    ]
    .iter()
    .any(|&count| count > MOST)
    {
        return refuse(
            INVALID_ARGUMENT,
            format!("more than {MOST} interfaces, routes or neighbours"),
        );
    }
    for interface in &request.interfaces {
        check_device(&interface.name)?;
        hardware_address(&interface.mac)?;
        interface
            .addresses
            .iter()
            .try_for_each(|text| prefix(text).map(drop))?;
    }
    for route in &request.routes {
        RouteAddresses::of(route)?;
    }
    for neighbour in &request.neighbours {
        address(&neighbour.address)?;
        hardware_address(&neighbour.mac)?;
    }
    Ok(())
}

/// Set everything up; false while an interface is missing.
pub fn connect(request: &ConnectRequest) -> Answer<bool> {
    let mut indices = Vec::new();
    for interface in &request.interfaces {
        match find(&interface.mac) {
            Some(found) => indices.push(found),
            None => return Ok(false),
        }
    }
    let mut socket = Netlink::open()?;
    // Two may swap their names: first every one gets a name that nobody wants.
    for (number, ((index, name), interface)) in indices.iter().zip(&request.interfaces).enumerate()
    {
        if *name != interface.name {
            socket.rename(*index, &format!("pysandbox{number}"))?;
        }
    }
    for ((index, name), interface) in indices.iter().zip(&request.interfaces) {
        if *name != interface.name {
            socket.rename(*index, &interface.name)?;
        }
        socket.set_up(*index, interface)?;
    }
    // Gateways are reached by the routes that have none.
    for with_gateway in [false, true] {
        for route in request
            .routes
            .iter()
            .filter(|route| route.gateway.is_empty() != with_gateway)
        {
            socket.add_route(route)?;
        }
    }
    request
        .neighbours
        .iter()
        .try_for_each(|neighbour| socket.add_neighbour(neighbour))?;
    Ok(true)
}

/// Index and name of the interface with this hardware address.
fn find(mac: &str) -> Option<(u32, String)> {
    let entries = std::fs::read_dir("/sys/class/net").ok()?;
    entries.flatten().find_map(|entry| {
        let read = |file| std::fs::read_to_string(entry.path().join(file)).ok();
        let name = entry.file_name().into_string().ok()?;
        if name == "lo" || !read("address")?.trim_end().eq_ignore_ascii_case(mac) {
            return None;
        }
        Some((read("ifindex")?.trim_end().parse().ok()?, name))
    })
}

fn index_of(device: &str) -> Answer<u32> {
    check_device(device)?;
    let path = format!("/sys/class/net/{device}/ifindex");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    match text.trim_end().parse() {
        Ok(index) => Ok(index),
        Err(_) => refuse(
            INVALID_ARGUMENT,
            format!("{device:?}: no such network device"),
        ),
    }
}

fn check_device(name: &str) -> Answer<()> {
    let is_plain =
        |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':' && byte != b'%';
    match (1..16).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(is_plain)
    {
        true => Ok(()),
        false => refuse(
            INVALID_ARGUMENT,
            format!("{name:?}: is no name of a network device"),
        ),
    }
}

fn hardware_address(text: &str) -> Answer<Vec<u8>> {
    let byte = |part: &str| match part.len() {
        2 if part.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            u8::from_str_radix(part, 16).ok()
        }
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
    match bytes.filter(|bytes| bytes.len() == 6) {
        Some(bytes) => Ok(bytes),
        None => refuse(
            INVALID_ARGUMENT,
            format!("{text:?}: is no hardware address"),
        ),
    }
}

fn address(text: &str) -> Answer<IpAddr> {
    text.parse()
        .or_else(|_| refuse(INVALID_ARGUMENT, format!("{text:?}: is no address")))
}

fn optional_address(text: &str) -> Answer<Option<IpAddr>> {
    if text.is_empty() {
        Ok(None)
    } else {
        address(text).map(Some)
    }
}

/// ADDRESS/PREFIX.
fn prefix(text: &str) -> Answer<(IpAddr, u8)> {
    let (front, length) = text.split_once('/').unwrap_or((text, ""));
    let address = address(front)?;
    match length.parse::<u8>() {
        Ok(length) if length <= bits(address) => Ok((address, length)),
        _ => refuse(INVALID_ARGUMENT, format!("{text:?}: is no ADDRESS/PREFIX")),
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() {
        32
    } else {
        128
    }
}

fn family(is_ipv6: bool) -> u8 {
    (if is_ipv6 {
        libc::AF_INET6
    } else {
        libc::AF_INET
    }) as u8
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The addresses of a route, all of one family.
struct RouteAddresses {
    is_ipv6: bool,
    destination: Option<(IpAddr, u8)>,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
}

impl RouteAddresses {
    fn of(route: &Route) -> Answer<RouteAddresses> {
        let destination = match route.destination.is_empty() {
            true => None,
            false => Some(prefix(&route.destination)?),
        };
        let gateway = optional_address(&route.gateway)?;
        let source = optional_address(&route.source)?;
        let all = [destination.map(|pair| pair.0), gateway, source];
        let first = all.iter().flatten().next();
        let is_ipv6 = first.map_or(route.ipv6, IpAddr::is_ipv6);
        if all
            .iter()
            .flatten()
            .any(|address| address.is_ipv6() != is_ipv6)
        {
            return refuse(INVALID_ARGUMENT, format!("{route:?}: mixes families"));
        }
        Ok(RouteAddresses {
            is_ipv6,
            destination,
            gateway,
            source,
        })
    }
}

// -- rtnetlink ----------------------------------------------------------------------------------------------------------

const CREATE: u16 = libc::NLM_F_CREATE as u16;
const EXCLUSIVE: u16 = libc::NLM_F_EXCL as u16;

struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// A request being put together: the header of the type, then attributes.
struct Body(Vec<u8>);

impl Body {
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = 4 + value.len();
        self.0.extend_from_slice(&(length as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn address(&mut self, kind: u16, address: Option<IpAddr>) {
        if let Some(address) = address {
            self.attribute(kind, &octets(address));
        }
    }
}

/// `struct ifinfomsg`: family, type, index, flags and which of them to change.
fn link(index: u32, flags: u32) -> Body {
    let mut body = vec![0; 4];
    for part in [index, flags, flags] {
        body.extend_from_slice(&part.to_ne_bytes());
    }
    Body(body)
}

impl Netlink {
    fn open() -> Answer<Netlink> {
        let socket = own::netlink(libc::NETLINK_ROUTE, 0, false).said("socket", "netlink")?;
        own::set_receive_limit(socket.as_fd(), 5).said("setsockopt", "netlink")?;
        Ok(Netlink {
            socket,
            sequence: 0,
        })
    }

    /// Send a request and wait for its acknowledgement.
    fn ask(&mut self, kind: u16, flags: u16, body: &Body) -> Result<(), Errno> {
        self.sequence += 1;
        let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        let mut message = Vec::new();
        message.extend_from_slice(&(16 + body.0.len() as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&flags.to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&0u32.to_ne_bytes());
        message.extend_from_slice(&body.0);
        sys::send(self.socket.as_fd(), &message, 0)?;
        loop {
            let mut buffer = [0u8; 8192];
            let length = sys::read(self.socket.as_fd(), &mut buffer)?;
            if let Some(errno) = acknowledgement(&buffer[..length], self.sequence) {
                return if errno == 0 {
                    Ok(())
                } else {
                    Err(Errno(errno))
                };
            }
        }
    }

    fn rename(&mut self, index: u32, name: &str) -> Answer<()> {
        const IFLA_IFNAME: u16 = 3;
        let mut body = link(index, 0);
        body.attribute(IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
        self.ask(libc::RTM_NEWLINK, 0, &body).said("rename", name)
    }

    /// Size, addresses, and up. The kernel is to make no address by itself, and to take no router's word.
    fn set_up(&mut self, index: u32, interface: &Interface) -> Answer<()> {
        const IFLA_MTU: u16 = 4;
        let settings = format!("/proc/sys/net/ipv6/conf/{}", interface.name);
        for (file, value) in [
            ("accept_ra", "0"),
            ("addr_gen_mode", "1"),
            ("accept_dad", "0"),
        ] {
            let _ = std::fs::write(format!("{settings}/{file}"), value); // none without IPv6
        }
        let mut body = link(index, libc::IFF_UP as u32);
        if interface.mtu != 0 {
            body.attribute(IFLA_MTU, &interface.mtu.to_ne_bytes());
        }
        self.ask(libc::RTM_NEWLINK, 0, &body)
            .said("set up", &interface.name)?;
        interface
            .addresses
            .iter()
            .try_for_each(|text| self.add_address(index, text))
    }

    /// `struct ifaddrmsg`: family, length of the prefix, flags, scope, index. No duplicates are looked for: the address is
    /// the host's, which has it no longer.
    fn add_address(&mut self, index: u32, text: &str) -> Answer<()> {
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        const IFA_F_NODAD: u8 = 2;
        let (address, length) = prefix(text)?;
        let mut body = Body(vec![family(address.is_ipv6()), length, IFA_F_NODAD, 0]);
        body.0.extend_from_slice(&index.to_ne_bytes());
        body.address(IFA_LOCAL, Some(address));
        body.address(IFA_ADDRESS, Some(address));
        match self.ask(libc::RTM_NEWADDR, CREATE | EXCLUSIVE, &body) {
            Err(Errno(libc::EEXIST)) => Ok(()),
            result => result.said("add address", text),
        }
    }

    /// `struct rtmsg`: family, lengths of destination and source, tos, table, protocol, scope, type, flags.
    fn add_route(&mut self, route: &Route) -> Answer<()> {
        const RTA_DST: u16 = 1;
        const RTA_OIF: u16 = 4;
        const RTA_GATEWAY: u16 = 5;
        const RTA_PRIORITY: u16 = 6;
        const RTA_PREFSRC: u16 = 7;
        const RTNH_F_ONLINK: u32 = 4;
        let RouteAddresses {
            is_ipv6,
            destination,
            gateway,
            source,
        } = RouteAddresses::of(route)?;
        let length = destination.map_or(0, |(_, length)| length);
        let scope = route.scope.min(255) as u8;
        let mut body = Body(vec![
            family(is_ipv6),
            length,
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_STATIC,
            scope,
            libc::RTN_UNICAST,
        ]);
        let flags = if route.onlink { RTNH_F_ONLINK } else { 0 };
        body.0.extend_from_slice(&flags.to_ne_bytes());
        body.address(RTA_DST, destination.map(|(address, _)| address));
        body.address(RTA_GATEWAY, gateway);
        body.address(RTA_PREFSRC, source);
        if !route.device.is_empty() {
            body.attribute(RTA_OIF, &index_of(&route.device)?.to_ne_bytes());
        }
        if route.metric != 0 {
            body.attribute(RTA_PRIORITY, &route.metric.to_ne_bytes());
        }
        match self.ask(libc::RTM_NEWROUTE, CREATE | EXCLUSIVE, &body) {
            // The kernel has made it with the address.
            Err(Errno(libc::EEXIST)) => Ok(()),
            result => result.map_err(|errno| {
                let what = format!(
                    "{} via {:?} dev {:?}",
                    route.destination, route.gateway, route.device
                );
                let failed: Result<(), Errno> = Err(errno);
                failed
                    .said("add route", &what)
                    .err()
                    .unwrap_or_else(|| Status::new(INVALID_ARGUMENT, what))
            }),
        }
    }

    /// `struct ndmsg`: family, index, state, flags, type.
    fn add_neighbour(&mut self, neighbour: &Neighbour) -> Answer<()> {
        const NDA_DST: u16 = 1;
        const NDA_LLADDR: u16 = 2;
        const NUD_PERMANENT: u16 = 0x80;
        const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
        let address = address(&neighbour.address)?;
        let mut body = Body(vec![family(address.is_ipv6()), 0, 0, 0]);
        body.0
            .extend_from_slice(&index_of(&neighbour.device)?.to_ne_bytes());
        body.0.extend_from_slice(&NUD_PERMANENT.to_ne_bytes());
        body.0.extend_from_slice(&[0, 0]);
        body.address(NDA_DST, Some(address));
        body.attribute(NDA_LLADDR, &hardware_address(&neighbour.mac)?);
        self.ask(libc::RTM_NEWNEIGH, CREATE | REPLACE, &body)
            .said("add neighbour", &neighbour.address)
    }
}

/// The errno that a request of ours is acknowledged with, if this is its acknowledgement.
fn acknowledgement(message: &[u8], sequence: u32) -> Option<i32> {
    const NLMSG_ERROR: u16 = 2;
    let number =
        |range: std::ops::Range<usize>| message.get(range).and_then(|bytes| bytes.try_into().ok());
    let kind = u16::from_ne_bytes(message.get(4..6)?.try_into().ok()?);
    if kind != NLMSG_ERROR || u32::from_ne_bytes(number(8..12)?) != sequence {
        return None;
    }
    i32::from_ne_bytes(number(16..20)?).checked_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_are_checked() {
        assert!(prefix("10.0.0.1/24").is_ok() && prefix("fe80::1/64").is_ok());
        for text in [
            "",
            "10.0.0.1",
            "10.0.0.1/33",
            "x/8",
            "10.0.0.1/-1",
            "fe80::1/129",
            "/8",
        ] {
            assert!(prefix(text).is_err(), "{text}");
        }
        assert_eq!(
            hardware_address("02:00:00:00:00:ff").unwrap(),
            [2, 0, 0, 0, 0, 255]
        );
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:0",
            "02:00:00:00:00:+f",
            "02:00:00:00:00:00:00",
        ] {
            assert!(hardware_address(text).is_err(), "{text}");
        }
        for name in ["", ".", "..", "a/b", "a b", "sixteen-letters-", "a\0"] {
            assert!(check_device(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_route_has_one_family() {
        let route = |destination: &str, gateway: &str, ipv6| Route {
            destination: destination.into(),
            gateway: gateway.into(),
            ipv6,
            ..Route::default()
        };
        assert!(RouteAddresses::of(&route("", "", true)).unwrap().is_ipv6);
        assert!(
            !RouteAddresses::of(&route("", "10.0.0.1", true))
                .unwrap()
                .is_ipv6
        );
        assert!(RouteAddresses::of(&route("fe80::/64", "10.0.0.1", false)).is_err());
    }

    #[test]
    fn attributes_are_padded_to_four_bytes() {
        let mut body = Body(Vec::new());
        body.attribute(3, b"lo\0");
        assert_eq!(body.0.len(), 8);
        assert_eq!(body.0[..2], 7u16.to_ne_bytes());
    }

    #[test]
    fn only_our_own_acknowledgement_counts() {
        let mut message = vec![0u8; 20];
        message[4] = 2;
        message[8] = 7;
        message[16..20].copy_from_slice(&(-17i32).to_ne_bytes());
        assert_eq!(acknowledgement(&message, 7), Some(17));
        assert_eq!(acknowledgement(&message, 8), None);
        assert_eq!(acknowledgement(&message[..18], 7), None);
    }
}
