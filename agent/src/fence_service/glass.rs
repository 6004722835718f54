//! Break-glass: what approvers signed beforehand, used once, over at the end of this boot at the
//! latest.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use bailiwick_attestation::{NodeId, Sha256Digest, StudyId, UnixTime, proto::v1::PolicyBundle};
use bailiwick_policy::{
    bundle::{Bundle, InForce, Judged, Terms},
    content::BreakGlass,
};

use tracing::{error, info, warn};

use super::{Core, CoreError, Enforcer};
use crate::{
    clock,
    files::{read_bounded, write_atomically},
    proto::fence::{BreakGlassUsed, UseBreakGlass, response::Response as Answer},
};

/// Longest file: some hundred bytes for each use, over the life of a machine.
const MAX_FILE: usize = 4 << 20;

/// Why a manifest is not used here, though enough approvers signed it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum GlassRefused {
    /// Once per node.
    #[error("manifest {0} was used on this node before")]
    Used(Sha256Digest),
    /// Meant for others.
    #[error("{0} is not one of the nodes it is for")]
    OtherNode(NodeId),
    /// Too late.
    #[error("it had to be used before {} ms UTC", .0.millis())]
    Late(UnixTime),
    /// None of its studies is in the policy.
    #[error("the policy in force has none of the studies it names")]
    NoStudy,
}

impl GlassRefused {
    /// Stable word for logs and scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Used(_) => "break-glass-used",
            Self::OtherNode(_) => "break-glass-other-node",
            Self::Late(_) => "break-glass-too-late",
            Self::NoStudy => "break-glass-no-study",
        }
    }
}

/// One use of one manifest on this node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Use {
    /// SHA-256 of the manifest.
    pub manifest: Sha256Digest,
    /// Its number in the line of its kind.
    pub version: u64,
    /// Which boot it was used in: it is over with it.
    pub boot: [u8; 16],
    /// On that boot's clock, ns.
    pub end_boot_ns: u64,
    /// For whom.
    pub studies: BTreeSet<StudyId>,
}

/// Whether what approvers signed (digest and version of its manifest) may be used here and now,
/// and what that means. `uses` is what was used before, `here` this node, `known` the studies of
/// the policy in force, `boot` and `now_boot_ns` the present.
pub fn judge(
    (manifest, version): (Sha256Digest, u64),
    content: &BreakGlass,
    uses: &[Use],
    (here, known): (&NodeId, &BTreeSet<StudyId>),
    now: UnixTime,
    (boot, now_boot_ns): ([u8; 16], u64),
) -> Result<Use, GlassRefused> {
    if uses.iter().any(|used| used.manifest == manifest) {
        return Err(GlassRefused::Used(manifest));
    }
    if !content.nodes.contains(here) {
        return Err(GlassRefused::OtherNode(here.clone()));
    }
    if now > content.use_before {
        return Err(GlassRefused::Late(content.use_before));
    }
    let studies: BTreeSet<StudyId> = content.studies.intersection(known).cloned().collect();
    if studies.is_empty() {
        return Err(GlassRefused::NoStudy);
    }
    let length = u64::from(content.duration_seconds).saturating_mul(1_000_000_000);
    Ok(Use {
        manifest,
        version,
        boot,
        end_boot_ns: now_boot_ns.saturating_add(length),
        studies,
    })
}

/// Studies that are judged as if a lease stood, and until when: uses of this boot alone.
#[must_use]
pub fn ends(uses: &[Use], boot: [u8; 16]) -> BTreeMap<String, u64> {
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    for used in uses.iter().filter(|used| used.boot == boot) {
        for study in &used.studies {
            let end = ends.entry(study.to_string()).or_insert(0);
            *end = used.end_boot_ns.max(*end);
        }
    }
    ends
}

/// The uses of this boot, by manifest, and when each is over: what the fence's log has to say.
#[must_use]
pub fn recorded(uses: &[Use], boot: [u8; 16]) -> BTreeMap<Sha256Digest, u64> {
    let here = uses.iter().filter(|used| used.boot == boot);
    here.map(|used| (used.manifest, used.end_boot_ns)).collect()
}

/// The use in force that ends last.
#[must_use]
pub fn in_force(uses: &[Use], boot: [u8; 16], now_boot_ns: u64) -> Option<&Use> {
    uses.iter()
        .filter(|used| used.boot == boot && now_boot_ns < used.end_boot_ns)
        .max_by_key(|used| used.end_boot_ns)
}

