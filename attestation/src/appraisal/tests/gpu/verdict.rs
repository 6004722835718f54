//! What GPUs show, held against a profile: each condition by itself, and by whose word.

use super::*;

#[test]
fn gpus_that_prove_themselves_are_affirmed_and_say_by_whose_word() {
    let mut node = Node::new();
    let result = node.result();
    assert_eq!(codes(&result), []);
    assert_eq!(result.status, Status::Affirming);
    let hardware = Provenance::HardwareSigned;
    let text = |text: &str| Value::Text(text.to_owned());
    for (name, want) in [
        ("gpu.hardware", Value::Flag(true)),
        ("gpu.reports", Value::Number(2)),
        ("gpu.age_seconds", Value::Number(0)),
        ("gpu.0.architecture", text("HOPPER")),
        ("gpu.1.driver", text("550.90.07")),
        ("gpu.0.vbios", text("96.00.9F.00.01")),
        ("gpu.0.mode", text("spt")),
        ("gpu.1.pdi", text("48b02d0000000002")),
        ("gpu.0.measurements", text("4 of 4 match")),
    ] {
        assert_eq!(claim(&result, name), Some((want, hardware)), "{name}");
    }
    assert!(result.shows("gpu.hardware"));
    let evidence = node.case.verify().unwrap();
    let certified = certified_gpus(&evidence, &node.case.endorsements, AT);
    assert_eq!(certified, ["PDI-48b02d0000000001", "PDI-48b02d0000000002"]);
}

#[test]
fn a_double_is_never_hardware() {
    // Under NVIDIA's root alone; under a root that somebody configured; played again.
    let mut pinned = Node::new();
    pinned.case.endorsements = Endorsements::default();
    let mut configured = Node::new();
    configured.trust(false);
    let mut replayed = Node::new();
    let other = Nonce::new([7; 32]);
    replayed.ask(other, &Said::hopper());
    replayed.challenge = ASKED;
    replayed.trust(true);
    for (name, mut node, more) in [
        ("no root", pinned, "chain-root"),
        ("another root", configured, ""),
        ("played again", replayed, "nonce-mismatch"),
    ] {
        let result = node.result();
        let codes = codes(&result);
        let refused = |code: &str| codes.contains(&(code.to_owned(), Finding::Refused));
        assert!(refused("not-hardware"), "{name}: {codes:?}");
        assert!(more.is_empty() || refused(more), "{name}: {codes:?}");
        assert_eq!(result.status, Status::Contraindicated, "{name}");
        let word = (Value::Flag(false), Provenance::SelfReported);
        assert_eq!(claim(&result, "gpu.hardware"), Some(word.clone()), "{name}");
        assert_eq!(claim(&result, "gpu.0.hardware"), Some(word), "{name}");
        assert!(!result.shows("gpu.hardware"), "{name}");
        let why = result
            .deviations()
            .find(|d| d.code == "not-hardware")
            .unwrap();
        assert!(why.found.contains("not hardware"), "{name}: {}", why.found);
        let evidence = node.case.verify().unwrap();
        let certified = certified_gpus(&evidence, &node.case.endorsements, AT);
        // One that is played again is somebody's GPU: two nodes that show it are an alert.
        assert_eq!(
            certified.len(),
            2 * usize::from(name == "played again"),
            "{name}"
        );
    }
}

