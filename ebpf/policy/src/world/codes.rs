//! The fixed numbering of jurisdictions, and the operator's own codes on top.

use std::collections::BTreeSet;

use bailiwick_attestation::Sha256Digest;
use bailiwick_ebpf_common::world::{Jurisdiction, OWN_BASE, OWN_CODES, WorldHeader};

/// First number of a country. Those below are words that no country answers to.
const COUNTRIES_BASE: u16 = 16;

/// Countries by number, from [`COUNTRIES_BASE`]: ISO 3166-1 alpha-2 as of 2026, and `XK`, which
/// geo databases use for Kosovo. A number is never given to another code: append.
#[rustfmt::skip]
const COUNTRIES: [&str; 250] = [
    "AD", "AE", "AF", "AG", "AI", "AL", "AM", "AO", "AQ", "AR", "AS", "AT", "AU", "AW",
    "AX", "AZ", "BA", "BB", "BD", "BE", "BF", "BG", "BH", "BI", "BJ", "BL", "BM", "BN",
    "BO", "BQ", "BR", "BS", "BT", "BV", "BW", "BY", "BZ", "CA", "CC", "CD", "CF", "CG",
    "CH", "CI", "CK", "CL", "CM", "CN", "CO", "CR", "CU", "CV", "CW", "CX", "CY", "CZ",
    "DE", "DJ", "DK", "DM", "DO", "DZ", "EC", "EE", "EG", "EH", "ER", "ES", "ET", "FI",
    "FJ", "FK", "FM", "FO", "FR", "GA", "GB", "GD", "GE", "GF", "GG", "GH", "GI", "GL",
    "GM", "GN", "GP", "GQ", "GR", "GS", "GT", "GU", "GW", "GY", "HK", "HM", "HN", "HR",
    "HT", "HU", "ID", "IE", "IL", "IM", "IN", "IO", "IQ", "IR", "IS", "IT", "JE", "JM",
    "JO", "JP", "KE", "KG", "KH", "KI", "KM", "KN", "KP", "KR", "KW", "KY", "KZ", "LA",
    "LB", "LC", "LI", "LK", "LR", "LS", "LT", "LU", "LV", "LY", "MA", "MC", "MD", "ME",
    "MF", "MG", "MH", "MK", "ML", "MM", "MN", "MO", "MP", "MQ", "MR", "MS", "MT", "MU",
    "MV", "MW", "MX", "MY", "MZ", "NA", "NC", "NE", "NF", "NG", "NI", "NL", "NO", "NP",
    "NR", "NU", "NZ", "OM", "PA", "PE", "PF", "PG", "PH", "PK", "PL", "PM", "PN", "PR",
    "PS", "PT", "PW", "PY", "QA", "RE", "RO", "RS", "RU", "RW", "SA", "SB", "SC", "SD",
    "SE", "SG", "SH", "SI", "SJ", "SK", "SL", "SM", "SN", "SO", "SR", "SS", "ST", "SV",
    "SX", "SY", "SZ", "TC", "TD", "TF", "TG", "TH", "TJ", "TK", "TL", "TM", "TN", "TO",
    "TR", "TT", "TV", "TW", "TZ", "UA", "UG", "UM", "US", "UY", "UZ", "VA", "VC", "VE",
    "VG", "VI", "VN", "VU", "WF", "WS", "YE", "YT", "ZA", "ZM", "ZW", "XK",
];

/// As many as stand in order; what was appended later stands behind them.
const ORDERED: usize = 249;

/// Codes of geo databases that are no countries. Policies may name those of two letters.
const WORDS: [(&str, Jurisdiction); 9] = [
    ("EU", Jurisdiction::EUROPE),
    ("AP", Jurisdiction::ASIA_PACIFIC),
    ("A1", Jurisdiction::PLACELESS),
    ("A2", Jurisdiction::PLACELESS),
    ("A3", Jurisdiction::ANYCAST),
    ("T1", Jurisdiction::PLACELESS),
    ("??", Jurisdiction::UNKNOWN),
    ("ZZ", Jurisdiction::UNKNOWN),
    ("--", Jurisdiction::UNKNOWN),
];

/// The number of a code that is the same everywhere: a country, or a word of geo databases.
pub(crate) fn fixed(code: &str) -> Option<Jurisdiction> {
    let (ordered, appended) = COUNTRIES.split_at(ORDERED);
    let country = ordered.binary_search(&code).ok().or_else(|| {
        let at = appended.iter().position(|known| *known == code)?;
        at.checked_add(ORDERED)
    });
    if let Some(at) = country {
        let number = u16::try_from(at).ok()?;
        return Some(Jurisdiction(COUNTRIES_BASE.saturating_add(number)));
    }
    let word = WORDS.iter().find(|(word, _)| *word == code);
    word.map(|(_, jurisdiction)| *jurisdiction)
}

/// Whether a policy may name this code: a country, `EU` or `AP`.
#[must_use]
pub fn is_known(code: &str) -> bool {
    fixed(code).is_some_and(|number| number != Jurisdiction::UNKNOWN)
}

/// Codes and their numbers, the operator's own (`X-…`) included.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Codes {
    /// Sorted; the first has the number [`OWN_BASE`].
    own: Vec<String>,
}