/// What the next manifest of the kind is compared with.
#[must_use]
pub fn newest(uses: &[Use]) -> Option<InForce> {
    let newest = uses.iter().max_by_key(|used| used.version)?;
    Some(InForce {
        version: newest.version,
        manifest_digest: newest.manifest,
    })
}

/// The uses, on disk.
#[derive(Debug)]
pub(super) struct Glass {
    file: PathBuf,
    pub(super) uses: Vec<Use>,
}

impl Glass {
    /// As kept. A file that cannot be read is an error: without it a manifest could be used twice.
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        let file = state_dir.join("fence/break-glass");
        let text = match read_bounded(&file, MAX_FILE) {
            Ok(bytes) => String::from_utf8(bytes).unwrap_or_else(|_bytes| "?".to_owned()),
            Err(err) if err.kind() == io::ErrorKind::NotFound => String::new(),
            Err(err) => return Err(err),
        };
        let uses: Option<Vec<Use>> = text.lines().map(parse).collect();
        let uses = uses.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { file, uses })
    }

    /// Remembers a use; durable when this returns.
    pub(super) fn remember(&mut self, used: Use) -> io::Result<()> {
        let lines = self.uses.iter().chain([&used]).map(line);
        let text: String = lines.collect();
        write_atomically(&self.file, text.as_bytes())?;
        self.uses.push(used);
        Ok(())
    }

    /// It did not take effect: it was no use, and may be tried again.
    fn forget(&mut self, manifest: &Sha256Digest) -> io::Result<()> {
        let kept = self.uses.iter().filter(|used| used.manifest != *manifest);
        let text: String = kept.map(line).collect();
        write_atomically(&self.file, text.as_bytes())?;
        self.uses.retain(|used| used.manifest != *manifest);
        Ok(())
    }
}

fn line(used: &Use) -> String {
    let studies: Vec<&str> = used.studies.iter().map(StudyId::as_str).collect();
    let boot = hex::encode(used.boot);
    format!(
        "{} {} {boot} {} {}\n",
        used.manifest,
        used.version,
        used.end_boot_ns,
        studies.join(",")
    )
}

fn parse(line: &str) -> Option<Use> {
    let words: Vec<&str> = line.split(' ').collect();
    let [manifest, version, boot, end, studies] = words.as_slice() else {
        return None;
    };
    Some(Use {
        manifest: Sha256Digest::try_from((*manifest).to_owned()).ok()?,
        version: version.parse().ok()?,
        boot: hex::decode(boot).ok()?.try_into().ok()?,
        end_boot_ns: end.parse().ok()?,
        studies: studies
            .split(',')
            .map(|name| StudyId::new(name).ok())
            .collect::<Option<_>>()?,
    })
}

impl<E: Enforcer> Core<E> {
    /// This node's name: the inventory's, where `run` has told which TPM this is.
    pub(super) fn here(&self) -> NodeId {
        let policy = self.policy.as_ref();
        let listed = policy
            .zip(self.ek)
            .and_then(|(policy, ek)| policy.model.inventory.by_ek(&ek));
        listed.map_or_else(|| self.settings.node.clone(), |node| node.name.clone())
    }

