//! A guest whose processor speaks for it, and each neighbour that is not believed.

use std::sync::LazyLock;

use super::*;
use crate::{
    cvm::snp::{
        Product,
        tests::{Made, made, milan},
    },
    cvm::tdx::{Collateral, tests::made as intel},
    evidence::tee_report_data,
    profile::{Provenance, Value},
    x509::Certificate,
};

const FILE: Sha256Digest = Sha256Digest([8; 32]);

static MILAN: LazyLock<Made> = LazyLock::new(|| made(&milan()));

struct Guest {
    case: Case,
    /// Bytes put over the report, before it is signed over this statement.
    over: Vec<(usize, Vec<u8>)>,
    /// What the chip binds instead of what it should.
    data: Option<[u8; 64]>,
    /// Spoils what travels.
    edit: fn(&mut v1::TeeEvidence),
    absent: bool,
}

impl Guest {
    /// Its profile has `[cvm]` with these keys, nothing asked of revocation unless they do, and its operator brought all certificates.
    fn with(section: &str) -> Self {
        let mut case = Case::ordinary();
        // In a guest it is its provider's word.
        case.profile = case.profile.replace("hardware-signed", "provider-signed");
        let unasked = match section.contains("revocation") {
            true => "",
            false => "revocation = false\n",
        };
        case.profile = format!("{}\n[cvm]\n{unasked}{section}\n", case.profile);
        let processors = &mut case.endorsements.processors;
        *processors = processors
            .clone()
            .where_hardware_is(&[(Product::Milan, MILAN.root_key())], "");
        let all = [&MILAN.key, &MILAN.ask, &MILAN.root].map(Certificate::clone);
        assert!(processors.add_certificates(FILE, all.to_vec()));
        Self {
            case,
            over: Vec::new(),
            data: None,
            edit: |_| {},
            absent: false,
        }
    }

    fn appraise(&self) -> AttestationResult {
        let case = &self.case;
        let statement = encode(&case.statement);
        let mut evidence = case.tpm.evidence(&statement, &case.freshness);
        let ak = case.tpm.ak();
        let data = tee_report_data(&case.freshness, &statement, ak.name().as_bytes());
        let data = self.data.unwrap_or(data);
        let mut over: Vec<(usize, &[u8])> = vec![(0x50, &data)];
        over.extend(self.over.iter().map(|(at, what)| (*at, what.as_slice())));
        let mut tee = v1::TeeEvidence {
            report: Some(v1::TeeReport {
                kind: "sev-snp".to_owned(),
                report: MILAN.report_with(&over),
            }),
            ..v1::TeeEvidence::default()
        };
        (self.edit)(&mut tee);
        evidence.tee = (!self.absent).then(|| Box::new(tee));
        let verified = VerifiedEvidence::verify(&evidence, &ak, &case.freshness).unwrap();
        case.appraise_verified(&verified)
    }
}

fn codes(result: &AttestationResult) -> Vec<&str> {
    result.deviations().map(|it| it.code.as_str()).collect()
}

fn claim(result: &AttestationResult, name: &str) -> Option<AppraisedClaim> {
    result.submods.get("cvm")?.claims.get(name).cloned()
}

#[test]
fn a_guest_is_affirmed_by_its_processor_and_its_claims_are_hardwares() {
    let result = Guest::with("").appraise();
    assert_eq!((result.status, codes(&result)), (Status::Affirming, vec![]));
    let submod = &result.submods["cvm"];
    let by = submod.claims.values().map(|claim| claim.provenance);
    assert!(by.clone().count() > 10);
    assert!(by.into_iter().all(|by| by == Provenance::HardwareSigned));
    let chip = claim(&result, "cvm.chip_id").unwrap();
    assert_eq!(chip.value, Value::Text(format!("SNP-{}", "07".repeat(64))));
    assert_eq!(
        claim(&result, "cvm.tcb.snp").unwrap().value,
        Value::Number(22)
    );
    assert!(result.shows("cvm.hardware"));
    assert!(result.endorsements.contains(&FILE));
    // A node without one has no such part.
    let ordinary = Case::ordinary().appraise();
    assert!(!ordinary.submods.contains_key("cvm"));
}

