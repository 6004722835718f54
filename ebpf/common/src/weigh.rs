//! What a subject's prefixes and services, and the kernel's targets, say of one packet.

use core::hint::black_box;

use crate::address::Address;
use crate::packet::{Flow, protocol};
use crate::policy::{
    ANY_PROTOCOL, ATTESTED, ICMP_PROTOCOL, PolicyImage, SERVICES_PER_INTERVAL, Slice, UNATTESTED,
    decision,
};
use crate::verdict::Whose;

/// What prefixes and services say, as a number across a function's border. Others deny.
pub mod weighed {
    /// Nothing covers the address.
    pub const NOTHING: u32 = 0;
    /// An allowed prefix is the longest.
    pub const PREFIX: u32 = 1;
    /// A service answers for this very packet.
    pub const SERVICE: u32 = 2;
    /// A denied prefix is the longest.
    pub const DENIED: u32 = 3;
    /// A port rule stands here, and this packet carries no ports.
    pub const UNANSWERED: u32 = 4;
    /// A study's DNS, which services answer and nothing else does.
    pub const RESOLVER: u32 = 5;
}

/// What a service's rule is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Carried {
    /// Layer 4 protocol number.
    pub protocol: u8,
    /// Whether `port` was read.
    pub has_ports: bool,
    /// Only a service that names its ports answers.
    pub by_port: bool,
    /// Of the far end.
    pub port: u16,
}

impl Carried {
    /// DNS (RFC 1035, RFC 7858) by the far end's port; inside HTTPS nobody can tell.
    #[inline(always)]
    #[must_use]
    pub const fn is_dns(self) -> bool {
        self.has_ports && (self.port == 53 || self.port == 853)
    }

    #[inline(always)]
    const fn unnamed(self) -> u32 {
        if self.by_port {
            weighed::RESOLVER
        } else {
            weighed::NOTHING
        }
    }

    /// As one number: what a function of the kernel side takes.
    #[inline(always)]
    #[must_use]
    pub const fn pack(self) -> u32 {
        let [high, low] = self.port.to_be_bytes();
        let has_ports = if self.has_ports { 1 } else { 0 };
        let by_port = if self.by_port { 2 } else { 0 };
        u32::from_be_bytes([self.protocol, has_ports | by_port, high, low])
    }

    /// The reverse.
    #[inline(always)]
    #[must_use]
    pub const fn unpack(packed: u32) -> Self {
        let [protocol, bits, high, low] = packed.to_be_bytes();
        Self {
            protocol,
            has_ports: bits & 1 == 1,
            by_port: bits & 2 == 2,
            port: u16::from_be_bytes([high, low]),
        }
    }
}

/// The address that is judged, and what goes there: what a function of the kernel side writes for
/// another. Paths that read different headers meet again, for what is read back from memory the
/// verifier takes as it comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Far {
    /// Canonical.
    pub address: Address,
    /// [`Carried::pack`].
    pub carried: u64,
}

impl Far {
    /// Of a packet that goes there, or comes from there.
    #[inline(always)]
    #[must_use]
    pub fn side(flow: &Flow, ingress: bool) -> Self {
        let (address, port) = if ingress {
            (flow.source.canonical(), flow.source_port())
        } else {
            (flow.destination.canonical(), flow.destination_port())
        };
        let carried = Carried {
            protocol: flow.protocol,
            has_ports: flow.has_ports(),
            by_port: false,
            port,
        };
        Self {
            address,
            carried: carried.pack().into(),
        }
    }

    /// What goes there.
    #[inline(always)]
    #[must_use]
    pub fn carried(&self) -> Carried {
        let [_, _, _, _, a, b, c, d] = self.carried.to_be_bytes();
        Carried::unpack(u32::from_be_bytes([a, b, c, d]))
    }
}

/// What the prefixes and services of a subject say of a canonical address: a number of
/// [`weighed`].
#[must_use]
pub fn weigh(
    policy: &PolicyImage,
    subject: u32,
    attested: bool,
    far: Address,
    carried: Carried,
) -> u32 {
    let answers = |slice| services(policy, slice, carried);
    weigh_with(policy, subject, attested, far, carried, answers)
}

