//! One report and everything it is held against: made chips under made roots, judged as if they were
//! hardware, and each neighbour that is not believed.

use std::sync::LazyLock;

use super::snp::tests::{Chip, Made, made, milan, table, turin};
use super::tdx::tests::made::{AT as TDX_AT, Made as TdxMade, Plan, made as tdx_made};
use super::tdx::{Collateral, TcbStatus};
use super::*;
use crate::ids::{Sha256Digest, UnixTime};
use crate::x509::{Certificate, RevocationList};

const AT: UnixTime = UnixTime(1_750_000_000_000);
/// What the made reports bind.
const DATA: [u8; 64] = [5; 64];
const FILE: Sha256Digest = Sha256Digest([1; 32]);

static MILAN: LazyLock<Made> = LazyLock::new(|| made(&milan()));

/// What one judgement takes, each part of which a row may spoil.
struct Scene {
    report: Vec<u8>,
    table: Vec<u8>,
    data: [u8; 64],
    endorsements: Endorsements,
    crls: Vec<RevocationList>,
    roots: Vec<Certificate>,
    at: UnixTime,
}

impl Scene {
    /// The operator brought all of it, the host nothing.
    fn of(made: &Made, chip: &Chip) -> Self {
        let all = [&made.key, &made.ask, &made.root].map(Clone::clone);
        Self {
            endorsements: brought(&[(chip, made)], all.to_vec()),
            ..Self::bare(made, chip)
        }
    }

    /// Nobody brought anything.
    fn bare(made: &Made, chip: &Chip) -> Self {
        Self {
            report: made.report.clone(),
            table: Vec::new(),
            data: DATA,
            endorsements: brought(&[(chip, made)], Vec::new()),
            crls: Vec::new(),
            roots: Vec::new(),
            at: AT,
        }
    }

    fn judge(&self) -> Judged {
        let roots: Vec<&Certificate> = self.roots.iter().collect();
        judge(&Asked {
            kind: "sev-snp",
            report: &self.report,
            table: &self.table,
            report_data: &self.data,
            manifest: &[],
            tpm: None,
            endorsements: &self.endorsements,
            crls: &self.crls,
            roots: &roots,
            at: self.at,
        })
    }

    /// What is wrong, each with whether it was refused.
    fn faults(&self) -> Vec<(&'static str, bool)> {
        faults(&self.judge())
    }
}

/// Whose roots are hardware here, and what an operator brought.
fn brought(hardware: &[(&Chip, &Made)], certificates: Vec<Certificate>) -> Endorsements {
    let roots = hardware.iter();
    let roots: Vec<_> = roots
        .map(|(chip, made)| (chip.product, made.root_key()))
        .collect();
    let mut all = Endorsements::default().where_hardware_is(&roots, "");
    assert!(all.add_certificates(FILE, certificates));
    all
}

fn faults(judged: &Judged) -> Vec<(&'static str, bool)> {
    let all = judged.faults.iter();
    all.map(|fault| (fault.code, fault.refused)).collect()
}

/// Any certificate of such firmware might be that of a chip which does not say who it is.
#[test]
fn of_a_chip_that_hides_the_key_that_signed_is_found_among_others() {
    let mut scene = Scene::of(&MILAN, &milan());
    scene.report = MILAN.report_with(&[(0x1a0, &[0; 64])]);
    assert_eq!(scene.faults(), []);
    let others: Vec<Certificate> = (0..5).map(|_| made(&milan()).key.clone()).collect();
    let chain = [&MILAN.ask, &MILAN.root].map(Clone::clone);
    let without = [&others[..], &chain].concat();
    scene.endorsements = brought(&[(&milan(), &MILAN)], without.clone());
    // Another chip's key says nothing of this one: somebody has to bring its own.
    assert_eq!(scene.faults(), [("cvm-key-missing", false)]);
    let with = [&without[..], std::slice::from_ref(&MILAN.key)].concat();
    scene.endorsements = brought(&[(&milan(), &MILAN)], with);
    let judged = scene.judge();
    assert_eq!(faults(&judged), []);
    assert!(judged.proven() && judged.facts.unwrap().chip.is_none());
}

