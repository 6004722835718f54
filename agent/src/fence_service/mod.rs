//! The `fence` process: holds the enforcer and the policy, answers `run` on a unix socket.
//!
//! It needs no network, now or later. At start it denies by default, then puts the last policy
//! that was good back in force (signatures checked again), then listens. Whatever the collector
//! says reaches it through `run`, and counts only as far as approvers signed it.

mod core;
pub mod glass;
mod manifests;
mod peers;
mod policy;
mod proven;
mod server;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_glass;
#[cfg(test)]
mod tests_guest;
#[cfg(test)]
mod tests_kept;

use std::{collections::BTreeMap, net::IpAddr, os::fd::OwnedFd};

use bailiwick_attestation::{
    Sha256Digest,
    proto::v1::{FenceEvent, FenceState},
};
use bailiwick_policy::bundle::VerifiedBundle;

pub use self::{
    core::{Core, CoreError, Kept, Settings},
    server::{ServeError, serve},
};

/// An address of a study on another node, and until when it counts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Peer {
    /// The study's name.
    pub study: String,
    /// Its address there.
    pub address: IpAddr,
    /// `CLOCK_BOOTTIME`, ns.
    pub end_boot_ns: u64,
}

/// What enforces: the BPF fence, through the few things this process asks of it.
pub trait Enforcer: Send + 'static {
    /// Why something could not be done. What was in force before still is.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Puts a policy in force, whole or not at all.
    fn apply_policy(&mut self, bundle: &VerifiedBundle) -> Result<(), Self::Error>;

    /// Whether a policy was good and waits until it can be measured.
    fn held_back(_error: &Self::Error) -> bool
    where
        Self: Sized,
    {
        false
    }

    /// Whether a policy that was held back is worth another attempt.
    fn ready(&self) -> bool {
        true
    }

    /// Whether cgroups that a study's selector newly meets become the study's. While not, they
    /// stay nobody's, and so denied; those that were met before go on.
    fn admit(&mut self, new: bool);

    /// Readable when cgroups have come or gone, so that [`Enforcer::reconcile`] is worth a call.
    fn changes(&self) -> Option<OwnedFd> {
        None
    }

    /// Takes every policy out of force: all is denied.
    fn deny_everything(&mut self) -> Result<(), Self::Error>;

    /// Follows what has changed on the host, cgroups that came and went; called often.
    fn reconcile(&mut self) -> Result<(), Self::Error>;

    /// When standing ends, on the kernel's boot clock, ns; 0 ends it now.
    fn set_lease_end(&mut self, boot_ns: u64) -> Result<(), Self::Error>;

    /// Whether all GPUs of this node have proven themselves: studies that take confidential ones
    /// start, and open devices, only then.
    fn set_gpus_proven(&mut self, proven: bool) -> Result<(), Self::Error>;

    /// Replaces the addresses of studies on other nodes by these. Too many change nothing and are
    /// a fault of the fence until it is told fewer.
    fn set_peers(&mut self, peers: Vec<Peer>) -> Result<(), Self::Error>;

    /// Replaces the studies that are judged as if a lease stood: name, and until when on the boot
    /// clock, ns. Studies the policy does not have are passed over. `uses` is what let them: each
    /// manifest used in this boot and its end, recorded before anything opens.
    fn set_break_glass(
        &mut self,
        ends: BTreeMap<String, u64>,
        uses: &BTreeMap<Sha256Digest, u64>,
    ) -> Result<(), Self::Error>;

    /// Why nobody may be told that this host is fenced, although it is: a workload of a study's
    /// that the fence cannot know as such. Looks at the host each time.
    fn unfit(&self) -> Option<String> {
        None
    }

    /// As read back from the kernel.
    fn state(&mut self) -> FenceState;

    /// SHA-256 of the world image in the kernel, if there is one.
    fn world_digest(&self) -> Option<Sha256Digest>;

    /// Events since the last call, and how many were lost since then.
    fn drain_events(&mut self) -> (Vec<FenceEvent>, u64);
}
