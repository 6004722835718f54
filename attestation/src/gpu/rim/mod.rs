//! Reference Integrity Manifests (RIMs): what the measurements of a GPU or switch may be.
//!
//! NVIDIA signs one for each version of driver and of VBIOS. An operator brings them; nothing
//! here fetches any. [`check`] reads one file and says all that is wrong with it; [`compare`]
//! holds measurements against those that are endorsed.
//!
//! | module | holds |
//! |---|---|
//! | `file` | XML, base64, the service's JSON |
//! | `xml` | a strict reader |
//! | `c14n` | the bytes that are hashed and signed |
//! | `dsig` | the signature: one shape, one set of algorithms |
//! | [`swid`](Rim) | what the tag says |
//! | [`golden`](compare) | comparison with a device |
//!
//! A RIM has no timestamp: once its signer's certificate has run out it stands as it stood, and
//! NVIDIA issues it again under the same id, sometimes with other values. So the signer's dates
//! are a refusal of their own, and a RIM is told from its re-issue by the digest of its bytes.

mod c14n;
mod dsig;
mod file;
mod golden;
mod swid;
mod xml;

use std::borrow::Cow;

use crate::crypto::VerifyError;
use crate::error::ParseError;
use crate::gpu::{Anchors, ChainRefused, find_chain_above, outside_dates};
use crate::ids::{Sha256Digest, UnixTime};
use crate::x509::Certificate;

use dsig::Signature;
use xml::Document;

pub use file::MAX_RIM_FILE;
pub use golden::{
    Comparison, Edition, Mismatch, NVDEC_INDEX, NVDEC_OFF, Slot, Target, Unfit, compare, unfit,
};
pub use swid::{Golden, REFERENCE_VALUE_BYTES, Rim};
pub use xml::MAX_XML;

/// How the name of a CA begins or ends that NVIDIA keeps for debugging.
const DEBUG_CA: &str = "Debug Only";

/// Why a RIM is not believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RimRefused {
    /// Not a RIM.
    #[error("malformed RIM")]
    Malformed(#[from] ParseError),
    /// Signed in another way than NVIDIA's are.
    #[error("{element} names {found:?}, which is not what NVIDIA signs with")]
    Algorithm {
        /// The element of the signature.
        element: &'static str,
        /// What it names.
        found: String,
    },
    /// The document is not the one that was signed.
    #[error("the document was changed after it was signed: its digest is another")]
    Digest,
    /// The digest was not signed by the signer.
    #[error("the signature by the key of {signer:?}")]
    Signature {
        /// Label of the first certificate.
        signer: String,
        /// Why.
        #[source]
        reason: VerifyError,
    },
    /// The signer is nobody who is trusted, or a CA above it is outside its dates.
    #[error("the path from the signer")]
    Chain(#[source] ChainRefused),
    /// The signer is endorsed by a CA for debugging.
    #[error("{0:?} is a CA for debugging")]
    DebugCa(String),
    /// The signer's certificate has run out, though the RIM is as it was.
    #[error("the certificate of {signer:?} ended {since}, seconds since 1970")]
    SignerExpired {
        /// Its label.
        signer: String,
        /// When it ended.
        since: u64,
    },
    /// The signer's certificate does not count yet.
    #[error("the certificate of {signer:?} begins {from}, seconds since 1970")]
    SignerNotYetValid {
        /// Its label.
        signer: String,
        /// When it begins.
        from: u64,
    },
}

impl RimRefused {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "rim-malformed",
            Self::Algorithm { .. } => "rim-algorithm",
            Self::Digest => "rim-digest",
            Self::Signature { .. } => "rim-signature",
            Self::Chain(_) | Self::DebugCa(_) => "rim-chain",
            Self::SignerExpired { .. } => "rim-signer-expired",
            Self::SignerNotYetValid { .. } => "rim-not-yet-valid",
        }
    }
}

/// What a RIM is worth, part by part.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Checked {
    /// SHA-256 of the document, which tells a RIM from its re-issue: what a profile pins.
    pub digest: Sha256Digest,
    /// The document is what the key of its first certificate signed. `None`: not a RIM.
    pub signature: Option<bool>,
    /// That certificate leads to an anchor, over CAs that are valid. `None`: not a RIM.
    pub chain: Option<bool>,
    /// That certificate is valid. `None`: not a RIM.
    pub signer_valid: Option<bool>,
    /// The certificates in it, the signer's first.
    pub certificates: Vec<Certificate>,
    /// All that is wrong.
    pub refusals: Vec<RimRefused>,
    /// What it says.
    content: Option<Rim>,
}

/// A RIM that somebody who is trusted signed. Only [`Checked::endorsed`] makes one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Endorsed<'a>(&'a Rim);

impl<'a> Endorsed<'a> {
    /// What it says.
    #[must_use]
    pub const fn rim(self) -> &'a Rim {
        self.0
    }
}

