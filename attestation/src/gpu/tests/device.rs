//! Report and chain together, and several devices as a set.

use rcgen::{CustomExtension, KeyPair};

use super::made::{
    AT, COMPOSITE, FWID, Made, NONCE, Said, TCB_INFO, composite, device_of, device_with, five_keys,
    hopper, p384, tcb_info, tlv,
};
use crate::gpu::{
    Architecture, Checked, DeviceRefused, Evidence, FwidState, Pdi, Topology, judge, judge_set,
    parse_evidence,
};
use crate::ids::UnixTime;
use crate::x509::{Bundle, pem_block};

const NONE: [&str; 0] = [];

fn extension(id: &[u64], content: Vec<u8>) -> CustomExtension {
    CustomExtension::from_oid_content(id, content)
}

/// A Blackwell whose leaf has that `DiceTcbInfo`.
fn blackwell(info: &[u8]) -> Made {
    let said = Said::hopper().with(4, &0x1a0_u64.to_le_bytes());
    device_with(five_keys(), "GB100", [1; 8], &said, |_| {
        vec![extension(&TCB_INFO, info.to_vec())]
    })
}

#[test]
fn a_device_is_believed_and_each_field_stands_alone() {
    let made = hopper(&Said::hopper());
    let judged = made.judged(&made.chain.anchors());
    assert_eq!(judged.refused, []);
    assert_eq!(
        (judged.signature, judged.chain, judged.fwid),
        (Checked::Good, Checked::Good, FwidState::Match)
    );
    assert_eq!(judged.architecture, Some(Architecture::Hopper));
    let identity = judged.identity.clone().unwrap();
    assert_eq!(
        (identity.chip.as_str(), identity.pdi),
        ("GH100", Some([1, 2, 3, 4, 5, 6, 7, 8]))
    );
    assert_eq!(
        judged.driver_rim_id().as_deref(),
        Some("NV_GPU_DRIVER_GH100_550.90.07")
    );
    assert_eq!(
        judged.vbios_rim_id().as_deref(),
        Some("NV_GPU_VBIOS_1010_0200_882_96009F0001")
    );
    let untrusted = made.judged(&crate::gpu::Anchors::device());
    assert_eq!(
        (untrusted.signature, untrusted.chain, untrusted.fwid),
        (Checked::Good, Checked::Bad, FwidState::Match)
    );
    let alone = Evidence {
        chain: None,
        ..made.evidence()
    };
    let alone = judge(alone, &made.chain.anchors(), None, AT);
    assert_eq!(alone.refused, []);
    assert_eq!(
        (alone.signature, alone.chain, alone.fwid),
        (
            Checked::NotChecked,
            Checked::NotChecked,
            FwidState::NotChecked
        )
    );
}

#[test]
fn a_report_goes_with_one_chain_and_one_challenge() {
    let (one, other) = (hopper(&Said::hopper()), hopper(&Said::hopper()));
    let codes = |evidence: Evidence<'_>, nonce: [u8; 32], at: UnixTime| -> Vec<&'static str> {
        let judged = judge(evidence, &one.chain.anchors(), Some(nonce), at);
        judged.refused.iter().map(DeviceRefused::code).collect()
    };
    let stated = |stated_nonce| Evidence {
        stated_nonce,
        ..one.evidence()
    };
    let of_other = Evidence {
        report: &other.report,
        ..one.evidence()
    };
    let mut near = NONCE;
    near[31] ^= 1;
    let early = UnixTime::from_secs(1_500_000_000);
    for (name, evidence, nonce, at, want) in [
        ("as made", stated(Some(NONCE)), NONCE, AT, &[][..]),
        (
            "another challenge",
            stated(None),
            near,
            AT,
            &["nonce-mismatch"],
        ),
        (
            "the responder's nonce",
            stated(None),
            [0x5e; 32],
            AT,
            &["nonce-mismatch"],
        ),
        (
            "said to answer another",
            stated(Some(near)),
            NONCE,
            AT,
            &["nonce-mismatch"],
        ),
        (
            "another device's report",
            of_other,
            NONCE,
            AT,
            &["report-signature"],
        ),
        (
            "before it was made",
            stated(None),
            NONCE,
            early,
            &["chain-not-yet-valid"; 5],
        ),
    ] {
        assert_eq!(codes(evidence, nonce, at), want, "{name}");
    }
    let broken = Bundle {
        certificates: one.chain.certificates[1..].to_vec(),
        unreadable: vec![(0, crate::x509::Certificate::parse(&[0x30]).unwrap_err())],
    };
    let unread = Evidence {
        chain: Some(&broken),
        ..one.evidence()
    };
    assert_eq!(
        codes(unread, NONCE, AT),
        ["certificate-unreadable", "chain-length"]
    );
    let judged = judge(unread, &one.chain.anchors(), None, AT);
    assert_eq!(
        (judged.signature, judged.chain),
        (Checked::NotChecked, Checked::Bad)
    );
}

