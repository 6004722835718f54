//! From the approvers a machine was installed with to those in force: every change is signed under
//! the thresholds of the set before and of the set after.

use bailiwick_attestation::{DeploymentId, Sha256Digest, UnixTime};

use super::Approvers;
use crate::bundle::{Bundle, InForce, Judged, PolicyRefused, Signed, Terms, Verified, WorldSource};
use crate::kind::Kind;

/// Most changes of approvers in one deployment: twenty years of one a week.
pub const CHAIN_LIMIT: usize = 1024;

/// One set after another, the first from the machine's own configuration.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Never empty: the machine's own stands first.
    first: Approvers,
    later: Vec<Signed<Approvers>>,
}

impl Chain {
    /// What a machine was installed with, and nothing else yet.
    #[must_use]
    pub const fn new(first: Approvers) -> Self {
        Self {
            first,
            later: Vec::new(),
        }
    }

    /// Reads back what was accepted before, oldest first: signatures and order as ever, ends and
    /// validity of keys not again.
    pub fn restore(
        first: Approvers,
        deployment: &DeploymentId,
        now: UnixTime,
        bundles: &[Bundle],
    ) -> Result<Self, PolicyRefused> {
        let mut chain = Self::new(first);
        for bundle in bundles {
            let next = chain.next(bundle, deployment, now, Late::Settled)?;
            chain.later.push(next);
        }
        Ok(chain)
    }

    /// Who may sign now.
    #[must_use]
    pub fn current(&self) -> &Approvers {
        self.later.last().map_or(&self.first, |set| &set.content)
    }

    /// Who might have signed what is in force, newest first.
    pub fn sets(&self) -> impl Iterator<Item = &Approvers> {
        let later = self.later.iter().rev().map(|set| &set.content);
        later.chain([&self.first])
    }

    /// The changes, oldest first.
    #[must_use]
    pub fn changes(&self) -> &[Signed<Approvers>] {
        &self.later
    }

    /// What the next change must follow: version 0 is the machine's own set.
    #[must_use]
    pub fn in_force(&self) -> InForce {
        self.later.last().map_or_else(
            || InForce {
                version: 0,
                manifest_digest: self.first.digest(),
            },
            Signed::in_force,
        )
    }

    /// The chain with these changes behind it, oldest first; those it has are passed over. A change
    /// that others follow may be past its `not_after`; the last may not, for nobody has taken it
    /// further. Keys must be good now in all of them: whoever stole one that ran out gains nothing.
    pub fn extended(
        &self,
        bundles: &[Bundle],
        deployment: &DeploymentId,
        now: UnixTime,
    ) -> Result<Self, PolicyRefused> {
        let mut chain = self.clone();
        let has = |chain: &Self, bundle: &Bundle| {
            let digest = bundle.manifest_digest();
            chain.later.iter().any(|set| set.manifest.digest == digest)
        };
        let mut new = bundles.iter().filter(|b| !has(self, b)).peekable();
        while let Some(bundle) = new.next() {
            let late = match new.peek() {
                Some(_) => Late::Followed,
                None => Late::Refused,
            };
            let next = chain.next(bundle, deployment, now, late)?;
            chain.later.push(next);
        }
        Ok(chain)
    }

    fn next(
        &self,
        bundle: &Bundle,
        deployment: &DeploymentId,
        now: UnixTime,
        late: Late,
    ) -> Result<Signed<Approvers>, PolicyRefused> {
        if self.later.len() >= CHAIN_LIMIT {
            return Err(PolicyRefused::TooLarge {
                what: "changes of approvers",
                found: self.later.len().saturating_add(1),
                limit: CHAIN_LIMIT,
            });
        }
        let current = self.in_force();
        let judged = match late {
            Late::Refused => Judged::New(Some(current)),
            Late::Followed => Judged::Followed(current),
            Late::Settled => Judged::Before(Some(current)),
        };
        bundle.verify_approvers(&Terms {
            approvers: self.current(),
            deployment,
            now,
            judged,
            world: None,
        })
    }

    /// Reads a manifest of another kind that was accepted before. Whoever signed it then may have
    /// left since: each set may have been the one in force.
    pub fn settled(
        &self,
        kind: Kind,
        bundle: &Bundle,
        deployment: &DeploymentId,
        world: Option<&WorldSource>,
        now: UnixTime,
    ) -> Result<Verified, PolicyRefused> {
        let mut refused = None;
        for approvers in self.sets() {
            let terms = Terms {
                approvers,
                deployment,
                now,
                judged: Judged::Before(None),
                world,
            };
            match bundle.open(kind, &terms) {
                Err(why @ (PolicyRefused::UnderSigned { .. } | PolicyRefused::Unsigned { .. })) => {
                    // The newest set's word is the one that helps.
                    refused.get_or_insert(why);
                }
                outcome => return outcome,
            }
        }
        Err(refused.unwrap_or_else(|| PolicyRefused::Unsigned {
            namespace: kind.namespace(deployment),
        }))
    }

    /// Whether `digest` names the set in force or one before it.
    #[must_use]
    pub fn knows(&self, digest: &Sha256Digest) -> bool {
        self.sets().any(|set| set.digest() == *digest)
    }
}

/// What the end of a change means.
enum Late {
    /// It is the newest: too late is refused.
    Refused,
    /// Others follow it.
    Followed,
    /// It was accepted in time.
    Settled,
}
