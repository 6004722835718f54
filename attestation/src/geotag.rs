//! Where a machine stands, by the word of somebody who stood there: signed by the operator's
//! authority, locked into the TPM it speaks of, certified by the AK with every statement.
//!
//! The text has one spelling, one line per fact, `key value`, `\n` after each, in this order:
//!
//! ```text
//! bailiwick geotag v1
//! deployment demo
//! ek 5f…                    SHA-256 of the EK's TPMT_PUBLIC, lower-case hexadecimal
//! place FRA1 / row 3
//! rack 12                   a line only where it is said
//! jurisdiction DE
//! at 2026-11-21T16:00:00Z   when it was written
//! until 2027-11-21T16:00:00Z
//! ```
//!
//! What stands in the TPM is the *record*: `BWGT`, the byte 1, the text and the signature (an
//! SSHSIG blob, without its armor), each with two bytes of length in front.
//!
//! It proves what was signed and that the TPM holds it. It is no sensor: who carries the machine
//! away carries its geotag too, until it ends or somebody takes it back.

use std::fmt;
use std::time::Duration;

use crate::error::{Fault, ParseError};
use crate::ids::{DeploymentId, JurisdictionCode, Sha256Digest, UnixTime};
use crate::reader::Reader;

/// Where it stands: the range the TCG registry leaves to owners.
pub const GEOTAG_INDEX: u32 = 0x0180_0b43;
/// Longest record: what every TPM of the PC Client profile reads at once is 1,024 bytes or little
/// less, and a certification covers one read.
pub const RECORD_LIMIT: usize = 1024;
/// Most bytes of a place or a rack.
const WORDS: usize = 120;

const MAGIC: [u8; 5] = *b"BWGT\x01";
const HEAD: &str = "bailiwick geotag v1";

/// What is said of a place, and for how long. Nothing in it is trusted yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Geotag {
    /// Where it counts.
    pub deployment: DeploymentId,
    /// The TPM it speaks of.
    pub ek: Sha256Digest,
    /// Site, room, row.
    pub place: String,
    /// Rack, where it is said.
    pub rack: Option<String>,
    /// Where that is, for the law.
    pub jurisdiction: JurisdictionCode,
    /// When it was written, whole seconds.
    pub at: UnixTime,
    /// When it ends, whole seconds.
    pub until: UnixTime,
}

/// Bytes that are no geotag.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GeotagMalformed {
    /// Not a record.
    #[error(transparent)]
    Record(#[from] ParseError),
    /// Not the text.
    #[error("geotag text, line {line}: {fault}")]
    Text {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        fault: &'static str,
    },
}

impl GeotagMalformed {
    /// Stable word for answers and scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "geotag-malformed"
    }
}

/// What a signature over a geotag must say it is for.
#[must_use]
pub fn namespace(deployment: &DeploymentId) -> String {
    format!("bailiwick/{deployment}/geotag")
}

impl Geotag {
    /// The bytes that are signed.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!("{HEAD}\n");
        let mut line = |key: &str, value: &dyn fmt::Display| {
            out.push_str(&format!("{key} {value}\n"));
        };
        line("deployment", &self.deployment);
        line("ek", &self.ek);
        line("place", &self.place);
        if let Some(rack) = &self.rack {
            line("rack", rack);
        }
        line("jurisdiction", &self.jurisdiction);
        line("at", &rfc3339(self.at));
        line("until", &rfc3339(self.until));
        out
    }

    /// Reads the text in its one spelling.
    pub fn parse(text: &[u8]) -> Result<Self, GeotagMalformed> {
        let refuse = |line, fault| GeotagMalformed::Text { line, fault };
        let text = std::str::from_utf8(text).map_err(|_err| refuse(1, "is not UTF-8"))?;
        let mut lines = Lines {
            rest: text.split_inclusive('\n').peekable(),
            line: 0,
        };
        if lines.next() != Some(HEAD) {
            return Err(refuse(1, "is not \"bailiwick geotag v1\""));
        }
        let deployment = lines.value("deployment ")?;
        let deployment = DeploymentId::new(deployment).map_err(|_err| lines.fault("names none"))?;
        let ek = lines.value("ek ")?.to_owned();
        let ek = Sha256Digest::try_from(ek).map_err(|_err| lines.fault("is no SHA-256"))?;
        let place = lines.words("place ")?;
        let rack = match lines.has("rack ") {
            true => Some(lines.words("rack ")?),
            false => None,
        };
        let jurisdiction = JurisdictionCode::new(lines.value("jurisdiction ")?)
            .map_err(|_err| lines.fault("is no jurisdiction"))?;
        let at = lines.moment("at ")?;
        let until = lines.moment("until ")?;
        if until <= at {
            return Err(lines.fault("ends before it begins"));
        }
        if lines.next().is_some() {
            return Err(lines.fault("is one line too many"));
        }
        Ok(Self {
            deployment,
            ek,
            place,
            rack,
            jurisdiction,
            at,
            until,
        })
    }
}

