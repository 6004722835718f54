//! What a signer signs: the statement's digest under a nonce, and nothing else.

use std::fmt;

use crate::ids::{DeploymentId, Sha256Digest};

const CHALLENGED: &[u8] = b"bailiwick evidence v1";
const UNCHALLENGED: &[u8] = b"bailiwick unchallenged v1";
const TRANSPORT: &[u8] = b"bailiwick transport v1";
const AK: &[u8] = b"bailiwick ak v1";
const GEOTAG: &[u8] = b"bailiwick geotag v1";
const GPU: &[u8] = b"bailiwick gpu v1";
const TEE: &[u8] = b"bailiwick tee v1";

/// Freshness challenge: 32 random bytes, drawn by the collector, used once.
///
/// Other lengths are refused; padding or cutting would let two challenges compare equal.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Nonce([u8; 32]);

/// A nonce of another length.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a nonce has 32 bytes, not {0}")]
pub struct NonceError(usize);

impl Nonce {
    /// From bytes drawn elsewhere: randomness is an argument here.
    #[must_use]
    pub const fn new(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// From the wire.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, NonceError> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_length| NonceError(bytes.len()))
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Where the nonce of a statement comes from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Freshness {
    /// The collector drew it for this node.
    Challenged(Nonce),
    /// The collector was out of reach: history, checked against the TPM clock, no standing.
    Unchallenged {
        /// SHA-256 of the last receipt the node holds; zeroes before the first.
        last_receipt: Sha256Digest,
        /// Counts such statements since that receipt.
        number: u64,
    },
}

impl Freshness {
    fn nonce(&self) -> Nonce {
        match self {
            Self::Challenged(nonce) => *nonce,
            Self::Unchallenged {
                last_receipt,
                number,
            } => {
                let number = number.to_be_bytes();
                Nonce(Sha256Digest::of(&[UNCHALLENGED, last_receipt.as_bytes(), &number]).0)
            }
        }
    }
}

/// The 32 bytes that a signer's signature covers:
/// `SHA-256("bailiwick evidence v1" ‖ nonce ‖ SHA-256(statement))`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Binding([u8; 32]);

impl Binding {
    /// Binds the statement's bytes, exactly as they are sent, to a nonce.
    #[must_use]
    pub fn new(freshness: &Freshness, statement: &[u8]) -> Self {
        Self::of(freshness, &Sha256Digest::of(&[statement]))
    }

    /// The same of a statement by its digest.
    #[must_use]
    pub fn of(freshness: &Freshness, statement: &Sha256Digest) -> Self {
        let nonce = freshness.nonce();
        Self(Sha256Digest::of(&[CHALLENGED, nonce.as_bytes(), statement.as_bytes()]).0)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What an AK certifies the node's geotag over, beside the quote of the same statement:
/// `SHA-256("bailiwick geotag v1" ‖ nonce ‖ SHA-256(statement))`.
#[must_use]
pub fn geotag_binding(freshness: &Freshness, statement: &[u8]) -> Sha256Digest {
    let statement = Sha256Digest::of(&[statement]);
    Sha256Digest::of(&[GEOTAG, freshness.nonce().as_bytes(), statement.as_bytes()])
}

/// What an AK certifies a transport key over, so that a certification made for one deployment or
/// TPM is none for another: `SHA-256("bailiwick transport v1" ‖ deployment ‖ 0 ‖ EK digest)`.
#[must_use]
pub fn transport_binding(deployment: &DeploymentId, ek: &Sha256Digest) -> Sha256Digest {
    let name = deployment.as_str().as_bytes();
    Sha256Digest::of(&[TRANSPORT, name, &[0], ek.as_bytes()])
}

/// What an IAK certifies an AK over:
/// `SHA-256("bailiwick ak v1" ‖ deployment ‖ 0 ‖ EK digest)`.
#[must_use]
pub fn iak_binding(deployment: &DeploymentId, ek: &Sha256Digest) -> Sha256Digest {
    let name = deployment.as_str().as_bytes();
    Sha256Digest::of(&[AK, name, &[0], ek.as_bytes()])
}

/// What GPUs are asked with: `SHA-256("bailiwick gpu v1" ‖ challenge ‖ AK name)`.
///
/// A report another node had made for itself, or for another challenge, does not fit.
#[must_use]
pub fn gpu_nonce(challenge: &Nonce, ak_name: &[u8]) -> [u8; 32] {
    Sha256Digest::of(&[GPU, challenge.as_bytes(), ak_name]).0
}

/// Report data of a TEE report beside a quote:
/// `SHA-256("bailiwick tee v1" ‖ nonce ‖ SHA-256(statement) ‖ AK name)`, zero-padded.
///
/// The report is of this statement and of no earlier one, and the guest that asked for it says which
/// AK is its own: a quote by another TPM does not fit beside it. Other than what a report alone signs
/// a statement with ([`TeeReportSigner`]), so that neither can stand in the place of the other.
#[must_use]
pub fn tee_report_data(freshness: &Freshness, statement: &[u8], ak_name: &[u8]) -> [u8; 64] {
    tee_report_data_of(freshness, &Sha256Digest::of(&[statement]), ak_name)
}

/// The same of a statement by its digest.
#[must_use]
pub fn tee_report_data_of(
    freshness: &Freshness,
    statement: &Sha256Digest,
    ak_name: &[u8],
) -> [u8; 64] {
    let nonce = freshness.nonce();
    let digest = Sha256Digest::of(&[TEE, nonce.as_bytes(), statement.as_bytes(), ak_name]);
    padded(&digest.0)
}

pub(super) fn padded(digest: &[u8; 32]) -> [u8; 64] {
    let mut out = [0; 64];
    let (front, _) = out.split_at_mut(32);
    front.copy_from_slice(digest);
    out
}

/// The two kinds of signer a statement can have.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SignerKind {
    /// `TPM2_Quote` by a restricted AK.
    TpmQuote,
    /// A SEV-SNP or TDX report.
    TeeReport,
}

impl fmt::Display for SignerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TpmQuote => "a TPM's quote",
            Self::TeeReport => "a processor's report",
        })
    }
}

