//! Who reached whom: every group tries every host, and the receiving end counts.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::helper::DATAGRAMS;
use super::scene::Scene;
use super::world::{Counts, GROUPS, Group, MANAGEMENT_PORT, PLACES, PORT, Place, Workloads, World};

/// What should hold on the node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// No fence stands: everything passes. What is counted later is measured against this.
    Unfenced,
    /// No policy was delivered: nothing passes.
    Closed,
    /// With a lease: what each study was allowed.
    Attested,
    /// Without: what the signed policy names `unattested`, management alone.
    Unattested,
}

/// One try and what became of it.
#[derive(Clone, Debug)]
pub struct Flow {
    from: &'static str,
    to: String,
    place: &'static str,
    jurisdiction: &'static str,
    expected: bool,
    /// Packets, datagrams or connections counted where they should or should not arrive.
    arrived: u64,
    enough: u64,
    /// The sender's kernel accepted it all.
    sent: bool,
}

/// All tries of one phase.
#[derive(Debug, Default)]
pub struct Matrix {
    flows: Vec<Flow>,
}

/// Tries everything once and counts.
pub fn measure(
    scene: &Scene,
    world: &World,
    workloads: &mut Workloads,
    standing: Standing,
) -> Result<Matrix> {
    scene.go_on()?;
    let plans: Vec<Vec<Try>> = GROUPS.iter().map(|group| plan(group, standing)).collect();
    let before = snapshot(world, workloads);
    for (sender, tries) in workloads.senders.iter_mut().zip(&plans) {
        sender.ask(&tries.iter().map(|one| one.line.clone()).collect::<Vec<_>>())?;
    }
    let mut answers = Vec::new();
    for sender in &mut workloads.senders {
        answers.push(sender.answer()?);
    }
    // Receivers print within a few milliseconds of the last packet.
    thread::sleep(Duration::from_millis(300));
    let after = snapshot(world, workloads);
    let mut flows = Vec::new();
    for (group, (tries, said)) in GROUPS.iter().zip(plans.into_iter().zip(answers)) {
        for (one, said) in tries.into_iter().zip(said) {
            let count = |all: &[(&'static str, Counts)]| {
                let place = all.iter().find(|(name, _)| *name == one.place);
                one.lines
                    .iter()
                    .map(|line| place.and_then(|(_, c)| c.get(line)).copied().unwrap_or(0))
                    .sum()
            };
            let (earlier, later): (u64, u64) = (count(&before), count(&after));
            flows.push(Flow {
                from: group.name,
                to: one.name,
                place: one.place,
                jurisdiction: one.jurisdiction,
                expected: one.expected,
                arrived: later.checked_sub(earlier).context("counts only grow")?,
                enough: one.enough,
                sent: said == "sent",
            });
        }
    }
    Ok(Matrix { flows })
}

/// Whether `cardio`'s datagrams arrive in Germany now, where only a lease lets them go. `None`: the
/// kernel took them and they have not been seen, as on a machine that is busy.
pub fn probe(world: &World, workloads: &mut Workloads) -> Result<Option<bool>> {
    let (Some(group), Some(place)) = (GROUPS.first(), PLACES.first()) else {
        return Ok(None);
    };
    let one = remote(place, "udp", "IPv4", (group.v4, place.v4), true);
    let count = |world: &World| {
        let counts = world.arrived(place.name);
        one.lines
            .iter()
            .filter_map(|line| counts.get(line))
            .sum::<u64>()
    };
    let before = count(world);
    let sender = workloads
        .senders
        .first_mut()
        .context("every group has a sender")?;
    sender.ask(std::slice::from_ref(&one.line))?;
    let said = sender.answer()?;
    thread::sleep(Duration::from_millis(50));
    let refused = said.iter().all(|one| one != "sent");
    Ok(if count(world) > before {
        Some(true)
    } else {
        refused.then_some(false)
    })
}

/// A try before it is made.
struct Try {
    /// What the sender is told.
    line: String,
    name: String,
    place: &'static str,
    jurisdiction: &'static str,
    expected: bool,
    /// What the receiver prints for it.
    lines: Vec<String>,
    enough: u64,
}

fn plan(group: &Group, standing: Standing) -> Vec<Try> {
    let attested = standing == Standing::Attested;
    let fenced = standing != Standing::Unfenced;
    let mut tries = Vec::new();
    for place in &PLACES {
        for (family, source, target) in [("IPv4", group.v4, place.v4), ("IPv6", group.v6, place.v6)]
        {
            for protocol in ["udp", "tcp"] {
                let management = place.name == "management";
                // The service names one address and one protocol, and only that passes.
                let service = management && protocol == "tcp" && family == "IPv4";
                let open = group.study && standing != Standing::Closed;
                let expected = if management {
                    service && open
                } else {
                    attested && group.allowed.contains(&place.jurisdiction)
                };
                tries.push(remote(
                    place,
                    protocol,
                    family,
                    (source, target),
                    expected || !fenced,
                ));
            }
        }
    }
    for other in GROUPS.iter().filter(|other| other.study) {
        for protocol in ["udp", "tcp"] {
            let same = other.name == group.name;
            let expected = !fenced || (same && standing != Standing::Closed);
            let kind = if protocol == "udp" {
                "datagram"
            } else {
                "connection"
            };
            tries.push(Try {
                line: format!("{protocol} {} {}", group.v4, at(other.v4, PORT)),
                name: format!("study {} ({protocol}, IPv4)", other.name),
                place: other.name,
                jurisdiction: "X-OWN",
                expected,
                lines: vec![format!("{kind} {} {protocol}", group.v4)],
                enough: if protocol == "udp" {
                    DATAGRAMS.into()
                } else {
                    1
                },
            });
        }
    }
    tries
}

fn remote(
    place: &'static Place,
    protocol: &str,
    family: &str,
    (source, target): (&str, &str),
    expected: bool,
) -> Try {
    let port = if place.name == "management" {
        MANAGEMENT_PORT
    } else {
        PORT
    };
    Try {
        line: format!("{protocol} {source} {}", at(target, port)),
        name: format!("{} ({protocol}, {family})", place.name),
        place: place.name,
        jurisdiction: place.jurisdiction,
        expected,
        lines: vec![format!("packet {source} {protocol}")],
        enough: if protocol == "udp" {
            DATAGRAMS.into()
        } else {
            3
        },
    }
}

fn at(address: &str, port: u16) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

fn snapshot(world: &World, workloads: &Workloads) -> Vec<(&'static str, Counts)> {
    let outside = PLACES
        .iter()
        .map(|place| (place.name, world.arrived(place.name)));
    let inside = GROUPS
        .iter()
        .map(|group| (group.name, workloads.arrived(group.name)));
    outside.chain(inside).collect()
}

impl Flow {
    fn got(&self) -> &'static str {
        match self.arrived {
            0 => "deny",
            n if n >= self.enough && self.sent => "allow",
            _ => "part",
        }
    }

    fn as_expected(&self) -> bool {
        self.got() == if self.expected { "allow" } else { "deny" }
    }
}