    /// On disk and in the fence's log first, then in force: what could not be remembered or
    /// recorded is not used.
    pub(super) fn break_glass(&mut self, apply: UseBreakGlass) -> Result<Answer, CoreError> {
        let here = self.here();
        if let Some(why) = self.floor.approvers_fault(self.manifests.approvers()) {
            return Err(CoreError::RolledBack(why));
        }
        let policy = self.policy.as_ref().ok_or(CoreError::NoPolicy)?;
        let file = self.kept("break-glass");
        let Some(glass) = &mut self.glass else {
            let source = io::ErrorKind::InvalidData.into();
            return Err(CoreError::Keep { file, source });
        };
        let now = clock::now();
        let signed = Bundle::from(apply.bundle.unwrap_or_default())
            .verify_break_glass(&Terms {
                approvers: self.manifests.current(),
                deployment: &self.settings.deployment,
                now,
                judged: Judged::New(newest(&glass.uses)),
                world: None,
            })
            .map_err(|refused| CoreError::Policy(Box::new(refused)))?;
        let known: BTreeSet<StudyId> = policy
            .model
            .studies
            .iter()
            .map(|study| study.name.clone())
            .collect();
        let boot = self.settings.boot_id;
        let present = (boot, clock::boot_time_ns());
        let manifest = (signed.manifest.digest, signed.manifest.version);
        let used = judge(
            manifest,
            &signed.content,
            &glass.uses,
            (&here, &known),
            now,
            present,
        )
        .map_err(CoreError::Glass)?;
        glass
            .remember(used.clone())
            .map_err(|source| CoreError::Keep { file, source })?;
        let (ends, uses) = (ends(&glass.uses, boot), recorded(&glass.uses, boot));
        if let Err(err) = self.enforcer.set_break_glass(ends, &uses) {
            if let Err(why) = glass.forget(&used.manifest) {
                error!(%why, manifest = %used.manifest, "it counts as used, and took no effect");
            }
            return Err(match E::held_back(&err) {
                true => CoreError::Unmeasured(Box::new(err)),
                false => CoreError::Enforce(Box::new(err)),
            });
        }
        let reason = &signed.content.reason;
        let studies: Vec<String> = used.studies.iter().map(ToString::to_string).collect();
        warn!(manifest = %used.manifest, ?studies, seconds = signed.content.duration_seconds,
            reason, "glass broken: these studies are judged as if a lease stood");
        let seconds = u64::from(signed.content.duration_seconds);
        Ok(Answer::BreakGlassUsed(BreakGlassUsed {
            manifest_digest: used.manifest.0.to_vec(),
            studies,
            end_boot_ns: used.end_boot_ns,
            until_ms: now.millis().saturating_add(seconds.saturating_mul(1000)),
        }))
    }

