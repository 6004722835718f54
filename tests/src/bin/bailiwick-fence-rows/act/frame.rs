//! Whole frames, by packet sockets and taps: no cgroup hook for IP ever sees them.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use io_uring::{IoUring, opcode, types};

use super::{Shot, step};
use crate::actor::Tried;
use crate::sys;
use crate::wire;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// For experiments (IEEE 802).
const EXPERIMENTAL: u16 = 0x88b5;

const SOL_PACKET: i32 = 263;
const PACKET_QDISC_BYPASS: i32 = 20;

/// From a packet socket, with a link header of one's own and with the kernel's.
pub(super) fn frame(shot: &Shot) -> Result<Tried> {
    let packet = wire::datagram(shot.from, shot.to, shot.port);
    let ethertype = ethertype(shot);
    let whole = framed(shot, &[ethertype], &packet);
    let mut tried = many(shot, libc::SOCK_RAW, ethertype, &whole)?;
    tried.add(&many(shot, libc::SOCK_DGRAM, ethertype, &packet)?);
    Ok(tried)
}

/// The socket says that it sends something else, and the frame does not.
pub(super) fn lie(shot: &Shot) -> Result<Tried> {
    let packet = wire::datagram(shot.from, shot.to, shot.port);
    let whole = framed(shot, &[ethertype(shot)], &packet);
    let mut tried = Tried::default();
    for said in [EXPERIMENTAL, 0x0806, IPV6, IPV4, 3] {
        if said != ethertype(shot) {
            tried.add(&many(shot, libc::SOCK_RAW, said, &whole)?);
        }
    }
    Ok(tried)
}

/// IP behind one tag and behind two, which the fence unwraps.
pub(super) fn tagged(shot: &Shot) -> Result<Tried> {
    let mut tried = Tried::default();
    for tags in [&[0x8100, 7][..], &[0x88a8, 7, 0x8100, 8]] {
        let whole = behind(shot, tags);
        tried.add(&many(shot, libc::SOCK_RAW, 0x8100, &whole)?);
    }
    Ok(tried)
}

/// IP behind what nobody unwraps: three tags, MPLS, PPPoE, LLC/SNAP; and what is no IP at all.
pub(super) fn wrapped(shot: &Shot) -> Result<Tried> {
    let packet = wire::datagram(shot.from, shot.to, shot.port);
    let mut frames = vec![behind(shot, &[0x88a8, 7, 0x8100, 8, 0x8100, 9])];
    // One label, the last of its stack.
    frames.push(framed(shot, &[0x8847, 0x0001, 0x0140], &packet));
    let length = u16::try_from(packet.len()).context("a packet is short")?;
    let protocol = if shot.to.is_ipv4() { 0x0021 } else { 0x0057 };
    frames.push(framed(
        shot,
        &[0x8864, 0x1100, 1, length + 2, protocol],
        &packet,
    ));
    // A length in the ethertype's place, LLC and SNAP, then the ethertype.
    let snap = [0xaaaa, 0x0300, 0x0000, ethertype(shot)];
    let length = length + 8;
    frames.push(framed(shot, &[&[length][..], &snap].concat(), &packet));
    frames.push(framed(shot, &[EXPERIMENTAL], &packet));
    // Longer than address resolution ever is.
    frames.push(framed(shot, &[0x0806], &packet.repeat(3)));
    let mut tried = Tried::default();
    for whole in frames {
        tried.add(&many(shot, libc::SOCK_RAW, EXPERIMENTAL, &whole)?);
    }
    Ok(tried)
}

