//! Policies that mean more than whoever signed them thought.

use std::collections::BTreeMap;

use anyhow::Result;
use bailiwick_agent::ipc::IpcError;

use super::{DE, DE6, US, US6};
use crate::act::{Shot, Technique};
use crate::play::Play;
use crate::policy::{Terms, study};
use crate::row::Row;

pub(super) const ROWS: &[Row] = &[
    Row::new(
        24,
        "name-in-policy",
        "a name is allowed, and whoever answers for it gives an address",
        name,
    ),
    Row::new(
        25,
        "other-family",
        "all of one family is allowed, and the other opens with it",
        family,
    ),
    Row::new(
        26,
        "table-too-big",
        "more rules than a table holds, and some are lost",
        too_big,
    ),
    Row::new(
        27,
        "selects-nothing",
        "a policy that concerns nobody is taken for one in force",
        nothing,
    ),
];

/// Offers a policy that must be refused; the one before stays in force.
fn refused(play: &mut Play<'_>, what: &str, terms: &Terms) -> Result<()> {
    play.outcome.attempts += 1;
    match play.ground.offer(terms)? {
        Ok(()) => play.outcome.wrong(format!("{what} was taken")),
        Err(IpcError::Refused { code, detail }) => {
            play.outcome
                .stopped_by
                .insert(format!("the policy: {code}"));
            let detail: String = detail.chars().take(160).collect();
            play.outcome.saw(format!("{what}: {code}: {detail}"));
        }
        Err(error) => return Err(error.into()),
    }
    play.attack(Technique::Udp, &Shot::at(US))?;
    play.attack(Technique::Udp, &Shot::at(US6))?;
    play.passes(Technique::Udp, &Shot::at(DE))
}

fn name(play: &mut Play<'_>) -> Result<()> {
    let mut terms = Terms::default();
    terms.prefixes.push("cdn.example".to_owned());
    refused(play, "a prefix that is a name", &terms)?;
    let service = "[[service]]\nname = \"management\"\naddress = \"cdn.example\"\n\
                   protocol = \"udp\"\nports = \"5000\"\n";
    let terms = Terms::default().with("host-fence.toml", service);
    refused(play, "a service that is a name", &terms)
}

fn family(play: &mut Play<'_>) -> Result<()> {
    for (all, closed, open) in [("0.0.0.0/0", US6, US), ("::/0", US, US6)] {
        let terms = Terms {
            jurisdictions: Vec::new(),
            prefixes: vec![all.to_owned()],
            ..Terms::default()
        };
        play.ground.apply(&terms)?;
        play.attack(Technique::Udp, &Shot::at(closed))?;
        play.passes(Technique::Udp, &Shot::at(open))?;
    }
    // A family of which the map knows nothing is nowhere.
    let terms = Terms::default().with("world.csv", "192.0.2.0/24,DE\n");
    play.ground.apply(&terms)?;
    play.attack(Technique::Udp, &Shot::at(DE6))?;
    play.passes(Technique::Udp, &Shot::at(DE))?;
    play.ground.apply(&Terms::default())
}

fn too_big(play: &mut Play<'_>) -> Result<()> {
    // Every other address: none melts into its neighbour.
    let prefixes = (0..40_000_u32).map(|n| {
        let address = std::net::Ipv4Addr::from_bits(0x0b00_0000 + 2 * n);
        format!("{address}/32")
    });
    let terms = Terms {
        prefixes: prefixes.collect(),
        ..Terms::default()
    };
    refused(play, "40,000 prefixes", &terms)
}

fn nothing(play: &mut Play<'_>) -> Result<()> {
    let root = play.ground.root();
    let none = study(&root, "none", "", "jurisdictions = [\"US\"]\n");
    let none = none.replace(&format!("\"{root}/studies/none\""), "");
    let terms = Terms::default().with("studies/none.toml", none);
    refused(play, "a study without a selector", &terms)?;
    // One that meets no cgroup is taken, for its workload may start later; it is told, and nobody
    // is let out by it.
    let late = study(&root, "none", "", "jurisdictions = [\"US\"]\n");
    play.ground
        .apply(&Terms::default().with("studies/none.toml", late))?;
    play.attack(Technique::Udp, &Shot::at(US))?;
    let counters: BTreeMap<String, u64> = play.ground.counters()?;
    play.outcome.saw(format!(
        "a study whose selector meets no cgroup: {}",
        counters
            .iter()
            .filter(|(name, _)| name.contains("select") || name.contains("cgroup"))
            .map(|(name, count)| format!("{name} = {count}"))
            .collect::<Vec<_>>()
            .join(", ")
    ));
    play.ground.apply(&Terms::default())
}