#[test]
fn the_leaf_names_the_firmware_and_the_chip_it_is_of() {
    let said = Said::hopper();
    let with = |make: &dyn Fn(&[u8]) -> Vec<CustomExtension>| {
        let keys = five_keys();
        device_with(keys, "GH100", [1; 8], &said, make).wrong()
    };
    let own = |der: Vec<u8>| vec![extension(&COMPOSITE, der)];
    let foreign = rcgen::PublicKeyData::subject_public_key_info(&p384());
    let mut other = FWID;
    other[47] ^= 1;
    assert_eq!(with(&|chip| own(composite(chip, &FWID))), NONE);
    assert_eq!(
        with(&|chip| own(composite(chip, &other))),
        ["fwid-mismatch"]
    );
    assert_eq!(
        with(&|_| own(composite(&foreign, &FWID))),
        ["device-id-mismatch"]
    );
    assert_eq!(with(&|_| Vec::new()), ["fwid-mismatch"]);
    // Without it in the report there is nothing to compare, and the rest is still looked at.
    let silent = said.clone().without(&[20]);
    let keys = five_keys();
    let made = device_with(keys, "GH100", [1; 8], &silent, |_| {
        own(composite(&foreign, &FWID))
    });
    assert_eq!(made.wrong(), ["device-id-mismatch"]);
    for (name, edit) in [("another version", 4), ("another hash", 140)] {
        let made = device_with(five_keys(), "GH100", [1; 8], &said, |chip| {
            let mut der = composite(chip, &FWID);
            let place = if edit == 4 { 5 } else { der.len() - 51 };
            der[place] ^= 0x02;
            own(der)
        });
        assert_eq!(made.wrong(), ["fwid-mismatch", "fwid-malformed"], "{name}");
    }
    let twice = |chip: &[u8]| {
        vec![
            extension(&TCB_INFO, tcb_info(&[other], [0x80, 0, 0, 1])),
            extension(&COMPOSITE, composite(chip, &FWID)),
        ]
    };
    assert_eq!(with(&twice), ["fwid-mismatch", "fwid-malformed"]);
}

#[test]
fn a_device_that_says_it_is_open_is_refused() {
    let zero = [0; 48];
    for (name, flags, want) in [
        ("not configured", [0x80, 0, 0, 1], &[][..]),
        ("nothing", [0; 4], &[]),
        ("not secure", [0x40, 0, 0, 0], &["device-debug"]),
        ("recovery", [0xa0, 0, 0, 1], &["device-debug"]),
        ("debug", [0x90, 0, 0, 1], &["device-debug"]),
        ("another", [0x08, 0, 0, 1], &[]),
    ] {
        assert_eq!(
            blackwell(&tcb_info(&[FWID, zero], flags)).wrong(),
            want,
            "{name}"
        );
    }
    assert_eq!(
        blackwell(&tcb_info(&[zero, FWID], [0; 4])).wrong(),
        ["fwid-mismatch"]
    );
    let out_of_order = tlv(0x30, &[&tlv(0x87, &[&[0, 0]]), &tlv(0x83, &[&[1]])]);
    let twice = tlv(0x30, &[&tlv(0x87, &[&[0, 0]]), &tlv(0x87, &[&[0, 0x40]])]);
    let many = tcb_info(&[FWID; 9], [0; 4]);
    for (name, info) in [
        ("out of order", out_of_order),
        ("flags twice", twice),
        ("many", many),
    ] {
        let wrong = blackwell(&info).wrong();
        assert!(wrong.contains(&"fwid-malformed"), "{name}: {wrong:?}");
    }
}