/// [`weigh`], on services that are asked in another way.
#[inline(always)]
#[must_use]
pub fn weigh_with(
    policy: &PolicyImage,
    subject: u32,
    attested: bool,
    far: Address,
    carried: Carried,
    services: impl Fn(Slice) -> u32,
) -> u32 {
    let Some(subject) = policy.subject(subject) else {
        return weighed::DENIED;
    };
    let rules = if attested { ATTESTED } else { UNATTESTED };
    let Some(rules) = subject.rules.get(black_box(rules)) else {
        return weighed::DENIED;
    };
    let Some(interval) = policy.find(rules.intervals, far) else {
        return carried.unnamed();
    };
    if interval.decision == decision::ALLOW && !carried.by_port {
        return weighed::PREFIX;
    }
    let answer = services(interval.services);
    if answer != weighed::SERVICE && carried.by_port && interval.decision <= decision::ALLOW {
        return weighed::RESOLVER;
    }
    if answer == weighed::SERVICE || interval.decision == decision::NONE {
        answer
    } else {
        weighed::DENIED
    }
}

/// Whose a packet of the kernel's own is, by where it goes: the study's for which the host fence
/// names the target, and then it is judged as that study's; the host's; nobody's.
#[must_use]
pub fn served(policy: &PolicyImage, flow: &Flow, ingress: bool) -> Whose {
    let far = Far::side(flow, ingress);
    served_with(policy, &far, |slice| services(policy, slice, far.carried()))
}

/// [`served`], on services that are asked in another way.
#[inline(always)]
#[must_use]
pub fn served_with(policy: &PolicyImage, far: &Far, services: impl Fn(Slice) -> u32) -> Whose {
    let Some(interval) = policy.find(policy.header.kernel, far.address) else {
        return Whose::KERNEL;
    };
    if services(interval.services) != weighed::SERVICE {
        return Whose::KERNEL;
    }
    match interval.owner {
        0 => Whose::SERVED,
        study => Whose::subject(study - 1),
    }
}

/// What a slice of a policy's services says of a packet: [`weighed::SERVICE`],
/// [`weighed::UNANSWERED`] or [`weighed::NOTHING`].
///
/// Without a branch per rule: the verifier would walk every combination of answers.
#[inline(always)]
#[must_use]
pub fn services(policy: &PolicyImage, slice: Slice, carried: Carried) -> u32 {
    let protocol = u64::from(carried.protocol);
    let has_ports = u64::from(carried.has_ports);
    let port = u64::from(carried.port);
    let is_icmp = either(
        crate::equal(protocol, protocol::ICMP.into()),
        crate::equal(protocol, protocol::ICMPV6.into()),
    );
    let by_port = u64::from(carried.by_port);
    let mut allowed = 0;
    let mut unanswered = 0;
    let mut number = 0;
    while number < SERVICES_PER_INTERVAL && number < slice.count {
        let at = slice.first.wrapping_add(number);
        let service = policy.service(at);
        let (wanted, first, last) = (
            u64::from(service.protocol),
            u64::from(service.first_port),
            u64::from(service.last_port),
        );
        let meant = either(
            crate::equal(wanted, ANY_PROTOCOL.into()),
            either(
                crate::equal(wanted, protocol),
                crate::equal(wanted, ICMP_PROTOCOL.into()) & is_icmp,
            ),
        );
        let any_port = crate::equal(first, 0) & crate::equal(last, u16::MAX.into());
        let in_range = at_most(first, port) & at_most(port, last);
        let by_any = any_port & (by_port ^ 1);
        let by_range = has_ports & in_range & (any_port ^ 1);
        allowed |= meant & either(by_any, by_range);
        unanswered |= meant & (has_ports ^ 1);
        number += 1;
    }
    if allowed != 0 {
        weighed::SERVICE
    } else if unanswered != 0 {
        weighed::UNANSWERED
    } else {
        weighed::NOTHING
    }
}

/// 1 where one of them is, or both; of zeros and ones.
#[inline(always)]
fn either(a: u64, b: u64) -> u64 {
    a | b
}

/// 1 where `a <= b`, else 0; both far below 2⁶³.
#[inline(always)]
fn at_most(a: u64, b: u64) -> u64 {
    1 ^ crate::top_bit(b.wrapping_sub(a))
}

#[cfg(test)]
#[path = "weigh_tests.rs"]
mod tests;
