//! Which of this collector's certificate authorities issues, whose server certificate is shown, and
//! whose node certificates count: the policy in force says.
//!
//! A CA is rotated like a lease key: the new one stands behind the old one, then before it, then
//! alone. Nodes that lag one policy behind know the one whose certificate is shown, and a node's own
//! certificate counts until its CA leaves the list. A revoked one counts for nothing at once: nodes
//! enrol again under another.

use std::path::PathBuf;

use bailiwick_attestation::crypto::PublicKey;
use bailiwick_attestation::x509::Certificate;
use bailiwick_attestation::{Sha256Digest, UnixTime};
use bailiwick_policy::model::CollectorKeys;

use crate::init::Authority;

/// A CA whose key this collector has, and the server certificate it issued.
#[derive(Debug)]
pub struct HeldCa {
    /// What the folder calls it.
    pub id: String,
    /// SHA-256 of its `SubjectPublicKeyInfo`.
    pub spki: Sha256Digest,
    /// Issues nodes' certificates.
    pub authority: Authority,
    /// The collector's own certificate under it, PEM.
    pub server_certificate: PathBuf,
    /// Its key, PEM.
    pub server_key: PathBuf,
}

/// Every CA this collector holds, the one `init` made first.
#[derive(Debug)]
pub struct Cas {
    /// The one `init` made.
    pub first: HeldCa,
    /// Those made since.
    pub later: Vec<HeldCa>,
}

impl Cas {
    /// All of them.
    pub fn held(&self) -> impl Iterator<Item = &HeldCa> {
        std::iter::once(&self.first).chain(&self.later)
    }

    /// The one that issues and whose server certificate is shown: the first listed that is held.
    /// None: approvers list CAs, and none of these.
    #[must_use]
    pub fn issuing(&self, listed: Option<&CollectorKeys>, now: UnixTime) -> Option<&HeldCa> {
        match listed {
            Some(listed) if !listed.cas.is_empty() => {
                let first = issuing(&self.digests(), listed, now)?;
                self.held().find(|ca| ca.spki == first)
            }
            _ => Some(&self.first),
        }
    }

    /// Those whose node certificates count.
    #[must_use]
    pub fn counting(&self, listed: Option<&CollectorKeys>, now: UnixTime) -> Vec<&HeldCa> {
        match listed {
            Some(listed) if !listed.cas.is_empty() => {
                let good = counting(listed, now);
                self.held().filter(|ca| good.contains(&ca.spki)).collect()
            }
            _ => vec![&self.first],
        }
    }

    fn digests(&self) -> Vec<Sha256Digest> {
        self.held().map(|ca| ca.spki).collect()
    }
}

/// Digests of the listed CAs that count now, in the order listed.
fn counting(listed: &CollectorKeys, now: UnixTime) -> Vec<Sha256Digest> {
    let good = listed.cas.iter().filter(|ca| ca.term.counts(now).is_ok());
    good.map(|ca| ca.spki).collect()
}

fn issuing(held: &[Sha256Digest], listed: &CollectorKeys, now: UnixTime) -> Option<Sha256Digest> {
    let mut good = counting(listed, now).into_iter();
    good.find(|spki| held.contains(spki))
}

/// Which of these CAs signed a certificate, by its signature and not by what it says.
#[must_use]
pub fn issuer(certificate: &[u8], cas: &[(Sha256Digest, PublicKey)]) -> Option<Sha256Digest> {
    let certificate = Certificate::parse(certificate).ok()?;
    let signed = |(_, key): &&(Sha256Digest, PublicKey)| certificate.verify_signature(key).is_ok();
    cas.iter().find(signed).map(|(spki, _)| *spki)
}

#[cfg(test)]
mod tests {
    use bailiwick_attestation::{DeploymentId, Term};
    use bailiwick_policy::model::CaKey;

    use super::*;
    use crate::init::Kind;

