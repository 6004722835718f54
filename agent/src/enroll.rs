//! How this TPM becomes a node: EK chain, AK, certified transport key, credential activation. And how
//! a guest without one does: a report of its processor for the key it drew ([`guest`]).
//!
//! What enrolment gives (a short-lived certificate for the transport key, and the name the signed
//! inventory has for this TPM) is kept in the state folder, so that a restart needs no collector.

mod guest;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bailiwick_attestation::{
    NodeId, Sha256Digest, UnixTime,
    evidence::{iak_binding, transport_binding},
    proto::v1::{Claim, EnrollProof, EnrollRequest, Enrolled, claim, enrolled::State},
    x509::{Bundle, Certificate},
};
use prost::Message;
use rustls::pki_types::CertificateDer;
use tonic::{Code, Status};
use tracing::warn;

use crate::{
    channel::{self, ChannelError},
    clock,
    collect::tee::TeeError,
    config::{self, Config},
    files::write_atomically,
    proto::v1::enroll_service_client::EnrollServiceClient,
    signer::Signer,
    tls::{self, CaKey, TlsError},
    tpm::{Tpm, TpmError},
    uplink::link,
};

/// Longest file kept of an enrolment: a chain of a few certificates.
const MAX_FILE: usize = 64 << 10;

/// Why this node is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// No way to recognise the collector, or an unusable CA file.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The collector is out of reach, or not who it should be.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The collector looked and refused; only a person changes that.
    #[error("refused: {code}: {detail}")]
    Refused {
        /// Stable word.
        code: String,
        /// What to do about it.
        detail: String,
    },
    /// The collector could not decide.
    #[error("the collector failed")]
    Rpc(#[source] Box<Status>),
    /// The collector lacks what it would have to check with: an operator's to bring.
    #[error("the collector could not check: {0}")]
    Unchecked(String),
    /// Of a guest: there is no report of its processor.
    #[error("{}", if *.refused { "the processor refused" } else { "the processor could not be asked" })]
    Processor {
        /// It was asked, and gave none.
        refused: bool,
        /// Why.
        #[source]
        source: Box<TeeError>,
    },
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// An answer that makes no sense.
    #[error("the collector's answer: {0}")]
    Answer(&'static str),
}

impl From<Status> for EnrollError {
    fn from(status: Status) -> Self {
        if matches!(
            status.code(),
            Code::FailedPrecondition | Code::PermissionDenied | Code::InvalidArgument
        ) {
            let message = status.message();
            let (code, detail) = message.split_once(": ").unwrap_or((message, ""));
            return Self::Refused {
                code: code.to_owned(),
                detail: detail.to_owned(),
            };
        }
        Self::Rpc(Box::new(status))
    }
}

/// What enrolment gave.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Enrolment {
    /// The name the signed inventory gives; `None` while pending.
    pub node: Option<NodeId>,
    /// What has to be signed, while pending.
    pub reason: String,
    /// For the transport key, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// When it was obtained, by this node's clock.
    pub obtained: UnixTime,
    /// When the certificate ends, by the collector's.
    pub not_after: UnixTime,
}

impl Enrolment {
    /// The last third of the certificate's life has begun.
    #[must_use]
    pub const fn due(&self, now: UnixTime) -> bool {
        let life = self.not_after.since(self.obtained);
        now.since(self.obtained) >= life / 3 * 2
    }

    /// The certificate is over.
    #[must_use]
    pub const fn expired(&self, now: UnixTime) -> bool {
        now.millis() >= self.not_after.millis()
    }

    /// Its certificate is for this key (`SubjectPublicKeyInfo`, DER).
    #[must_use]
    pub fn is_for(&self, spki: &[u8]) -> bool {
        let leaf = self.chain.first().map(|leaf| Certificate::parse(leaf));
        leaf.is_some_and(|leaf| leaf.is_ok_and(|leaf| leaf.spki_der() == spki))
    }

    fn from_message(message: Enrolled, obtained: UnixTime) -> Result<Self, EnrollError> {
        let node = match message.state() {
            State::Enrolled => {
                let node = NodeId::new(&message.node)
                    .map_err(|_invalid| EnrollError::Answer("a node name that is not one"))?;
                Some(node)
            }
            State::Pending => None,
            State::Unspecified => return Err(EnrollError::Answer("neither enrolled nor pending")),
        };
        if message.certificate_chain.is_empty() {
            return Err(EnrollError::Answer("no certificate"));
        }
        Ok(Self {
            node,
            reason: message.reason,
            chain: message
                .certificate_chain
                .into_iter()
                .map(CertificateDer::from)
                .collect(),
            obtained,
            not_after: UnixTime(message.certificate_not_after_ms),
        })
    }