#[test]
fn a_chip_speaks_for_its_guest_whoever_brings_its_certificates() {
    let whole = Scene::of(&MILAN, &milan());
    let judged = whole.judge();
    assert_eq!(faults(&judged), []);
    assert!(judged.signed && judged.hardware && judged.proven());
    assert_eq!(judged.relied_on, [FILE].into());
    let facts = judged.facts.unwrap();
    assert_eq!(facts.chip, Some(format!("SNP-{}", "07".repeat(64))));
    assert_eq!(
        tcb_text(&facts.tcb),
        "bootloader 4, tee 0, snp 22, microcode 213"
    );
    assert_eq!((facts.vmpl, facts.debug), (Some(0), false));
    assert_eq!(facts.measurement, "06".repeat(48));

    let [key, ask, root] = [&MILAN.key, &MILAN.ask, &MILAN.root].map(Certificate::as_der);
    let mut hosts = Scene::bare(&MILAN, &milan());
    hosts.table = table(&[key, ask, root]);
    let judged = hosts.judge();
    assert!(judged.proven());
    assert!(judged.relied_on.is_empty(), "nothing of the operator's");

    // A host that hands over rubbish takes nothing from what the operator brought.
    for (name, bytes) in [
        ("no table", b"rubbish".to_vec()),
        ("no certificate", table(&[b"rubbish"])),
        ("somebody else's", table(&[made(&milan()).key.as_der()])),
    ] {
        let mut scene = Scene::of(&MILAN, &milan());
        scene.table = bytes;
        assert_eq!(scene.faults(), [], "{name}");
    }
    let other = made(&turin());
    let scene = Scene::of(&other, &turin());
    let judged = scene.judge();
    assert!(judged.proven());
    let facts = judged.facts.unwrap();
    assert_eq!(facts.chip, Some(format!("SNP-{}", "09".repeat(8))));
    assert_eq!(
        tcb_text(&facts.tcb),
        "bootloader 3, tee 0, snp 4, microcode 81, fmc 1"
    );

    // A host may have the chip's number left out: then nobody says which it is.
    let mut scene = Scene::of(&MILAN, &milan());
    scene.report = MILAN.report_with(&[(0x1a0, &[0; 64])]);
    let judged = scene.judge();
    assert!(judged.proven());
    assert_eq!(judged.facts.unwrap().chip, None);
}

#[test]
fn what_was_not_signed_for_this_is_refused_and_what_is_missing_is_not() {
    type Row = (
        &'static str,
        fn(&mut Scene),
        &'static [(&'static str, bool)],
    );
    let rows: &[Row] = &[
        ("as it is", |_| {}, &[]),
        (
            "of another statement",
            |s| s.data[0] ^= 1,
            &[("cvm-report-data", true)],
        ),
        (
            "padded with something",
            |s| s.data[63] ^= 1,
            &[("cvm-report-data", true)],
        ),
        (
            "changed by a byte",
            |s| s.report[0x90] ^= 1,
            &[("cvm-signature", true)],
        ),
        (
            "its data changed to fit",
            |s| {
                s.data[0] ^= 1;
                s.report[0x50] ^= 1;
            },
            &[("cvm-signature", true)],
        ),
        (
            "of another chip",
            |s| s.report[0x1a0] ^= 1,
            &[("cvm-key-missing", false)],
        ),
        (
            "asked for by the host",
            |s| s.report = MILAN.report_with(&[(0x30, &[0xff; 4])]),
            &[("cvm-not-of-guest", true)],
        ),
        (
            "signed with no key",
            |s| s.report = MILAN.report_with(&[(0x48, &[7 << 2])]),
            &[("cvm-unsigned", true)],
        ),
        (
            "under newer firmware",
            |s| s.report = MILAN.report_with(&[(0x187, &[214])]),
            &[("cvm-key-missing", false)],
        ),
        (
            "by a provider's key that nobody has",
            |s| s.report = MILAN.report_with(&[(0x48, &[1 << 2])]),
            &[("cvm-key-missing", false)],
        ),
        (
            "of a processor of another line",
            |s| s.report = MILAN.report_with(&[(0x188, &[0x19, 0x11])]),
            &[("cvm-product", true)],
        ),
        (
            "cut short",
            |s| s.report.truncate(1183),
            &[("cvm-malformed", true)],
        ),
        (
            "nobody has its key",
            |s| s.endorsements = brought(&[(&milan(), &MILAN)], vec![MILAN.root.clone()]),
            &[("cvm-key-missing", false)],
        ),
        (
            "nobody has what stands between",
            |s| {
                let known = vec![MILAN.key.clone(), MILAN.root.clone()];
                s.endorsements = brought(&[(&milan(), &MILAN)], known);
            },
            &[("cvm-chain-missing", false)],
        ),
        (
            "nobody has the root",
            |s| {
                let known = vec![MILAN.key.clone(), MILAN.ask.clone()];
                s.endorsements = brought(&[(&milan(), &MILAN)], known);
            },
            &[("cvm-chain-missing", false)],
        ),
        (
            "too late",
            |s| s.at = UnixTime::from_secs(2_300_000_000),
            &[("cvm-certificate-expired", false)],
        ),
    ];
    for (name, edit, want) in rows {
        let mut scene = Scene::of(&MILAN, &milan());
        edit(&mut scene);
        assert_eq!(scene.faults(), *want, "{name}");
    }
    let asked = Asked {
        kind: "sev",
        report: &MILAN.report,
        table: &[],
        report_data: &DATA,
        manifest: &[],
        tpm: None,
        endorsements: &Endorsements::default(),
        crls: &[],
        roots: &[],
        at: AT,
    };
    assert_eq!(faults(&judge(&asked)), [("cvm-kind", false)]);
    let crossed = Asked {
        kind: "tdx",
        ..asked
    };
    assert_eq!(faults(&judge(&crossed)), [("cvm-malformed", true)]);
}

