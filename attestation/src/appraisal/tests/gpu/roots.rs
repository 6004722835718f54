//! Roots that an operator brought: what approvers name them for, and never hardware.

use super::*;
use crate::gpu::Root;
use crate::x509::Certificate;

/// Nobody's.
const OTHER: Sha256Digest = Sha256Digest([9; 32]);

fn roots_of(node: &Node) -> Vec<Certificate> {
    let gpus = node.gpus.iter();
    gpus.map(|gpu| gpu.chain.certificates[4].clone()).collect()
}

fn add(own: &mut Endorsements, certificates: &[Certificate]) -> Vec<Sha256Digest> {
    let roots = certificates
        .iter()
        .map(|one| Root::parse(one.as_der()).unwrap());
    roots
        .map(|root| {
            let digest = root.digest();
            assert!(own.add_root(root));
            digest
        })
        .collect()
}

fn name(node: &mut Node, key: &str, digests: &[Sha256Digest]) {
    let digests: Vec<String> = digests.iter().map(ToString::to_string).collect();
    node.profile("count = 2", &format!("count = 2\n{key} = {digests:?}"));
}

/// NVIDIA's root is another here, as the built-in one is to whatever somebody made.
fn brought() -> (Node, Vec<Sha256Digest>) {
    let mut node = Node::new();
    let nvidias = Node::new();
    let mut own = Endorsements::as_if_hardware(nvidias.roots());
    let digests = add(&mut own, &roots_of(&node));
    node.case.endorsements = own;
    node.profile("count = 2", "count = 2\nmeasurements = false");
    (node, digests)
}

#[test]
fn a_root_that_was_brought_makes_no_hardware_whoever_named_it() {
    let refused = |all: &[&str]| -> Vec<_> {
        let all = all
            .iter()
            .map(|code| ((*code).to_owned(), Finding::Refused));
        all.collect()
    };
    let strangers = refused(&["not-hardware", "chain-root", "not-hardware", "chain-root"]);
    // Its devices can be looked at, and that is all.
    let named = refused(&["not-hardware"]);
    let late = UnixTime::from_secs(2_300_000_000);
    type Row<'a> = (&'a str, Option<&'a str>, bool, bool, bool);
    let rows: &[Row<'_>] = &[
        ("there, and named by nobody", None, true, false, false),
        ("named for devices", Some("device_roots"), true, false, true),
        (
            "named for reference values",
            Some("rim_roots"),
            true,
            false,
            false,
        ),
        (
            "named, and another is there",
            Some("device_roots"),
            false,
            false,
            false,
        ),
        (
            "named, and it ended",
            Some("device_roots"),
            true,
            true,
            false,
        ),
    ];
    for (case, key, its_own, ended, looked_at) in rows {
        let (mut node, digests) = brought();
        if let Some(key) = key {
            let other = [OTHER];
            name(&mut node, key, if *its_own { &digests } else { &other });
        }
        if *ended {
            node.case.now = late;
            node.case.statement.wall_time_ms = late.millis();
        }
        let result = node.result();
        let codes = codes(&result);
        match looked_at {
            true => assert_eq!(codes, named, "{case}"),
            false => assert!(codes.starts_with(&strangers[..2]), "{case}: {codes:?}"),
        }
        assert_eq!(result.status, Status::Contraindicated, "{case}");
        assert!(!result.shows("gpu.hardware"), "{case}");
        let text = |text: &str| Value::Text(text.to_owned());
        let by = Provenance::SelfReported;
        let chain = if *looked_at { "ok" } else { "bad" };
        assert_eq!(
            claim(&result, "gpu.0.chain"),
            Some((text(chain), by)),
            "{case}"
        );
        let no = Some((Value::Flag(false), by));
        assert_eq!(claim(&result, "gpu.hardware"), no, "{case}");
        assert_eq!(claim(&result, "gpu.1.hardware"), no, "{case}");
        let relied: Vec<_> = digests
            .iter()
            .map(|it| result.endorsements.contains(it))
            .collect();
        assert_eq!(relied, [*looked_at; 2], "{case}");
        let evidence = node.case.verify().unwrap();
        let certified = certified_gpus(&evidence, &node.case.endorsements, node.case.now);
        assert_eq!(certified, [""; 0], "{case}");
    }
    // Beside NVIDIA's, it takes nothing from them.
    let mut real = Node::new();
    let (made, _) = brought();
    let digests = add(&mut real.case.endorsements, &roots_of(&made));
    name(&mut real, "device_roots", &digests);
    let result = real.result();
    assert_eq!((codes(&result), result.status), (vec![], Status::Affirming));
    assert!(result.shows("gpu.hardware"));
}

