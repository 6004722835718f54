//! Netlink: questions to the kernel about network devices, and its word that they changed.
//!
//! Layouts: `struct nlmsghdr`, `nlattr` of `include/uapi/linux/netlink.h`, numbers of
//! `include/uapi/linux/rtnetlink.h`. All integers are in the machine's order.

mod parse;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv,
    send, socket_with,
};

use self::parse::split;
pub(crate) use self::parse::{attributes, number, text};

/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP`, `NLM_F_EXCL`, `NLM_F_CREATE`.
const REQUEST: u16 = 1;
const ACK: u16 = 4;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const CREATE: u16 = 0x400;

/// `NLMSG_ERROR`, `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// `RTMGRP_LINK`: devices come, go and change.
const GROUP_LINK: u32 = 1;

/// The kernel sends dumps in pieces of this size at most.
const PIECE: usize = 32 * 1024;
/// Pieces of one answer: 4,096 devices take some 200.
const PIECES: usize = 4096;

/// A message: its type, and what follows the header.
pub(crate) type Message = (u16, Vec<u8>);

/// A socket for questions.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    number: u32,
}

impl Netlink {
    /// rtnetlink, in this thread's network namespace.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            socket: open(0, SocketFlags::CLOEXEC, None)?,
            number: 0,
        })
    }

    /// Generic netlink, likewise.
    pub(crate) fn generic() -> io::Result<Self> {
        Ok(Self {
            socket: open(0, SocketFlags::CLOEXEC, Some(netlink::GENERIC))?,
            number: 0,
        })
    }

    /// Asks, and hears all that is answered; an error the kernel names is an error.
    pub(crate) fn ask(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Message>> {
        self.number = self.number.wrapping_add(1);
        let flags = flags | REQUEST | if flags & DUMP == DUMP { 0 } else { ACK };
        let message = encode(kind, flags, self.number, body)?;
        send(&self.socket, &message, SendFlags::empty())?;
        let mut answer = Vec::new();
        let mut room = vec![0; PIECE];
        for _ in 0..PIECES {
            let (_, length) = recv(&self.socket, &mut room[..], RecvFlags::empty())?;
            let mut rest = room.get(..length).unwrap_or_default();
            while let Some((header, body, others)) = split(rest) {
                rest = others;
                if header.number != self.number {
                    continue;
                }
                match header.kind {
                    DONE => return Ok(answer),
                    ERROR => {
                        let code = body
                            .first_chunk()
                            .map_or(0, |code| i32::from_ne_bytes(*code));
                        return match code {
                            0 => Ok(answer),
                            code => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
                        };
                    }
                    kind => answer.push((kind, body.to_vec())),
                }
            }
        }
        Err(io::ErrorKind::FileTooLarge.into())
    }
}

/// A socket that becomes readable when devices come, go or change.
#[derive(Debug)]
pub(crate) struct Changes(OwnedFd);

impl Changes {
    /// In this thread's network namespace.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        open(GROUP_LINK, flags, None).map(Self)
    }

    /// Takes note of all that changed; what it was is found out by looking.
    pub(crate) fn drain(&self) -> bool {
        let mut room = [0; 4096];
        let mut any = false;
        loop {
            match recv(&self.0, &mut room[..], RecvFlags::empty()) {
                Ok(_) => any = true,
                // More came than the socket holds.
                Err(rustix::io::Errno::NOBUFS) => any = true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return any,
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// No protocol is `NETLINK_ROUTE`.
fn open(groups: u32, flags: SocketFlags, protocol: Option<Protocol>) -> io::Result<OwnedFd> {
    let kind = SocketType::RAW;
    let socket = socket_with(AddressFamily::NETLINK, kind, flags, protocol)?;
    bind(&socket, &netlink::SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

fn encode(kind: u16, flags: u16, number: u32, body: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(body.len().saturating_add(16)).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(body.len().saturating_add(16));
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(number.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(body);
    Ok(message)
}

/// Appends an attribute.
pub(crate) fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len().saturating_add(4)).unwrap_or(u16::MAX);
    to.extend(length.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_back_and_end_where_they_are_cut() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, 3, b"eth0\0");
        attribute(&mut bytes, 10 | 0x8000, &7_u32.to_ne_bytes());
        attribute(&mut bytes, 5, b"");
        let read: Vec<(u16, &[u8])> = attributes(&bytes).collect();
        let seven = 7_u32.to_ne_bytes();
        let want: [(u16, &[u8]); 3] = [(3, b"eth0\0"), (10, &seven), (5, b"")];
        assert_eq!(read, want);
        assert_eq!(text(read[0].1), "eth0");
        assert_eq!(number(read[1].1), Some(7));
        assert_eq!(number(b"abc"), None);
        for length in 0..bytes.len() {
            let whole = attributes(&bytes[..length]).count();
            assert!(whole <= 2 + usize::from(length == bytes.len()), "{length}");
        }
        let short = [3, 0, 3, 0, 9, 9, 9, 9];
        assert_eq!(attributes(&short).count(), 0, "shorter than its header");
    }

    #[test]
    fn messages_are_split_where_they_say() {
        let one = encode(20, REQUEST, 9, b"abcde").unwrap();
        let mut both = one.clone();
        both.resize(both.len().next_multiple_of(4), 0);
        both.extend(encode(DONE, 0, 9, &[0; 4]).unwrap());
        let (header, body, rest) = split(&both).unwrap();
        assert_eq!((header.kind, header.number, body), (20, 9, &b"abcde"[..]));
        let (header, _, rest) = split(rest).unwrap();
        assert_eq!((header.kind, rest.len()), (DONE, 0));
        assert!(split(&one[..one.len() - 1]).is_none(), "cut");
        assert!(split(&[0; 16]).is_none(), "no length");
        assert!(split(&[]).is_none());
    }
}
