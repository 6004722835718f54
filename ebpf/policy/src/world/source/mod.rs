//! Geo databases of several makers to the one text that approvers sign.
//!
//! Nothing here runs on a node: `bailiwick world build` reads what a maker delivers and writes
//! `world.csv`, and only that text is signed, carried and compiled. The same input makes the same
//! bytes: no clock, no path and no map's order of iteration gets in.

mod mmdb;
mod rir;
#[cfg(test)]
mod tests;
mod write;

use bailiwick_attestation::{FileError, Sha256Digest};

use super::Codes;
use super::ranges::{Segment, flatten, overlay};
use super::text::{self, Text, WORDS_LIMIT};
use crate::bundle::{BUNDLE_LIMIT, WorldKind};

/// Most files that make one map: the registries are five.
pub const SOURCES_LIMIT: usize = 16;
/// Most bytes of one file: the largest of the common databases have some 150 MB.
pub const SOURCE_LIMIT: usize = 512 * 1024 * 1024;

/// How a source is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// MaxMind's database format, as many makers use it (`.mmdb`).
    Mmdb,
    /// `delegated-extended` statistics of a regional internet registry. It names the country of
    /// whoever holds the addresses, not where they are.
    Rir,
    /// The text of Tor's geoip files.
    Geoip,
    /// `START,END,CODE` or `PREFIX,CODE`.
    Csv,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Mmdb, Self::Rir, Self::Geoip, Self::Csv];

    /// The word on the command line and in listings.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mmdb => "mmdb",
            Self::Rir => "rir",
            Self::Geoip => "geoip",
            Self::Csv => "csv",
        }
    }

    /// By what the bytes begin and end with. A guess: the reader of the format refuses what it is
    /// not.
    #[must_use]
    pub fn guess(bytes: &[u8]) -> Self {
        if mmdb::looks_like(bytes) {
            return Self::Mmdb;
        }
        let mut lines = bytes.split(|b| *b == b'\n').map(<[u8]>::trim_ascii);
        let first = lines.find(|line| !line.is_empty() && !line.starts_with(b"#"));
        let first = first.unwrap_or_default();
        let head = first.split(|b| *b == b',').next().unwrap_or_default();
        if first.contains(&b'|') {
            Self::Rir
        } else if !head.is_empty() && head.iter().all(u8::is_ascii_digit) {
            Self::Geoip
        } else {
            Self::Csv
        }
    }
}

/// A file of a maker, and what its operator knows of it.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its name, for complaints and for the map's comments.
    pub name: &'a str,
    /// How to read it.
    pub format: Format,
    /// All of it.
    pub bytes: &'a [u8],
    /// Under what terms it came, where it does not say so itself.
    pub licence: Option<&'a str>,
    /// When it was made, seconds since 1970, where it does not say so itself.
    pub built: Option<u64>,
}

/// What is known of a source that went into a map.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Origin {
    /// Its name, letters that no comment holds replaced.
    pub name: String,
    /// How it was written.
    pub format: Format,
    /// Of its bytes.
    pub digest: Sha256Digest,
    /// When it was made, seconds since 1970.
    pub built: Option<u64>,
    /// Under what terms; empty where nobody said.
    pub licence: String,
    /// Ranges it gave.
    pub ranges: usize,
}

/// A map as text, and where it comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Built {
    /// `world.csv`.
    pub text: Vec<u8>,
    /// Lines in it that are ranges.
    pub ranges: usize,
    /// Its sources, in the order they were named.
    pub origins: Vec<Origin>,
    /// What whoever signs should know.
    pub warnings: Vec<FileError>,
}

/// Why there is no map.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// A line of a text does not say what it may say.
    #[error("{0}")]
    Text(#[from] FileError),
    /// A database is not what it claims to be.
    #[error("{file}: {fault}")]
    Database {
        /// Which one.
        file: String,
        /// What is wrong with it.
        fault: String,
    },
    /// A source without a single range: no map, or of another format.
    #[error("{file}: names no address, read as {}", format.as_str())]
    Empty {
        /// Which one.
        file: String,
        /// How it was read.
        format: Format,
    },
    /// More than a map is made of.
    #[error("{what}: {found} exceed the limit of {limit}")]
    TooLarge {
        /// What there is too much of.
        what: String,
        /// How much there is.
        found: usize,
        /// How much is read.
        limit: usize,
    },
    /// A licence that does not fit a comment.
    #[error("licence of {file}: 1 to 64 printable letters of ASCII, without ';'")]
    Licence {
        /// Of which source.
        file: String,
    },
}

