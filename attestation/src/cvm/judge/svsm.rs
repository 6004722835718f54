//! What an SVSM says of the TPM it keeps.
//!
//! A secure VM service module runs at the most privileged level, and its guest below. Asked about one of
//! its services, it has the processor bind SHA-512 over the question and the service's manifest; of its
//! vTPM that is the EK's `TPMT_PUBLIC`. ("Secure VM Service Module for SEV-SNP Guests", AMD 58019,
//! revision 1.00, `SVSM_ATTEST_SINGLE_SERVICE`.) So the AK is its own as far as AK and EK are one TPM's, which
//! enrolment showed, as of a chip.

use super::{Asked, Judged, Vtpm, amd, privileged, refused, words};
use crate::crypto::HashAlgorithm;
use crate::cvm::snp::Report;
use crate::ids::Sha256Digest;
use crate::tpm::{EkPublic, Public};

/// Bits of the only EK that an SVSM's manifest has.
const EK_BITS: usize = 2048;

pub(super) fn judge(asked: &Asked<'_>, report: &Report<'_>) -> Judged {
    let mut bound = [0; 64];
    let digest = HashAlgorithm::Sha512.digest(&[asked.report_data, asked.manifest]);
    for (to, from) in bound.iter_mut().zip(digest.unwrap_or_default().as_slice()) {
        *to = *from;
    }
    let mut judged = amd::judge(
        &Asked {
            report_data: &bound,
            ..*asked
        },
        report,
    );
    judged.faults.extend(privileged(&judged));
    let named = Public::parse(asked.manifest).map_err(|why| words(&why));
    let named = named.and_then(|public| EkPublic::new(public).map_err(|why| words(&why)));
    // Nothing says where the question ends and the manifest begins, and who asks chooses how long the
    // question is. Its last bytes are the EK's: of one length alone, they are the modulus.
    let named = named.and_then(|ek| match ek.key().rsa_bits() {
        Some(EK_BITS) => Ok(()),
        _ => Err(format!(
            "an EK of kind {}, and not rsa-{EK_BITS}",
            ek.key().kind()
        )),
    });
    if let Err(why) = named {
        judged.faults.push(refused("cvm-malformed", why));
        return judged;
    }
    let found = Sha256Digest::of(&[asked.manifest]);
    if let Some(keys) = asked.tpm.filter(|keys| *keys.ek != found) {
        let why = format!(
            "the report names the EK {found}, and this TPM's is {}",
            keys.ek
        );
        judged.faults.push(refused("cvm-vtpm-ek", why));
    }
    judged.vtpm = Some(Vtpm {
        named: asked.tpm.is_some_and(|keys| *keys.ek == found),
        // What binds the EK binds the question.
        fresh: true,
    });
    judged
}

#[cfg(test)]
mod tests;
