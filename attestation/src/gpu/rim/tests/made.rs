//! Signers and RIMs made in the test, under a root of the test.
//!
//! The text is written in its canonical form by hand, so that what signs here knows nothing of
//! the canonicaliser it tests.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::crypto::HashAlgorithm;
use bailiwick_attestation::gpu::Anchors;
use bailiwick_attestation::x509::Certificate;

pub(crate) const SWID: &str = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd";
pub(crate) const HASHES: &str = "http://www.w3.org/2001/04/xmlenc#sha384";
pub(crate) const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
pub(crate) const C14N: &str = "http://www.w3.org/2006/12/xml-c14n11";

/// 2026-01-01, when every certificate is valid.
pub(crate) const AT: UnixTime = UnixTime::from_secs(1_767_225_600);
/// First and last second of the signer: 2025-01-01 to 2027-01-01.
pub(crate) const SIGNER_FROM: u64 = 1_735_689_600;
pub(crate) const SIGNER_UNTIL: u64 = 1_798_761_600;

/// Whoever signs RIMs.
pub(crate) struct Signer {
    /// The signer's own certificate first, the root last.
    pub(crate) chain: Vec<Certificate>,
    pub(crate) key: EcdsaKeyPair,
}

pub(crate) fn params(name: &str, ca: bool) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2023, 1, 1);
    params.not_after = rcgen::date_time_ymd(2033, 1, 1);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    if ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    } else {
        params.not_before = rcgen::date_time_ymd(2025, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    }
    params
}

impl Signer {
    /// Signer, two CAs and a root, as NVIDIA has them.
    pub(crate) fn new() -> Self {
        Self::with(|_, _| {})
    }

    /// `edit` sees what each certificate will say, by its place from the signer's.
    pub(crate) fn with(edit: impl Fn(usize, &mut CertificateParams)) -> Self {
        let names = [
            "HCC RIM L4 Signer",
            "Test Reference Value L3 GH100 001",
            "Test Reference Value GH100 CA",
            "Test CoRIM signing Root CA",
        ];
        Self::of(&names, edit)
    }

    /// Signer and root alone, where a test counts bytes.
    pub(crate) fn short() -> Self {
        Self::of(&["S", "R"], |_, _| {})
    }

    fn of(names: &[&str], edit: impl Fn(usize, &mut CertificateParams)) -> Self {
        let key = || KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let made = |place: usize| {
            let mut params = params(names[place], place > 0);
            edit(place, &mut params);
            params
        };
        let top = names.len() - 1;
        let mut issuer_key = key();
        let mut issuer = made(top);
        let root = issuer.self_signed(&issuer_key).unwrap();
        let mut chain = vec![Certificate::parse(root.der()).unwrap()];
        for place in (0..top).rev() {
            let own_key = key();
            let own = made(place);
            let above = Issuer::new(issuer, issuer_key);
            let certificate = own.signed_by(&own_key, &above).unwrap();
            chain.insert(0, Certificate::parse(certificate.der()).unwrap());
            (issuer, issuer_key) = (own, own_key);
        }
        let key = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P384_SHA384_FIXED_SIGNING,
            &issuer_key.serialize_der(),
        );
        Self {
            chain,
            key: key.unwrap(),
        }
    }

    /// Its own root is what is trusted.
    pub(crate) fn anchors(&self) -> Anchors {
        Anchors::of(&self.chain[self.chain.len() - 1..])
    }

    /// A RIM: the tag with a signature in it.
    pub(crate) fn rim(&self, tag: &Tag) -> String {
        self.sign(&tag.text())
    }

    /// Signs a document that is in its canonical form.
    pub(crate) fn sign(&self, document: &str) -> String {
        self.sign_as(document, &Shape::default())
    }

    pub(crate) fn sign_as(&self, document: &str, shape: &Shape) -> String {
        let digest = HashAlgorithm::Sha384.digest(&[document.as_bytes()]);
        let info = shape.signed_info(digest.unwrap().as_slice());
        // What is in scope where it stands, said at its own start.
        let scope =
            format!("<ds:SignedInfo xmlns=\"{SWID}\" xmlns:ds=\"{DSIG}\" xmlns:ns2=\"{HASHES}\">");
        let canonical = info.replacen("<ds:SignedInfo>", &scope, 1);
        let value = self.key.sign(&SystemRandom::new(), canonical.as_bytes());
        let certificates: String = self
            .chain
            .iter()
            .map(|one| {
                let text = STANDARD.encode(one.as_der());
                format!("<ds:X509Certificate>{text}</ds:X509Certificate>")
            })
            .collect();
        let signature = format!(
            "<ds:Signature xmlns:ds=\"{DSIG}\">{info}<ds:SignatureValue>{}</ds:SignatureValue>\
             <ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo></ds:Signature>",
            STANDARD.encode(value.unwrap().as_ref())
        );
        let end = document.rfind("</").unwrap();
        let (before, after) = document.split_at(end);
        format!("{before}{signature}{after}")
    }
}

