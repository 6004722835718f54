//! Tools that cargo builds, pinned, below `target/tools`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::cmd::{self, step};
use crate::paths;

/// The linker of the kernel side.
const BPF_LINKER: &str = "0.13.0";

/// Versions of the rest. A copy on the machine's own path is taken as it is.
const PINNED: &[(&str, &str)] = &[
    ("cargo-deny", "0.20.2"),
    ("cargo-mutants", "27.1.0"),
    ("cargo-nextest", "0.9.143"),
];

/// Builds bpf-linker against the compiler's own LLVM: any other would not read its bitcode.
pub(crate) fn bpf_linker() -> Result<()> {
    let program = paths::tools().join("bin/bpf-linker");
    // It is linked with the compiler's LLVM, which rustup puts on the library path when cargo runs.
    let mut version = cmd::command(&program);
    version
        .arg("--version")
        .env("LD_LIBRARY_PATH", compiler_libraries()?);
    if cmd::output(&mut version).is_ok_and(|text| text.contains(BPF_LINKER)) {
        return Ok(());
    }
    step(format_args!(
        "building bpf-linker {BPF_LINKER}: links the kernel side (about a minute)"
    ));
    let (prefix, major) = llvm_prefix()?;
    cargo_install(
        "bpf-linker",
        BPF_LINKER,
        &[
            "--no-default-features",
            "--features",
            &format!("llvm-{major}"),
        ],
        Some(&prefix),
    )
}

/// A cargo subcommand, from the path if it is there, else built.
pub(crate) fn cargo_tool(name: &str, why: &str) -> Result<()> {
    if cmd::find(name).is_some() {
        return Ok(());
    }
    let pinned = PINNED.iter().find(|(tool, _)| *tool == name);
    let (_, version) = pinned.with_context(|| format!("no version of {name} is pinned"))?;
    step(format_args!(
        "building {name} {version}: {why} (some minutes)"
    ));
    cargo_install(name, version, &[], None)
}

fn cargo_install(name: &str, version: &str, more: &[&str], llvm: Option<&Path>) -> Result<()> {
    // A build folder of its own: the tools' dependencies are not ours.
    let scratch = paths::target().join("tools-build");
    let mut install = cmd::cargo();
    install
        .args(["install", name, "--version", version, "--locked", "--quiet"])
        .args(more)
        .arg("--root")
        .arg(paths::tools())
        .arg("--target-dir")
        .arg(&scratch);
    if let Some(prefix) = llvm {
        install.env("LLVM_PREFIX", prefix);
    }
    cmd::run(&mut install)?;
    fs::remove_dir_all(&scratch).with_context(|| format!("clear {}", scratch.display()))
}

/// A folder shaped like an LLVM installation whose libraries are links to the compiler's own.
fn llvm_prefix() -> Result<(PathBuf, String)> {
    let verbose = cmd::output(cmd::command("rustc").arg("-vV"))?;
    let llvm = verbose
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "));
    let major = llvm
        .and_then(|v| v.split('.').next())
        .context("rustc -vV names no LLVM version")?;
    let theirs = compiler_libraries()?;
    let prefix = paths::target().join("llvm");
    let ours = prefix.join("lib");
    fs::create_dir_all(&ours).with_context(|| format!("create {}", ours.display()))?;
    let mut shared = None;
    let list = fs::read_dir(&theirs).with_context(|| format!("list {}", theirs.display()))?;
    for entry in list.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("libLLVM.so.") {
            link(&entry.path(), &ours.join(&name))?;
            shared = Some(entry.path());
        }
    }
    let Some(shared) = shared else {
        bail!(
            "{} has no libLLVM.so.*: this compiler is linked with an LLVM of its own",
            theirs.display()
        );
    };
    link(&shared, &ours.join("libLLVM.so"))?;
    Ok((prefix, major.to_owned()))
}

/// Where the compiler's own libraries are.
pub(crate) fn compiler_libraries() -> Result<PathBuf> {
    let sysroot = cmd::output(cmd::command("rustc").args(["--print", "sysroot"]))?;
    Ok(Path::new(sysroot.trim()).join("lib"))
}

fn link(to: &Path, at: &Path) -> Result<()> {
    if at.symlink_metadata().is_ok() {
        fs::remove_file(at).with_context(|| format!("replace {}", at.display()))?;
    }
    symlink(to, at).with_context(|| format!("link {}", at.display()))
}