/// A forger makes a chain of his own: with names like AMD's, under a root of his, or under AMD's.
#[test]
fn a_key_that_somebody_made_himself_is_refused() {
    let forged = made(&milan());
    let chain = |made: &Made| {
        let all = [&made.key, &made.ask, &made.root];
        table(&all.map(Certificate::as_der))
    };
    let amd = [MILAN.ask.clone(), MILAN.root.clone()].to_vec();
    let rows: [(&str, Vec<Certificate>, Vec<u8>, &str); 3] = [
        (
            "under a root of his own",
            Vec::new(),
            chain(&forged),
            "cvm-root",
        ),
        (
            "beside the true chain, below whose names his own stand",
            amd.clone(),
            chain(&forged),
            "cvm-root",
        ),
        (
            "below the true chain",
            amd,
            table(&[forged.key.as_der()]),
            "cvm-root",
        ),
    ];
    for (name, known, hosts, code) in rows {
        let mut scene = Scene::bare(&MILAN, &milan());
        scene.endorsements = brought(&[(&milan(), &MILAN)], known);
        scene.report.clone_from(&forged.report);
        scene.table = hosts;
        let judged = scene.judge();
        assert_eq!(faults(&judged), [(code, true)], "{name}");
        assert!(!judged.signed && !judged.proven(), "{name}");
    }
}

/// A root that a profile names lets one look at what is under it, and makes no hardware.
#[test]
fn an_operators_own_root_is_never_hardware() {
    let own = made(&milan());
    let mut scene = Scene::of(&own, &milan());
    scene.endorsements.snp_roots.clear();
    assert_eq!(scene.faults(), [("cvm-root", true)], "named by nobody");
    scene.roots = vec![own.root.clone()];
    let judged = scene.judge();
    assert_eq!(faults(&judged), []);
    assert!(judged.signed && !judged.hardware && !judged.proven());
    scene.roots = vec![MILAN.root.clone()];
    assert_eq!(scene.faults(), [("cvm-root", true)], "another was named");
    // The built-in ones are what a default trusts.
    let mut real = Endorsements::default();
    let all = [&own.key, &own.ask, &own.root].map(Clone::clone);
    real.add_certificates(FILE, all.to_vec());
    scene.endorsements = real;
    scene.roots.clear();
    assert_eq!(scene.faults(), [("cvm-root", true)]);
}

#[test]
fn a_key_that_was_taken_back_is_refused_for_good() {
    let own = made(&milan());
    let mut scene = Scene::of(&own, &milan());
    let unknown = |judged: &Judged| matches!(&judged.revocation, Revocation::Unknown(_));
    assert!(unknown(&scene.judge()), "nobody brought a list");
    scene.crls = vec![own.list(&[], 5)];
    let judged = scene.judge();
    assert_eq!(judged.revocation, Revocation::Good);
    assert!(judged.relied_on.contains(&scene.crls[0].digest()));
    for (name, list) in [
        ("of March", own.list(&[], 3)),
        ("of August", own.list(&[], 8)),
        ("of another root", MILAN.list(&[], 5)),
    ] {
        scene.crls = vec![list];
        let judged = scene.judge();
        assert!(unknown(&judged) && judged.proven(), "{name}");
    }
    // One that ended says nothing good, and what it took back stays so.
    for from in [5, 3] {
        scene.crls = vec![own.list(&[], 5), own.list(&[&own.ask], from)];
        assert_eq!(scene.faults(), [("cvm-revoked", true)], "{from}");
    }
    scene.crls = vec![own.list(&[], 5), own.list(&[&MILAN.root], 5)];
    assert_eq!(scene.faults(), [], "another's serial number");
}