    #[test]
    fn the_policy_chooses_the_ca_and_a_revoked_one_counts_for_nothing() {
        let digest = |byte| Sha256Digest([byte; 32]);
        let at = |secs| Some(UnixTime::from_secs(secs));
        let open = Term::default();
        let revoked = Term {
            revoked: at(999),
            ..open
        };
        let ended = Term {
            not_after: at(100),
            ..open
        };
        let early = Term {
            not_before: at(101),
            ..open
        };
        let ca = |byte: u8, term| CaKey {
            id: format!("ca-{byte}"),
            spki: digest(byte),
            term,
        };
        let (old, new) = (1, 2);
        type Row<'a> = (&'a str, Vec<CaKey>, &'a [u8], Option<u8>);
        let rows: &[Row<'_>] = &[
            ("before", vec![ca(old, open)], &[old], Some(old)),
            (
                "announced",
                vec![ca(old, open), ca(new, open)],
                &[old, new],
                Some(old),
            ),
            (
                "announced for later",
                vec![ca(new, early), ca(old, open)],
                &[old],
                Some(old),
            ),
            (
                "in use",
                vec![ca(new, open), ca(old, open)],
                &[new, old],
                Some(new),
            ),
            ("alone", vec![ca(new, open)], &[new], Some(new)),
            (
                "ended",
                vec![ca(old, ended), ca(new, open)],
                &[new],
                Some(new),
            ),
            (
                "revoked",
                vec![ca(old, revoked), ca(new, open)],
                &[new],
                Some(new),
            ),
            ("none left", vec![ca(old, revoked)], &[], None),
            (
                "another collector's first",
                vec![ca(9, open), ca(new, open)],
                &[9, new],
                Some(new),
            ),
            ("another collector's alone", vec![ca(9, open)], &[9], None),
        ];
        let held = [digest(old), digest(new)];
        let all = Cas {
            first: made(held[0]),
            later: vec![made(held[1])],
        };
        let is_held = |byte: &&u8| [old, new].contains(*byte);
        for (name, cas, good, first) in rows {
            let listed = CollectorKeys {
                cas: cas.clone(),
                ..CollectorKeys::default()
            };
            let now = UnixTime::from_secs(100);
            let want: Vec<Sha256Digest> = good.iter().map(|byte| digest(*byte)).collect();
            assert_eq!(counting(&listed, now), want, "{name}");
            assert_eq!(issuing(&held, &listed, now), first.map(digest), "{name}");
            let chosen = all.issuing(Some(&listed), now).map(|ca| ca.spki);
            assert_eq!(chosen, first.map(digest), "{name}");
            let mut own: Vec<Sha256Digest> =
                good.iter().filter(is_held).map(|it| digest(*it)).collect();
            own.sort();
            let counting = all.counting(Some(&listed), now);
            let counting: Vec<Sha256Digest> = counting.iter().map(|ca| ca.spki).collect();
            assert_eq!(counting, own, "{name}");
        }
        // Where approvers list none, it is the one that this collector was made with.
        let none = CollectorKeys::default();
        for listed in [None, Some(&none)] {
            let now = UnixTime::from_secs(100);
            let chosen = all.issuing(listed, now).map(|ca| ca.spki);
            assert_eq!(chosen, Some(held[0]), "{listed:?}");
            let counting = all.counting(listed, now);
            let counting: Vec<Sha256Digest> = counting.iter().map(|ca| ca.spki).collect();
            assert_eq!(counting, [held[0]], "{listed:?}");
        }
    }

    fn made(spki: Sha256Digest) -> HeldCa {
        let deployment = DeploymentId::new("demo").unwrap();
        let made = Authority::make(&deployment, Kind::Transport, UnixTime::from_secs(100)).unwrap();
        let (certificate, key) = (&made.certificate, &made.key);
        HeldCa {
            id: spki.to_string(),
            spki,
            authority: Authority::load(&deployment, Kind::Transport, certificate, key).unwrap(),
            server_certificate: PathBuf::new(),
            server_key: PathBuf::new(),
        }
    }
}
