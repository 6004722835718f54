//! What is beside a node, held against what was beside it when somebody stood there and signed so.
//!
//! A geotag says where a machine stands; it is no sensor. The switches at the other end of its wires
//! and the addresses its packets have are: by the node's own word, so they prove no place, and root
//! can make them up. But a machine that is carried away, or rewired, does not look the same. What is
//! shown in the first minutes of a geotag is what belongs to it; a new geotag, which somebody signs
//! who stood there, begins anew.

mod conditions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bailiwick_attestation::appraisal::GeoWord;
use bailiwick_attestation::evidence::{ClaimValue, ParsedStatement};
use bailiwick_attestation::{Sha256Digest, UnixTime};
use serde::{Deserialize, Serialize};

pub use conditions::{Condition, conditions, line};

/// For so long after a geotag was first shown, what comes up belongs to it: ports and addresses
/// need not all be there at once.
const SETTLING_MS: u64 = 10 * 60_000;
/// What a node says of an uplink beyond which nobody is.
const NOBODY: &str = "none";
/// What parts several of them.
const BETWEEN: &str = ", ";

/// Switches and addresses, by the node's own word.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Surroundings {
    /// Who is at the other end, by device; a device of which nobody could tell is left out.
    pub neighbours: BTreeMap<String, BTreeSet<String>>,
    /// What packets of uplinks have as their source; empty where nobody could tell.
    pub addresses: BTreeSet<IpAddr>,
}

/// What a statement shows of a node's place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ShownPlace {
    /// The geotag that counts, or the stable word for why there is none.
    pub tag: Result<Tag, String>,
    /// What is beside the node.
    pub around: Surroundings,
    /// The statement was affirmed: what it shows may belong to the geotag.
    pub affirmed: bool,
}

/// A geotag, as far as its surroundings hang on it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tag {
    /// SHA-256 of its text.
    pub digest: Sha256Digest,
    /// When it was written.
    pub at: UnixTime,
    /// When it ends.
    pub until: UnixTime,
}

/// What is remembered of a node's place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// Which geotag.
    pub tag: Tag,
    /// When it was first shown.
    pub begun: UnixTime,
    /// Why the newest statement shows none that counts; empty where it shows one.
    pub fault: String,
    /// What belongs to it.
    pub expected: Surroundings,
    /// What the newest statement shows.
    pub shown: Surroundings,
    /// Since when the two differ.
    pub differs: Option<UnixTime>,
}

/// How surroundings differ from what is expected.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Differences {
    /// What is there and was not, in words.
    pub new: Vec<String>,
    /// What was there and is not, in words.
    pub missing: Vec<String>,
}

impl Surroundings {
    /// As claims of a statement tell them.
    #[must_use]
    pub fn of(claims: &BTreeMap<String, ClaimValue>) -> Self {
        let mut around = Self::default();
        for (name, value) in claims {
            let (Some(name), ClaimValue::Text(text)) = (name.strip_prefix("uplink."), value) else {
                continue;
            };
            if name == "addresses" {
                let addresses = text.split(BETWEEN);
                around.addresses = addresses.filter_map(|one| one.parse().ok()).collect();
            } else if let Some(device) = name.strip_suffix(".neighbours") {
                let each = text.split(BETWEEN).filter(|one| *one != NOBODY);
                let each = each.map(str::to_owned).collect();
                around.neighbours.insert(device.to_owned(), each);
            }
        }
        around
    }

    /// Takes over what is shown: all of it while a geotag settles, later what nothing was known of.
    fn learn(&mut self, shown: &Self, settling: bool) {
        if settling || self.neighbours.is_empty() {
            for (device, each) in &shown.neighbours {
                let known = self.neighbours.entry(device.clone()).or_default();
                known.extend(each.iter().cloned());
            }
        }
        if settling || self.addresses.is_empty() {
            self.addresses.extend(&shown.addresses);
        }
    }

    /// How `shown` differs. `listed`: addresses that the inventory gives the node belong to it
    /// wherever it stands. An address that is gone says nothing: some move between hosts.
    #[must_use]
    pub fn differences(&self, shown: &Self, listed: impl Fn(&IpAddr) -> bool) -> Differences {
        let mut found = Differences::default();
        let none = BTreeSet::new();
        for (device, each) in &shown.neighbours {
            let known = self.neighbours.get(device).unwrap_or(&none);
            let new = each.difference(known);
            found
                .new
                .extend(new.map(|one| format!("{one} at {device}")));
        }
        for (device, known) in &self.neighbours {
            let there = shown.neighbours.get(device).unwrap_or(&none);
            let gone = known.difference(there);
            found
                .missing
                .extend(gone.map(|one| format!("{one} at {device}")));
        }
        if !self.addresses.is_empty() {
            let new = shown.addresses.difference(&self.addresses);
            let new = new.filter(|address| !listed(address));
            found.new.extend(new.map(|one| format!("address {one}")));
        }
        found
    }
}

impl ShownPlace {
    /// Of an appraised statement.
    #[must_use]
    pub fn of(statement: &ParsedStatement, word: &GeoWord, affirmed: bool) -> Self {
        let tag = match word {
            GeoWord::Signed { tag, .. } => Ok(Tag {
                digest: Sha256Digest::of(&[tag.text().as_bytes()]),
                at: tag.at,
                until: tag.until,
            }),
            GeoWord::Absent => Err("geotag-absent".to_owned()),
            GeoWord::Unavailable(_) => Err("geotag-unavailable".to_owned()),
            GeoWord::Refused { code, .. } => Err((*code).to_owned()),
        };
        Self {
            tag,
            around: Surroundings::of(&statement.claims),
            affirmed,
        }
    }
}

impl Place {
    /// What is remembered after a statement; nothing of a node that never showed a geotag.
    #[must_use]
    pub fn after(before: Option<Self>, new: &ShownPlace, now: UnixTime) -> Option<Self> {
        let begins = |tag: &Tag| Self {
            tag: *tag,
            begun: now,
            fault: String::new(),
            expected: Surroundings::default(),
            shown: Surroundings::default(),
            differs: None,
        };
        let mut place = match (before, &new.tag) {
            (None, Ok(tag)) if new.affirmed => begins(tag),
            (None, _) => return None,
            // A later one, which somebody signed who stood there; an earlier one begins nothing.
            (Some(before), Ok(tag)) if new.affirmed && tag.at > before.tag.at => begins(tag),
            (Some(before), _) => before,
        };
        place.fault = match &new.tag {
            Ok(tag) if *tag == place.tag => String::new(),
            Ok(_) => "geotag-other".to_owned(),
            Err(code) => code.clone(),
        };
        if new.affirmed && place.fault.is_empty() {
            let settling = now.since(place.begun) < SETTLING_MS;
            place.expected.learn(&new.around, settling);
        }
        place.shown = new.around.clone();
        let found = place.expected.differences(&place.shown, |_| false);
        place.differs = match found.new.is_empty() && found.missing.is_empty() {
            true => None,
            false => place.differs.or(Some(now)),
        };
        Some(place)
    }
}