impl Checked {
    /// What it says, if the signature over it is good; by whom is another question.
    #[must_use]
    pub fn content(&self) -> Option<&Rim> {
        match self.signature {
            Some(true) => self.content.as_ref(),
            _ => None,
        }
    }

    /// The reference values, if somebody who is trusted signed them. The signer's own dates are
    /// left to whoever asks: `signer_valid`.
    #[must_use]
    pub fn endorsed(&self) -> Option<Endorsed<'_>> {
        match self.chain {
            Some(true) => self.content().map(Endorsed),
            _ => None,
        }
    }
}

/// Checks one file, in any of its forms: structure, digest, signature, path to an anchor, dates.
/// All that can be told is told.
#[must_use]
pub fn check(file: &[u8], anchors: &Anchors, at: UnixTime) -> Checked {
    let mut checked = Checked {
        digest: Sha256Digest::of(&[file]),
        signature: None,
        chain: None,
        signer_valid: None,
        certificates: Vec::new(),
        refusals: Vec::new(),
        content: None,
    };
    if let Err(error) = check_into(file, anchors, at, &mut checked) {
        checked.refusals.push(RimRefused::Malformed(error));
    }
    checked
}

fn check_into(
    file: &[u8],
    anchors: &Anchors,
    at: UnixTime,
    checked: &mut Checked,
) -> Result<(), ParseError> {
    let bytes = file::document(file)?;
    checked.digest = Sha256Digest::of(&[&bytes]);
    let document = Document::parse(&bytes)?;
    let root = document.root()?;
    let signature = Signature::find(root)?;
    // Read now, so that a malformed tag is called one; shown only if the signature is good.
    let content = Rim::read(root)?;
    let Some((signer, above)) = signature.certificates.split_first() else {
        return Ok(());
    };

    let mut refusals = unsigned(&signature, root, signer);
    checked.signature = Some(refusals.is_empty());
    let chain = untrusted(signer, above, anchors, at);
    checked.chain = Some(chain.is_empty());
    refusals.extend(chain);
    let dates = outside(signer, at);
    checked.signer_valid = Some(dates.is_none());
    refusals.extend(dates);

    checked.refusals = refusals;
    checked.certificates.clone_from(&signature.certificates);
    checked.content = Some(content);
    Ok(())
}

/// The document inside a file, whatever its form: what a digest is of, and what is kept.
pub fn document(file: &[u8]) -> Result<Cow<'_, [u8]>, ParseError> {
    file::document(file)
}

/// The canonical form of a document that [`check`] would read: what it says, however it is
/// written.
pub fn canonical_form(document: &[u8]) -> Result<Vec<u8>, ParseError> {
    let document = Document::parse(document)?;
    Ok(c14n::canonical(document.root()?, None))
}

/// Why the document is not what the signer signed.
fn unsigned(
    signature: &Signature<'_, '_>,
    root: xml::Element<'_, '_>,
    signer: &Certificate,
) -> Vec<RimRefused> {
    let algorithms = signature
        .foreign
        .iter()
        .map(|foreign| RimRefused::Algorithm {
            element: foreign.element,
            found: foreign.found.clone(),
        });
    let mut refused: Vec<RimRefused> = algorithms.collect();
    if !signature.digest_fits(root) {
        refused.push(RimRefused::Digest);
    }
    let verified = match signer.key() {
        Ok(key) if super::path::is_p384(key) => signature.signed_by(key),
        _ => Err(VerifyError::KeyKind),
    };
    if let Err(reason) = verified {
        refused.push(RimRefused::Signature {
            signer: signer.subject().label(),
            reason,
        });
    }
    refused
}

/// Why the signer is nobody who is trusted.
fn untrusted(
    signer: &Certificate,
    above: &[Certificate],
    anchors: &Anchors,
    at: UnixTime,
) -> Vec<RimRefused> {
    let path = match find_chain_above(signer, above, anchors, at) {
        Ok(path) => path,
        Err(refused) => return refused.into_iter().map(RimRefused::Chain).collect(),
    };
    let Some((anchor, below)) = path.split_last() else {
        return Vec::new();
    };
    // Whoever trusts an anchor for debugging by name gets what it signs.
    let debug = below.iter().find(|label| label.contains(DEBUG_CA));
    match debug {
        Some(label) if !anchor.contains(DEBUG_CA) => vec![RimRefused::DebugCa(label.clone())],
        _ => Vec::new(),
    }
}

fn outside(signer: &Certificate, at: UnixTime) -> Option<RimRefused> {
    let refused = outside_dates([signer], at).into_iter().next()?;
    let signer = signer.subject().label();
    Some(match refused {
        ChainRefused::NotYetValid { not_before, .. } => RimRefused::SignerNotYetValid {
            signer,
            from: not_before,
        },
        ChainRefused::Expired { not_after, .. } => RimRefused::SignerExpired {
            signer,
            since: not_after,
        },
        other => RimRefused::Chain(other),
    })
}

#[cfg(test)]
pub(crate) mod tests;
