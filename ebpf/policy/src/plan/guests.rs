//! What another inventory makes of guests without a TPM, in words: a new launch turns away whatever
//! runs as the old one, and a part that is named no more lets in what was turned away.

use std::collections::BTreeSet;

use bailiwick_attestation::NodeId;
use bailiwick_attestation::cvm::GuestIdentity;

use crate::model::edit::launched;
use crate::model::{Inventory, Node};

/// One line for each thing that changes in what a guest is, by name: who is listed, on which chips,
/// and what is launched there. Nothing else of an entry.
#[must_use]
pub fn guests(before: &Inventory, after: &Inventory) -> Vec<String> {
    let all = before.nodes.iter().chain(&after.nodes);
    let names: BTreeSet<&NodeId> = all
        .filter(|node| node.guest.is_some())
        .map(|node| &node.name)
        .collect();
    let mut lines = Vec::new();
    for name in names {
        let (was, is) = (before.by_name(name), after.by_name(name));
        match (was.map(guest), is.map(guest)) {
            (Some(Some(was)), Some(Some(is))) => changed(name, was, is, &mut lines),
            (None, Some(Some(is))) => lines.push(format!("guest {name} is new: {}", words(is))),
            (Some(None), Some(Some(is))) => lines.push(format!(
                "{name} had a TPM, and is a guest without one: {}",
                words(is)
            )),
            (_, Some(None)) => {
                lines.push(format!("{name} was a guest without a TPM, and has one"));
            }
            (_, None) => {
                let why = was.and_then(|was| after.retired(&was.ek));
                let gone = || format!("guest {name} is listed no more");
                lines.push(why.map_or_else(gone, |why| format!("guest {why}")));
            }
        }
    }
    lines
}

const fn guest(node: &Node) -> Option<&GuestIdentity> {
    node.guest.as_ref()
}

/// Another launch that is good beside the first: without it none is, besides.
const NEXT: &str = "next_measurement";

fn words(guest: &GuestIdentity) -> String {
    let launch: Vec<String> = launched(guest)
        .into_iter()
        .map(|(key, value)| format!("{key} {value}"))
        .collect();
    format!("{} on {}", launch.join(", "), guest.chips.join(" or "))
}

fn changed(name: &NodeId, was: &GuestIdentity, is: &GuestIdentity, lines: &mut Vec<String>) {
    for (key, was, is) in parts(was, is) {
        let change = match (was, is) {
            (None, Some(is)) if key == NEXT => format!("{is} is good, too"),
            (Some(was), None) if key == NEXT => format!("{was} is to come no more"),
            (Some(was), Some(is)) => format!("was {was}, is {is}"),
            (Some(was), None) => format!("was {was}, may be any"),
            (None, Some(is)) => format!("was any, is {is}"),
            (None, None) => continue,
        };
        lines.push(format!("guest {name}: {key} {change}"));
    }
    for chip in is.chips.iter().filter(|chip| !was.chips.contains(chip)) {
        lines.push(format!("guest {name}: may run on {chip}, too"));
    }
    for chip in was.chips.iter().filter(|chip| !is.chips.contains(chip)) {
        lines.push(format!("guest {name}: may run on {chip} no more"));
    }
}