#[test]
fn each_condition_of_the_profile_changes_the_verdict() {
    use Finding::{Refused, Unchecked};
    type Row<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, Finding)]);
    let rows: &[Row<'_>] = &[
        ("all as it may be", "", "", &[]),
        (
            "another mode",
            "\"spt\"",
            "\"ppcie\"",
            &[("gpu-mode", Refused)],
        ),
        ("either mode", "\"spt\"", "\"ppcie\", \"spt\"", &[]),
        (
            "another family",
            "\"hopper\"",
            "\"blackwell\"",
            &[("gpu-architecture", Refused)],
        ),
        (
            "a newer driver",
            "\"550.54\"",
            "\"550.90.08\"",
            &[("gpu-driver", Refused)],
        ),
        (
            "an older driver",
            "\"560.0\"",
            "\"550.90.07\"",
            &[("gpu-driver", Refused)],
        ),
        (
            "a newer VBIOS",
            "9F.00.01",
            "9F.00.02",
            &[("gpu-vbios", Refused)],
        ),
        (
            "more GPUs",
            "count = 2",
            "count = 8",
            &[("gpu-count", Refused)],
        ),
        (
            "fewer GPUs",
            "count = 2",
            "count = 1",
            &[("gpu-count", Refused)],
        ),
        (
            "other reference values",
            "count = 2",
            "count = 2\nrims = [\"abababababababababababababababababababababababababababababababab\"]",
            &[("rim-missing", Unchecked)],
        ),
        (
            "revocation",
            "count = 2",
            "count = 2\nrevocation_seconds = 86400",
            &[("revocation-unknown", Unchecked)],
        ),
    ];
    for (name, from, to, want) in rows {
        let mut node = Node::new();
        node.profile(from, to);
        let result = node.result();
        let want: Vec<_> = want
            .iter()
            .map(|(code, it)| ((*code).to_owned(), *it))
            .collect();
        assert_eq!(codes(&result), want, "{name}");
        let status = match want.first() {
            None => Status::Affirming,
            Some((_, Refused)) => Status::Contraindicated,
            Some(_) => Status::None,
        };
        assert_eq!(result.status, status, "{name}");
    }
}

#[test]
fn without_a_section_nothing_is_asked_and_what_is_said_is_shown() {
    let mut node = Node::new();
    node.case.profile = PROFILE.to_owned();
    node.case.endorsements = Endorsements::default();
    let result = node.result();
    assert_eq!((codes(&result), result.status), (vec![], Status::Affirming));
    let word = (Value::Flag(false), Provenance::SelfReported);
    assert_eq!(claim(&result, "gpu.hardware"), Some(word));
    // And a requirement by name finds it.
    node.case.profile.push_str(
        "[[require]]\nclaim = \"gpu.hardware\"\nis = true\nprovenance = \"hardware-signed\"\n",
    );
    assert_eq!(
        node.codes(),
        [("claim-provenance".to_owned(), Finding::Refused)]
    );
    // Without GPUs there is no part of the result about them.
    let mut without = Case::ordinary();
    without.profile = PROFILE.to_owned();
    assert!(!without.appraise().submods.contains_key("gpu"));
}

#[test]
fn what_the_driver_says_is_held_against_what_the_gpu_signed() {
    let said = |name: &str, value: &str| v1::Claim {
        name: name.to_owned(),
        source: "nvml".to_owned(),
        value: Some(v1::claim::Value::Text(value.to_owned())),
    };
    let rows = [
        ("nvml.driver-version", "550.90.07", "550.90.12", 2),
        ("nvidia.driver-version", "550.90.07", "580.65.06", 2),
        ("nvml.gpu.1.vbios", "96.00.9f.00.01", "96.00.9F.00.02", 1),
        ("nvml.gpu.0.pdi", "48b02d0000000001", "48b02d0000000003", 1),
    ];
    for (name, right, wrong, times) in rows {
        for (value, want) in [(right, 0), (wrong, times)] {
            let mut node = Node::new();
            for (number, uuid) in ["GPU-0", "GPU-1"].iter().enumerate() {
                let claim = said(&format!("nvml.gpu.{number}.uuid"), uuid);
                node.case.statement.claims.push(claim);
            }
            let count = v1::claim::Value::Number(2);
            node.case.statement.claims.push(v1::Claim {
                name: "nvml.gpus".to_owned(),
                source: "nvml".to_owned(),
                value: Some(count),
            });
            node.case.statement.claims.push(said(name, value));
            let result = node.result();
            let told = result.deviations().filter(|d| d.code == "gpu-disagreement");
            assert_eq!(told.count(), want, "{name} = {value}");
        }
    }
}

