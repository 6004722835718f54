//! Whose report it is, what the profile asks of it, and what is left without a TPM.

use serde_json::json;

use super::*;
use crate::{
    cvm::{
        LaunchKey,
        snp::tests::{Chip, table},
        tdx::{Collateral, tests::made as intel},
    },
    profile::{Provenance, Value},
};

fn claim(result: &AttestationResult, submod: &str, name: &str) -> Option<(Value, Provenance)> {
    let claim = result.submods.get(submod)?.claims.get(name)?;
    Some((claim.value.clone(), claim.provenance))
}

/// What a host keeps of a chip's certificates, as it travels.
fn brought(made: &Made) -> Option<Box<v1::TeeEvidence>> {
    let all = [&made.key, &made.ask, &made.root];
    Some(Box::new(v1::TeeEvidence {
        certificates: table(&all.map(Certificate::as_der)),
        ..v1::TeeEvidence::default()
    }))
}

#[test]
fn a_guest_is_affirmed_by_its_report_alone() {
    let mut guest = Guest::ordinary();
    let result = guest.appraise();
    assert_eq!((result.status, codes(&result)), (Status::Affirming, vec![]));
    assert!(result.shows("cvm.hardware"));
    let claims = result.submods["cvm"].claims.values();
    let by: Vec<Provenance> = claims.map(|claim| claim.provenance).collect();
    assert!(by.len() > 10 && by.iter().all(|by| *by == Provenance::HardwareSigned));
    assert!(result.endorsements.contains(&FILE));
    assert!(result.submods["tpm"].claims.is_empty(), "there is no TPM");
    let word = claim(&result, "fence", "fence.word").unwrap();
    let root = Value::Text("root".to_owned());
    assert_eq!(word, (root, Provenance::SelfReported));
    let ear = result.to_json();
    assert_eq!(ear["bailiwick.report"], json!("hardware-signed"));
    assert_eq!(ear["bailiwick.ak"], json!("processor"));
    assert_eq!(ear.get("bailiwick.tpm"), None);
    // And so is the next one, which follows it.
    guest.next();
    assert_eq!(codes(&guest.appraise()), [""; 0]);
}

/// Named in the profile it can be looked at, and is nobody's hardware.
#[test]
fn a_guest_under_an_operators_own_root_is_affirmed_and_never_hardware() {
    let root = crate::gpu::Root::parse(MILAN.root.as_der()).unwrap();
    let mut guest = Guest::with(&format!("roots = [\"{}\"]", root.digest()));
    let processors = &mut guest.case.endorsements.processors;
    *processors = processors.clone().where_hardware_is(&[], "");
    assert_eq!(codes(&guest.appraise()), ["cvm-root"], "not brought");
    assert!(guest.case.endorsements.add_root(root.clone()));
    let result = guest.appraise();
    assert_eq!((result.status, codes(&result)), (Status::Affirming, vec![]));
    assert!(!result.shows("cvm.hardware"));
    assert_eq!(result.to_json()["bailiwick.report"], json!("self-reported"));
    let measured = claim(&result, "cvm", "cvm.measurement").unwrap();
    assert_eq!(measured.1, Provenance::SelfReported);
    assert!(result.endorsements.contains(&root.digest()));
    guest.case.require(
        "cvm.hardware",
        "is = true\nprovenance = \"hardware-signed\"",
    );
    assert_eq!(codes(&guest.appraise()), ["claim-provenance"]);
    // Nor is what shows in the evidence itself better than who signed it.
    for (mut guest, want) in [
        (guest, Provenance::SelfReported),
        (Guest::ordinary(), Provenance::HardwareSigned),
    ] {
        let last_receipt = Sha256Digest([0; 32]);
        let number = 3;
        guest.case.freshness = Freshness::Unchallenged {
            last_receipt,
            number,
        };
        guest.case.previous().run = Some(Run {
            last_receipt,
            number,
        });
        let result = guest.appraise();
        let mut told = result.deviations();
        let told = told.find(|it| it.code == "history-number").unwrap();
        assert_eq!(told.provenance, Some(want));
    }
}

