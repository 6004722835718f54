//! The world map: text of ranges and codes to the image the kernel looks addresses up in.
//!
//! | layer | wins over | holds |
//! |---|---|---|
//! | `sites.toml` | all | the operator's own networks |
//! | built in | the map | private, reserved, loopback, link-local, multicast, anycast by registry |
//! | `world.csv`, `world.txt` | nothing | a geo database, see [`source`] |
//!
//! Within a layer the narrower range wins, which for prefixes is the longest match; ranges that
//! cross are refused. Where nobody says anything the answer is "unknown".

mod atlas;
mod codes;
mod ranges;
pub mod source;
#[cfg(test)]
mod tests;
mod text;
mod trie;

use std::collections::BTreeSet;
use std::mem::offset_of;

use bailiwick_attestation::{FileError, Sha256Digest};
use bailiwick_ebpf_common::Plain;
use bailiwick_ebpf_common::world::{
    Jurisdiction, NODES, Node, WORLD_FORMAT, WORLD_MAGIC, WorldHeader, WorldImage,
};

pub use atlas::{Atlas, Change, Found, Said};
pub use codes::{Codes, is_known};
pub use text::RANGES_LIMIT;

use crate::bundle::WorldSource;
use crate::model::{Model, Site};
use trie::Trie;

/// A compiled map, as small as it can be; [`World::image`] lays it out for the kernel.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct World {
    /// Codes and their numbers.
    pub codes: Codes,
    /// Ranges the text gave.
    pub ranges: u64,
    /// Of each family, IPv4 and IPv6, the operator's sites included.
    pub family_ranges: [u64; 2],
    /// When the source was made, seconds since 1970; 0 where it does not tell.
    pub built: u64,
    /// Who made it, as its comments tell; empty where they do not.
    pub source: String,
    /// Under what terms, likewise.
    pub licence: String,
    /// SHA-256 of the text.
    pub source_digest: Sha256Digest,
    /// Codes in the text that nothing here knows, for whoever signs.
    pub warnings: Vec<FileError>,
    /// Where some address lies.
    places: BTreeSet<Jurisdiction>,
    file: &'static str,
    v4: Trie,
    v6: Trie,
}

impl World {
    /// Compiles a map with the operator's sites on top, or says which line does not fit.
    pub fn compile(source: &WorldSource, sites: &[Site]) -> Result<Self, FileError> {
        Self::of(&Atlas::read(source, sites)?, sites)
    }

    /// Compiles what was read; `sites` are those it was read with.
    pub fn of(atlas: &Atlas, sites: &[Site]) -> Result<Self, FileError> {
        let file = atlas.file;
        Ok(Self {
            codes: atlas.codes.clone(),
            ranges: atlas.ranges,
            family_ranges: atlas.family_ranges,
            places: atlas.places(),
            file,
            built: atlas.built.unwrap_or(0),
            source: atlas.source.clone(),
            licence: atlas.licence.clone(),
            source_digest: atlas.source_digest,
            warnings: atlas.warnings.clone(),
            v4: Trie::build(&atlas.v4, 32, NODES)
                .map_err(|full| full.error("IPv4", file, sites))?,
            v6: Trie::build(&atlas.v6, 128, NODES)
                .map_err(|full| full.error("IPv6", file, sites))?,
        })
    }

    /// Distinct blocks of 256 that each family takes of the kernel's table: IPv4, IPv6.
    #[must_use]
    pub fn nodes(&self) -> (usize, usize) {
        (self.v4.nodes.len(), self.v6.nodes.len())
    }

    /// Jurisdictions that a policy allows and no address lies in, and families that lie nowhere:
    /// what they were meant to allow is denied, and whoever signs is told.
    #[must_use]
    pub fn misses(&self, model: &Model) -> Vec<FileError> {
        let studies = model.studies.iter().flat_map(|s| [&s.allow, &s.unattested]);
        let grants = studies.chain(model.hosts.iter().map(|host| &host.allow));
        let rules: Vec<_> = grants.flat_map(|grant| &grant.jurisdictions).collect();
        let mut misses = Vec::new();
        for rule in &rules {
            let number = self.codes.number(rule.value.as_str());
            if number.is_none_or(|number| !self.places.contains(&number)) {
                misses.push(rule.place.error(format!(
                    "no address of the world map or of sites.toml lies in {}: this allows nothing",
                    rule.value
                )));
            }
        }
        for (family, ranges) in ["IPv4", "IPv6"].into_iter().zip(self.family_ranges) {
            if ranges == 0 && !rules.is_empty() {
                misses.push(FileError {
                    file: self.file.to_owned(),
                    line: 1,
                    key: String::new(),
                    fault: format!(
                        "has no range of {family}, and neither has sites.toml: every {family} \
                         address that no prefix and no service names is denied"
                    ),
                });
            }
        }
        misses
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
        header.family_ranges = self.family_ranges;
        header.source_digest = self.source_digest.0;
        header.own_table = self.codes.own_table();
        header.own_names = self.codes.own_names();
        letters(&mut header.source, &self.source);
        letters(&mut header.licence, &self.licence);
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

fn copy(room: &mut [Node], nodes: &[Node]) {
    for (slot, node) in room.iter_mut().zip(nodes) {
        *slot = *node;
    }
}

/// Zero-padded, cut to the room there is.
fn letters(room: &mut [u8], text: &str) {
    for (byte, letter) in room.iter_mut().zip(text.bytes()) {
        *byte = letter;
    }
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
        if segment.layer == ranges::Layer::Sites
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
