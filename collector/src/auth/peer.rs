//! Reads a peer's certificate after TLS has verified it.

use bailiwick_attestation::{NodeId, Sha256Digest, UnixTime};
use x509_cert::Certificate;
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// A certificate our own authority signed that does not say what it should.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PeerError {
    /// Not a certificate.
    #[error("peer certificate: {0}")]
    Malformed(String),
    /// No URI of ours in it, or not exactly one.
    #[error("peer certificate names no {0}")]
    NoName(&'static str),
}

/// One end of a connection, as `Connected` hands it to the services.
#[derive(Clone, Debug)]
pub enum Peer {
    /// No certificate was asked for.
    Anonymous,
    /// A node.
    Node(NodePeer),
    /// An operator.
    Operator(OperatorPeer),
}

/// A node's transport certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodePeer {
    /// The installation it was issued in.
    pub deployment: String,
    /// Which TPM.
    pub ek_digest: Sha256Digest,
    /// The AK that certified the transport key.
    pub ak_name: Vec<u8>,
    /// SHA-256 of the certificate.
    pub certificate: Sha256Digest,
    /// First moment after its life.
    pub not_after: UnixTime,
    /// Which CA issued it; known once the connection stands.
    pub issuer: Option<Sha256Digest>,
}

/// An operator's certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OperatorPeer {
    /// The operator's name.
    pub name: NodeId,
}

impl NodePeer {
    /// Reads a certificate that TLS has verified.
    pub fn parse(der: &[u8]) -> Result<Self, PeerError> {
        let certificate = decode(der)?;
        let refuse = || PeerError::NoName("node");
        let uri = uri(&certificate).ok_or_else(refuse)?;
        let mut parts = uri
            .strip_prefix("bailiwick://")
            .ok_or_else(refuse)?
            .split('/');
        let fields = [
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ];
        let [
            Some(deployment),
            Some("ek"),
            Some(ek),
            Some("ak"),
            Some(ak),
            None,
        ] = fields
        else {
            return Err(refuse());
        };
        let not_after = certificate
            .tbs_certificate()
            .validity()
            .not_after
            .to_unix_duration();
        Ok(Self {
            deployment: deployment.to_owned(),
            ek_digest: Sha256Digest::try_from(ek.to_owned()).map_err(|_fault| refuse())?,
            ak_name: hex::decode(ak).map_err(|_fault| refuse())?,
            certificate: Sha256Digest::of(&[der]),
            not_after: UnixTime::from_secs(not_after.as_secs()),
            issuer: None,
        })
    }
}

impl OperatorPeer {
    /// Reads a certificate that TLS has verified.
    pub fn parse(der: &[u8]) -> Result<Self, PeerError> {
        let certificate = decode(der)?;
        let refuse = || PeerError::NoName("operator");
        let uri = uri(&certificate).ok_or_else(refuse)?;
        let (_deployment, name) = uri
            .strip_prefix("bailiwick://")
            .and_then(|rest| rest.split_once("/operator/"))
            .ok_or_else(refuse)?;
        Ok(Self {
            name: NodeId::new(name).map_err(|_fault| refuse())?,
        })
    }
}

fn decode(der: &[u8]) -> Result<Certificate, PeerError> {
    Certificate::from_der(der).map_err(|error| PeerError::Malformed(error.to_string()))
}

/// The one URI among the alternative names; two would leave open which one counts.
fn uri(certificate: &Certificate) -> Option<String> {
    let names: SubjectAltName = certificate
        .tbs_certificate()
        .get_extension()
        .ok()
        .flatten()
        .map(|(_critical, names)| names)?;
    match names.0.as_slice() {
        [GeneralName::UniformResourceIdentifier(uri)] => Some(uri.as_str().to_owned()),
        _ => None,
    }
}
