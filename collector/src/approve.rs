//! An approver looks at an applicant: everything the collector says of a node is the word of
//! somebody who may be lying, until the approver's own roots, and a secret the approver drew, say
//! otherwise.
//!
//! Pure: the caller fetches, draws, relays and signs. A collector can show another EK (whose
//! digest the approver compares with what stands on the machine), but not one without a maker's
//! chain; and it can show another AK, but no TPM will open the secret for it.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use bailiwick_attestation::appraisal::{VerifiedEvidence, devices};
use bailiwick_attestation::evidence::{ClaimValue, Freshness};
use bailiwick_attestation::gpu::PDI_PREFIX;
use bailiwick_attestation::proto::v1::{self, activation_answer::Answer};
use bailiwick_attestation::tpm::{
    AkPublic, AkRefused, EkCertRefused, EkChain, EkPublic, EkRefused, Public, TpmIdentity,
};
use bailiwick_attestation::x509::Certificate;
use bailiwick_attestation::{DeploymentId, IdError, NodeId, ParseError, Sha256Digest, UnixTime};

/// Why an applicant is not approved.
#[derive(Debug, thiserror::Error)]
pub enum ApproveRefused {
    /// The collector shows no enrolment.
    #[error("the collector shows no enrolment of it")]
    Absent,
    /// It enrolled elsewhere.
    #[error("it enrolled in deployment {0:?}")]
    Deployment(String),
    /// What it calls itself is no name.
    #[error("{0}; give one with --name")]
    Name(#[from] IdError),
    /// A public area cannot be read.
    #[error("{0} cannot be read")]
    Malformed(&'static str, #[source] ParseError),
    /// The EK is none.
    #[error("EK")]
    Ek(#[source] EkRefused),
    /// No maker of the approver's vouches for the EK.
    #[error("EK certificate")]
    EkCertificate(#[source] EkCertRefused),
    /// There is no certificate, and the approver did not say which EK the machine has.
    #[error(
        "the TPM has no EK certificate: read the digest of its EK at the machine \
         (bailiwick-agent check) and give it with --ek"
    )]
    Uncertified,
    /// It is not the EK read at the machine.
    #[error("the machine has EK {want}, the collector shows {found}")]
    OtherEk {
        /// Read at the machine.
        want: Sha256Digest,
        /// Shown.
        found: Sha256Digest,
    },
    /// It is not the chassis read at the machine.
    #[error("the machine's chassis is {want:?}, DMI says {found:?}")]
    OtherChassis {
        /// Read at the machine.
        want: String,
        /// By the node's word.
        found: String,
    },
    /// The AK's quotes could not be believed.
    #[error("AK")]
    Ak(#[source] AkRefused),
    /// The TPM would not open the secret: this AK and this EK are not both in it.
    #[error("the TPM did not open the secret: {0}")]
    NotOpened(String),
    /// An answer, and not the secret.
    #[error("the answer is not the secret that was sealed: another TPM's, or an older answer")]
    Secret,
}

impl ApproveRefused {
    /// Stable word for scripts.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Absent => "enrolment-absent",
            Self::Deployment(_) => "deployment-mismatch",
            Self::Name(_) => "node-name",
            Self::Malformed(..) => "public-malformed",
            Self::Ek(refused) => refused.code(),
            Self::EkCertificate(refused) => refused.code(),
            Self::Uncertified => "ek-uncertified",
            Self::OtherEk { .. } => "ek-other",
            Self::OtherChassis { .. } => "chassis-other",
            Self::Ak(refused) => refused.code(),
            Self::NotOpened(_) => "credential-refused",
            Self::Secret => "credential-mismatch",
        }
    }
}

/// What the approver brings.
#[derive(Debug)]
pub struct Expect<'a> {
    /// The installation.
    pub deployment: &'a DeploymentId,
    /// TPM makers.
    pub roots: &'a [Certificate],
    /// What a path may pass through.
    pub intermediates: &'a [Certificate],
    /// Digest of the EK, as read at the machine.
    pub ek: Option<Sha256Digest>,
    /// Serial number of the chassis, as read at the machine.
    pub chassis_serial: Option<&'a str>,
    /// When certificates have to be good.
    pub now: UnixTime,
}