/// What a signature says of itself.
pub(crate) struct Shape {
    pub(crate) canonicalization: &'static str,
    pub(crate) method: &'static str,
    pub(crate) transforms: Vec<&'static str>,
    pub(crate) hash: &'static str,
    pub(crate) reference: &'static str,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            canonicalization: C14N,
            method: "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384",
            transforms: vec![
                "http://www.w3.org/2000/09/xmldsig#enveloped-signature",
                C14N,
            ],
            hash: "http://www.w3.org/2001/04/xmldsig-more#sha384",
            reference: " URI=\"\"",
        }
    }
}

impl Shape {
    fn signed_info(&self, digest: &[u8]) -> String {
        let transforms: String = self
            .transforms
            .iter()
            .map(|name| format!("<ds:Transform Algorithm=\"{name}\"></ds:Transform>"))
            .collect();
        format!(
            "<ds:SignedInfo>\
             <ds:CanonicalizationMethod Algorithm=\"{}\"></ds:CanonicalizationMethod>\
             <ds:SignatureMethod Algorithm=\"{}\"></ds:SignatureMethod>\
             <ds:Reference{}><ds:Transforms>{transforms}</ds:Transforms>\
             <ds:DigestMethod Algorithm=\"{}\"></ds:DigestMethod>\
             <ds:DigestValue>{}</ds:DigestValue></ds:Reference></ds:SignedInfo>",
            self.canonicalization,
            self.method,
            self.reference,
            self.hash,
            STANDARD.encode(digest)
        )
    }
}

/// What a RIM will say.
#[derive(Clone)]
pub(crate) struct Tag {
    pub(crate) product: &'static str,
    pub(crate) edition: &'static str,
    pub(crate) version: &'static str,
    pub(crate) resources: Vec<Resource>,
}

#[derive(Clone)]
pub(crate) struct Resource {
    pub(crate) index: u8,
    pub(crate) active: bool,
    pub(crate) values: Vec<[u8; 48]>,
}

impl Tag {
    /// Of a driver, with one value for each measurement named: its own number, 48 times.
    pub(crate) fn driver(active: &[u8]) -> Self {
        Self {
            product: "GH100",
            edition: "GPU",
            version: "550.90.07",
            resources: active
                .iter()
                .map(|index| Resource {
                    index: *index,
                    active: true,
                    values: vec![[*index; 48]],
                })
                .collect(),
        }
    }

    /// Of a VBIOS.
    pub(crate) fn vbios(active: &[u8]) -> Self {
        Self {
            version: "96.00.9F.00.01",
            ..Self::driver(active)
        }
    }

    /// In canonical form, without signature.
    pub(crate) fn text(&self) -> String {
        let resources: String = self.resources.iter().map(Resource::text).collect();
        format!(
            "<SoftwareIdentity xmlns=\"{SWID}\" xmlns:ns2=\"{HASHES}\" name=\"{product}\" \
             tagId=\"00c0ffee\">\n<Meta colloquialVersion=\"{}\" edition=\"{}\" \
             product=\"{product}\"></Meta>\n<Payload>{resources}</Payload>\n</SoftwareIdentity>",
            self.version,
            self.edition,
            product = self.product,
        )
    }
}

impl Resource {
    fn text(&self) -> String {
        let mut hashes: Vec<(String, String)> = (0..)
            .zip(&self.values)
            .map(|(n, value): (u8, _)| (format!("Hash{n}"), hex::encode(value)))
            .collect();
        // By name as text: Hash10 comes before Hash2.
        hashes.sort();
        let hashes = hashes.iter();
        let hashes: String = hashes
            .map(|(name, value)| format!(" ns2:{name}=\"{value}\""))
            .collect();
        format!(
            "<Resource active=\"{}\" alternatives=\"{}\" index=\"{index}\" \
             name=\"Measurement_{index}\" size=\"48\" type=\"Measurement\"{}></Resource>",
            if self.active { "True" } else { "False" },
            self.values.len(),
            hashes,
            index = self.index,
        )
    }
}
