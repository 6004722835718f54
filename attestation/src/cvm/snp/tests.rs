//! Chips made in the test, under roots of the test: what they sign, and who lies about it.

use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, IsCa,
    Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
};

use super::report::REPORT_BYTES;
use super::table::{MAX_TABLE, Table};
use super::verify::verify_under;
use super::{Endorsement, Product, Report, SigningKey, SnpRefused, Tcb};
use crate::ids::{Sha256Digest, UnixTime};
use crate::x509::Certificate;

const AT: UnixTime = UnixTime(1_750_000_000_000);

/// What a chip is, and what its certificate says.
#[derive(Clone)]
pub(crate) struct Chip {
    pub(crate) product: Product,
    pub(crate) version: u32,
    pub(crate) cpuid: (u8, u8),
    pub(crate) id: Vec<u8>,
    pub(crate) tcb: Tcb,
    /// `SIGNING_KEY` and its neighbours.
    pub(crate) keys: u32,
}

pub(crate) fn milan() -> Chip {
    Chip {
        product: Product::Milan,
        version: 3,
        cpuid: (0x19, 0x01),
        id: vec![7; 64],
        tcb: Tcb([4, 0, 0, 0, 0, 0, 22, 213]),
        keys: 0,
    }
}

pub(crate) fn turin() -> Chip {
    Chip {
        product: Product::Turin,
        version: 5,
        cpuid: (0x1a, 0x02),
        id: vec![9; 8],
        tcb: Tcb([1, 3, 0, 4, 0, 0, 0, 81]),
        keys: 0,
    }
}

/// Root, intermediate and chip, with what the report would be.
pub(crate) struct Made {
    pub(crate) root: Certificate,
    pub(crate) ask: Certificate,
    pub(crate) key: Certificate,
    pub(crate) report: Vec<u8>,
    by_root: Issuer<'static, KeyPair>,
    chip_key: KeyPair,
}

fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap()
}

fn params(name: &str, ca: bool) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2022, 1, 1);
    params.not_after = rcgen::date_time_ymd(2040, 1, 1);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    if ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            rcgen::KeyUsagePurpose::KeyCertSign,
            rcgen::KeyUsagePurpose::CrlSign,
        ];
    }
    params
}

fn extension(last: &[u64], content: Vec<u8>) -> CustomExtension {
    let oid = [&[1, 3, 6, 1, 4, 1, 3704, 1], last].concat();
    CustomExtension::from_oid_content(&oid, content)
}

fn number(value: u8) -> Vec<u8> {
    match value {
        0..0x80 => vec![2, 1, value],
        _ => vec![2, 2, 0, value],
    }
}

/// The extensions that the KDS gives the certificate of such a chip.
fn extensions(chip: &Chip) -> Vec<CustomExtension> {
    let parts = chip.tcb.parts(chip.product);
    let [bl, tee, snp, ucode] = parts.map(|(_, value)| number(value));
    let mut all = vec![
        extension(&[3, 1], bl),
        extension(&[3, 2], tee),
        extension(&[3, 3], snp),
        extension(&[3, 8], ucode),
        extension(&[4], chip.id.clone()),
    ];
    all.extend(
        chip.tcb
            .fmc(chip.product)
            .map(|fmc| extension(&[3, 9], number(fmc))),
    );
    all
}

fn signed(chip: &Chip, key: &KeyPair) -> Vec<u8> {
    let mut bytes = vec![0; REPORT_BYTES];
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    put(0, &chip.version.to_le_bytes());
    put(0x34, &1_u32.to_le_bytes());
    put(0x48, &chip.keys.to_le_bytes());
    put(0x50, &[5; 64]);
    put(0x90, &[6; 48]);
    put(0x180, &chip.tcb.0);
    put(0x188, &[chip.cpuid.0, chip.cpuid.1]);
    put(0x1a0, &chip.id);
    sign(&mut bytes, key);
    bytes
}