impl Matrix {
    /// Whether every flow did what it should.
    pub fn as_expected(&self) -> bool {
        self.flows.iter().all(Flow::as_expected)
    }

    /// Tries that should not get through, and how many of them did, wholly or in part.
    pub fn denied(&self) -> (u64, u64) {
        let denied = self.flows.iter().filter(|flow| !flow.expected);
        denied.fold((0, 0), |(tried, through), flow| {
            (tried + 1, through + u64::from(flow.arrived > 0))
        })
    }

    /// Packets that arrived where none should.
    pub fn leaks(&self) -> u64 {
        self.flows
            .iter()
            .filter(|flow| !flow.expected)
            .map(|flow| flow.arrived)
            .sum()
    }

    /// For the machine-readable result.
    pub fn json(&self) -> Value {
        let row = |flow: &Flow| {
            json!({
                "from": flow.from,
                "to": flow.to,
                "jurisdiction": flow.jurisdiction,
                "expected": if flow.expected { "allow" } else { "deny" },
                "got": flow.got(),
            })
        };
        self.flows.iter().map(row).collect()
    }

    /// A table a person can read: a row for each group, a column for each place.
    pub fn table(&self) -> String {
        let mut places: Vec<&'static str> = Vec::new();
        for flow in &self.flows {
            if !places.contains(&flow.place) {
                places.push(flow.place);
            }
        }
        let mut text = format!("{:<10}", "from \\ to");
        for place in &places {
            text += &format!(" {place:>12}");
        }
        for group in &GROUPS {
            text += &format!("\n{:<10}", group.name);
            for place in &places {
                let cell: Vec<&Flow> = self
                    .flows
                    .iter()
                    .filter(|f| f.from == group.name && f.place == *place)
                    .collect();
                let reached = cell.iter().filter(|flow| flow.got() == "allow").count();
                let word = match reached {
                    0 => "-".to_owned(),
                    n if n == cell.len() => "reached".to_owned(),
                    n => format!("{n} of {}", cell.len()),
                };
                let mark = if cell.iter().all(|flow| flow.as_expected()) {
                    ""
                } else {
                    " !"
                };
                text += &format!(" {:>12}", word + mark);
            }
        }
        for flow in self.flows.iter().filter(|flow| !flow.as_expected()) {
            text += &format!(
                "\n  ! {} to {}: {} where {} was due ({} arrived)",
                flow.from,
                flow.to,
                flow.got(),
                if flow.expected { "allow" } else { "deny" },
                flow.arrived
            );
        }
        text
    }
}
