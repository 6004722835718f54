//! The outward certificate: what others believe of a node.
//!
//! A transport certificate opens the evidence port and nothing else, for a failed node must still
//! be heard. This one is for everybody else, signed by an authority of its own, and exists only
//! beside a lease: it ends no later than that, and no result but an affirming one renews it. There
//! is no revocation; a life of minutes takes its place.

use bailiwick_attestation::crypto::{Curve, KeyError, PublicKey};
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tpm::Public;
use bailiwick_attestation::{NodeId, ParseError, Sha256Digest, UnixTime};

use crate::init::{Authority, CaError, InitError, Kind, OutwardLeaf, StateDir};

/// Longest life in ms, however long the profile's leases are: nobody can take one back.
const LONGEST: u64 = 3_600_000;

/// What an affirming answer to a challenge lets others believe.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// The inventory's name for the node.
    pub node: NodeId,
    /// SHA-256 of the manifest it was affirmed under.
    pub manifest: Sha256Digest,
    /// End of the lease it goes with.
    pub until: UnixTime,
}

/// Why none was issued.
#[derive(Debug, thiserror::Error)]
pub enum OutwardError {
    /// The stored enrolment.
    #[error("EnrollRequest.transport_public")]
    Malformed(#[from] ParseError),
    /// The stored enrolment of a guest.
    #[error("GuestRequest.transport_spki")]
    Guest(#[from] KeyError),
    /// There is no request in it.
    #[error("Enrolment.request is absent")]
    Absent,
    /// The stored enrolment names a key that enrolment does not let in.
    #[error("the transport key is not on P-256")]
    Kind,
    /// The certificate could not be made.
    #[error("outward CA")]
    Ca(#[from] CaError),
}

/// The key that a node enrolled with: in its TPM, or a guest's of this boot.
pub fn transport_key(enrolment: &v1::Enrolment) -> Result<PublicKey, OutwardError> {
    let guest = enrolment.guest.as_ref();
    let guest = guest.and_then(|guest| guest.request.as_ref());
    if let Some(guest) = guest {
        return Ok(PublicKey::from_spki_der(&guest.transport_spki)?);
    }
    let request = enrolment.request.as_ref().ok_or(OutwardError::Absent)?;
    let public = Public::parse(&request.transport_public)?;
    public.key().cloned().ok_or(OutwardError::Kind)
}

/// The authority of outward certificates, and the only one that signs them.
#[derive(Debug)]
pub struct Outward(Authority);

impl Outward {
    /// Reads it from the state folder.
    pub fn load(state: &StateDir) -> Result<Self, InitError> {
        state.authority(Kind::Outward).map(Self)
    }

    /// Issues one for the key that enrolment proved to be the node's ([`transport_key`]).
    pub fn issue(
        &self,
        grant: &Grant,
        transport: &PublicKey,
        now: UnixTime,
    ) -> Result<v1::OutwardCertificate, OutwardError> {
        let PublicKey::Ec {
            curve: Curve::P256,
            point,
        } = transport
        else {
            return Err(OutwardError::Kind);
        };
        // Certificates count whole seconds: rounded down, it never outlives the lease.
        let longest = now.secs().saturating_add(LONGEST / 1000);
        let not_after = UnixTime::from_secs(grant.until.secs().min(longest));
        let leaf = self.0.issue_outward(
            &OutwardLeaf {
                node: &grant.node,
                manifest: &grant.manifest,
                public_point: point,
                not_after,
            },
            now,
        )?;
        Ok(v1::OutwardCertificate {
            certificate_chain: [&leaf, self.0.certificate()]
                .map(|der| der.to_vec())
                .to_vec(),
            not_after_ms: not_after.millis(),
        })
    }
}

/// The last certificate a stream carried. A node that connects anew gets a new one.
#[derive(Debug, Default)]
pub struct Last(Option<Carried>);

#[derive(Debug)]
struct Carried {
    grant: Grant,
    issued: UnixTime,
    not_after: UnixTime,
}

impl Last {
    /// Whether a node with this grant needs a new one: it has none, says something else now, or
    /// less than half of its life is left.
    #[must_use]
    pub fn due(&self, grant: &Grant, now: UnixTime) -> bool {
        let Some(last) = &self.0 else { return true };
        let same = last.grant.node == grant.node && last.grant.manifest == grant.manifest;
        let life = last.not_after.since(last.issued);
        !same || last.not_after.since(now) < life / 2
    }

    /// One was issued.
    pub fn issued(&mut self, grant: Grant, certificate: &v1::OutwardCertificate, now: UnixTime) {
        self.0 = Some(Carried {
            grant,
            issued: now,
            not_after: UnixTime(certificate.not_after_ms),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bailiwick_attestation::DeploymentId;
    use rustls::RootCertStore;
    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::CertificateDer;
    use rustls::server::WebPkiClientVerifier;
    use x509_cert::Certificate;
    use x509_cert::der::Decode as _;
    use x509_cert::ext::pkix::name::GeneralName;
    use x509_cert::ext::pkix::{ExtendedKeyUsage, SubjectAltName};

    use super::*;
    use crate::init::{Plan, init};

    const NOW: UnixTime = UnixTime(1_800_000_000_750);
    const HOUR: u64 = 3_600_000;

    fn made() -> (tempfile::TempDir, StateDir) {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan {
            dir: dir.path().join("state"),
            deployment: DeploymentId::new("demo").unwrap(),
            names: vec!["127.0.0.1".into()],
            operator: NodeId::new("first").unwrap(),
            log_origin: "log.example/demo".into(),
            lease_key_id: "lease-1".into(),
        };
        init(&plan, NOW).unwrap();
        let state = StateDir::at(&plan.dir);
        (dir, state)
    }

    fn grant(lease_ms: u64) -> Grant {
        Grant {
            node: NodeId::new("gpu-01").unwrap(),
            manifest: Sha256Digest([0xab; 32]),
            until: UnixTime(NOW.millis() + lease_ms),
        }
    }

    /// A `TPMT_PUBLIC` of an unrestricted ECDSA key, and its point.
    fn transport(curve: u16) -> (Vec<u8>, Vec<u8>) {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let point = rcgen::PublicKeyData::der_bytes(&key).to_vec();
        let mut public = vec![0x00, 0x23, 0x00, 0x0b, 0x00, 0x04, 0x00, 0x72, 0x00, 0x00];
        // No symmetric cipher; ECDSA with SHA-256; the curve; no key derivation.
        public.extend([0x00, 0x10, 0x00, 0x18, 0x00, 0x0b]);
        public.extend(curve.to_be_bytes());
        public.extend([0x00, 0x10]);
        for coordinate in point[1..].chunks(32) {
            public.extend([0, 32]);
            public.extend(coordinate);
        }
        (public, point)
    }

    /// The key of a TPM that enrolled with such a public area.
    fn enrolled(transport_public: &[u8]) -> Result<PublicKey, OutwardError> {
        transport_key(&v1::Enrolment {
            request: Some(v1::EnrollRequest {
                transport_public: transport_public.to_vec(),
                ..v1::EnrollRequest::default()
            }),
            ..v1::Enrolment::default()
        })
    }

    #[test]
    fn it_says_what_was_granted_and_lasts_no_longer() {
        let (_dir, state) = made();
        let outward = Outward::load(&state).unwrap();
        let (public, point) = transport(0x0003);
        let cases = [
            ("one second", 1_000, 1),
            ("the demo's lease", 300_000, 300),
            ("an hour", HOUR, 3600),
            ("one second above an hour", HOUR + 1_000, 3600),
            ("a day", 24 * HOUR, 3600),
        ];
        for (name, lease_ms, seconds) in cases {
            let grant = grant(lease_ms);
            let issued = outward.issue(&grant, &enrolled(&public).unwrap(), NOW);
            let issued = issued.unwrap();
            assert!(issued.not_after_ms <= grant.until.millis(), "{name}");
            let leaf = Certificate::from_der(&issued.certificate_chain[0]).unwrap();
            let leaf = leaf.tbs_certificate();
            let [from, to] = [leaf.validity().not_before, leaf.validity().not_after]
                .map(|time| time.to_unix_duration());
            assert_eq!(to - from, Duration::from_secs(seconds), "{name}");
            assert_eq!(to, Duration::from_millis(issued.not_after_ms), "{name}");

            let (_, names) = leaf.get_extension::<SubjectAltName>().unwrap().unwrap();
            let uris: Vec<_> = names
                .0
                .iter()
                .map(|name| match name {
                    GeneralName::UniformResourceIdentifier(uri) => uri.as_str(),
                    other => panic!("{other:?}"),
                })
                .collect();
            let policy = format!("bailiwick://demo/policy/{}", "ab".repeat(32));
            assert_eq!(uris, ["bailiwick://demo/node/gpu-01", &policy], "{name}");
            let (_, usage) = leaf.get_extension::<ExtendedKeyUsage>().unwrap().unwrap();
            let usage: Vec<_> = usage.0.iter().map(ToString::to_string).collect();
            assert_eq!(usage, ["1.3.6.1.5.5.7.3.2", "1.3.6.1.5.5.7.3.1"], "{name}");
            let key = leaf.subject_public_key_info();
            assert_eq!(key.subject_public_key.as_bytes(), Some(point.as_slice()));
        }
    }

    #[test]
    fn only_the_outward_ca_stands_behind_it() {
        let (_dir, state) = made();
        let (public, _) = transport(0x0003);
        let outward = Outward::load(&state).unwrap();
        let issued = outward.issue(&grant(300_000), &enrolled(&public).unwrap(), NOW);
        let issued = issued.unwrap();
        let leaf = CertificateDer::from(issued.certificate_chain[0].clone());
        for (kind, believed) in [
            (Kind::Outward, true),
            (Kind::Transport, false),
            (Kind::Operators, false),
        ] {
            let authority = state.authority(kind).unwrap();
            let mut roots = RootCertStore::empty();
            roots.add(authority.certificate().clone()).unwrap();
            let provider = Arc::new(aws_lc_rs::default_provider());
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .unwrap();
            for (at, valid) in [(0, true), (299, true), (301, false)] {
                let at = Duration::from_millis(NOW.millis()) + Duration::from_secs(at);
                let at = rustls::pki_types::UnixTime::since_unix_epoch(at);
                let verified = verifier.verify_client_cert(&leaf, &[], at);
                assert_eq!(verified.is_ok(), believed && valid, "{kind:?} {at:?}");
            }
        }
        assert_eq!(
            issued.certificate_chain[1],
            state
                .authority(Kind::Outward)
                .unwrap()
                .certificate()
                .to_vec()
        );
    }

    #[test]
    fn keys_that_enrolment_does_not_let_in_get_none() {
        let (_dir, state) = made();
        let outward = Outward::load(&state).unwrap();
        let (mut public, _) = transport(0x0003);
        public.pop();
        for public in [public.as_slice(), &[]] {
            let malformed = enrolled(public);
            assert!(matches!(malformed, Err(OutwardError::Malformed(_))));
        }
        let nobody = transport_key(&v1::Enrolment::default());
        assert!(matches!(nobody, Err(OutwardError::Absent)));
        let other = PublicKey::Ed25519([7; 32]);
        let kind = outward.issue(&grant(300_000), &other, NOW);
        assert!(matches!(kind, Err(OutwardError::Kind)));
    }

    #[test]
    fn a_guest_gets_one_for_the_key_it_enrolled_with() {
        let (_dir, state) = made();
        let outward = Outward::load(&state).unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let guest = |transport_spki| v1::Enrolment {
            guest: Some(v1::GuestEnrolment {
                request: Some(v1::GuestRequest {
                    transport_spki,
                    ..v1::GuestRequest::default()
                }),
                ..v1::GuestEnrolment::default()
            }),
            ..v1::Enrolment::default()
        };
        let spki = rcgen::PublicKeyData::subject_public_key_info(&key);
        let own = transport_key(&guest(spki)).unwrap();
        let issued = outward.issue(&grant(300_000), &own, NOW).unwrap();
        let leaf = Certificate::from_der(&issued.certificate_chain[0]).unwrap();
        let named = leaf.tbs_certificate().subject_public_key_info();
        let point = rcgen::PublicKeyData::der_bytes(&key);
        assert_eq!(named.subject_public_key.as_bytes(), Some(point));
        let none = transport_key(&guest(vec![1]));
        assert!(matches!(none, Err(OutwardError::Guest(_))));
    }

    #[test]
    fn a_new_one_is_due_when_half_is_gone_or_something_changed() {
        let after = |seconds: u64| UnixTime(1_800_000_000_000 + seconds * 1000);
        let mut last = Last::default();
        let first = grant(300_000);
        assert!(last.due(&first, after(0)), "none yet");
        let certificate = v1::OutwardCertificate {
            not_after_ms: after(300).millis(),
            ..v1::OutwardCertificate::default()
        };
        last.issued(first.clone(), &certificate, after(0));
        for (seconds, due) in [
            (0, false),
            (149, false),
            (150, false),
            (151, true),
            (400, true),
        ] {
            assert_eq!(last.due(&first, after(seconds)), due, "{seconds}");
        }
        let other_policy = Grant {
            manifest: Sha256Digest([0xac; 32]),
            ..first.clone()
        };
        assert!(last.due(&other_policy, after(1)));
        let other_name = Grant {
            node: NodeId::new("gpu-02").unwrap(),
            ..first
        };
        assert!(last.due(&other_name, after(1)));
    }
}