/// Reference values of a site's own are its approvers' word, for GPUs that are hardware.
#[test]
fn reference_values_under_a_root_that_was_brought_are_the_approvers_word() {
    let missing = [("rim-missing".to_owned(), Finding::Unchecked)];
    let node = || {
        let mut node = Node::new();
        let mut own = Endorsements::as_if_hardware(Anchors::of(&roots_of(&node)));
        let root = node.signer.chain.last().unwrap().clone();
        let digest = add(&mut own, &[root])[0];
        let mut rims = Vec::new();
        for tag in [driver(), Tag::vbios(&[])] {
            let rim = node.signer.rim(&node.values(tag));
            rims.push(Sha256Digest::of(&[rim.as_bytes()]));
            assert!(own.add_rim(rim.as_bytes(), AT));
        }
        assert_eq!(own.held(), (2, 0, 0, 1));
        node.case.endorsements = own;
        (node, digest, rims)
    };
    let matches = |by| Some((Value::Text("4 of 4 match".to_owned()), by));
    for (case, key, its_own, good) in [
        ("named by nobody", None, true, false),
        ("named for reference values", Some("rim_roots"), true, true),
        ("named for devices", Some("device_roots"), true, false),
        ("another is named", Some("rim_roots"), false, false),
    ] {
        let (mut node, digest, rims) = node();
        if let Some(key) = key {
            name(&mut node, key, &[if its_own { digest } else { OTHER }]);
        }
        let result = node.result();
        assert!(result.shows("gpu.hardware"), "{case}");
        let found = claim(&result, "gpu.0.measurements");
        if good {
            assert_eq!((codes(&result), result.status), (vec![], Status::Affirming));
            assert_eq!(found, matches(Provenance::OperatorSigned), "{case}");
            let mut all = vec![digest];
            all.extend(rims);
            assert_eq!(result.endorsements, all.into_iter().collect(), "{case}");
        } else {
            assert_eq!((codes(&result), found), (missing.to_vec(), None), "{case}");
        }
    }
    // Pinned, too, they need their root to be named.
    let (mut pinned, digest, rims) = node();
    name(&mut pinned, "rims", &rims);
    assert_eq!(pinned.codes(), missing);
    name(&mut pinned, "rim_roots", &[digest]);
    assert_eq!(pinned.codes(), []);
    let (mut one, digest, rims) = node();
    name(&mut one, "rims", &rims[..1]);
    name(&mut one, "rim_roots", &[digest]);
    assert_eq!(one.codes(), missing, "the other is not pinned");
    // NVIDIA's own are hardware's word, whatever else is there.
    let mut real = Node::new();
    let made = Node::new();
    let root = made.signer.chain.last().unwrap().clone();
    let digests = add(&mut real.case.endorsements, &[root]);
    let other = made.signer.rim(&made.values(Tag::vbios(&[])));
    assert!(real.case.endorsements.add_rim(other.as_bytes(), AT));
    name(&mut real, "rim_roots", &digests);
    let result = real.result();
    assert_eq!(
        claim(&result, "gpu.0.measurements"),
        matches(Provenance::HardwareSigned)
    );
}

#[test]
fn roots_that_are_held_have_a_limit() {
    let node = Node::new();
    let root = Root::parse(roots_of(&node)[0].as_der()).unwrap();
    let mut own = Endorsements::default();
    let taken = (0..20).filter(|_| own.add_root(root.clone())).count();
    assert_eq!((taken, own.held()), (16, (0, 0, 0, 16)));
}
