//! `collector.toml`: the collector's keys, as approvers know them.
//!
//! A key that is rotated stands here twice for a while, the old beside the new; one that leaves
//! counts no more with the next policy.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use bailiwick_attestation::{FileError, TomlFile};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use toml::Spanned;

use super::{COLLECTOR_FILE_LIMIT, CollectorKeys, KEYS_LIMIT, LeaseKey, LogKey, StoreKey, raw};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCollector {
    #[serde(default)]
    lease_key: Vec<RawLeaseKey>,
    #[serde(default)]
    log: Vec<RawLog>,
    #[serde(default)]
    key_store: Vec<RawStoreKey>,
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
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLog {
    origin: Spanned<String>,
    vkey: Spanned<String>,
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
        keys.lease_keys.push(LeaseKey { id, ed25519 });
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
        if keys.logs.iter().any(|log| log.origin == *origin) {
            return Err(file.error(
                entry.origin.span(),
                format!("log {origin:?} is named twice"),
            ));
        }
        keys.logs.push(LogKey {
            origin: origin.clone(),
            vkey: vkey.clone(),
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
    use super::*;

    /// The generator of the curve, SEC 2, 2.4.2.
    const POINT: &str =
        "BGsX0fLhLEJH+Lzm5WOkQPJ3A32BLeszoPShOUXYmMKWT+NC4v4af5uO5+tKfA+eFivOM1drMV7Oy7ZAaDe/UfU=";

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