    fn to_message(&self) -> Enrolled {
        let state = if self.node.is_some() {
            State::Enrolled
        } else {
            State::Pending
        };
        Enrolled {
            state: state.into(),
            node: self
                .node
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            reason: self.reason.clone(),
            certificate_chain: self.chain.iter().map(|cert| cert.to_vec()).collect(),
            certificate_not_after_ms: self.not_after.millis(),
        }
    }

    /// Keeps it for the next start.
    pub fn write(&self, file: &Path) -> io::Result<()> {
        let mut bytes = self.obtained.millis().to_be_bytes().to_vec();
        self.to_message()
            .encode(&mut bytes)
            .map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))?;
        write_atomically(file, &bytes)
    }

    /// What an earlier run kept; `None` where there is none or it makes no sense any more.
    pub fn read(file: &Path) -> io::Result<Option<Self>> {
        let bytes = match fs::read(file) {
            Ok(bytes) if bytes.len() <= MAX_FILE => bytes,
            Ok(_) => return Ok(None),
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(err),
        };
        let Some((obtained, message)) = bytes.split_first_chunk::<8>() else {
            return Ok(None);
        };
        let obtained = UnixTime(u64::from_be_bytes(*obtained));
        Ok(Enrolled::decode(message)
            .ok()
            .and_then(|message| Self::from_message(message, obtained).ok()))
    }
}

/// Where [`Enrolment::write`] keeps it.
#[must_use]
pub fn file(config: &Config) -> PathBuf {
    config.state_dir.join("enrolment")
}

/// What the node says of its hardware when it enrols: DMI's and NVML's word.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hardware {
    /// Serial number of the chassis; empty where DMI has none.
    pub chassis_serial: String,
    /// UUIDs and serials of its GPUs.
    pub devices: Vec<String>,
}

impl Hardware {
    /// With the devices that NVML's claims name.
    #[must_use]
    pub fn new(chassis_serial: String, nvml: &[Claim]) -> Self {
        let devices = nvml
            .iter()
            .filter_map(|claim| {
                let field = claim.name.strip_prefix("nvml.gpu.")?.split_once('.')?.1;
                match (&claim.value, field) {
                    (Some(claim::Value::Text(id)), "uuid" | "serial") => Some(id.clone()),
                    _ => None,
                }
            })
            .collect();
        Self {
            chassis_serial,
            devices,
        }
    }
}

/// The request, up to what the collector draws.
pub async fn request(
    config: &Config,
    tpm: &Tpm,
    hardware: Hardware,
) -> Result<EnrollRequest, EnrollError> {
    let identity = tpm.identity();
    let ek_digest = Sha256Digest::of(&[&identity.ek_public]);
    let certified = tpm
        .certify_transport(transport_binding(&config.deployment, &ek_digest).0)
        .await?;
    let maker = match &config.tpm.iak {
        None => EnrollRequest::default(),
        Some(iak) => match makers_word(config, tpm, iak, &ek_digest).await {
            Ok(word) => word,
            Err(why) => {
                // What it would vouch for an approver can vouch for, too.
                warn!(why = %link::chain(&*why), "the maker's key does not vouch for the AK");
                EnrollRequest::default()
            }
        },
    };
    Ok(EnrollRequest {
        deployment: config.deployment.to_string(),
        node: config.node.to_string(),
        ek_public: identity.ek_public.clone(),
        ek_certificates: identity.ek_certificates.clone(),
        ak_public: identity.ak_public.clone(),
        transport_public: identity.transport_public.clone(),
        transport_attest: certified.attest,
        transport_signature: certified.signature,
        chassis_serial: hardware.chassis_serial,
        devices: hardware.devices,
        ..maker
    })
}

