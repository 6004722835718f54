//! What the README says of a packet, asked of the verdict function row by row.
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

mod host;
mod packet;
mod table;

use std::collections::BTreeMap;

use host::Host;

#[test]
fn every_row_is_answered_as_the_readme_says() {
    let host = Host::new("/studies");
    let documented = table::documented();
    let rows = table::rows();
    let mut wanted: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, verdict) in &documented {
        assert!(
            wanted.insert(name, verdict).is_none(),
            "{name} stands there twice"
        );
    }
    let mut parted = Vec::new();
    for row in &rows {
        let got = host.verdict(&row.packet.bytes(row.state.ingress), row.state);
        let got = table::spelled(got.action, got.rule);
        match wanted.remove(row.name) {
            Some(want) if want == got => {}
            want => parted.push(format!("{}: {got}, and the README says {want:?}", row.name)),
        }
    }
    assert!(parted.is_empty(), "{}", parted.join("\n"));
    assert!(wanted.is_empty(), "no packet is sent for {wanted:?}");
    let sent: Vec<&str> = rows.iter().map(|row| row.name).collect();
    let told: Vec<&str> = documented.iter().map(|(name, _)| *name).collect();
    assert_eq!(sent, told, "one order");
}
