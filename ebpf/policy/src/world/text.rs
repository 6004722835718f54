//! World maps as text: ranges or prefixes, one a line, and a code.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use bailiwick_attestation::{FileError, JurisdictionCode};
use bailiwick_ebpf_common::world::{Jurisdiction, OWN_BASE, OWN_CODES};
use ipnet::IpNet;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::codes::{self, Codes};
use super::ranges::{Layer, Range};
use crate::bundle::WorldKind;

/// Most ranges of one map: twice what a fence is designed for.
pub const RANGES_LIMIT: usize = 2_000_000;
/// Most codes reported that nothing here knows: a file of the wrong kind has as many as lines.
const STRAYS_LIMIT: usize = 64;

/// What a text says, not yet in order.
#[derive(Debug, Default)]
pub(super) struct Text {
    pub(super) v4: Vec<Range>,
    pub(super) v6: Vec<Range>,
    /// Own codes in the order they were met; a range holds `OWN_BASE` plus the place in here.
    pub(super) own: Vec<String>,
    /// When the source was made, seconds since 1970, if a comment tells; the oldest counts.
    pub(super) built: Option<u64>,
    /// Codes that nothing here knows: first line, and how many.
    pub(super) strays: BTreeMap<String, (usize, usize)>,
    /// Who made it, as its comments tell.
    pub(super) source: Words,
    /// Under what terms.
    pub(super) licence: Words,
}

/// Most bytes of [`Words`]: as many as the kernel's table has room for.
pub(super) const WORDS_LIMIT: usize = 128;

/// What several comments of one kind say, in their order, each once, joined by `; `.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Words(pub(super) String);

impl Words {
    /// Characters that a terminal would act on are left out; what is too long is cut.
    pub(super) fn add(&mut self, words: &str) {
        let plain = words.chars().filter(|c| c.is_ascii_graphic() || *c == ' ');
        let words: String = plain.collect();
        if words.is_empty() || self.0.split("; ").any(|known| known == words) {
            return;
        }
        if !self.0.is_empty() {
            self.0.push_str("; ");
        }
        self.0.push_str(&words);
        self.0.truncate(WORDS_LIMIT);
    }
}

/// The path under which a bundle lists a map of this kind.
pub(super) fn path(kind: WorldKind) -> &'static str {
    match kind {
        WorldKind::Csv => "world.csv",
        WorldKind::GeoipDb => "world.txt",
    }
}

pub(super) fn error(file: &str, line: usize, key: &str, fault: impl Into<String>) -> FileError {
    FileError {
        file: file.to_owned(),
        line,
        key: key.to_owned(),
        fault: fault.into(),
    }
}