impl Refused {
    /// Stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Text(_) => "world-malformed",
            Self::Database { .. } => "world-database",
            Self::Empty { .. } => "world-empty",
            Self::TooLarge { .. } => "world-too-large",
            Self::Licence { .. } => "world-licence",
        }
    }
}

/// One map of all sources. Where two of them speak of the same address, the one named first wins;
/// within one the narrower range does.
pub fn build(sources: &[Source<'_>]) -> Result<Built, Refused> {
    bounded("sources".to_owned(), sources.len(), SOURCES_LIMIT)?;
    let mut texts = Vec::new();
    let mut origins = Vec::new();
    for source in sources {
        let (text, origin) = read(source)?;
        texts.push(text);
        origins.push(origin);
    }
    let own = texts.iter().flat_map(|text| text.own.iter().cloned());
    let codes = Codes::new(own.collect()).map_err(|found| Refused::TooLarge {
        what: "codes of your own".to_owned(),
        found,
        limit: bailiwick_ebpf_common::world::OWN_CODES,
    })?;
    let (mut v4, mut v6) = (nothing(u32::MAX.into())?, nothing(u128::MAX)?);
    let mut warnings = Vec::new();
    for (mut text, source) in texts.into_iter().zip(sources) {
        text.settle(&codes);
        warnings.extend(text.warnings(source.name));
        let flat = |ranges, last| {
            flatten(ranges, last).map_err(|conflict| Refused::Text(conflict.error(source.name)))
        };
        // What stands already decides; this one fills what is left.
        v4 = overlay(&known(flat(text.v4, u32::MAX.into())?), &v4);
        v6 = overlay(&known(flat(text.v6, u128::MAX)?), &v6);
    }
    for origin in &origins {
        let missing = [
            (origin.built.is_none(), "when it was made", "built"),
            (origin.licence.is_empty(), "its licence", "licence"),
        ];
        for (missing, what, key) in missing {
            if missing {
                let fault = format!("does not say {what}, and nobody else did");
                warnings.push(text::error(&origin.name, 1, key, fault));
            }
        }
    }
    let (text, ranges) = write::text(&origins, &codes, &v4, &v6);
    bounded("bytes of the map".to_owned(), text.len(), BUNDLE_LIMIT)?;
    bounded("ranges of the map".to_owned(), ranges, text::RANGES_LIMIT)?;
    Ok(Built {
        text,
        ranges,
        origins,
        warnings,
    })
}

fn bounded(what: String, found: usize, limit: usize) -> Result<(), Refused> {
    if found > limit {
        return Err(Refused::TooLarge { what, found, limit });
    }
    Ok(())
}

fn nothing(last: u128) -> Result<Vec<Segment>, Refused> {
    flatten(Vec::new(), last).map_err(|conflict| Refused::Text(conflict.error("")))
}

/// "Unknown" is no answer: another source may have one.
fn known(mut segments: Vec<Segment>) -> Vec<Segment> {
    for segment in &mut segments {
        segment.code = segment.code.filter(|code| *code != 0);
    }
    segments
}

fn read(source: &Source<'_>) -> Result<(Text, Origin), Refused> {
    let Source {
        name,
        format,
        bytes,
        ..
    } = *source;
    bounded(format!("bytes of {name}"), bytes.len(), SOURCE_LIMIT)?;
    let text = match format {
        Format::Mmdb => mmdb::parse(name, bytes, mmdb::PATHS_LIMIT)?,
        Format::Rir => rir::parse(name, bytes)?,
        Format::Geoip => text::parse(name, WorldKind::GeoipDb, bytes)?,
        Format::Csv => text::parse(name, WorldKind::Csv, bytes)?,
    };
    if text.v4.is_empty() && text.v6.is_empty() {
        return Err(Refused::Empty {
            file: name.to_owned(),
            format,
        });
    }
    let licence = match source.licence {
        None => text.licence.0.clone(),
        Some(licence) => {
            let plain = |b: u8| (b.is_ascii_graphic() && b != b';') || b == b' ';
            if licence.trim().is_empty() || licence.len() > 64 || !licence.bytes().all(plain) {
                return Err(Refused::Licence {
                    file: name.to_owned(),
                });
            }
            licence.trim().to_owned()
        }
    };
    let origin = Origin {
        name: plain(name),
        format,
        digest: Sha256Digest::of(&[bytes]),
        built: source.built.or(text.built),
        licence,
        ranges: text.v4.len().saturating_add(text.v6.len()),
    };
    Ok((text, origin))
}

/// A name that fits a comment.
fn plain(name: &str) -> String {
    let letters = name.chars().map(|c| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_' | '+' => c,
        _ => '_',
    });
    letters.take(WORDS_LIMIT / 2).collect()
}