#[test]
fn each_attack_on_a_guests_report_is_refused_and_each_lack_is_not() {
    use Status::{Affirming, Contraindicated, None as Undecided};
    type Row = (
        &'static str,
        &'static str,
        fn(&mut Guest),
        Status,
        &'static [&'static str],
    );
    let rows: &[Row] = &[
        ("as it is", "", |_| {}, Affirming, &[]),
        (
            "changed by a byte",
            "",
            |g| g.edit = |e| report(e).report[0x91] ^= 1,
            Contraindicated,
            &["cvm-signature"],
        ),
        (
            "signed with no key",
            "",
            |g| g.over.push((0x48, vec![7 << 2])),
            Contraindicated,
            &["cvm-unsigned"],
        ),
        (
            "under a root of somebody's own",
            "",
            |g| g.hardware(&made(&milan())),
            Contraindicated,
            &["cvm-root"],
        ),
        (
            "asked for by the host",
            "",
            |g| g.over.push((0x30, vec![0xff; 4])),
            Contraindicated,
            &["cvm-not-of-guest"],
        ),
        (
            "from a level below",
            "max_vmpl = 1",
            |g| g.over.push((0x30, vec![2])),
            Contraindicated,
            &["cvm-vmpl"],
        ),
        (
            "of another kind of processor than will do",
            "technologies = [\"tdx\"]",
            |_| {},
            Contraindicated,
            &["cvm-technology"],
        ),
        (
            "of a guest its host may read",
            "",
            |g| g.over.push((0x0a, vec![8])),
            Contraindicated,
            &["cvm-debug"],
        ),
        (
            "that, under a profile that allows it beside a TPM",
            "debug = true",
            |g| g.over.push((0x0a, vec![8])),
            Contraindicated,
            &["cvm-debug"],
        ),
        (
            "of another chip",
            "",
            |g| g.listed.as_mut().unwrap().chips = vec![format!("SNP-{}", "08".repeat(64))],
            Contraindicated,
            &["guest-chip"],
        ),
        (
            "of one of two chips, where the profile wants it listed",
            "listed = true",
            |g| {
                let chips = &mut g.listed.as_mut().unwrap().chips;
                chips.insert(0, format!("SNP-{}", "06".repeat(64)));
            },
            Affirming,
            &[],
        ),
        (
            "of another launch",
            "",
            |g| g.over.push((0x90, vec![9])),
            Contraindicated,
            &["guest-launch"],
        ),
        (
            "of a launch for somebody else",
            "",
            |g| {
                let launch = &mut g.listed.as_mut().unwrap().launch;
                launch.host_data = Some("05".repeat(32));
            },
            Contraindicated,
            &["guest-launch"],
        ),
        (
            "of a launch that nobody signed",
            "",
            |g| {
                let launch = &mut g.listed.as_mut().unwrap().launch;
                launch.signer = Some(LaunchKey {
                    id_key: "0a".repeat(48),
                    family: "00".repeat(16),
                    image: "00".repeat(16),
                });
            },
            Contraindicated,
            &["guest-launch"],
        ),
        (
            "of another instance of the same launch",
            "",
            |g| g.over.push((REPORT_ID, vec![0x1e])),
            Contraindicated,
            &["guest-instance"],
        ),
        (
            "of an instance, where one without enrolled",
            "",
            |g| g.enrolled.instance = None,
            Contraindicated,
            &["guest-instance"],
        ),
        (
            "of another launch and another instance",
            "",
            |g| {
                g.over.extend([(0x90, vec![9]), (REPORT_ID, vec![0x1e])]);
            },
            Contraindicated,
            &["guest-launch", "guest-instance"],
        ),
        (
            "for a node that is listed with a TPM",
            "",
            |g| g.listed = None,
            Contraindicated,
            &["signer-not-of-node"],
        ),
        (
            "under newer firmware than there is a certificate for",
            "",
            |g| g.over.push((0x187, vec![214])),
            Undecided,
            &["cvm-key-missing"],
        ),
        (
            "with the certificates of another chip",
            "",
            |g| {
                g.case.endorsements.processors = crate::cvm::Endorsements::default();
                g.hardware(&MILAN);
                g.edit = |evidence| {
                    let id = vec![8; 64];
                    evidence.tee = brought(&made(&Chip { id, ..milan() }));
                };
            },
            Undecided,
            &["cvm-key-missing"],
        ),
        (
            "with its own from the host, and none of the operator's",
            "",
            |g| {
                g.case.endorsements.processors = crate::cvm::Endorsements::default();
                g.hardware(&MILAN);
                g.edit = |evidence| evidence.tee = brought(&MILAN);
            },
            Affirming,
            &[],
        ),
        (
            "with nothing known of revocation",
            "revocation = true",
            |_| {},
            Undecided,
            &["cvm-revocation-unknown"],
        ),
        (
            "after somebody took it out of the inventory",
            "",
            |g| g.case.listed = false,
            Undecided,
            &["pending"],
        ),
        (
            "before there is a policy",
            "",
            |g| g.case.policy = false,
            Undecided,
            &["no-policy"],
        ),
    ];
    for (name, section, edit, status, want) in rows {
        let mut guest = Guest::with(section);
        edit(&mut guest);
        let result = guest.appraise();
        let found = (result.status, codes(&result));
        assert_eq!(found, (*status, want.to_vec()), "{name}");
    }
}

