//! A processor made in the test, under a root of the test, with a quoting enclave and whoever
//! publishes of it.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use der::asn1::{AnyRef, OctetStringRef};
use der::{Encode, Tag};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use serde_json::{Value, json};

use crate::ids::{Sha256Digest, UnixTime};
use crate::x509::{Certificate, pem_block};

/// 2026-01-10: in the middle of everything's validity.
pub(crate) const AT: UnixTime = UnixTime::from_secs(1_768_003_200);

/// What the tests vary.
#[derive(Clone)]
pub(crate) struct Plan {
    /// Quote version 4 or 5.
    pub(crate) version: u16,
    /// Body type of version 5: 2, 3 or 4.
    pub(crate) kind: u16,
    /// Which partition of the guest asked, of body type 4.
    pub(crate) vmid: u8,
    pub(crate) svn: [u8; 16],
    pub(crate) svn2: [u8; 16],
    pub(crate) components: [u8; 16],
    pub(crate) pce_svn: u16,
    pub(crate) fmspc: [u8; 6],
    pub(crate) qe_svn: u16,
    pub(crate) td_attributes: [u8; 8],
    /// Bytes put over the quoting enclave's report before it is signed.
    pub(crate) qe_over: Vec<(usize, Vec<u8>)>,
    /// Bytes put over the guest's body before it is signed.
    pub(crate) body_over: Vec<(usize, Vec<u8>)>,
    pub(crate) pck_name: &'static str,
    pub(crate) pck_extension: bool,
    /// The PCK is on another curve, whose signatures have no room in a quote.
    pub(crate) pck_p384: bool,
    /// Type of the certification data that holds the PCK chain.
    pub(crate) certification: u16,
    /// What the quote's padding is.
    pub(crate) after: Vec<u8>,
}

impl Plan {
    pub(crate) fn v4() -> Self {
        let mut svn = [0; 16];
        svn[..3].copy_from_slice(&[5, 1, 3]);
        Self {
            version: 4,
            kind: 2,
            vmid: 0,
            svn,
            svn2: svn,
            components: [7; 16],
            pce_svn: 11,
            fmspc: [0xb0, 0xc0, 0x6f, 0, 0, 0],
            qe_svn: 4,
            td_attributes: [0; 8],
            qe_over: Vec::new(),
            body_over: Vec::new(),
            pck_name: "Intel SGX PCK Certificate",
            pck_extension: true,
            pck_p384: false,
            certification: 5,
            after: Vec::new(),
        }
    }

    pub(crate) fn v5() -> Self {
        Self {
            version: 5,
            kind: 3,
            ..Self::v4()
        }
    }
}

pub(crate) struct Made {
    pub(crate) quote: Vec<u8>,
    pub(crate) root: String,
    pub(crate) collateral: Publisher,
}

/// Everything that says something of processors, and what it says. Texts and lists are signed when
/// they are asked for.
pub(crate) struct Publisher {
    root: Ca,
    platform: Ca,
    pub(crate) signer: Ca,
    pub(crate) pck: Certificate,
    pub(crate) pck_chain: String,
    pub(crate) tcb_info: Value,
    pub(crate) qe_identity: Value,
    /// Serial numbers on the root's list and on the PCK CA's.
    pub(crate) root_revokes: Vec<Vec<u8>>,
    pub(crate) pck_revokes: Vec<Vec<u8>>,
    /// Months of 2026 from whose first day to whose first day both lists are news.
    pub(crate) list_months: (u8, u8),
}

pub(crate) struct Ca {
    pub(crate) key: Vec<u8>,
    pub(crate) certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

fn key() -> KeyPair {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap()
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
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    }
    params
}

impl Ca {
    fn root() -> Self {
        let (params, key) = (params("Intel SGX Root CA", true), key());
        let der = params.self_signed(&key).unwrap();
        Self::new(der.der(), params, key)
    }

    fn below(&self, params: CertificateParams) -> Self {
        self.with_key(params, key())
    }

