//! Opaque data of a report: what the device says of itself, as typed entries.
//!
//! Each entry is a type and a length, 16 bits each and little-endian, and a value. Types and
//! encodings: NVIDIA's attestation SDK, `gpu_opaque_data_parser.hpp` and its sister for switches.
//! Entries of unknown type are kept; a type that stands twice is refused, since readers would
//! disagree on which counts.

use crate::error::{Fault, ParseError};
use crate::reader::Reader;

/// Highest version of the data whose meaning is known.
const MAX_VERSION: u16 = 1;
/// What a one-byte status says when it is on, and off.
const ON: u8 = 0xaa;
const OFF: u8 = 0x55;
/// Bytes of a per-device identifier.
const PDI: usize = 8;
/// GPUs a switch names, at most.
const GPUS: usize = 8;

const STRUCTURE: &str = "opaque data";

/// A per-device identifier, as read in the order its number is written.
pub type Pdi = [u8; PDI];

/// One entry as it stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry<'a> {
    /// What it is.
    pub kind: u16,
    /// Its bytes.
    pub value: &'a [u8],
}

/// How a GPU is used, as it says itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// One GPU for one guest.
    SinglePass,
    /// Several GPUs for one guest, links encrypted.
    MultiPass,
    /// Protected PCIe: eight GPUs and four switches for one guest.
    ProtectedPcie,
}

impl Mode {
    /// `spt`, `mpt`, `ppcie`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SinglePass => "spt",
            Self::MultiPass => "mpt",
            Self::ProtectedPcie => "ppcie",
        }
    }
}

/// What a switch says of the GPUs around it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ports<'a> {
    /// The GPUs it is linked to; zero where there is none.
    pub gpus: Vec<Pdi>,
    /// For each port, the place of its GPU among these; `0xff`: none.
    pub map: &'a [u8],
}

/// All entries, and what those of known type say. A field is `None` where its entry is absent, or
/// has another shape than is known (then its type is among [`Opaque::unread`]).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Opaque<'a> {
    /// As they stand.
    pub entries: Vec<Entry<'a>>,
    /// Types that nobody here knows.
    pub unknown: Vec<u16>,
    /// Types that are known, in a shape that is not: old firmware of switches had some. Nothing
    /// that a verdict rests on is ever among them.
    pub unread: Vec<u16>,
    /// Version of the data; 0 where nothing says so.
    pub version: u16,
    /// Version of the driver: `550.90.07`. GPUs only.
    pub driver_version: Option<String>,
    /// The chip's architecture as its registers have it: `0x180` for GH100.
    pub gpu_info: Option<u64>,
    /// Version of the VBIOS, or of a switch's firmware, upper case: `96.00.9F.00.01`.
    pub vbios_version: Option<String>,
    /// State of the video decoder: `0xaa` on, `0x55` off.
    pub nvdec: Option<u8>,
    /// How often each measurement was extended.
    pub extend_counts: Option<Vec<u32>>,
    /// Of the protected region; what it means is not published.
    pub cpr: Option<u32>,
    /// Number of the board's kind.
    pub board_id: Option<u32>,
    /// Which product the chip became.
    pub chip_sku: Option<String>,
    /// Its variant.
    pub chip_sku_mod: Option<String>,
    /// The board's project.
    pub project: Option<String>,
    /// Its product.
    pub project_sku: Option<String>,
    /// Its variant.
    pub project_sku_mod: Option<String>,
    /// Digest of the firmware that holds the key which signs the report.
    pub fwid: Option<[u8; 48]>,
    /// Protected PCIe is on.
    pub protected_pcie: Option<bool>,
    /// The same eight bytes in the order they stand: of a GPU, the switches at its links, each
    /// reversed and zero where a link is off; of a switch, itself.
    pub pdis: Option<Vec<Pdi>>,
    /// Ports of a switch that are off; what each bit means is not published.
    pub disabled_ports: Option<u16>,
    /// Which switch of the board it is.
    pub position: Option<u16>,
    /// 1: the switch's configuration is locked.
    pub lock: Option<u16>,
    /// Of a switch, the GPUs around it.
    pub ports: Option<Ports<'a>>,
    /// The chip: `GB100`.
    pub chip_info: Option<String>,
    /// Features that are on.
    pub features: Option<u16>,
}

