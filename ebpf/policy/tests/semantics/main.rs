//! What the README says of a packet, asked of the verdict function row by row.
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of #[test]")]

mod packet;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use bailiwick_attestation::Sha256Digest;
use bailiwick_ebpf_common::verdict::{keeps_up, served};
use bailiwick_ebpf_common::{Flow, PolicyImage, Question, Verdict, Whose, WorldImage, judge};
use bailiwick_policy::bundle::{WorldKind, WorldSource};
use bailiwick_policy::image::{compile, subjects};
use bailiwick_policy::model::{Files, Model};
use bailiwick_policy::world::World;

use table::{From, Row};

struct Policy {
    model: Model,
    image: Box<PolicyImage>,
    world: Box<WorldImage>,
}

fn policy() -> Policy {
    let files = table::files("/studies");
    let of = |path: &str| {
        let found = files.iter().find(|(name, _)| *name == path);
        found.map_or(&b""[..], |(_, text)| text.as_bytes())
    };
    let studies: Vec<(&str, &[u8])> = files
        .iter()
        .filter(|(path, _)| path.starts_with("studies/"))
        .map(|(path, text)| (*path, text.as_bytes()))
        .collect();
    let model = Model::parse(&Files {
        studies: &studies,
        host_fence: of("host-fence.toml"),
        sites: of("sites.toml"),
        inventory: b"",
        collector: b"",
        profile: b"name=\"p\"\nlease_seconds=1\nmax_silence_seconds=1\n\
                   tpm={bank=\"sha256\",require=[0]}\n",
    })
    .unwrap();
    let source = WorldSource {
        kind: WorldKind::Csv,
        bytes: Arc::new(table::WORLD.as_bytes().to_vec()),
    };
    let world = World::compile(&source, &model.sites).unwrap();
    let image = compile(&model, &world.codes, 1, &Sha256Digest([7; 32])).unwrap();
    Policy {
        world: world.image(1),
        model,
        image,
    }
}

impl Policy {
    fn verdict(&self, row: &Row) -> Verdict {
        let bytes = row.packet.bytes(row.ingress);
        let flow = match Flow::parse(bytes.as_slice()) {
            Ok(flow) => flow,
            Err(fault) => return Verdict::deny(fault.rule()),
        };
        let whose = match row.from {
            From::Named(name) => {
                let all = subjects(&self.model);
                let at = all.iter().position(|who| who.name() == name).unwrap();
                Whose::Subject(u32::try_from(at).unwrap())
            }
            From::Nobody => Whose::Nobody,
            From::Unmarked => Whose::Unmarked,
            From::Kernel => served(&self.image, &flow, row.ingress, 0),
        };
        judge(&Question {
            world: Some(&self.world),
            policy: &self.image,
            line: row.line,
            whose,
            translated: row.translated,
            attested: row.lease,
            peer: row.signed,
            ingress: row.ingress,
            essential: keeps_up(&self.image, &flow, row.ingress),
            loopback: row.loopback,
            flow: &flow,
            zero: 0,
        })
    }
}

/// Name and verdict of each row under "Row by row", in order.
fn documented() -> Vec<(&'static str, &'static str)> {
    let readme = include_str!("../../README.md");
    let (_, section) = readme.split_once("\n## Row by row\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let name = cells.next()?.strip_suffix('`')?;
        let verdict = cells.nth(1)?.strip_suffix(" |")?;
        Some((name, verdict))
    });
    rows.collect()
}

#[test]
fn every_row_is_answered_as_the_readme_says() {
    let policy = policy();
    let documented = documented();
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
        let got = policy.verdict(row);
        let got = table::spelled(got.action, got.rule);
        match wanted.remove(row.name) {
            Some(want) if want == got => {}
            want => parted.push(format!("{}: {got}, and the README says {want:?}", row.name)),
        }
    }
    assert!(parted.is_empty(), "{}", parted.join("\n"));
    assert!(wanted.is_empty(), "no packet is sent for {wanted:?}");
    let names = |mut all: Vec<&'static str>| {
        let count = all.len();
        all.dedup();
        assert_eq!(all.len(), count);
        all
    };
    assert_eq!(
        names(rows.iter().map(|row| row.name).collect()),
        names(documented.iter().map(|(name, _)| *name).collect()),
        "one order"
    );
}
