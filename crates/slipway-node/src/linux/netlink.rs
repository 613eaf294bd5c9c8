//! Generic netlink: requests to a family of the kernel, its answers, and what it tells to a group (netlink(7), and the kernel's
//! Documentation/userspace-api/netlink). Numbers on it have the machine's own byte order.

use super::syscall;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::{GENERIC, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, sendto, socket_with};
use std::time::Duration;

/// `NLMSG_ERROR`: how every request ends, 0 for success.
const ERROR: u16 = 2;
/// Bytes of a message's header.
const HEADER: usize = 16;
/// Bytes of the header of generic netlink behind it.
const GENERIC_HEADER: usize = 4;
/// `NLM_F_REQUEST | NLM_F_ACK`.
const ASK: u16 = 1 | 4;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// The bits of an attribute's kind that are not flags.
const KIND: u16 = 0x3fff;
/// The family that knows the others: `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY` and its attributes.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
const GROUPS: u16 = 7;
const GROUP_NAME: u16 = 1;
const GROUP_ID: u16 = 2;
/// The kernel answers within the request; this is for one that does not.
const PATIENCE: Duration = Duration::from_secs(10);

/// Attributes in the order in which they were added.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes(Vec<u8>);

impl Attributes {
    fn put(mut self, kind: u16, value: &[u8]) -> Self {
        // No value here is near the 64 KiB that a length can say.
        let len = (4 + value.len()) as u16;
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn u32(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_ne_bytes())
    }

    pub(super) fn u64(self, kind: u16, value: u64) -> Self {
        self.put(kind, &value.to_ne_bytes())
    }

    pub(super) fn text(self, kind: u16, value: &str) -> Self {
        self.put(kind, &[value.as_bytes(), &[0]].concat())
    }

    pub(super) fn nested(self, kind: u16, inner: &Self) -> Self {
        self.put(kind | NESTED, &inner.0)
    }
}

/// What the kernel said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) command: u8,
    attributes: Vec<u8>,
}

impl Said {
    /// The number that an attribute of this kind holds.
    pub(super) fn u32(&self, kind: u16) -> Option<u32> {
        find(&self.attributes, kind)?.try_into().ok().map(u32::from_ne_bytes)
    }
}

fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    parse(attributes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// Takes attributes apart; ends where one does not fit.
fn parse(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & KIND;
        let value = rest.get(4..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// A whole request.
fn request(family: u16, sequence: u32, command: u8, attributes: &Attributes) -> Vec<u8> {
    let len = (HEADER + GENERIC_HEADER + attributes.0.len()) as u32;
    let mut bytes = Vec::with_capacity(len as usize);
    bytes.extend_from_slice(&len.to_ne_bytes());
    bytes.extend_from_slice(&family.to_ne_bytes());
    bytes.extend_from_slice(&ASK.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    // The sender's number, which the kernel fills in.
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&[command, 1, 0, 0]);
    bytes.extend_from_slice(&attributes.0);
    bytes
}

/// One message of a datagram.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    /// The request of this number has ended so.
    End(u32, Result<(), Errno>),
    /// A family's message, with the number of the request that it answers.
    Said(u16, u32, Said),
}

/// Takes a datagram apart; ends where a message does not fit.
fn messages(mut rest: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    let u32_at = |bytes: &[u8], at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    while let Some(len) = u32_at(rest, 0).map(|len| len as usize) {
        let Some(message) = rest.get(..len).filter(|message| message.len() >= HEADER) else { break };
        let kind = u16::from_ne_bytes([message[4], message[5]]);
        let sequence = u32_at(message, 8).unwrap_or_default();
        match (kind, u32_at(message, HEADER)) {
            (ERROR, Some(code)) => {
                let code = code.cast_signed();
                let end = if code == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(code.wrapping_neg())) };
                messages.push(Message::End(sequence, end));
            }
            (family @ CONTROL.., Some(_)) => {
                let said = Said { command: message[HEADER], attributes: message[HEADER + GENERIC_HEADER..].to_vec() };
                messages.push(Message::Said(family, sequence, said));
            }
            _ => {}
        }
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

/// A socket to one family.
#[derive(Debug)]
pub(super) struct Family {
    socket: OwnedFd,
    id: u16,
    groups: Vec<(String, u32)>,
    sequence: u32,
}

impl Family {
    /// Opens a socket and asks for the family's number: `ENOENT` when this kernel has none of that name.
    pub(super) fn open(name: &str) -> Result<Self, Errno> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(GENERIC))?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        let mut family = Self { socket, id: CONTROL, groups: Vec::new(), sequence: 0 };
        let said = family.ask(GET_FAMILY, &Attributes::default().text(FAMILY_NAME, name))?;
        let said = said.into_iter().next().ok_or(Errno::NOENT)?;
        let id = find(&said.attributes, FAMILY_ID).and_then(|id| id.try_into().ok()).map(u16::from_ne_bytes);
        family.id = id.ok_or(Errno::NOENT)?;
        family.groups = groups(&said.attributes);
        Ok(family)
    }

    /// Sends a request and waits for its end.
    pub(super) fn ask(&mut self, command: u8, attributes: &Attributes) -> Result<Vec<Said>, Errno> {
        self.sequence += 1;
        let bytes = request(self.id, self.sequence, command, attributes);
        sendto(&self.socket, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut answers = Vec::new();
        loop {
            for message in self.receive()? {
                match message {
                    Message::End(sequence, end) if sequence == self.sequence => return end.map(|()| answers),
                    Message::Said(_, sequence, said) if sequence == self.sequence => answers.push(said),
                    Message::End(..) | Message::Said(..) => {}
                }
            }
        }
    }

    /// Hears from now on what the kernel tells a group; a call of [`hear`](Self::hear) waits at most so long.
    pub(super) fn join(&self, group: &str, wait: Duration) -> Result<(), Errno> {
        let (_, group) = self.groups.iter().find(|(name, _)| name == group).ok_or(Errno::NOENT)?;
        syscall::netlink_join(&self.socket, *group)?;
        set_socket_timeout(&self.socket, Timeout::Recv, Some(wait))
    }

    /// What was told next; nothing when the wait is over. `ENOBUFS` when something was missed.
    pub(super) fn hear(&self) -> Result<Vec<Said>, Errno> {
        let told = match self.receive() {
            Ok(told) => told,
            Err(Errno::AGAIN) => return Ok(Vec::new()),
            Err(errno) => return Err(errno),
        };
        let of_family = told.into_iter().filter_map(|message| match message {
            Message::Said(family, _, said) if family == self.id => Some(said),
            Message::Said(..) | Message::End(..) => None,
        });
        Ok(of_family.collect())
    }

    fn receive(&self) -> Result<Vec<Message>, Errno> {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let (len, _, from) = match recvfrom(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Err(Errno::INTR) => continue,
                received => received?,
            };
            // Any process may write to this socket; only the kernel is number 0.
            let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
            if from.is_some_and(|from| from.pid() == 0) {
                return Ok(messages(&buffer[..len]));
            }
        }
    }
}

