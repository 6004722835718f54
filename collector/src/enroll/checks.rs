//! What can be said of an enrolment before the TPM has answered. No clock, no disk: a table of
//! refusals can be tested as one.

use bailiwick_attestation::crypto::{Curve, PublicKey};
use bailiwick_attestation::evidence::transport_binding;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tpm::{
    AkPublic, AkRefused, CertifiedKey, CertifyRefused, EkCertRefused, EkChain, EkPublic, EkRefused,
    Public, QualifyingData,
};
use bailiwick_attestation::{DeploymentId, IdError, NodeId, ParseError, Sha256Digest, UnixTime};

use bailiwick_policy::model::DEVICES_LIMIT;

use super::EkTrust;
use super::joins::{Words, of_node};
use crate::direct::Policy;

/// Most certificates a node presents; a chain in NV has three at most.
const CERTIFICATES: usize = 16;
/// Longest chassis serial or device id.
pub(super) const SERIAL: usize = 200;
/// Most device ids: a UUID and a serial for each of the inventory's most devices.
pub(super) const DEVICES: usize = 2 * DEVICES_LIMIT;

/// Why a TPM is not let in, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum EnrollRefused {
    /// For another installation.
    #[error("this collector serves deployment {want}: correct `deployment` on the node")]
    Deployment {
        /// The one served.
        want: DeploymentId,
    },
    /// The node's name is none.
    #[error("EnrollRequest.node: {0}")]
    Name(#[from] IdError),
    /// A public area cannot be read.
    #[error("EnrollRequest.{field}: {source}")]
    Malformed {
        /// Which.
        field: &'static str,
        /// Where and what.
        source: ParseError,
    },
    /// Too long, or too many.
    #[error("EnrollRequest.{0} is longer than any honest one")]
    TooLong(&'static str),
    /// The EK is none.
    #[error("EK: {0}")]
    Ek(#[source] EkRefused),
    /// No certificate, and nobody signed for it.
    #[error("the TPM has no EK certificate, and the signed inventory does not list it: sign\n{0}")]
    EkUnvouched(String),
    /// The certificate leads to no configured maker, or is not this EK's.
    #[error("EK certificate: {0}; add the maker's root to enroll.ek_roots if it is to be trusted")]
    EkCertificate(#[source] EkCertRefused),
    /// The inventory gives the name to another TPM, or the TPM another name.
    #[error(
        "the signed inventory lists {listed}; this TPM (EK {ek}) claims to be {claimed}: \
             correct the node's name, or sign a new entry if its board was replaced"
    )]
    EkNotOfNode {
        /// What the inventory says.
        listed: String,
        /// The name claimed.
        claimed: NodeId,
        /// This TPM.
        ek: Sha256Digest,
    },
    /// Approvers took the TPM out of service.
    #[error("{0}; a retired TPM enrols no more")]
    Retired(String),
    /// The node had another TPM, and nobody signed that this one takes its place.
    #[error(
        "{node} had the TPM with EK {former}; sign `replaces = \"{former}\"` in its entry, or \
         retire that TPM"
    )]
    ReplacesMissing {
        /// The node.
        node: NodeId,
        /// The EK it enrolled with before.
        former: Sha256Digest,
    },
    /// The name was a TPM's, and nobody signed that it is out of service.
    #[error("{node} had the TPM with EK {former}: retire that TPM first")]
    FormerInService {
        /// The guest that is to have the name.
        node: NodeId,
        /// The EK that enrolled under it before.
        former: Sha256Digest,
    },
    /// The AK is not one whose quotes can be believed.
    #[error("AK: {0}")]
    Ak(#[source] AkRefused),
    /// The inventory names another AK.
    #[error("the signed inventory names another AK for this node: sign its new AK, {found}")]
    AkNotOfNode {
        /// Name of the AK presented, hex.
        found: String,
    },
    /// The transport key is not certified by the AK.
    #[error("transport key: {0}")]
    Transport(#[source] CertifyRefused),
    /// The transport key is of another kind.
    #[error("transport key: must be ECC on P-256, not {0}")]
    TransportKind(String),
}

impl EnrollRefused {
    /// Stable word for scripts.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Deployment { .. } => "deployment-mismatch",
            Self::Name(_) => "node-name",
            Self::Malformed { .. } => "public-malformed",
            Self::TooLong(_) => "request-too-long",
            Self::Ek(refused) => refused.code(),
            Self::EkUnvouched(_) => "ek-unvouched",
            Self::EkCertificate(refused) => refused.code(),
            Self::EkNotOfNode { .. } => "ek-not-of-node",
            Self::Retired(_) => "node-retired",
            Self::ReplacesMissing { .. } => "replaces-missing",
            Self::FormerInService { .. } => "former-in-service",
            Self::Ak(refused) => refused.code(),
            Self::AkNotOfNode { .. } => "ak-not-of-node",
            Self::Transport(refused) => refused.code(),
            Self::TransportKind(_) => "transport-key",
        }
    }
}

/// A request whose paper is in order.
#[derive(Debug)]
pub(super) struct Applicant {
    pub(super) ek: EkPublic,
    pub(super) ek_digest: Sha256Digest,
    pub(super) ek_chain: Vec<Vec<u8>>,
    pub(super) ak: AkPublic,
    /// Uncompressed point on P-256.
    pub(super) transport_point: Vec<u8>,
    pub(super) claimed: NodeId,
}

