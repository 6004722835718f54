//! Writes one entry of `inventory.toml`, and leaves every other byte of it alone.
//!
//! Text in, text out: whoever keeps the file under version control sees one entry change. What
//! comes out is read again as an inventory before anybody gets it.

use std::fmt::Write as _;

use bailiwick_attestation::cvm::GuestIdentity;
use bailiwick_attestation::{FileError, NodeId, UnixTime};
use ipnet::IpNet;

use super::confirm::rfc3339;
use super::inventory::{self, Inventory, Node, TPM_KINDS};

/// The file's name in a policy folder.
pub const INVENTORY: &str = "inventory.toml";
const NODE: &str = "[[node]]";
const GUEST: &str = "[[guest]]";

/// An edit that cannot be made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EditRefused {
    /// The file, before or after, is no inventory.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no such node.
    #[error("no node is called {0}")]
    Unknown(NodeId),
    /// The name is a guest's, which is known by something else than a TPM.
    #[error("{0} is a guest without a TPM: retire it first, or choose another name")]
    Guest(NodeId),
    /// The name is that of a node with a TPM, which is known by that.
    #[error("{0} has a TPM: retire it first, or choose another name")]
    Tpm(NodeId),
}

/// Reads an inventory by itself.
pub fn read(text: &str) -> Result<Inventory, FileError> {
    inventory::parse(INVENTORY, text.as_bytes())
}