/// What no processor said is nobody's word, under a profile that asks for no processor, too.
#[test]
fn a_report_has_to_be_good_whatever_the_profile_asks() {
    type Row = (&'static str, fn(&mut Guest), &'static str);
    let rows: &[Row] = &[
        (
            "changed",
            |g| g.edit = |e| report(e).report[0x91] ^= 1,
            "cvm-signature",
        ),
        (
            "no certificate",
            |g| g.over.push((0x187, vec![214])),
            "cvm-key-missing",
        ),
        ("debug", |g| g.over.push((0x0a, vec![8])), "cvm-debug"),
        (
            "another launch",
            |g| g.over.push((0x90, vec![9])),
            "guest-launch",
        ),
        (
            "another instance",
            |g| g.over.push((REPORT_ID, vec![9])),
            "guest-instance",
        ),
    ];
    for (name, edit, code) in rows {
        let mut guest = Guest::ordinary();
        // Without [cvm] a register has to be named, which no guest has.
        guest.case.profile = PROFILE.replace("require = []", "require = [7]");
        edit(&mut guest);
        let result = guest.appraise();
        assert!(codes(&result).contains(code), "{name}: {result:?}");
    }
}

/// The other way round: a TPM speaks for no guest.
#[test]
fn a_quote_signs_nothing_for_a_node_that_is_listed_as_a_guest() {
    let node = Case::ordinary();
    let listed = Guest::ordinary().listed;
    let verified = node.verify().unwrap();
    let ak = node.tpm.ak();
    let own = node.appraise_of(&verified, (&ak).into(), None);
    assert_eq!(codes(&own), [""; 0]);
    let result = node.appraise_of(&verified, (&ak).into(), listed.as_ref());
    assert_eq!(codes(&result), ["signer-not-of-node"]);
    assert_eq!(result.status, Status::Contraindicated);
}

#[test]
fn what_a_tpm_would_say_is_missing() {
    for (claim, is) in [
        ("tpm.reset_count", "at_least = 0"),
        ("tpm.restart_count", "at_least = 0"),
        ("tpm.clock_safe", "is = true"),
        ("tpm.firmware_version", "is = \"0000000000000000\""),
        ("tpm.pcr.sha256.7", "is = \"00\""),
        ("cvm.vtpm", "is = true"),
    ] {
        let mut guest = Guest::ordinary();
        let rest = format!("{is}\nprovenance = \"self-reported\"");
        guest.case.require(claim, &rest);
        let result = guest.appraise();
        let found = (result.status, codes(&result));
        let want = (Status::Contraindicated, vec!["claim-missing"]);
        assert_eq!(found, want, "{claim}");
    }
    let mut registers = Guest::ordinary();
    let profile = &mut registers.case.profile;
    *profile = profile.replace("require = []", "require = [7]");
    let result = registers.appraise();
    let found = (result.status, codes(&result));
    assert_eq!(found, (Status::Contraindicated, vec!["registers-unsigned"]));
}

