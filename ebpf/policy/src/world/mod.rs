//! The world map: text of ranges and codes to the image the kernel looks addresses up in.
//!
//! | layer | wins over | holds |
//! |---|---|---|
//! | `sites.toml` | all | the operator's own networks |
//! | built in | the map | private, reserved, loopback, link-local, multicast, anycast by registry |
//! | `world.csv`, `world.txt` | nothing | a geo database |
//!
//! Within a layer the narrower range wins, which for prefixes is the longest match; ranges that
//! cross are refused. Where nobody says anything the answer is "unknown".

mod codes;
mod ranges;
#[cfg(test)]
mod tests;
mod text;
mod trie;

use std::collections::BTreeSet;
use std::mem::offset_of;

use bailiwick_attestation::{FileError, Sha256Digest};
use bailiwick_ebpf_common::Plain;
use bailiwick_ebpf_common::world::{
    Jurisdiction, NODES, Node, OWN_CODES, WORLD_FORMAT, WORLD_MAGIC, WorldHeader, WorldImage,
};
use ipnet::IpNet;

pub use codes::{Codes, is_known};
pub use text::RANGES_LIMIT;

use crate::bundle::WorldSource;
use crate::model::Site;
use ranges::{Layer, Range, flatten, overlay};
use text::Text;
use trie::Trie;

/// A compiled map, as small as it can be; [`World::image`] lays it out for the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct World {
    /// Codes and their numbers.
    pub codes: Codes,
    /// Ranges the text gave.
    pub ranges: u64,
    /// When the source was made, seconds since 1970; 0 where it does not tell.
    pub built: u64,
    /// SHA-256 of the text.
    pub source_digest: Sha256Digest,
    /// Codes in the text that nothing here knows, for whoever signs.
    pub warnings: Vec<FileError>,
    v4: Trie,
    v6: Trie,
}

impl World {
    /// Compiles a map with the operator's sites on top, or says which line does not fit.
    pub fn compile(source: &WorldSource, sites: &[Site]) -> Result<Self, FileError> {
        let file = text::path(source.kind);
        let mut text = text::parse(source.kind, &source.bytes)?;
        let codes = codes_of(file, &text, sites)?;
        text.settle(&codes);
        let ranges = text.v4.len().saturating_add(text.v6.len());
        let warnings = text.warnings(source.kind);
        let (site_v4, site_v6) = site_ranges(sites, &codes);

        let layers = |map: Vec<Range>, special: Vec<Range>, own: Vec<Range>, last: u128| {
            let map = flatten(map, last).map_err(|conflict| conflict.error(file))?;
            let special = flatten(special, last).map_err(|conflict| conflict.error(BUILT_IN))?;
            let own = flatten(own, last).map_err(|conflict| conflict.error(SITES))?;
            Ok(overlay(&overlay(&map, &special), &own))
        };
        let v4 = layers(text.v4, ranges::special_v4(), site_v4, u32::MAX.into())?;
        let v6 = layers(text.v6, ranges::special_v6(), site_v6, u128::MAX)?;
        Ok(Self {
            codes,
            ranges: u64::try_from(ranges).unwrap_or(u64::MAX),
            built: text.built.unwrap_or(0),
            source_digest: Sha256Digest::of(&[&source.bytes]),
            warnings,
            v4: Trie::build(&v4, 32, NODES).map_err(|full| full.error("IPv4", file, sites))?,
            v6: Trie::build(&v6, 128, NODES).map_err(|full| full.error("IPv6", file, sites))?,
        })
    }

    /// The image, for the policy of this number.
    #[must_use]
    pub fn image(&self, generation: u64) -> Box<WorldImage> {
        let mut image = WorldImage::zeroed();
        image.v4_root.copy_from_slice(&self.v4.root);
        image.v6_root.copy_from_slice(&self.v6.root);
        copy(&mut image.v4_nodes, &self.v4.nodes);
        copy(&mut image.v6_nodes, &self.v6.nodes);
        let count = |nodes: &[Node]| u32::try_from(nodes.len()).unwrap_or(u32::MAX);
        let header = &mut image.header;
        header.magic = WORLD_MAGIC;
        header.format = WORLD_FORMAT;
        header.v4_nodes = count(&self.v4.nodes);
        header.v6_nodes = count(&self.v6.nodes);
        header.own_codes = u32::try_from(self.codes.own().len()).unwrap_or(u32::MAX);
        header.generation = generation;
        header.built = self.built;
        header.ranges = self.ranges;
        header.source_digest = self.source_digest.0;
        header.own_table = self.codes.own_table();
        header.own_names = self.codes.own_names();
        image.header.digest = digest(&image).0;
        image
    }
}

/// What the header of an intact image says in `digest`: SHA-256 over header, roots and the nodes in
/// use, the digest itself being zero.
#[must_use]
pub fn digest(image: &WorldImage) -> Sha256Digest {
    let bytes = image.bytes();
    let part = |start: usize, len: usize| {
        let end = start.saturating_add(len).min(bytes.len());
        bytes.get(start..end).unwrap_or_default()
    };
    let nodes = |start: usize, count: u32| {
        let count = usize::try_from(count).unwrap_or(NODES).min(NODES);
        part(start, count.saturating_mul(size_of::<Node>()))
    };
    let from = offset_of!(WorldHeader, digest);
    let to = from.saturating_add(32);
    let first_node = offset_of!(WorldImage, v4_nodes);
    Sha256Digest::of(&[
        part(0, from),
        &[0; 32],
        part(to, first_node.saturating_sub(to)),
        nodes(first_node, image.header.v4_nodes),
        nodes(offset_of!(WorldImage, v6_nodes), image.header.v6_nodes),
    ])
}

const SITES: &str = "sites.toml";
const BUILT_IN: &str = "special-purpose addresses";

fn copy(room: &mut [Node], nodes: &[Node]) {
    for (slot, node) in room.iter_mut().zip(nodes) {
        *slot = *node;
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

impl trie::Full {
    /// The complaint, at the line that had no room any more.
    fn error(self, family: &str, file: &str, sites: &[Site]) -> FileError {
        let segment = self.0;
        let line = usize::try_from(segment.line).unwrap_or(usize::MAX);
        let fault = format!(
            "the map is too fine: from here on there are more than {NODES} different blocks of \
             {family}; merge neighbouring ranges of one code, or use a coarser map"
        );
        if segment.layer == Layer::Sites
            && let Some(site) = sites.get(line.saturating_sub(1))
        {
            return site.place.error(fault);
        }
        FileError {
            file: file.to_owned(),
            line: line.max(1),
            key: String::new(),
            fault,
        }
    }
}