    fn with_key(&self, params: CertificateParams, key: KeyPair) -> Self {
        let der = params.signed_by(&key, &self.issuer).unwrap();
        Self::new(der.der(), params, key)
    }

    fn new(der: &[u8], params: CertificateParams, key: KeyPair) -> Self {
        Self {
            key: key.serialize_der(),
            certificate: Certificate::parse(der).unwrap(),
            issuer: Issuer::new(params, key),
        }
    }

    fn pem(&self) -> String {
        pem_block("CERTIFICATE", self.certificate.as_der())
    }

    fn list(&self, serials: &[Vec<u8>], dates: (u8, u8)) -> String {
        let this_update = rcgen::date_time_ymd(2026, dates.0, 1);
        let revoked = |serial: &Vec<u8>| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: this_update,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update,
            next_update: rcgen::date_time_ymd(2026, dates.1, 1),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        hex::encode(params.signed_by(&self.issuer).unwrap().der())
    }
}

/// r and s by a key in PKCS#8.
pub(crate) fn sign(key: &[u8], message: &[u8]) -> Vec<u8> {
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key).unwrap();
    let signature = pair.sign(&SystemRandom::new(), message).unwrap();
    signature.as_ref().to_vec()
}

fn tlv(tag: Tag, content: &[u8]) -> Vec<u8> {
    AnyRef::new(tag, content).unwrap().to_der().unwrap()
}

fn item(number: &[u64], value: &[u8]) -> Vec<u8> {
    let below: String = number.iter().map(|arc| format!(".{arc}")).collect();
    let id = const_oid::ObjectIdentifier::new(&format!("1.2.840.113741.1.13.1{below}")).unwrap();
    tlv(
        Tag::Sequence,
        &[id.to_der().unwrap(), value.to_vec()].concat(),
    )
}

/// `SGX Extensions` of such a processor.
fn sgx_extensions(plan: &Plan) -> Vec<u8> {
    let octets = |bytes: &[u8]| OctetStringRef::new(bytes).unwrap().to_der().unwrap();
    let mut tcb = Vec::new();
    for (svn, number) in plan.components.iter().zip(1_u64..) {
        tcb.extend(item(&[2, number], &svn.to_der().unwrap()));
    }
    tcb.extend(item(&[2, 17], &plan.pce_svn.to_der().unwrap()));
    tcb.extend(item(&[2, 18], &octets(&plan.components)));
    let all = [
        item(&[1], &octets(&[9; 16])),
        item(&[2], &tlv(Tag::Sequence, &tcb)),
        item(&[3], &octets(&[0, 0])),
        item(&[4], &octets(&plan.fmspc)),
        item(&[5], &tlv(Tag::Enumerated, &[1])),
    ];
    tlv(Tag::Sequence, &all.concat())
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}

fn body(plan: &Plan) -> Vec<u8> {
    let len = match plan.kind {
        2 => 584,
        3 => 648,
        _ => 885,
    };
    let mut body = vec![0x11; len];
    put(&mut body, 0, &plan.svn);
    // MRSIGNERSEAM and SEAMATTRIBUTES of Intel's module.
    put(&mut body, 64, &[0; 56]);
    put(&mut body, 120, &plan.td_attributes);
    put(&mut body, 136, &[0x22; 48]);
    for (register, at) in [0x30, 0x31, 0x32, 0x33]
        .into_iter()
        .zip((328..).step_by(48))
    {
        put(&mut body, at, &[register; 48]);
    }
    put(&mut body, 520, &[0x44; 64]);
    if plan.kind >= 3 {
        put(&mut body, 584, &plan.svn2);
    }
    if plan.kind == 4 {
        put(&mut body, 648, &[plan.vmid]);
        put(&mut body, 649, &[0x55; 32]);
    }
    for (at, what) in &plan.body_over {
        put(&mut body, *at, what);
    }
    body
}

