//! Calls into the kernel as an attacker makes them: every kind of socket, raw options, raw
//! addresses. Unsafe code of this program lives here alone.

mod bpf;
mod trace;

use std::ffi::{CString, c_int};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr;

pub(crate) use self::bpf::{
    answer_always, attach_first, attach_legacy, detach_link, inner_map, open_pin, pass_all,
    set_inner_map, update_first,
};
pub(crate) use self::trace::{Stop, go_on, let_parent_trace, trace_threads, wait_for_traced};

/// A socket, closed on exec.
pub(crate) fn socket(domain: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    owned(fd)
}

/// `setsockopt` with the option's bytes as they are.
pub(crate) fn set(fd: impl AsFd, level: c_int, name: c_int, value: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads `value.len()` bytes there and keeps no pointer.
    let done = unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            length(value),
        )
    };
    checked(done)
}

/// The same for an option that is a number.
pub(crate) fn set_number(fd: impl AsFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    set(fd, level, name, &value.to_ne_bytes())
}

/// `address` is a `sockaddr`'s bytes, as [`internet`] and [`link`] make them.
pub(crate) fn bind(fd: impl AsFd, address: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads `address.len()` bytes there and keeps no pointer.
    let done = unsafe {
        libc::bind(
            fd.as_fd().as_raw_fd(),
            address.as_ptr().cast(),
            length(address),
        )
    };
    checked(done)
}

/// Likewise.
pub(crate) fn connect(fd: impl AsFd, address: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads `address.len()` bytes there and keeps no pointer.
    let done = unsafe {
        libc::connect(
            fd.as_fd().as_raw_fd(),
            address.as_ptr().cast(),
            length(address),
        )
    };
    checked(done)
}

/// `sendto`; without an address, to where the socket is connected or bound.
pub(crate) fn send(
    fd: impl AsFd,
    bytes: &[u8],
    flags: c_int,
    address: Option<&[u8]>,
) -> io::Result<()> {
    let (at, len) = address.map_or((ptr::null(), 0), |a| (a.as_ptr().cast(), length(a)));
    // SAFETY: the kernel reads both buffers within their lengths and keeps no pointer.
    let sent = unsafe {
        libc::sendto(
            fd.as_fd().as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags,
            at,
            len,
        )
    };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Index of a device in this thread's network namespace.
pub(crate) fn ifindex(name: &str) -> io::Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: a string with its end.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// `sockaddr_in` or `sockaddr_in6`.
pub(crate) fn internet(address: IpAddr, port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    match address {
        IpAddr::V4(v4) => {
            bytes.extend(2_u16.to_ne_bytes());
            bytes.extend(port.to_be_bytes());
            bytes.extend(v4.octets());
            bytes.extend([0; 8]);
        }
        IpAddr::V6(v6) => {
            bytes.extend(10_u16.to_ne_bytes());
            bytes.extend(port.to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(v6.octets());
            bytes.extend([0; 4]);
        }
    }
    bytes
}

/// `sockaddr_vm`
pub(crate) fn context(cid: u32, port: u32) -> Vec<u8> {
    let mut bytes = 40_u16.to_ne_bytes().to_vec();
    bytes.extend([0; 2]);
    bytes.extend(port.to_ne_bytes());
    bytes.extend(cid.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes
}

/// `sockaddr_ll` of a device; `ethertype` is what the sender says the frames are.
pub(crate) fn link(ifindex: u32, ethertype: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(17_u16.to_ne_bytes());
    bytes.extend(ethertype.to_be_bytes());
    bytes.extend(ifindex.to_ne_bytes());
    bytes.extend(1_u16.to_ne_bytes());
    bytes.extend([0, 6]);
    bytes.extend([2, 0, 0, 0, 0, 2, 0, 0]);
    bytes
}

/// Moves this thread into a network namespace that has nothing but a loopback device.
pub(crate) fn new_network_namespace() -> io::Result<()> {
    // SAFETY: changes nothing that memory or descriptors depend on.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
    Ok(())
}

fn address_of<T>(pointer: *const T) -> [u8; 8] {
    u64::try_from(pointer.addr()).unwrap_or(0).to_ne_bytes()
}

fn length(bytes: &[u8]) -> libc::socklen_t {
    libc::socklen_t::try_from(bytes.len()).unwrap_or(0)
}

fn checked(done: c_int) -> io::Result<()> {
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn owned(fd: c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: made by the call before this one, and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has a ring do one thing, and waits for what came of it. What the entry points to has to outlive
/// the call, which ends when the kernel is done with it.
pub(crate) fn by_ring(
    ring: &mut io_uring::IoUring,
    entry: &io_uring::squeue::Entry,
) -> anyhow::Result<io::Result<()>> {
    // SAFETY: whoever calls holds what the entry points to until this returns.
    unsafe { ring.submission().push(entry) }?;
    ring.submit_and_wait(1)?;
    let done = ring.completion().next();
    let done = done.ok_or_else(|| anyhow::anyhow!("the ring says nothing"))?;
    Ok(said(done.result()))
}

/// Marks the entry whose outcome is asked for.
pub(crate) const MEANT: u64 = 1;

/// The same, given up after a time.
pub(crate) fn by_ring_within(
    ring: &mut io_uring::IoUring,
    entry: &io_uring::squeue::Entry,
    limit: &io_uring::squeue::Entry,
) -> anyhow::Result<io::Result<()>> {
    // SAFETY: whoever calls holds what the entries point to until this returns.
    unsafe {
        ring.submission()
            .push_multiple(&[entry.clone(), limit.clone()])
    }?;
    ring.submit_and_wait(2)?;
    // Both complete, the limit first or last.
    let done = ring.completion().find(|done| done.user_data() == MEANT);
    let done = done.ok_or_else(|| anyhow::anyhow!("the ring says nothing"))?;
    Ok(said(done.result()))
}

fn said(result: i32) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    Ok(())
}

/// `finit_module(2)`. That a module is there already is told after it was asked for.
pub(crate) fn load_module(file: impl AsFd) -> io::Result<()> {
    // SAFETY: the parameters end with a zero byte; the kernel reads the file.
    let done = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_fd().as_raw_fd(),
            c"".as_ptr(),
            0,
        )
    };
    is_there(done)
}

/// `init_module(2)`
pub(crate) fn load_module_from(bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads `bytes.len()` bytes there; the parameters end with a zero byte.
    let done = unsafe {
        libc::syscall(
            libc::SYS_init_module,
            bytes.as_ptr(),
            bytes.len(),
            c"".as_ptr(),
        )
    };
    is_there(done)
}

fn is_there(done: libc::c_long) -> io::Result<()> {
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EEXIST) => Ok(()),
        _ => Err(error),
    }
}