#[test]
fn measurements_and_their_signers_are_judged() {
    use Finding::{Refused, Unchecked};
    let one = |code: &str, finding| vec![(code.to_owned(), finding)];
    let mut other = Node::new();
    let mut said = Said::hopper();
    said.blocks[7].1 = vec![0xee; 48];
    other.ask(ASKED, &said);
    other.trust(true);
    assert_eq!(other.codes(), one("measurement-mismatch", Refused));

    let mut more = Node::new();
    let mut said = Said::hopper();
    said.blocks[41].1 = vec![0xee; 48];
    more.ask(ASKED, &said);
    more.trust(true);
    assert_eq!(more.codes(), one("uncovered-measurement", Finding::Warning));
    more.profile("count = 2", "count = 2\nuncovered = [41]");
    assert_eq!(more.codes(), []);

    let mut none = Node::new();
    none.case.endorsements = Endorsements::as_if_hardware(none.roots());
    assert_eq!(none.codes(), one("rim-missing", Unchecked));
    none.profile("count = 2", "count = 2\nmeasurements = false");
    assert_eq!(none.codes(), []);

    // 2028: the signer's certificate has run out, and a pin says that it counts on.
    let late = UnixTime::from_secs(1_830_000_000);
    let mut node = Node::new();
    let mut digests = Vec::new();
    let mut own = Endorsements::as_if_hardware(node.roots());
    for tag in [driver(), Tag::vbios(&[])] {
        let tag = node.values(tag);
        let rim = node.signer.rim(&tag);
        digests.push(Sha256Digest::of(&[rim.as_bytes()]).to_string());
        assert!(own.add_rim(rim.as_bytes(), late));
    }
    node.case.endorsements = own;
    assert_eq!(node.codes(), one("rim-signer-expired", Refused));
    let expired = node.result();
    let told = expired
        .deviations()
        .filter(|d| d.code == "rim-signer-expired");
    assert_eq!(told.count(), 4, "both files, for each GPU");
    let pins = format!("count = 2\nexpired_rims = true\nrims = {digests:?}");
    node.profile("count = 2", &pins);
    assert_eq!(node.codes(), []);
}

#[test]
fn firmware_is_named_by_drivers_that_can() {
    let mut node = Node::new();
    node.ask(ASKED, &Said::hopper().without(&[20]));
    node.trust(true);
    assert_eq!(
        node.codes(),
        [("fwid-not-reported".to_owned(), Finding::Refused)]
    );
    let mut old = Node::new();
    old.profile("550.54", "535.0");
    old.ask(
        ASKED,
        &Said::hopper().without(&[20]).with(3, b"535.86.09\0"),
    );
    old.trust(true);
    old.profile("count = 2", "count = 2\nmeasurements = false");
    assert_eq!(old.codes(), []);
}

#[test]
fn a_switch_is_no_gpu_and_meets_no_condition_in_the_place_of_one() {
    let of_gpus = ["gpu-mode", "gpu-architecture", "gpu-driver", "gpu-vbios"];
    let with_switch = |instead: bool| {
        let mut node = Node::new();
        let nonce = gpu_nonce(&ASKED, node.case.tpm.ak().name().as_bytes());
        let says = Said {
            nonce,
            ..Said::switch([9; 8], &[[1; 8]; 8])
        };
        let switch = device_of(five_keys(), "LS_10", [9; 8], &says);
        let report = v1::GpuReport {
            uuid: "SWX-0".to_owned(),
            report: switch.report.clone(),
        };
        if instead {
            node.gpus.pop();
            node.reports.reports.pop();
        }
        node.gpus.push(switch);
        node.reports.reports.push(report);
        let all = node.gpus.len();
        node.reports.count = u32::try_from(all).ok();
        node.trust(true);
        let codes = node.codes().into_iter().map(|(code, _)| code);
        codes.collect::<Vec<_>>()
    };
    let beside = with_switch(false);
    let refused = |code: &&str| beside.iter().any(|own| own == code);
    assert!(!of_gpus.iter().any(&refused), "{beside:?}");
    assert!(!refused(&"gpu-count"), "two GPUs, as asked: {beside:?}");
    let instead = with_switch(true);
    assert!(instead.contains(&"gpu-count".to_owned()), "{instead:?}");
}