impl Codes {
    /// Numbers own codes in sorted order; `Err` with how many there are, if they are too many.
    pub(crate) fn new(own: BTreeSet<String>) -> Result<Self, usize> {
        if own.len() > OWN_CODES {
            return Err(own.len());
        }
        Ok(Self {
            own: own.into_iter().collect(),
        })
    }

    /// The codes that a world image was made with.
    #[must_use]
    pub fn of(header: &WorldHeader) -> Self {
        let count = usize::try_from(header.own_codes).unwrap_or(usize::MAX);
        let names = header.own_names.iter().take(count);
        let own = names.map(|name| {
            let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
            String::from_utf8_lossy(name.get(..end).unwrap_or(name)).into_owned()
        });
        Self { own: own.collect() }
    }

    /// The number of a code, if this table has it.
    #[must_use]
    pub fn number(&self, code: &str) -> Option<Jurisdiction> {
        fixed(code).or_else(|| {
            let at = self.own.iter().position(|own| own == code)?;
            Some(Jurisdiction(OWN_BASE.checked_add(u16::try_from(at).ok()?)?))
        })
    }

    /// The code of a number, or a word in lower case for what has none.
    #[must_use]
    pub fn name(&self, jurisdiction: Jurisdiction) -> &str {
        let word = match jurisdiction {
            Jurisdiction::UNKNOWN => Some("unknown"),
            Jurisdiction::RESERVED => Some("reserved"),
            Jurisdiction::MULTICAST => Some("multicast"),
            Jurisdiction::ANYCAST => Some("anycast"),
            Jurisdiction::LOOPBACK => Some("loopback"),
            Jurisdiction::LINK_LOCAL => Some("link-local"),
            Jurisdiction::EUROPE => Some("EU"),
            Jurisdiction::ASIA_PACIFIC => Some("AP"),
            Jurisdiction::PLACELESS => Some("placeless"),
            _ => None,
        };
        let below = |base: u16| jurisdiction.0.checked_sub(base).map(usize::from);
        let country = || COUNTRIES.get(below(COUNTRIES_BASE)?).copied();
        let own = || self.own.get(below(OWN_BASE)?).map(String::as_str);
        word.or_else(own).or_else(country).unwrap_or("unassigned")
    }

    /// The operator's own codes, by number.
    #[must_use]
    pub fn own(&self) -> &[String] {
        &self.own
    }

    /// As the world image carries them.
    pub(crate) fn own_names(&self) -> [[u8; 32]; OWN_CODES] {
        let mut names = [[0; 32]; OWN_CODES];
        for (name, code) in names.iter_mut().zip(&self.own) {
            for (byte, letter) in name.iter_mut().zip(code.bytes()) {
                *byte = letter;
            }
        }
        names
    }

    /// What ties a policy to the table of own codes it was compiled with: the first eight bytes,
    /// big-endian, of SHA-256 over the names as the image carries them.
    #[must_use]
    pub fn own_table(&self) -> u64 {
        let names = self.own_names();
        let digest = Sha256Digest::of(&[names.as_flattened()]).0;
        let first = digest.first_chunk().copied().unwrap_or_default();
        u64::from_be_bytes(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(own: &[&str]) -> Codes {
        Codes::new(own.iter().map(|code| (*code).to_owned()).collect()).unwrap()
    }

    /// These numbers stand in maps, events and records: a change here breaks them all.
    #[test]
    fn numbers_never_change() {
        assert!(COUNTRIES[..ORDERED].is_sorted());
        let last = COUNTRIES_BASE + u16::try_from(COUNTRIES.len()).unwrap();
        assert!(last <= OWN_BASE);
        let table = COUNTRIES.concat();
        assert_eq!(
            Sha256Digest::of(&[table.as_bytes()]).to_string(),
            "4e41d441185b21c6cd899c83f3532f1c96a71d57cee08a96496458e5bf1ba545"
        );
        for (code, number) in [("AD", 16), ("DE", 72), ("FR", 90), ("US", 248), ("XK", 265)] {
            assert_eq!(fixed(code), Some(Jurisdiction(number)), "{code}");
        }
    }

    #[test]
    fn every_number_has_one_name_and_the_way_back() {
        let codes = codes(&["X-B", "X-A"]);
        assert_eq!(codes.number("X-A"), Some(Jurisdiction(400)));
        assert_eq!(codes.number("X-B"), Some(Jurisdiction(401)));
        assert_eq!(codes.number("X-C"), None);
        for code in COUNTRIES.iter().copied().chain(["EU", "AP", "X-A", "X-B"]) {
            assert_eq!(codes.name(codes.number(code).unwrap()), code);
        }
        assert_eq!(codes.name(Jurisdiction(402)), "unassigned");
        assert_eq!(codes.name(Jurisdiction(0)), "unknown");
        assert_ne!(codes.own_table(), Codes::default().own_table());
    }

    #[test]
    fn a_policy_may_not_name_what_is_no_jurisdiction() {
        for (code, want) in [
            ("DE", true),
            ("EU", true),
            ("ZZ", false),
            ("UK", false),
            ("XX", false),
        ] {
            assert_eq!(is_known(code), want, "{code}");
        }
    }

    #[test]
    fn too_many_own_codes_are_counted() {
        let own = (0..=OWN_CODES).map(|n| format!("X-{n}")).collect();
        assert_eq!(Codes::new(own), Err(OWN_CODES + 1));
    }
}