/// How one kind of signer carries a [`Binding`].
pub trait StatementSigner {
    /// Which kind.
    const KIND: SignerKind;
    /// The field the binding travels in: `extraData` of a quote, report data of a TEE report.
    type Carrier: AsRef<[u8]>;

    /// The bytes to hand to the hardware.
    fn carrier(binding: &Binding) -> Self::Carrier;
}

/// Carries the binding as the quote's qualifying data.
#[derive(Clone, Copy, Debug)]
pub struct TpmQuoteSigner;

impl StatementSigner for TpmQuoteSigner {
    const KIND: SignerKind = SignerKind::TpmQuote;
    type Carrier = [u8; 32];

    fn carrier(binding: &Binding) -> [u8; 32] {
        binding.0
    }
}

/// Carries the binding as 64 bytes of report data, zero-padded.
#[derive(Clone, Copy, Debug)]
pub struct TeeReportSigner;

impl StatementSigner for TeeReportSigner {
    const KIND: SignerKind = SignerKind::TeeReport;
    type Carrier = [u8; 64];

    fn carrier(binding: &Binding) -> [u8; 64] {
        padded(&binding.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binding_is_the_hash_the_contract_names() {
        let freshness = Freshness::Challenged(Nonce::new([3; 32]));
        let inner = Sha256Digest::of(&[b"statement"]);
        let want = Sha256Digest::of(&[
            b"bailiwick evidence v1",
            [3; 32].as_slice(),
            inner.as_bytes(),
        ]);
        let binding = Binding::new(&freshness, b"statement");
        assert_eq!(binding.as_bytes(), want.as_bytes());
        assert_eq!(TpmQuoteSigner::carrier(&binding), want.0);
        let carrier = TeeReportSigner::carrier(&binding);
        assert_eq!(carrier[..32], want.0);
        assert_eq!(carrier[32..], [0; 32]);
    }

    #[test]
    fn statement_nonce_and_kind_of_freshness_all_change_it() {
        let receipt = Sha256Digest([5; 32]);
        let base = Binding::new(&Freshness::Challenged(Nonce::new([3; 32])), b"statement");
        let unchallenged = |number| {
            Binding::new(
                &Freshness::Unchallenged {
                    last_receipt: receipt,
                    number,
                },
                b"statement",
            )
        };
        let others = [
            Binding::new(&Freshness::Challenged(Nonce::new([4; 32])), b"statement"),
            Binding::new(&Freshness::Challenged(Nonce::new([3; 32])), b"statemenu"),
            // A collector that draws the receipt's digest as its nonce gains nothing.
            Binding::new(&Freshness::Challenged(Nonce::new(receipt.0)), b"statement"),
            unchallenged(0),
            unchallenged(1),
        ];
        for (at, other) in others.iter().enumerate() {
            assert_ne!(*other, base, "{at}");
            assert!(
                others.iter().skip(at + 1).all(|later| later != other),
                "{at}"
            );
        }
    }

    #[test]
    fn gpus_are_asked_for_one_challenge_and_one_ak() {
        let nonce = Nonce::new([3; 32]);
        let want = Sha256Digest::of(&[b"bailiwick gpu v1", &[3; 32], b"ak"]).0;
        assert_eq!(gpu_nonce(&nonce, b"ak"), want);
        assert_ne!(gpu_nonce(&nonce, b"another"), want);
        assert_ne!(gpu_nonce(&Nonce::new([4; 32]), b"ak"), want);
    }

    #[test]
    fn a_report_beside_a_quote_is_for_one_challenge_one_statement_and_one_ak() {
        let freshness = Freshness::Challenged(Nonce::new([3; 32]));
        let digest = Sha256Digest::of(&[b"statement"]);
        let want = [&b"bailiwick tee v1"[..], &[3; 32], digest.as_bytes(), b"ak"];
        let made = tee_report_data(&freshness, b"statement", b"ak");
        assert_eq!(made[..32], Sha256Digest::of(&want).0);
        assert_eq!(made[32..], [0; 32]);
        let other = Freshness::Challenged(Nonce::new([4; 32]));
        let alone = TeeReportSigner::carrier(&Binding::new(&freshness, b"statement"));
        for (name, found) in [
            ("challenge", tee_report_data(&other, b"statement", b"ak")),
            (
                "statement",
                tee_report_data(&freshness, b"statemenu", b"ak"),
            ),
            ("AK", tee_report_data(&freshness, b"statement", b"al")),
            ("a report that signs alone", alone),
        ] {
            assert_ne!(found, made, "{name}");
        }
    }

    #[test]
    fn nonces_have_one_length() {
        assert_eq!(Nonce::from_slice(&[0; 31]), Err(NonceError(31)));
        assert_eq!(Nonce::from_slice(&[0; 33]), Err(NonceError(33)));
        assert_eq!(Nonce::from_slice(&[7; 32]), Ok(Nonce::new([7; 32])));
    }
}
