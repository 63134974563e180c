//! Network devices and their addresses, as the kernel is asked about them and told of them (`rtnetlink(7)`).
//!
//! A [`Route`] speaks for the network namespace in which it was opened, whoever has it: init opens one in the
//! container's and hands it to its parent, who need not go there. It also keeps that namespace alive.
//!
//! ```text
//!  nlmsghdr (16) │ ifinfomsg (16) or ifaddrmsg (8) │ rtattr (4), value, padding │ rtattr …
//! ```

use std::os::fd::OwnedFd;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};

/// `struct nlmsghdr` (`netlink(7)`).
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
/// In a dump: what was listed changed meanwhile.
const INTERRUPTED: u16 = 0x10;
/// `NLM_F_ROOT | NLM_F_MATCH`
const DUMP: u16 = 0x300;
/// `NLM_F_REPLACE | NLM_F_CREATE`
const PUT: u16 = 0x100 | 0x400;

const NEWLINK: u16 = 16;
const GETLINK: u16 = 18;
const NEWADDR: u16 = 20;
const GETADDR: u16 = 22;

/// `struct ifinfomsg`
const IFINFOMSG: usize = 16;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_PID: u16 = 19;
const IFF_UP: u32 = 1;

/// `struct ifaddrmsg`
const IFADDRMSG: usize = 8;
const IFA_FLAGS: u16 = 8;
/// `IFA_ADDRESS`, `IFA_LOCAL`, `IFA_BROADCAST`, `IFA_RT_PRIORITY`, `IFA_PROTO` (Linux 5.18). Not `IFA_LABEL`, which
/// begins with the device's old name.
const CARRIED: [u16; 5] = [1, 2, 4, 9, 11];
/// `IFA_F_PERMANENT`: no DHCP server or router may take it back.
const PERMANENT: u32 = 0x80;
/// What a user may ask of an address: `IFA_F_NODAD`, `HOMEADDRESS`, `MANAGETEMPADDR`, `NOPREFIXROUTE`, `MCAUTOJOIN`.
/// The kernel finds out the others.
const ASKED: u32 = 0x02 | 0x10 | 0x100 | 0x200 | 0x400;
/// `RT_SCOPE_UNIVERSE`
const GLOBAL: u8 = 0;

/// `NLA_F_NESTED | NLA_F_NET_BYTEORDER` are no part of an attribute's number.
const KIND: u16 = 0x3fff;
/// The kernel makes no longer answer to who has not shown a longer buffer.
const MAX_ANSWER: usize = 32 << 10;
/// How often an interrupted dump is begun again.
const DUMPS: usize = 10;

/// The number of a device in one network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Index(u32);

impl Index {
    /// `lo`, in every network namespace.
    pub(super) const LO: Self = Self(1);
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: Index,
    /// Its own name, which another one that it has may have led to (`ip link property add altname`).
    pub(super) name: String,
    pub(super) up: bool,
}

impl Link {
    fn parse(body: &[u8]) -> Option<Self> {
        let name = attributes(body.get(IFINFOMSG..)?).find(|(kind, _)| *kind == IFLA_IFNAME)?.1;
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        Some(Self {
            index: Index(number(body, 4)?),
            name: String::from_utf8_lossy(name).into_owned(),
            up: number(body, 8)? & IFF_UP != 0,
        })
    }
}

/// An address of a device, as it can be given to it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    family: u8,
    prefix: u8,
    flags: u32,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// One of the device `of` that was given for good and is known beyond it: what the runtime specification
    /// wants to be kept (`config-linux.md`, "Network Devices").
    fn parse(body: &[u8], of: Index) -> Option<Self> {
        let (header, rest) = body.split_at_checked(IFADDRMSG)?;
        let all = || attributes(rest);
        let flags = all().find(|(kind, _)| *kind == IFA_FLAGS).and_then(|(_, value)| number(value, 0));
        let flags = flags.unwrap_or(u32::from(header[2]));
        let kept = number(header, 4)? == of.0 && flags & PERMANENT != 0 && header[3] == GLOBAL;
        let carried = all().filter(|(kind, _)| CARRIED.contains(kind));
        kept.then(|| Self {
            family: header[0],
            prefix: header[1],
            flags: flags & ASKED,
            attributes: carried.map(|(kind, value)| (kind, value.to_vec())).collect(),
        })
    }

    fn message(&self, of: Index) -> Request {
        let [a, b, c, d] = of.0.to_ne_bytes();
        let mut request = Request::new(NEWADDR, REQUEST | ACK | PUT);
        request.0.extend([self.family, self.prefix, 0, GLOBAL, a, b, c, d]);
        request.attribute(IFA_FLAGS, &self.flags.to_ne_bytes());
        for (kind, value) in &self.attributes {
            request.attribute(*kind, value);
        }
        request
    }
}

