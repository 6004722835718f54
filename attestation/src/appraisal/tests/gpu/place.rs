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

/// Both GPUs as NVML names them, by a driver that tells no identifiers of chips.
fn named(listed: &[&str], others: &[(&str, &str)], uuids: [&str; 2]) -> Node {
    let mut node = node(listed, others);
    for (place, uuid) in uuids.into_iter().enumerate() {
        uuid.clone_into(&mut node.reports.reports[place].uuid);
        let said = [
            ("uuid", format!("GPU-{place}")),
            ("serial", format!("100{place}")),
        ];
        let claims = said.map(|(field, text)| v1::Claim {
            name: format!("nvml.gpu.{place}.{field}"),
            source: "nvml".to_owned(),
            value: Some(v1::claim::Value::Text(text)),
        });
        node.case.statement.claims.extend(claims);
    }
    node
}

/// Each GPU is listed by its chip or by a name, and each name counts for one of them.
#[test]
fn some_gpus_are_listed_by_chip_and_others_by_name() {
    use Finding::{Refused, Unchecked};
    type Row<'a> = (
        &'a str,
        &'a [&'a str],
        [&'a str; 2],
        &'a str,
        &'a [(&'a str, Finding)],
    );
    const OWN: [&str; 2] = ["GPU-0", "GPU-1"];
    let not_of_node = ("gpu-not-of-node", Refused);
    let missing = ("gpu-of-node-missing", Refused);
    let rows: &[Row<'_>] = &[
        ("chip and UUID", &[FIRST, "GPU-1"], OWN, "", &[]),
        ("chip and serial number", &[FIRST, "1001"], OWN, "", &[]),
        ("UUID and chip", &["GPU-0", SECOND], OWN, "", &[]),
        (
            "every name there is",
            &[FIRST, "GPU-0", "1000", SECOND, "GPU-1", "1001"],
            OWN,
            "",
            &[],
        ),
        (
            "the second not at all",
            &[FIRST, "GPU-0"],
            OWN,
            "",
            &[not_of_node],
        ),
        (
            "the first not at all",
            &[SECOND, "1001"],
            OWN,
            "",
            &[not_of_node],
        ),
        (
            "the serial number of another UUID",
            &[FIRST, "1001"],
            ["GPU-0", "GPU-0"],
            "",
            &[not_of_node],
        ),
        (
            "by the name of the one whose chip is listed",
            &[FIRST, "GPU-0"],
            ["GPU-0", "GPU-0"],
            "",
            &[not_of_node],
        ),
        (
            "by that name, and before it",
            &[SECOND, "GPU-1"],
            ["GPU-1", "GPU-1"],
            "",
            &[not_of_node],
        ),
        (
            "two by one name",
            &[THIRD, "GPU-1"],
            ["GPU-1", "GPU-1"],
            "",
            &[not_of_node, missing],
        ),
        (
            "two by two names of one",
            &[THIRD, "GPU-1", "1001"],
            ["GPU-1", "GPU-1"],
            "",
            &[not_of_node, missing],
        ),
        (
            "a chip that shows nothing, and one by name",
            &[THIRD, "GPU-0", "GPU-1"],
            OWN,
            "",
            &[missing],
        ),
        (
            "a name that nothing goes by",
            &[FIRST, "GPU-1", "GPU-9"],
            OWN,
            "",
            &[("device-missing", Refused)],
        ),
        (
            "where the profile wants chips, a name is none",
            &[FIRST, "GPU-1"],
            OWN,
            "listed = true\n",
            &[("gpu-unlisted", Unchecked)],
        ),
        (
            "names alone, where the profile does not",
            &["GPU-0", "GPU-1"],
            OWN,
            "",
            &[],
        ),
    ];
    let told = |node: &mut Node| -> Vec<_> {
        let result = node.result();
        let all = result.deviations();
        all.map(|d| (d.code.clone(), d.finding)).collect()
    };
    for (name, listed, uuids, asked, want) in rows {
        let mut node = named(listed, &[], *uuids);
        node.profile("count = 2\n", &format!("count = 2\n{asked}"));
        let want: Vec<_> = want
            .iter()
            .map(|(code, by)| ((*code).to_owned(), *by))
            .collect();
        assert_eq!(told(&mut node), want, "{name}");
    }
    // What its certificate says goes before what it is called.
    let mut moved = named(&[FIRST, "GPU-1"], &[(SECOND, "gpu-02")], OWN);
    let of_another = ("gpu-of-another-node".to_owned(), Refused);
    assert_eq!(told(&mut moved), [of_another]);
    // A chip that nobody who is trusted vouches for is not listed by what it is called itself.
    let mut unsigned = named(&[FIRST, SECOND], &[], OWN);
    unsigned.reports.reports[1].report[40] ^= 1;
    assert!(told(&mut unsigned).contains(&("gpu-of-node-missing".to_owned(), Refused)));
}
