//! Three certificate authorities: transport (server and nodes), operators, and outward (what others
//! believe of a node). Each has a key and a name of its own: none stands in for another.

use bailiwick_attestation::{DeploymentId, NodeId, Sha256Digest, UnixTime};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData, SanType,
    SignatureAlgorithm,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use time::OffsetDateTime;

const HOUR_MS: u64 = 3_600_000;
const YEAR_MS: u64 = 365 * 24 * HOUR_MS;
/// Clocks of nodes may run behind by as much.
const BACKDATE_MS: u64 = HOUR_MS;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Key or certificate could not be built.
    #[error("{0}")]
    Build(#[from] rcgen::Error),
    /// A time beyond what a certificate can say.
    #[error("{0} ms since 1970 is beyond what a certificate can say")]
    Time(u64),
    /// The authority's own certificate is not PEM.
    #[error("the authority's certificate: {0}")]
    Pem(String),
}

/// Which of the three.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Server and nodes.
    Transport,
    /// Whoever may ask.
    Operators,
    /// Affirmed nodes, towards others.
    Outward,
}

impl Kind {
    pub(super) const fn certificate_file(self) -> &'static str {
        match self {
            Self::Transport => "ca.pem",
            Self::Operators => "operator-ca.pem",
            Self::Outward => "outward-ca.pem",
        }
    }

    pub(super) const fn key_file(self) -> &'static str {
        match self {
            Self::Transport => "ca.key",
            Self::Operators => "operator-ca.key",
            Self::Outward => "outward-ca.key",
        }
    }

    const fn common_name(self) -> &'static str {
        match self {
            Self::Transport => "Bailiwick transport CA",
            Self::Operators => "Bailiwick operator CA",
            Self::Outward => "Bailiwick outward CA",
        }
    }
}

/// What is to be certified, for what, and for how long (ms).
type Terms = (CertificateParams, ExtendedKeyUsagePurpose, u64);

/// A certificate and its key, both PEM.
pub(crate) struct Issued {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// What a node's transport certificate says.
#[derive(Clone, Debug)]
pub struct NodeCertificate {
    /// SHA-256 of the EK's public area.
    pub ek_digest: Sha256Digest,
    /// Name of the AK that certified the key, as the TPM spells it.
    pub ak_name: Vec<u8>,
    /// The TPM-resident key: an uncompressed point on P-256, 65 bytes.
    pub public_point: Vec<u8>,
    /// First moment after its life.
    pub not_after: UnixTime,
}

/// What a node's outward certificate says.
#[derive(Clone, Debug)]
pub(crate) struct OutwardLeaf<'a> {
    /// The inventory's name for the node.
    pub(crate) node: &'a NodeId,
    /// SHA-256 of the manifest it was affirmed under.
    pub(crate) manifest: &'a Sha256Digest,
    /// The TPM-resident key: an uncompressed point on P-256, 65 bytes.
    pub(crate) public_point: &'a [u8],
    /// Last moment of its life; certificates count whole seconds.
    pub(crate) not_after: UnixTime,
}

/// A certificate authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    deployment: DeploymentId,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("deployment", &self.deployment)
            .finish_non_exhaustive()
    }
}