#[test]
fn each_attack_on_a_report_is_refused_and_each_lack_is_not() {
    use Status::{Affirming, Contraindicated, None as Undecided};
    type Attack = (
        &'static str,
        &'static str,
        fn(&mut Guest),
        Status,
        &'static str,
    );
    let attacks: &[Attack] = &[
        ("as it is", "", |_| {}, Affirming, ""),
        (
            "for another statement",
            "",
            |g| {
                let other = encode(&statement(6, None));
                let ak = g.case.tpm.ak();
                let name = ak.name();
                g.data = Some(tee_report_data(&CHALLENGE, &other, name.as_bytes()));
            },
            Contraindicated,
            "cvm-report-data",
        ),
        (
            "played again from an earlier challenge",
            "",
            |g| {
                let before = Freshness::Challenged(Nonce::new([5; 32]));
                let bytes = encode(&g.case.statement);
                let ak = g.case.tpm.ak();
                g.data = Some(tee_report_data(&before, &bytes, ak.name().as_bytes()));
            },
            Contraindicated,
            "cvm-report-data",
        ),
        (
            "of a guest with another TPM",
            "",
            |g| {
                let bytes = encode(&g.case.statement);
                let other = SoftTpm::new().ak();
                g.data = Some(tee_report_data(&CHALLENGE, &bytes, other.name().as_bytes()));
            },
            Contraindicated,
            "cvm-report-data",
        ),
        (
            "changed by a byte",
            "",
            |g| {
                g.edit = |tee| tee.report.as_mut().unwrap().report[0x91] ^= 1;
            },
            Contraindicated,
            "cvm-signature",
        ),
        (
            "cut short",
            "",
            |g| {
                g.edit = |tee| tee.report.as_mut().unwrap().report.truncate(1183);
            },
            Contraindicated,
            "cvm-malformed",
        ),
        (
            "of a guest its host may read",
            "",
            |g| g.over.push((0x0a, vec![8])),
            Contraindicated,
            "cvm-debug",
        ),
        (
            "that, and allowed",
            "debug = true",
            |g| g.over.push((0x0a, vec![8])),
            Affirming,
            "",
        ),
        (
            "asked for by the host",
            "",
            |g| g.over.push((0x30, vec![0xff; 4])),
            Contraindicated,
            "cvm-not-of-guest",
        ),
        (
            "from a level below",
            "max_vmpl = 1",
            |g| g.over.push((0x30, vec![2])),
            Contraindicated,
            "cvm-vmpl",
        ),
        (
            "from the last level that may",
            "max_vmpl = 1",
            |g| g.over.push((0x30, vec![1])),
            Affirming,
            "",
        ),
        (
            "of another kind of processor",
            "technologies = [\"tdx\"]",
            |_| {},
            Contraindicated,
            "cvm-technology",
        ),
        (
            "left out",
            "",
            |g| g.absent = true,
            Contraindicated,
            "cvm-missing",
        ),
        (
            "an empty envelope",
            "",
            |g| g.edit = |tee| tee.report = None,
            Contraindicated,
            "cvm-missing",
        ),
        (
            "refused by the processor",
            "",
            |g| g.edit = |tee| tee.refused = "EIO".to_owned(),
            Contraindicated,
            "cvm-refused",
        ),
        (
            "could not be asked for",
            "",
            |g| g.edit = |tee| tee.unavailable = "EACCES".to_owned(),
            Undecided,
            "cvm-unavailable",
        ),
        (
            "under newer firmware than there is a certificate for",
            "",
            |g| g.over.push((0x187, vec![214])),
            Undecided,
            "cvm-key-missing",
        ),
        (
            "with nothing known of revocation",
            "revocation = true",
            |_| {},
            Undecided,
            "cvm-revocation-unknown",
        ),
        (
            "of a kind to come",
            "",
            |g| g.edit = |tee| tee.report.as_mut().unwrap().kind = "cca".to_owned(),
            Undecided,
            "cvm-kind",
        ),
    ];
    for (name, section, edit, status, code) in attacks {
        let mut guest = Guest::with(section);
        edit(&mut guest);
        let result = guest.appraise();
        let want: Vec<&str> = [*code]
            .into_iter()
            .filter(|code| !code.is_empty())
            .collect();
        assert_eq!((result.status, codes(&result)), (*status, want), "{name}");
        // What could not be checked is nobody's word.
        if *status == Undecided {
            let by: Vec<_> = result.deviations().map(|it| it.provenance).collect();
            assert_eq!(by, [None], "{name}");
        }
    }
}

