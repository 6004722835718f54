//! GPUs that are where the inventory says, and those that are not.

use super::*;
use crate::appraisal::named_gpus;

/// The two GPUs that every node here has.
const FIRST: &str = "PDI-48b02d0000000001";
const SECOND: &str = "PDI-48b02d0000000002";
const THIRD: &str = "PDI-48b02d0000000003";

fn node(listed: &[&str], others: &[(&str, &str)]) -> Node {
    let mut node = Node::new();
    node.case.devices = listed.iter().map(|name| (*name).to_owned()).collect();
    let others = others.iter();
    node.case.foreign_devices = others
        .map(|(name, owner)| ((*name).to_owned(), NodeId::new(owner).unwrap()))
        .collect();
    // NVML is asked for no more than how many there are.
    node.case.statement.claims.push(v1::Claim {
        name: "nvml.gpus".to_owned(),
        source: "nvml".to_owned(),
        value: Some(v1::claim::Value::Number(2)),
    });
    node
}

#[test]
fn a_gpu_is_where_the_inventory_says_or_it_is_refused() {
    use Finding::{Refused, Unchecked};
    type Row<'a> = (
        &'a str,
        &'a [&'a str],
        &'a [(&'a str, &'a str)],
        &'a str,
        &'a [(&'a str, Finding)],
    );
    let rows: &[Row<'_>] = &[
        ("nobody wrote any down", &[], &[], "", &[]),
        (
            "and the profile wants them written down",
            &[],
            &[],
            "listed = true\n",
            &[("gpu-unlisted", Unchecked)],
        ),
        ("both are listed", &[FIRST, SECOND], &[], "", &[]),
        (
            "both are listed, as the profile wants",
            &[FIRST, SECOND],
            &[],
            "listed = true\n",
            &[],
        ),
        (
            "one is of another node",
            &[],
            &[(SECOND, "gpu-02")],
            "",
            &[("gpu-of-another-node", Refused)],
        ),
        (
            "one is of another node, where this one's are listed",
            &[FIRST],
            &[(SECOND, "gpu-02")],
            "",
            &[("gpu-of-another-node", Refused)],
        ),
        (
            "one is nobody's",
            &[FIRST],
            &[],
            "",
            &[("gpu-not-of-node", Refused)],
        ),
        (
            "one was exchanged",
            &[FIRST, THIRD],
            &[],
            "",
            &[
                ("gpu-not-of-node", Refused),
                ("gpu-of-node-missing", Refused),
            ],
        ),
        (
            "one more was expected",
            &[FIRST, SECOND, THIRD],
            &[],
            "",
            &[("gpu-of-node-missing", Refused)],
        ),
        (
            "another spelling names nothing",
            &["PDI-48B02D0000000001", SECOND],
            &[],
            "",
            &[
                ("gpu-not-of-node", Refused),
                ("gpu-of-node-missing", Refused),
            ],
        ),
    ];
    for (name, listed, others, asked, want) in rows {
        let mut node = node(listed, others);
        node.profile("count = 2\n", &format!("count = 2\n{asked}"));
        let result = node.result();
        let want: Vec<_> = want
            .iter()
            .map(|(code, finding)| ((*code).to_owned(), *finding))
            .collect();
        assert_eq!(codes(&result), want, "{name}");
        let all = result.deviations().filter(|d| d.code.starts_with("gpu-"));
        for deviation in all.filter(|d| d.claim.ends_with(".pdi")) {
            let by = (deviation.finding == Refused).then_some(Provenance::HardwareSigned);
            assert_eq!(deviation.provenance, by, "{name}");
        }
    }
}

/// A GPU of another node whose report was taken there and is played here is that GPU's all the same;
/// a certificate that leads nowhere names nobody's.
#[test]
fn whose_gpu_it_is_shows_under_roots_that_are_trusted_and_asked_for_or_not() {
    let of_other = [(FIRST, "gpu-02")];
    let mut replayed = node(&[], &of_other);
    replayed.ask(Nonce::new([7; 32]), &Said::hopper());
    replayed.challenge = ASKED;
    replayed.trust(true);
    let mut unasked = node(&[], &of_other);
    unasked.case.profile = PROFILE.to_owned();
    let mut made_up = node(&[], &of_other);
    made_up.case.endorsements = Endorsements::default();
    let mut not_asked_for_missing = node(&[FIRST, SECOND, THIRD], &[]);
    not_asked_for_missing.case.profile = PROFILE.to_owned();
    for (name, mut node, want) in [
        ("played again", replayed, true),
        ("not asked for", unasked, true),
        ("of nobody", made_up, false),
        ("missing, and not asked for", not_asked_for_missing, false),
    ] {
        let codes = node.codes();
        let found = codes.contains(&("gpu-of-another-node".to_owned(), Finding::Refused));
        assert_eq!(found, want, "{name}: {codes:?}");
        let missing = codes.iter().any(|(code, _)| code == "gpu-of-node-missing");
        assert!(!missing, "{name}: {codes:?}");
        let evidence = node.case.verify().unwrap();
        assert_eq!(named_gpus(&evidence), [FIRST, SECOND], "{name}");
    }
}

/// What NVML does not tell, the GPUs do; where nobody asks them, it is not known.
#[test]
fn a_chip_that_nvml_does_not_name_names_itself() {
    let unseen = |result: &AttestationResult| {
        let mut all = result.deviations();
        all.any(|d| (d.code.as_str(), d.finding) == ("devices-unavailable", Finding::Unchecked))
    };
    let mut asked = node(&[FIRST, SECOND], &[]);
    assert_eq!(asked.result().status, Status::Affirming);
    let mut unasked = node(&[FIRST, SECOND], &[]);
    unasked.case.profile = PROFILE.to_owned();
    let result = unasked.result();
    assert!(unseen(&result) && result.status == Status::None);
    // Once NVML names chips, its word is held against the inventory, too.
    for (told, missing) in [("48b02d0000000001", false), ("48b02d0000000009", true)] {
        let mut node = node(&[FIRST], &[]);
        node.case.profile = PROFILE.to_owned();
        node.case.statement.claims.push(v1::Claim {
            name: "nvml.gpu.0.pdi".to_owned(),
            source: "nvml".to_owned(),
            value: Some(v1::claim::Value::Text(told.to_owned())),
        });
        let result = node.result();
        let found = result.deviations().any(|d| d.code == "device-missing");
        assert_eq!((found, unseen(&result)), (missing, false), "{told}");
    }
}
