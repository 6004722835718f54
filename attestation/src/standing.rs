//! Standing: what an affirming result is worth, and until when.
//!
//! A lease is signed for one node, one AK and one boot (`resetCount`), and ends on the TPM's own
//! clock: played again later it gives nothing, on another machine it is not read, and a reboot
//! gains nothing. The kernel compares its end with boot time, so nothing need reach a machine
//! that fails.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use prost::Message;

use crate::{
    ids::{DeploymentId, NodeId, Sha256Digest, UnixTime},
    proto::v1,
    term::{Lapsed, Term},
};

/// What is signed begins with this, so that no other signature of the same key is a lease.
const DOMAIN: &[u8] = b"bailiwick lease v1\0";
/// A lease body is some 300 bytes; names and reason are bounded well below this.
const MAX_BODY: usize = 4096;
/// No lease outlives a week, whatever a profile or a collector says.
pub const MAX_LEASE_MS: u64 = 7 * 24 * 3600 * 1000;

/// Key that leases are checked with, as the signed policy lists it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LeaseKey {
    /// Name of the key in the policy.
    pub id: String,
    /// Ed25519 public key.
    pub ed25519: [u8; 32],
    /// When its leases count.
    pub term: Term,
}

/// Key that leases are signed with.
pub struct LeaseSigner {
    id: String,
    pair: Ed25519KeyPair,
}

impl fmt::Debug for LeaseSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseSigner")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// A private key that is not one, or a provider that would not sign.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LeaseSignError {
    /// Not an Ed25519 key in PKCS#8.
    #[error("not an Ed25519 key in PKCS#8")]
    Key,
    /// The provider failed.
    #[error("could not sign the lease")]
    Sign,
}

impl LeaseSigner {
    /// From an Ed25519 private key in PKCS#8.
    pub fn from_pkcs8(id: &str, pkcs8: &[u8]) -> Result<Self, LeaseSignError> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_rejected| LeaseSignError::Key)?;
        Ok(Self {
            id: id.to_owned(),
            pair,
        })
    }

    /// The other half.
    pub fn public(&self) -> Result<LeaseKey, LeaseSignError> {
        let ed25519 = <[u8; 32]>::try_from(self.pair.public_key().as_ref())
            .map_err(|_length| LeaseSignError::Key)?;
        Ok(LeaseKey {
            id: self.id.clone(),
            ed25519,
            term: Term::default(),
        })
    }

    /// Signs a lease.
    pub fn sign(&self, body: &v1::LeaseBody) -> Result<v1::Lease, LeaseSignError> {
        let body = body.encode_to_vec();
        let signature = self
            .pair
            .try_sign(&[DOMAIN, &body].concat())
            .map_err(|_provider| LeaseSignError::Sign)?;
        Ok(v1::Lease {
            body,
            key_id: self.id.clone(),
            signature: signature.as_ref().to_vec(),
        })
    }
}

/// What a lease has to be about to be this node's.
#[derive(Clone, Debug)]
pub struct LeaseTerms<'a> {
    /// Where.
    pub deployment: &'a DeploymentId,
    /// Who, as the signed inventory names it.
    pub node: &'a NodeId,
    /// The AK that signed the statement, as a TPM name (algorithm and digest).
    pub ak_name: &'a [u8],
    /// Which boot.
    pub reset_count: u32,
    /// Statements of this boot that have not been answered yet or were answered last: digest,
    /// TPM clock and boot time of the quote, as this node measured them.
    pub statements: &'a [QuotedAt],
    /// TPM clock of the statement that the lease in force answers.
    pub in_force: Option<u64>,
    /// When it is judged, by this node's own clock.
    pub now: UnixTime,
}

/// When a statement was quoted, on both clocks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct QuotedAt {
    /// SHA-256 of the statement's bytes.
    pub statement: Sha256Digest,
    /// `TPMS_CLOCK_INFO.clock`, ms.
    pub clock_ms: u64,
    /// `CLOCK_BOOTTIME` just before the quote, ns.
    pub boot_time_ns: u64,
}