fn qe_report(plan: &Plan, bound: &[u8]) -> Vec<u8> {
    let mut report = vec![0; 384];
    put(&mut report, 48, &[0x15, 0, 0, 0, 0, 0, 0, 0, 0xe7]);
    put(&mut report, 64, &[0x66; 32]);
    put(&mut report, 128, &[0x77; 32]);
    put(&mut report, 256, &2_u16.to_le_bytes());
    put(&mut report, 258, &plan.qe_svn.to_le_bytes());
    put(&mut report, 320, bound);
    for (at, what) in &plan.qe_over {
        put(&mut report, *at, what);
    }
    report
}

fn certification(kind: u16, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    [&kind.to_le_bytes()[..], &len.to_le_bytes(), data].concat()
}

pub(crate) fn made(plan: &Plan) -> Made {
    let root = Ca::root();
    let platform = root.below(params("Intel SGX PCK Platform CA", true));
    let mut leaf = params(plan.pck_name, false);
    leaf.serial_number = Some(SerialNumber::from_slice(&[0x51, 2, 3]));
    if plan.pck_extension {
        leaf.custom_extensions = vec![CustomExtension::from_oid_content(
            &[1, 2, 840, 113_741, 1, 13, 1],
            sgx_extensions(plan),
        )];
    }
    let pck = if plan.pck_p384 {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        platform.with_key(leaf, key)
    } else {
        platform.below(leaf)
    };
    let report_key = if plan.pck_p384 {
        &platform.key
    } else {
        &pck.key
    };
    let signer = root.below(params("Intel SGX TCB Signing", false));
    let pck_chain = pck.pem() + &platform.pem() + &root.pem();

    let attestation = key();
    let attestation_pair = EcdsaKeyPair::from_pkcs8(
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        &attestation.serialize_der(),
    );
    let attestation_pair = attestation_pair.unwrap();
    let point = attestation_pair.public_key().as_ref()[1..].to_vec();
    let auth = [8; 32];
    let mut bound = Sha256Digest::of(&[&point, &auth]).0.to_vec();
    bound.resize(64, 0);
    let report = qe_report(plan, &bound);

    let mut quote = [&plan.version.to_le_bytes()[..], &[2, 0, 0x81, 0, 0, 0]].concat();
    quote.resize(48, 0x77);
    let body = body(plan);
    if plan.version == 5 {
        quote.extend(plan.kind.to_le_bytes());
        quote.extend(u32::try_from(body.len()).unwrap().to_le_bytes());
    }
    quote.extend(body);
    let signature = sign(&attestation.serialize_der(), &quote);
    let inner = [
        &report[..],
        &sign(report_key, &report),
        &32_u16.to_le_bytes(),
        &auth,
        &certification(plan.certification, &[pck_chain.as_bytes(), &[0]].concat()),
    ];
    let data = [&signature[..], &point, &certification(6, &inner.concat())].concat();
    quote.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    quote.extend(data);
    quote.extend(&plan.after);

    Made {
        quote,
        root: Sha256Digest::of(&[root.certificate.spki_der()]).to_string(),
        collateral: Publisher {
            root,
            platform,
            signer,
            pck: pck.certificate,
            pck_chain,
            tcb_info: tcb_info(),
            qe_identity: qe_identity(),
            root_revokes: Vec::new(),
            pck_revokes: Vec::new(),
            list_months: (1, 3),
        },
    }
}

fn components(svn: [u8; 16]) -> Value {
    svn.iter().map(|svn| json!({ "svn": svn })).collect()
}

pub(crate) fn level(sgx: u8, pce: u16, tdx: [u8; 3], status: &str, advisories: &[&str]) -> Value {
    let mut versions = [0; 16];
    versions[..3].copy_from_slice(&tdx);
    json!({
        "tcb": {
            "sgxtcbcomponents": components([sgx; 16]),
            "pcesvn": pce,
            "tdxtcbcomponents": components(versions),
        },
        "tcbDate": "2025-03-12T00:00:00Z",
        "tcbStatus": status,
        "advisoryIDs": advisories,
    })
}

