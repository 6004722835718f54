//! One frame, through an `AF_PACKET` socket.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// `ETH_P_ALL` would also receive; with 0 the socket only sends.
const NOTHING: i32 = 0;

/// Sends `frame` by a device as it is, link header and all.
///
/// `ENOBUFS` where a program on the device's way out drops it, `ENETDOWN` where the device is down.
pub(crate) fn send(device: u32, frame: &[u8]) -> io::Result<()> {
    let device = i32::try_from(device).map_err(|_large| io::ErrorKind::InvalidInput)?;
    // SAFETY: takes no pointer.
    let fd = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            NOTHING,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: socket(2) has just returned this descriptor, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    let to = libc::sockaddr_ll {
        sll_family: family,
        sll_protocol: 0,
        sll_ifindex: device,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    let length =
        libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: the frame and the address are as long as they say, and outlive the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            (&raw const to).cast(),
            length,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
