//! Builds the kernel side, then the programs.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::cmd::{self, step};
use crate::{install, paths, stack};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Optimised, for measuring and for machines that are not ours
    #[arg(long)]
    release: bool,
}

/// The programs, and what the benches compare them with.
const OBJECTS: [&str; 2] = ["bailiwick", "bailiwick-bench"];

pub(crate) fn run(args: &Args) -> Result<()> {
    install::for_build()?;
    kernel_side()?;
    programs(args.release)
}

/// Compiles `ebpf/programs` and puts the object where the agent takes it in.
pub(crate) fn kernel_side() -> Result<()> {
    step("building the kernel side");
    cmd::run(bpf_cargo("build")?.args(["--quiet", "--release"]))?;
    let built = paths::target().join("ebpf/bpfel-unknown-none/release");
    stack::check(&built.join("bailiwick"))?;
    for name in OBJECTS {
        copy_if_changed(&built.join(name), &paths::bpf_object().with_file_name(name))?;
    }
    Ok(())
}

/// The agent embeds the first: an unchanged file must keep its time, or the agent is built again.
fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let object = fs::read(from).with_context(|| format!("read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == object) {
        return Ok(());
    }
    let dir = to.parent().context("an object has a folder")?;
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    fs::write(to, object).with_context(|| format!("write {}", to.display()))
}

/// cargo for the BPF target: the stable compiler, `core` from source, and the linker built here.
pub(crate) fn bpf_cargo(subcommand: &str) -> Result<std::process::Command> {
    let source = install::core_source()?;
    let mut cargo = cmd::cargo();
    cargo
        .arg(subcommand)
        .args([
            "--target",
            "bpfel-unknown-none",
            "-Z",
            "build-std=core",
            "--target-dir",
        ])
        // A build folder of its own: `RUSTC_BOOTSTRAP` would rebuild what the workspace shares.
        .arg(paths::target().join("ebpf"))
        .current_dir(paths::root().join("ebpf/programs"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", "-Cdebuginfo=2 -Clink-arg=--btf")
        .env("PATH", cmd::path_with_tools()?)
        .env("LD_LIBRARY_PATH", install::compiler_libraries()?);
    if let Some(library) = source {
        cargo.env("__CARGO_TESTS_ONLY_SRC_ROOT", library);
    }
    Ok(cargo)
}

/// Compiles every program of the workspace.
pub(crate) fn programs(release: bool) -> Result<()> {
    step(if release {
        "building the programs, optimised"
    } else {
        "building the programs"
    });
    let mut cargo = cmd::cargo();
    cargo.args(["build", "--workspace", "--bins"]);
    if release {
        cargo.arg("--release");
    }
    cmd::run(&mut cargo)
}
