//! What the kernel would say to a packet, and which line of policy makes it say so.
//!
//! The verdict comes from [`judge`] over the compiled images: the function and the tables the
//! kernel runs. The model is only asked for the line to point at, and for what could be written to
//! change the answer.

mod device;

use std::fmt;
use std::net::IpAddr;

use bailiwick_attestation::Place;
use bailiwick_ebpf_common::verdict::{keeps_up, served};
use bailiwick_ebpf_common::{
    Action, Address, Flow, Jurisdiction, Line, Loopback, PolicyImage, Question, Rule as Why,
    Verdict, Whose, WorldImage, judge,
};
use ipnet::IpNet;

use crate::image::{Who, subjects};
use crate::model::{Model, Protocol, Rule, Service, Study};
use crate::world::Codes;

pub use device::DeviceQuery;

/// Which end of the packet is here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// It goes to the far end.
    Egress,
    /// It comes from there.
    Ingress,
}

/// What a query names for the host's own kernel, whose sockets are no study's and no service's.
pub const KERNEL: &str = "kernel";

/// A packet, as far as a person knows it.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Name of a study or host service.
    pub subject: &'a str,
    /// The far end.
    pub address: IpAddr,
    /// How it is spoken to; `Any` asks for a protocol that only services with `any` mean.
    pub protocol: Protocol,
    /// Port of the far end, host byte order, with TCP and UDP.
    pub port: u16,
    /// Which way the packet goes.
    pub direction: Direction,
    /// Whether the node has a lease.
    pub attested: bool,
    /// Whether a node in standing has signed for the address as the study's own; it matters where
    /// the study says `peers.attested = true`.
    pub peer: bool,
}

/// What happens to it, and why.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Explanation {
    /// What happens.
    pub action: Action,
    /// The rule that decided, as events name it.
    pub rule: &'static str,
    /// Where the address lies: a code, or a word for what is no country. Also where another rule
    /// decided before anyone asked.
    pub jurisdiction: String,
    /// The line that decided, where one did.
    pub place: Option<Place>,
    /// The reason, in a sentence.
    pub because: String,
    /// What could be done to turn a denial.
    pub change: Option<String>,
}

impl Explanation {
    /// The word for what happens: `allowed`, `denied` or `audited`.
    #[must_use]
    pub const fn verdict(&self) -> &'static str {
        match self.action {
            Action::Allow => "allowed",
            Action::Deny => "denied",
            Action::Audit => "audited",
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.verdict(), self.rule, self.because)?;
        if self.action == Action::Audit {
            f.write_str("; it passes and is reported, for the study is in audit mode")?;
        }
        if let Some(place) = &self.place {
            write!(f, "\n  decided by {place}")?;
        }
        if let Some(change) = &self.change {
            write!(f, "\n  to change it: {change}")?;
        }
        Ok(())
    }
}

/// A name that is no subject of the policy.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{name:?} is no study and no host service of this policy, which has {known}")]
pub struct UnknownSubject {
    /// The name asked for.
    pub name: String,
    /// The names there are, comma-separated.
    pub known: String,
}

/// A policy with its images, ready to be asked.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "the images are megabytes")]
pub struct Explainer<'a> {
    /// What was signed.
    pub model: &'a Model,
    /// The world map of the same bundle.
    pub world: &'a WorldImage,
    /// The studies of the same bundle; its cgroups do not matter here.
    pub policy: &'a PolicyImage,
}

impl<'a> Explainer<'a> {
    /// Asks [`judge`], and finds the line behind its answer. The subject may be [`KERNEL`].
    pub fn explain(&self, query: &Query<'_>) -> Result<Explanation, UnknownSubject> {
        if query.subject == KERNEL {
            return self.kernel(query);
        }
        let all = subjects(self.model);
        let found = (0_u32..)
            .zip(&all)
            .find(|(_, who)| who.name() == query.subject);
        let Some((number, who)) = found else {
            let names: Vec<&str> = all.iter().map(Who::name).collect();
            return Err(UnknownSubject {
                name: query.subject.chars().take(80).collect(),
                known: names.join(", "),
            });
        };
        let verdict = self.verdict(number, query);
        let codes = Codes::of(&self.world.header);
        let at = canonical(query.address);
        let located = self.world.locate(at);
        let case = Case {
            model: self.model,
            who,
            query,
            address: person(at),
            located,
            jurisdiction: codes.name(located),
            family_ranges: self.world.header.family_ranges,
            with_lease: || {
                let attested = Query {
                    attested: true,
                    ..*query
                };
                self.verdict(number, &attested).action == Action::Allow
            },
        };
        let (place, because) = case.reason(verdict);
        let change = (verdict.action != Action::Allow).then(|| case.change(verdict));
        Ok(Explanation {
            action: verdict.action,
            rule: verdict.rule.name(),
            jurisdiction: case.jurisdiction.to_owned(),
            place: place.cloned(),
            because,
            change,
        })
    }