/// An applicant whose paper is in order. Whether AK and EK are one TPM's, a challenge says.
#[derive(Debug)]
pub struct Applicant {
    /// What the secret is sealed to.
    pub ek: EkPublic,
    /// Its digest.
    pub ek_digest: Sha256Digest,
    /// Path to a maker's root, by subject, EK certificate first; empty without a certificate.
    pub chain: Vec<String>,
    /// What the maker says of the TPM.
    pub tpm: TpmIdentity,
    /// The AK to be confirmed.
    pub ak: AkPublic,
    /// What it calls itself.
    pub claimed: Result<NodeId, IdError>,
    /// DMI's word.
    pub chassis_serial: String,
    /// NVML's word.
    pub devices: Vec<String>,
}

/// Checks everything but that AK and EK live in one TPM, with the approver's roots alone.
pub fn examine(
    enrolment: Option<&v1::Enrolment>,
    expect: &Expect<'_>,
) -> Result<Applicant, ApproveRefused> {
    let request = enrolment.and_then(|enrolment| enrolment.request.as_ref());
    let request = request.ok_or(ApproveRefused::Absent)?;
    if request.deployment != expect.deployment.as_str() {
        let shown = request.deployment.chars().take(80).collect();
        return Err(ApproveRefused::Deployment(shown));
    }
    let public = |name, bytes: &[u8]| {
        Public::parse(bytes).map_err(|error| ApproveRefused::Malformed(name, error))
    };
    let ek = EkPublic::new(public("the EK", &request.ek_public)?).map_err(ApproveRefused::Ek)?;
    let ek_digest = ek.digest();
    if let Some(want) = expect.ek
        && want != ek_digest
    {
        return Err(ApproveRefused::OtherEk {
            want,
            found: ek_digest,
        });
    }
    let (chain, tpm) = if request.ek_certificates.is_empty() {
        if expect.ek.is_none() {
            return Err(ApproveRefused::Uncertified);
        }
        (Vec::new(), TpmIdentity::default())
    } else {
        let chain = EkChain::verify_for(
            &ek,
            &request.ek_certificates,
            expect.intermediates,
            expect.roots,
            expect.now,
        )
        .map_err(ApproveRefused::EkCertificate)?;
        let path = chain.path().iter();
        let path = path.map(|certificate| certificate.subject().label());
        (path.collect(), chain.identity())
    };
    let ak = AkPublic::new(public("the AK", &request.ak_public)?).map_err(ApproveRefused::Ak)?;
    if let Some(want) = expect.chassis_serial
        && want != request.chassis_serial
    {
        return Err(ApproveRefused::OtherChassis {
            want: want.to_owned(),
            found: request.chassis_serial.chars().take(200).collect(),
        });
    }
    Ok(Applicant {
        ek,
        ek_digest,
        chain,
        tpm,
        ak,
        claimed: NodeId::new(&request.node),
        chassis_serial: request.chassis_serial.clone(),
        devices: request.devices.clone(),
    })
}

/// Whether the answer is the secret that was sealed to EK and AK. In constant time: whoever passes
/// answers on may try many.
pub fn answered(secret: &[u8; 32], answer: Option<&Answer>) -> Result<(), ApproveRefused> {
    match answer {
        Some(Answer::Secret(found)) => {
            verify_slices_are_equal(secret, found).map_err(|_different| ApproveRefused::Secret)
        }
        Some(Answer::Refused(why)) => {
            let plain = why.chars().filter(|c| !c.is_control());
            Err(ApproveRefused::NotOpened(plain.take(200).collect()))
        }
        None => Err(ApproveRefused::NotOpened("it said nothing".to_owned())),
    }
}

