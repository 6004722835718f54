//! `collector.toml`: the collector's keys, as approvers know them.
//!
//! A key that is rotated stands here twice for a while, the old beside the new; one that leaves
//! counts no more with the next policy. One that somebody else may hold stays, marked `revoked`:
//! who looks back years later has to know since when its word is worth nothing.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use bailiwick_attestation::tlog::{self, NoteVerifier};
use bailiwick_attestation::{FileError, Sha256Digest, Term, TomlFile, standing};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use toml::Spanned;

use super::inventory::instant;
use super::{
    COLLECTOR_FILE_LIMIT, CaKey, CollectorKeys, KEYS_LIMIT, LeaseKey, LogKey, StoreKey, raw,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCollector {
    #[serde(default)]
    lease_key: Vec<RawLeaseKey>,
    #[serde(default)]
    log: Vec<RawLog>,
    #[serde(default)]
    key_store: Vec<RawStoreKey>,
    #[serde(default)]
    ca: Vec<RawCa>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStoreKey {
    id: Spanned<String>,
    p256: Spanned<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLeaseKey {
    id: Spanned<String>,
    ed25519: Spanned<String>,
    not_before: Option<Spanned<String>>,
    not_after: Option<Spanned<String>>,
    revoked: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCa {
    id: Spanned<String>,
    spki: Spanned<String>,
    not_before: Option<Spanned<String>>,
    not_after: Option<Spanned<String>>,
    revoked: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLog {
    origin: Spanned<String>,
    vkey: Spanned<String>,
    not_before: Option<Spanned<String>>,
    not_after: Option<Spanned<String>>,
    revoked: Option<Spanned<String>>,
}

type Bound = Option<Spanned<String>>;

fn term(
    file: &TomlFile<'_>,
    not_before: &Bound,
    not_after: &Bound,
    revoked: &Bound,
) -> Result<Term, FileError> {
    let at = |bound: &Bound| bound.as_ref().map(|text| instant(file, text)).transpose();
    let term = Term {
        not_before: at(not_before)?,
        not_after: at(not_after)?,
        revoked: at(revoked)?,
    };
    if let (Some(from), Some(until), Some(text)) = (term.not_before, term.not_after, not_after)
        && from >= until
    {
        return Err(file.error(text.span(), "ends before it begins"));
    }
    Ok(term)
}

/// Reads the collector's keys by themselves.
pub(super) fn parse(path: &str, bytes: &[u8]) -> Result<CollectorKeys, FileError> {
    let file = TomlFile::new(path, bytes, COLLECTOR_FILE_LIMIT)?;
    let raw: RawCollector = file.parse()?;
    if let Some(extra) = raw.lease_key.get(KEYS_LIMIT) {
        let fault = format!("more than {KEYS_LIMIT} lease keys");
        return Err(file.error(extra.id.span(), fault));
    }
    if let Some(extra) = raw.log.get(KEYS_LIMIT) {
        let fault = format!("more than {KEYS_LIMIT} logs");
        return Err(file.error(extra.origin.span(), fault));
    }
    let mut keys = CollectorKeys::default();
    for entry in &raw.lease_key {
        let id =
            raw::name(entry.id.get_ref()).map_err(|fault| file.error(entry.id.span(), fault))?;
        let ed25519 = STANDARD.decode(entry.ed25519.get_ref()).ok();
        let Some(ed25519) = ed25519.and_then(|bytes| bytes.try_into().ok()) else {
            let fault = "is no Ed25519 public key: 32 bytes in base64";
            return Err(file.error(entry.ed25519.span(), fault));
        };
        if keys
            .lease_keys
            .iter()
            .any(|key| key.id == id || key.ed25519 == ed25519)
        {
            return Err(file.error(entry.id.span(), "id or key is named twice"));
        }
        let term = term(&file, &entry.not_before, &entry.not_after, &entry.revoked)?;
        keys.lease_keys.push(LeaseKey { id, ed25519, term });
    }
    for entry in &raw.log {
        let (origin, vkey) = (entry.origin.get_ref(), entry.vkey.get_ref());
        let plain = |c: char| !c.is_control() && !c.is_whitespace() && c != '+';
        if origin.is_empty() || origin.len() > 255 || !origin.chars().all(plain) {
            let fault = "an origin has 1 to 255 bytes, no spaces and no '+'";
            return Err(file.error(entry.origin.span(), fault));
        }
        if vkey_name(vkey) != Some(origin) {
            let fault = format!("is no verifier key of {origin}: NAME+HASH+BASE64 of that name");
            return Err(file.error(entry.vkey.span(), fault));
        }
        if keys.logs.iter().any(|log| log.vkey == *vkey) {
            return Err(file.error(entry.vkey.span(), "is named twice"));
        }
        keys.logs.push(LogKey {
            origin: origin.clone(),
            vkey: vkey.clone(),
            term: term(&file, &entry.not_before, &entry.not_after, &entry.revoked)?,
        });
    }
    for entry in &raw.ca {
        let (id, spki) = (&entry.id, &entry.spki);
        if keys.cas.len() == KEYS_LIMIT {
            return Err(file.error(id.span(), format!("more than {KEYS_LIMIT} CAs")));
        }
        let name = raw::name(id.get_ref()).map_err(|fault| file.error(id.span(), fault))?;
        let digest = Sha256Digest::try_from(spki.get_ref().clone())
            .map_err(|_fault| file.error(spki.span(), "is no SHA-256: 64 hex digits"))?;
        if keys.cas.iter().any(|ca| ca.id == name || ca.spki == digest) {
            return Err(file.error(id.span(), "id or key is named twice"));
        }
        keys.cas.push(CaKey {
            id: name,
            spki: digest,
            term: term(&file, &entry.not_before, &entry.not_after, &entry.revoked)?,
        });
    }
    for entry in &raw.key_store {
        let (id, p256) = (&entry.id, &entry.p256);
        if keys.key_stores.len() == KEYS_LIMIT {
            return Err(file.error(id.span(), format!("more than {KEYS_LIMIT} key stores")));
        }
        let name = raw::name(id.get_ref()).map_err(|fault| file.error(id.span(), fault))?;
        let Some(point) = point(p256.get_ref()) else {
            let fault = "is no P-256 public key: 65 bytes, uncompressed, in base64";
            return Err(file.error(p256.span(), fault));
        };
        let known = |key: &StoreKey| key.id == name || key.p256 == point;
        if keys.key_stores.iter().any(known) {
            return Err(file.error(id.span(), "id or key is named twice"));
        }
        keys.key_stores.push(StoreKey {
            id: name,
            p256: point,
        });
    }
    Ok(keys)
}

impl CollectorKeys {
    /// Reads `collector.toml` by itself.
    pub fn parse(bytes: &[u8]) -> Result<Self, FileError> {
        parse("collector.toml", bytes)
    }

    /// The lease keys, as leases are checked with them.
    #[must_use]
    pub fn standing_keys(&self) -> Vec<standing::LeaseKey> {
        let keys = self.lease_keys.iter().map(|key| standing::LeaseKey {
            id: key.id.clone(),
            ed25519: key.ed25519,
            term: key.term,
        });
        keys.collect()
    }

    /// The log keys of the one algorithm known here, as receipts are checked with them.
    #[must_use]
    pub fn receipt_keys(&self) -> Vec<tlog::LogKey> {
        self.logs.iter().filter_map(LogKey::key).collect()
    }
}

impl LogKey {
    /// As receipts are checked with it; none for an algorithm not known here.
    #[must_use]
    pub fn key(&self) -> Option<tlog::LogKey> {
        let verifier = NoteVerifier::parse(&self.vkey).ok()?;
        let term = self.term;
        Some(tlog::LogKey { verifier, term })
    }
}

/// A point on the curve. SEC 1, 2.3.3, uncompressed.
fn point(text: &str) -> Option<[u8; 65]> {
    let bytes: [u8; 65] = STANDARD.decode(text).ok()?.try_into().ok()?;
    ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, bytes).ok()?;
    (bytes.first() == Some(&4)).then_some(bytes)
}

/// The name in a verifier key of the right shape; whoever checks a note checks the key itself.
/// C2SP signed-note, "Verifier keys".
fn vkey_name(vkey: &str) -> Option<&str> {
    let mut parts = vkey.splitn(3, '+');
    let (name, hash, key) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = hash.len() == 8 && hash.bytes().all(|b| b.is_ascii_hexdigit());
    let key = STANDARD.decode(key).ok()?;
    // One byte of algorithm and a key; a post-quantum key has some two thousand bytes.
    (hex && (33..=4096).contains(&key.len())).then_some(name)
}

#[cfg(test)]
mod tests {
    use bailiwick_attestation::UnixTime;

    use super::*;

    /// The generator of the curve, SEC 2, 2.4.2.
    const POINT: &str =
        "BGsX0fLhLEJH+Lzm5WOkQPJ3A32BLeszoPShOUXYmMKWT+NC4v4af5uO5+tKfA+eFivOM1drMV7Oy7ZAaDe/UfU=";

    #[test]
    fn keys_have_terms_and_a_log_has_several() {
        const A: &str = "log.example/eu+5d7e8ee4+AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB";
        const B: &str = "log.example/eu+5d7e8ee5+AQICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIC";
        let log = |vkey: &str, more: &str| {
            format!("[[log]]\norigin = \"log.example/eu\"\nvkey = \"{vkey}\"\n{more}")
        };
        let ca = |id: &str, digit: &str, more: &str| {
            format!(
                "[[ca]]\nid = \"{id}\"\nspki = \"{}\"\n{more}",
                digit.repeat(64)
            )
        };
        let read = |text: &str| CollectorKeys::parse(text.as_bytes());
        let span = "not_before = \"2027-01-01T00:00:00Z\"\nnot_after = \"2027-01-02T00:00:00Z\"\n";
        let gone = "revoked = \"2027-01-01T00:00:01Z\"\n";
        let keys = read(
            &[
                log(A, gone),
                log(B, span),
                ca("one", "a", gone),
                ca("two", "b", ""),
            ]
            .concat(),
        );
        let keys = keys.unwrap();
        let new_year = UnixTime::from_secs(1_798_761_600);
        assert_eq!(keys.logs.len(), 2);
        assert_eq!(
            keys.logs[0].term.revoked,
            Some(UnixTime(new_year.millis() + 1000))
        );
        assert_eq!(keys.logs[1].term.not_before, Some(new_year));
        assert_eq!(keys.cas[1].spki, Sha256Digest([0xbb; 32]));
        assert_eq!(keys.cas[1].term, Term::default());
        assert!(keys.cas[0].term.revoked.is_some());
        let rows = [
            (
                "one key twice",
                log(A, "") + &log(A, gone),
                "collector.toml:6: log.vkey: is named twice",
            ),
            (
                "backwards",
                log(
                    A,
                    "not_before = \"2027-01-02T00:00:00Z\"\nnot_after = \"2027-01-02T00:00:00Z\"\n",
                ),
                "collector.toml:5: log.not_after: ends before it begins",
            ),
            (
                "no time",
                log(A, "revoked = \"yesterday\"\n"),
                "collector.toml:4: log.revoked: is no time: 2027-01-01T00:00:00Z",
            ),
            (
                "one CA under two names",
                ca("one", "a", "") + &ca("two", "a", ""),
                "collector.toml:5: ca.id: id or key is named twice",
            ),
            (
                "one name for two CAs",
                ca("one", "a", "") + &ca("one", "b", ""),
                "collector.toml:5: ca.id: id or key is named twice",
            ),
            (
                "no digest",
                ca("one", "", ""),
                "collector.toml:3: ca.spki: is no SHA-256: 64 hex digits",
            ),
        ];
        for (name, text, want) in rows {
            assert_eq!(read(&text).unwrap_err().to_string(), want, "{name}");
        }
    }

    #[test]
    fn key_stores_have_points_of_the_curve() {
        let entry =
            |id: &str, point: &str| format!("[[key_store]]\nid = \"{id}\"\np256 = \"{point}\"\n");
        let read = |text: &str| parse("collector.toml", text.as_bytes());
        let keys = read(&entry("store-2026", POINT)).unwrap().key_stores;
        assert_eq!((keys.len(), keys[0].id.as_str()), (1, "store-2026"));
        assert_eq!(STANDARD.encode(keys[0].p256), POINT);
        let rows = [
            (
                "beside the curve",
                entry(
                    "a",
                    "BGsX0fLhLEJH+Lzm5WOkQPJ3A32BLeszoPShOUXYmMKWT+NC4v4af5uO5+tKfA+eFivOM1drMV7Oy7ZAaDe/UfQ=",
                ),
                "collector.toml:3: key_store.p256: is no P-256 public key: 65 bytes, uncompressed, in base64",
            ),
            (
                "one byte short",
                entry(
                    "a",
                    "BGsX0fLhLEJH+Lzm5WOkQPJ3A32BLeszoPShOUXYmMKWT+NC4v4af5uO5+tKfA+eFivOM1drMV7Oy7ZAaDe/UQ==",
                ),
                "collector.toml:3: key_store.p256: is no P-256 public key: 65 bytes, uncompressed, in base64",
            ),
            (
                "one key under two names",
                entry("a", POINT) + &entry("b", POINT),
                "collector.toml:5: key_store.id: id or key is named twice",
            ),
            (
                "a name that is none",
                entry("a b", POINT),
                "collector.toml:2: key_store.id: \"a b\" may hold only a-z, 0-9, '-' and '.'",
            ),
        ];
        for (name, text, want) in rows {
            assert_eq!(read(&text).unwrap_err().to_string(), want, "{name}");
        }
    }
}
