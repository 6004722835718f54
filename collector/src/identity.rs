//! Whose word a node's AK is, and whose devices it names: one answer for the collector and for
//! `bailiwick verify`, from what was presented at enrolment and what approvers signed.

use bailiwick_attestation::appraisal::{
    AkWord, Enrolled, GeoWord, GeotagShown, TpmKind, VerifiedEvidence, devices, named_gpus,
};
use bailiwick_attestation::evidence::iak_binding;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tpm::{AkPublic, Iak, IakClaim, IakRefused, QualifyingData};
use bailiwick_attestation::x509::Certificate;
use bailiwick_attestation::{DeploymentId, NodeId, Sha256Digest, UnixTime};
use bailiwick_policy::approvers::Approvers;
use bailiwick_policy::geotag;
use bailiwick_policy::model::{Node, confirm};

use crate::ingest::error_chain;

/// What is presented for an AK, and when.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// The installation.
    pub deployment: &'a DeploymentId,
    /// What the node enrolled with.
    pub enrolment: &'a v1::Enrolment,
    /// Digest of its EK, or what stands for it.
    pub ek: &'a Sha256Digest,
    /// Its AK, or a guest's key.
    pub signer: &'a Enrolled,
}

impl<'a> Presented<'a> {
    /// What a TPM enrolled with, and its AK.
    fn tpm(&self) -> Option<(&'a v1::EnrollRequest, &'a AkPublic)> {
        self.enrolment.request.as_ref().zip(self.signer.ak())
    }
}

/// Roots and intermediates of device makers.
#[derive(Clone, Copy, Debug)]
pub struct Makers<'a> {
    /// Whom a path must end at.
    pub roots: &'a [Certificate],
    /// What it may pass through.
    pub intermediates: &'a [Certificate],
}

/// Why the maker's word does not count.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoMakersWord {
    /// Chain or certification does not hold.
    #[error(transparent)]
    Iak(#[from] IakRefused),
    /// There is no TPM.
    #[error("there is no TPM whose AK an IAK could certify")]
    NoTpm,
    /// The certificate names no device: it vouches for some machine of the maker's.
    #[error("the IAK certificate names no serial number")]
    NoSerial,
    /// Nobody signed which chassis this node is, so nothing joins the IAK's device to the EK.
    #[error("the inventory names no chassis serial to hold the IAK certificate's against")]
    NoChassis,
    /// It is another device's.
    #[error("the IAK certificate is of device {found}, the inventory lists {listed}")]
    OtherDevice {
        /// In the certificate.
        found: String,
        /// In the inventory.
        listed: String,
    },
}

impl NoMakersWord {
    /// Stable word for scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Iak(refused) => refused.code(),
            Self::NoTpm => "iak-no-tpm",
            Self::NoSerial => "iak-no-serial",
            Self::NoChassis => "iak-no-chassis",
            Self::OtherDevice { .. } => "iak-other-device",
        }
    }
}

/// Whether an IAK of the inventory's very chassis certified this AK for this EK.
pub fn makers_word(
    presented: &Presented<'_>,
    listed: &Node,
    makers: &Makers<'_>,
) -> Result<(), NoMakersWord> {
    let (request, ak) = presented.tpm().ok_or(NoMakersWord::NoTpm)?;
    let claim = IakClaim {
        public: &request.iak_public,
        certificates: &request.iak_certificates,
        attest: &request.iak_attest,
        signature: &request.iak_signature,
    };
    let want = QualifyingData::from(iak_binding(presented.deployment, presented.ek));
    let iak = Iak::verify(
        &claim,
        ak,
        &want,
        makers.intermediates,
        makers.roots,
        UnixTime(presented.enrolment.activated_ms),
    )?;
    let found = iak.serial().ok_or(NoMakersWord::NoSerial)?;
    match &listed.chassis_serial {
        None => Err(NoMakersWord::NoChassis),
        Some(listed) if *listed != found => Err(NoMakersWord::OtherDevice {
            found,
            listed: listed.clone(),
        }),
        Some(_) => Ok(()),
    }
}

/// What the TPM is: by approvers, else by the certificates that enrolment saw. Without either nobody
/// says that it is a chip.
#[must_use]
pub fn tpm_kind(enrolment: &v1::Enrolment, listed: Option<&Node>) -> TpmKind {
    let word = listed.and_then(|node| node.tpm);
    word.unwrap_or_else(|| TpmKind::of_chain(&enrolment.ek_chain))
}

