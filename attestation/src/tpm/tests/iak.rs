//! IAKs of makers of our own.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm,
};

use super::*;
use crate::UnixTime;
use crate::x509::Certificate;

const PURPOSE: &[u8] = b"the AK of this enrolment.";
const AIK: &[u8] = &[0x30, 0x07, 0x06, 0x05, 0x67, 0x81, 0x05, 0x08, 0x03];
const EK_PURPOSE: &[u8] = &[0x30, 0x07, 0x06, 0x05, 0x67, 0x81, 0x05, 0x08, 0x01];

struct Point(Vec<u8>);

impl PublicKeyData for Point {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

struct Maker {
    issuer: Issuer<'static, KeyPair>,
    root: Certificate,
}

impl Maker {
    fn new() -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "maker");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).unwrap();
        Self {
            root: Certificate::parse(root.der()).unwrap(),
            issuer: Issuer::new(params, key),
        }
    }

    fn certify(&self, key: &SoftKey, purpose: Option<&[u8]>, ca: bool) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "IAK");
        let serial = DnType::CustomDnType(vec![2, 5, 4, 5]);
        params.distinguished_name.push(serial, "ABC123");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        if let Some(purpose) = purpose {
            let usage = CustomExtension::from_oid_content(&[2, 5, 29, 37], purpose.to_vec());
            params.custom_extensions = vec![usage];
        }
        let point = Point(key.0.public_key().as_ref().to_vec());
        params
            .signed_by(&point, &self.issuer)
            .unwrap()
            .der()
            .to_vec()
    }
}

#[test]
fn an_iak_vouches_for_the_ak_it_certified_and_for_no_other() {
    let (maker, stranger) = (Maker::new(), Maker::new());
    let (iak, ak, other) = (SoftKey::new(), SoftKey::new(), SoftKey::new());
    let leaf = maker.certify(&iak, Some(AIK), false);
    let attested = attest(CERTIFY, PURPOSE, &certify_info(ak.ak().name().as_bytes()));
    let at = UnixTime::from_secs(1_800_000_000);
    let verify = |public: &[u8],
                  certificates: &[Vec<u8>],
                  attest: &[u8],
                  signature: &[u8],
                  ak: &SoftKey,
                  purpose: &[u8],
                  roots: &[Certificate]| {
        let claim = IakClaim {
            public,
            certificates,
            attest,
            signature,
        };
        Iak::verify(&claim, &ak.ak(), &qualifying(purpose), &[], roots, at)
    };
    let roots = [maker.root.clone()];
    let (area, signed) = (iak.area(AK), iak.sign(&attested));
    let chain = vec![leaf.clone()];
    let good = verify(&area, &chain, &attested, &signed, &ak, PURPOSE, &roots).unwrap();
    assert_eq!(good.serial().as_deref(), Some("ABC123"));
    assert_eq!(good.path().len(), 2);
    let unlimited = vec![maker.certify(&iak, None, false)];
    verify(&area, &unlimited, &attested, &signed, &ak, PURPOSE, &roots).unwrap();

    let most = vec![leaf.clone(); 16];
    verify(&area, &most, &attested, &signed, &ak, PURPOSE, &roots).unwrap();

    let foreign = attest(
        CERTIFY,
        PURPOSE,
        &certify_info(other.ak().name().as_bytes()),
    );
    let quoted = quote_info(&[(HashAlgorithm::Sha256, 1)], &[&[0; 32]]);
    let quoted = attest(QUOTE, PURPOSE, &quoted);
    type Row<'a> = (
        &'a str,
        Vec<u8>,
        Vec<Vec<u8>>,
        &'a [u8],
        Vec<u8>,
        &'a [u8],
        &'a [Certificate],
        &'a str,
    );
    let other_root = [stranger.root.clone()];
    let sign = |bytes: &[u8]| iak.sign(bytes);
    let cases: Vec<Row<'_>> = vec![
        (
            "no certificate",
            area.clone(),
            vec![],
            &attested,
            signed.clone(),
            PURPOSE,
            &roots,
            "iak-missing",
        ),
        (
            "too many",
            area.clone(),
            vec![leaf.clone(); 17],
            &attested,
            signed.clone(),
            PURPOSE,
            &roots,
            "iak-too-many",
        ),
        (
            "no key",
            vec![],
            chain.clone(),
            &attested,
            signed.clone(),
            PURPOSE,
            &roots,
            "iak-malformed",
        ),
        (
            "no certificate's bytes",
            area.clone(),
            vec![vec![0x30]],
            &attested,
            signed.clone(),
            PURPOSE,
            &roots,
            "iak-malformed",
        ),
        (
            "a key that signs anything",
            iak.area(TLS),
            chain.clone(),
            &attested,
            signed.clone(),
            PURPOSE,
            &roots,
            "iak-key",
        ),
        (
            "a CA's certificate",
            area.clone(),
            vec![maker.certify(&iak, Some(AIK), true)],
            &attested,
            signed.clone(),
            PURPOSE,
            &roots,
            "ca-as-iak",
        ),
        (
            "an EK's certificate",
            area.clone(),
            vec![maker.certify(&iak, Some(EK_PURPOSE), false)],
            &attested,
            signed.clone(),
            PURPOSE,
            &roots,
            "not-an-iak-certificate",
        ),
        (
            "another key's certificate",
            area.clone(),
            vec![maker.certify(&other, Some(AIK), false)],
            &attested,
            signed.clone(),
            PURPOSE,
            &roots,
            "iak-key-mismatch",
        ),
        (
            "another maker of the same name",
            area.clone(),
            chain.clone(),
            &attested,
            signed.clone(),
            PURPOSE,
            &other_root,
            "signature",
        ),
        (
            "no root",
            area.clone(),
            chain.clone(),
            &attested,
            signed.clone(),
            PURPOSE,
            &[],
            "no-path",
        ),
        (
            "another AK certified",
            area.clone(),
            chain.clone(),
            &foreign,
            sign(&foreign),
            PURPOSE,
            &roots,
            "certify-name",
        ),
        (
            "a quote instead",
            area.clone(),
            chain.clone(),
            &quoted,
            sign(&quoted),
            PURPOSE,
            &roots,
            "certify-type",
        ),
        (
            "signed by another key",
            area.clone(),
            chain.clone(),
            &attested,
            other.sign(&attested),
            PURPOSE,
            &roots,
            "certify-signature",
        ),
        (
            "for another enrolment",
            area.clone(),
            chain.clone(),
            &attested,
            signed.clone(),
            b"?",
            &roots,
            "certify-qualifying-data",
        ),
    ];
    for (name, public, certificates, attest, signature, purpose, roots, want) in cases {
        let got = verify(
            &public,
            &certificates,
            attest,
            &signature,
            &ak,
            purpose,
            roots,
        );
        assert_eq!(got.unwrap_err().code(), want, "{name}");
    }
    let late = UnixTime::from_secs(95_617_584_001);
    let claim = IakClaim {
        public: &area,
        certificates: &chain,
        attest: &attested,
        signature: &signed,
    };
    let got = Iak::verify(&claim, &ak.ak(), &qualifying(PURPOSE), &[], &roots, late);
    assert_eq!(got.unwrap_err().code(), "expired");
}
