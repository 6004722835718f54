//! Whose word it is that a TPM gives: a chip's, or that of whoever runs it as a program.
//!
//! A vTPM signs what its provider has it sign. Its registers, and every log that replays to them, are
//! the provider's word, unless a processor says that the AK is kept beside the guest by something the
//! profile believes. Which TPM is a chip, its maker's certificate says, or approvers do. In a guest none
//! is, whatever stands in certificates: its host stands between.

use super::{claims::Found, result::AttestationResult, verify::VerifiedEvidence};
use crate::{
    profile::{Profile, Provenance},
    tpm::tpm_identity,
    x509::Certificate,
};

/// TPMs of these makers (TCG vendor ID registry) are programs of theirs: Amazon, Google, Microsoft,
/// VMware. Microsoft's chips are the exception that approvers can name.
const VIRTUAL: [&str; 4] = ["id:414d5a4e", "id:474f4f47", "id:4d534654", "id:564d5700"];

/// How the claims begin that rest on a TPM.
const SPOKEN: [&str; 5] = ["tpm.", "boot.", "ima.", "fence.", EVIDENCE];
/// Those of them that rest on whatever signed the statement: a report holds registers, too.
const SIGNED: [&str; 2] = [EVIDENCE, "boot."];
const EVIDENCE: &str = "evidence.";

/// What is known of the TPM that speaks for a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TpmKind {
    /// Its maker's certificate says that it is a chip, or approvers do.
    Chip,
    /// A provider's program, or nobody says what it is.
    Virtual,
}

impl TpmKind {
    /// By the certificates of its EK, leaf first, as enrolment found a path through them. None: nobody
    /// but approvers knows that TPM.
    #[must_use]
    pub fn of_chain(chain: &[Vec<u8>]) -> Self {
        let leaf = chain.first().and_then(|der| Certificate::parse(der).ok());
        let Some(leaf) = leaf else {
            return Self::Virtual;
        };
        let maker = tpm_identity(&leaf).manufacturer;
        let maker = maker.unwrap_or_default().to_ascii_lowercase();
        match VIRTUAL.contains(&maker.trim()) {
            true => Self::Virtual,
            false => Self::Chip,
        }
    }
}

/// The best that a claim of the TPM's can be, if no processor vouches for it.
pub(super) fn voice(
    evidence: &VerifiedEvidence,
    kind: TpmKind,
    profile: Option<&Profile>,
) -> Provenance {
    // Nobody but the node says what rests on a TPM it does not have.
    if evidence.alone() {
        return Provenance::SelfReported;
    }
    // Only a guest has a processor to ask, and only of a guest is it asked.
    let guest = evidence.tee.is_some() || profile.is_some_and(super::cvm::asked);
    match (kind, guest) {
        (TpmKind::Chip, false) => Provenance::HardwareSigned,
        (TpmKind::Chip, true) | (TpmKind::Virtual, _) => Provenance::ProviderSigned,
    }
}

/// Why nobody can tell whose word a claim of a TPM's is.
const UNKNOWN: &str = "whether its processor speaks for its vTPM could not be checked";

impl AttestationResult {
    /// What was found under a claim's name, by whoever says it, for somebody who believes no source below
    /// `minimum`. Where it could not be checked whether the TPM is that good, neither is it said to be
    /// worse.
    pub(super) fn heard(&self, claim: &str, found: Found, minimum: Provenance) -> Found {
        match found {
            Found::Is(value, said) => {
                let by = self.by(claim, said);
                match by < minimum && minimum <= said && self.tpm_unknown {
                    true => Found::Unavailable(UNKNOWN.to_owned()),
                    false => Found::Is(value, by),
                }
            }
            other => other,
        }
    }

    /// Whose word a claim is, said by a source of that kind: no log and no register is better than the
    /// TPM that signed it. What shows in the evidence itself, and in a log that replays to registers of a
    /// report, is as good as the report.
    pub(super) fn by(&self, claim: &str, provenance: Provenance) -> Provenance {
        if let Some(report) = self.report
            && SIGNED.iter().any(|prefix| claim.starts_with(prefix))
        {
            return provenance.min(report);
        }
        match SPOKEN.iter().any(|prefix| claim.starts_with(prefix)) {
            true => provenance.min(self.tpm),
            false => provenance,
        }
    }
}