    /// The collector brought it to every node: one it is not for keeps it and does nothing, and so
    /// does one that has used it.
    pub(super) fn offered_glass(&mut self, bundle: PolicyBundle) -> Result<(), CoreError> {
        let ask = UseBreakGlass {
            bundle: Some(bundle),
        };
        match self.break_glass(ask) {
            Err(CoreError::Glass(why @ (GlassRefused::OtherNode(_) | GlassRefused::Used(_)))) => {
                info!(%why, "break-glass kept, not used");
                Ok(())
            }
            // It is looked at again with the first policy.
            Err(CoreError::NoPolicy) => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// A restart of this process ends nothing; a reboot does.
    pub(super) fn restore_glass(&mut self) {
        let boot = self.settings.boot_id;
        let uses = self.glass.as_ref().map(|glass| glass.uses.as_slice());
        let uses = uses.unwrap_or_default();
        let restored = self
            .enforcer
            .set_break_glass(ends(uses, boot), &recorded(uses, boot));
        if let Err(why) = restored {
            error!(
                why = format!("{:#}", anyhow::Error::from(why)),
                "break-glass is not in force again"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use bailiwick_policy::content::Nodes;

    use super::*;

    const BOOT: [u8; 16] = [1; 16];
    const LATER: [u8; 16] = [2; 16];

    fn study(name: &str) -> StudyId {
        StudyId::new(name).unwrap()
    }

    fn used(manifest: u8, version: u64, boot: [u8; 16], end: u64, studies: &[&str]) -> Use {
        Use {
            manifest: Sha256Digest([manifest; 32]),
            version,
            boot,
            end_boot_ns: end,
            studies: studies.iter().map(|name| study(name)).collect(),
        }
    }

    #[test]
    fn a_manifest_is_used_once_where_and_while_it_says() {
        let content = BreakGlass {
            nodes: Nodes::Named([NodeId::new("gpu-01").unwrap()].into()),
            studies: [study("cardio"), study("neuro")].into(),
            duration_seconds: 60,
            use_before: UnixTime(5_000),
            reason: "the collector burned down".to_owned(),
        };
        let all = BreakGlass {
            nodes: Nodes::All,
            ..content.clone()
        };
        let used_here = [used(1, 1, BOOT, 100, &["cardio"])];
        let used_before = [used(1, 1, LATER, 100, &["cardio"])];
        let both = ["cardio", "neuro", "onco"];
        type Row<'a> = (
            &'a str,
            &'a BreakGlass,
            &'a [Use],
            &'a str,
            &'a [&'a str],
            u64,
            Result<&'a str, &'a str>,
        );
        let rows: &[Row<'_>] = &[
            (
                "in time",
                &content,
                &[],
                "gpu-01",
                &both,
                5_000,
                Ok("cardio,neuro"),
            ),
            (
                "a millisecond late",
                &content,
                &[],
                "gpu-01",
                &both,
                5_001,
                Err("break-glass-too-late"),
            ),
            (
                "another node",
                &content,
                &[],
                "gpu-02",
                &both,
                1,
                Err("break-glass-other-node"),
            ),
            (
                "for every node",
                &all,
                &[],
                "gpu-02",
                &both,
                1,
                Ok("cardio,neuro"),
            ),
            (
                "a study that is not here",
                &content,
                &[],
                "gpu-01",
                &["neuro"],
                1,
                Ok("neuro"),
            ),
            (
                "none of its studies",
                &content,
                &[],
                "gpu-01",
                &["onco"],
                1,
                Err("break-glass-no-study"),
            ),
            (
                "used twice",
                &content,
                &used_here,
                "gpu-01",
                &both,
                1,
                Err("break-glass-used"),
            ),
            (
                "used in another boot",
                &content,
                &used_before,
                "gpu-01",
                &both,
                1,
                Err("break-glass-used"),
            ),
        ];
        for (name, content, uses, here, known, now, want) in rows {
            let known = known.iter().map(|name| study(name)).collect();
            let here = NodeId::new(here).unwrap();
            let manifest = (Sha256Digest([1; 32]), 1);
            let found = judge(
                manifest,
                content,
                uses,
                (&here, &known),
                UnixTime(*now),
                (BOOT, 7),
            );
            match (found, want) {
                (Ok(found), Ok(studies)) => {
                    let names: Vec<&str> = found.studies.iter().map(StudyId::as_str).collect();
                    assert_eq!(names.join(","), *studies, "{name}");
                    assert_eq!(
                        (found.boot, found.end_boot_ns),
                        (BOOT, 60_000_000_007),
                        "{name}"
                    );
                    assert_eq!((found.manifest, found.version), manifest, "{name}");
                }
                (Err(why), Err(code)) => assert_eq!(why.code(), *code, "{name}"),
                (found, want) => panic!("{name}: {found:?}, wanted {want:?}"),
            }
        }
        let other = (Sha256Digest([9; 32]), 2);
        let here = NodeId::new("gpu-01").unwrap();
        let known = [study("cardio")].into();
        let again = judge(
            other,
            &content,
            &used_here,
            (&here, &known),
            UnixTime(1),
            (BOOT, 7),
        );
        assert!(again.is_ok(), "another manifest");
    }

    #[test]
    fn a_use_ends_with_its_time_and_with_its_boot() {
        let uses = [
            used(1, 1, BOOT, 100, &["cardio"]),
            used(2, 2, BOOT, 300, &["cardio", "neuro"]),
            used(3, 3, LATER, 900, &["cardio"]),
        ];
        let of = |boot| -> Vec<(String, u64)> { ends(&uses, boot).into_iter().collect() };
        assert_eq!(
            of(BOOT),
            [("cardio".to_owned(), 300), ("neuro".to_owned(), 300)]
        );
        assert_eq!(of(LATER), [("cardio".to_owned(), 900)]);
        assert!(of([3; 16]).is_empty(), "a reboot ends it");
        let digest = |boot, now| in_force(&uses, boot, now).map(|used| used.manifest.0[0]);
        for (name, boot, now, want) in [
            ("the one that ends last", BOOT, 50, Some(2)),
            ("just before its end", BOOT, 299, Some(2)),
            ("at its end", BOOT, 300, None),
            ("another boot's", LATER, 300, Some(3)),
            ("no boot's", [3; 16], 0, None),
        ] {
            assert_eq!(digest(boot, now), want, "{name}");
        }
        assert_eq!(newest(&uses).map(|newest| newest.version), Some(3));
        assert!(newest(&[]).is_none());
    }

    #[test]
    fn what_was_used_is_remembered_and_a_damaged_memory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut glass = Glass::open(dir.path()).unwrap();
        assert!(glass.uses.is_empty());
        glass.remember(used(1, 1, BOOT, 100, &["cardio"])).unwrap();
        glass
            .remember(used(2, 7, LATER, 200, &["cardio", "neuro"]))
            .unwrap();
        let again = Glass::open(dir.path()).unwrap();
        assert_eq!(again.uses, glass.uses);
        let file = dir.path().join("fence/break-glass");
        let text = std::fs::read_to_string(&file).unwrap();
        for broken in [
            text.replacen(' ', "  ", 1),
            text.replacen("cardio", "", 1),
            "\n".to_owned(),
        ] {
            std::fs::write(&file, &broken).unwrap();
            assert!(Glass::open(dir.path()).is_err(), "{broken:?}");
        }
    }
}