#[test]
fn the_architecture_is_in_the_signed_data() {
    let hopper_says = Said::hopper();
    let blackwell_says = Said::hopper().with(4, &0x1a0_u64.to_le_bytes());
    let switch_says = Said::switch([9; 8], &[[1; 8]; 8]);
    let unknown_says = Said::hopper().with(4, &0x190_u64.to_le_bytes());
    use Architecture::{Blackwell, Hopper, Ls10};
    for (name, chip, said, want, arch) in [
        ("Hopper", "GH100", &hopper_says, &[][..], Some(Hopper)),
        ("Blackwell", "GB100", &blackwell_says, &[], Some(Blackwell)),
        ("RTX PRO", "GB202", &blackwell_says, &[], Some(Blackwell)),
        ("switch", "LS_10", &switch_says, &[], Some(Ls10)),
        (
            "number not known",
            "GH100",
            &unknown_says,
            &[],
            Some(Hopper),
        ),
        (
            "Blackwell under a Hopper's key",
            "GH100",
            &blackwell_says,
            &["arch-mismatch"],
            Some(Hopper),
        ),
        (
            "GPU under a switch's key",
            "LS_10",
            &hopper_says,
            &["arch-mismatch"],
            Some(Ls10),
        ),
        (
            "switch under a GPU's key",
            "GH100",
            &switch_says,
            &["arch-mismatch"],
            Some(Hopper),
        ),
        (
            "another chip",
            "GR100",
            &hopper_says,
            &["unknown-architecture"],
            None,
        ),
    ] {
        let made = device_of(five_keys(), chip, [1; 8], said);
        assert_eq!(made.wrong(), want, "{name}");
        assert_eq!(
            made.judged(&made.chain.anchors()).architecture,
            arch,
            "{name}"
        );
    }
    let named = blackwell_says
        .clone()
        .with(34, &[1, 0])
        .with(35, b"GB102\0");
    for (said, want) in [
        (&blackwell_says, "NV_GPU_CC_DRIVER_GB100_550.90.07"),
        (&named, "NV_GPU_CC_DRIVER_GB102_550.90.07"),
    ] {
        let made = device_of(five_keys(), "GB100", [1; 8], said);
        let judged = made.judged(&made.chain.anchors());
        assert_eq!(judged.driver_rim_id().as_deref(), Some(want));
    }
    let made = device_of(five_keys(), "LS_10", [1; 8], &switch_says);
    let judged = made.judged(&made.chain.anchors());
    assert_eq!(judged.driver_rim_id(), None);
    assert_eq!(
        judged.vbios_rim_id().as_deref(),
        Some("NV_SWITCH_BIOS_5612_0002_890_9610730001")
    );
}

/// Eight GPUs and four switches that name each other, under one root.
struct Set {
    gpus: Vec<(Pdi, Said)>,
    switches: Vec<(Pdi, Said)>,
}

impl Set {
    fn whole() -> Self {
        let pdi = |n: u8| [n, 2, 3, 4, 5, 6, 7, n];
        let gpu_pdis: Vec<Pdi> = (1..=8).map(pdi).collect();
        let switch_pdis: Vec<Pdi> = (101..=104).map(pdi).collect();
        let mut links: Vec<u8> = vec![0; 8];
        for pdi in switch_pdis.iter().chain(&switch_pdis) {
            links.extend(pdi.iter().rev());
        }
        let gpu = Said::hopper().with(21, &[0xaa]).with(22, &links);
        Self {
            gpus: gpu_pdis.iter().map(|pdi| (*pdi, gpu.clone())).collect(),
            switches: switch_pdis
                .iter()
                .map(|pdi| (*pdi, Said::switch(*pdi, &gpu_pdis)))
                .collect(),
        }
    }

    /// What the set makes, and how many things are wrong with it.
    fn judged(&self) -> (Option<Topology>, usize) {
        // Keys of the CAs may be shared: each leaf still signs for itself.
        let above = p384().serialize_der();
        let keys = || -> Vec<KeyPair> {
            let shared = || KeyPair::try_from(above.as_slice()).unwrap();
            vec![p384(), p384(), shared(), shared(), shared()]
        };
        let made = |chip: &str, members: &[(Pdi, Said)]| -> Vec<Made> {
            let one = |(pdi, said): &(Pdi, Said)| device_of(keys(), chip, *pdi, said);
            members.iter().map(one).collect()
        };
        let mut all = made("GH100", &self.gpus);
        all.extend(made("LS_10", &self.switches));
        let judged: Vec<_> = all
            .iter()
            .map(|made| judge(made.evidence(), &made.chain.anchors(), None, AT))
            .collect();
        assert!(judged.iter().all(|device| device.refused.is_empty()));
        let (topology, refused) = judge_set(&judged);
        assert!(refused.iter().all(|why| why.code() == "topology"));
        (topology, refused.len())
    }
}

