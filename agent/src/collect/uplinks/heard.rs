//! Who was heard at the other end of one device. No sockets and no clock: both are the caller's.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bailiwick_attestation::host::Neighbour;

/// For so long nobody may be heard before that is a fact: a switch speaks every half minute, and
/// counts as there for two.
const SETTLE: Duration = Duration::from_secs(125);
/// Most neighbours of one device: a wire has one, a hub some.
const MOST: usize = 8;

/// What says that nobody is there.
pub(super) const NONE: &str = "none";

/// Neighbours of one device.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    since: Instant,
    by: BTreeMap<String, Last>,
    /// More were heard than are kept.
    more: bool,
}

/// The last that one of them said.
#[derive(Clone, Debug)]
struct Last {
    until: Instant,
    system: Option<String>,
}

/// What is said of a device.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Said {
    /// Each by its identifiers, in their order; [`NONE`] where nobody is there.
    pub(super) neighbours: String,
    /// What they are called.
    pub(super) systems: String,
}

impl Heard {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            since: now,
            by: BTreeMap::new(),
            more: false,
        }
    }

    pub(super) fn take(&mut self, now: Instant, neighbour: Neighbour) {
        let name = neighbour.to_string();
        if neighbour.ttl == 0 {
            self.by.remove(&name);
            return;
        }
        if self.by.len() >= MOST && !self.by.contains_key(&name) {
            self.more = true;
            return;
        }
        let last = Last {
            until: now + Duration::from_secs(neighbour.ttl.into()),
            system: neighbour.system,
        };
        self.by.insert(name, last);
    }

    /// `None` while it could still be that somebody is there who has not spoken yet.
    pub(super) fn say(&mut self, now: Instant) -> Option<Said> {
        self.by.retain(|_, last| now < last.until);
        let more = std::mem::take(&mut self.more);
        if self.by.is_empty() {
            let settled = now.saturating_duration_since(self.since) >= SETTLE;
            return settled.then(|| Said {
                neighbours: NONE.to_owned(),
                systems: String::new(),
            });
        }
        let mut names: Vec<&str> = self.by.keys().map(String::as_str).collect();
        if more {
            names.push("and more");
        }
        let systems = self.by.values().filter_map(|last| last.system.as_deref());
        let systems: BTreeSet<&str> = systems.collect();
        Some(Said {
            neighbours: names.join(", "),
            systems: systems.into_iter().collect::<Vec<_>>().join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbour(port: &str, ttl: u16) -> Neighbour {
        Neighbour {
            chassis: "mac 00:11:22:33:44:55".to_owned(),
            port: format!("ifname {port}"),
            ttl,
            system: Some("leaf-12".to_owned()),
        }
    }

    fn named(ports: &[&str]) -> String {
        let each = ports
            .iter()
            .map(|port| format!("mac 00:11:22:33:44:55 ifname {port}"));
        each.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_neighbour_counts_for_as_long_as_it_says() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut heard = Heard::new(start);
        let says = |heard: &mut Heard, seconds| heard.say(at(seconds)).map(|said| said.neighbours);
        assert_eq!(says(&mut heard, 124), None, "it may speak yet");
        assert_eq!(says(&mut heard, 125).as_deref(), Some(NONE));
        heard.take(at(130), neighbour("e1", 120));
        heard.take(at(140), neighbour("e2", 0));
        let said = heard.say(at(140)).unwrap();
        assert_eq!(
            (said.neighbours, said.systems),
            (named(&["e1"]), "leaf-12".to_owned())
        );
        heard.take(at(150), neighbour("e0", 600));
        assert_eq!(says(&mut heard, 249), Some(named(&["e0", "e1"])));
        assert_eq!(
            says(&mut heard, 250),
            Some(named(&["e0"])),
            "it fell silent"
        );
        heard.take(at(251), neighbour("e0", 0));
        assert_eq!(
            says(&mut heard, 251).as_deref(),
            Some(NONE),
            "it said good-bye"
        );
    }

    #[test]
    fn whoever_floods_a_wire_fills_no_memory() {
        let now = Instant::now();
        let mut heard = Heard::new(now);
        for port in 0..1000 {
            heard.take(now, neighbour(&format!("e{port}"), 120));
        }
        assert_eq!(heard.by.len(), MOST);
        let said = heard.say(now).unwrap();
        assert!(said.neighbours.ends_with(", and more") && said.neighbours.len() < 4096);
        heard.take(now, neighbour("e0", 120));
        let said = heard.say(now).unwrap();
        assert!(!said.neighbours.ends_with("more"), "the flood is over");
    }
}
