//! What a process asks of the kernel itself: sockets whose traffic no other hook sees, `bpf(2)`,
//! modules. Asked where the BPF LSM is in force; without it these stay what statements name as
//! ways past the hooks.
//!
//! A study has no business with any of them but what its policy says. Of everybody else two things
//! are asked: who speaks to the machine's host past all packets, and who detaches a link, for what
//! stands in the kernel by a link falls with it. Audit mode does not concern them, as it does not
//! concern devices.

use crate::device::{self, Opener, Reason, SOCK_RAW, class, flag};
use crate::policy::kind;

/// `AF_PACKET`: frames, below IP.
pub const AF_PACKET: u32 = 17;
/// `AF_VSOCK`: to the machine's host, and to machines it is the host of.
pub const AF_VSOCK: u32 = 40;
/// `AF_XDP`: a card's queues.
pub const AF_XDP: u32 = 44;

/// The command `BPF_LINK_DETACH`.
pub const LINK_DETACH: u32 = 34;

/// `READING_FIRMWARE` of `enum kernel_read_file_id`, and the last that is no matter of trust. Above
/// it are modules, kernels and policies; which number is which depends on the kernel's version.
pub const FIRMWARE: u32 = 1;

/// With a denial of what the kernel reads or loads: by a descriptor.
pub const BY_FILE: u32 = 0;
/// The same: from the process's memory.
pub const BY_MEMORY: u32 = 1;

/// The class of a socket that no other hook is asked about, by its address family.
#[inline(always)]
#[must_use]
pub const fn socket_class(family: u32) -> u8 {
    match family {
        AF_PACKET | AF_XDP => class::RAW_SOCKET,
        AF_VSOCK => class::VSOCK,
        _ => class::NONE,
    }
}

/// May this be done? `what` is the address family of a socket, the command of `bpf(2)`, or what the
/// kernel is to read or load.
#[inline(always)]
#[must_use]
pub fn judge(class: u8, what: u32, who: &Opener) -> Reason {
    match class {
        // Frames of all others meet the second line, which asks the host fence.
        class::RAW_SOCKET if is_study(who) => device::judge_socket(SOCK_RAW, who),
        class::VSOCK => judge_vsock(who),
        class::BPF => judge_bpf(what, who),
        class::MODULE if what > FIRMWARE => judge_module(who),
        _ => Reason::LeftAlone,
    }
}

/// What is sent by such a socket leaves this host unjudged, so that a study takes a lease for it.
#[inline(always)]
fn judge_vsock(who: &Opener) -> Reason {
    let answer = named(who, flag::VSOCK);
    let unattested = who.subject.flags & flag::UNATTESTED != 0;
    if matches!(answer, Reason::Granted) && is_study(who) && !who.attested && !unattested {
        return Reason::NoLease;
    }
    answer
}

#[inline(always)]
fn judge_bpf(command: u32, who: &Opener) -> Reason {
    if command != LINK_DETACH && !is_study(who) {
        return Reason::LeftAlone;
    }
    named(who, flag::BPF)
}

#[inline(always)]
fn judge_module(who: &Opener) -> Reason {
    if is_study(who) {
        return Reason::NotGranted;
    }
    Reason::LeftAlone
}

/// A line of the policy says so.
#[inline(always)]
fn named(who: &Opener, wanted: u32) -> Reason {
    if !who.policy {
        return Reason::NoPolicy;
    }
    if !is_study(who) && who.kind != kind::HOST {
        return Reason::NoSubject;
    }
    if who.subject.flags & wanted == 0 {
        return Reason::NotGranted;
    }
    Reason::Granted
}