fn tdx_brought(made: &TdxMade, sets: &[serde_json::Value]) -> Endorsements {
    let mut all = Endorsements::default().where_hardware_is(&[], &made.root);
    for (set, number) in sets.iter().zip(1..) {
        let read = Collateral::parse(set.to_string().as_bytes()).unwrap();
        assert!(all.add_collateral(Sha256Digest([number; 32]), read));
    }
    all
}

fn tdx_judge(quote: &[u8], known: &Endorsements, at: UnixTime) -> Judged {
    judge(&Asked {
        kind: "tdx",
        report: quote,
        table: &[],
        report_data: &[0x44; 64],
        manifest: &[],
        tpm: None,
        endorsements: known,
        crls: &[],
        roots: &[],
        at,
    })
}

#[test]
fn a_processor_of_intels_speaks_with_collateral_in_its_time() {
    let made = tdx_made(&Plan::v5());
    let good = made.collateral.publish();
    let known = tdx_brought(&made, std::slice::from_ref(&good));
    let judged = tdx_judge(&made.quote, &known, TDX_AT);
    assert_eq!(faults(&judged), []);
    assert!(judged.proven());
    assert_eq!(judged.revocation, Revocation::Good);
    assert_eq!(judged.relied_on.len(), 1);
    let facts = judged.facts.unwrap();
    assert_eq!(facts.chip, Some(format!("TDX-{}", "09".repeat(16))));
    assert_eq!(facts.tcb_status, Some(TcbStatus::UpToDate));
    assert_eq!(facts.registers.len(), 4);

    let later = UnixTime::from_secs(1_775_000_000);
    let mut changed = made.quote.clone();
    changed[200] ^= 1;
    let judged = |quote: &[u8], known: &Endorsements, at| {
        let judged = tdx_judge(quote, known, at);
        (faults(&judged), judged.signed)
    };
    let none = tdx_brought(&made, &[]);
    let wants = judged(&made.quote, &none, TDX_AT);
    assert_eq!(wants, (vec![("cvm-collateral-missing", false)], true));
    let stale = judged(&made.quote, &known, later);
    assert!(
        stale
            .0
            .iter()
            .all(|fault| *fault == ("cvm-collateral-expired", false))
    );
    assert!(!stale.0.is_empty());
    let forged = judged(&changed, &known, TDX_AT);
    assert_eq!(forged, (vec![("cvm-signature", true)], false));
    let real = Endorsements::default();
    let unknown = judged(&made.quote, &real, TDX_AT);
    assert_eq!(unknown, (vec![("cvm-root", true)], false));
}

#[test]
fn a_partition_of_a_guest_does_not_speak_for_it() {
    for (vmid, want) in [(0, vec![]), (1, vec![("cvm-partition", true)])] {
        let made = tdx_made(&Plan {
            kind: 4,
            vmid,
            ..Plan::v5()
        });
        let known = tdx_brought(&made, &[made.collateral.publish()]);
        let judged = tdx_judge(&made.quote, &known, TDX_AT);
        assert_eq!(faults(&judged), want);
        assert_eq!(judged.proven(), vmid == 0);
    }
}

