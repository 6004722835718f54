//! A map read and put in order: one answer for every address, and whose word it is.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bailiwick_attestation::{FileError, Sha256Digest};
use bailiwick_ebpf_common::Address;
use bailiwick_ebpf_common::world::{Jurisdiction, OWN_CODES};
use ipnet::IpNet;

use super::Codes;
use super::ranges::{self, Layer, Range, Segment, flatten, overlay};
use super::text::{self, Text};
use crate::bundle::WorldSource;
use crate::model::{Site, sites};

const SITES: &str = "sites.toml";
const BUILT_IN: &str = "special-purpose addresses";

/// A world map with the operator's sites on top, for questions and for compilation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Atlas {
    /// Codes and their numbers.
    pub codes: Codes,
    /// Ranges the text gave.
    pub ranges: u64,
    /// Of each family, IPv4 and IPv6, the operator's sites included.
    pub family_ranges: [u64; 2],
    /// When the source was made, seconds since 1970, if it tells.
    pub built: Option<u64>,
    /// Who made it, as its comments tell; empty where they do not.
    pub source: String,
    /// Under what terms, likewise.
    pub licence: String,
    /// SHA-256 of the text.
    pub source_digest: Sha256Digest,
    /// Codes in the text that nothing here knows, for whoever signs.
    pub warnings: Vec<FileError>,
    /// The name to blame.
    pub(super) file: &'static str,
    pub(super) v4: Vec<Segment>,
    pub(super) v6: Vec<Segment>,
}

/// Whose word an answer is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Said {
    /// The operator's site of this number, from 1.
    Site(u32),
    /// The registries of special-purpose addresses.
    BuiltIn,
    /// This line of the map.
    Map(u32),
    /// Nobody's: the address is unknown.
    Nobody,
}

impl Said {
    /// The word in listings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Site(_) => "site",
            Self::BuiltIn => "built-in",
            Self::Map(_) => "map",
            Self::Nobody => "nobody",
        }
    }
}

/// Where an address lies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Found {
    /// The address that decides: the IPv4 address inside, where there is one.
    pub address: IpAddr,
    /// Its jurisdiction.
    pub jurisdiction: Jurisdiction,
    /// First and last address of the range with this answer.
    pub range: (IpAddr, IpAddr),
    /// Whose word it is.
    pub by: Said,
}

/// A range that two maps answer differently.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// First address.
    pub first: IpAddr,
    /// Last address.
    pub last: IpAddr,
    /// Name of the jurisdiction in the one map.
    pub before: String,
    /// In the other.
    pub after: String,
}

impl Change {
    /// Addresses in it; `u128::MAX` also for one more than that.
    #[must_use]
    pub fn addresses(&self) -> u128 {
        let number = |address| match address {
            IpAddr::V4(v4) => Ipv4Addr::to_bits(v4).into(),
            IpAddr::V6(v6) => Ipv6Addr::to_bits(v6),
        };
        let beyond = number(self.last).saturating_sub(number(self.first));
        beyond.saturating_add(1)
    }
}

impl Atlas {
    /// Reads a map with the operator's sites on top, or says which line does not fit.
    pub fn read(source: &WorldSource, sites: &[Site]) -> Result<Self, FileError> {
        let file = text::path(source.kind);
        let mut text = text::parse(file, source.kind, &source.bytes)?;
        let codes = codes_of(file, &text, sites)?;
        text.settle(&codes);
        let ranges = text.v4.len().saturating_add(text.v6.len());
        let warnings = text.warnings(file);
        let (site_v4, site_v6) = site_ranges(sites, &codes);
        let family_ranges = [(&text.v4, &site_v4), (&text.v6, &site_v6)].map(|(map, sites)| {
            let ranges = map.len().saturating_add(sites.len());
            u64::try_from(ranges).unwrap_or(u64::MAX)
        });

        let layers = |map: Vec<Range>, special: Vec<Range>, own: Vec<Range>, last: u128| {
            let map = flatten(map, last).map_err(|conflict| conflict.error(file))?;
            let special = flatten(special, last).map_err(|conflict| conflict.error(BUILT_IN))?;
            let own = flatten(own, last).map_err(|conflict| conflict.error(SITES))?;
            Ok(overlay(&overlay(&map, &special), &own))
        };
        Ok(Self {
            v4: layers(text.v4, ranges::special_v4(), site_v4, u32::MAX.into())?,
            v6: layers(text.v6, ranges::special_v6(), site_v6, u128::MAX)?,
            codes,
            ranges: u64::try_from(ranges).unwrap_or(u64::MAX),
            family_ranges,
            built: text.built,
            source: text.source.0,
            licence: text.licence.0,
            source_digest: Sha256Digest::of(&[&source.bytes]),
            warnings,
            file,
        })
    }

    /// The jurisdictions that some address lies in.
    pub(super) fn places(&self) -> BTreeSet<Jurisdiction> {
        let segments = self.v4.iter().chain(&self.v6);
        segments
            .filter_map(|segment| segment.code.map(Jurisdiction))
            .collect()
    }