/// Sends a signal to a process that this program started.
pub(crate) fn kill(pid: c_int, signal: c_int) -> io::Result<()> {
    // SAFETY: takes no pointer.
    checked(unsafe { libc::kill(pid, signal) })
}

/// A packet socket that counts IPv4 packets to one address, and keeps none.
pub(crate) fn count_only(socket: impl AsFd, to: std::net::Ipv4Addr) -> io::Result<()> {
    // ld [30]; jeq #to, 0, 1; ret #64; ret #0
    let code: [[u8; 8]; 4] = [
        instruction(0x20, 0, 0, 30),
        instruction(0x15, 0, 1, to.to_bits()),
        instruction(0x06, 0, 0, 64),
        instruction(0x06, 0, 0, 0),
    ];
    let mut program = 4_u16.to_ne_bytes().to_vec();
    program.extend([0; 6]);
    program.extend(address_of(code.as_ptr()));
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn instruction(code: u16, yes: u8, no: u8, k: u32) -> [u8; 8] {
    let [a, b] = code.to_ne_bytes();
    let [c, d, e, f] = k.to_ne_bytes();
    [a, b, yes, no, c, d, e, f]
}

/// Packets that a packet socket has seen since the last call, kept or not.
pub(crate) fn packets_seen(socket: impl AsFd) -> io::Result<u32> {
    let mut seen = [0_u32; 2];
    let mut length = libc::socklen_t::try_from(size_of_val(&seen)).unwrap_or(0);
    // SAFETY: the kernel writes at most `length` bytes there.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            263,
            6,
            seen.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    checked(done)?;
    let [packets, _dropped] = seen;
    Ok(packets)
}

/// Memory that the kernel shares, given back when this goes.
struct Shared {
    at: *mut libc::c_void,
    length: usize,
}

impl Shared {
    fn map(fd: c_int, length: usize, offset: i64, flags: c_int) -> io::Result<Self> {
        // SAFETY: a mapping at an address of the kernel's choice.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                offset,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { at, length })
    }

    /// Copies bytes to an offset; what would not fit is not copied.
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        if offset + bytes.len() <= self.length {
            let to = self.at.cast::<u8>().wrapping_add(offset);
            // SAFETY: within the mapping, which nothing of this program refers to.
            unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by this value, and used by nobody else.
        unsafe { libc::munmap(self.at, self.length) };
    }
}

/// One frame through a `PACKET_TX_RING` of two.
pub(crate) fn send_by_frames(socket: impl AsFd, frame: &[u8]) -> io::Result<()> {
    const SOL_PACKET: c_int = 263;
    const PACKET_VERSION: c_int = 10;
    const PACKET_TX_RING: c_int = 13;
    // `TPACKET2_HDRLEN` without the address: where a frame's bytes begin.
    const DATA: usize = 32;
    set_number(&socket, SOL_PACKET, PACKET_VERSION, 1)?;
    let request = [4096_u32, 1, 2048, 2].map(u32::to_ne_bytes).concat();
    set(&socket, SOL_PACKET, PACKET_TX_RING, &request)?;
    let fd = socket.as_fd().as_raw_fd();
    let mut ring = Shared::map(fd, 4096, 0, libc::MAP_SHARED)?;
    let length = u32::try_from(frame.len()).unwrap_or(0).to_ne_bytes();
    ring.write(DATA, frame);
    ring.write(4, &length);
    ring.write(0, &1_u32.to_ne_bytes()); // TP_STATUS_SEND_REQUEST
    send(&socket, &[], 0, None)
}

/// A tap of that name, which goes with its file.
pub(crate) fn tap(name: &str) -> io::Result<OwnedFd> {
    const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
    const IFF_TAP: u16 = 2;
    const IFF_NO_PI: u16 = 0x1000;
    let card = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // `struct ifreq`: name, flags.
    let mut request = [0_u8; 40];
    for (to, from) in request.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    let [low, high] = (IFF_TAP | IFF_NO_PI).to_ne_bytes();
    for (to, from) in request.iter_mut().skip(16).zip([low, high]) {
        *to = from;
    }
    // SAFETY: the kernel reads and writes one `ifreq` there.
    let done = unsafe { libc::ioctl(card.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    checked(done)?;
    Ok(card.into())
}

/// One frame through an AF_XDP socket in copy mode, which every device has.
pub(crate) fn send_express(device: &str, frame: &[u8]) -> io::Result<()> {
    const AF_XDP: c_int = 44;
    const SOL_XDP: c_int = 283;
    const TX_RING: c_int = 3;
    const UMEM_REG: c_int = 4;
    const FILL: c_int = 5;
    const COMPLETION: c_int = 6;
    const TX_OFFSET: i64 = 0x8000_0000;
    const OFFSETS: c_int = 1;
    const COPY: u16 = 2;
    let socket = socket(AF_XDP, libc::SOCK_RAW, 0)?;
    let mut memory = Shared::map(-1, 16 * 4096, 0, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)?;
    memory.write(0, frame);
    // `struct xdp_umem_reg`: address, length, size of a chunk, headroom, flags.
    let mut umem = address_of(memory.at).to_vec();
    umem.extend((16_u64 * 4096).to_ne_bytes());
    umem.extend(4096_u32.to_ne_bytes());
    umem.extend([0; 12]);
    set(&socket, SOL_XDP, UMEM_REG, &umem)?;
    for ring in [FILL, COMPLETION, TX_RING] {
        set_number(&socket, SOL_XDP, ring, 4)?;
    }
    // `struct xdp_mmap_offsets`: for each ring producer, consumer, descriptors, flags.
    let mut offsets = [0_u64; 16];
    let mut length = libc::socklen_t::try_from(size_of_val(&offsets)).unwrap_or(0);
    // SAFETY: the kernel writes at most `length` bytes there.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            SOL_XDP,
            OFFSETS,
            offsets.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    checked(done)?;
    let [_, _, _, _, producer, _, descriptors, ..] = offsets;
    let at = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX / 2);
    let size = at(descriptors) + 4 * 16;
    let fd = socket.as_raw_fd();
    let mut ring = Shared::map(fd, size, TX_OFFSET, libc::MAP_SHARED | libc::MAP_POPULATE)?;
    // `struct sockaddr_xdp`: family, flags, device, queue, another's memory.
    let mut address = 44_u16.to_ne_bytes().to_vec();
    address.extend(COPY.to_ne_bytes());
    address.extend(ifindex(device)?.to_ne_bytes());
    address.extend([0; 8]);
    bind(&socket, &address)?;
    // `struct xdp_desc`: address in the memory, length, options.
    let mut descriptor = 0_u64.to_ne_bytes().to_vec();
    descriptor.extend(u32::try_from(frame.len()).unwrap_or(0).to_ne_bytes());
    descriptor.extend([0; 4]);
    ring.write(at(descriptors), &descriptor);
    ring.write(at(producer), &1_u32.to_ne_bytes());
    send(&socket, &[], libc::MSG_DONTWAIT, None)
}
