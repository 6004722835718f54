//! `AF_PACKET` sockets: one frame out, and what of one protocol comes in.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// `ETH_P_ALL` would also receive; with 0 the socket only sends.
const NOTHING: i32 = 0;

/// Most bytes of frames that wait to be read.
const WAITING: usize = 64 * 1024;

/// Sends `frame` by a device as it is, link header and all.
///
/// `ENOBUFS` where a program on the device's way out drops it, `ENETDOWN` where the device is down.
pub(crate) fn send(device: u32, frame: &[u8]) -> io::Result<()> {
    let socket = open(libc::SOCK_RAW)?;
    let to = address(device, 0)?;
    // SAFETY: the frame and the address are as long as they say, and outlive the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            length::<libc::sockaddr_ll>()?,
        )
    };
    done(sent)
}

/// What comes in by a device under one ethertype, without its link header; reading never waits.
/// `groups`: link addresses of groups that the device has to take frames for.
pub(crate) fn listen(device: u32, ethertype: u16, groups: &[[u8; 6]]) -> io::Result<OwnedFd> {
    // Without a protocol nothing comes in until it is bound: no frame of another device does.
    let socket = open(libc::SOCK_DGRAM | libc::SOCK_NONBLOCK)?;
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, WAITING)?;
    let at = address(device, ethertype)?;
    // SAFETY: the address is as long as it says, and outlives the call.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const at).cast(),
            length::<libc::sockaddr_ll>()?,
        )
    };
    done(bound)?;
    for [a, b, c, d, e, f] in groups {
        let group = libc::packet_mreq {
            mr_ifindex: at.sll_ifindex,
            mr_type: u16::try_from(libc::PACKET_MR_MULTICAST).map_err(io::Error::other)?,
            mr_alen: 6,
            mr_address: [*a, *b, *c, *d, *e, *f, 0, 0],
        };
        // SAFETY: the option is as long as it says, and outlives the call.
        let joined = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const group).cast(),
                length::<libc::packet_mreq>()?,
            )
        };
        done(joined)?;
    }
    Ok(socket)
}

fn open(kind: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind | libc::SOCK_CLOEXEC, NOTHING) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: socket(2) has just returned this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address(device: u32, ethertype: u16) -> io::Result<libc::sockaddr_ll> {
    Ok(libc::sockaddr_ll {
        sll_family: libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: i32::try_from(device).map_err(|_large| io::ErrorKind::InvalidInput)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    })
}

fn length<T>() -> io::Result<libc::socklen_t> {
    libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)
}

/// The error of a call that answers a negative number.
fn done(answer: impl PartialOrd + From<i8>) -> io::Result<()> {
    match answer < 0.into() {
        true => Err(io::Error::last_os_error()),
        false => Ok(()),
    }
}