fn sign(bytes: &mut [u8], key: &KeyPair) {
    let algorithm = &ECDSA_P384_SHA384_FIXED_SIGNING;
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, &key.serialize_der()).unwrap();
    let fixed = pair.sign(&SystemRandom::new(), &bytes[..0x2a0]).unwrap();
    for (half, at) in fixed.as_ref().chunks_exact(48).zip([0x2a0, 0x2a0 + 72]) {
        let mut half = half.to_vec();
        half.reverse();
        half.resize(72, 0);
        bytes[at..at + 72].copy_from_slice(&half);
    }
}

fn made_with(chip: &Chip, extensions: Vec<CustomExtension>) -> Made {
    let (root_key, ask_key, chip_key) = (key(), key(), key());
    let read = |der: &[u8]| Certificate::parse(der).unwrap();
    let root_params = params("ARK", true);
    let root = root_params.self_signed(&root_key).unwrap();
    let ask_params = params("SEV", true);
    let by_root = Issuer::new(root_params, root_key);
    let ask = ask_params.signed_by(&ask_key, &by_root).unwrap();
    let by_ask = Issuer::new(ask_params, ask_key);
    let mut leaf = params("SEV-VCEK", false);
    leaf.custom_extensions = extensions;
    let leaf = leaf.signed_by(&chip_key, &by_ask).unwrap();
    Made {
        root: read(root.der()),
        ask: read(ask.der()),
        key: read(leaf.der()),
        report: signed(chip, &chip_key),
        by_root,
        chip_key,
    }
}

pub(crate) fn made(chip: &Chip) -> Made {
    made_with(chip, extensions(chip))
}

impl Made {
    /// SHA-256 of the root's key.
    pub(crate) fn root_key(&self) -> String {
        Sha256Digest::of(&[self.root.spki_der()]).to_string()
    }

    /// Its report with these bytes put over it, signed again.
    pub(crate) fn report_with(&self, over: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = self.report.clone();
        for (at, what) in over {
            bytes[*at..*at + what.len()].copy_from_slice(what);
        }
        sign(&mut bytes, &self.chip_key);
        bytes
    }

    /// The root's list of revoked certificates, for two months of 2025.
    pub(crate) fn list(&self, revoked: &[&Certificate], from: u8) -> crate::x509::RevocationList {
        let this_update = rcgen::date_time_ymd(2025, from, 1);
        let entry = |one: &&Certificate| RevokedCertParams {
            serial_number: SerialNumber::from_slice(one.serial()),
            revocation_time: this_update,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update,
            next_update: rcgen::date_time_ymd(2025, from + 2, 1),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.by_root).unwrap();
        crate::x509::RevocationList::parse(list.der()).unwrap()
    }

    fn judge(&self, report: &[u8], product: Product, at: UnixTime) -> Result<Product, Vec<String>> {
        self.judge_as(report, product, Endorsement::Vcek, at)
    }

    fn judge_as(
        &self,
        report: &[u8],
        product: Product,
        endorsement: Endorsement,
        at: UnixTime,
    ) -> Result<Product, Vec<String>> {
        let root = Sha256Digest::of(&[self.root.spki_der()]).to_string();
        let chain = [self.root.clone(), self.ask.clone()];
        let report = Report::parse(report).unwrap();
        verify_under(
            &[(product, &root)],
            &report,
            endorsement,
            &self.key,
            &chain,
            at,
        )
        .map_err(|refused| codes(&refused))
    }
}

fn codes(refused: &[SnpRefused]) -> Vec<String> {
    refused.iter().map(|why| why.code().to_owned()).collect()
}

static MILAN: LazyLock<Made> = LazyLock::new(|| made(&milan()));

#[test]
fn a_report_is_believed_of_the_chip_that_signed_it() {
    assert_eq!(
        MILAN.judge(&MILAN.report, Product::Milan, AT),
        Ok(Product::Milan)
    );
    let turin_chip = made(&turin());
    let judged = turin_chip.judge(&turin_chip.report, Product::Turin, AT);
    assert_eq!(judged, Ok(Product::Turin));
    // Older reports do not say which processor they are of.
    let old = made(&Chip {
        version: 2,
        cpuid: (0, 0),
        ..milan()
    });
    assert_eq!(
        old.judge(&old.report, Product::Milan, AT),
        Ok(Product::Milan)
    );
}

