//! The chain of a device where there is no tcx (before Linux 6.6): a `bpf` filter on the `clsact`
//! queueing discipline, always the same handle and priority, so that one request replaces it and
//! no packet passes unjudged.
//!
//! Layouts: `struct tcmsg` of `include/uapi/linux/rtnetlink.h`, `TCA_BPF_*` of `pkt_cls.h`.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use crate::netlink::{
    CREATE, DUMP, EXCLUSIVE, Message, Netlink, attribute, attributes, number, text,
};
use crate::sys::tcx::Side;

/// `RTM_NEWQDISC`, `RTM_NEWTFILTER`, `RTM_DELTFILTER`, `RTM_GETTFILTER`.
const NEW_DISCIPLINE: u16 = 36;
const NEW_FILTER: u16 = 44;
const DELETE_FILTER: u16 = 45;
const GET_FILTER: u16 = 46;
/// `TC_H_CLSACT`, and the handle of the discipline.
const CLSACT: u32 = 0xffff_fff1;
const DISCIPLINE: u32 = 0xffff_0000;
/// `TCA_KIND`, `TCA_OPTIONS`.
const KIND: u16 = 1;
const OPTIONS: u16 = 2;
/// `TCA_BPF_FD`, `TCA_BPF_NAME`, `TCA_BPF_FLAGS`, `TCA_BPF_ID`.
const FD: u16 = 6;
const NAME: u16 = 7;
const FLAGS: u16 = 8;
const ID: u16 = 11;
/// `TCA_BPF_FLAG_ACT_DIRECT`: what the program returns is what is done.
const DIRECT: u32 = 1;
/// Ours: the first priority, and in it the first handle; another while they change places.
const PRIORITY: u32 = 1;
const HANDLE: u32 = 1;
const MEANWHILE: u32 = 2;
/// `ETH_P_ALL`, in network order as the kernel wants it.
const EVERYTHING: u16 = 3;

/// Filters of one side, in the order in which they run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Filter {
    /// It has our handle, priority and name.
    pub(super) ours: bool,
    /// The priority is ours.
    pub(super) first: bool,
    /// 0: no BPF program.
    pub(super) program: u32,
    /// Of classifier: `bpf`, `u32`.
    pub(super) kind: String,
}

/// Puts the program first, or in the place of its predecessor. Whoever holds our handle has no
/// place beside it; nor has anybody else in the priority, if theirs is another kind of classifier
/// or for one protocol: a priority has one of each.
pub(super) fn attach(
    netlink: &mut Netlink,
    device: u32,
    side: Side,
    program: BorrowedFd<'_>,
    name: &str,
) -> io::Result<()> {
    match add(netlink, device, side, (program, name), HANDLE) {
        Err(err) if err.raw_os_error() == Some(libc::EINVAL) => {
            let chain = chain(netlink, device, side, name)?;
            if !chain.iter().any(|filter| filter.first && !filter.ours) {
                return Err(err);
            }
            empty(netlink, device, side)?;
            add(netlink, device, side, (program, name), HANDLE)
        }
        outcome => outcome,
    }
}

/// Takes away all of the first priority, whatever it is.
fn empty(netlink: &mut Netlink, device: u32, side: Side) -> io::Result<()> {
    let every = header(device, 0, parent(side), PRIORITY << 16);
    netlink.ask(DELETE_FILTER, 0, &every).map(drop)
}

/// Puts it before what has been made since: the last filter made in a priority runs first. The
/// program stands there by one handle or the other all the time.
pub(super) fn take_head(
    netlink: &mut Netlink,
    device: u32,
    side: Side,
    program: BorrowedFd<'_>,
    name: &str,
) -> io::Result<()> {
    add(netlink, device, side, (program, name), MEANWHILE)?;
    remove(netlink, device, side, HANDLE)?;
    add(netlink, device, side, (program, name), HANDLE)?;
    remove(netlink, device, side, MEANWHILE)
}