/// The IAK's fields of the request.
async fn makers_word(
    config: &Config,
    tpm: &Tpm,
    iak: &config::Iak,
    ek_digest: &Sha256Digest,
) -> Result<EnrollRequest, Box<dyn std::error::Error + Send + Sync>> {
    let binding = iak_binding(&config.deployment, ek_digest).0;
    let word = tpm.certify_ak(iak.handle, binding).await?;
    let mut certificates = Vec::new();
    for place in &iak.certificates {
        match place.strip_prefix("nv:") {
            Some(index) => {
                let digits = index.trim_start_matches("0x");
                let index = u32::from_str_radix(digits, 16)?;
                certificates.push(tpm.nv_certificate(index).await?);
            }
            None => {
                let bundle = Bundle::parse(&fs::read(place)?)?;
                let ders = bundle.certificates.iter();
                certificates.extend(ders.map(|certificate| certificate.as_der().to_vec()));
            }
        }
    }
    Ok(EnrollRequest {
        iak_public: word.public,
        iak_certificates: certificates,
        iak_attest: word.certified.attest,
        iak_signature: word.certified.signature,
        ..EnrollRequest::default()
    })
}

/// Enrols once, at a collector whose certificate counts by `listed`.
pub async fn enroll(
    config: &Config,
    listed: &[CaKey],
    signer: &Signer,
    hardware: Hardware,
) -> Result<Enrolment, EnrollError> {
    let tls = tls::enrolment_config(&config.collector, listed)?;
    let tpm = match signer {
        Signer::Tpm(tpm) => tpm,
        Signer::Guest(guest) => return guest::enroll(config, tls, guest, hardware).await,
    };
    let request = request(config, tpm, hardware).await?;
    let channel = channel::open(&config.collector.enroll, Arc::clone(&tls)).await?;
    let mut client = EnrollServiceClient::new(channel);
    let challenge = client.begin(request).await?.into_inner();
    let secret = tpm
        .activate(challenge.credential_blob, challenge.encrypted_secret)
        .await?;
    let proof = EnrollProof {
        session: challenge.session,
        secret,
    };
    let enrolled = client.finish(proof).await?.into_inner();
    Enrolment::from_message(enrolled, clock::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enrolment() -> Enrolment {
        Enrolment {
            node: Some(NodeId::new("gpu-01").unwrap()),
            reason: String::new(),
            chain: vec![CertificateDer::from(vec![1, 2, 3])],
            obtained: UnixTime(1_000),
            not_after: UnixTime(4_000),
        }
    }

    #[test]
    fn an_enrolment_is_kept_and_renewed_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("enrolment");
        assert_eq!(Enrolment::read(&file).unwrap(), None);
        let pending = Enrolment {
            node: None,
            reason: "list ek 00…".to_owned(),
            ..enrolment()
        };
        for kept in [enrolment(), pending] {
            kept.write(&file).unwrap();
            assert_eq!(Enrolment::read(&file).unwrap(), Some(kept));
        }
        fs::write(&file, b"short").unwrap();
        assert_eq!(
            Enrolment::read(&file).unwrap(),
            None,
            "made again, not fatal"
        );

        for (now, due, expired) in [
            (1_000, false, false),
            (2_999, false, false),
            (3_000, true, false),
            (4_000, true, true),
        ] {
            let now = UnixTime(now);
            assert_eq!(enrolment().due(now), due, "{now:?}");
            assert_eq!(enrolment().expired(now), expired, "{now:?}");
        }
    }

    #[test]
    fn devices_are_what_nvml_names() {
        let claim = |name: &str, value: claim::Value| Claim {
            name: name.to_owned(),
            source: "nvml".to_owned(),
            value: Some(value),
        };
        let text = |name: &str, value: &str| claim(name, claim::Value::Text(value.to_owned()));
        let claims = [
            claim("nvml.gpus", claim::Value::Number(2)),
            text("nvml.gpu.0.uuid", "GPU-a"),
            text("nvml.gpu.0.serial", "1001"),
            text("nvml.gpu.0.name", "H200"),
            claim(
                "nvml.gpu.1.uuid",
                claim::Value::Unavailable("lost".to_owned()),
            ),
            text("nvml.gpu.1.serial", "1002"),
            text("nvml.driver-version", "1003"),
        ];
        let hardware = Hardware::new("ABC".to_owned(), &claims);
        assert_eq!(hardware.devices, ["GPU-a", "1001", "1002"]);
    }

    #[test]
    fn refusals_are_told_from_failures() {
        let refused = EnrollError::from(Status::failed_precondition("ek-not-listed: sign it"));
        assert_eq!(refused.to_string(), "refused: ek-not-listed: sign it");
        let failed = EnrollError::from(Status::unavailable("later"));
        assert!(matches!(failed, EnrollError::Rpc(_)));
    }
}