/// Intel says how current a processor's firmware is, and the profile which of that will do.
#[test]
fn firmware_that_is_not_current_is_refused_unless_the_profile_says_so() {
    use Status::{Affirming, Contraindicated};
    let rows: [(&str, &str, Status, &[&str]); 3] = [
        ("UpToDate", "", Affirming, &[]),
        ("OutOfDate", "", Contraindicated, &["cvm-tcb-status"]),
        (
            "OutOfDate",
            "tcb = [\"UpToDate\", \"OutOfDate\"]",
            Affirming,
            &[],
        ),
    ];
    for (firmware, section, status, want) in rows {
        let mut case = Case::ordinary();
        case.now = intel::AT;
        case.statement.wall_time_ms = case.now.0;
        // In a guest it is its provider's word.
        let ordinary = case.profile.replace("hardware-signed", "provider-signed");
        case.profile = format!("{ordinary}\n[cvm]\nrevocation = false\n{section}\n");
        let bytes = encode(&case.statement);
        let ak = case.tpm.ak();
        let data = tee_report_data(&case.freshness, &bytes, ak.name().as_bytes());
        let mut made = intel::made(&intel::Plan {
            body_over: vec![(520, data.to_vec())],
            ..intel::Plan::v5()
        });
        made.collateral.tcb_info["tcbLevels"][0]["tcbStatus"] = firmware.into();
        let collateral = made.collateral.publish().to_string();
        let collateral = Collateral::parse(collateral.as_bytes()).unwrap();
        let processors = &mut case.endorsements.processors;
        *processors = processors.clone().where_hardware_is(&[], &made.root);
        assert!(processors.add_collateral(FILE, collateral));
        let mut evidence = case.tpm.evidence(&bytes, &case.freshness);
        evidence.tee = Some(Box::new(v1::TeeEvidence {
            report: Some(v1::TeeReport {
                kind: "tdx".to_owned(),
                report: made.quote,
            }),
            ..v1::TeeEvidence::default()
        }));
        let verified = VerifiedEvidence::verify(&evidence, &ak, &case.freshness).unwrap();
        let result = case.appraise_verified(&verified);
        let found = (result.status, codes(&result));
        assert_eq!(found, (status, want.to_vec()), "{firmware} {section}");
    }
}

#[test]
fn what_was_not_shown_is_no_claim() {
    let required = |section: &str, minimum: &str| {
        let mut guest = Guest::with(section);
        let is = format!("is = \"{}\"\nprovenance = \"{minimum}\"", "06".repeat(48));
        guest.case.require("cvm.measurement", &is);
        guest
    };
    let result = required("", "hardware-signed").appraise();
    assert_eq!((result.status, codes(&result)), (Status::Affirming, vec![]));

    // Its own signature is good and the measurement another.
    let mut other = required("", "hardware-signed");
    other.over.push((0x90, vec![9]));
    assert_eq!(codes(&other.appraise()), ["claim-value"]);

    // What could not be checked is told once, and is neither there nor missing.
    let mut undecided = required("", "self-reported");
    undecided.over.push((0x187, vec![214]));
    let result = undecided.appraise();
    assert_eq!(codes(&result), ["cvm-key-missing"]);
    assert_eq!(claim(&result, "cvm.measurement"), None);

    // So it is where none came, and where a good one answers somebody else.
    let mut none = required("", "self-reported");
    none.absent = true;
    assert_eq!(codes(&none.appraise()), ["cvm-missing"]);
    let mut again = required("", "self-reported");
    again.data = Some([9; 64]);
    let result = again.appraise();
    assert_eq!(codes(&result), ["cvm-report-data"]);
    assert_eq!(claim(&result, "cvm.measurement"), None);

    // A node that makes such a claim by itself has said nothing.
    let mut word = Case::ordinary();
    word.profile = word.profile.replace("hardware-signed", "provider-signed");
    word.require("cvm.debug", "is = false\nprovenance = \"self-reported\"");
    word.statement.claims.push(v1::Claim {
        name: "cvm.debug".to_owned(),
        source: "me".to_owned(),
        value: Some(v1::claim::Value::Flag(false)),
    });
    let result = word.appraise();
    assert_eq!(codes(&result), ["claim-missing"]);
    assert_eq!(result.status, Status::Contraindicated);
}