pub(super) fn add(
    netlink: &mut Netlink,
    device: u32,
    side: Side,
    (program, name): (BorrowedFd<'_>, &str),
    handle: u32,
) -> io::Result<()> {
    let mut discipline = header(device, DISCIPLINE, CLSACT, 0);
    attribute(&mut discipline, KIND, b"clsact\0");
    match netlink.ask(NEW_DISCIPLINE, CREATE | EXCLUSIVE, &discipline) {
        Err(err) if err.kind() != io::ErrorKind::AlreadyExists => return Err(err),
        _ => {}
    }
    let fd = u32::try_from(program.as_raw_fd()).map_err(io::Error::other)?;
    let mut options = Vec::new();
    attribute(&mut options, FD, &fd.to_ne_bytes());
    attribute(&mut options, NAME, &[name.as_bytes(), &[0]].concat());
    attribute(&mut options, FLAGS, &DIRECT.to_ne_bytes());
    let mut filter = header(device, handle, parent(side), info());
    attribute(&mut filter, KIND, b"bpf\0");
    attribute(&mut filter, OPTIONS, &options);
    netlink.ask(NEW_FILTER, CREATE, &filter).map(drop)
}

/// Takes ours away.
pub(super) fn detach(netlink: &mut Netlink, device: u32, side: Side) -> io::Result<()> {
    remove(netlink, device, side, MEANWHILE)?;
    remove(netlink, device, side, HANDLE)
}

fn remove(netlink: &mut Netlink, device: u32, side: Side, handle: u32) -> io::Result<()> {
    let mut filter = header(device, handle, parent(side), info());
    attribute(&mut filter, KIND, b"bpf\0");
    match netlink.ask(DELETE_FILTER, 0, &filter) {
        // The filter, the discipline or the device is gone.
        Err(err)
            if matches!(
                err.raw_os_error(),
                Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)
            ) =>
        {
            Ok(())
        }
        outcome => outcome.map(drop),
    }
}

/// What runs on one side.
pub(super) fn chain(
    netlink: &mut Netlink,
    device: u32,
    side: Side,
    name: &str,
) -> io::Result<Vec<Filter>> {
    let question = header(device, 0, parent(side), 0);
    match netlink.ask(GET_FILTER, DUMP, &question) {
        Ok(answer) => Ok(answer
            .iter()
            .filter_map(|found| read(found, name))
            .collect()),
        // No discipline there, so no filter.
        Err(err) if err.raw_os_error() == Some(libc::EINVAL) => Ok(Vec::new()),
        Err(err) => Err(err),
    }
}

/// `struct tcmsg`.
fn header(device: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for word in [device, handle, parent, info] {
        body.extend(word.to_ne_bytes());
    }
    body
}

fn parent(side: Side) -> u32 {
    match side {
        Side::Ingress => 0xffff_fff2,
        Side::Egress => 0xffff_fff3,
    }
}

/// Priority, and the protocol in network order.
fn info() -> u32 {
    (PRIORITY << 16) | u32::from(EVERYTHING.to_be())
}

fn read((kind, body): &Message, name: &str) -> Option<Filter> {
    if *kind != NEW_FILTER {
        return None;
    }
    let (head, rest) = body.split_first_chunk::<20>()?;
    let [.., h0, h1, h2, h3, _, _, _, _, i0, i1, i2, i3] = *head;
    let handle = u32::from_ne_bytes([h0, h1, h2, h3]);
    // Without a handle it is the head of a priority, which lists its filters next.
    if handle == 0 {
        return None;
    }
    let priority = u32::from_ne_bytes([i0, i1, i2, i3]) >> 16;
    let (mut program, mut said) = (0, String::new());
    let of = |wanted| attributes(rest).filter(move |(kind, _)| *kind == wanted);
    let kind: String = of(KIND).map(|(_, kind)| text(kind)).collect();
    // The same numbers mean something else to another kind.
    for (_, options) in of(OPTIONS).filter(|_| kind == "bpf") {
        for (kind, value) in attributes(options) {
            match kind {
                ID => program = number(value).unwrap_or(0),
                NAME => said = text(value),
                _ => {}
            }
        }
    }
    Some(Filter {
        ours: (handle, priority) == (HANDLE, PRIORITY) && said == name,
        first: priority == PRIORITY,
        program,
        kind,
    })
}