    /// A packet of the kernel's own: as the study's for which its target is named.
    fn kernel(&self, query: &Query<'_>) -> Result<Explanation, UnknownSubject> {
        let ingress = query.direction == Direction::Ingress;
        let whose = match Flow::parse(packet(query).as_slice()) {
            Ok(flow) => served(self.policy, &flow, ingress),
            Err(_) => Whose::KERNEL,
        };
        let at = canonical(query.address);
        let address = person(at);
        let entries = self.model.host_fence.kernel.iter();
        let entry = entries
            .filter(|entry| entry.target.address.contains(&address))
            .max_by_key(|entry| entry.target.address.prefix_len());
        if let Some(number) = whose.as_subject() {
            let all = subjects(self.model);
            let name = usize::try_from(number).ok().and_then(|at| all.get(at));
            let subject = name.map_or("", Who::name);
            let mut told = self.explain(&Query { subject, ..*query })?;
            told.because = format!("the kernel serves study {subject} there: {}", told.because);
            return Ok(told);
        }
        let verdict = self.whose_verdict(whose, query);
        let allowed = verdict.action == Action::Allow;
        Ok(Explanation {
            action: verdict.action,
            rule: verdict.rule.name(),
            jurisdiction: Codes::of(&self.world.header)
                .name(self.world.locate(at))
                .to_owned(),
            place: entry
                .filter(|_| allowed && verdict.rule == Why::Kernel)
                .map(|entry| entry.target.place.clone()),
            because: match verdict.rule {
                Why::Kernel if allowed => {
                    format!("the host fence names {address} as a target of the kernel's")
                }
                Why::Kernel => {
                    format!("no [[kernel]] entry of host-fence.toml names {address} and this port")
                }
                Why::Essential => "the host fence names it among the essentials".to_owned(),
                other => format!("{address}: {}", other.name()),
            },
            change: (!allowed).then(|| {
                "name the target in a [[kernel]] entry of host-fence.toml, with the study it serves"
                    .to_owned()
            }),
        })
    }

    /// What the kernel answers for the subject of this number. `query.subject` is not looked at.
    #[must_use]
    pub fn verdict(&self, subject: u32, query: &Query<'_>) -> Verdict {
        self.whose_verdict(Whose::subject(subject), query)
    }

    fn whose_verdict(&self, whose: Whose, query: &Query<'_>) -> Verdict {
        match Flow::parse(packet(query).as_slice()) {
            Ok(flow) => judge(&Question {
                world: Some(self.world),
                policy: self.policy,
                line: Line::FIRST,
                whose,
                translated: false,
                attested: query.attested,
                peer: query.peer,
                ingress: query.direction == Direction::Ingress,
                essential: keeps_up(self.policy, &flow, query.direction == Direction::Ingress),
                loopback: Loopback::NO,
                flow: &flow,
                zero: 0,
            }),
            Err(malformed) => Verdict::deny(malformed.rule()),
        }
    }
}

/// The address that is judged: IPv4 taken out of what carries it.
fn canonical(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => Address::from_v4(v4.to_bits()),
        IpAddr::V6(v6) => Address::from_bytes(v6.octets()).canonical(),
    }
}

fn person(address: Address) -> IpAddr {
    match address.v4() {
        Some(v4) => IpAddr::V4(v4.into()),
        None => IpAddr::from(address.to_bytes()),
    }
}