/// Past the queue, and so past what hangs there: by a call, and by a ring of frames. The option is
/// asked for by `setsockopt`, by `io_uring`, and with more bytes than it has.
pub(super) fn bypass(shot: &Shot) -> Result<Tried> {
    let packet = wire::datagram(shot.from, shot.to, shot.port);
    let whole = framed(shot, &[ethertype(shot)], &packet);
    let mut tried = Tried::default();
    type Ask = fn(&OwnedFd) -> Result<std::io::Result<()>>;
    let ways: [Ask; 3] = [
        |socket| Ok(sys::set_number(socket, SOL_PACKET, PACKET_QDISC_BYPASS, 1)),
        |socket| by_ring(socket),
        |socket| {
            let mut value = vec![0; 8192];
            value.splice(..4, 1_i32.to_ne_bytes());
            let asked = sys::set(socket, SOL_PACKET, PACKET_QDISC_BYPASS, &value);
            Ok(match asked {
                // The kernel takes no such length; it is no way at all.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    Err(std::io::Error::from_raw_os_error(libc::EPERM))
                }
                other => other,
            })
        },
    ];
    for ask in ways {
        for ring_of_frames in [false, true] {
            let socket = bound(shot, libc::SOCK_RAW, ethertype(shot))?;
            if let Err(refused) = ask(&socket)? {
                tried.once::<()>(Err(refused));
                continue;
            }
            for _ in 0..shot.count {
                if ring_of_frames {
                    tried.once(sys::send_by_frames(&socket, &whole));
                    break; // one set-up is one frame
                }
                tried.once(sys::send(&socket, &whole, 0, None));
            }
        }
    }
    Ok(tried)
}

fn by_ring(socket: &OwnedFd) -> Result<std::io::Result<()>> {
    let mut ring = IoUring::new(2).context("set up a ring")?;
    let value = 1_i32.to_ne_bytes();
    let entry = opcode::SetSockOpt::new(
        types::Fd(socket.as_raw_fd()),
        u32::try_from(SOL_PACKET).context("a level")?,
        u32::try_from(PACKET_QDISC_BYPASS).context("an option")?,
        value.as_ptr().cast(),
        4,
    )
    .build();
    sys::by_ring(&mut ring, &entry)
}

/// A virtual machine's network card: frames come out of a file.
pub(super) fn tap(shot: &Shot) -> Result<Tried> {
    let mut card = sys::tap("tap0").map(File::from).context("open a tap")?;
    step("plugged")?;
    let packet = wire::datagram(shot.from, shot.to, shot.port);
    let whole = framed(shot, &[ethertype(shot)], &packet);
    let mut tried = Tried::default();
    for _ in 0..shot.count {
        tried.once(card.write_all(&whole));
    }
    step("sent")?;
    Ok(tried)
}

fn ethertype(shot: &Shot) -> u16 {
    if shot.to.is_ipv4() { IPV4 } else { IPV6 }
}

/// Behind tags, as IP.
fn behind(shot: &Shot, tags: &[u16]) -> Vec<u8> {
    let packet = wire::datagram(shot.from, shot.to, shot.port);
    framed(shot, &[tags, &[ethertype(shot)]].concat(), &packet)
}

/// Addresses, words, and what comes behind.
fn framed(shot: &Shot, words: &[u16], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, shot.mac, 2, 0, 0, 0, 0, 1];
    bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
    bytes.extend(payload);
    bytes
}

fn many(shot: &Shot, kind: i32, said: u16, bytes: &[u8]) -> Result<Tried> {
    let socket = bound(shot, kind, said)?;
    let mut to = sys::link(sys::ifindex(&shot.device)?, said);
    if let Some(last) = to.get_mut(17) {
        *last = shot.mac;
    }
    let mut tried = Tried::default();
    for _ in 0..shot.count {
        tried.once(sys::send(&socket, bytes, 0, Some(&to)));
    }
    Ok(tried)
}

fn bound(shot: &Shot, kind: i32, said: u16) -> Result<OwnedFd> {
    let socket =
        sys::socket(libc::AF_PACKET, kind, said.to_be().into()).context("make a packet socket")?;
    sys::bind(&socket, &sys::link(sys::ifindex(&shot.device)?, said)).context("bind")?;
    Ok(socket)
}

/// By a socket that never asked this kernel to route: AF_XDP, where frames lie in memory that both
/// share.
pub(super) fn express(shot: &Shot) -> Result<Tried> {
    let packet = wire::datagram(shot.from, shot.to, shot.port);
    let whole = framed(shot, &[ethertype(shot)], &packet);
    let mut tried = Tried::default();
    for _ in 0..shot.count {
        tried.once(sys::send_express(&shot.device, &whole));
    }
    Ok(tried)
}
