//! What was verified before costs no signature again, and is held against everything else anew.

use super::lists::list;
use super::made::{AT, Made, NONCE, Said, device_of, five_keys, hopper};
use super::responses::{Says, good};
use crate::gpu::{
    Anchors, Answer, Asked, CrlRefused, DeviceRefused, Evidence, GoodSignatures, OcspRefused,
    Response, appraise, parse_crl,
};
use crate::ids::UnixTime;
use crate::x509::RevocationList;

struct Brought {
    ocsp: Vec<Response>,
    crls: Vec<RevocationList>,
}

/// A response about the chip, and a list that names nobody.
fn brought(made: &Made) -> Brought {
    let (certificates, keys) = (&made.chain.certificates, &made.chain.keys);
    let says = Says {
        subject: &certificates[1],
        issuer: &certificates[2],
        serial: None,
        status: good(),
        next: true,
        by: &keys[2],
        responder: None,
        extension: Vec::new(),
    };
    Brought {
        ocsp: vec![Response::parse(&says.der()).unwrap()],
        crls: vec![parse_crl(&list(&made.chain, 3, &[], |_| ())).unwrap()],
    }
}

fn judged<'a>(
    evidence: &'a [Evidence<'a>],
    anchors: &'a Anchors,
    brought: &'a Brought,
    at: UnixTime,
    memory: Option<&'a GoodSignatures>,
) -> Answer<'a> {
    appraise(&Asked {
        devices: evidence,
        anchors,
        nonce: Some(NONCE),
        ocsp: &brought.ocsp,
        crls: &brought.crls,
        rims: &[],
        at,
        memory,
    })
}

/// Everything that is wrong, in words.
fn wrong(answer: &Answer<'_>) -> Vec<&'static str> {
    let devices = answer.devices.iter().flat_map(|one| &one.refused);
    let responses = answer.ocsp_refused.iter().map(|(_, why)| why);
    let lists = answer.crl_refused.iter().map(|(_, why)| why);
    devices
        .map(DeviceRefused::code)
        .chain(responses.map(OcspRefused::code))
        .chain(lists.map(CrlRefused::code))
        .collect()
}

#[test]
fn a_memory_changes_no_answer() {
    let made = hopper(&Said::hopper());
    let stranger = hopper(&Said::hopper());
    let (own, others) = (made.chain.anchors(), stranger.chain.anchors());
    let brought = brought(&made);
    let memory = GoodSignatures::new(64);
    let evidence = [made.evidence()];
    let first = judged(&evidence, &own, &brought, AT, Some(&memory));
    assert_eq!((wrong(&first), first.revocation.len()), (vec![], 2));
    // Four certificates, the report, the response, the list.
    assert_eq!(memory.len(), 7);

    let mut report = made.report.clone();
    report[60] ^= 1;
    let changed = [Evidence {
        report: &report,
        ..made.evidence()
    }];
    let mut bundle = made.bundle.clone();
    bundle.certificates[2] = stranger.chain.certificates[2].clone();
    let mixed = [Evidence {
        chain: Some(&bundle),
        ..made.evidence()
    }];
    let foreign = [Evidence {
        report: &stranger.report,
        ..made.evidence()
    }];
    let secs = UnixTime::from_secs;
    type Row<'a> = (
        &'a str,
        &'a [Evidence<'a>],
        &'a Anchors,
        UnixTime,
        &'a [&'a str],
    );
    let rows: [Row<'_>; 7] = [
        ("the same again", &evidence, &own, AT, &[]),
        (
            "when certificates have ended",
            &evidence,
            &own,
            secs(2_300_000_000),
            &["chain-expired", "ocsp-expired", "crl-expired"],
        ),
        (
            "when the response has ended",
            &evidence,
            &own,
            secs(1_767_400_000),
            &["ocsp-expired"],
        ),
        ("under other roots", &evidence, &others, AT, &["chain-root"]),
        ("another report", &foreign, &own, AT, &["report-signature"]),
        (
            "a bit of the report",
            &changed,
            &own,
            AT,
            &["report-signature"],
        ),
        (
            "a certificate of another chain",
            &mixed,
            &own,
            AT,
            &["chain-signature", "ocsp-not-for-certificate"],
        ),
    ];
    for (name, evidence, anchors, at, want) in rows {
        let mut found = wrong(&judged(evidence, anchors, &brought, at, Some(&memory)));
        let anew = wrong(&judged(evidence, anchors, &brought, at, None));
        assert_eq!(found, anew, "{name}");
        found.dedup();
        for code in want {
            assert!(found.contains(code), "{name}: {found:?}");
        }
        assert_eq!(found.is_empty(), want.is_empty(), "{name}: {found:?}");
    }

    // What its issuer takes back after that is taken back.
    let taken = list(&made.chain, 3, &[&made.chain.certificates[2]], |_| ());
    let later = Brought {
        crls: vec![parse_crl(&taken).unwrap()],
        ocsp: Vec::new(),
    };
    let answer = judged(&evidence, &own, &later, AT, Some(&memory));
    assert_eq!(wrong(&answer), ["crl-revoked"]);
}

#[test]
fn only_the_report_is_verified_where_the_chain_was() {
    let (keys, chip) = (five_keys(), [1, 2, 3, 4, 5, 6, 7, 8]);
    let made = device_of(keys, "GH100", chip, &Said::hopper());
    let anchors = made.chain.anchors();
    let brought = brought(&made);
    let memory = GoodSignatures::new(64);
    let mut before = 0;
    for number in 0..5u32 {
        let said = Said::hopper().with(13, &number.to_be_bytes());
        let report = said.signed(&made.chain.keys[0]);
        let evidence = [Evidence {
            report: &report,
            ..made.evidence()
        }];
        let answer = judged(&evidence, &anchors, &brought, AT, Some(&memory));
        assert_eq!(wrong(&answer), [""; 0]);
        let now = memory.len();
        assert_eq!(now - before, if number == 0 { 7 } else { 1 }, "{number}");
        before = now;
    }
}
