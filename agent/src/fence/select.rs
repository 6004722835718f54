//! From selectors to the cgroups there are.
//!
//! A selector counts only along folders that belong to root: whoever owns a folder could make or
//! rename cgroups in it, and choose a study for them.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use bailiwick_policy::model::Selector;

/// Most cgroups one selector may mean, so that a pattern over a folder that fills up costs a
/// bounded amount.
const MATCHES_LIMIT: usize = 4096;

/// Who knows which cgroups a selector means. The tree itself does; what a cluster calls its pods
/// would be asked of the cluster.
pub(super) trait Finder: std::fmt::Debug + Send {
    /// Ids of the cgroups meant at this moment, ascending; notes every folder in which one could
    /// appear or go.
    fn find(&self, selector: &Selector, folders: &mut BTreeSet<PathBuf>) -> Vec<u64>;
}

/// The cgroup tree, component by component.
#[derive(Debug)]
pub(super) struct Tree {
    mount: PathBuf,
}

impl Tree {
    pub(super) fn new(mount: &Path) -> Self {
        Self {
            mount: mount.to_owned(),
        }
    }
}

impl Finder for Tree {
    fn find(&self, selector: &Selector, folders: &mut BTreeSet<PathBuf>) -> Vec<u64> {
        let places = walk(&self.mount, selector, folders);
        let mut ids: Vec<u64> = places.into_iter().map(|(_, id)| id).collect();
        ids.sort_unstable();
        ids
    }
}

/// The folders a selector means below any mount, at this moment.
pub(super) fn folders(mount: &Path, selector: &Selector) -> Vec<PathBuf> {
    let places = walk(mount, selector, &mut BTreeSet::new());
    places.into_iter().map(|(folder, _)| folder).collect()
}

fn walk(mount: &Path, selector: &Selector, folders: &mut BTreeSet<PathBuf>) -> Vec<(PathBuf, u64)> {
    let mut places: Vec<(PathBuf, u64)> = vec![(mount.to_owned(), 0)];
    for component in selector.components() {
        let Ok(pattern) = Selector::parse(&format!("/x{component}")) else {
            return Vec::new();
        };
        let deeper = places.into_iter().flat_map(|(folder, _)| {
            folders.insert(folder.clone());
            let names = if component.contains('*') {
                matching(&folder, &pattern)
            } else {
                vec![component.to_owned()]
            };
            let below = names.into_iter().map(move |name| folder.join(name));
            below.filter_map(cgroup)
        });
        places = deeper.take(MATCHES_LIMIT).collect();
    }
    places
}

/// Names in a folder that fit `pattern` behind `/x`.
fn matching(folder: &Path, pattern: &Selector) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names
        .filter(|name| pattern.matches(&format!("/x{name}")))
        .collect()
}

/// A folder that root owns, and the cgroup's id, which is its inode.
fn cgroup(folder: PathBuf) -> Option<(PathBuf, u64)> {
    let metadata = fs::symlink_metadata(&folder).ok()?;
    (metadata.is_dir() && metadata.uid() == 0).then(|| (folder, metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_mean_folders_of_root_component_by_component() {
        let dir = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let folder = dir.path().join(path);
            fs::create_dir_all(&folder).unwrap();
            fs::metadata(&folder).unwrap().ino()
        };
        let a = make("studies/cardio-a");
        let b = make("studies/cardio-b");
        let deep = make("studies/cardio-a/task");
        make("studies/neuro");
        let other = make("more/cardio-a");
        make("user/cardio-a");
        fs::write(dir.path().join("studies/cardio-file"), "").unwrap();
        std::os::unix::fs::symlink(
            dir.path().join("studies/neuro"),
            dir.path().join("studies/cardio-link"),
        )
        .unwrap();
        std::os::unix::fs::chown(dir.path().join("user"), Some(1000), None).unwrap();
        let mut both = vec![a, b];
        both.sort_unstable();
        let mut apart = vec![a, other];
        apart.sort_unstable();
        let cases: &[(&str, &[u64])] = &[
            ("/studies/cardio-a", &[a]),
            ("/studies/cardio-*", &both),
            ("/studies/*-a", &[a]),
            ("/*/cardio-a", &apart),
            ("/studies/cardio-a/*", &[deep]),
            ("/studies/cardio-a/task", &[deep]),
            ("/studies/cardio", &[]),
            ("/studies/cardio-file", &[]),
            ("/studies/cardio-link", &[]),
            ("/user/cardio-a", &[]),
        ];
        for (selector, want) in cases {
            let selector = Selector::parse(selector).unwrap();
            let mut folders = BTreeSet::new();
            let met = Tree::new(dir.path()).find(&selector, &mut folders);
            assert_eq!(met, *want, "{selector}");
            assert!(folders.contains(dir.path()), "{selector}");
        }
    }
}
