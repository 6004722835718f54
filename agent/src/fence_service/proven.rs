//! What the lease in force says of GPUs, kept for the next process of this boot: an upgrade of the
//! fence takes nothing from a study that runs.
//!
//! Nothing rests on it that does not rest on the kernel's map of the lease: without a lease there,
//! no study opens a confidential GPU, whatever stands here.

use std::{fs, path::PathBuf};

use tracing::warn;

use super::Settings;
use crate::files::read_bounded;

fn file(settings: &Settings) -> PathBuf {
    settings.state_dir.join("fence").join("gpus-proven")
}

/// Remembers it, or forgets it.
pub(super) fn keep(settings: &Settings, proven: bool) {
    if proven == kept(settings) {
        return;
    }
    let file = file(settings);
    let outcome = match proven {
        true => fs::write(&file, hex::encode(settings.boot_id)),
        false => fs::remove_file(&file),
    };
    if let Err(error) = outcome {
        warn!(file = %file.display(), %error, "not remembered for the next process");
    }
}

/// Whether the lease in force said so when it was taken, in this boot.
pub(super) fn kept(settings: &Settings) -> bool {
    let boot = hex::encode(settings.boot_id);
    read_bounded(&file(settings), 64).is_ok_and(|found| found == boot.as_bytes())
}