#[inline(always)]
fn is_study(who: &Opener) -> bool {
    who.policy && who.kind == kind::STUDY
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceSubject;
    use crate::policy::Slice;

    const COMMAND: u32 = 5;
    const MODULE: u32 = 2;

    fn who(kind: u8, flags: u32) -> Opener {
        let subject = DeviceSubject {
            id: 77,
            grants: Slice::default(),
            flags,
            reserved: 0,
        };
        Opener {
            policy: true,
            kind,
            attested: true,
            subject,
            granted: None,
        }
    }

    #[test]
    fn only_what_no_other_hook_sees_is_asked_about() {
        for (name, family, want) in [
            ("unix", 1, class::NONE),
            ("IPv4", 2, class::NONE),
            ("IPv6", 10, class::NONE),
            ("packet", AF_PACKET, class::RAW_SOCKET),
            ("vsock", AF_VSOCK, class::VSOCK),
            ("xdp", AF_XDP, class::RAW_SOCKET),
            ("beyond", u32::MAX, class::NONE),
        ] {
            assert_eq!(socket_class(family), want, "{name}");
        }
    }

    #[test]
    fn a_study_asks_for_what_its_policy_says() {
        use Reason::{Granted, LeftAlone, NoLease, NoPolicy, NoSubject, NotGranted};
        let study = |flags| who(kind::STUDY, flags);
        let host = |flags| who(kind::HOST, flags);
        let nobody = who(kind::NONE, u32::MAX);
        let no_lease = |flags| Opener {
            attested: false,
            ..study(flags)
        };
        let no_policy = |kind| Opener {
            policy: false,
            ..who(kind, u32::MAX)
        };
        let but = |flag: u32| !flag;
        let rows: &[(&str, u8, u32, Opener, Reason)] = &[
            (
                "frames",
                class::RAW_SOCKET,
                AF_PACKET,
                study(but(flag::RAW_SOCKETS)),
                NotGranted,
            ),
            (
                "frames, named",
                class::RAW_SOCKET,
                AF_PACKET,
                study(flag::RAW_SOCKETS),
                Granted,
            ),
            ("queues", class::RAW_SOCKET, AF_XDP, study(0), NotGranted),
            (
                "frames, a host service",
                class::RAW_SOCKET,
                AF_XDP,
                host(0),
                LeftAlone,
            ),
            (
                "frames, nobody",
                class::RAW_SOCKET,
                AF_PACKET,
                nobody,
                LeftAlone,
            ),
            (
                "frames, no policy",
                class::RAW_SOCKET,
                AF_PACKET,
                no_policy(kind::STUDY),
                LeftAlone,
            ),
            (
                "vsock",
                class::VSOCK,
                AF_VSOCK,
                study(but(flag::VSOCK)),
                NotGranted,
            ),
            (
                "vsock, named",
                class::VSOCK,
                AF_VSOCK,
                study(flag::VSOCK),
                Granted,
            ),
            (
                "vsock, no lease",
                class::VSOCK,
                AF_VSOCK,
                no_lease(flag::VSOCK),
                NoLease,
            ),
            (
                "vsock, no lease, named for that",
                class::VSOCK,
                AF_VSOCK,
                no_lease(flag::VSOCK | flag::UNATTESTED),
                Granted,
            ),
            (
                "vsock, no lease, not named",
                class::VSOCK,
                AF_VSOCK,
                no_lease(0),
                NotGranted,
            ),
            (
                "vsock, a host service needs no lease",
                class::VSOCK,
                AF_VSOCK,
                Opener {
                    attested: false,
                    ..host(flag::VSOCK)
                },
                Granted,
            ),
            (
                "vsock, a host service, not named",
                class::VSOCK,
                AF_VSOCK,
                host(but(flag::VSOCK)),
                NotGranted,
            ),
            ("vsock, nobody", class::VSOCK, AF_VSOCK, nobody, NoSubject),
            (
                "vsock, no policy",
                class::VSOCK,
                AF_VSOCK,
                no_policy(kind::STUDY),
                NoPolicy,
            ),
            (
                "bpf",
                class::BPF,
                COMMAND,
                study(but(flag::BPF)),
                NotGranted,
            ),
            ("bpf, named", class::BPF, COMMAND, study(flag::BPF), Granted),
            (
                "bpf, a host service",
                class::BPF,
                COMMAND,
                host(0),
                LeftAlone,
            ),
            ("bpf, nobody", class::BPF, COMMAND, nobody, LeftAlone),
            (
                "bpf, no policy",
                class::BPF,
                COMMAND,
                no_policy(kind::STUDY),
                LeftAlone,
            ),
            (
                "detach",
                class::BPF,
                LINK_DETACH,
                study(but(flag::BPF)),
                NotGranted,
            ),
            (
                "detach, a host service",
                class::BPF,
                LINK_DETACH,
                host(but(flag::BPF)),
                NotGranted,
            ),
            (
                "detach, a host service, named",
                class::BPF,
                LINK_DETACH,
                host(flag::BPF),
                Granted,
            ),
            ("detach, nobody", class::BPF, LINK_DETACH, nobody, NoSubject),
            (
                "detach, no policy",
                class::BPF,
                LINK_DETACH,
                no_policy(kind::NONE),
                NoPolicy,
            ),
            ("module", class::MODULE, MODULE, study(u32::MAX), NotGranted),
            ("firmware", class::MODULE, FIRMWARE, study(0), LeftAlone),
            (
                "kernel",
                class::MODULE,
                MODULE + 1,
                study(u32::MAX),
                NotGranted,
            ),
            (
                "module, a host service",
                class::MODULE,
                MODULE,
                host(0),
                LeftAlone,
            ),
            ("module, nobody", class::MODULE, MODULE, nobody, LeftAlone),
            ("nothing", class::NONE, 0, study(0), LeftAlone),
            ("a device", class::GPU, 0, study(0), LeftAlone),
        ];
        for (name, class, what, who, want) in rows {
            assert_eq!(judge(*class, *what, who), *want, "{name}");
        }
    }
}