/// The first packet of such an exchange, as it lies on the wire; checksums are zero.
fn packet(query: &Query<'_>) -> Vec<u8> {
    /// For experiments (RFC 3692): nothing but "any protocol" means it.
    const EXPERIMENT: u8 = 253;
    let four = query.address.is_ipv4();
    let protocol = match query.protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Icmp if four => 1,
        Protocol::Icmp => 58,
        Protocol::Any => EXPERIMENT,
    };
    let far = query.port.to_be_bytes();
    // A port of the kind that the near end is given.
    let near = 50_000_u16.to_be_bytes();
    let mut upper = [0; 20];
    let start = match (query.protocol, query.direction) {
        (Protocol::Tcp | Protocol::Udp, Direction::Egress) => [near, far],
        (Protocol::Tcp | Protocol::Udp, Direction::Ingress) => [far, near],
        // Echo request, of ICMPv6 in the second case.
        (Protocol::Icmp, _) if four => [[8, 0], [0, 0]],
        (Protocol::Icmp, _) => [[128, 0], [0, 0]],
        (Protocol::Any, _) => [[0, 0], [0, 0]],
    };
    let acknowledges = query.direction == Direction::Ingress;
    for (byte, value) in upper.iter_mut().zip(start.into_iter().flatten()) {
        *byte = value;
    }
    if query.protocol == Protocol::Tcp {
        let offset_and_flags = [0x50, if acknowledges { 0x12 } else { 0x02 }];
        for (byte, value) in upper.iter_mut().skip(12).zip(offset_and_flags) {
            *byte = value;
        }
    }
    let mut packet = Vec::with_capacity(60);
    let ends = |packet: &mut Vec<u8>, far: &[u8], near: &[u8]| {
        let (source, destination) = match query.direction {
            Direction::Egress => (near, far),
            Direction::Ingress => (far, near),
        };
        packet.extend(source);
        packet.extend(destination);
    };
    match query.address {
        IpAddr::V4(far) => {
            packet.extend([0x45, 0, 0, 40, 0, 0, 0, 0, 64, protocol, 0, 0]);
            ends(&mut packet, &far.octets(), &[192, 0, 2, 1]);
        }
        IpAddr::V6(far) => {
            packet.extend([0x60, 0, 0, 0, 0, 20, protocol, 64]);
            let near = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
            ends(&mut packet, &far.octets(), &near);
        }
    }
    packet.extend(upper);
    packet
}

/// One question with everything its answer is told from.
struct Case<'a, F> {
    model: &'a Model,
    who: &'a Who<'a>,
    query: &'a Query<'a>,
    /// The one that is judged.
    address: IpAddr,
    located: Jurisdiction,
    jurisdiction: &'a str,
    /// Of the world map: IPv4, IPv6.
    family_ranges: [u64; 2],
    /// Whether it would pass with a lease.
    with_lease: F,
}

impl<'a, F: Fn() -> bool> Case<'a, F> {
    fn reason(&self, verdict: Verdict) -> (Option<&'a Place>, String) {
        let Self {
            address,
            jurisdiction,
            ..
        } = self;
        let allowed = verdict.action == Action::Allow;
        let grants = self.who.grants(self.query.attested);
        match verdict.rule {
            Why::OtherStudy => match self.owner() {
                Some((study, rule)) => (
                    Some(&rule.place),
                    format!("{address} is in {}, of study {}", rule.value, study.name),
                ),
                None => (None, format!("{address} is another study's")),
            },
            Why::Peer => {
                let rule = self.owner().map(|(_, rule)| rule);
                let because = format!("{address} is one of the study's own addresses");
                (rule.map(|rule| &rule.place), because)
            }
            Why::PeerLost => {
                let rule = self.owner().map(|(_, rule)| rule);
                let because = format!(
                    "{address} is one of the study's own addresses, which count only while a node \
                     in standing has signed for them, and none has for this one"
                );
                (rule.map(|rule| &rule.place), because)
            }
            Why::Prefix => {
                let allow = grants.iter().flat_map(|grant| &grant.prefixes);
                let (rule, word) = if allowed {
                    (longest(allow, *address), "allowed")
                } else {
                    (longest(self.who.deny(), *address), "denied")
                };
                match rule {
                    Some(rule) => (
                        Some(&rule.place),
                        format!("{address} is in {}, which is {word}", rule.value),
                    ),
                    None => (None, format!("{address} is in a prefix that is {word}")),
                }
            }
            Why::Service => {
                let mut named = grants.iter().flat_map(|grant| &grant.services);
                let rule = named.find(|rule| {
                    let service = self.model.services.get(&rule.value);
                    service.is_some_and(|service| self.is_meant_by(service))
                });
                match rule {
                    Some(rule) => (
                        Some(&rule.place),
                        format!("this is the service {}, which is allowed", rule.value),
                    ),
                    None => (None, "this is a service that is allowed".to_owned()),
                }
            }
            Why::Jurisdiction if allowed => {
                let mut codes = grants.iter().flat_map(|grant| &grant.jurisdictions);
                let rule = codes.find(|rule| rule.value.as_str() == *jurisdiction);
                (
                    rule.map(|rule| &rule.place),
                    format!("{address} lies in {jurisdiction}, which is allowed"),
                )
            }
            Why::Jurisdiction if self.has_no_place() => (
                Some(self.who.place()),
                format!(
                    "neither the world map nor sites.toml has a range of {}, so that {address} \
                     lies nowhere; no line of {} allows the address or a service there",
                    match address {
                        IpAddr::V4(_) => "IPv4",
                        IpAddr::V6(_) => "IPv6",
                    },
                    self.who.name()
                ),
            ),
            Why::Jurisdiction => (
                Some(self.who.place()),
                format!(
                    "{address} lies in {jurisdiction}; no line of {} allows the place, the \
                     address or a service there",
                    self.who.name()
                ),
            ),
            Why::NoLease => {
                let tail = if (self.with_lease)() {
                    "with a lease it would pass"
                } else {
                    "nor would it pass with one"
                };
                let because = format!(
                    "the node has no lease, and [unattested] of {} does not allow it ({address} \
                     lies in {jurisdiction}); {tail}",
                    self.who.name()
                );
                (Some(self.who.place()), because)
            }
            Why::Resolver => (
                Some(self.who.place()),
                format!(
                    "this is DNS, and {address} is no resolver that {} may ask: a resolver passes \
                     on what it is asked, wherever it stands",
                    self.who.name()
                ),
            ),
            Why::Management => {
                let plane = longest(&self.model.host_fence.management, *address);
                let of = match self.who {
                    Who::Study(_) => "no study reaches it",
                    Who::Host(_) => "this host service is not named for it",
                };
                (
                    plane.map(|rule| &rule.place),
                    format!("{address} is of the management plane, and {of}"),
                )
            }
            Why::Essential => (
                None,
                "the host fence names it among the essentials".to_owned(),
            ),
            Why::Neighbour => (None, "neighbour discovery stays on the link".to_owned()),
            Why::Fragment => (
                Some(self.who.place()),
                format!("only a service reaches {address}, and this packet does not say its port"),
            ),
            other => (None, format!("{address}: {}", other.name())),
        }
    }