fn groups(attributes: &[u8]) -> Vec<(String, u32)> {
    let listed = find(attributes, GROUPS).unwrap_or_default();
    let groups = parse(listed).filter_map(|(_, group)| {
        let name = find(group, GROUP_NAME)?.strip_suffix(&[0])?;
        let id = find(group, GROUP_ID)?.try_into().ok().map(u32::from_ne_bytes)?;
        Some((String::from_utf8(name.to_vec()).ok()?, id))
    });
    groups.collect()
}

#[cfg(test)]
mod tests {
    use super::{Attributes, Errno, Family, Message, Said, groups, messages, parse, request};

    #[test]
    #[cfg(target_endian = "little")]
    fn attributes_are_padded_and_nest() {
        let inner = Attributes::default().u32(1, 7);
        let all = Attributes::default().text(2, "nbd").u64(3, 1 << 40).nested(7, &inner);
        let wanted = [
            &[8, 0, 2, 0, b'n', b'b', b'd', 0][..],
            &[12, 0, 3, 0, 0, 0, 0, 0, 0, 1, 0, 0],
            &[12, 0, 7, 0x80, 8, 0, 1, 0, 7, 0, 0, 0],
        ];
        assert_eq!(all.0, wanted.concat());
        assert_eq!(Attributes::default().text(1, "12345").0, [10, 0, 1, 0, 49, 50, 51, 52, 53, 0, 0, 0]);
        let read: Vec<_> = parse(&all.0).map(|(kind, value)| (kind, value.len())).collect();
        assert_eq!(read, [(2, 4), (3, 8), (7, 8)]);
        let bytes = request(0x1c, 5, 3, &inner);
        let wanted =
            [&[28, 0, 0, 0, 0x1c, 0, 5, 0, 5, 0, 0, 0, 0, 0, 0, 0][..], &[3, 1, 0, 0], &[8, 0, 1, 0, 7, 0, 0, 0]];
        assert_eq!(bytes, wanted.concat());
    }

    #[test]
    fn what_does_not_fit_ends_the_reading() {
        for (bytes, len) in [
            (&[][..], 0),
            (&[4, 0, 1, 0], 1),
            (&[3, 0, 1, 0], 0),
            (&[0, 0, 1, 0], 0),
            (&[9, 0, 1, 0, 1, 2, 3, 4], 0),
            (&[5, 0, 1, 0, 9], 1),
            (&[255, 255, 1, 0], 0),
        ] {
            assert_eq!(parse(bytes).count(), len, "{bytes:?}");
        }
        for bytes in [&[][..], &[16, 0, 0], &[15; 15], &[0; 64], &[255; 64]] {
            assert_eq!(messages(bytes), [], "{bytes:?}");
        }
    }

    #[test]
    fn a_datagram_has_answers_and_the_end() {
        let mut bytes = request(0x1c, 9, 1, &Attributes::default().u32(1, 3));
        bytes.extend_from_slice(&36_u32.to_ne_bytes());
        bytes.extend_from_slice(&2_u16.to_ne_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&9_u32.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&(-16_i32).to_ne_bytes());
        bytes.extend_from_slice(&[0; 16]);
        let found = messages(&bytes);
        let said = Said { command: 1, attributes: Attributes::default().u32(1, 3).0 };
        assert_eq!(said.u32(1), Some(3));
        assert_eq!(found, [Message::Said(0x1c, 9, said), Message::End(9, Err(Errno::BUSY))]);
    }

    #[test]
    fn groups_have_names() {
        let group = Attributes::default().text(1, "events").u32(2, 11);
        let all = Attributes::default().nested(7, &Attributes::default().nested(1, &group));
        assert_eq!(groups(&all.0), [("events".to_owned(), 11)]);
    }

    /// The kernel of this machine has the control family and no family of that name.
    #[test]
    fn the_kernel_answers() {
        let family = Family::open("nlctrl").unwrap();
        assert_eq!(family.id, 0x10);
        assert!(family.groups.iter().any(|(name, _)| name == "notify"), "{family:?}");
        assert_eq!(Family::open("no-such-family").unwrap_err(), Errno::NOENT);
    }
}