/// A text and the signature over it, as they stand in the TPM. Nothing in it is trusted yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Record<'a> {
    /// [`Geotag::text`].
    pub text: &'a [u8],
    /// SSHSIG, not armored.
    pub signature: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads one record to its last byte.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, GeotagMalformed> {
        let mut r = Reader::new("geotag record", bytes);
        if r.array::<5>("magic")? != MAGIC {
            let fault = Fault::Rule("is not a geotag of version 1");
            return Err(r.fault_at("magic", 0, fault).into());
        }
        let limit = u16::try_from(RECORD_LIMIT).unwrap_or(u16::MAX);
        let text = r.sized_u16("text.size", "text", limit)?;
        let signature = r.sized_u16("signature.size", "signature", limit)?;
        r.finish()?;
        Ok(Self { text, signature })
    }

    /// As the TPM keeps it; `None` where it is longer than [`RECORD_LIMIT`].
    #[must_use]
    pub fn to_bytes(self) -> Option<Vec<u8>> {
        let mut out = MAGIC.to_vec();
        for part in [self.text, self.signature] {
            out.extend(u16::try_from(part.len()).ok()?.to_be_bytes());
            out.extend(part);
        }
        (out.len() <= RECORD_LIMIT).then_some(out)
    }
}

/// The lines of a text, each with its end.
struct Lines<'t> {
    rest: std::iter::Peekable<std::str::SplitInclusive<'t, char>>,
    line: usize,
}

impl<'t> Lines<'t> {
    fn next(&mut self) -> Option<&'t str> {
        let line = self.rest.next()?;
        self.line = self.line.saturating_add(1);
        // A last line without its end is another spelling.
        Some(line.strip_suffix('\n').unwrap_or(""))
    }

    fn has(&mut self, key: &str) -> bool {
        self.rest.peek().is_some_and(|line| line.starts_with(key))
    }

    const fn fault(&self, fault: &'static str) -> GeotagMalformed {
        GeotagMalformed::Text {
            line: self.line,
            fault,
        }
    }

    fn value(&mut self, key: &str) -> Result<&'t str, GeotagMalformed> {
        let value = self.next().and_then(|line| line.strip_prefix(key));
        value.ok_or_else(|| self.fault("is not the one that belongs here"))
    }

    fn words(&mut self, key: &str) -> Result<String, GeotagMalformed> {
        let text = self.value(key)?;
        if text.is_empty() || text.len() > WORDS || text.chars().any(char::is_control) {
            return Err(self.fault("must have 1 to 120 bytes and no control characters"));
        }
        Ok(text.to_owned())
    }

    fn moment(&mut self, key: &str) -> Result<UnixTime, GeotagMalformed> {
        let at = moment(self.value(key)?);
        at.ok_or_else(|| self.fault("is no moment as in 2026-01-31T00:00:00Z"))
    }
}

/// Reads a moment in the one spelling it has here: `2026-11-21T16:00:00Z`.
#[must_use]
pub fn moment(text: &str) -> Option<UnixTime> {
    let at = text.parse::<der::DateTime>().ok()?;
    let at = UnixTime::from_secs(at.unix_duration().as_secs());
    (rfc3339(at) == text).then_some(at)
}