    fn change(&self, verdict: Verdict) -> String {
        let file = &self.who.place().file;
        let single = IpNet::from(self.address);
        match verdict.rule {
            Why::OtherStudy => "an address is one study's or nobody's, and studies do not reach \
                                each other; take it out of that study's peers.addresses"
                .to_owned(),
            Why::NoLease if (self.with_lease)() => format!(
                "bring the node back to standing (`bailiwick node why NODE` tells what it lacks), or \
                 allow {single} in [unattested] of {file}"
            ),
            Why::PeerLost => {
                "bring the node that has the address back to standing (`bailiwick node \
                              why NODE` tells what it lacks); the inventory must give it the \
                              address"
                    .to_owned()
            }
            Why::Prefix => format!("allow a longer prefix in {file}, such as {single}"),
            Why::Resolver => format!(
                "name a [[service]] for {single} with its port in host-fence.toml, and the service \
                 in {file}"
            ),
            Why::Management => match self.who {
                Who::Study(_) => "the management plane is for host services; take the address out \
                                  of management.addresses in host-fence.toml if it is not of it"
                    .to_owned(),
                Who::Host(_) => {
                    "say `management = true` of this host service in host-fence.toml".to_owned()
                }
            },
            _ if crate::world::is_known(self.jurisdiction) || self.located.is_own() => format!(
                "allow {} as a jurisdiction in {file}, or {single} as a prefix",
                self.jurisdiction
            ),
            _ => format!(
                "allow {single} as a prefix in {file}, or say in sites.toml where it lies and \
                 allow that"
            ),
        }
    }

    /// Whether no address of its family lies anywhere.
    fn has_no_place(&self) -> bool {
        let [four, six] = self.family_ranges;
        let ranges = if self.address.is_ipv4() { four } else { six };
        ranges == 0 && self.located == Jurisdiction::UNKNOWN
    }

    /// The study whose own address this is, and the innermost line that says so.
    fn owner(&self) -> Option<(&'a Study, &'a Rule<IpNet>)> {
        let studies = self.model.studies.iter();
        let all = studies.flat_map(|study| study.peers.iter().map(move |rule| (study, rule)));
        let holding = all.filter(|(_, rule)| rule.value.contains(&self.address));
        holding.max_by_key(|(_, rule)| rule.value.prefix_len())
    }

    fn is_meant_by(&self, service: &Service) -> bool {
        let protocol = [Protocol::Any, self.query.protocol].contains(&service.protocol);
        let ports = service.ports.as_ref();
        let port = ports.is_none_or(|ports| ports.contains(&self.query.port));
        protocol && port && service.address.contains(&self.address)
    }
}

fn longest<'a>(
    rules: impl IntoIterator<Item = &'a Rule<IpNet>>,
    address: IpAddr,
) -> Option<&'a Rule<IpNet>> {
    let holding = rules
        .into_iter()
        .filter(|rule| rule.value.contains(&address));
    holding.max_by_key(|rule| rule.value.prefix_len())
}

#[cfg(test)]
mod tests;