#[test]
fn a_protected_set_is_whole_or_refused() {
    type Row = (&'static str, fn(&mut Set), (Option<Topology>, usize));
    let rows: [Row; 15] = [
        ("whole", |_| (), (Some(Topology::Whole), 0)),
        (
            "without switches",
            |set| set.switches.clear(),
            (Some(Topology::Incomplete), 0),
        ),
        ("without GPUs", |set| set.gpus.clear(), (None, 0)),
        (
            "GPUs by themselves",
            |set| {
                set.switches.clear();
                for (_, said) in &mut set.gpus {
                    *said = said.clone().with(21, &[0x55]);
                }
            },
            (None, 0),
        ),
        // The count, and four switches that name eight others.
        (
            "seven GPUs",
            |set| set.gpus.truncate(7),
            (Some(Topology::Bad), 5),
        ),
        // The count, and eight GPUs that are linked to a fourth.
        (
            "three switches",
            |set| set.switches.truncate(3),
            (Some(Topology::Bad), 9),
        ),
        (
            "one GPU in place of another",
            |set| set.gpus[7].0 = [77; 8],
            (Some(Topology::Bad), 4),
        ),
        (
            "one GPU twice",
            |set| set.gpus[7] = set.gpus[0].clone(),
            (Some(Topology::Bad), 5),
        ),
        (
            "one GPU twice, alone",
            |set| {
                set.switches.clear();
                set.gpus = vec![(set.gpus[0].0, Said::hopper()); 2];
            },
            (Some(Topology::Bad), 1),
        ),
        (
            "a GPU in another mode",
            |set| set.gpus[3].1 = set.gpus[3].1.clone().with(21, &[0x55]),
            (Some(Topology::Bad), 1),
        ),
        (
            "a GPU that names no switch",
            |set| set.gpus[3].1 = set.gpus[3].1.clone().without(&[22]),
            (Some(Topology::Bad), 1),
        ),
        (
            "a switch that names itself otherwise",
            |set| set.switches[0].1 = set.switches[0].1.clone().with(22, &[7; 8]),
            (Some(Topology::Bad), 1),
        ),
        (
            "a switch that is not locked",
            |set| set.switches[1].1 = set.switches[1].1.clone().with(25, &[0, 0]),
            (Some(Topology::Bad), 1),
        ),
        (
            "a switch of another set",
            |set| set.switches[2].1 = set.switches[2].1.clone().with(26, &[3; 128]),
            (Some(Topology::Bad), 1),
        ),
        (
            "one asked at another time",
            |set| set.switches[3].1.nonce = [0; 32],
            (Some(Topology::Bad), 1),
        ),
    ];
    for (name, edit, want) in rows {
        let mut set = Set::whole();
        edit(&mut set);
        assert_eq!(set.judged(), want, "{name}");
    }
}

#[test]
fn evidence_is_read_in_the_forms_it_is_passed_around() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let made = hopper(&Said::hopper());
    let certificates = made.chain.certificates.iter();
    let pem: String = certificates
        .map(|one| pem_block("CERTIFICATE", one.as_der()))
        .collect();
    let packed = STANDARD.encode(&made.report);
    let entry = |evidence: &str, certificate: &str| {
        serde_json::json!({
            "arch": "HOPPER", "nonce": hex::encode(NONCE), "version": "1.0",
            "evidence": evidence, "certificate": certificate,
        })
    };
    let usual = entry(&packed, &STANDARD.encode(&pem));
    for (name, file, count) in [
        ("a list", serde_json::json!([usual]), 1),
        ("two", serde_json::json!([usual, usual]), 2),
        ("one", usual.clone(), 1),
        (
            "as the agent collects it",
            serde_json::json!({"mode": {"Ok": {}}, "evidence": [usual, usual], "stopped": null}),
            2,
        ),
        (
            "report in hex",
            serde_json::json!([entry(&hex::encode(&made.report), &pem)]),
            1,
        ),
    ] {
        let stored = parse_evidence(file.to_string().as_bytes()).unwrap();
        assert_eq!(stored.len(), count, "{name}");
        for one in &stored {
            assert_eq!(one.report, made.report, "{name}");
            assert_eq!(one.chain, pem.as_bytes(), "{name}");
            assert_eq!(one.nonce, Some(NONCE), "{name}");
            assert_eq!(one.architecture.as_deref(), Some("HOPPER"), "{name}");
        }
    }
    let mut short_nonce = usual.clone();
    short_nonce["nonce"] = "00".into();
    let mut no_certificate = usual.clone();
    no_certificate
        .as_object_mut()
        .unwrap()
        .remove("certificate");
    for (name, file) in [
        ("no device", "[]".to_owned()),
        ("no JSON", "{".to_owned()),
        ("nonce of another length", short_nonce.to_string()),
        ("no certificate", no_certificate.to_string()),
        ("report in neither", entry("*", &pem).to_string()),
        (
            "too many",
            serde_json::Value::from(vec![entry("", ""); 65]).to_string(),
        ),
    ] {
        assert!(parse_evidence(file.as_bytes()).is_err(), "{name}");
    }
}
