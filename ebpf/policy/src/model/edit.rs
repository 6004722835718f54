//! Writes one entry of `inventory.toml`, and leaves every other byte of it alone.
//!
//! Text in, text out: whoever keeps the file under version control sees one entry change. What
//! comes out is read again as an inventory before anybody gets it.

use std::fmt::Write as _;

use bailiwick_attestation::{FileError, NodeId, UnixTime};
use ipnet::IpNet;

use super::confirm::rfc3339;
use super::inventory::{self, Inventory, Node, TPM_KINDS};

/// The file's name in a policy folder.
pub const INVENTORY: &str = "inventory.toml";
const NODE: &str = "[[node]]";

/// An edit that cannot be made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EditRefused {
    /// The file, before or after, is no inventory.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no such node.
    #[error("no node is called {0}")]
    Unknown(NodeId),
}

/// Reads an inventory by itself.
pub fn read(text: &str) -> Result<Inventory, FileError> {
    inventory::parse(INVENTORY, text.as_bytes())
}

/// The entry, as TOML.
#[must_use]
pub fn render(node: &Node) -> String {
    let mut out = String::from(NODE);
    let mut line = |key: &str, value: String| {
        out.push_str(&format!("\n{key} = {value}"));
    };
    let list = |words: Vec<String>| format!("[{}]", words.join(", "));
    line("name", quoted(node.name.as_str()));
    line("ek", quoted(&node.ek.to_string()));
    if let Some(ak) = &node.ak {
        line("ak", quoted(&hex::encode(ak)));
    }
    if let Some(serial) = &node.chassis_serial {
        line("chassis_serial", quoted(serial));
    }
    if !node.devices.is_empty() {
        line(
            "devices",
            list(node.devices.iter().map(|id| quoted(id)).collect()),
        );
    }
    if let Some(place) = &node.place {
        line("place", quoted(place));
    }
    line("jurisdiction", quoted(node.jurisdiction.as_str()));
    if !node.addresses.is_empty() {
        let ranges = node.addresses.iter().map(IpNet::to_string);
        line(
            "addresses",
            list(ranges.map(|range| quoted(&range)).collect()),
        );
    }
    if node.epoch > 0 {
        line("epoch", node.epoch.to_string());
    }
    let word = |kind| TPM_KINDS.iter().find(|(_, own)| *own == kind);
    if let Some((word, _)) = node.tpm.and_then(word) {
        line("tpm", quoted(word));
    }
    if let Some(since) = node.geotags_since {
        line("geotags_since", quoted(&rfc3339(since)));
    }
    if let Some(replaces) = &node.replaces {
        line("replaces", quoted(&replaces.to_string()));
    }
    if let Some(confirmed) = &node.confirmed {
        out.push_str("\n[node.confirmed]");
        let signature = confirmed.signature.trim_end();
        let rest = [
            ("by", quoted(&confirmed.by)),
            ("at", quoted(&rfc3339(confirmed.at))),
            ("signature", format!("\"\"\"\n{signature}\n\"\"\"")),
        ];
        for (key, value) in rest {
            out.push_str(&format!("\n{key} = {value}"));
        }
    }
    out.push('\n');
    out
}

/// Puts the node's entry where its name stands, else at the end of the nodes.
pub fn put(text: &str, node: &Node) -> Result<String, EditRefused> {
    read(text)?;
    let entry = render(node);
    let out = match find(text, &node.name) {
        Some((before, after)) => format!("{before}{entry}{after}"),
        None => {
            let mut out = text.trim_end().to_owned();
            if !out.is_empty() {
                out.push_str("\n\n");
            }
            out + &entry
        }
    };
    read(&out)?;
    Ok(out)
}

/// Takes the node's entry out and says so in a `[[retired]]` one.
pub fn retire(
    text: &str,
    name: &NodeId,
    at: UnixTime,
    reason: &str,
) -> Result<String, EditRefused> {
    let inventory = read(text)?;
    let unknown = || EditRefused::Unknown(name.clone());
    let node = inventory.by_name(name).ok_or_else(unknown)?;
    let (before, after) = find(text, name).ok_or_else(unknown)?;
    let mut out = format!("{before}{}", after.trim_start_matches('\n'));
    out.truncate(out.trim_end().len());
    if !out.is_empty() {
        out.push_str("\n\n");
    }
    // A String takes whatever is written to it.
    let written = writeln!(
        out,
        "[[retired]]\nname = {}\nek = {}\nat = {}\nreason = {}",
        quoted(name.as_str()),
        quoted(&node.ek.to_string()),
        quoted(&rfc3339(at)),
        quoted(reason),
    );
    debug_assert!(written.is_ok());
    read(&out)?;
    Ok(out)
}

