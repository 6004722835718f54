//! The collector's keys of a policy, without the rest of it: what somebody who looks back needs to
//! know of a later one.

use bailiwick_attestation::{DeploymentId, Sha256Digest};

use super::check::{meant, missing};
use super::{Bundle, PolicyRefused};
use crate::approvers::{Chain, Validity};
use crate::kind::Kind;
use crate::manifest::Manifest;
use crate::model::CollectorKeys;

const FILE: &str = "collector.toml";

impl Bundle {
    /// What a policy that was accepted before says of the collector's keys. Its other files may be
    /// left out; each set of the chain may have been the one in force when it was signed.
    pub fn collector_keys(
        &self,
        chain: &Chain,
        deployment: &DeploymentId,
    ) -> Result<(Manifest, CollectorKeys), PolicyRefused> {
        self.bounded()?;
        let mut refused = None;
        let approved = chain.sets().any(|approvers| {
            match self.approved(Kind::Policy, approvers, deployment, Validity::Settled) {
                Ok(_) => true,
                Err(why) => {
                    // The newest set's word is the one that helps.
                    refused.get_or_insert(why);
                    false
                }
            }
        });
        if let (false, Some(why)) = (approved, refused) {
            return Err(why);
        }
        let manifest = Manifest::parse(&self.manifest).map_err(PolicyRefused::Malformed)?;
        meant(&manifest, Kind::Policy, deployment)?;
        let want = manifest
            .files
            .get(FILE)
            .ok_or_else(|| PolicyRefused::Malformed(missing(FILE, Kind::Policy)))?;
        let content = self.files.iter().find(|(path, _)| path == FILE);
        let (_, content) = content.ok_or_else(|| PolicyRefused::FileMissing(FILE.to_owned()))?;
        let found = Sha256Digest::of(&[content]);
        if found != *want {
            return Err(PolicyRefused::FileDigest {
                path: FILE.to_owned(),
                found,
                want: *want,
            });
        }
        let keys = CollectorKeys::parse(content).map_err(PolicyRefused::Malformed)?;
        Ok((manifest, keys))
    }
}
