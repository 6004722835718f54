//! Whose certificates the collector may show.
//!
//! Until a policy names CAs it is what the machine was configured with: a file, or the pin of one
//! key. From then on approvers say: a certificate counts under a CA they list, old or new while
//! one takes the other's place, and no more once that is revoked. They list digests alone; the CA's
//! certificate comes with the handshake or from the file.

use std::sync::Arc;

use bailiwick_attestation::{Lapsed, Sha256Digest, Term, UnixTime};
use rustls::{
    CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{self, CertificateDer, ServerName},
    server::ParsedCertificate,
};

use crate::proto::fence::state;

/// Most certificates of a chain that are looked at: a leaf's CA, and the one that follows it.
const PRESENTED: usize = 4;

/// A CA that approvers list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CaKey {
    /// SHA-256 of its `SubjectPublicKeyInfo`.
    pub spki: Sha256Digest,
    /// When its certificates count.
    pub term: Term,
}

/// What the machine was configured with.
#[derive(Clone, Debug)]
pub(super) enum Configured {
    /// Certificates of CAs.
    Roots(Vec<CertificateDer<'static>>),
    /// The `SubjectPublicKeyInfo` of one server has this SHA-256, under any name and date: the pin
    /// is the identity.
    Pin(Sha256Digest),
}

/// Why the collector's certificate was not looked at any further.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CaRefused {
    /// Approvers list none of the CAs that it came with, or that are configured.
    #[error("ca-not-listed: the signed policy lists no CA of this certificate")]
    NotListed,
    /// They list one, and its word does not count.
    #[error("ca-{code}: {lapsed}", code = .0.code(), lapsed = .0)]
    Lapsed(Lapsed),
    /// It has another key than the one pinned.
    #[error("ca-other-key: the collector's key is not the one pinned")]
    OtherKey,
}

/// The CAs a certificate may chain to: of those that came with it or are configured, the ones that
/// are listed and whose word counts.
pub(super) fn anchors<'a, 'der>(
    known: impl IntoIterator<Item = (Sha256Digest, &'a CertificateDer<'der>)>,
    listed: &[CaKey],
    now: UnixTime,
) -> Result<Vec<&'a CertificateDer<'der>>, CaRefused> {
    let (mut good, mut lapsed) = (Vec::new(), None);
    for (spki, certificate) in known {
        let Some(ca) = listed.iter().find(|ca| ca.spki == spki) else {
            continue;
        };
        match ca.term.counts(now) {
            Ok(()) => good.push(certificate),
            Err(why) => lapsed = Some(CaRefused::Lapsed(why)),
        }
    }
    if good.is_empty() {
        return Err(lapsed.unwrap_or(CaRefused::NotListed));
    }
    Ok(good)
}

/// What of the fence's state says whose certificates count. An entry that cannot be read counts
/// for nothing, and keeps the list from being empty.
pub(crate) fn listed(cas: &[state::Ca]) -> Vec<CaKey> {
    let key = |ca: &state::Ca| CaKey {
        spki: Sha256Digest::from_slice(&ca.spki).unwrap_or(Sha256Digest([0; 32])),
        term: ca.term.map(Term::from).unwrap_or_default(),
    };
    cas.iter().map(key).collect()
}

impl From<state::Term> for Term {
    fn from(term: state::Term) -> Self {
        Self {
            not_before: term.not_before_ms.map(UnixTime),
            not_after: term.not_after_ms.map(UnixTime),
            revoked: term.revoked_ms.map(UnixTime),
        }
    }
}

impl From<Term> for state::Term {
    fn from(term: Term) -> Self {
        Self {
            not_before_ms: term.not_before.map(UnixTime::millis),
            not_after_ms: term.not_after.map(UnixTime::millis),
            revoked_ms: term.revoked.map(UnixTime::millis),
        }
    }
}

/// Looks at the collector's certificate.
#[derive(Debug)]
pub(super) struct CollectorVerifier {
    pub(super) configured: Configured,
    pub(super) listed: Vec<CaKey>,
    pub(super) provider: Arc<CryptoProvider>,
}

impl CollectorVerifier {
    /// In words: of an error of another library rustls shows the type alone.
    fn refused(why: CaRefused) -> rustls::Error {
        rustls::Error::General(why.to_string())
    }

    fn under<'a>(
        &self,
        roots: impl IntoIterator<Item = &'a CertificateDer<'a>>,
    ) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root.clone().into_owned())?;
        }
        WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&self.provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))
    }
}

