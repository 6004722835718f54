//! MaxMind's database format: a tree of bits, and records that leaves point to.
//!
//! The tree may be any graph that a file can hold. Each path through it counts as one network, so
//! a graph with more paths than any database has is refused after a bounded number of steps.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};

use maxminddb::{MaxMindDbError, PathElement, Reader, WithinOptions};

use super::Refused;
use crate::world::text::Text;

/// Most paths through the tree, those without a record included: the largest of the common
/// databases has some six million, IPv4 seen through its four aliases in IPv6.
pub(super) const PATHS_LIMIT: usize = 24_000_000;
/// Where the format's metadata begins, and how far from the end it may lie.
const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";
const MARKER_WITHIN: usize = 128 * 1024;

/// Where makers keep the code of a country: of an object, of a text beside it, of a text alone.
const PATHS: [&[PathElement<'static>]; 3] = [
    &[PathElement::Key("country"), PathElement::Key("iso_code")],
    &[PathElement::Key("country_code")],
    &[PathElement::Key("country")],
];
const ANYCAST: &[PathElement<'static>] =
    &[PathElement::Key("traits"), PathElement::Key("is_anycast")];

/// Prefixes whose addresses are judged by the IPv4 address inside, as [`Address::canonical`] does;
/// databases repeat IPv4 in some of them.
///
/// [`Address::canonical`]: bailiwick_ebpf_common::Address::canonical
const EMBEDDED: [(u128, u32); 4] = [
    (0xffff_u128 << 32, 96),
    (0x2002_u128 << 112, 16),
    (0x2001_0000_u128 << 96, 32),
    (0x0064_ff9b_u128 << 96, 96),
];

pub(super) fn looks_like(bytes: &[u8]) -> bool {
    let tail = bytes
        .get(bytes.len().saturating_sub(MARKER_WITHIN)..)
        .unwrap_or_default();
    tail.windows(MARKER.len()).any(|window| window == MARKER)
}

/// Reads all networks, of a graph with no more than `limit` paths.
pub(super) fn parse(file: &str, bytes: &[u8], limit: usize) -> Result<Text, Refused> {
    let refused = |fault: String| Refused::Database {
        file: file.to_owned(),
        fault,
    };
    let reader = Reader::from_source(bytes).map_err(|err| refused(err.to_string()))?;
    let metadata = reader.metadata();
    let mut text = Text::default();
    if metadata.build_epoch > 0 {
        text.made_at(metadata.build_epoch);
    }
    text.source.add(&metadata.database_type);
    // Every path, so that every step is counted.
    let options = WithinOptions::default()
        .include_aliased_networks()
        .include_networks_without_data();
    let networks = reader
        .networks(options)
        .map_err(|err| refused(err.to_string()))?;
    // Records are few and shared by many networks.
    let mut codes: HashMap<usize, Option<String>> = HashMap::new();
    for (number, network) in networks.enumerate() {
        if number >= limit {
            return Err(refused(format!(
                "has more than {limit} paths: no geo database has"
            )));
        }
        let network = network.map_err(|err| refused(err.to_string()))?;
        let Some(record) = network.offset() else {
            continue;
        };
        let code = match codes.entry(record) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                new.insert(code(&network).map_err(|err| refused(err.to_string()))?)
            }
        };
        let Some(code) = code else {
            continue;
        };
        let net = network.network().map_err(|err| refused(err.to_string()))?;
        if let IpAddr::V6(first) = net.network()
            && embedded(first, net.prefix())
        {
            continue;
        }
        let ends = (net.network(), net.broadcast());
        text.push(number.saturating_add(1), ends, code)
            .map_err(|(_, fault)| refused(format!("{net}: {fault}")))?;
    }
    Ok(text)
}

/// The code of a record; `None` where it names no country. Where a record says that its addresses
/// are announced from many places at once, that is the answer.
fn code<S: AsRef<[u8]>>(
    network: &maxminddb::LookupResult<'_, S>,
) -> Result<Option<String>, MaxMindDbError> {
    if matches!(network.decode_path::<bool>(ANYCAST), Ok(Some(true))) {
        return Ok(Some("A3".to_owned()));
    }
    for path in PATHS {
        match network.decode_path::<String>(path) {
            Ok(Some(code)) if !code.is_empty() => return Ok(Some(code)),
            // A value of another type: another maker's way.
            Ok(_) | Err(MaxMindDbError::Decoding { .. }) => {}
            Err(err) => return Err(err),
        }
    }
    Ok(None)
}

fn embedded(first: Ipv6Addr, length: u8) -> bool {
    EMBEDDED.iter().any(|(start, bits)| {
        let shift = 128_u32.saturating_sub(*bits);
        u32::from(length) >= *bits && first.to_bits().checked_shr(shift) == start.checked_shr(shift)
    })
}
