//! Whose word a TPM's is: a chip's, its provider's, or that of a vTPM for which a processor speaks.

use std::sync::LazyLock;

use super::*;
use crate::{
    cvm::{
        hcl::tests::{binding, content, text},
        snp::{
            Product,
            tests::{Made, made, milan},
        },
    },
    evidence::tee_report_data,
    profile::Provenance,
    tpm::AkPublic,
    x509::Certificate,
};

static MILAN: LazyLock<Made> = LazyLock::new(|| made(&milan()));

const REGISTER: &str = "tpm.pcr.sha256.7";
/// `ID_KEY_DIGEST`
const ID_KEY: usize = 0xe0;
/// What the ordinary node's register holds.
const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// A guest of Azure's, its paravisor and processor.
struct Guest {
    case: Case,
    over: Vec<(usize, Vec<u8>)>,
    /// What the paravisor says was asked, instead of this statement.
    question: Option<[u8; 64]>,
    /// Whose AK the report names.
    names: Option<AkPublic>,
    edit: fn(&mut Option<Box<v1::TeeEvidence>>),
}

impl Guest {
    /// Its profile has `[cvm.vtpm]` with these keys, and demands a register by hardware's word.
    fn with(vtpm: &str) -> Self {
        let mut case = Case::ordinary();
        case.tpm = SoftTpm::rsa();
        case.previous = Some(previous(&case.tpm));
        case.kind = TpmKind::Virtual;
        case.profile = case.profile.replace("hardware-signed", "provider-signed");
        case.profile = format!("{}\n[cvm]\nrevocation = false\n{vtpm}\n", case.profile);
        case.require(
            REGISTER,
            &format!("is = \"{ZEROS}\"\nprovenance = \"hardware-signed\""),
        );
        let processors = &mut case.endorsements.processors;
        *processors = processors
            .clone()
            .where_hardware_is(&[(Product::Milan, MILAN.root_key())], "");
        let all = [&MILAN.key, &MILAN.ask, &MILAN.root].map(Certificate::clone);
        assert!(processors.add_certificates(Sha256Digest([8; 32]), all.to_vec()));
        Self {
            case,
            over: Vec::new(),
            question: None,
            names: None,
            edit: |_| {},
        }
    }

    fn known() -> Self {
        Self::with(&format!(
            "[cvm.vtpm]\nmeasurements = [\"{}\"]",
            "06".repeat(48)
        ))
    }

    fn appraise(&self) -> AttestationResult {
        let case = &self.case;
        let statement = encode(&case.statement);
        let mut evidence = case.tpm.evidence(&statement, &case.freshness);
        let ak = case.tpm.ak();
        let question = tee_report_data(&case.freshness, &statement, ak.name().as_bytes());
        let question = self.question.unwrap_or(question);
        let names = self.names.as_ref().unwrap_or(&ak);
        let text = text(names.key(), &question);
        let data = binding(text.as_bytes());
        let mut over: Vec<(usize, &[u8])> = vec![(0x50, &data)];
        over.extend(self.over.iter().map(|(at, what)| (*at, what.as_slice())));
        let report = content(&MILAN.report_with(&over), 2, text.as_bytes());
        evidence.tee = Some(Box::new(v1::TeeEvidence {
            report: Some(v1::TeeReport {
                kind: "azure-vtpm".to_owned(),
                report,
            }),
            ..v1::TeeEvidence::default()
        }));
        (self.edit)(&mut evidence.tee);
        let verified = VerifiedEvidence::verify(&evidence, &ak, &case.freshness).unwrap();
        case.appraise_verified(&verified)
    }
}

fn codes(result: &AttestationResult) -> Vec<&str> {
    result.deviations().map(|it| it.code.as_str()).collect()
}

fn by(result: &AttestationResult, submod: &str, claim: &str) -> Option<Provenance> {
    let submod = result.submods.get(submod)?;
    Some(submod.claims.get(claim)?.provenance)
}

