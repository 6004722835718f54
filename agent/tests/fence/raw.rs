//! What only a socket of `AF_PACKET` can do. Run by an actor, in its own namespace.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

/// In every frame that is to be counted.
pub(crate) const MARKER: &[u8] = b"bailiwick";

fn socket(protocol: u16) -> OwnedFd {
    let protocol = i32::from(protocol.to_be());
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, protocol) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the descriptor is new, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn address(device: &str, protocol: u16) -> libc::sockaddr_ll {
    let name = CString::new(device).unwrap();
    // SAFETY: the name ends with a zero byte and outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "{device}");
    libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap(),
        sll_protocol: protocol.to_be(),
        sll_ifindex: i32::try_from(index).unwrap(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0xff; 8],
    }
}

fn size() -> u32 {
    u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap()
}

/// Counts the frames with the marker that come in by a device.
pub(crate) fn sniff(device: &str, counter: Arc<AtomicU64>) {
    const ALL: u16 = 3;
    let socket = socket(ALL);
    let address = address(device, ALL);
    // SAFETY: the address is as long as it says, and outlives the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size()) };
    assert_eq!(bound, 0, "{}", io::Error::last_os_error());
    thread::spawn(move || {
        let mut frame = [0_u8; 2048];
        loop {
            let (mut from, mut room) = (address, size());
            // SAFETY: buffer and address are as long as they say, and outlive the call.
            let got = unsafe {
                libc::recvfrom(
                    socket.as_raw_fd(),
                    frame.as_mut_ptr().cast(),
                    frame.len(),
                    0,
                    (&raw mut from).cast(),
                    &raw mut room,
                )
            };
            // What goes out by the device is shown too.
            if from.sll_pkttype == libc::PACKET_OUTGOING {
                continue;
            }
            let Ok(length) = usize::try_from(got) else {
                return;
            };
            let seen = &frame[..length];
            if seen.windows(MARKER.len()).any(|part| part == MARKER) {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
}

/// Sends a frame three times, saying that it carries `protocol`; the last error's name, or `sent`.
pub(crate) fn send(device: &str, protocol: u16, frame: &[u8]) -> String {
    let socket = socket(0);
    let to = address(device, protocol);
    let mut said = "sent".to_owned();
    for _ in 0..3 {
        // SAFETY: frame and address are as long as they say, and outlive the call.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                size(),
            )
        };
        if sent < 0 {
            said = format!("{:?}", io::Error::last_os_error().raw_os_error());
        }
    }
    said
}

/// Sets an option of `SOL_PACKET`; or, for 0, `SO_BINDTODEVICE` to the loopback device with a value
/// of this length.
pub(crate) fn option(name: i32, length: usize) -> String {
    let socket = socket(0);
    let mut value = vec![0_u8; length];
    let (level, name) = match name {
        0 => {
            value[..2].copy_from_slice(b"lo");
            (libc::SOL_SOCKET, libc::SO_BINDTODEVICE)
        }
        name => {
            value[0] = 1;
            (libc::SOL_PACKET, name)
        }
    };
    // SAFETY: the value is as long as it says, and outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            u32::try_from(length).unwrap(),
        )
    };
    match set {
        0 => "set".to_owned(),
        _ => format!("{:?}", io::Error::last_os_error().kind()),
    }
}

/// Connects by MPTCP and waits for nothing; over IPv4.
pub(crate) fn connect_mptcp(to: std::net::SocketAddr) -> std::io::Result<()> {
    let std::net::SocketAddr::V4(to) = to else {
        return Err(std::io::ErrorKind::Unsupported.into());
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: no pointers.
    let socket = unsafe { libc::socket(libc::AF_INET, kind, libc::IPPROTO_MPTCP) };
    if socket < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: a new descriptor, owned here alone.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let address = libc::sockaddr_in {
        sin_family: u16::try_from(libc::AF_INET).unwrap(),
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: to.ip().to_bits().to_be(),
        },
        sin_zero: [0; 8],
    };
    let length = u32::try_from(size_of::<libc::sockaddr_in>()).unwrap();
    // SAFETY: the address outlives the call and is as long as it says.
    let answer = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length) };
    match answer {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
