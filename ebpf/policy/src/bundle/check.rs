//! Who signed what, for what, and whether it moves forward.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use bailiwick_attestation::profile::WorldProfile;
use bailiwick_attestation::{DeploymentId, FileError, Sha256Digest, UnixTime};

use super::{
    BUNDLE_LIMIT, Bundle, Compiled, IgnoredSignature, InForce, Judged, NotCounted, PolicyRefused,
    SIGNATURES_LIMIT, Signer, Terms, VerifiedBundle, WorldKind, WorldSource,
};
use crate::approvers::{Approvers, ApproversError, NotAnApprover, Validity};
use crate::kind::{Kind, Role};
use crate::manifest::{self, Manifest};
use crate::model::{Files, Model};
use crate::ssh::{SignatureFault, SshSignature};

/// Content by path, as it was signed.
pub(super) type ByPath<'a> = BTreeMap<&'a str, &'a Arc<Vec<u8>>>;

/// A manifest that may take effect; its files are yet to be read.
pub(super) struct Accepted {
    pub(super) manifest: Manifest,
    pub(super) signers: Vec<Signer>,
    pub(super) ignored: Vec<IgnoredSignature>,
    pub(super) expired: bool,
}

impl Bundle {
    /// Whether this policy, which carries its own world map, may take effect now, where `current`
    /// is in force (`None`: nothing is known to be). The policy in force itself is accepted again,
    /// expired or not.
    pub fn verify(
        &self,
        approvers: &Approvers,
        deployment: &DeploymentId,
        now: UnixTime,
        current: Option<InForce>,
    ) -> Result<VerifiedBundle, PolicyRefused> {
        self.verify_policy(&Terms {
            approvers,
            deployment,
            now,
            judged: Judged::New(current),
            world: None,
        })
    }

    /// Reads a policy that was accepted before: at a restart, or for an appraisal of the past.
    /// Signatures and files are checked as ever; its own end and that of its signers' keys have
    /// been judged when it came, and only `expired` tells of them.
    pub fn verify_in_force(
        &self,
        approvers: &Approvers,
        deployment: &DeploymentId,
        now: UnixTime,
    ) -> Result<VerifiedBundle, PolicyRefused> {
        self.verify_policy(&Terms {
            approvers,
            deployment,
            now,
            judged: Judged::Before(None),
            world: None,
        })
    }

    /// [`Bundle::open`] for kind `policy`.
    pub fn verify_policy(&self, terms: &Terms<'_>) -> Result<VerifiedBundle, PolicyRefused> {
        let (accepted, files) = self.accept(Kind::Policy, terms)?;
        let Accepted {
            manifest,
            signers,
            ignored,
            expired,
        } = accepted;
        let own = world_of(&files).map_err(PolicyRefused::Malformed)?;
        let world = own
            .or_else(|| terms.world.cloned())
            .ok_or(PolicyRefused::NoWorld)?;
        let mut model = read(&files).map_err(PolicyRefused::Malformed)?;
        wanted(&model.profile.world, &world)?;
        let compiled = Compiled::of(&mut model, &world, manifest.version, &manifest.digest)
            .map_err(PolicyRefused::Malformed)?;
        Ok(VerifiedBundle {
            compiled: Arc::new(compiled),
            expired,
            manifest,
            model,
            world,
            signers,
            ignored,
        })
    }