#[test]
fn what_the_signature_covers_cannot_be_changed() {
    for at in [0x04, 0x08, 0x30, 0x50, 0x90, 0x140, 0x29f, 0x2a0, 0x2e8] {
        let mut report = MILAN.report.clone();
        report[at] ^= 1;
        let refused = MILAN.judge(&report, Product::Milan, AT).unwrap_err();
        assert_eq!(refused, ["report-signature"], "{at:#x}");
    }
    let mut none = MILAN.report.clone();
    none[0x2a0..].fill(0);
    let refused = MILAN.judge(&none, Product::Milan, AT).unwrap_err();
    assert_eq!(refused, ["report-signature"]);
}

#[test]
fn a_root_is_built_in_or_none() {
    let report = Report::parse(&MILAN.report).unwrap();
    let chain = [MILAN.root.clone(), MILAN.ask.clone()];
    let vcek = Endorsement::Vcek;
    let refused = super::verify(&report, vcek, &MILAN.key, &chain, AT).unwrap_err();
    assert_eq!(codes(&refused), ["root-not-known"]);

    // A chain of another chip: its names fit, its signatures do not.
    let other = made(&milan());
    let root = Sha256Digest::of(&[other.root.spki_der()]).to_string();
    let chain = [other.root.clone(), other.ask.clone()];
    let roots = [(Product::Milan, root.as_str())];
    let refused = verify_under(&roots, &report, vcek, &MILAN.key, &chain, AT).unwrap_err();
    assert_eq!(codes(&refused), ["signature"]);
}

#[test]
fn the_certificate_is_of_this_chip_and_this_firmware_now() {
    let other_id = made_with(
        &milan(),
        extensions(&Chip {
            id: vec![8; 64],
            ..milan()
        }),
    );
    let other_tcb = |at: usize| {
        let mut chip = milan();
        chip.tcb.0[at] ^= 1;
        made_with(&milan(), extensions(&chip))
    };
    let no_id = made_with(&milan(), extensions(&milan()).split_off(5));
    let other_fmc = {
        let mut chip = turin();
        chip.tcb.0[0] ^= 1;
        made_with(&turin(), extensions(&chip))
    };
    let long_id = made(&Chip {
        id: vec![9; 64],
        ..turin()
    });
    let rows: [(&str, &Made, Product, &[&str]); 9] = [
        ("another chip", &other_id, Product::Milan, &["chip-id"]),
        (
            "another boot loader",
            &other_tcb(0),
            Product::Milan,
            &["tcb"],
        ),
        ("another TEE", &other_tcb(1), Product::Milan, &["tcb"]),
        ("another SNP", &other_tcb(6), Product::Milan, &["tcb"]),
        ("another microcode", &other_tcb(7), Product::Milan, &["tcb"]),
        ("another FMC", &other_fmc, Product::Turin, &["tcb"]),
        (
            "no extensions",
            &no_id,
            Product::Milan,
            &["certificate-extension"; 5],
        ),
        (
            "an id of another length",
            &long_id,
            Product::Turin,
            &["certificate-extension"],
        ),
        (
            "another product's root",
            &MILAN,
            Product::Genoa,
            &["product"],
        ),
    ];
    for (name, made, product, want) in rows {
        let refused = made.judge(&made.report, product, AT).unwrap_err();
        assert_eq!(refused, want, "{name}");
    }
    for (at, want) in [(1_600_000_000, "not-yet-valid"), (2_300_000_000, "expired")] {
        let at = UnixTime::from_secs(at);
        let refused = MILAN.judge(&MILAN.report, Product::Milan, at).unwrap_err();
        assert_eq!(refused, [want]);
    }
}

