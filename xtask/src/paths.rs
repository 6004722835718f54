//! Where things lie. Everything a chore makes is below `target/`.

use std::path::{Path, PathBuf};

/// The repository.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The one build folder. `CARGO_TARGET_DIR` is honoured, as cargo does.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Root of the tools built here; the programs are in its `bin`.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

/// The kernel side, where `.cargo/config.toml` tells the agent to look for it.
pub(crate) fn bpf_object() -> PathBuf {
    root().join("target/bpf/bailiwick")
}

/// A program of the workspace, as cargo leaves it.
pub(crate) fn binary(release: bool, name: &str) -> PathBuf {
    target()
        .join(if release { "release" } else { "debug" })
        .join(name)
}