#[test]
fn of_two_editions_the_newer_counts_and_neither_hides_what_the_other_takes_back() {
    let mut made = tdx_made(&Plan::v4());
    let first = made.collateral.publish();
    let first_number = made.collateral.tcb_info["tcbEvaluationDataNumber"].clone();
    made.collateral.tcb_info["tcbEvaluationDataNumber"] = 19.into();
    made.collateral.tcb_info["tcbLevels"][0]["tcbStatus"] = "OutOfDate".into();
    let newer = made.collateral.publish();
    made.collateral.tcb_info["tcbEvaluationDataNumber"] = first_number;
    let alike = made.collateral.publish();
    made.collateral.tcb_info["tcbEvaluationDataNumber"] = 19.into();
    made.collateral.tcb_info["tcbLevels"][0]["tcbStatus"] = "Revoked".into();
    let revoking = made.collateral.publish();
    let mut forged = first.clone();
    forged["tcb_info_signature"] = "00".repeat(64).into();
    let status = |sets: &[&serde_json::Value]| {
        let sets: Vec<_> = sets.iter().map(|set| (*set).clone()).collect();
        let judged = tdx_judge(&made.quote, &tdx_brought(&made, &sets), TDX_AT);
        let found = faults(&judged);
        (judged.facts.unwrap().tcb_status, found)
    };
    for sets in [[&first, &newer], [&newer, &first]] {
        assert_eq!(status(&sets), (Some(TcbStatus::OutOfDate), vec![]));
    }
    // Of two under one number, the one that was brought first.
    assert_eq!(status(&[&first, &alike]).0, Some(TcbStatus::UpToDate));
    assert_eq!(status(&[&alike, &first]).0, Some(TcbStatus::OutOfDate));
    for sets in [[&first, &revoking], [&revoking, &first]] {
        assert_eq!(status(&sets), (None, vec![("cvm-tcb", true)]));
    }
    assert_eq!(status(&[&forged, &first]).0, Some(TcbStatus::UpToDate));
    assert_eq!(status(&[&forged]), (None, vec![("cvm-collateral", false)]));
}

/// Told before the bar is raised, of a report that answers nobody's question any more.
#[test]
fn a_coming_edition_says_whose_firmware_falls_short() {
    let mut made = tdx_made(&Plan::v5());
    let known = tdx_brought(&made, &[made.collateral.publish()]);
    let mut coming = |status: &str, date: &str| {
        let info = &mut made.collateral.tcb_info;
        info["issueDate"] = date.into();
        info["tcbLevels"][0]["tcbStatus"] = status.into();
        tdx_brought(&made, &[made.collateral.publish()])
    };
    let soon = "2026-01-20T00:00:00Z";
    let rows = [
        ("as it is", coming("UpToDate", soon), "UpToDate", false),
        ("out of date", coming("OutOfDate", soon), "OutOfDate", true),
        ("taken back", coming("Revoked", soon), "cvm-tcb", true),
        (
            "in force already",
            coming("OutOfDate", "2026-01-05T10:00:00Z"),
            "OutOfDate",
            true,
        ),
    ];
    let none = tdx_brought(&made, &[]);
    let asked = Asked {
        kind: "tdx",
        report: &made.quote,
        table: &[],
        report_data: &[0; 64],
        manifest: &[],
        tpm: None,
        endorsements: &known,
        crls: &[],
        roots: &[],
        at: TDX_AT,
    };
    for (name, coming, then, turns) in &rows {
        let turn = turn(&asked, coming);
        assert_eq!(
            (turn.now.as_str(), turn.then.as_str()),
            ("UpToDate", *then),
            "{name}"
        );
        assert_eq!(turn.turns(), *turns, "{name}");
        assert_eq!(turn.because.is_empty(), *then != "cvm-tcb", "{name}");
        assert_eq!(
            turn.chip,
            Some(format!("TDX-{}", "09".repeat(16))),
            "{name}"
        );
    }
    assert_eq!(turn(&asked, &none).then, "cvm-collateral-missing");
}

#[test]
fn files_of_certificates_are_read_whole_or_not() {
    let [key, ask] = [&MILAN.key, &MILAN.ask].map(|one| one.as_der().to_vec());
    let pem = |der: &[u8]| crate::x509::pem_block("CERTIFICATE", der);
    let both = pem(&key) + &pem(&ask);
    for (name, file, count) in [
        ("DER", key.clone(), 1),
        ("PEM", pem(&key).into_bytes(), 1),
        ("two", both.clone().into_bytes(), 2),
    ] {
        assert_eq!(parse_certificates(&file).unwrap().len(), count, "{name}");
    }
    let own = [
        ("a key", key.clone(), true),
        ("with what stands above", both.clone().into_bytes(), true),
        (
            "a root that may be anybody's",
            MILAN.root.as_der().to_vec(),
            false,
        ),
        ("nothing", Vec::new(), false),
    ];
    for (name, file, is) in own {
        assert_eq!(is_certificates(&file), is, "{name}");
    }
    let broken = both + &pem(b"none");
    for (name, file) in [
        ("nothing", Vec::new()),
        ("something else", b"read me".to_vec()),
        ("one of three", broken.into_bytes()),
        ("too long", vec![b' '; MAX_CERTIFICATES_BYTES + 1]),
    ] {
        assert!(parse_certificates(&file).is_err(), "{name}");
    }
}