/// `04 06` begins an octet string of six bytes, and `04 3e` one of 62: a chip's number may begin so, too.
#[test]
fn a_chips_number_is_told_from_one_that_is_wrapped() {
    let id = |head: [u8; 2], len: usize| [&head[..], &vec![9; len - 2]].concat();
    let wrapped = |id: &[u8]| [&[4, u8::try_from(id.len()).unwrap()], id].concat();
    for chip in [
        milan(),
        turin(),
        Chip {
            id: id([4, 62], 64),
            ..milan()
        },
        Chip {
            id: id([4, 6], 8),
            ..turin()
        },
    ] {
        let plain = made(&chip);
        let mut all = extensions(&chip);
        all[4] = extension(&[4], wrapped(&chip.id));
        for made in [plain, made_with(&chip, all)] {
            let judged = made.judge(&made.report, chip.product, AT);
            assert_eq!(judged, Ok(chip.product), "{:x?}", chip.id);
        }
    }
}

/// The host may have the chip's number left out of reports; its key signs all the same, and speaks only
/// for itself.
#[test]
fn a_report_that_hides_its_chip_is_believed_of_the_key_that_signed_it() {
    for (made, product) in [(&*MILAN, Product::Milan), (&made(&turin()), Product::Turin)] {
        let hidden = made.report_with(&[(0x1a0, &[0; 64])]);
        assert_eq!(made.judge(&hidden, product, AT), Ok(product));
        let mut forged = made.report.clone();
        forged[0x1a0..0x1e0].fill(0);
        let refused = made.judge(&forged, product, AT);
        assert_eq!(refused, Err(vec!["report-signature".to_owned()]));
        for at in [0x1a0, 0x1df] {
            let another = made.report_with(&[(0x1a0, &[0; 64]), (at, &[1])]);
            let refused = made.judge(&another, product, AT);
            assert_eq!(refused, Err(vec!["chip-id".to_owned()]), "{at:#x}");
        }
    }
    // It speaks for a chip, whichever that is: not under a number that no chip of this product has.
    let mut all = extensions(&milan());
    all[4] = extension(&[4], [&[4, 8][..], &[7; 8]].concat());
    let none = made_with(&milan(), all);
    let hidden = none.report_with(&[(0x1a0, &[0; 64])]);
    let refused = none.judge(&hidden, Product::Milan, AT);
    assert_eq!(refused, Err(vec!["certificate-extension".to_owned()]));
}

#[test]
fn a_report_is_endorsed_by_the_kind_of_key_it_names() {
    let csp = |chip: &Chip| {
        let mut all = extensions(chip);
        all.retain(|one| one.content() != chip.id);
        all.push(extension(&[5], vec![0x16, 1, b'a']));
        all
    };
    let vlek = Chip {
        keys: 1 << 2,
        ..milan()
    };
    let provider = made_with(&vlek, csp(&vlek));
    let as_vlek = |made: &Made| made.judge_as(&made.report, Product::Milan, Endorsement::Vlek, AT);
    assert_eq!(as_vlek(&provider), Ok(Product::Milan));
    let as_chip = provider.judge(&provider.report, Product::Milan, AT);
    assert_eq!(
        as_chip.unwrap_err(),
        ["signing-key", "certificate-extension"]
    );
    let as_provider = as_vlek(&MILAN).unwrap_err();
    assert_eq!(as_provider, ["signing-key", "certificate-extension"]);
    for keys in [7 << 2, 3 << 2] {
        let unsigned = made(&Chip { keys, ..milan() });
        let refused = unsigned.judge(&unsigned.report, Product::Milan, AT);
        assert_eq!(refused.unwrap_err(), ["signing-key"]);
    }
}