    /// Signatures first: not a byte is parsed that nobody signed.
    pub(super) fn accept(
        &self,
        kind: Kind,
        terms: &Terms<'_>,
    ) -> Result<(Accepted, ByPath<'_>), PolicyRefused> {
        self.bounded()?;
        let again = matches!(terms.judged, Judged::New(Some(current))
            if current.manifest_digest == self.manifest_digest());
        let validity = match terms.judged {
            Judged::New(_) | Judged::Followed(_) if !again => Validity::At(terms.now),
            Judged::New(_) | Judged::Followed(_) | Judged::Before(_) => Validity::Settled,
        };
        let (signers, ignored) =
            self.approved(kind, terms.approvers, terms.deployment, validity)?;
        let manifest = Manifest::parse(&self.manifest).map_err(PolicyRefused::Malformed)?;
        meant(&manifest, kind, terms.deployment)?;
        let expired = terms.now > manifest.not_after;
        match terms.judged {
            Judged::New(current) if !again => {
                if let Some(current) = current {
                    moves_forward(&manifest, &current)?;
                }
                if expired {
                    return Err(PolicyRefused::Expired {
                        not_after: manifest.not_after.secs(),
                        now: terms.now.secs(),
                    });
                }
            }
            Judged::Followed(current) | Judged::Before(Some(current)) => {
                moves_forward(&manifest, &current)?;
            }
            Judged::New(_) | Judged::Before(None) => {}
        }
        let files = self.listed(&manifest)?;
        let accepted = Accepted {
            manifest,
            signers,
            ignored,
            expired,
        };
        Ok((accepted, files))
    }

    pub(super) fn bounded(&self) -> Result<(), PolicyRefused> {
        let bytes = self
            .files
            .iter()
            .map(|(path, content)| path.len().saturating_add(content.len()));
        let counts = [
            (
                "bytes of manifest",
                self.manifest.len(),
                manifest::MANIFEST_LIMIT,
            ),
            ("signatures", self.signatures.len(), SIGNATURES_LIMIT),
            ("files", self.files.len(), manifest::FILES_LIMIT),
            ("bytes", bytes.fold(0, usize::saturating_add), BUNDLE_LIMIT),
        ];
        for (what, found, limit) in counts {
            if found > limit {
                return Err(PolicyRefused::TooLarge { what, found, limit });
            }
        }
        Ok(())
    }

    pub(super) fn approved(
        &self,
        kind: Kind,
        approvers: &Approvers,
        deployment: &DeploymentId,
        validity: Validity,
    ) -> Result<(Vec<Signer>, Vec<IgnoredSignature>), PolicyRefused> {
        let namespace = kind.namespace(deployment);
        if self.signatures.is_empty() {
            return Err(PolicyRefused::Unsigned { namespace });
        }
        let (signers, ignored) = self.counted(&namespace, approvers, validity);
        let threshold = approvers.threshold_of(kind);
        if usize::try_from(threshold).map_or(true, |threshold| signers.len() < threshold) {
            let counted = signers.len();
            return Err(under_signed(kind, counted, threshold, ignored, deployment));
        }
        Ok((signers, ignored))
    }

    /// The same signatures under the set they bring in.
    pub(super) fn approved_by_new(
        &self,
        new: &Approvers,
        terms: &Terms<'_>,
    ) -> Result<(), PolicyRefused> {
        let validity = match terms.judged {
            Judged::Before(_) => Validity::Settled,
            Judged::New(_) | Judged::Followed(_) => Validity::At(terms.now),
        };
        let namespace = Kind::Approvers.namespace(terms.deployment);
        let (signers, ignored) = self.counted(&namespace, new, validity);
        let threshold = new.threshold_of(Kind::Approvers);
        if usize::try_from(threshold).map_or(true, |threshold| signers.len() < threshold) {
            return Err(PolicyRefused::NewUnderSigned {
                counted: signers.len(),
                threshold,
                ignored,
            });
        }
        Ok(())
    }

    /// One signer per person, and what does not count.
    fn counted(
        &self,
        namespace: &str,
        approvers: &Approvers,
        validity: Validity,
    ) -> (Vec<Signer>, Vec<IgnoredSignature>) {
        let mut persons = BTreeMap::new();
        let mut ignored = Vec::new();
        for (index, armored) in self.signatures.iter().enumerate() {
            let number = index.saturating_add(1);
            let approval = SshSignature::parse(armored)
                .map_err(NotAnApprover::from)
                .and_then(|sig| approvers.approve(&sig, namespace, &self.manifest, validity));
            let why = match approval {
                Ok(approval) => {
                    let signer = Signer {
                        principals: approval.principals.clone(),
                        fingerprint: approval.fingerprint,
                    };
                    if let Entry::Vacant(slot) = persons.entry(approval.person) {
                        slot.insert(signer);
                        continue;
                    }
                    NotCounted::SamePerson(approval.principals)
                }
                Err(why) => why.into(),
            };
            ignored.push(IgnoredSignature { number, why });
        }
        (persons.into_values().collect(), ignored)
    }