#[test]
fn a_vtpm_speaks_as_hardware_where_a_processor_names_its_ak() {
    let result = Guest::known().appraise();
    assert_eq!((result.status, codes(&result)), (Status::Affirming, vec![]));
    assert_eq!(result.tpm, Provenance::HardwareSigned);
    assert!(result.shows("cvm.vtpm") && result.shows("cvm.vtpm.fresh"));
    assert_eq!(
        by(&result, "tpm", REGISTER),
        Some(Provenance::HardwareSigned)
    );
    // Whoever signs launches is believed of all of them.
    let mut signed = Guest::with(&format!("[cvm.vtpm]\nid_keys = [\"{}\"]", "07".repeat(48)));
    signed.over.push((ID_KEY, vec![7; 48]));
    let result = signed.appraise();
    assert_eq!((result.status, codes(&result)), (Status::Affirming, vec![]));
    assert_eq!(
        by(&result, "cvm", "cvm.id_key"),
        Some(Provenance::HardwareSigned)
    );
    assert_eq!(
        by(&result, "cvm", "cvm.guest_svn"),
        Some(Provenance::HardwareSigned)
    );
}

#[test]
fn a_vtpm_for_which_nobody_speaks_is_its_providers_word() {
    use Status::{Contraindicated, None as Undecided};
    type Row = (&'static str, fn() -> Guest, Status, &'static [&'static str]);
    let rows: &[Row] = &[
        (
            "no launch is believed",
            || Guest::with(""),
            Contraindicated,
            &["claim-provenance"],
        ),
        (
            "another launch is believed",
            || {
                let mut guest = Guest::known();
                guest.over.push((0x90, vec![9]));
                guest
            },
            Contraindicated,
            &["claim-provenance"],
        ),
        (
            "the launch was signed by another, or by nobody",
            || Guest::with(&format!("[cvm.vtpm]\nid_keys = [\"{}\"]", "00".repeat(48))),
            Contraindicated,
            &["claim-provenance"],
        ),
        (
            "the report names another AK",
            || Guest {
                names: Some(SoftTpm::rsa().ak()),
                ..Guest::known()
            },
            Contraindicated,
            &["cvm-vtpm-ak", "claim-provenance"],
        ),
        (
            "the guest asked, and not its paravisor",
            || {
                let mut guest = Guest::known();
                guest.over.push((0x30, vec![2]));
                guest
            },
            Contraindicated,
            &["cvm-vtpm-level", "claim-provenance"],
        ),
        (
            "its host reads it, and the profile allows that",
            || {
                let mut guest = Guest::known();
                let at = guest.case.profile.find("[cvm.vtpm]").unwrap();
                guest.case.profile.insert_str(at, "debug = true\n");
                guest.over.push((0x0a, vec![8]));
                guest
            },
            Contraindicated,
            &["claim-provenance"],
        ),
        (
            "a report of the guest's own over the name of its AK",
            || {
                let mut guest = Guest::known();
                guest.question = Some([0; 64]);
                guest.edit = |tee| {
                    let report = tee.as_mut().unwrap().report.as_mut().unwrap();
                    report.kind = "sev-snp".to_owned();
                    report.report = report.report[32..1216].to_vec();
                };
                guest
            },
            Contraindicated,
            &["cvm-report-data", "claim-provenance"],
        ),
        (
            "none came",
            || Guest {
                edit: |tee| *tee = None,
                ..Guest::known()
            },
            Contraindicated,
            &["cvm-missing", "claim-provenance"],
        ),
        (
            "it was made for another question",
            || Guest {
                question: Some([7; 64]),
                ..Guest::known()
            },
            Undecided,
            &["cvm-not-fresh", "claim-unavailable"],
        ),
        (
            "nobody has the certificate of its processor's key",
            || {
                let mut guest = Guest::known();
                guest.over.push((0x187, vec![214]));
                guest
            },
            Undecided,
            &["cvm-key-missing", "claim-unavailable"],
        ),
        (
            "it could not be read",
            || Guest {
                edit: |tee| {
                    *tee = Some(Box::new(v1::TeeEvidence {
                        unavailable: "tee-late".to_owned(),
                        ..v1::TeeEvidence::default()
                    }));
                },
                ..Guest::known()
            },
            Undecided,
            &["cvm-unavailable", "claim-unavailable"],
        ),
    ];
    for (name, guest, status, want) in rows {
        let result = guest().appraise();
        let mut found = codes(&result);
        found.sort_by_key(|code| !code.starts_with("cvm-"));
        assert_eq!(
            (result.status, found.as_slice()),
            (*status, *want),
            "{name}"
        );
        assert_eq!(result.tpm, Provenance::ProviderSigned, "{name}");
        assert!(!result.shows("cvm.vtpm"), "{name}");
        // A fresh question is what a profile may do without.
        if *want == ["cvm-not-fresh", "claim-unavailable"] {
            assert_eq!(by(&result, "cvm", "cvm.measurement"), None, "{name}");
            let mut guest = guest();
            let at = guest.case.profile.find("measurements").unwrap();
            guest.case.profile.insert_str(at, "stale = true\n");
            let result = guest.appraise();
            assert_eq!((result.status, codes(&result)), (Status::Affirming, vec![]));
            assert!(result.shows("cvm.vtpm") && !result.shows("cvm.vtpm.fresh"));
        }
    }
}

/// An SVSM names the EK, and lifts what it names as a paravisor does.
#[test]
fn a_vtpm_speaks_as_hardware_where_an_svsm_names_its_ek() {
    let appraised = |ek: Option<Sha256Digest>, section: &str| {
        let mut guest = Guest::with(section);
        let case = &mut guest.case;
        let mut manifest = vec![0, 1, 0, 0x0b, 0, 3, 0, 0xb2, 0, 32];
        manifest.extend([3; 32]);
        manifest.extend([0, 6, 0, 128, 0, 0x43, 0, 0x10, 8, 0, 0, 0, 0, 0, 1, 0]);
        manifest.extend([0xc1; 256]);
        case.ek = ek.unwrap_or_else(|| Sha256Digest::of(&[&manifest]));
        let statement = encode(&case.statement);
        let mut evidence = case.tpm.evidence(&statement, &case.freshness);
        let ak = case.tpm.ak();
        let question = tee_report_data(&case.freshness, &statement, ak.name().as_bytes());
        let hash = crate::crypto::HashAlgorithm::Sha512;
        let data = hash.digest(&[&question, &manifest]).unwrap();
        evidence.tee = Some(Box::new(v1::TeeEvidence {
            report: Some(v1::TeeReport {
                kind: "svsm-vtpm".to_owned(),
                report: MILAN.report_with(&[(0x50, data.as_slice())]),
            }),
            manifest,
            ..v1::TeeEvidence::default()
        }));
        let verified = VerifiedEvidence::verify(&evidence, &ak, &case.freshness).unwrap();
        case.appraise_verified(&verified)
    };
    let known = format!("[cvm.vtpm]\nmeasurements = [\"{}\"]", "06".repeat(48));
    let result = appraised(None, &known);
    assert_eq!((result.status, codes(&result)), (Status::Affirming, vec![]));
    assert_eq!(result.tpm, Provenance::HardwareSigned);
    assert!(result.shows("cvm.vtpm"));
    let result = appraised(Some(Sha256Digest([9; 32])), &known);
    assert!(
        codes(&result).contains(&"cvm-vtpm-ek"),
        "{:?}",
        codes(&result)
    );
    assert_eq!(result.tpm, Provenance::ProviderSigned);
    let result = appraised(None, "");
    assert_eq!(codes(&result), ["claim-provenance"]);
}

/// A root of the operator's own is no hardware's, and lifts nothing.
#[test]
fn a_double_of_a_processor_speaks_for_no_tpm() {
    let root = crate::gpu::Root::parse(MILAN.root.as_der()).unwrap();
    let mut guest = Guest::known();
    let at = guest.case.profile.find("[cvm.vtpm]").unwrap();
    let named = format!("roots = [\"{}\"]\n", root.digest());
    guest.case.profile.insert_str(at, &named);
    let processors = &mut guest.case.endorsements.processors;
    *processors = processors.clone().where_hardware_is(&[], "");
    assert!(guest.case.endorsements.add_root(root));
    let result = guest.appraise();
    assert_eq!(codes(&result), ["claim-provenance"]);
    assert_eq!(result.tpm, Provenance::ProviderSigned);
    assert_eq!(
        by(&result, "cvm", "cvm.vtpm"),
        Some(Provenance::SelfReported)
    );
}

/// Without a guest, what approvers and certificates say of the TPM decides.
#[test]
fn a_tpm_is_a_chip_where_somebody_says_so_and_never_in_a_guest() {
    let appraised = |kind, guest: bool| {
        let mut case = Case::ordinary();
        case.kind = kind;
        case.profile = case.profile.replace("hardware-signed", "provider-signed");
        case.require(
            REGISTER,
            &format!("is = \"{ZEROS}\"\nprovenance = \"measured\""),
        );
        let mut evidence = case.tpm.evidence(&encode(&case.statement), &case.freshness);
        evidence.tee = guest.then(|| Box::new(v1::TeeEvidence::default()));
        let ak = case.tpm.ak();
        let verified = VerifiedEvidence::verify(&evidence, &ak, &case.freshness).unwrap();
        let result = case.appraise_verified(&verified);
        let found: Vec<String> = codes(&result).into_iter().map(str::to_owned).collect();
        (result.tpm, found)
    };
    let refused = vec!["claim-provenance".to_owned()];
    let rows = [
        (TpmKind::Chip, false, Provenance::HardwareSigned, vec![]),
        (
            TpmKind::Virtual,
            false,
            Provenance::ProviderSigned,
            refused.clone(),
        ),
        (
            TpmKind::Chip,
            true,
            Provenance::ProviderSigned,
            refused.clone(),
        ),
        (TpmKind::Virtual, true, Provenance::ProviderSigned, refused),
    ];
    for (kind, guest, by, want) in rows {
        assert_eq!(appraised(kind, guest), (by, want), "{kind:?}, {guest}");
    }
}

#[test]
fn makers_of_programs_are_told_from_makers_of_chips() {
    use rcgen::{CertificateParams, CustomExtension, KeyPair};
    let certificate = |maker: Option<&str>| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(maker) = maker {
            // subjectAltName with a directoryName of one attribute, tcg-at-tpmManufacturer.
            let id = [0x06, 0x05, 0x67, 0x81, 0x05, 0x02, 0x01];
            let tlv = |tag: u8, content: &[u8]| {
                [&[tag, u8::try_from(content.len()).unwrap()], content].concat()
            };
            let attribute = [&id[..], &tlv(0x0c, maker.as_bytes())].concat();
            let name = tlv(0x30, &tlv(0x31, &tlv(0x30, &attribute)));
            let names = tlv(0x30, &tlv(0xa4, &name));
            params.custom_extensions =
                vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], names)];
        }
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    };
    use TpmKind::{Chip, Virtual};
    let rows = [
        ("Infineon", Some("id:49465800"), Chip),
        ("says nothing", None, Chip),
        ("Microsoft", Some("id:4D534654"), Virtual),
        ("Google, in small letters", Some("id:474f4f47"), Virtual),
        ("Amazon", Some("id:414D5A4E"), Virtual),
        ("VMware", Some("id:564D5700"), Virtual),
    ];
    for (name, maker, want) in rows {
        assert_eq!(TpmKind::of_chain(&[certificate(maker)]), want, "{name}");
    }
    // Who has no certificate, or one that nobody can read, has nobody's.
    assert_eq!(TpmKind::of_chain(&[]), Virtual);
    assert_eq!(TpmKind::of_chain(&[b"rubbish".to_vec()]), Virtual);
    assert_eq!(TpmKind::of_chain(&[vec![], certificate(None)]), Virtual);
}