/// Checks everything but that AK and EK live in one TPM.
pub(super) fn check(
    request: &v1::EnrollRequest,
    deployment: &DeploymentId,
    trust: &EkTrust,
    policy: Option<&Policy>,
    now: UnixTime,
) -> Result<Applicant, EnrollRefused> {
    if request.deployment != deployment.as_str() {
        return Err(EnrollRefused::Deployment {
            want: deployment.clone(),
        });
    }
    lengths(request)?;
    let claimed = NodeId::new(&request.node)?;
    let public = |field, bytes: &[u8]| {
        Public::parse(bytes).map_err(|source| EnrollRefused::Malformed { field, source })
    };
    let ek = EkPublic::new(public("ek_public", &request.ek_public)?).map_err(EnrollRefused::Ek)?;
    let ek_digest = ek.digest();
    let ak = AkPublic::new(public("ak_public", &request.ak_public)?).map_err(EnrollRefused::Ak)?;

    let ek_chain = if request.ek_certificates.is_empty() {
        if policy
            .and_then(|policy| policy.listed(&ek_digest))
            .is_none()
        {
            return Err(EnrollRefused::EkUnvouched(entry(request, &ek_digest)));
        }
        Vec::new()
    } else {
        let chain = EkChain::verify_for(
            &ek,
            &request.ek_certificates,
            &trust.intermediates,
            &trust.roots,
            now,
        );
        let chain = chain.map_err(EnrollRefused::EkCertificate)?;
        chain
            .path()
            .iter()
            .map(|certificate| certificate.as_der().to_vec())
            .collect()
    };
    if let Some(policy) = policy {
        let words = Words::of(policy, &ek_digest, &claimed);
        of_node(&words, &ek_digest, ak.name().as_bytes(), &claimed)?;
    }

    let want = QualifyingData::from(transport_binding(deployment, &ek_digest));
    let transport = public("transport_public", &request.transport_public)?;
    let transport = CertifiedKey::verify(
        transport,
        &request.transport_attest,
        &request.transport_signature,
        &ak,
        &want,
    )
    .map_err(EnrollRefused::Transport)?;
    let PublicKey::Ec {
        curve: Curve::P256,
        point,
    } = transport.key()
    else {
        return Err(EnrollRefused::TransportKind(transport.key().kind()));
    };
    Ok(Applicant {
        ek,
        ek_digest,
        ek_chain,
        ak,
        transport_point: point.clone(),
        claimed,
    })
}

/// No honest node's request is longer.
fn lengths(request: &v1::EnrollRequest) -> Result<(), EnrollRefused> {
    let devices = &request.devices;
    let too_long = [
        (
            "ek_certificates",
            request.ek_certificates.len() > CERTIFICATES,
        ),
        ("chassis_serial", request.chassis_serial.len() > SERIAL),
        ("devices", devices.len() > DEVICES),
        ("devices", devices.iter().any(|id| id.len() > SERIAL)),
        (
            "iak_certificates",
            request.iak_certificates.len() > CERTIFICATES,
        ),
    ];
    match too_long.iter().find(|(_, longer)| *longer) {
        None => Ok(()),
        Some((field, _)) => Err(EnrollRefused::TooLong(field)),
    }
}

/// The inventory entry an approver would sign for this TPM.
pub(super) fn entry(request: &v1::EnrollRequest, ek: &Sha256Digest) -> String {
    let mut entry = format!("[[node]]\nname = \"{}\"\nek = \"{ek}\"\n", request.node);
    let plain = |c: char| !c.is_control() && c != '"' && c != '\\';
    let serial = &request.chassis_serial;
    if !serial.is_empty() && serial.chars().all(plain) {
        entry.push_str(&format!("chassis_serial = \"{serial}\"\n"));
    }
    if request.ek_certificates.is_empty() {
        entry.push_str("# tpm = \"chip\"              # if it is one: no certificate says so\n");
    }
    entry.push_str("place = \"\"                  # where it stands\n");
    entry.push_str("jurisdiction = \"\"           # for example DE\n");
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One field longer than an honest one, or as long as the longest.
    type Longer = fn(&mut v1::EnrollRequest, usize);

    #[test]
    fn what_is_longer_than_any_honest_request_is_refused() {
        let table: [(&str, Longer, usize); 5] = [
            (
                "ek_certificates",
                |request, n| request.ek_certificates = vec![vec![]; n],
                CERTIFICATES,
            ),
            (
                "chassis_serial",
                |request, n| request.chassis_serial = "s".repeat(n),
                SERIAL,
            ),
            (
                "devices",
                |request, n| request.devices = vec!["d".to_owned(); n],
                DEVICES,
            ),
            (
                "devices",
                |request, n| request.devices = vec!["d".to_owned(), "d".repeat(n)],
                SERIAL,
            ),
            (
                "iak_certificates",
                |request, n| request.iak_certificates = vec![vec![]; n],
                CERTIFICATES,
            ),
        ];
        for (field, longer, most) in table {
            let mut request = v1::EnrollRequest::default();
            longer(&mut request, most);
            assert!(lengths(&request).is_ok(), "{field}: the longest");
            longer(&mut request, most + 1);
            let refused = lengths(&request).unwrap_err();
            assert!(
                matches!(refused, EnrollRefused::TooLong(named) if named == field),
                "{field}: {refused}"
            );
        }
    }

    #[test]
    fn another_deployments_request_is_not_read_further() {
        let own = DeploymentId::new("demo").unwrap();
        let code = |deployment: &str| {
            let request = v1::EnrollRequest {
                deployment: deployment.to_owned(),
                node: "gpu-01".to_owned(),
                ..Default::default()
            };
            let trust = EkTrust::default();
            let refused = check(&request, &own, &trust, None, UnixTime(0)).unwrap_err();
            refused.code()
        };
        assert_eq!(code("other"), "deployment-mismatch");
        // Of this one, and empty.
        assert_eq!(code("demo"), "public-malformed");
    }
}