/// A key lives no longer than the boot it was drawn in, and what breaks that is broken from then on.
#[test]
fn one_key_is_of_one_boot() {
    let mut guest = Guest::ordinary();
    guest.case.statement.boot_id = vec![2; 16];
    for _ in 0..2 {
        let result = guest.appraise();
        assert_eq!(codes(&result), ["guest-key-outlived-boot"]);
        assert_eq!(result.status, Status::Contraindicated);
        guest.next();
    }
    guest.case.statement.boot_id = vec![1; 16];
    assert_eq!(codes(&guest.appraise()), [""; 0]);
    // With another key it is another boot, and nothing is wrong with that.
    let mut again = Guest::ordinary();
    again.case.previous().ak = Sha256Digest([1; 32]);
    again.case.statement.boot_id = vec![2; 16];
    assert_eq!(codes(&again.appraise()), [""; 0]);
    again.next();
    assert_eq!(codes(&again.appraise()), [""; 0]);
    // A TPM that quoted before says nothing of the clock of a guest that has none.
    let mut moved = Guest::ordinary();
    let before = Case::ordinary().previous.unwrap();
    moved.case.previous().clock = before.clock;
    moved.case.previous().ak = before.ak;
    assert_eq!(codes(&moved.appraise()), [""; 0]);
}

/// There is one clock, so nothing can be held against another: the number decides, and grants nothing.
#[test]
fn what_a_guest_said_out_of_reach_is_history_by_its_number() {
    let unchallenged = |number| Freshness::Unchallenged {
        last_receipt: Sha256Digest([0; 32]),
        number,
    };
    let mut guest = Guest::ordinary();
    guest.case.freshness = unchallenged(0);
    assert_eq!(codes(&guest.appraise()), ["unchallenged"]);
    guest.next();
    let before = guest.case.previous.unwrap();
    assert_eq!((before.clock, before.tie), (None, None));
    assert_eq!(before.run.map(|run| run.number), Some(0));
    for (number, want) in [
        (1, vec!["unchallenged"]),
        (0, vec!["unchallenged", "history-number"]),
    ] {
        guest.case.freshness = unchallenged(number);
        let result = guest.appraise();
        let found = (result.status, codes(&result));
        assert_eq!(found, (Status::None, want), "{number}");
    }
}

/// A quote of TDX tells guests of one launch apart by nothing.
#[test]
fn a_guest_of_tdx_is_affirmed_on_its_own_processor() {
    let mut guest = Guest::ordinary();
    guest.enrolled.instance = None;
    guest.case.previous = None;
    guest.case.now = intel::AT;
    guest.case.statement = statement(0, None);
    guest.case.statement.wall_time_ms = intel::AT.0;
    guest.case.statement.guest_key = KEY.0.to_vec();
    let bytes = encode(&guest.case.statement);
    let data = TeeReportSigner::carrier(&Binding::new(&CHALLENGE, &bytes));
    let made = intel::made(&intel::Plan {
        body_over: vec![(520, data.to_vec())],
        ..intel::Plan::v5()
    });
    let collateral = made.collateral.publish().to_string();
    let collateral = Collateral::parse(collateral.as_bytes()).unwrap();
    let none = crate::cvm::Endorsements::default();
    let mut processors = none.where_hardware_is(&[], &made.root);
    assert!(processors.add_collateral(FILE, collateral));
    guest.case.endorsements.processors = processors;
    let mut evidence = guest.evidence();
    *report(&mut evidence) = v1::TeeReport {
        kind: "tdx".to_owned(),
        report: made.quote.clone(),
    };
    let verified = VerifiedEvidence::verify(&evidence, &guest.enrolled, &CHALLENGE).unwrap();
    let result = guest.appraise_verified(&verified);
    assert_eq!(codes(&result), ["guest-chip"]);
    let text = |name: &str| match claim(&result, "cvm", name) {
        Some((Value::Text(text), Provenance::HardwareSigned)) => text,
        other => panic!("{name}: {other:?}"),
    };
    let listed = guest.listed.as_mut().unwrap();
    listed.chips = vec![text("cvm.chip_id")];
    listed.launch.measurement = Some(text("cvm.measurement"));
    let result = guest.appraise_verified(&verified);
    assert_eq!((result.status, codes(&result)), (Status::Affirming, vec![]));
    assert!(result.shows("cvm.hardware"));
    // One that enrolled with a REPORT_ID is another guest.
    guest.enrolled.instance = Some(INSTANCE);
    assert_eq!(
        codes(&guest.appraise_verified(&verified)),
        ["guest-instance"]
    );
    // Data of another question are refused before anybody looks at a key.
    let other = Freshness::Challenged(Nonce::new([5; 32]));
    evidence.freshness = Some(v1::evidence::Freshness::Nonce(vec![5; 32]));
    let refused = VerifiedEvidence::verify(&evidence, &guest.enrolled, &other).unwrap_err();
    assert_eq!(refused.code(), "cvm-report-data");
}