/// What the newest statement adds, for people to look at. All of it but the TPM's firmware is the
/// node's word.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Observed {
    /// The TPM's, signed by the AK: `TPMS_ATTEST.firmwareVersion`, hexadecimal.
    pub tpm_firmware: String,
    /// The host's: vendor, version and date, by DMI's word.
    pub firmware: Vec<String>,
    /// Names of every GPU, by NVML's word.
    pub devices: Vec<String>,
    /// Epoch of the node's log.
    pub epoch: u64,
}

/// Reads it, if the applicant's AK signed it.
#[must_use]
pub fn observe(evidence: &v1::Evidence, ak: &AkPublic) -> Option<Observed> {
    let freshness = Freshness::of(evidence).ok()?;
    let verified = VerifiedEvidence::verify(evidence, ak, &freshness).ok()?;
    let statement = verified.statement();
    let text = |name: &str| match statement.claims.get(name) {
        Some(ClaimValue::Text(text)) => Some(text.clone()),
        _ => None,
    };
    let names = ["firmware.vendor", "firmware.version", "firmware.date"];
    let found = devices(statement).unwrap_or_default();
    Some(Observed {
        tpm_firmware: format!("{:016x}", verified.firmware_version()?),
        firmware: names.into_iter().filter_map(text).collect(),
        devices: found
            .iter()
            .flat_map(|device| device.names().map(str::to_owned))
            .collect(),
        epoch: statement.epoch,
    })
}

/// The ids that belong in an inventory: UUIDs of GPUs, and the identifiers of their chips, which the
/// chips' certificates have too; where there are no UUIDs, whatever there is.
#[must_use]
pub fn device_ids(found: &[String]) -> Vec<String> {
    if !found.iter().any(|id| id.starts_with("GPU-")) {
        return found.to_vec();
    }
    let lasting = |id: &&String| id.starts_with("GPU-") || id.starts_with(PDI_PREFIX);
    found.iter().filter(lasting).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_secret_that_was_sealed_answers() {
        let secret = [7; 32];
        let cases: &[(&str, Option<Answer>, Result<(), &str>)] = &[
            ("the secret", Some(Answer::Secret(vec![7; 32])), Ok(())),
            (
                "another",
                Some(Answer::Secret(vec![8; 32])),
                Err("credential-mismatch"),
            ),
            (
                "one byte off",
                Some(Answer::Secret([vec![7; 31], vec![6]].concat())),
                Err("credential-mismatch"),
            ),
            (
                "one byte short",
                Some(Answer::Secret(vec![7; 31])),
                Err("credential-mismatch"),
            ),
            (
                "one byte long",
                Some(Answer::Secret(vec![7; 33])),
                Err("credential-mismatch"),
            ),
            (
                "nothing in it",
                Some(Answer::Secret(Vec::new())),
                Err("credential-mismatch"),
            ),
            (
                "the TPM's refusal",
                Some(Answer::Refused("TPM: integrity\u{1b}[2J".to_owned())),
                Err("credential-refused"),
            ),
            ("nothing", None, Err("credential-refused")),
        ];
        for (name, answer, want) in cases {
            let got = answered(&secret, answer.as_ref());
            assert_eq!(got.map_err(|refused| refused.code()), *want, "{name}");
        }
        let refused = answered(&secret, Some(&Answer::Refused("a\u{1b}b".to_owned())));
        assert!(refused.unwrap_err().to_string().ends_with("ab"), "plain");
    }

    #[test]
    fn uuids_and_chips_are_listed_before_serials() {
        let words = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        let cases: &[(&[&str], &[&str])] = &[
            (&["GPU-a", "1001", "GPU-b", "1002"], &["GPU-a", "GPU-b"]),
            (
                &["GPU-a", "1001", "PDI-48b02d0000000001"],
                &["GPU-a", "PDI-48b02d0000000001"],
            ),
            (&["1001", "1002"], &["1001", "1002"]),
            (&[], &[]),
        ];
        for (found, want) in cases {
            assert_eq!(device_ids(&words(found)), words(want));
        }
    }
}
