//! Whose signature makes a statement a node's: an AK's, or that of a guest's processor.

use crate::{
    crypto::PublicKey,
    error::ParseError,
    evidence::GuestSigner,
    ids::Sha256Digest,
    proto::v1,
    tpm::{AkPublic, AkRefused, Public},
};

/// What a node's statements are signed with, as it enrolled.
#[derive(Clone, Copy, Debug)]
pub enum Signer<'a> {
    /// A TPM's quote under this AK.
    Ak(&'a AkPublic),
    /// A report of the processor alone, for this key of the guest.
    Guest(&'a GuestSigner),
}

impl<'a> Signer<'a> {
    /// Name of the AK, or what stands for it.
    #[must_use]
    pub fn name(&self) -> Vec<u8> {
        match self {
            Self::Ak(ak) => ak.name().as_bytes().to_vec(),
            Self::Guest(guest) => guest.name(),
        }
    }

    /// The AK, where there is a TPM.
    #[must_use]
    pub const fn ak(self) -> Option<&'a AkPublic> {
        match self {
            Self::Ak(ak) => Some(ak),
            Self::Guest(_) => None,
        }
    }
}

impl<'a> From<&'a AkPublic> for Signer<'a> {
    fn from(ak: &'a AkPublic) -> Self {
        Self::Ak(ak)
    }
}

impl<'a> From<&'a GuestSigner> for Signer<'a> {
    fn from(guest: &'a GuestSigner) -> Self {
        Self::Guest(guest)
    }
}

impl<'a> From<&'a Enrolled> for Signer<'a> {
    fn from(enrolled: &'a Enrolled) -> Self {
        match enrolled {
            Enrolled::Ak(ak) => Self::Ak(ak),
            Enrolled::Guest(guest) => Self::Guest(guest),
        }
    }
}

/// The same, as a stored enrolment has it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Enrolled {
    /// With a TPM.
    Ak(Box<AkPublic>),
    /// Without.
    Guest(GuestSigner),
}

/// Why an enrolment names nobody who could sign.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NobodyEnrolled {
    /// Neither a TPM's request nor a guest's.
    #[error("Enrolment.{0} is absent")]
    Absent(&'static str),
    /// The AK cannot be read.
    #[error("Enrolment.request.ak_public")]
    Public(#[source] ParseError),
    /// The AK is none.
    #[error("Enrolment.request.ak_public")]
    Ak(#[source] AkRefused),
    /// The report that the guest enrolled with cannot be read.
    #[error("Enrolment.guest.evidence.report")]
    Report(#[source] ParseError),
    /// The guest's key is none.
    #[error("Enrolment.guest.request.transport_spki: {0}")]
    Key(String),
}

impl Enrolled {
    /// Who signs the statements of whoever enrolled so.
    pub fn of(enrolment: &v1::Enrolment) -> Result<Self, NobodyEnrolled> {
        if let Some(guest) = &enrolment.guest {
            return Self::guest(guest);
        }
        let request = enrolment.request.as_ref();
        let request = request.ok_or(NobodyEnrolled::Absent("request"))?;
        let public = Public::parse(&request.ak_public).map_err(NobodyEnrolled::Public)?;
        let ak = AkPublic::new(public).map_err(NobodyEnrolled::Ak)?;
        Ok(Self::Ak(Box::new(ak)))
    }

    fn guest(guest: &v1::GuestEnrolment) -> Result<Self, NobodyEnrolled> {
        let request = guest.request.as_ref();
        let request = request.ok_or(NobodyEnrolled::Absent("guest.request"))?;
        let report = guest.evidence.as_ref().and_then(|tee| tee.report.as_ref());
        let report = report.ok_or(NobodyEnrolled::Absent("guest.evidence.report"))?;
        let spki = &request.transport_spki;
        PublicKey::from_spki_der(spki).map_err(|why| NobodyEnrolled::Key(why.to_string()))?;
        let instance = crate::cvm::instance(&report.kind, &report.report);
        Ok(Self::Guest(GuestSigner {
            key: Sha256Digest::of(&[spki]),
            instance: instance.map_err(NobodyEnrolled::Report)?,
        }))
    }

    /// The AK, where there is a TPM.
    #[must_use]
    pub fn ak(&self) -> Option<&AkPublic> {
        Signer::from(self).ak()
    }
}
