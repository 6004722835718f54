//! Which of this collector's lease keys signs: the policy in force says, and may say none.
//!
//! A key is rotated in three policies, none of which leaves a gap: the new one stands behind the
//! old one, then before it, then alone. Nodes that lag one policy behind know the key in use.

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::standing::{LeaseKey, LeaseSignError, LeaseSigner};
use bailiwick_policy::model::CollectorKeys;

/// Every lease key this collector holds.
#[derive(Debug)]
pub struct LeaseKeys(Vec<(LeaseKey, LeaseSigner)>);

impl LeaseKeys {
    /// Of these.
    pub fn new(signers: Vec<LeaseSigner>) -> Result<Self, LeaseSignError> {
        let with_public = |signer: LeaseSigner| Ok((signer.public()?, signer));
        signers
            .into_iter()
            .map(with_public)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The first key the policy lists whose time it is and that is held here, id and key alike; with
    /// none, nothing may be signed.
    #[must_use]
    pub fn active(&self, listed: &CollectorKeys, now: UnixTime) -> Option<&LeaseSigner> {
        let mut counting = listed.lease_keys.iter();
        let mut counting = counting.by_ref().filter(|key| key.term.counts(now).is_ok());
        counting.find_map(|wanted| {
            let found = self
                .0
                .iter()
                .find(|(held, _)| held.id == wanted.id && held.ed25519 == wanted.ed25519);
            found.map(|(_, signer)| signer)
        })
    }

    /// The keys held.
    #[must_use]
    pub fn held(&self) -> Vec<&LeaseKey> {
        self.0.iter().map(|(key, _)| key).collect()
    }

    /// Ids of the keys held, for a person.
    #[must_use]
    pub fn ids(&self) -> Vec<&str> {
        self.0.iter().map(|(key, _)| key.id.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::Ed25519KeyPair;
    use bailiwick_attestation::Term;
    use bailiwick_policy::model;

    use super::*;

    #[test]
    fn the_policy_chooses_the_key_and_a_key_it_does_not_list_signs_nothing() {
        let signer = |id: &str| {
            let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
            LeaseSigner::from_pkcs8(id, pkcs8.as_ref()).unwrap()
        };
        let entry = |signer: &LeaseSigner| {
            let key = signer.public().unwrap();
            model::LeaseKey {
                id: key.id,
                ed25519: key.ed25519,
                term: Term::default(),
            }
        };
        let (old, new, other) = (signer("lease-1"), signer("lease-2"), signer("lease-1"));
        let (o, n, stolen) = (entry(&old), entry(&new), entry(&other));
        let with = |key: &model::LeaseKey, term| model::LeaseKey {
            term,
            ..key.clone()
        };
        let now = UnixTime(50);
        let revoked = with(
            &o,
            Term {
                revoked: Some(UnixTime(99)),
                ..Term::default()
            },
        );
        let early = with(
            &o,
            Term {
                not_before: Some(UnixTime(51)),
                ..Term::default()
            },
        );
        let keys = LeaseKeys::new(vec![old, new]).unwrap();
        let rows: &[(&str, Vec<model::LeaseKey>, Option<&str>)] = &[
            ("before", vec![o.clone()], Some("lease-1")),
            (
                "the new one announced",
                vec![o.clone(), n.clone()],
                Some("lease-1"),
            ),
            ("the new one in use", vec![n.clone(), o], Some("lease-2")),
            ("the old one gone", vec![n.clone()], Some("lease-2")),
            (
                "the first revoked",
                vec![revoked.clone(), n.clone()],
                Some("lease-2"),
            ),
            ("the only one revoked", vec![revoked], None),
            ("the next not yet", vec![early, n], Some("lease-2")),
            ("another key of that name", vec![stolen], None),
            ("none", vec![], None),
        ];
        for (name, lease_keys, want) in rows {
            let listed = CollectorKeys {
                lease_keys: lease_keys.clone(),
                ..CollectorKeys::default()
            };
            let active = keys
                .active(&listed, now)
                .map(|signer| signer.public().unwrap().id);
            assert_eq!(active.as_deref(), *want, "{name}");
        }
    }
}