/// What differs in two launches, in the order it is written in.
fn parts<'a>(
    was: &'a GuestIdentity,
    is: &'a GuestIdentity,
) -> Vec<(&'static str, Option<&'a str>, Option<&'a str>)> {
    let (was, is) = (launched(was), launched(is));
    let of = |all: &[(&str, &'a str)], key: &str| {
        let mut all = all.iter();
        all.find(|(own, _)| *own == key).map(|(_, value)| *value)
    };
    let gone = was.iter().filter(|(key, _)| of(&is, key).is_none());
    let keys = is.iter().chain(gone).map(|(key, _)| *key);
    keys.map(|key| (key, of(&was, key), of(&is, key)))
        .filter(|(_, was, is)| was != is)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::edit;

    const NODE: &str = "[[node]]\nname = \"n\"\njurisdiction = \"DE\"\n\
                        ek = \"1111111111111111111111111111111111111111111111111111111111111111\"\n";

    fn vm(chips: &[u8], more: &str) -> String {
        let chips: Vec<String> = chips.iter().map(|n| format!("SNP-{n:016x}")).collect();
        format!("[[guest]]\nname = \"vm\"\nchips = {chips:?}\njurisdiction = \"DE\"\n{more}")
    }

    #[test]
    fn a_launch_or_a_chip_that_changes_is_told() {
        let line = |key: &str, digit: char, count: usize| {
            format!("{key} = \"{}\"\n", digit.to_string().repeat(count))
        };
        let m = |digit| line("measurement", digit, 96);
        let data = |digit| line("host_data", digit, 64);
        let key = |image| {
            line("id_key", '4', 96) + &line("family_id", '5', 32) + &line("image_id", image, 32)
        };
        let (one, two) = ("1".repeat(96), "2".repeat(96));
        let eight = "8".repeat(64);
        let (id, family) = ("4".repeat(96), "5".repeat(32));
        let (six, seven) = ("6".repeat(32), "7".repeat(32));
        let chip = |n: u8| format!("SNP-{n:016x}");
        let (a, b) = (chip(1), chip(2));
        let retired = format!(
            "[[retired]]\nname = \"vm\"\nek = \"{}\"\nat = \"2026-11-21T16:00:00Z\"\n\
             reason = \"moved\"\n",
            bailiwick_attestation::evidence::guest_id(&NodeId::new("vm").unwrap())
        );
        let rows: Vec<(&str, String, String, Vec<String>)> = vec![
            ("nothing", vm(&[1], &m('1')), vm(&[1], &m('1')), vec![]),
            (
                "what is no launch",
                vm(&[1], &m('1')),
                vm(&[1], &m('1')) + "place = \"row 4\"\nepoch = 2\n",
                vec![],
            ),
            ("nodes alone", NODE.to_owned(), String::new(), vec![]),
            (
                "a new one",
                NODE.to_owned(),
                NODE.to_owned() + &vm(&[2, 1], &(m('1') + &data('8'))),
                vec![format!(
                    "guest vm is new: measurement {one}, host_data {eight} on {a} or {b}"
                )],
            ),
            (
                "gone",
                vm(&[1], &m('1')),
                String::new(),
                vec!["guest vm is listed no more".to_owned()],
            ),
            (
                "retired",
                vm(&[1], &m('1')),
                retired,
                vec!["guest vm was retired: moved".to_owned()],
            ),
            (
                "a TPM that is gone",
                NODE.replace("\"n\"", "\"vm\""),
                vm(&[1], &m('1')),
                vec![format!(
                    "vm had a TPM, and is a guest without one: measurement {one} on {a}"
                )],
            ),
            (
                "a TPM that is new",
                vm(&[1], &m('1')),
                NODE.replace("\"n\"", "\"vm\""),
                vec!["vm was a guest without a TPM, and has one".to_owned()],
            ),
            (
                "another measurement",
                vm(&[1], &m('1')),
                vm(&[1], &m('2')),
                vec![format!("guest vm: measurement was {one}, is {two}")],
            ),
            (
                "host data more",
                vm(&[1], &m('1')),
                vm(&[1], &(m('1') + &data('8'))),
                vec![format!("guest vm: host_data was any, is {eight}")],
            ),
            (
                "host data less",
                vm(&[1], &(m('1') + &data('8'))),
                vm(&[1], &m('1')),
                vec![format!("guest vm: host_data was {eight}, may be any")],
            ),
            (
                "another image",
                vm(&[1], &key('6')),
                vm(&[1], &key('7')),
                vec![format!("guest vm: image_id was {six}, is {seven}")],
            ),
            (
                "an update that begins",
                vm(&[1], &m('1')),
                vm(&[1], &(m('1') + &line("next_measurement", '2', 96))),
                vec![format!("guest vm: next_measurement {two} is good, too")],
            ),
            (
                "an update that is over",
                vm(&[1], &(m('1') + &line("next_measurement", '2', 96))),
                vm(&[1], &m('2')),
                vec![
                    format!("guest vm: measurement was {one}, is {two}"),
                    format!("guest vm: next_measurement {two} is to come no more"),
                ],
            ),
            (
                "a signer for a measurement",
                vm(&[1], &m('1')),
                vm(&[1], &key('6')),
                vec![
                    format!("guest vm: id_key was any, is {id}"),
                    format!("guest vm: family_id was any, is {family}"),
                    format!("guest vm: image_id was any, is {six}"),
                    format!("guest vm: measurement was {one}, may be any"),
                ],
            ),
            (
                "another chip",
                vm(&[1], &m('1')),
                vm(&[2], &m('1')),
                vec![
                    format!("guest vm: may run on {b}, too"),
                    format!("guest vm: may run on {a} no more"),
                ],
            ),
        ];
        for (name, before, after, want) in rows {
            let read = |text: &str| edit::read(text).unwrap_or_else(|why| panic!("{name}: {why}"));
            assert_eq!(guests(&read(&before), &read(&after)), want, "{name}");
        }
    }
}