/// `2026-11-21T16:00:00Z`: whole seconds of UTC.
fn rfc3339(at: UnixTime) -> String {
    match der::DateTime::from_unix_duration(Duration::from_secs(at.secs())) {
        Ok(moment) => moment.to_string(),
        // Beyond the year 9999; read back, it is no moment.
        Err(_) => format!("{} s", at.secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag() -> Geotag {
        Geotag {
            deployment: DeploymentId::new("demo").unwrap(),
            ek: Sha256Digest([0x11; 32]),
            place: "FRA1 / row 3".to_owned(),
            rack: Some("12".to_owned()),
            jurisdiction: JurisdictionCode::new("DE").unwrap(),
            at: UnixTime(1_780_272_000_000),
            until: UnixTime(1_811_808_000_000),
        }
    }

    const TEXT: &str = "bailiwick geotag v1\ndeployment demo\n\
        ek 1111111111111111111111111111111111111111111111111111111111111111\n\
        place FRA1 / row 3\nrack 12\njurisdiction DE\nat 2026-06-01T00:00:00Z\n\
        until 2027-06-01T00:00:00Z\n";

    #[test]
    fn a_text_has_one_spelling() {
        assert_eq!(tag().text(), TEXT);
        assert_eq!(Geotag::parse(TEXT.as_bytes()), Ok(tag()));
        let bare = Geotag {
            rack: None,
            ..tag()
        };
        assert_eq!(Geotag::parse(bare.text().as_bytes()), Ok(bare));
        let wide = "w".repeat(121);
        let changed: &[(&str, &str, &str, usize)] = &[
            ("another version", "v1", "v2", 1),
            ("no deployment", "deployment demo", "deployment Demo", 2),
            ("upper-case digits", "ek 11", "ek AA", 3),
            ("a digest one digit short", "1111\n", "111\n", 3),
            ("no place", "FRA1 / row 3", "", 4),
            ("a place too long", "FRA1 / row 3", &wide, 4),
            ("a place with a return", "row 3", "row\r3", 4),
            ("a rack of no name", "rack 12", "rack ", 5),
            ("no jurisdiction", "jurisdiction DE\n", "", 6),
            ("a country in small letters", "DE", "de", 6),
            (
                "another order",
                "rack 12\njurisdiction DE",
                "jurisdiction DE\nrack 12",
                6,
            ),
            (
                "half a second",
                "at 2026-06-01T00:00:00Z",
                "at 2026-06-01T00:00:00.5Z",
                7,
            ),
            (
                "no zone",
                "at 2026-06-01T00:00:00Z",
                "at 2026-06-01T00:00:00",
                7,
            ),
            ("ends at once", "until 2027", "until 2026", 8),
            (
                "one line more",
                "2027-06-01T00:00:00Z\n",
                "2027-06-01T00:00:00Z\nx\n",
                9,
            ),
            (
                "an empty line more",
                "2027-06-01T00:00:00Z\n",
                "2027-06-01T00:00:00Z\n\n",
                9,
            ),
            (
                "no end of line",
                "2027-06-01T00:00:00Z\n",
                "2027-06-01T00:00:00Z",
                8,
            ),
        ];
        for (name, from, to, line) in changed {
            let text = TEXT.replace(from, to);
            assert_ne!(text, TEXT, "{name}");
            match Geotag::parse(text.as_bytes()).unwrap_err() {
                GeotagMalformed::Text { line: found, .. } => assert_eq!(found, *line, "{name}"),
                other => panic!("{name}: {other}"),
            }
        }
        assert!(Geotag::parse(b"\xff").is_err());
        assert!(Geotag::parse(b"").is_err());
    }

    #[test]
    fn a_record_is_read_to_its_last_byte() {
        let record = Record {
            text: TEXT.as_bytes(),
            signature: b"SSHSIG",
        };
        let bytes = record.to_bytes().unwrap();
        assert_eq!(Record::parse(&bytes), Ok(record));
        for cut in 0..bytes.len() {
            assert!(Record::parse(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let long = [bytes.as_slice(), &[0]].concat();
        let refused = Record::parse(&long).unwrap_err();
        assert_eq!(refused.code(), "geotag-malformed");
        let mut other = bytes;
        other[4] = 2;
        let refused = Record::parse(&other).unwrap_err();
        let says = "geotag record.magic at offset 0: is not a geotag of version 1";
        assert_eq!(refused.to_string(), says);

        let room = RECORD_LIMIT - 9 - TEXT.len();
        let filled = |len| Record {
            text: TEXT.as_bytes(),
            signature: &[7; RECORD_LIMIT][..len],
        };
        assert_eq!(filled(room).to_bytes().unwrap().len(), RECORD_LIMIT);
        assert_eq!(
            filled(room + 1).to_bytes(),
            None,
            "more than a TPM certifies at once"
        );
    }

    #[test]
    fn a_namespace_is_of_one_deployment() {
        assert_eq!(namespace(&tag().deployment), "bailiwick/demo/geotag");
    }
}
