//! What evidence shows, drafted into a profile, and what comes of holding both together.

use super::booted::{Booted, hex_of};
use super::*;
use crate::profile::{Draft, Provenance, Seen, Value, draft};

fn seen(node: &mut Booted) -> (VerifiedEvidence, Shown) {
    node.result();
    let evidence = node.case.verify().unwrap();
    let profile = Profile::parse("p", node.case.profile.as_bytes()).unwrap();
    let shown = shown(&evidence, TpmKind::Chip, &profile);
    (evidence, shown)
}

fn drafted(node: &mut Booted) -> (VerifiedEvidence, Draft) {
    let (evidence, shown) = seen(node);
    let profile = Profile::parse("p", node.case.profile.as_bytes()).unwrap();
    let seen = Seen {
        node: "gpu-01".to_owned(),
        at: NOW,
        shown,
    };
    (evidence, draft("r17", &profile, &[seen]))
}

/// Whatever a profile can demand is shown, from where it comes, and nothing that the node says under
/// a name of the logs.
#[test]
fn all_that_can_be_demanded_is_shown_from_where_it_comes() {
    let mut node = Booted::new();
    node.case.statement.claims.push(v1::Claim {
        name: "boot.section.initrd".to_owned(),
        source: "a node".to_owned(),
        value: Some(v1::claim::Value::Text("mine".to_owned())),
    });
    // Nothing that the profile demands keeps anything from being shown.
    node.case
        .require("boot.pk", "is = \"x\"\nprovenance = \"measured\"");
    let (_, shown) = seen(&mut node);
    let text = |text: &str| Value::Text(text.to_owned());
    let rows = [
        ("boot.pk", text(&hex_of(b"platform")), Provenance::Measured),
        ("boot.secure_boot", Value::Flag(true), Provenance::Measured),
        ("ima.violations", Value::Number(0), Provenance::Measured),
        (
            "kernel.lockdown",
            text("integrity"),
            Provenance::SelfReported,
        ),
        (
            "boot.secure-boot",
            Value::Flag(true),
            Provenance::SelfReported,
        ),
        (
            "fence.whole_host",
            Value::Flag(true),
            Provenance::SelfReported,
        ),
        (
            "tpm.pcr.sha256.23",
            text(&hex::encode([0; 32])),
            Provenance::HardwareSigned,
        ),
        (
            "tpm.firmware_version",
            text("2019102300163636"),
            Provenance::HardwareSigned,
        ),
    ];
    for (name, value, provenance) in rows {
        let claim = &shown.claims[name];
        assert_eq!(
            (&claim.value, claim.provenance),
            (&value, provenance),
            "{name}"
        );
    }
    for name in ["boot.section.initrd", "gpu.driver"] {
        assert!(!shown.claims.contains_key(name), "{name}");
    }
    let files: Vec<(&str, &str)> = shown
        .files
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    let digest = |byte: &str| format!("sha256:{}", byte.repeat(32));
    let (agent, tool) = (digest("02"), digest("03"));
    assert_eq!(
        files,
        [
            (agent.as_str(), "/usr/bin/agent"),
            (tool.as_str(), "/usr/bin/tool")
        ]
    );
    assert_eq!(shown.faults, []);
    assert_eq!(shown.fence, None);
}

#[test]
fn a_draft_is_met_by_what_it_was_drafted_from_and_by_nothing_else() {
    let mut node = Booted::new();
    let (evidence, draft) = drafted(&mut node);
    let profile = Profile::parse("draft", draft.to_toml().as_bytes()).unwrap();
    let result = held_against(&evidence, TpmKind::Chip, &profile, NOW);
    assert_eq!(super::booted::found(&result), []);
    assert_eq!(result.status, Status::Affirming);
    // What no evidence shows is not demanded, and would be missing: there is no inventory here.
    let text = draft.to_toml();
    let more =
        "[[require]]\nclaim = \"node.ak_confirmed\"\nis = true\nprovenance = \"operator-signed\"\n";
    let profile = Profile::parse("draft", format!("{text}\n{more}").as_bytes()).unwrap();
    let result = held_against(&evidence, TpmKind::Chip, &profile, NOW);
    assert_eq!(
        super::booted::found(&result),
        super::booted::want(&[("node.ak_confirmed", "claim-missing")])
    );
    // Another initrd, and a log that is gone.
    let profile = Profile::parse("draft", text.as_bytes()).unwrap();
    let mut other = Booted::new();
    for event in other.events.iter_mut().filter(|event| event.0 == 9) {
        if event.2 == b"initrd" {
            event.2 = b"another".to_vec();
        }
    }
    let mut register = [0; 32];
    for event in other.events.iter().filter(|event| event.0 == 9) {
        super::booted::extend(
            &mut register,
            crate::crypto::HashAlgorithm::Sha256
                .digest(&[&event.2])
                .unwrap()
                .as_slice(),
        );
    }
    other.case.tpm.pcrs[9] = register;
    other.kernel_starts();
    let (evidence, _) = seen(&mut other);
    let result = held_against(&evidence, TpmKind::Chip, &profile, NOW);
    assert_eq!(
        super::booted::found(&result),
        super::booted::want(&[
            ("boot.files", "claim-value"),
            ("boot.initrd", "claim-value"),
            ("tpm.pcr.sha256.9", "pcr-value")
        ])
    );
}
