//! `inventory.toml`: which TPM is which node.

use std::collections::BTreeSet;

use bailiwick_attestation::{FileError, NodeId, Sha256Digest, TomlFile};
use serde::Deserialize;
use toml::Spanned;

use super::{INVENTORY_FILE_LIMIT, Inventory, NODES_LIMIT, Node, raw};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawInventory {
    #[serde(default)]
    node: Vec<RawNode>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    name: Spanned<String>,
    ek: Spanned<String>,
    ak: Option<Spanned<String>>,
    chassis_serial: Option<Spanned<String>>,
    place: Option<Spanned<String>>,
    jurisdiction: Spanned<String>,
}

/// Reads the inventory by itself. What identifies a node identifies one node.
pub(super) fn parse(path: &str, bytes: &[u8]) -> Result<Inventory, FileError> {
    let file = TomlFile::new(path, bytes, INVENTORY_FILE_LIMIT)?;
    let raw: RawInventory = file.parse()?;
    if let Some(extra) = raw.node.get(NODES_LIMIT) {
        let fault = format!("more than {NODES_LIMIT} nodes");
        return Err(file.error(extra.name.span(), fault));
    }
    let mut seen = BTreeSet::new();
    let mut nodes = Vec::with_capacity(raw.node.len());
    for entry in &raw.node {
        nodes.push(node(&file, entry)?);
        let identities = [
            ("node", Some(&entry.name)),
            ("EK", Some(&entry.ek)),
            ("AK", entry.ak.as_ref()),
            ("chassis serial", entry.chassis_serial.as_ref()),
        ];
        for (kind, text) in identities {
            if let Some(text) = text
                && !seen.insert((kind, text.get_ref().as_str()))
            {
                let fault = format!("{kind} {:?} is named twice", text.get_ref());
                return Err(file.error(text.span(), fault));
            }
        }
    }
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Inventory { nodes })
}

fn node(file: &TomlFile<'_>, raw: &RawNode) -> Result<Node, FileError> {
    let at = |text: &Spanned<String>, fault: &str| {
        file.error(text.span(), format!("{:?} {fault}", text.get_ref()))
    };
    let name = NodeId::new(raw.name.get_ref()).map_err(|err| at(&raw.name, err.fault))?;
    let ek =
        Sha256Digest::try_from(raw.ek.get_ref().clone()).map_err(|err| at(&raw.ek, err.fault))?;
    let ak = match &raw.ak {
        None => None,
        Some(text) => match ak_name(text.get_ref()) {
            Some(name) => Some(name),
            None => {
                let fault = "is no name of a key: 68 or 100 lower-case hexadecimal digits, \
                             beginning with 000b or 000c";
                return Err(at(text, fault));
            }
        },
    };
    let jurisdiction = raw::jurisdiction(raw.jurisdiction.get_ref())
        .map_err(|fault| file.error(raw.jurisdiction.span(), fault))?;
    let words = |text: &Option<Spanned<String>>| match text {
        None => Ok(None),
        Some(text) => {
            let plain = text.get_ref();
            // DMI strings and rack names; whatever is shown in a table or a label.
            if plain.is_empty() || plain.len() > 200 || plain.chars().any(char::is_control) {
                return Err(at(
                    text,
                    "must have 1 to 200 bytes and no control characters",
                ));
            }
            Ok(Some(plain.clone()))
        }
    };
    Ok(Node {
        name,
        ek,
        ak,
        chassis_serial: words(&raw.chassis_serial)?,
        place: words(&raw.place)?,
        jurisdiction,
    })
}

/// `TPMT_HA`: algorithm and digest. TPM 2.0 Library Part 1, "Names".
fn ak_name(text: &str) -> Option<Vec<u8>> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    let name = hex::decode(text).ok()?;
    let sound = match name.get(..2)? {
        [0, 0x0b] => name.len() == 34,
        [0, 0x0c] => name.len() == 50,
        _ => false,
    };
    sound.then_some(name)
}