/// Named in the profile it can be looked at, and a requirement for hardware is not met.
#[test]
fn a_guest_under_an_operators_own_root_is_never_hardware() {
    let root = crate::gpu::Root::parse(MILAN.root.as_der()).unwrap();
    let mut guest = Guest::with(&format!("roots = [\"{}\"]", root.digest()));
    let processors = &mut guest.case.endorsements.processors;
    *processors = processors.clone().where_hardware_is(&[], "");
    assert_eq!(codes(&guest.appraise()), ["cvm-root"], "not brought");
    assert!(guest.case.endorsements.add_root(root.clone()));
    let result = guest.appraise();
    assert_eq!((result.status, codes(&result)), (Status::Affirming, vec![]));
    assert!(!result.shows("cvm.hardware"));
    let measured = claim(&result, "cvm.measurement").unwrap();
    assert_eq!(measured.provenance, Provenance::SelfReported);
    assert!(result.endorsements.contains(&root.digest()));
    guest.case.require(
        "cvm.hardware",
        "is = true\nprovenance = \"hardware-signed\"",
    );
    assert_eq!(codes(&guest.appraise()), ["claim-provenance"]);
    // Where the maker's root vouches, nothing hangs on one that is named beside it.
    let other = made(&milan());
    let other = crate::gpu::Root::parse(other.root.as_der()).unwrap();
    let mut beside = Guest::with(&format!("roots = [\"{}\"]", other.digest()));
    assert!(beside.case.endorsements.add_root(other.clone()));
    let result = beside.appraise();
    assert!(result.shows("cvm.hardware"));
    assert!(!result.endorsements.contains(&other.digest()));
    // Brought and named by nobody, it is a stranger's.
    let mut stranger = Guest::with("");
    stranger.case.endorsements = guest.case.endorsements.clone();
    assert_eq!(codes(&stranger.appraise()), ["cvm-root"]);
}

#[test]
fn a_guest_runs_where_the_inventory_has_it() {
    let (own, other) = (
        format!("SNP-{}", "07".repeat(64)),
        format!("SNP-{}", "08".repeat(64)),
    );
    let appraised = |section: &str, devices: &[&String]| {
        let mut guest = Guest::with(section);
        guest.case.devices = devices.iter().map(|name| (*name).clone()).collect();
        let result = guest.appraise();
        let codes: Vec<String> = codes(&result).into_iter().map(str::to_owned).collect();
        (result.status, codes)
    };
    use Status::{Affirming, Contraindicated, None as Undecided};
    type Row<'a> = (&'a str, &'a str, &'a [&'a String], Status, &'a [&'a str]);
    let rows: &[Row<'_>] = &[
        ("nobody wrote it down", "", &[], Affirming, &[]),
        ("its own", "", &[&own], Affirming, &[]),
        (
            "one of two",
            "listed = true",
            &[&other, &own],
            Affirming,
            &[],
        ),
        (
            "another's",
            "",
            &[&other],
            Contraindicated,
            &["cvm-chip-not-of-node"],
        ),
        (
            "asked for, and nobody wrote it down",
            "listed = true",
            &[],
            Undecided,
            &["cvm-unlisted"],
        ),
    ];
    for (name, section, devices, status, want) in rows {
        let want: Vec<String> = want.iter().map(|code| (*code).to_owned()).collect();
        assert_eq!(appraised(section, devices), (*status, want), "{name}");
    }
    let told = Guest::with("listed = true").appraise();
    let by: Vec<_> = told.deviations().map(|it| it.provenance).collect();
    assert_eq!(by, [None], "nobody said what is not written down");
    // Whatever the profile asks: another chip than the one approvers wrote down is refused.
    let mut unasked = Guest::with("");
    let cut = unasked.case.profile.find("[cvm]").unwrap();
    unasked.case.profile.truncate(cut);
    assert_eq!(unasked.appraise().status, Affirming);
    unasked.case.devices = vec![other];
    let result = unasked.appraise();
    assert_eq!(codes(&result), ["cvm-chip-not-of-node"]);
    let told = result.deviations().next().unwrap();
    assert_eq!(told.provenance, Some(Provenance::HardwareSigned));
    // One that is played again says where it was made all the same; nobody asks for its freshness.
    unasked.data = Some([9; 64]);
    assert_eq!(codes(&unasked.appraise()), ["cvm-chip-not-of-node"]);
    // A host that has the chip's number left out hides it from whoever wrote one down, and only from those.
    for (devices, want) in [(vec![], vec![]), (vec![own], vec!["cvm-chip-not-of-node"])] {
        let mut hidden = Guest::with("");
        hidden.over.push((0x1a0, vec![0; 64]));
        hidden.case.devices = devices;
        let result = hidden.appraise();
        assert_eq!(codes(&result), want);
        assert_eq!(claim(&result, "chip_id"), None);
    }
}