#[test]
fn malformed_reports_say_where() {
    let good = &MILAN.report;
    let with = |at: usize, value: u8| {
        let mut report = good.clone();
        report[at] = value;
        report
    };
    let rows: [(&str, Vec<u8>, &str); 6] = [
        (
            "nothing",
            vec![],
            "VERSION at offset 0: needs 4 bytes, 0 left",
        ),
        (
            "one byte short",
            good[..1183].to_vec(),
            "SIGNATURE.reserved at offset 816",
        ),
        (
            "one byte more",
            [&good[..], &[0]].concat(),
            "end at offset 1184: 1 bytes too many",
        ),
        ("an old version", with(0, 1), "VERSION at offset 0: 0x1"),
        ("a version to come", with(0, 6), "VERSION at offset 0: 0x6"),
        (
            "another algorithm",
            with(0x34, 2),
            "SIGNATURE_ALGO at offset 52: 0x2",
        ),
    ];
    for (name, bytes, want) in rows {
        let error = Report::parse(&bytes).unwrap_err().to_string();
        assert!(error.contains(want), "{name}: {error}");
    }
    let mut report = good.clone();
    report[0x08 + 2] = 1 << 3;
    report[0x1a0..0x1e0].fill(0);
    let read = Report::parse(&report).unwrap();
    assert!(read.debug() && read.hides_chip());
    // A key that may not sign hides no chip.
    report[0x48] = 2;
    report[0x1df] = 1;
    let read = Report::parse(&report).unwrap();
    assert!(read.debug() && !read.hides_chip());
    assert_eq!(read.signing_key, SigningKey::Vcek);
    let read = Report::parse(good).unwrap();
    assert!(!read.debug() && !read.hides_chip());
}

#[test]
fn processors_have_their_root() {
    for (family, model, want) in [
        (0x19, 0x01, Some(Product::Milan)),
        (0x19, 0x11, Some(Product::Genoa)),
        (0x19, 0xa0, Some(Product::Genoa)),
        (0x19, 0x20, None),
        (0x1a, 0x02, Some(Product::Turin)),
        (0x17, 0x31, None),
    ] {
        assert_eq!(
            Product::of_cpuid(family, model),
            want,
            "{family:#x} {model:#x}"
        );
    }
}

/// A table as hosts write it: content behind the entries, in their order.
pub(crate) fn table(contents: &[&[u8]]) -> Vec<u8> {
    let mut offset = 24 * (contents.len() + 1);
    let (mut entries, mut behind) = (Vec::new(), Vec::new());
    for content in contents {
        entries.extend([7; 16]);
        entries.extend(u32::try_from(offset).unwrap().to_le_bytes());
        entries.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
        behind.extend(*content);
        offset += content.len();
    }
    entries.extend([0; 24]);
    [entries, behind].concat()
}

#[test]
fn a_hosts_table_holds_certificates_or_says_where_it_breaks() {
    let (key, ask) = (MILAN.key.as_der(), MILAN.ask.as_der());
    let good = table(&[key, b"a list", ask]);
    let read = Table::parse(&good).unwrap();
    assert_eq!(read.certificates, [MILAN.key.clone(), MILAN.ask.clone()]);
    assert_eq!(read.others, 1);
    assert!(Table::parse(&[]).unwrap().certificates.is_empty());
    assert!(Table::parse(&[0; 24]).unwrap().certificates.is_empty());
    let beyond = |at: usize, value: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let many = table(&[&b"x"[..]; 17]);
    let rows: [(&str, Vec<u8>, &str); 6] = [
        (
            "cut short",
            good[..20].to_vec(),
            "cert_table.length at offset 20",
        ),
        (
            "without an end",
            [7; 16].to_vec(),
            "cert_table.offset at offset 16",
        ),
        (
            "behind its end",
            beyond(16, u32::MAX),
            "cert_table.offset at offset 16",
        ),
        (
            "longer than it is",
            beyond(20, u32::MAX),
            "cert_table.offset at offset 16",
        ),
        ("too many", many, "cert_table.guid at offset"),
        (
            "too long",
            vec![0; MAX_TABLE + 1],
            "cert_table.end at offset 0",
        ),
    ];
    for (name, bytes, want) in rows {
        let error = Table::parse(&bytes).unwrap_err().to_string();
        assert!(error.contains(want), "{name}: {error}");
    }
    assert!(Table::parse(&table(&[&b"x"[..]; 16])).is_ok());
}