/// Why a lease is not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LeaseRefused {
    /// The body is too long or not a `LeaseBody`.
    #[error("lease body is malformed")]
    Malformed,
    /// The policy lists no such key.
    #[error("lease key {0:?} is not in the signed policy")]
    UnknownKey(String),
    /// Approvers took the key back, or it is not its time.
    #[error("lease key does not count")]
    Key(#[source] Lapsed),
    /// The signature does not verify.
    #[error("lease signature does not verify")]
    Signature,
    /// It is about something else.
    #[error("lease is for another {0}")]
    Other(&'static str),
    /// It answers no statement of this boot.
    #[error("lease answers no statement of this boot")]
    UnknownStatement,
    /// It answers an older statement than the lease in force.
    #[error("lease answers the statement of clock {found}, one of {in_force} is in force")]
    Older {
        /// Clock of the statement it answers.
        found: u64,
        /// Clock of the one in force.
        in_force: u64,
    },
    /// It would last longer than any lease may.
    #[error("lease of {0} ms is longer than a week")]
    TooLong(u64),
}

impl LeaseRefused {
    /// Stable word for logs and scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed => "lease-malformed",
            Self::UnknownKey(_) => "lease-unknown-key",
            Self::Key(Lapsed::Early(_)) => "lease-key-early",
            Self::Key(Lapsed::Ended(_)) => "lease-key-ended",
            Self::Key(Lapsed::Revoked(_)) => "lease-key-revoked",
            Self::Signature => "lease-signature",
            Self::Other(_) => "lease-not-ours",
            Self::UnknownStatement => "lease-unknown-statement",
            Self::Older { .. } => "lease-older",
            Self::TooLong(_) => "lease-too-long",
        }
    }
}

/// A lease that is this node's. Only [`verify_lease`] makes one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VerifiedLease {
    body: v1::LeaseBody,
    end_boot_ns: u64,
}

impl VerifiedLease {
    /// When it ends on the kernel's boot clock, ns; 0 if it ends standing now.
    #[must_use]
    pub const fn end_boot_ns(&self) -> u64 {
        self.end_boot_ns
    }

    /// TPM clock of the statement it answers: what the next lease must not be older than.
    #[must_use]
    pub const fn quoted_clock_ms(&self) -> u64 {
        self.body.quoted_clock_ms
    }

    /// The statement it answers, and why it was granted or ended.
    #[must_use]
    pub const fn body(&self) -> &v1::LeaseBody {
        &self.body
    }
}