    /// The files by path: all that are listed, none that is not, each as it was signed.
    fn listed(&self, manifest: &Manifest) -> Result<ByPath<'_>, PolicyRefused> {
        let mut files = BTreeMap::new();
        for (path, content) in &self.files {
            let known = manifest.files.contains_key(path);
            if !known || files.insert(path.as_str(), content).is_some() {
                return Err(PolicyRefused::FileUnlisted(
                    path.chars().take(200).collect(),
                ));
            }
        }
        for (path, want) in &manifest.files {
            let Some(content) = files.get(path.as_str()) else {
                return Err(PolicyRefused::FileMissing(path.clone()));
            };
            let found = Sha256Digest::of(&[content]);
            if found != *want {
                let (path, want) = (path.clone(), *want);
                return Err(PolicyRefused::FileDigest { path, found, want });
            }
        }
        Ok(files)
    }
}

/// Whether a manifest is for this deployment, of this kind, and for the scope there is.
pub(super) fn meant(
    manifest: &Manifest,
    kind: Kind,
    deployment: &DeploymentId,
) -> Result<(), PolicyRefused> {
    if manifest.deployment != *deployment {
        return Err(PolicyRefused::WrongDeployment {
            found: manifest.deployment.to_string(),
            want: deployment.clone(),
        });
    }
    for (what, found, want) in [
        ("kind", manifest.kind.as_str(), kind.as_str()),
        ("scope", manifest.scope.as_str(), manifest::SCOPE),
    ] {
        if found != want {
            return Err(PolicyRefused::WrongKind {
                what,
                found: found.chars().take(80).collect(),
                want: want.to_owned(),
            });
        }
    }
    Ok(())
}

/// Where nothing counted because all was signed for something else, that is what to say.
fn under_signed(
    kind: Kind,
    counted: usize,
    threshold: u32,
    ignored: Vec<IgnoredSignature>,
    deployment: &DeploymentId,
) -> PolicyRefused {
    let elsewhere = ignored.iter().map(|entry| match &entry.why {
        NotCounted::Refused(NotAnApprover::Signature(SignatureFault::Namespace {
            found, ..
        })) => Some(found),
        _ => None,
    });
    if counted == 0
        && let Some(Some(found)) = elsewhere.reduce(|a, b| if a == b { a } else { None })
    {
        let parts: Vec<&str> = found.split('/').collect();
        return match parts.as_slice() {
            ["bailiwick", other, of] if *of == kind.as_str() => PolicyRefused::WrongDeployment {
                found: (*other).to_owned(),
                want: deployment.clone(),
            },
            _ => PolicyRefused::WrongKind {
                what: "namespace",
                found: found.clone(),
                want: kind.namespace(deployment),
            },
        };
    }
    PolicyRefused::UnderSigned {
        counted,
        threshold,
        ignored,
    }
}

/// Whether a manifest with another digest than the newest of its kind may replace it.
fn moves_forward(manifest: &Manifest, current: &InForce) -> Result<(), PolicyRefused> {
    if manifest.version < current.version {
        return Err(PolicyRefused::RolledBack {
            found: manifest.version,
            current: current.version,
        });
    }
    if manifest.version == current.version {
        return Err(PolicyRefused::VersionTaken {
            version: manifest.version,
            current: current.manifest_digest,
        });
    }
    // Whoever missed versions cannot know what lay between; the next one it can.
    let next = manifest.version == current.version.saturating_add(1);
    if next && manifest.previous != Some(current.manifest_digest) {
        return Err(PolicyRefused::WrongPrevious {
            found: manifest.previous,
            current: current.manifest_digest,
        });
    }
    Ok(())
}