/// Who answers for the devices of one network namespace.
#[derive(Debug)]
pub(super) struct Route {
    socket: OwnedFd,
    /// Of the last request: what was left unread of an earlier one is no answer.
    sequence: u32,
}

impl From<OwnedFd> for Route {
    fn from(socket: OwnedFd) -> Self {
        Self { socket, sequence: 0 }
    }
}

impl From<Route> for OwnedFd {
    fn from(route: Route) -> Self {
        route.socket
    }
}

impl Route {
    /// The one of the network namespace in which this process is.
    pub(super) fn open() -> Result<Self, Errno> {
        // Protocol 0 of netlink is NETLINK_ROUTE.
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).map(Self::from)
    }

    /// The device `name`; ENODEV where there is none.
    pub(super) fn link(&mut self, name: &str) -> Result<Link, Errno> {
        let mut request = Request::link(GETLINK, REQUEST, Index(0), false);
        request.name(name);
        self.ask(request, |kind, body| (kind == NEWLINK).then(|| Link::parse(body)))?
            .ok_or(Errno::BADMSG)?
            .ok_or(Errno::BADMSG)
    }

    /// Those addresses of `device` that go where it goes.
    pub(super) fn addresses(&mut self, device: Index) -> Result<Vec<Address>, Errno> {
        let mut tries = 0..DUMPS;
        loop {
            let mut request = Request::new(GETADDR, REQUEST | DUMP);
            request.0.extend([0; IFADDRMSG]);
            let mut all = Vec::new();
            let dumped = self.ask(request, |kind, body| {
                all.extend((kind == NEWADDR).then(|| Address::parse(body, device)).flatten());
                None::<()>
            });
            match dumped {
                Err(Errno::INTR) if tries.next().is_some() => {}
                dumped => return dumped.map(|_| all),
            }
        }
    }

    /// Moves `device` into the network namespace of the process `pid`, where it is called `name` or as before.
    /// It is down then, and without addresses.
    pub(super) fn move_to(&mut self, device: Index, pid: i32, name: Option<&str>) -> Result<(), Errno> {
        let mut request = Request::link(NEWLINK, REQUEST | ACK, device, false);
        request.attribute(IFLA_NET_NS_PID, &pid.to_ne_bytes());
        if let Some(name) = name {
            request.name(name);
        }
        self.tell(request)
    }

    /// Gives `device` an address, or the same again.
    pub(super) fn add(&mut self, device: Index, address: &Address) -> Result<(), Errno> {
        self.tell(address.message(device))
    }

    /// Brings `device` up.
    pub(super) fn up(&mut self, device: Index) -> Result<(), Errno> {
        self.tell(Request::link(NEWLINK, REQUEST | ACK, device, true))
    }

    fn tell(&mut self, request: Request) -> Result<(), Errno> {
        self.ask(request, |_, _| None::<()>).map(drop)
    }

    /// Sends `request` and reads its answer, until `look` has found something in a message of it, or to its end.
    fn ask<T>(
        &mut self,
        request: Request,
        mut look: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Option<T>, Errno> {
        self.sequence = self.sequence.wrapping_add(1);
        // With an address: without one, the kernel asks what whoever opened the socket may, too, and an init in a
        // user namespace may do nothing to a device that goes back to the host.
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, &request.finish(self.sequence), SendFlags::empty(), &kernel)?;
        let mut buffer = vec![0; MAX_ANSWER];
        let mut interrupted = false;
        loop {
            let (_, length) = retry_on_intr(|| recv(&self.socket, &mut buffer[..], RecvFlags::TRUNC))?;
            let mut rest = buffer.get(..length).ok_or(Errno::MSGSIZE)?;
            if rest.is_empty() {
                return Err(Errno::BADMSG);
            }
            while !rest.is_empty() {
                let (message, next) = Message::parse(rest).ok_or(Errno::BADMSG)?;
                rest = next;
                if message.sequence != self.sequence {
                    continue;
                }
                interrupted |= message.flags & INTERRUPTED != 0;
                if matches!(message.kind, NLMSG_ERROR | NLMSG_DONE) {
                    return match number(message.body, 0) {
                        None => Err(Errno::BADMSG),
                        Some(0) if interrupted => Err(Errno::INTR),
                        Some(0) => Ok(None),
                        Some(negative) => Err(errno(negative)),
                    };
                }
                if let Some(found) = look(message.kind, message.body) {
                    return Ok(Some(found));
                }
            }
        }
    }
}