/// Checks a lease against the keys of the signed policy and this node's own terms.
pub fn verify_lease(
    lease: &v1::Lease,
    keys: &[LeaseKey],
    terms: &LeaseTerms<'_>,
) -> Result<VerifiedLease, LeaseRefused> {
    if lease.body.len() > MAX_BODY {
        return Err(LeaseRefused::Malformed);
    }
    let key = keys
        .iter()
        .find(|key| key.id == lease.key_id)
        .ok_or_else(|| LeaseRefused::UnknownKey(lease.key_id.chars().take(80).collect()))?;
    key.term.counts(terms.now).map_err(LeaseRefused::Key)?;
    UnparsedPublicKey::new(&ED25519, key.ed25519)
        .verify(&[DOMAIN, &lease.body].concat(), &lease.signature)
        .map_err(|_unspecified| LeaseRefused::Signature)?;
    let body =
        v1::LeaseBody::decode(lease.body.as_slice()).map_err(|_decode| LeaseRefused::Malformed)?;

    let same = [
        ("deployment", body.deployment == terms.deployment.as_str()),
        ("node", body.node == terms.node.as_str()),
        ("attestation key", body.ak_name == terms.ak_name),
        ("boot", body.reset_count == terms.reset_count),
    ];
    if let Some((what, _)) = same.iter().find(|(_, same)| !same) {
        return Err(LeaseRefused::Other(what));
    }
    let quoted = terms
        .statements
        .iter()
        .find(|at| at.statement.as_bytes().as_slice() == body.statement_digest.as_slice())
        .filter(|at| {
            at.clock_ms == body.quoted_clock_ms && at.boot_time_ns == body.quoted_boot_time_ns
        })
        .ok_or(LeaseRefused::UnknownStatement)?;
    if let Some(in_force) = terms.in_force
        && quoted.clock_ms < in_force
    {
        return Err(LeaseRefused::Older {
            found: quoted.clock_ms,
            in_force,
        });
    }
    let end_boot_ns = if body.until_clock_ms <= quoted.clock_ms {
        0
    } else {
        let length = body.until_clock_ms - quoted.clock_ms;
        if length > MAX_LEASE_MS {
            return Err(LeaseRefused::TooLong(length));
        }
        quoted
            .boot_time_ns
            .saturating_add(length.saturating_mul(1_000_000))
    };
    Ok(VerifiedLease { body, end_boot_ns })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(id: &str, seed: u8) -> LeaseSigner {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        LeaseSigner::from_pkcs8(id, pair.to_pkcs8v1().unwrap().as_ref()).unwrap()
    }

    const NOW: QuotedAt = QuotedAt {
        statement: Sha256Digest([9; 32]),
        clock_ms: 1_000_000,
        boot_time_ns: 50_000_000_000,
    };

    fn body() -> v1::LeaseBody {
        v1::LeaseBody {
            deployment: "demo".to_owned(),
            node: "gpu-01".to_owned(),
            ak_name: vec![0, 11, 5],
            reset_count: 4,
            until_clock_ms: 1_300_000,
            statement_digest: vec![9; 32],
            manifest_digest: vec![1; 32],
            reason: "affirming".to_owned(),
            quoted_clock_ms: NOW.clock_ms,
            quoted_boot_time_ns: NOW.boot_time_ns,
            gpus_proven: false,
        }
    }

    fn check(lease: &v1::Lease, in_force: Option<u64>) -> Result<VerifiedLease, LeaseRefused> {
        check_by(lease, in_force, Term::default())
    }

    fn check_by(
        lease: &v1::Lease,
        in_force: Option<u64>,
        term: Term,
    ) -> Result<VerifiedLease, LeaseRefused> {
        let (deployment, node) = (
            DeploymentId::new("demo").unwrap(),
            NodeId::new("gpu-01").unwrap(),
        );
        let terms = LeaseTerms {
            deployment: &deployment,
            node: &node,
            ak_name: &[0, 11, 5],
            reset_count: 4,
            statements: &[NOW],
            in_force,
            now: UnixTime(15),
        };
        let key = LeaseKey {
            term,
            ..signer("lease-2026", 1).public().unwrap()
        };
        verify_lease(lease, &[key], &terms)
    }

    #[test]
    fn a_lease_by_a_key_that_does_not_count_is_none() {
        let lease = signer("lease-2026", 1).sign(&body()).unwrap();
        let at = |ms| Some(UnixTime(ms));
        let term = |not_before, not_after, revoked| Term {
            not_before,
            not_after,
            revoked,
        };
        for (name, term, code) in [
            ("in its time", term(at(15), at(16), None), None),
            ("early", term(at(16), None, None), Some("lease-key-early")),
            ("ended", term(None, at(15), None), Some("lease-key-ended")),
            (
                "revoked",
                term(None, None, at(15)),
                Some("lease-key-revoked"),
            ),
            // Known is known, whatever date it bears.
            (
                "revoked for later",
                term(None, None, at(99)),
                Some("lease-key-revoked"),
            ),
        ] {
            let refused = check_by(&lease, None, term).err();
            assert_eq!(refused.map(|why| why.code()), code, "{name}");
        }
    }

    #[test]
    fn a_lease_ends_on_the_kernels_clock() {
        let lease = signer("lease-2026", 1).sign(&body()).unwrap();
        let verified = check(&lease, Some(NOW.clock_ms)).unwrap();
        assert_eq!(verified.end_boot_ns(), 350_000_000_000);
    }

    #[test]
    fn a_lease_lasts_a_week_and_no_longer() {
        let of = |length| {
            let lasting = v1::LeaseBody {
                until_clock_ms: NOW.clock_ms + length,
                ..body()
            };
            check(&signer("lease-2026", 1).sign(&lasting).unwrap(), None)
        };
        let end = NOW.boot_time_ns + MAX_LEASE_MS * 1_000_000;
        assert_eq!(of(MAX_LEASE_MS).unwrap().end_boot_ns(), end);
        let longer = MAX_LEASE_MS + 1;
        assert_eq!(of(longer), Err(LeaseRefused::TooLong(longer)));
    }

    #[test]
    fn a_lease_can_end_standing_at_once() {
        for until_clock_ms in [0, NOW.clock_ms] {
            let ended = v1::LeaseBody {
                until_clock_ms,
                ..body()
            };
            let lease = signer("lease-2026", 1).sign(&ended).unwrap();
            assert_eq!(check(&lease, None).unwrap().end_boot_ns(), 0);
        }
    }

    #[test]
    fn what_is_not_this_nodes_lease_is_refused_by_name() {
        type Edit = fn(&mut v1::LeaseBody);
        let cases: &[(&str, Edit, &str)] = &[
            ("deployment", |b| b.deployment.push('x'), "lease-not-ours"),
            ("node", |b| b.node = "gpu-02".to_owned(), "lease-not-ours"),
            ("ak", |b| b.ak_name.push(0), "lease-not-ours"),
            ("earlier boot", |b| b.reset_count = 3, "lease-not-ours"),
            (
                "statement",
                |b| b.statement_digest = vec![8; 32],
                "lease-unknown-statement",
            ),
            (
                "clock pair",
                |b| b.quoted_boot_time_ns += 1,
                "lease-unknown-statement",
            ),
            (
                "clock",
                |b| b.quoted_clock_ms += 1,
                "lease-unknown-statement",
            ),
            (
                "a year",
                |b| b.until_clock_ms += 365 * 24 * 3_600_000,
                "lease-too-long",
            ),
            (
                "for ever",
                |b| b.until_clock_ms = u64::MAX,
                "lease-too-long",
            ),
        ];
        for (name, edit, code) in cases {
            let mut bad = body();
            edit(&mut bad);
            let lease = signer("lease-2026", 1).sign(&bad).unwrap();
            assert_eq!(check(&lease, None).unwrap_err().code(), *code, "{name}");
        }
    }

    #[test]
    fn forged_replayed_and_edited_leases_are_refused() {
        let good = signer("lease-2026", 1).sign(&body()).unwrap();
        let other_key = signer("lease-2026", 2).sign(&body()).unwrap();
        assert_eq!(check(&other_key, None), Err(LeaseRefused::Signature));
        let unlisted = signer("mine", 2).sign(&body()).unwrap();
        assert_eq!(
            check(&unlisted, None),
            Err(LeaseRefused::UnknownKey("mine".to_owned()))
        );

        let mut edited = good.clone();
        edited.body = v1::LeaseBody {
            until_clock_ms: 2_000_000,
            ..body()
        }
        .encode_to_vec();
        assert_eq!(check(&edited, None), Err(LeaseRefused::Signature));
        let mut long = good.clone();
        for (bytes, why) in [
            (MAX_BODY, LeaseRefused::Signature),
            (MAX_BODY + 1, LeaseRefused::Malformed),
        ] {
            long.body = vec![0; bytes];
            assert_eq!(check(&long, None), Err(why), "{bytes}");
        }

        let older = LeaseRefused::Older {
            found: NOW.clock_ms,
            in_force: NOW.clock_ms + 1,
        };
        assert_eq!(check(&good, Some(NOW.clock_ms + 1)), Err(older));
    }
}
