//! What the kernel is given comes out of verification whole, or not at all.

use std::net::Ipv4Addr;

use bailiwick_ebpf_common::policy::ATTESTED;
use bailiwick_ebpf_common::{Address, Jurisdiction};
use bailiwick_policy::bundle::{Draft, PolicyRefused};
use bailiwick_policy::explain::{Direction, Query};
use bailiwick_policy::image::{CgroupsRefused, subjects};
use bailiwick_policy::model::Protocol;
use bailiwick_policy::world::Codes;

use crate::support::{Fleet, NOW, demo, files, manifest};

#[test]
fn a_verified_bundle_gives_both_images() {
    let fleet = Fleet::new();
    let files = files();
    let bundle = fleet.bundle(&manifest(1, None, &files), &files, &["alice", "bob"]);
    let verified = bundle
        .verify(&fleet.approvers(), &demo(), NOW, None)
        .unwrap();
    let world = verified.world_image();
    let at = Address::from_v4(Ipv4Addr::new(192, 0, 2, 7).to_bits());
    let codes = Codes::of(&world.header);
    assert_eq!(codes.name(world.locate(at)), "DE");
    assert_eq!((world.header.generation, world.header.ranges), (1, 1));

    let names: Vec<&str> = subjects(&verified.model)
        .iter()
        .map(|who| who.name())
        .collect();
    assert_eq!(names, ["cardio"]);
    let image = verified.policy_image(&[(4711, 0)]).unwrap();
    assert_eq!(image.subject_at(4711), Some(0));
    assert_eq!(
        image.header.manifest_digest,
        verified.manifest.digest.as_bytes().to_owned()
    );
    let Jurisdiction(de) = codes.number("DE").unwrap();
    let rules = &image.subjects[0].rules[ATTESTED];
    assert!(rules.allows(de) && !rules.allows(de + 1));
    // What one host has in its image is not in the next one's.
    assert_eq!(verified.policy_image(&[]).unwrap().subject_at(4711), None);
    assert!(matches!(
        verified.policy_image(&[(4711, 1)]),
        Err(CgroupsRefused::NoSuchSubject { .. })
    ));

    let query = Query {
        subject: "cardio",
        address: Ipv4Addr::new(192, 0, 2, 7).into(),
        protocol: Protocol::Tcp,
        port: 443,
        direction: Direction::Egress,
        attested: true,
        peer: true,
    };
    let signed = verified.explainer(&world).explain(&query).unwrap();
    assert_eq!(signed.verdict(), "allowed");
    let draft = Draft::read(files, None).unwrap();
    let unsigned = draft
        .explainer(&draft.world_image())
        .explain(&query)
        .unwrap();
    assert_eq!(signed, unsigned);
}

#[test]
fn what_cannot_be_compiled_refuses_the_bundle() {
    let rows = [
        (
            "world.csv",
            "192.0.2.0,192.0.2.255,DE\n192.0.2.7,DE\n",
            "world.csv:2: prefix: \"192.0.2.7\" is no prefix: ADDRESS/LENGTH",
        ),
        (
            "studies/cardio.toml",
            "name = \"cardio\"\nmode = \"enforce\"\nselect.cgroups = [\"/c\"]\nallow.jurisdictions = [\"X-OWN\"]\n",
            "studies/cardio.toml:4: allow.jurisdictions: \"X-OWN\" is not a jurisdiction known here: no site and no range has it",
        ),
        (
            "studies/cardio.toml",
            "name = \"cardio\"\nmode = \"enforce\"\nselect.cgroups = [\"/c\"]\nallow.jurisdictions = [\"UK\"]\n",
            "studies/cardio.toml:4: allow.jurisdictions: \"UK\" is not a jurisdiction known here",
        ),
        (
            "sites.toml",
            "[[site]]\nprefix = \"10.0.0.0/8\"\njurisdiction = \"ZZ\"\n",
            "sites.toml:3: site.jurisdiction: \"ZZ\" is not a jurisdiction known here",
        ),
    ];
    let fleet = Fleet::new();
    for (path, text, want) in rows {
        let mut files = files();
        files.insert(path.to_owned(), text.as_bytes().to_vec());
        let bundle = fleet.bundle(&manifest(1, None, &files), &files, &["alice", "bob"]);
        let refused = bundle.verify(&fleet.approvers(), &demo(), NOW, None);
        let Err(PolicyRefused::Malformed(fault)) = refused else {
            panic!("accepted: {want}");
        };
        assert_eq!(fault.to_string(), want);
        assert_eq!(Draft::read(files, None).unwrap_err(), fault);
    }
}

#[test]
fn codes_nobody_knows_are_told_to_whoever_signs() {
    let mut files = files();
    let world = "192.0.2.0,192.0.2.255,DE\n198.51.100.0/24,QQ\n203.0.113.0/24,QQ\n";
    files.insert("world.csv".to_owned(), world.into());
    let draft = Draft::read(files, None).unwrap();
    let warnings: Vec<String> = draft
        .model
        .warnings
        .iter()
        .map(ToString::to_string)
        .filter(|warning| warning.contains("QQ"))
        .collect();
    assert_eq!(
        warnings,
        [
            "world.csv:2: code: QQ is no jurisdiction known here; the addresses of its 2 ranges count as unknown"
        ]
    );
}