/// Why opaque data are refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OpaqueRefused {
    /// Entries that do not fill their space exactly.
    #[error("malformed opaque data")]
    Framing(#[source] ParseError),
    /// Readers would disagree on which counts.
    #[error("opaque data of type {0} stand twice")]
    Duplicate(u16),
    /// Newer than what is known.
    #[error("opaque data of version {0}: only 0 and {MAX_VERSION} are known")]
    Version(u16),
    /// A verdict rests on it, and it is not one of the values it may have.
    #[error("an entry that a verdict rests on")]
    Value(#[source] ParseError),
}

impl OpaqueRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Framing(_) => "report-framing",
            Self::Duplicate(_) => "duplicate-opaque-type",
            Self::Version(_) => "unknown-opaque-version",
            Self::Value(_) => "opaque-value",
        }
    }
}

impl<'a> Opaque<'a> {
    /// Reads the entries of one report. `base` is where they begin in it: offsets count from the
    /// start of the report.
    pub(super) fn parse(bytes: &'a [u8], base: usize) -> Result<Self, OpaqueRefused> {
        let mut opaque = Self::default();
        let mut r = Reader::new(STRUCTURE, bytes);
        let moved = |mut error: ParseError| {
            error.offset += base;
            error
        };
        let framing = |error| OpaqueRefused::Framing(moved(error));
        let mut refused = None;
        while !r.rest().is_empty() {
            let kind = r.u16_le("type").map_err(framing)?;
            let len = r.u16_le("length").map_err(framing)?;
            let at = r.offset();
            let value = r.take("value", len.into()).map_err(framing)?;
            if opaque.entries.iter().any(|earlier| earlier.kind == kind) {
                // The first such fault counts, but only if all of it can be read at all.
                refused = refused.or(Some(OpaqueRefused::Duplicate(kind)));
                continue;
            }
            opaque.entries.push(Entry { kind, value });
            if let Err(rule) = opaque.read(kind, value) {
                let error = r.fault_at(field(kind), at, Fault::Rule(rule));
                refused = refused.or_else(|| Some(OpaqueRefused::Value(moved(error))));
            }
        }
        if opaque.version > MAX_VERSION {
            return Err(OpaqueRefused::Version(opaque.version));
        }
        match refused {
            Some(refused) => Err(refused),
            None => Ok(opaque),
        }
    }

    /// How the device is used, as it says.
    #[must_use]
    pub const fn mode(&self) -> Option<Mode> {
        match (self.features, self.protected_pcie) {
            (Some(0), _) | (None, Some(false)) => Some(Mode::SinglePass),
            (Some(1), _) => Some(Mode::MultiPass),
            (Some(2), _) | (None, Some(true)) => Some(Mode::ProtectedPcie),
            (Some(_), _) | (None, None) => None,
        }
    }

    /// The two entries that tell the mode tell different ones.
    #[must_use]
    pub const fn mode_is_contradicted(&self) -> bool {
        match (self.features, self.protected_pcie) {
            (Some(features), Some(protected)) => (features == 2) != protected,
            _ => false,
        }
    }

    /// It has what only a switch says.
    #[must_use]
    pub const fn is_of_a_switch(&self) -> bool {
        self.driver_version.is_none() && (self.ports.is_some() || self.lock.is_some())
    }