/// Approvers are handed on from set to set: who missed one cannot know whom the next one is by.
pub(super) fn no_gap(manifest: &Manifest, judged: Judged) -> Result<(), PolicyRefused> {
    let (Judged::New(Some(current)) | Judged::Followed(current) | Judged::Before(Some(current))) =
        judged
    else {
        return Ok(());
    };
    if manifest.version > current.version.saturating_add(1) {
        return Err(PolicyRefused::Gap {
            found: manifest.version,
            current: current.version,
        });
    }
    Ok(())
}

/// A threshold that nobody could meet would be the last word ever said.
pub(super) fn reachable(new: &Approvers, terms: &Terms<'_>) -> Result<(), PolicyRefused> {
    let validity = match terms.judged {
        Judged::Before(_) => Validity::Settled,
        Judged::New(_) | Judged::Followed(_) => Validity::At(terms.now),
    };
    let kinds = Kind::ALL.map(|kind| (kind.namespace(terms.deployment), new.threshold_of(kind)));
    let roles = Role::ALL.map(|role| {
        let namespace = role.namespace(terms.deployment);
        (namespace, new.threshold_of_role(role))
    });
    for (namespace, threshold) in kinds.into_iter().chain(roles) {
        let persons = new.reachable(&namespace, validity);
        if usize::try_from(threshold).map_or(true, |threshold| persons < threshold) {
            return Err(PolicyRefused::Approvers(ApproversError::Unreachable {
                file: format!("allowed_signers, for {namespace},"),
                threshold,
                persons,
            }));
        }
    }
    Ok(())
}

/// Whether this is the map that a policy names, where it names one.
pub(super) fn wanted(profile: &WorldProfile, world: &WorldSource) -> Result<(), PolicyRefused> {
    match (profile.digest, Sha256Digest::of(&[&world.bytes])) {
        (Some(want), found) if want != found => Err(PolicyRefused::OtherWorld { found, want }),
        _ => Ok(()),
    }
}

pub(super) fn missing(path: &str, kind: Kind) -> FileError {
    FileError {
        file: manifest::MANIFEST.to_owned(),
        line: 1,
        key: "file".to_owned(),
        fault: format!("{path} is not listed, and every manifest of kind {kind} has one"),
    }
}

/// Content of a file that its kind cannot do without.
pub(super) fn needed<'a>(
    files: &ByPath<'a>,
    kind: Kind,
    path: &str,
) -> Result<&'a [u8], PolicyRefused> {
    let found = files.get(path).map(|bytes| bytes.as_slice());
    found.ok_or_else(|| PolicyRefused::Malformed(missing(path, kind)))
}

/// The world map among the files, if there is one.
pub(super) fn world_of(files: &ByPath<'_>) -> Result<Option<WorldSource>, FileError> {
    let (kind, bytes) = match (files.get("world.csv"), files.get("world.txt")) {
        (None, None) => return Ok(None),
        (Some(bytes), None) => (WorldKind::Csv, bytes),
        (None, Some(bytes)) => (WorldKind::GeoipDb, bytes),
        (Some(_), Some(_)) => {
            let mut both = missing("", Kind::World);
            both.fault = "world.csv and world.txt are both listed; one is needed".to_owned();
            return Err(both);
        }
    };
    Ok(Some(WorldSource {
        kind,
        bytes: Arc::clone(bytes),
    }))
}

/// What a policy says, the world map excepted.
pub(super) fn read(files: &ByPath<'_>) -> Result<Model, FileError> {
    let need = |path: &str| {
        let found = files.get(path).map(|bytes| bytes.as_slice());
        found.ok_or_else(|| missing(path, Kind::Policy))
    };
    let studies: Vec<(&str, &[u8])> = files
        .iter()
        .filter(|(path, _)| path.starts_with("studies/"))
        .map(|(path, bytes)| (*path, bytes.as_slice()))
        .collect();
    Model::parse(&Files {
        studies: &studies,
        host_fence: need("host-fence.toml")?,
        sites: need("sites.toml")?,
        inventory: need("inventory.toml")?,
        collector: need("collector.toml")?,
        profile: need("profile.toml")?,
        guest_profile: files
            .get("guest-profile.toml")
            .map(|bytes| bytes.as_slice()),
    })
}