/// Why a line is refused: the field, and what is wrong with it.
pub(super) type Fault = (&'static str, String);

/// Reads the whole text; `file` is the name to blame.
pub(super) fn parse(file: &str, kind: WorldKind, bytes: &[u8]) -> Result<Text, FileError> {
    let mut text = Text::default();
    lines(file, bytes, |number, line| {
        match line.strip_prefix('#') {
            Some(comment) => text.comment(comment),
            None => text.line(kind, number, line)?,
        }
        Ok(())
    })?;
    Ok(text)
}

/// Every line that is not empty, trimmed, with its number from 1.
pub(super) fn lines(
    file: &str,
    bytes: &[u8],
    mut each: impl FnMut(usize, &str) -> Result<(), Fault>,
) -> Result<(), FileError> {
    for (index, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let number = index.saturating_add(1);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = str::from_utf8(line)
            .map_err(|err| {
                let at = err.valid_up_to().saturating_add(1);
                let fault = format!("byte {at} of the line is no UTF-8");
                error(file, number, "", fault)
            })?
            .trim_ascii();
        if !line.is_empty() {
            each(number, line).map_err(|(key, fault)| error(file, number, key, fault))?;
        }
    }
    Ok(())
}

impl Text {
    /// `Generated: Thu, 25 Jun 2026 04:33:59 GMT`, as IPFire's exports say it, and who made the
    /// table under what terms.
    fn comment(&mut self, comment: &str) {
        let Some((key, value)) = comment.trim_ascii().split_once(':') else {
            return;
        };
        let value = value.trim_ascii();
        match key {
            "Generated" => {
                let time = OffsetDateTime::parse(value, &Rfc2822).ok();
                let seconds = time.and_then(|time| u64::try_from(time.unix_timestamp()).ok());
                if let Some(seconds) = seconds {
                    self.made_at(seconds);
                }
            }
            "Source" | "Vendor" => self.source.add(value),
            "Licence" | "License" => self.licence.add(value),
            _ => {}
        }
    }

    /// Of several dates the oldest counts.
    pub(super) fn made_at(&mut self, seconds: u64) {
        self.built = Some(self.built.map_or(seconds, |before| before.min(seconds)));
    }

    /// Puts the final numbers of own codes in place of this text's.
    pub(super) fn settle(&mut self, codes: &Codes) {
        if self.own.is_empty() {
            return;
        }
        for range in self.v4.iter_mut().chain(&mut self.v6) {
            let at = range.code.checked_sub(OWN_BASE).map(usize::from);
            let code = at.and_then(|at| self.own.get(at));
            if let Some(number) = code.and_then(|code| codes.number(code)) {
                range.code = number.0;
            }
        }
    }

    /// What whoever signs should know.
    pub(super) fn warnings(&self, file: &str) -> Vec<FileError> {
        let strays = self.strays.iter().map(|(code, (line, count))| {
            let fault = format!(
                "{code} is no jurisdiction known here; the addresses of its {count} ranges count \
                 as unknown"
            );
            error(file, *line, "code", fault)
        });
        strays.collect()
    }

    fn line(&mut self, kind: WorldKind, number: usize, line: &str) -> Result<(), Fault> {
        let mut fields = line.split(',');
        let (first, second) = (fields.next().unwrap_or_default(), fields.next());
        let third = fields.next();
        let (start, end, code) = match (kind, second, third, fields.next()) {
            (_, Some(end), Some(code), None) => (
                address(kind, "start", first)?,
                address(kind, "end", end)?,
                code,
            ),
            (WorldKind::Csv, Some(code), None, None) => {
                let net: IpNet =
                    first
                        .trim_ascii()
                        .parse()
                        .map_err(|_err: ipnet::AddrParseError| {
                            (
                                "prefix",
                                format!("{:?} is no prefix: ADDRESS/LENGTH", short(first)),
                            )
                        })?;
                if net.addr() != net.network() {
                    return Err(("prefix", format!("{net} has bits set behind its length")));
                }
                (net.network(), net.broadcast(), code)
            }
            (WorldKind::Csv, ..) => {
                return Err(("", "is neither PREFIX,CODE nor START,END,CODE".to_owned()));
            }
            (WorldKind::GeoipDb, ..) => return Err(("", "is not START,END,CODE".to_owned())),
        };
        self.push(number, (start, end), code)
    }

    /// Takes one range, both ends included.
    pub(super) fn push(
        &mut self,
        number: usize,
        (start, end): (IpAddr, IpAddr),
        code: &str,
    ) -> Result<(), Fault> {
        let (ranges, start, end) = match (start, end) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (&mut self.v4, a.to_bits().into(), b.to_bits().into())
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => (&mut self.v6, a.to_bits(), b.to_bits()),
            _ => return Err(("end", "start and end are of two families".to_owned())),
        };
        if end < start {
            return Err(("end", "lies before the start".to_owned()));
        }
        let code = code.trim_ascii();
        let jurisdiction = match codes::fixed(code) {
            Some(jurisdiction) => jurisdiction,
            None => unfixed(&mut self.own, &mut self.strays, number, code)?,
        };
        let Ok(at) = u32::try_from(number) else {
            return Err(("", "lines beyond 4,294,967,295 are not read".to_owned()));
        };
        ranges.push(Range {
            start,
            end,
            code: jurisdiction.0,
            layer: Layer::World,
            line: at,
        });
        if self.v4.len().saturating_add(self.v6.len()) > RANGES_LIMIT {
            let fault = format!(
                "more than {RANGES_LIMIT} ranges; merge neighbours of one code, or use a coarser map"
            );
            return Err(("", fault));
        }
        Ok(())
    }
}

/// Own codes get a number of this text's; codes of two signs that nobody knows are "unknown", for
/// real databases hold some slips, and are told to whoever signs. All else is no code.
fn unfixed(
    own: &mut Vec<String>,
    strays: &mut BTreeMap<String, (usize, usize)>,
    line: usize,
    code: &str,
) -> Result<Jurisdiction, Fault> {
    if code.starts_with("X-") {
        JurisdictionCode::new(code)
            .map_err(|err| ("code", format!("{:?} {}", err.name, err.fault)))?;
        let at = own
            .iter()
            .position(|known| known == code)
            .unwrap_or_else(|| {
                own.push(code.to_owned());
                own.len().saturating_sub(1)
            });
        let number = u16::try_from(at)
            .ok()
            .and_then(|at| OWN_BASE.checked_add(at));
        return number
            .map(Jurisdiction)
            .filter(|_| at < OWN_CODES)
            .ok_or_else(|| ("code", format!("more than {OWN_CODES} codes of your own")));
    }
    let sound = code.len() == 2
        && code
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    if !sound {
        return Err((
            "code",
            format!(
                "{:?} is no code: two upper-case letters, or X- and up to 29 of A-Z, 0-9, '-'",
                short(code)
            ),
        ));
    }
    if strays.len() < STRAYS_LIMIT || strays.contains_key(code) {
        let (_, count) = strays.entry(code.to_owned()).or_insert((line, 0));
        *count = count.saturating_add(1);
    }
    Ok(Jurisdiction::UNKNOWN)
}

pub(super) fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

fn address(kind: WorldKind, key: &'static str, text: &str) -> Result<IpAddr, Fault> {
    let text = text.trim_ascii();
    if kind == WorldKind::GeoipDb && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let number: u32 = text.parse().map_err(|_err: std::num::ParseIntError| {
            (key, format!("{:?} is more than 4294967295", short(text)))
        })?;
        return Ok(IpAddr::V4(Ipv4Addr::from_bits(number)));
    }
    text.parse()
        .map_err(|_err: std::net::AddrParseError| (key, format!("{:?} is no address", short(text))))
}
