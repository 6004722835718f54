//! Stopping a study by its cgroups: frozen, so that nothing runs while it dies, then killed.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// Cgroups that were killed, and stay frozen until nothing is left in them.
#[derive(Debug, Default)]
pub(super) struct Stopped {
    frozen: BTreeSet<PathBuf>,
}

impl Stopped {
    /// Freezes and kills all below a cgroup's folder.
    pub(super) fn stop(&mut self, cgroup: &Path) -> io::Result<()> {
        // Without a freezer they are killed all the same.
        if fs::write(cgroup.join("cgroup.freeze"), "1").is_ok() {
            self.frozen.insert(cgroup.to_owned());
        }
        fs::write(cgroup.join("cgroup.kill"), "1")
    }

    /// Thaws what is empty, so that the study can be started again, without the device.
    pub(super) fn thaw(&mut self) {
        self.frozen.retain(|cgroup| match populated(cgroup) {
            Ok(true) => true,
            Ok(false) => fs::write(cgroup.join("cgroup.freeze"), "0").is_err(),
            // Gone.
            Err(_) => false,
        });
    }
}

fn populated(cgroup: &Path) -> io::Result<bool> {
    let events = fs::read_to_string(cgroup.join("cgroup.events"))?;
    Ok(events.lines().any(|line| line == "populated 1"))
}