    /// Reads an entry of known type. `Err`: a value that a verdict would rest on.
    fn read(&mut self, kind: u16, value: &'a [u8]) -> Result<(), &'static str> {
        match kind {
            3 => self.driver_version = Some(text(value).ok_or("is no version")?),
            6 => self.vbios_version = Some(vbios_version(value).ok_or("is no version")?),
            11 => match *value {
                [status @ (ON | OFF)] => self.nvdec = Some(status),
                _ => return Err("is neither on nor off"),
            },
            20 => self.fwid = Some(value.try_into().or(Err("is no SHA-384 digest"))?),
            21 => match *value {
                [ON] => self.protected_pcie = Some(true),
                [OFF] => self.protected_pcie = Some(false),
                _ => return Err("is neither on nor off"),
            },
            34 => self.version = number(value).ok_or("is no number of two bytes")?,
            36 => self.features = Some(number(value).ok_or("is no number of two bytes")?),
            _ => self.read_lenient(kind, value),
        }
        Ok(())
    }

    /// Entries that are shown, or that a topology rests on, which then misses them.
    fn read_lenient(&mut self, kind: u16, value: &'a [u8]) {
        let mut unread = false;
        let mut keep = |read: bool| unread |= !read;
        match kind {
            4 => keep(set(
                &mut self.gpu_info,
                value.try_into().ok().map(u64::from_le_bytes),
            )),
            12 => keep(set(&mut self.extend_counts, counts(value))),
            13 => keep(set(
                &mut self.cpr,
                value.try_into().ok().map(u32::from_le_bytes),
            )),
            14 => keep(set(
                &mut self.board_id,
                value.try_into().ok().map(u32::from_le_bytes),
            )),
            15 => keep(set(&mut self.chip_sku, text_or_empty(value))),
            16 => keep(set(&mut self.chip_sku_mod, text_or_empty(value))),
            17 => keep(set(&mut self.project, text_or_empty(value))),
            18 => keep(set(&mut self.project_sku, text_or_empty(value))),
            19 => keep(set(&mut self.project_sku_mod, text_or_empty(value))),
            22 => keep(set(&mut self.pdis, pdis(value))),
            23 => keep(set(&mut self.disabled_ports, number(value))),
            24 => keep(set(&mut self.position, number(value))),
            25 => keep(set(&mut self.lock, number(value))),
            26 => keep(set(&mut self.ports, ports(value))),
            35 => keep(set(&mut self.chip_info, text(value))),
            // Issuer name and key of the certificate, link connection, state of the system: kept
            // as bytes, their encoding is not published.
            1 | 2 | 32 | 33 => {}
            _ => self.unknown.push(kind),
        }
        if unread {
            self.unread.push(kind);
        }
    }
}

/// What a refused value is called.
const fn field(kind: u16) -> &'static str {
    match kind {
        3 => "driver version (3)",
        6 => "VBIOS version (6)",
        11 => "NVDEC status (11)",
        20 => "FWID (20)",
        21 => "Protected PCIe (21)",
        34 => "version (34)",
        36 => "feature flag (36)",
        _ => "value",
    }
}

fn set<T>(place: &mut Option<T>, value: Option<T>) -> bool {
    *place = value;
    place.is_some()
}

fn number(value: &[u8]) -> Option<u16> {
    value.try_into().ok().map(u16::from_le_bytes)
}

fn counts(value: &[u8]) -> Option<Vec<u32>> {
    let (chunks, rest) = value.as_chunks::<4>();
    let counts = chunks.iter().map(|chunk| u32::from_le_bytes(*chunk));
    rest.is_empty().then(|| counts.collect())
}

fn pdis(value: &[u8]) -> Option<Vec<Pdi>> {
    let (chunks, rest) = value.as_chunks::<PDI>();
    rest.is_empty().then(|| chunks.to_vec())
}

fn ports(value: &[u8]) -> Option<Ports<'_>> {
    let (gpus, map) = value.split_at_checked(GPUS * PDI)?;
    let gpus = pdis(gpus)?;
    Some(Ports { gpus, map })
}

/// ASCII that can be printed, without the zeros that fill it up; never empty.
fn text(value: &[u8]) -> Option<String> {
    text_or_empty(value).filter(|text| !text.is_empty())
}

fn text_or_empty(value: &[u8]) -> Option<String> {
    let zeros = value.iter().rev().take_while(|byte| **byte == 0).count();
    let text = value.get(..value.len() - zeros)?;
    let text = std::str::from_utf8(text).ok()?;
    let printable = |c: char| c == ' ' || c.is_ascii_graphic();
    text.chars().all(printable).then(|| text.to_owned())
}

/// Eight bytes of a GPU: the fourth to the first, then the fifth, in hex. Text of a switch.
fn vbios_version(value: &[u8]) -> Option<String> {
    match *value {
        [d, c, b, a, e, _, _, _] => Some(format!("{a:02X}.{b:02X}.{c:02X}.{d:02X}.{e:02X}")),
        _ => text(value).map(|text| text.to_ascii_uppercase()),
    }
}
