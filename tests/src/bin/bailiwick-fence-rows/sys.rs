//! Calls into the kernel as an attacker makes them: every kind of socket, raw options, raw
//! addresses. Unsafe code of this program lives here alone.

use std::ffi::{CString, c_int};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::ptr;

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

/// One command of `bpf(2)`.
fn bpf(command: c_int, attributes: &[u8]) -> io::Result<c_int> {
    // SAFETY: the kernel reads `attributes.len()` bytes there; what they point to outlives the call
    // in each of the callers below.
    let done = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_ptr(),
            attributes.len(),
        )
    };
    match c_int::try_from(done) {
        Ok(done) if done >= 0 => Ok(done),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `BPF_OBJ_GET`
pub(crate) fn open_pin(path: &std::path::Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut attributes = address_of(path.as_ptr()).to_vec();
    attributes.extend([0; 8]);
    let fd = bpf(7, &attributes)?;
    owned(fd)
}

/// `BPF_LINK_DETACH`
pub(crate) fn detach_link(link: impl AsFd) -> io::Result<()> {
    let fd = link.as_fd().as_raw_fd().to_ne_bytes();
    bpf(34, &fd).map(drop)
}

/// The map in the first place of a map of maps.
pub(crate) fn inner_map(outer: impl AsFd) -> io::Result<OwnedFd> {
    const LOOKUP: c_int = 1;
    const GET_FD_BY_ID: c_int = 14;
    let mut id = [0_u8; 4];
    bpf(LOOKUP, &element(&outer, &[0; 4], id.as_mut_ptr()))?;
    let mut attributes = id.to_vec();
    attributes.extend([0; 8]);
    owned(bpf(GET_FD_BY_ID, &attributes)?)
}

/// Puts a map in the first place of a map of maps.
pub(crate) fn set_inner_map(outer: impl AsFd, inner: impl AsFd) -> io::Result<()> {
    let mut fd = inner.as_fd().as_raw_fd().to_ne_bytes();
    update_first(outer, &mut fd)
}

/// Writes the first element of an array.
pub(crate) fn update_first(map: impl AsFd, value: &mut [u8]) -> io::Result<()> {
    const UPDATE: c_int = 2;
    bpf(UPDATE, &element(&map, &[0; 4], value.as_mut_ptr())).map(drop)
}

/// Map, key, value and no flags; both outlive the call they are for.
fn element(map: &impl AsFd, key: &[u8; 4], value: *mut u8) -> Vec<u8> {
    let mut attributes = map.as_fd().as_raw_fd().to_ne_bytes().to_vec();
    attributes.extend([0; 4]);
    attributes.extend(address_of(key.as_ptr()));
    attributes.extend(address_of(value));
    attributes.extend([0; 8]);
    attributes
}

/// A program for the way out of a cgroup that lets everything pass.
pub(crate) fn pass_all() -> io::Result<OwnedFd> {
    const CGROUP_SKB: u32 = 8;
    const EGRESS: u32 = 1;
    program(CGROUP_SKB, EGRESS, 1)
}

/// A program of two instructions: it returns a number.
fn program(kind: u32, attach: u32, number: i32) -> io::Result<OwnedFd> {
    // r0 = number; exit
    let mut code = vec![0xb7, 0, 0, 0];
    code.extend(number.to_ne_bytes());
    code.extend([0x95, 0, 0, 0, 0, 0, 0, 0]);
    let licence = c"GPL";
    let mut attributes = Vec::new();
    attributes.extend(kind.to_ne_bytes());
    attributes.extend(2_u32.to_ne_bytes());
    attributes.extend(address_of(code.as_ptr()));
    attributes.extend(address_of(licence.as_ptr()));
    // log_level, log_size, log_buf, kern_version, prog_flags, prog_name, prog_ifindex
    attributes.extend([0; 4 + 4 + 8 + 4 + 4 + 16 + 4]);
    attributes.extend(attach.to_ne_bytes());
    owned(bpf(5, &attributes)?)
}

/// `BPF_PROG_ATTACH` on the way out of a cgroup, as it was done before there were links.
pub(crate) fn attach_legacy(program: impl AsFd, cgroup: impl AsFd, flags: u32) -> io::Result<()> {
    const EGRESS: u32 = 1;
    let mut attributes = Vec::new();
    attributes.extend(cgroup.as_fd().as_raw_fd().to_ne_bytes());
    attributes.extend(program.as_fd().as_raw_fd().to_ne_bytes());
    attributes.extend(EGRESS.to_ne_bytes());
    attributes.extend(flags.to_ne_bytes());
    attributes.extend([0; 4]);
    bpf(8, &attributes).map(drop)
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

/// Why a traced thread stopped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stop {
    /// It is gone.
    Ended,
    /// About to make the system call of that number.
    Call(i64),
    /// Back from one; its number was told when it was made.
    Return,
    /// About to be given a signal.
    Signal(c_int),
    /// Something else: a new thread, a new program.
    Other,
}

/// The child asks to be traced by the thread that starts it.
pub(crate) fn let_parent_trace(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;
    let ask = || {
        // SAFETY: takes no pointer; async-signal-safe.
        let done = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0_usize, 0_usize) };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes one system call and allocates nothing.
    unsafe { command.pre_exec(ask) };
}

