//! A guest of a test's own: memory for its key, and a kernel made of pipes.

use std::path::PathBuf;

use tempfile::TempDir;

use super::Guest;
use crate::{
    collect::tee::double::{Double, Play},
    config::TeeSection,
};

/// A folder that is memory: `/dev/shm` is one wherever there is a Linux to test on.
pub(crate) fn memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

/// A kernel whose processor answers in AMD's form.
pub(crate) fn processor() -> Play {
    Play {
        form: true,
        ..Play::default()
    }
}

/// What a guest has.
#[derive(Debug)]
pub(crate) struct Machine {
    memory: TempDir,
    double: Double,
}

impl Machine {
    pub(crate) fn new(play: Play) -> Self {
        Self {
            memory: memory(),
            double: Double::start(play),
        }
    }

    pub(crate) fn section(&self) -> TeeSection {
        TeeSection {
            reports: self.double.root.clone(),
            device: self.double.root.join("none"),
            key: self.key_file(),
        }
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.memory.path().join("run/guest-key")
    }

    pub(crate) fn guest(&self, boot_id: [u8; 16]) -> Guest {
        Guest::open(&self.section(), &boot_id).unwrap()
    }
}
