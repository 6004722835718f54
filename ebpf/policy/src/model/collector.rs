//! `collector.toml`: whose leases and checkpoints count.

use bailiwick_attestation::{FileError, TomlFile};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use toml::Spanned;

use super::{COLLECTOR_FILE_LIMIT, CollectorKeys, KEYS_LIMIT, LeaseKey, LogKey, raw};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCollector {
    #[serde(default)]
    lease_key: Vec<RawLeaseKey>,
    #[serde(default)]
    log: Vec<RawLog>,
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
    Ok(keys)
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
