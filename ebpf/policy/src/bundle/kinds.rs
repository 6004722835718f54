//! One way in for every kind of manifest, and what comes out of each.

use bailiwick_attestation::{DeploymentId, UnixTime};

use super::check::{self, Accepted};
use super::{Bundle, InForce, PolicyRefused, Signer, VerifiedBundle, WorldSource};
use crate::approvers::{Approvers, ApproversError, Thresholds};
use crate::bundle::IgnoredSignature;
use crate::content::{BreakGlass, Erasure};
use crate::kind::Kind;
use crate::manifest::Manifest;
use crate::world::World;

/// What a manifest is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Whose signatures count: the set in force.
    pub approvers: &'a Approvers,
    /// Where it is to take effect.
    pub deployment: &'a DeploymentId,
    /// The present.
    pub now: UnixTime,
    /// New, or known.
    pub judged: Judged,
    /// The map of the newest manifest of kind `world`, for a policy that carries none.
    pub world: Option<&'a WorldSource>,
}

/// Whether a manifest may take effect, or did so before.
#[derive(Clone, Copy, Debug)]
pub enum Judged {
    /// It is offered, where this one of its kind is the newest (`None`: there is none). The newest
    /// itself is accepted again, expired or not.
    New(Option<InForce>),
    /// It is offered together with what follows it, so that its own end means nothing.
    Followed(InForce),
    /// It was accepted before: its own end and that of its signers' keys were judged when it came.
    /// With `Some` it still must follow that one.
    Before(Option<InForce>),
}

/// What enough approvers signed, of any kind but a policy.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Signed<T> {
    /// What was signed.
    pub manifest: Manifest,
    /// What it says.
    pub content: T,
    /// Who approved.
    pub signers: Vec<Signer>,
    /// Signatures that were not counted, and why.
    pub ignored: Vec<IgnoredSignature>,
    /// Past its `not_after`.
    pub expired: bool,
}

impl<T> Signed<T> {
    /// What a later manifest of this kind is compared with.
    #[must_use]
    pub const fn in_force(&self) -> InForce {
        super::in_force(&self.manifest)
    }

    fn of(accepted: Accepted, content: T) -> Self {
        let Accepted {
            manifest,
            signers,
            ignored,
            expired,
        } = accepted;
        Self {
            manifest,
            content,
            signers,
            ignored,
            expired,
        }
    }
}

/// A manifest that enough approvers signed, and what it says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Verified {
    /// Of kind `policy`.
    Policy(Box<VerifiedBundle>),
    /// Of kind `approvers`.
    Approvers(Signed<Approvers>),
    /// Of kind `world`.
    World(Signed<WorldSource>),
    /// Of kind `break-glass`.
    BreakGlass(Signed<BreakGlass>),
    /// Of kind `erasure`.
    Erasure(Signed<Erasure>),
}

impl Verified {
    /// What was signed.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        match self {
            Self::Policy(policy) => &policy.manifest,
            Self::Approvers(signed) => &signed.manifest,
            Self::World(signed) => &signed.manifest,
            Self::BreakGlass(signed) => &signed.manifest,
            Self::Erasure(signed) => &signed.manifest,
        }
    }

    /// Who approved.
    #[must_use]
    pub fn signers(&self) -> &[Signer] {
        match self {
            Self::Policy(policy) => &policy.signers,
            Self::Approvers(signed) => &signed.signers,
            Self::World(signed) => &signed.signers,
            Self::BreakGlass(signed) => &signed.signers,
            Self::Erasure(signed) => &signed.signers,
        }
    }
}

impl Bundle {
    /// Whether this is a manifest of `kind` that may take effect under these terms, and what it
    /// says. Approvers are better added to a [`crate::approvers::Chain`], which also knows what a
    /// machine needs to catch up.
    pub fn open(&self, kind: Kind, terms: &Terms<'_>) -> Result<Verified, PolicyRefused> {
        Ok(match kind {
            Kind::Policy => Verified::Policy(Box::new(self.verify_policy(terms)?)),
            Kind::Approvers => Verified::Approvers(self.verify_approvers(terms)?),
            Kind::World => Verified::World(self.verify_world(terms)?),
            Kind::BreakGlass => Verified::BreakGlass(self.verify_break_glass(terms)?),
            Kind::Erasure => Verified::Erasure(self.verify_erasure(terms)?),
        })
    }

    /// [`Bundle::open`] for kind `approvers`: the thresholds of the set in force and of the new one
    /// are both met, every threshold of the new one can be met, and it follows the one in force
    /// without a gap.
    pub fn verify_approvers(&self, terms: &Terms<'_>) -> Result<Signed<Approvers>, PolicyRefused> {
        let (accepted, files) = self.accept(Kind::Approvers, terms)?;
        check::no_gap(&accepted.manifest, terms.judged)?;
        let bytes = |path: &str| check::needed(&files, Kind::Approvers, path);
        let thresholds = Thresholds::parse("approvers.toml", bytes("approvers.toml")?)
            .map_err(PolicyRefused::Malformed)?;
        let new = Approvers::with("allowed_signers", bytes("allowed_signers")?, thresholds)
            .map_err(|refused| match refused {
                ApproversError::File(fault) => PolicyRefused::Malformed(fault),
                other => PolicyRefused::Approvers(other),
            })?;
        check::reachable(&new, terms)?;
        self.approved_by_new(&new, terms)?;
        Ok(Signed::of(accepted, new))
    }

    /// [`Bundle::open`] for kind `world`.
    pub fn verify_world(&self, terms: &Terms<'_>) -> Result<Signed<WorldSource>, PolicyRefused> {
        let (accepted, files) = self.accept(Kind::World, terms)?;
        let source = check::world_of(&files)
            .and_then(|found| {
                found.ok_or_else(|| check::missing("world.csv or world.txt", Kind::World))
            })
            .map_err(PolicyRefused::Malformed)?;
        // Refused here, not with the next policy that needs it.
        World::compile(&source, &[]).map_err(PolicyRefused::Malformed)?;
        Ok(Signed::of(accepted, source))
    }

    /// [`Bundle::open`] for kind `break-glass`.
    pub fn verify_break_glass(
        &self,
        terms: &Terms<'_>,
    ) -> Result<Signed<BreakGlass>, PolicyRefused> {
        const FILE: &str = "break-glass.toml";
        let (accepted, files) = self.accept(Kind::BreakGlass, terms)?;
        let content = BreakGlass::parse(FILE, check::needed(&files, Kind::BreakGlass, FILE)?)
            .map_err(PolicyRefused::Malformed)?;
        Ok(Signed::of(accepted, content))
    }

    /// [`Bundle::open`] for kind `erasure`.
    pub fn verify_erasure(&self, terms: &Terms<'_>) -> Result<Signed<Erasure>, PolicyRefused> {
        const FILE: &str = "erasure.toml";
        let (accepted, files) = self.accept(Kind::Erasure, terms)?;
        let content = Erasure::parse(FILE, check::needed(&files, Kind::Erasure, FILE)?)
            .map_err(PolicyRefused::Malformed)?;
        Ok(Signed::of(accepted, content))
    }
}