/// Whose word it is that AK and EK live in one TPM: an approver's before the maker's, and the
/// collector's alone where neither vouches. Of a guest without a TPM it is the processor's that the key is
/// that of a guest as listed: enrolment saw its report, which is kept, and every statement brings another.
#[must_use]
pub fn ak_word(
    presented: &Presented<'_>,
    listed: Option<&Node>,
    approvers: &Approvers,
    makers: &Makers<'_>,
) -> AkWord {
    let Some(listed) = listed else {
        return AkWord::Collector;
    };
    let name = match presented.signer {
        Enrolled::Guest(_) if listed.guest.is_some() => return AkWord::Processor,
        Enrolled::Guest(_) => return AkWord::Collector,
        Enrolled::Ak(ak) => ak.name().as_bytes(),
    };
    match confirm::verify(listed, presented.deployment, name, approvers) {
        Ok(approval) => AkWord::Confirmed(approval.principals),
        Err(_unconfirmed) => match makers_word(presented, listed, makers) {
            Ok(()) => AkWord::Iak,
            Err(_unvouched) => AkWord::Collector,
        },
    }
}

/// Whose word it is where the node stands, of what its TPM certified. A node that nobody listed has
/// no place to be wrong about.
#[must_use]
pub fn geo_word(
    shown: &GeotagShown,
    deployment: &DeploymentId,
    signed: Option<(&Node, &Approvers)>,
    now: UnixTime,
) -> GeoWord {
    let refused = |code, error: &dyn std::error::Error| GeoWord::Refused {
        code,
        why: error_chain(error),
    };
    let (record, (node, approvers)) = match (shown, signed) {
        (GeotagShown::Absent, _) | (_, None) => return GeoWord::Absent,
        (GeotagShown::Unavailable(why), _) => return GeoWord::Unavailable(why.clone()),
        (GeotagShown::Refused(why), _) => return refused(why.code(), why),
        (GeotagShown::Certified(record), Some(signed)) => (record, signed),
    };
    match geotag::verify(record.contents(), deployment, node, approvers, now) {
        Ok((tag, approval)) => GeoWord::Signed {
            tag,
            by: approval.principals,
        },
        Err(why) => refused(why.code(), &why),
    }
}

/// Devices a statement, or a certificate of a GPU beside it, names that the inventory gives to
/// another node than `own`.
#[must_use]
pub fn foreign_devices<'a>(
    evidence: &VerifiedEvidence,
    own: &NodeId,
    owner: impl Fn(&str) -> Option<&'a Node>,
) -> Vec<(String, NodeId)> {
    let told = devices(evidence.statement()).unwrap_or_default();
    let told = told.iter().flat_map(|device| device.names());
    let mut names: Vec<String> = told.map(str::to_owned).collect();
    names.extend(named_gpus(evidence));
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter_map(|name| {
            let owner = owner(&name).filter(|owner| owner.name != *own)?;
            Some((name, owner.name.clone()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn approvers_know_a_tpm_better_than_its_certificate() {
        use TpmKind::{Chip, Virtual};
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::default();
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        let with = |chain: &[Vec<u8>], word: Option<TpmKind>| {
            let enrolment = v1::Enrolment {
                ek_chain: chain.to_vec(),
                ..v1::Enrolment::default()
            };
            tpm_kind(&enrolment, Some(&listed_as(word)))
        };
        let (none, some) = (vec![], vec![certificate]);
        let rows = [
            (&some, None, Chip),
            (&some, Some(Virtual), Virtual),
            (&none, None, Virtual),
            (&none, Some(Chip), Chip),
        ];
        for (chain, word, want) in rows {
            assert_eq!(with(chain, word), want, "{}, {word:?}", chain.len());
        }
        assert_eq!(tpm_kind(&v1::Enrolment::default(), None), Virtual);
    }

    fn listed_as(tpm: Option<TpmKind>) -> Node {
        Node {
            name: NodeId::new("gpu-01").unwrap(),
            ek: Sha256Digest([1; 32]),
            ak: None,
            chassis_serial: None,
            devices: Vec::new(),
            place: None,
            jurisdiction: "DE".to_owned().try_into().unwrap(),
            addresses: Vec::new(),
            epoch: 0,
            tpm,
            guest: None,
            geotags_since: None,
            replaces: None,
            confirmed: None,
        }
    }
}