impl Authority {
    pub(crate) fn make(
        deployment: &DeploymentId,
        kind: Kind,
        now: UnixTime,
    ) -> Result<Issued, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = authority_params(deployment, kind);
        (params.not_before, params.not_after) = validity(now, 10 * YEAR_MS)?;
        Ok(Issued {
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        })
    }

    pub(crate) fn load(
        deployment: &DeploymentId,
        kind: Kind,
        certificate: &str,
        key: &str,
    ) -> Result<Self, CaError> {
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|error| CaError::Pem(error.to_string()))?;
        // Name and key identifier of an authority follow from deployment, kind and key alone, so
        // that its certificate need not be read back.
        let issuer = Issuer::new(authority_params(deployment, kind), KeyPair::from_pem(key)?);
        Ok(Self {
            issuer,
            certificate,
            deployment: deployment.clone(),
        })
    }

    /// The authority's own certificate.
    #[must_use]
    pub const fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(super) fn issue_server(&self, names: &[String], now: UnixTime) -> Result<Issued, CaError> {
        self.issue(self.server(names)?, now)
    }

    pub(super) fn issue_operator(&self, who: &NodeId, now: UnixTime) -> Result<Issued, CaError> {
        self.issue(self.operator(who)?, now)
    }

    /// The certificate alone, PEM, over a key that is there already.
    pub(super) fn renew_server(
        &self,
        names: &[String],
        key: &str,
        now: UnixTime,
    ) -> Result<String, CaError> {
        let (params, usage, life) = self.server(names)?;
        self.certify(params, usage, life, &KeyPair::from_pem(key)?, now)
    }

    /// Likewise.
    pub(super) fn renew_operator(
        &self,
        who: &NodeId,
        key: &str,
        now: UnixTime,
    ) -> Result<String, CaError> {
        let (params, usage, life) = self.operator(who)?;
        self.certify(params, usage, life, &KeyPair::from_pem(key)?, now)
    }

    fn server(&self, names: &[String]) -> Result<Terms, CaError> {
        let mut params = CertificateParams::new(names.to_vec())?;
        let common = names.first().map_or("collector", String::as_str);
        params.distinguished_name = name(common, &self.deployment);
        Ok((params, ExtendedKeyUsagePurpose::ServerAuth, 2 * YEAR_MS))
    }

    fn operator(&self, who: &NodeId) -> Result<Terms, CaError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(who.as_str(), &self.deployment);
        let uri = format!("bailiwick://{}/operator/{who}", self.deployment);
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri)?)];
        Ok((params, ExtendedKeyUsagePurpose::ClientAuth, YEAR_MS))
    }

    fn issue(&self, terms: Terms, now: UnixTime) -> Result<Issued, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let (params, usage, life) = terms;
        Ok(Issued {
            certificate: self.certify(params, usage, life, &key, now)?,
            key: key.serialize_pem(),
        })
    }

    fn certify(
        &self,
        mut params: CertificateParams,
        usage: ExtendedKeyUsagePurpose,
        life_ms: u64,
        key: &KeyPair,
        now: UnixTime,
    ) -> Result<String, CaError> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = validity(now, life_ms)?;
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }

    /// Issues a node's transport certificate over the key its AK certified; DER.
    pub fn issue_node(
        &self,
        node: &NodeCertificate,
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, CaError> {
        let mut params = CertificateParams::default();
        let label: String = node.ek_digest.to_string().chars().take(16).collect();
        params.distinguished_name = name(&format!("ek-{label}"), &self.deployment);
        let uri = format!(
            "bailiwick://{}/ek/{}/ak/{}",
            self.deployment,
            node.ek_digest,
            hex::encode(&node.ak_name)
        );
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri)?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = date(now.millis().saturating_sub(BACKDATE_MS))?;
        params.not_after = date(node.not_after.millis())?;
        let key = NodeKey(&node.public_point);
        Ok(params.signed_by(&key, &self.issuer)?.der().clone())
    }

    /// Issues a node's outward certificate; DER. Not backdated: it says nothing of the time before
    /// the verdict.
    pub(crate) fn issue_outward(
        &self,
        leaf: &OutwardLeaf<'_>,
        now: UnixTime,
    ) -> Result<CertificateDer<'static>, CaError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = name(leaf.node.as_str(), &self.deployment);
        params.subject_alt_names = [
            format!("bailiwick://{}/node/{}", self.deployment, leaf.node),
            format!("bailiwick://{}/policy/{}", self.deployment, leaf.manifest),
        ]
        .into_iter()
        .map(|uri| Ok(SanType::URI(Ia5String::try_from(uri)?)))
        .collect::<Result<_, rcgen::Error>>()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.not_before = date(now.millis())?;
        params.not_after = date(leaf.not_after.millis())?;
        let key = NodeKey(leaf.public_point);
        Ok(params.signed_by(&key, &self.issuer)?.der().clone())
    }
}

/// A key whose other half never leaves the TPM.
struct NodeKey<'a>(&'a [u8]);

impl PublicKeyData for NodeKey<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

/// A fresh P-256 key, PEM.
pub(super) fn p256_key() -> Result<String, CaError> {
    Ok(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?.serialize_pem())
}

/// A fresh Ed25519 key, PEM.
pub(super) fn ed25519_key() -> Result<String, CaError> {
    Ok(KeyPair::generate_for(&PKCS_ED25519)?.serialize_pem())
}

fn authority_params(deployment: &DeploymentId, kind: Kind) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name(kind.common_name(), deployment);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn name(common: &str, deployment: &DeploymentId) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, deployment.as_str());
    name.push(DnType::CommonName, common);
    name
}

fn validity(now: UnixTime, life_ms: u64) -> Result<(OffsetDateTime, OffsetDateTime), CaError> {
    let begin = date(now.millis().saturating_sub(BACKDATE_MS))?;
    Ok((begin, date(now.millis().saturating_add(life_ms))?))
}

fn date(ms: u64) -> Result<OffsetDateTime, CaError> {
    let refuse = || CaError::Time(ms);
    let secs = i64::try_from(ms / 1000).map_err(|_too_far| refuse())?;
    OffsetDateTime::from_unix_timestamp(secs).map_err(|_too_far| refuse())
}