/// What stands before and after the entry of this name. Comments and empty lines behind an entry
/// belong to the next one.
fn find<'t>(text: &'t str, name: &NodeId) -> Option<(&'t str, &'t str)> {
    let starts: Vec<usize> = line_starts(text)
        .filter(|(_, line)| line.starts_with("[["))
        .map(|(at, _)| at)
        .collect();
    let ends = starts.iter().copied().skip(1).chain([text.len()]);
    for (start, end) in starts.iter().copied().zip(ends) {
        let block = text.get(start..end)?;
        if !block.starts_with(NODE) {
            continue;
        }
        let named = read(block).is_ok_and(|inventory| inventory.by_name(name).is_some());
        if named {
            let kept: usize = line_starts(block)
                .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
                .map(|(at, line)| at + line.len())
                .last()?;
            return Some((text.get(..start)?, text.get(start + kept..)?));
        }
    }
    None
}

/// Lines with their ends, and where each begins.
fn line_starts(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split_inclusive('\n').scan(0, |at, line| {
        let start = *at;
        *at += line.len();
        Some((start, line))
    })
}

/// A basic string; what is signed holds no control character, so two escapes are all there are.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use bailiwick_attestation::Sha256Digest;
    use bailiwick_attestation::appraisal::TpmKind;

    use super::*;
    use crate::model::Confirmed;

    fn node(name: &str, byte: u8) -> Node {
        Node {
            name: NodeId::new(name).unwrap(),
            ek: Sha256Digest([byte; 32]),
            ak: Some([&[0, 0x0b][..], &[byte; 32]].concat()),
            chassis_serial: Some(format!("S\"{byte}\\")),
            devices: vec![format!("GPU-{byte}")],
            place: Some("row 3".to_owned()),
            jurisdiction: "DE".to_owned().try_into().unwrap(),
            addresses: vec![format!("10.9.{byte}.0/24").parse().unwrap()],
            epoch: 4,
            tpm: Some(TpmKind::Virtual),
            guest: None,
            geotags_since: Some(UnixTime(1_795_276_800_000)),
            replaces: Some(Sha256Digest([byte + 100; 32])),
            confirmed: Some(Confirmed {
                by: "alice".to_owned(),
                at: UnixTime(1_795_276_800_000),
                signature: "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n"
                    .to_owned(),
            }),
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let small = Node {
            ak: None,
            chassis_serial: None,
            devices: Vec::new(),
            place: None,
            addresses: Vec::new(),
            epoch: 0,
            tpm: None,
            guest: None,
            geotags_since: None,
            replaces: None,
            confirmed: None,
            ..node("gpu-02", 2)
        };
        for node in [node("gpu-01", 1), small] {
            let inventory = read(&render(&node)).unwrap();
            assert_eq!(inventory.nodes, [node]);
        }
    }

    #[test]
    fn one_entry_changes_and_nothing_else() {
        let head = "# ours\n";
        let (first, second) = (render(&node("gpu-01", 1)), render(&node("gpu-02", 2)));
        let tail = "[[retired]]\nname = \"gpu-00\"\nek = \"9999999999999999999999999999999999999999999999999999999999999999\"\nat = \"2026-01-01T00:00:00Z\"\nreason = \"sold\"\n";
        let text = format!("{head}{first}\n# the second\n{second}\n# gone\n{tail}");
        let moved = Node {
            place: Some("row 4".to_owned()),
            ..node("gpu-01", 1)
        };
        let out = put(&text, &moved).unwrap();
        let want = format!(
            "{head}{}\n# the second\n{second}\n# gone\n{tail}",
            render(&moved)
        );
        assert_eq!(out, want);

        let third = put(&text, &node("gpu-03", 3)).unwrap();
        assert_eq!(third, format!("{text}\n{}", render(&node("gpu-03", 3))));
        assert_eq!(put("", &moved).unwrap(), render(&moved));

        let at = UnixTime(1_795_276_800_000);
        let out = retire(&text, &moved.name, at, "board \"3\"").unwrap();
        let inventory = read(&out).unwrap();
        assert_eq!(inventory.by_name(&moved.name), None);
        assert_eq!(
            inventory.retired(&moved.ek).as_deref(),
            Some("gpu-01 was retired: board \"3\"")
        );
        assert!(
            out.contains(&second) && out.starts_with("# ours\n# the second\n"),
            "{out}"
        );
    }

    #[test]
    fn what_would_be_no_inventory_is_not_written() {
        let text = render(&node("gpu-01", 1));
        let twin = Node {
            name: NodeId::new("gpu-02").unwrap(),
            ..node("gpu-01", 1)
        };
        let cases: [(&str, Result<String, EditRefused>, &str); 5] = [
            ("a TPM twice", put(&text, &twin), "inventory.toml:"),
            ("no inventory before", put("x", &twin), "inventory.toml:"),
            (
                "a node nobody knows",
                retire(&text, &twin.name, UnixTime(0), "why"),
                "no node is called gpu-02",
            ),
            (
                "no reason",
                retire(&text, &node("gpu-01", 1).name, UnixTime(0), ""),
                "inventory.toml:",
            ),
            (
                "a reason of two lines",
                retire(&text, &node("gpu-01", 1).name, UnixTime(0), "a\nb"),
                "inventory.toml:",
            ),
        ];
        for (name, got, want) in cases {
            let said = got.unwrap_err().to_string();
            assert!(said.starts_with(want), "{name}: {said}");
        }
    }
}
