//! Workloads under cgroup version 1, which no packet leads back to.
//!
//! The kernel says of a socket which cgroup of version 2 it was made in, and nothing else. A
//! runtime that puts a study's processes into version 1 hierarchies alone leaves them nobody's:
//! denied, but not fenced as the policy means. Where both versions are mounted and both trees are
//! kept alike (systemd does), nothing is amiss.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bailiwick_policy::model::Selector;

use super::place::{self, PlaceError};

/// Most cgroups looked at in one hierarchy: below a study there are tasks and steps, not thousands.
const CGROUPS_LIMIT: usize = 4096;

/// A study's process that version 2 does not know as the study's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{study}: process {pid} is in {} of cgroup v1 and in {unified:?} of cgroup v2, which is not the \
     study's: its packets are nobody's; run the workload under cgroup v2",
    folder.display()
)]
pub(super) struct Stray {
    study: String,
    pid: u32,
    folder: PathBuf,
    unified: String,
}

/// The first stray process of any study, where version 1 is mounted at all.
pub(super) fn stray<'a>(
    studies: impl Iterator<Item = (&'a str, &'a Selector)> + Clone,
) -> Result<Option<Stray>, PlaceError> {
    for mount in place::legacy_mounts()? {
        for (study, selector) in studies.clone() {
            let own: Vec<&Selector> = studies
                .clone()
                .filter(|(name, _)| *name == study)
                .map(|(_, selector)| selector)
                .collect();
            let found = super::select::folders(&mount, selector);
            if let Some(stray) = found.iter().find_map(|at| below(at, study, &own)) {
                return Ok(Some(stray));
            }
        }
    }
    Ok(None)
}

/// The first process at or below a folder of version 1 that is outside the study's own selectors.
fn below(folder: &Path, study: &str, own: &[&Selector]) -> Option<Stray> {
    let mut open = vec![folder.to_owned()];
    for _ in 0..CGROUPS_LIMIT {
        let folder = open.pop()?;
        let pids = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|line| line.parse::<u32>().ok()) {
            // Gone since, or a kernel thread: neither sends anything.
            let Ok(unified) = unified(pid) else { continue };
            if !own.iter().any(|selector| selector.holds(&unified)) {
                return Some(Stray {
                    study: study.to_owned(),
                    pid,
                    folder,
                    unified,
                });
            }
        }
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        open.extend(folders.map(|entry| entry.path()));
    }
    None
}

/// The cgroup of version 2 that a process is in.
fn unified(pid: u32) -> io::Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("0::"));
    line.map(str::to_owned)
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}
