//! From the quote to Intel's root.

use super::pck::Pck;
use super::quote::Quote;
use super::refused::TdxRefused;
use crate::crypto::{
    self, Curve, HashAlgorithm, PublicKey, SignatureScheme, VerifyError, ecdsa_der,
};
use crate::ids::{Sha256Digest, UnixTime};
use crate::x509::{Certificate, find_path};

/// Intel's root key ("Intel SGX Root CA"), by SHA-256 of the `SubjectPublicKeyInfo`; the
/// certificate is published at the Provisioning Certification Service.
pub(crate) const ROOT: &str = "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e";

/// A quote of a processor of Intel's. Only [`verify`] makes one.
#[derive(Clone, Debug)]
pub struct Certified<'q> {
    pub(super) quote: &'q Quote<'q>,
    /// The processor.
    pub pck: Pck,
    /// Its certificate first, the root last.
    pub(super) path: Vec<Certificate>,
}

/// Checks signatures and path of a quote. `chain` is the PCK's certificate first, then whatever
/// stands between and the root's certificate: [`Quote::pck_chain`], or what somebody else kept of
/// it; only Intel's own key, which is built in, is trusted. Every certificate has to be valid at
/// `at`. All that is wrong is told.
pub fn verify<'q>(
    quote: &'q Quote<'q>,
    chain: &[Certificate],
    at: UnixTime,
) -> Result<Certified<'q>, Vec<TdxRefused>> {
    verify_under(ROOT, quote, chain, at)
}

pub(crate) fn verify_under<'q>(
    root: &str,
    quote: &'q Quote<'q>,
    chain: &[Certificate],
    at: UnixTime,
) -> Result<Certified<'q>, Vec<TdxRefused>> {
    const PCK: &str = "PCK certificate";
    let mut refused = Vec::new();
    let key = PublicKey::Ec {
        curve: Curve::P256,
        point: [&[4][..], quote.attestation_key].concat(),
    };
    refused.extend(
        p256(&key, quote.signed, quote.signature)
            .map_err(TdxRefused::QuoteSignature)
            .err(),
    );
    refused.extend(attestation_key(quote).err());
    let path = match path(root, PCK, chain, at) {
        Ok(path) => path,
        Err(why) => {
            refused.push(why);
            return Err(refused);
        }
    };
    let Some(leaf) = path.first() else {
        refused.push(TdxRefused::Root(PCK));
        return Err(refused);
    };
    match leaf.key() {
        Ok(key @ PublicKey::Ec { curve, .. }) if *curve == Curve::P256 => refused.extend(
            p256(key, quote.qe_report_bytes, quote.qe_report_signature)
                .map_err(TdxRefused::QeReportSignature)
                .err(),
        ),
        _ => refused.push(TdxRefused::Key(PCK)),
    }
    match Pck::of(leaf) {
        Ok(pck) if refused.is_empty() => Ok(Certified { quote, pck, path }),
        Ok(_) => Err(refused),
        Err(why) => {
            refused.push(why);
            Err(refused)
        }
    }
}

/// The quoting enclave says that the key is its own: what it binds is the key's digest, with what
/// it chose to bind beside it.
fn attestation_key(quote: &Quote<'_>) -> Result<(), TdxRefused> {
    let digest = Sha256Digest::of(&[quote.attestation_key, quote.qe_auth_data]).to_string();
    let expected = digest + &"00".repeat(32);
    let found = hex::encode(quote.qe_report.report_data);
    if found == expected {
        return Ok(());
    }
    Err(TdxRefused::AttestationKey { found, expected })
}

/// Path from the first certificate to the root, by the root's key.
pub(super) fn path(
    root: &str,
    what: &'static str,
    chain: &[Certificate],
    at: UnixTime,
) -> Result<Vec<Certificate>, TdxRefused> {
    let is_root = |one: &&Certificate| Sha256Digest::of(&[one.spki_der()]).to_string() == root;
    let anchors: Vec<Certificate> = chain.iter().filter(is_root).cloned().collect();
    let Some(leaf) = chain.first().filter(|_| !anchors.is_empty()) else {
        return Err(TdxRefused::Root(what));
    };
    let path = find_path(leaf, chain, &anchors, at).map_err(|reason| TdxRefused::Path {
        what,
        reason: Box::new(reason),
    })?;
    Ok(path.into_iter().cloned().collect())
}

/// Checks r and s, big-endian, by a key on P-256 with SHA-256.
pub(super) fn p256(
    key: &PublicKey,
    message: &[u8],
    signature: &[u8; 64],
) -> Result<(), VerifyError> {
    let (r, s) = signature.split_at(32);
    let scheme = SignatureScheme::Ecdsa(HashAlgorithm::Sha256);
    match ecdsa_der(r, s) {
        Some(der) => crypto::verify(key, scheme, message, &der),
        None => Err(VerifyError::Mismatch),
    }
}