/// System calls are told from signals, new threads are traced too, and all die with the tracer.
pub(crate) fn trace_threads(pid: c_int) -> io::Result<()> {
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_EXITKILL;
    let options = usize::try_from(options).unwrap_or(0);
    // SAFETY: the child is stopped and traced by this thread; no pointer is passed.
    let done = unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, pid, 0_usize, options) };
    traced(done)
}

/// Until the next system call, its return, or a signal.
pub(crate) fn go_on(thread: c_int, signal: c_int) -> io::Result<()> {
    let signal = usize::try_from(signal).unwrap_or(0);
    // SAFETY: as above.
    let done = unsafe { libc::ptrace(libc::PTRACE_SYSCALL, thread, 0_usize, signal) };
    traced(done)
}

/// The next stop of a thread that this thread traces; `None` once there is none left.
pub(crate) fn wait_for_traced() -> io::Result<Option<(c_int, Stop)>> {
    let mut status = 0;
    // SAFETY: the kernel writes one integer there.
    let thread = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
    if thread < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ECHILD) => Ok(None),
            Some(libc::EINTR) => Ok(Some((0, Stop::Other))),
            _ => Err(error),
        };
    }
    if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
        return Ok(Some((thread, Stop::Ended)));
    }
    let stop = match libc::WSTOPSIG(status) {
        signal if signal == libc::SIGTRAP | 0x80 => at_call(thread),
        // An event of the tracing, and the stop a new thread begins with.
        libc::SIGTRAP | libc::SIGSTOP => Stop::Other,
        signal => Stop::Signal(signal),
    };
    Ok(Some((thread, stop)))
}

/// Which system call it stopped at.
fn at_call(thread: c_int) -> Stop {
    // `struct ptrace_syscall_info`: op, then at 24 what depends on it.
    let mut info = [0_u64; 11];
    // SAFETY: the kernel writes at most the given number of bytes there.
    let written = unsafe {
        libc::ptrace(
            libc::PTRACE_GET_SYSCALL_INFO,
            thread,
            size_of_val(&info),
            info.as_mut_ptr(),
        )
    };
    if written < 0 {
        return Stop::Other;
    }
    let [op, ..] = info.map(|word| word.to_ne_bytes().first().copied().unwrap_or(0));
    match op {
        1 => Stop::Call(
            info.get(3)
                .and_then(|nr| i64::try_from(*nr).ok())
                .unwrap_or(-1),
        ),
        2 => Stop::Return,
        _ => Stop::Other,
    }
}

/// Sends a signal to a process that this program started.
pub(crate) fn kill(pid: c_int, signal: c_int) -> io::Result<()> {
    // SAFETY: takes no pointer.
    checked(unsafe { libc::kill(pid, signal) })
}

fn traced(done: libc::c_long) -> io::Result<()> {
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
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

/// A classifier that returns one number.
pub(crate) fn answer_always(number: i32) -> io::Result<OwnedFd> {
    const SCHED_CLS: u32 = 3;
    program(SCHED_CLS, 0, number)
}

/// Puts a classifier before all others on the way out of a device; it stays as long as the link.
pub(crate) fn attach_first(program: impl AsFd, device: &str) -> io::Result<OwnedFd> {
    const TCX_EGRESS: u32 = 47;
    const BEFORE: u32 = 8;
    let mut attributes = Vec::new();
    attributes.extend(program.as_fd().as_raw_fd().to_ne_bytes());
    attributes.extend(ifindex(device)?.to_ne_bytes());
    attributes.extend(TCX_EGRESS.to_ne_bytes());
    attributes.extend(BEFORE.to_ne_bytes());
    attributes.extend([0; 16]);
    owned(bpf(28, &attributes)?)
}