/// The errno that an answer has as a negative number.
fn errno(negative: u32) -> Errno {
    let raw = negative.wrapping_neg().cast_signed();
    if (1..4096).contains(&raw) { Errno::from_raw_os_error(raw) } else { Errno::BADMSG }
}

/// A request, as far as it is written.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Self(bytes)
    }

    /// One about `device`, which it brings `up`.
    fn link(kind: u16, flags: u16, device: Index, up: bool) -> Self {
        let mut request = Self::new(kind, flags);
        let up = if up { IFF_UP } else { 0 };
        // The flags, and which of them are meant.
        for word in [0, device.0, up, up] {
            request.0.extend(word.to_ne_bytes());
        }
        request
    }

    fn name(&mut self, name: &str) {
        self.attribute(IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        // None is longer than it was in an answer, or than a device's name.
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[0..4].copy_from_slice(&length.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.0
    }
}

/// One message of an answer.
#[derive(Debug)]
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The first message in `bytes`, and what follows it; `None` where `bytes` are none.
    fn parse(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let length = usize::try_from(number(bytes, 0)?).ok()?;
        let body = bytes.get(HEADER..length)?;
        let kinds = number(bytes, 4)?.to_ne_bytes();
        let message = Self {
            kind: u16::from_ne_bytes([kinds[0], kinds[1]]),
            flags: u16::from_ne_bytes([kinds[2], kinds[3]]),
            sequence: number(bytes, 8)?,
            body,
        };
        Some((message, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
    }
}

/// The attributes in `bytes`, up to the first that is none.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = number(bytes, 0)?.to_ne_bytes();
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([header[2], header[3]]) & KIND, value))
    })
}

/// The four bytes at `place`.
fn number(bytes: &[u8], place: usize) -> Option<u32> {
    let bytes = bytes.get(place..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The body of the only message in `request`.
    fn body(request: Request) -> Vec<u8> {
        let bytes = request.finish(7);
        let (message, rest) = Message::parse(&bytes).unwrap();
        assert!(rest.is_empty() && message.sequence == 7, "{message:?}");
        message.body.to_vec()
    }

    #[test]
    fn a_link_is_read_as_it_is_written() {
        let mut request = Request::link(NEWLINK, 0, Index(5), true);
        request.attribute(1, &[1; 6]);
        request.name("eth0");
        let link = Link { index: Index(5), name: "eth0".into(), up: true };
        assert_eq!(Link::parse(&body(request)), Some(link));
    }

    #[test]
    fn an_address_that_may_be_taken_back_or_is_the_links_own_stays() {
        let parsed = |flags: u32, scope: u8, device: u32| {
            let mut request = Request::new(NEWADDR, 0);
            request.0.extend([2, 24, 0, scope, 5, 0, 0, 0]);
            request.attribute(1, &[10, 0, 0, 1]);
            request.attribute(3, b"eth0\0");
            request.attribute(IFA_FLAGS, &flags.to_ne_bytes());
            Address::parse(&body(request), Index(device))
        };
        let address = parsed(PERMANENT | 0x200 | 0x40, GLOBAL, 5).unwrap();
        assert_eq!((address.flags, address.attributes), (0x200, vec![(1, vec![10, 0, 0, 1])]));
        assert_eq!(parsed(0, GLOBAL, 5), None);
        assert_eq!(parsed(PERMANENT, 253, 5), None);
        assert_eq!(parsed(PERMANENT, GLOBAL, 6), None);
    }

    proptest! {
        #[test]
        fn any_answer_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), length: u8) {
            let _ = Link::parse(&bytes);
            let _ = Address::parse(&bytes, Index(1));
            // With lengths that are small enough to mean something.
            let mut bytes = bytes;
            for place in [0, HEADER + IFADDRMSG, HEADER + IFINFOMSG] {
                if let Some(first) = bytes.get_mut(place..place + 4) {
                    first.copy_from_slice(&u32::from(length).to_ne_bytes());
                }
            }
            if let Some((message, rest)) = Message::parse(&bytes) {
                prop_assert!(rest.len() + HEADER <= bytes.len());
                let _ = Link::parse(message.body);
                let _ = Address::parse(message.body, Index(1));
                prop_assert!(attributes(message.body).count() <= message.body.len() / 4);
            }
        }

        #[test]
        fn attributes_come_back(all in prop::collection::vec((0..KIND, prop::collection::vec(any::<u8>(), 0..20)), 0..8)) {
            let mut request = Request::new(NEWLINK, 0);
            for (kind, value) in &all {
                request.attribute(*kind, value);
            }
            let body = body(request);
            let read: Vec<_> = attributes(&body).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(read, all);
        }
    }
}