pub(crate) fn own_level(svn: u16, status: &str, advisories: &[&str]) -> Value {
    json!({
        "tcb": { "isvsvn": svn },
        "tcbDate": "2025-03-12T00:00:00Z",
        "tcbStatus": status,
        "advisoryIDs": advisories,
    })
}

/// A module by Intel, which has no attribute.
fn module() -> Value {
    json!({
        "mrsigner": "00".repeat(48),
        "attributes": "00".repeat(8),
        "attributesMask": "FF".repeat(8),
    })
}

fn tcb_info() -> Value {
    let mut first = module();
    first["id"] = "TDX_01".into();
    first["tcbLevels"] = json!([
        own_level(5, "UpToDate", &[]),
        own_level(3, "OutOfDate", &["INTEL-SA-00003"]),
        own_level(2, "Revoked", &[]),
    ]);
    json!({
        "id": "TDX",
        "version": 3,
        "issueDate": "2026-01-05T10:00:00Z",
        "nextUpdate": "2026-02-04T10:00:00Z",
        "fmspc": "B0C06F000000",
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": 18,
        "tdxModule": module(),
        "tdxModuleIdentities": [first],
        "tcbLevels": [
            level(7, 11, [5, 0, 3], "UpToDate", &[]),
            level(6, 11, [5, 0, 3], "ConfigurationNeeded", &["INTEL-SA-00006"]),
            level(5, 10, [4, 0, 2], "OutOfDate", &["INTEL-SA-00005", "INTEL-SA-00003"]),
            level(4, 5, [4, 0, 2], "Revoked", &[]),
        ],
    })
}

fn qe_identity() -> Value {
    json!({
        "id": "TD_QE",
        "version": 2,
        "issueDate": "2026-01-06T10:00:00Z",
        "nextUpdate": "2026-02-05T10:00:00Z",
        "tcbEvaluationDataNumber": 17,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": "77".repeat(32),
        "isvprodid": 2,
        "tcbLevels": [
            own_level(4, "UpToDate", &[]),
            own_level(3, "OutOfDate", &["INTEL-SA-00009"]),
            own_level(2, "Revoked", &[]),
        ],
    })
}

impl Publisher {
    /// Everything, signed as it stands.
    pub(crate) fn publish(&self) -> Value {
        let (tcb_info, qe_identity) = (self.tcb_info.to_string(), self.qe_identity.to_string());
        let by = |text: &str| hex::encode(sign(&self.signer.key, text.as_bytes()));
        let signers = self.signer.pem() + &self.platform.pem() + &self.root.pem();
        json!({
            "pck_crl_issuer_chain": self.platform.pem() + &self.root.pem(),
            "root_ca_crl": self.root.list(&self.root_revokes, self.list_months),
            "pck_crl": self.platform.list(&self.pck_revokes, self.list_months),
            "tcb_info_issuer_chain": signers,
            "tcb_info_signature": by(&tcb_info),
            "tcb_info": tcb_info,
            "qe_identity_issuer_chain": signers,
            "qe_identity_signature": by(&qe_identity),
            "qe_identity": qe_identity,
        })
    }

    /// Another signer below the same root, called so.
    pub(crate) fn sign_as(&mut self, name: &str) {
        self.signer = self.root.below(params(name, false));
    }

    /// A signer below the PCK CA, with the right name.
    pub(crate) fn sign_below_the_pck_ca(&mut self) {
        self.signer = self.platform.below(params("Intel SGX TCB Signing", false));
    }

    /// A second CA of processors publishes the list.
    pub(crate) fn another_pck_ca(&mut self) {
        self.platform = self.root.below(params("Intel SGX PCK Processor CA", true));
    }

    pub(crate) fn platform_serial(&self) -> Vec<u8> {
        self.platform.certificate.serial().to_vec()
    }
}