    /// The sites of a `sites.toml`, for whoever has no whole policy at hand.
    pub fn sites(bytes: &[u8]) -> Result<Vec<Site>, FileError> {
        sites(SITES, bytes)
    }

    /// Where an address lies, by the IPv4 address inside where it carries one.
    #[must_use]
    pub fn locate(&self, address: IpAddr) -> Found {
        let number = match address {
            IpAddr::V4(v4) => Address::from_v4(v4.to_bits()),
            IpAddr::V6(v6) => Address::from_bytes(v6.octets()),
        }
        .canonical();
        let (segments, six, at) = match number.v4() {
            Some(v4) => (&self.v4, false, u128::from(v4)),
            None => (&self.v6, true, u128::from_be_bytes(number.to_bytes())),
        };
        let index = segments.partition_point(|segment| segment.end < at);
        let last = if six { u128::MAX } else { u32::MAX.into() };
        let before = index.checked_sub(1).and_then(|index| segments.get(index));
        let first = before.map_or(0, |segment| segment.end.saturating_add(1));
        let segment = segments.get(index);
        Found {
            address: ip(at, six),
            jurisdiction: Jurisdiction(segment.and_then(|segment| segment.code).unwrap_or(0)),
            range: (
                ip(first, six),
                ip(segment.map_or(last, |segment| segment.end), six),
            ),
            by: segment.map_or(Said::Nobody, |segment| {
                match (segment.code, segment.layer) {
                    (None, _) => Said::Nobody,
                    (_, Layer::Sites) => Said::Site(segment.line),
                    (_, Layer::BuiltIn) => Said::BuiltIn,
                    (_, Layer::World) => Said::Map(segment.line),
                }
            }),
        }
    }

    /// What the other map answers differently, in order: IPv4, then IPv6.
    #[must_use]
    pub fn changes(&self, other: &Self) -> Vec<Change> {
        let mut out = Vec::new();
        for (ours, theirs, six) in [(&self.v4, &other.v4, false), (&self.v6, &other.v6, true)] {
            let (mut ours, mut theirs) = (ours.iter().peekable(), theirs.iter().peekable());
            let mut first = 0_u128;
            while let (Some(&&before), Some(&&after)) = (ours.peek(), theirs.peek()) {
                let end = before.end.min(after.end);
                let (old, new) = (self.name(before), other.name(after));
                if old != new {
                    push(&mut out, six, first, end, old, new);
                }
                if before.end == end {
                    ours.next();
                }
                if after.end == end {
                    theirs.next();
                }
                first = end.saturating_add(1);
            }
        }
        out
    }

    fn name(&self, segment: Segment) -> &str {
        self.codes.name(Jurisdiction(segment.code.unwrap_or(0)))
    }
}

/// Neighbours that changed the same way are one change.
fn push(out: &mut Vec<Change>, six: bool, first: u128, last: u128, before: &str, after: &str) {
    if let (Some(change), Some(ahead)) = (out.last_mut(), first.checked_sub(1))
        && change.last == ip(ahead, six)
        && (change.before.as_str(), change.after.as_str()) == (before, after)
    {
        change.last = ip(last, six);
        return;
    }
    out.push(Change {
        first: ip(first, six),
        last: ip(last, six),
        before: before.to_owned(),
        after: after.to_owned(),
    });
}

/// The address of a number; one beyond IPv4 is the last of IPv4.
pub(super) fn ip(number: u128, six: bool) -> IpAddr {
    if six {
        IpAddr::V6(Ipv6Addr::from_bits(number))
    } else {
        IpAddr::V4(Ipv4Addr::from_bits(
            u32::try_from(number).unwrap_or(u32::MAX),
        ))
    }
}

/// Own codes of map and sites together.
fn codes_of(file: &str, text: &Text, sites: &[Site]) -> Result<Codes, FileError> {
    let mut own: BTreeSet<String> = text.own.iter().cloned().collect();
    let of_sites = sites.iter().map(|site| site.jurisdiction.as_str());
    own.extend(
        of_sites
            .filter(|code| code.starts_with("X-"))
            .map(str::to_owned),
    );
    Codes::new(own).map_err(|found| FileError {
        file: file.to_owned(),
        line: 1,
        key: "code".to_owned(),
        fault: format!(
            "{found} codes of your own in {file} and {SITES}; there is room for {OWN_CODES}"
        ),
    })
}

/// The sites by family; their "line" is the number of the site, from 1.
fn site_ranges(sites: &[Site], codes: &Codes) -> (Vec<Range>, Vec<Range>) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for (line, site) in (1_u32..).zip(sites) {
        let code = codes
            .number(site.jurisdiction.as_str())
            .unwrap_or(Jurisdiction::UNKNOWN)
            .0;
        let (ranges, start, end) = match site.prefix {
            IpNet::V4(net) => (
                &mut v4,
                net.network().to_bits().into(),
                net.broadcast().to_bits().into(),
            ),
            IpNet::V6(net) => (&mut v6, net.network().to_bits(), net.broadcast().to_bits()),
        };
        ranges.push(Range {
            start,
            end,
            code,
            layer: Layer::Sites,
            line,
        });
    }
    (v4, v6)
}
