//! GPUs that were reset and drivers that were loaded anew, told by what such a thing sets back.
//!
//! Nothing counts resets. But a GPU's count of the energy it used begins anew with the driver and with a
//! reset, and the kernel gives a module's folder another number each time. What happens between two looks
//! and sets nothing back is not seen.

use std::{collections::BTreeMap, os::unix::fs::MetadataExt, path::Path};

/// What was seen last, and how often something began anew since this process did.
#[derive(Clone, Debug, Default)]
pub struct Restarts {
    /// By the driver's name for the GPU: millijoules, and resets.
    gpus: BTreeMap<String, (u64, u64)>,
    module: Option<u64>,
    loads: u64,
}

impl Restarts {
    /// How often this GPU began anew, now that it has used that much.
    pub(super) fn gpu(&mut self, uuid: &str, millijoules: u64) -> u64 {
        let known = self.gpus.entry(uuid.to_owned());
        let (used, resets) = known.or_insert((millijoules, 0));
        if millijoules < *used {
            *resets += 1;
        }
        *used = millijoules;
        *resets
    }

    /// How often the driver was loaded anew; `sys`: the root of sysfs.
    pub(super) fn driver(&mut self, sys: &Path) -> u64 {
        let folder = std::fs::metadata(sys.join("module/nvidia"));
        // While it is not loaded the number before is kept: the next one is another.
        if let Ok(number) = folder.map(|it| it.ino())
            && self.module.replace(number).is_some_and(|it| it != number)
        {
            self.loads += 1;
        }
        self.loads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_has_used_less_than_before_began_anew() {
        let mut restarts = Restarts::default();
        for (name, gpu, used, want) in [
            ("first seen", "a", 1000, 0),
            ("goes on", "a", 1500, 0),
            ("rests", "a", 1500, 0),
            ("another", "b", 10, 0),
            ("began anew", "a", 20, 1),
            ("goes on", "a", 30, 1),
            ("and again", "a", 0, 2),
            ("the other goes on", "b", 11, 0),
        ] {
            assert_eq!(restarts.gpu(gpu, used), want, "{name}");
        }
    }

    #[test]
    fn a_driver_whose_folder_is_another_was_loaded_anew() {
        let sys = tempfile::tempdir().unwrap();
        let folder = sys.path().join("module/nvidia");
        let mut restarts = Restarts::default();
        assert_eq!(restarts.driver(sys.path()), 0, "none");
        std::fs::create_dir_all(&folder).unwrap();
        assert_eq!(restarts.driver(sys.path()), 0, "the first");
        assert_eq!(restarts.driver(sys.path()), 0, "the same");
        // Another is made before the old one goes, or it could get its number.
        let other = sys.path().join("module/other");
        std::fs::create_dir(&other).unwrap();
        std::fs::remove_dir(&folder).unwrap();
        assert_eq!(restarts.driver(sys.path()), 0, "gone");
        std::fs::rename(&other, &folder).unwrap();
        assert_eq!(restarts.driver(sys.path()), 1, "another");
    }
}