#[test]
fn of_reference_values_those_in_use_are_asked_for_their_signer() {
    let late = UnixTime::from_secs(1_830_000_000);
    // When the files of another driver, of this one and of the VBIOS came in, and what is told.
    let rows = [
        ("all in time", AT, AT, AT, 0),
        ("the driver's late", AT, late, AT, 2),
        ("the VBIOS's late", AT, AT, late, 2),
        ("another driver's late", late, AT, AT, 0),
        ("all late", late, late, late, 4),
    ];
    for (name, other, driver_at, vbios_at, want) in rows {
        let mut node = Node::new();
        let mut own = Endorsements::as_if_hardware(node.roots());
        let another = Tag {
            version: "999.0.0",
            ..node.values(driver())
        };
        for (tag, at) in [
            (another, other),
            (node.values(driver()), driver_at),
            (node.values(Tag::vbios(&[])), vbios_at),
        ] {
            assert!(own.add_rim(node.signer.rim(&tag).as_bytes(), at), "{name}");
        }
        node.case.endorsements = own;
        let result = node.result();
        let told = result
            .deviations()
            .filter(|d| d.code == "rim-signer-expired");
        assert_eq!(told.count(), want, "{name}");
    }
}

#[test]
fn of_many_measurements_that_differ_the_rest_is_counted() {
    for (wrong, want) in [(8, 16), (9, 18), (12, 18)] {
        let mut node = Node::new();
        let mut said = Said::hopper();
        let covered: Vec<u8> = (40..40 + wrong).collect();
        for index in &covered {
            said.blocks[usize::from(*index)].1 = vec![0xee; 48];
        }
        node.ask(ASKED, &said);
        let mut own = Endorsements::as_if_hardware(node.roots());
        let mut values = node.values(driver());
        let more = Tag::driver(&covered).resources;
        values.resources.extend(more);
        for tag in [values, node.values(Tag::vbios(&[]))] {
            assert!(own.add_rim(node.signer.rim(&tag).as_bytes(), AT));
        }
        node.case.endorsements = own;
        let result = node.result();
        let told = result.deviations();
        let told: Vec<_> = told.filter(|d| d.code == "measurement-mismatch").collect();
        assert_eq!(told.len(), want, "{wrong}");
        let counted = told.iter().filter(|d| d.found.ends_with(" more")).count();
        assert_eq!(counted, if wrong > 8 { 2 } else { 0 }, "{wrong}");
    }
}

#[test]
fn without_a_number_one_gpu_has_to_be_there() {
    let codes = |count: usize| {
        let mut node = Node::new();
        node.profile("count = 2\n", "");
        node.gpus.truncate(count);
        node.reports.reports.truncate(count);
        node.reports.count = u32::try_from(count).ok();
        let codes = node.codes().into_iter().map(|(code, _)| code);
        codes.collect::<Vec<_>>()
    };
    assert_eq!(codes(2), [""; 0]);
    assert_eq!(codes(1), [""; 0]);
    assert_eq!(codes(0), ["gpu-count"]);
}

#[test]
fn gpus_that_protect_their_links_come_with_their_switches() {
    let (protected, single) = ([0xaa], [0x55]);
    let missing = ("topology-incomplete".to_owned(), Finding::Unchecked);
    let rows = [
        ("protected, as asked", "\"ppcie\"", protected, true),
        ("protected or not", "\"spt\", \"ppcie\"", protected, false),
        ("by themselves, as asked", "\"spt\"", single, false),
        (
            "by themselves, protected wanted",
            "\"ppcie\"",
            single,
            false,
        ),
    ];
    for (name, modes, mode, want) in rows {
        let mut node = Node::new();
        node.profile("\"spt\"", modes);
        node.ask(ASKED, &Said::hopper().with(21, &mode));
        node.trust(true);
        assert_eq!(node.codes().contains(&missing), want, "{name}");
    }
}