/// The entry, as TOML.
#[must_use]
pub fn render(node: &Node) -> String {
    let guest = node.guest.as_ref();
    let mut out = String::from(guest.map_or(NODE, |_| GUEST));
    let mut line = |key: &str, value: String| {
        out.push_str(&format!("\n{key} = {value}"));
    };
    let list = |words: Vec<String>| format!("[{}]", words.join(", "));
    line("name", quoted(node.name.as_str()));
    match guest {
        Some(guest) => {
            let chips = guest.chips.iter().map(|chip| quoted(chip));
            line("chips", list(chips.collect()));
            for (key, value) in launched(guest) {
                line(key, quoted(value));
            }
        }
        None => line("ek", quoted(&node.ek.to_string())),
    }
    if let Some(ak) = &node.ak {
        line("ak", quoted(&hex::encode(ak)));
    }
    if let Some(serial) = &node.chassis_serial {
        line("chassis_serial", quoted(serial));
    }
    // A guest's chips have a line of their own.
    let chip = |id: &&String| guest.is_some_and(|guest| guest.chips.contains(id));
    let devices = node.devices.iter().filter(|id| !chip(id));
    let devices: Vec<String> = devices.map(|id| quoted(id)).collect();
    if !devices.is_empty() {
        line("devices", list(devices));
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

/// What has to be launched, as `inventory.toml` spells it.
pub(crate) fn launched(guest: &GuestIdentity) -> Vec<(&'static str, &str)> {
    let launch = &guest.launch;
    let signer = launch.signer.as_ref();
    let all = [
        ("measurement", launch.measurement.as_ref()),
        ("next_measurement", launch.next_measurement.as_ref()),
        ("id_key", signer.map(|key| &key.id_key)),
        ("family_id", signer.map(|key| &key.family)),
        ("image_id", signer.map(|key| &key.image)),
        ("host_data", launch.host_data.as_ref()),
    ];
    let named = all.into_iter();
    named
        .filter_map(|(key, value)| Some((key, value?.as_str())))
        .collect()
}

/// Puts the node's entry where its name stands, else at the end of the nodes.
pub fn put(text: &str, node: &Node) -> Result<String, EditRefused> {
    let before = read(text)?;
    let before = before.by_name(&node.name).map(|node| &node.guest);
    match (before, &node.guest) {
        (Some(Some(_)), None) => return Err(EditRefused::Guest(node.name.clone())),
        (Some(None), Some(_)) => return Err(EditRefused::Tpm(node.name.clone())),
        _ => {}
    }
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
        if !block.starts_with(NODE) && !block.starts_with(GUEST) {
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
    use bailiwick_attestation::cvm::{Launch, LaunchKey};
    use bailiwick_attestation::evidence::guest_id;

    use super::*;
    use crate::model::Confirmed;

    /// Launched in every way there is, but for TDX, whose chips nobody signs for.
    fn guest(name: &str, byte: u8) -> Node {
        let chips = vec![
            format!("SNP-{byte:016x}"),
            format!("SNP-{}", "07".repeat(64)),
        ];
        let hex = |digits| format!("{byte:0digits$x}");
        Node {
            ek: guest_id(&NodeId::new(name).unwrap()),
            ak: None,
            devices: [vec![format!("GPU-{byte}")], chips.clone()].concat(),
            guest: Some(GuestIdentity {
                chips,
                launch: Launch {
                    measurement: Some(hex(96)),
                    next_measurement: None,
                    signer: Some(LaunchKey {
                        id_key: hex(96),
                        family: hex(32),
                        image: hex(32),
                    }),
                    host_data: Some(hex(64)),
                },
            }),
            tpm: None,
            geotags_since: None,
            replaces: None,
            confirmed: None,
            ..node(name, byte)
        }
    }

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
        let launched = |chip: &str, launch: Launch| Node {
            ek: guest_id(&NodeId::new("vm-02").unwrap()),
            devices: vec![chip.to_owned()],
            guest: Some(GuestIdentity {
                chips: vec![chip.to_owned()],
                launch,
            }),
            ..Node {
                name: NodeId::new("vm-02").unwrap(),
                ..small.clone()
            }
        };
        let whole = guest("vm-01", 1);
        let launch = whole.guest.clone().unwrap().launch;
        let signed = Launch {
            measurement: None,
            next_measurement: None,
            host_data: None,
            ..launch.clone()
        };
        let measured = Launch {
            signer: None,
            host_data: Some("0".repeat(96)),
            ..launch
        };
        let all = [
            node("gpu-01", 1),
            whole,
            launched("SNP-0000000000000001", signed),
            launched("TDX-00000000000000000000000000000001", measured),
            small,
        ];
        for node in all {
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
    fn a_guests_entry_is_changed_and_retired_as_a_nodes_is() {
        let (first, second) = (render(&guest("vm-01", 1)), render(&guest("vm-02", 2)));
        let text = format!("# ours\n{first}\n# the second\n{second}\n# a node\n");
        let text = text + &render(&node("gpu-03", 3));
        let moved = Node {
            place: Some("row 4".to_owned()),
            ..guest("vm-01", 1)
        };
        let out = put(&text, &moved).unwrap();
        assert_eq!(out, text.replace(&first, &render(&moved)));
        let third = put(&text, &guest("vm-04", 4)).unwrap();
        assert_eq!(third, format!("{text}\n{}", render(&guest("vm-04", 4))));

        let out = retire(&text, &moved.name, UnixTime(1_795_276_800_000), "moved").unwrap();
        let inventory = read(&out).unwrap();
        assert_eq!(inventory.by_name(&moved.name), None);
        assert_eq!(
            inventory.retired(&guest_id(&moved.name)).as_deref(),
            Some("vm-01 was retired: moved")
        );
        let rest = format!("# ours\n# the second\n{second}\n# a node\n");
        assert!(out.starts_with(&rest), "{out}");
        // It is known by its name, which is out of service.
        let again = put(&out, &moved).unwrap_err().to_string();
        assert!(again.contains("is out of service"), "{again}");
    }

    #[test]
    fn what_would_be_no_inventory_is_not_written() {
        let text = render(&node("gpu-01", 1));
        let twin = Node {
            name: NodeId::new("gpu-02").unwrap(),
            ..node("gpu-01", 1)
        };
        let vm = guest("vm-01", 1);
        let guests = render(&vm);
        let same_launch = Node {
            name: NodeId::new("vm-02").unwrap(),
            ek: guest_id(&NodeId::new("vm-02").unwrap()),
            devices: Vec::new(),
            addresses: Vec::new(),
            chassis_serial: None,
            ..vm.clone()
        };
        let with_ak = Node {
            ak: node("vm-01", 1).ak,
            ..vm.clone()
        };
        let cases: [(&str, Result<String, EditRefused>, &str); 9] = [
            (
                "a node in a guest's place",
                put(&guests, &node("vm-01", 1)),
                "vm-01 is a guest without a TPM: retire it first, or choose another name",
            ),
            (
                "a guest in a node's place",
                put(&text, &guest("gpu-01", 1)),
                "gpu-01 has a TPM: retire it first, or choose another name",
            ),
            (
                "a guest that is another one",
                put(&guests, &same_launch),
                "inventory.toml:",
            ),
            ("a guest with an AK", put("", &with_ak), "inventory.toml:"),
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