fn spki(certificate: &CertificateDer<'_>) -> Result<Sha256Digest, rustls::Error> {
    let spki = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    Ok(Sha256Digest::of(&[spki.as_ref()]))
}

impl ServerCertVerifier for CollectorVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: pki_types::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let configured: &[CertificateDer<'_>] = match &self.configured {
            Configured::Roots(roots) => roots,
            Configured::Pin(_) => &[],
        };
        let verifier = match (&self.configured, self.listed.as_slice()) {
            (Configured::Pin(pin), []) => {
                return if spki(end_entity)? == *pin {
                    Ok(ServerCertVerified::assertion())
                } else {
                    Err(Self::refused(CaRefused::OtherKey))
                };
            }
            (Configured::Roots(roots), []) => self.under(roots)?,
            (_, listed) => {
                // What does not parse is no CA of ours.
                let presented = intermediates.iter().take(PRESENTED);
                let known = presented
                    .chain(configured)
                    .filter_map(|certificate| Some((spki(certificate).ok()?, certificate)));
                let at = UnixTime::from_secs(now.as_secs());
                self.under(anchors(known, listed, at).map_err(Self::refused)?)?
            }
        };
        let verified =
            verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // Under another CA, perhaps one that bears the name of ours.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            )) if !self.listed.is_empty() => Err(Self::refused(CaRefused::NotListed)),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_counts_where_approvers_list_it_and_its_time_is_now() {
        let certificates = [vec![1], vec![2]].map(CertificateDer::from);
        let digest = |byte| Sha256Digest([byte; 32]);
        let known = || [(digest(1), &certificates[0]), (digest(2), &certificates[1])];
        let at = |secs| Some(UnixTime::from_secs(secs));
        let ca = |byte, term| CaKey {
            spki: digest(byte),
            term,
        };
        let open = Term::default();
        let revoked = Term {
            revoked: at(1000),
            ..open
        };
        let ended = Term {
            not_after: at(100),
            ..open
        };
        let early = Term {
            not_before: at(101),
            ..open
        };
        type Row<'a> = (&'a str, Vec<CaKey>, Result<&'a [u8], &'a str>);
        let rows: &[Row<'_>] = &[
            ("old and new", vec![ca(1, open), ca(2, open)], Ok(&[1, 2])),
            ("the new alone", vec![ca(2, open)], Ok(&[2])),
            (
                "the old revoked",
                vec![ca(1, revoked), ca(2, open)],
                Ok(&[2]),
            ),
            ("revoked", vec![ca(1, revoked)], Err("ca-key-revoked")),
            (
                "revoked, beside one that did not come",
                vec![ca(3, open), ca(1, revoked)],
                Err("ca-key-revoked"),
            ),
            ("ended", vec![ca(1, ended)], Err("ca-key-ended")),
            ("early", vec![ca(1, early)], Err("ca-key-early")),
            ("another", vec![ca(3, open)], Err("ca-not-listed")),
        ];
        for (name, listed, want) in rows {
            let found = anchors(known(), listed, UnixTime::from_secs(100));
            match (found, want) {
                (Ok(found), Ok(want)) => {
                    let first: Vec<u8> = found.iter().map(|der| der[0]).collect();
                    assert_eq!(first, *want, "{name}");
                }
                (Err(why), Err(code)) => {
                    let text = why.to_string();
                    assert_eq!(text.split(':').next(), Some(*code), "{name}");
                }
                (found, _) => panic!("{name}: {found:?}"),
            }
        }
        assert_eq!(
            anchors([], &[ca(1, open)], UnixTime::from_secs(100)),
            Err(CaRefused::NotListed)
        );
    }

    #[test]
    fn what_the_fence_says_is_read_back_and_what_cannot_be_read_counts_for_nothing() {
        let term = Term {
            not_before: Some(UnixTime(1)),
            not_after: Some(UnixTime(2)),
            revoked: Some(UnixTime(3)),
        };
        let told = |spki: Vec<u8>| state::Ca {
            spki,
            term: Some(term.into()),
        };
        let digest = Sha256Digest([5; 32]);
        let read = listed(&[told(vec![5; 32]), told(vec![5; 31])]);
        assert_eq!(read[0], CaKey { spki: digest, term });
        assert_eq!(read[1].spki, Sha256Digest([0; 32]));
        assert_eq!(read.len(), 2);
    }
}
