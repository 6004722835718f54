//! Installs what the machine lacks, each thing once, and says what and why.
//!
//! System packages come through apt; tools that are built and the source of `core` lie below
//! `target/`. Asking twice costs nothing: each thing is looked for before it is fetched.

mod apt;
pub(crate) mod capability;
mod core_source;
mod mirror;
mod tools;

use anyhow::Result;

pub(crate) use apt::SOFT_ROCE;
pub(crate) use core_source::core_source;
pub(crate) use mirror::{apt, debian_mirror, mirrors};
pub(crate) use tools::compiler_libraries;

/// What compiling the workspace takes.
pub(crate) fn for_build() -> Result<()> {
    apt::ensure(apt::BUILD)?;
    tools::bpf_linker()
}

/// What running the programs against real parts takes: a software TPM, namespaces, alerts.
pub(crate) fn for_demo() -> Result<()> {
    apt::ensure(&[apt::BUILD, apt::RUN].concat())?;
    tools::bpf_linker()
}

/// What the whole test run takes.
pub(crate) fn for_test() -> Result<()> {
    apt::ensure(&[apt::BUILD, apt::RUN, apt::TEST].concat())?;
    tools::bpf_linker()?;
    tools::cargo_tool("cargo-deny", "checks licences, bans and sources")?;
    tools::cargo_tool("cargo-nextest", "runs the tests, one process each")
}

/// What the measurements take beyond the demo's needs.
pub(crate) fn for_bench() -> Result<()> {
    apt::ensure(&[apt::BUILD, apt::RUN, apt::BENCH].concat())?;
    tools::bpf_linker()
}

/// cargo-mutants, for the guarded functions.
pub(crate) fn for_mutants() -> Result<()> {
    apt::ensure(&[apt::BUILD, apt::RUN, apt::TEST].concat())?;
    tools::bpf_linker()?;
    tools::cargo_tool("cargo-nextest", "lists the tests")?;
    tools::cargo_tool("cargo-mutants", "says how a function can be broken")
}

/// What virtual machines take: what runs them, and what makes their disks.
pub(crate) fn for_vm() -> Result<()> {
    apt::ensure(&[apt::BUILD, apt::RUN, apt::VM].concat())?;
    tools::bpf_linker()
}

/// What makes a fresh Debian in a folder.
pub(crate) fn for_clean_machine() -> Result<()> {
    apt::ensure(apt::CLEAN_MACHINE)
}

/// cargo-deny alone, for the advisories.
pub(crate) fn for_advisories() -> Result<()> {
    tools::cargo_tool("cargo-deny", "reads the advisory database")
}

/// Everything any chore needs.
pub(crate) fn everything() -> Result<()> {
    apt::ensure(&[apt::BUILD, apt::RUN, apt::TEST, apt::VM, apt::BENCH].concat())?;
    tools::bpf_linker()?;
    core_source()?;
    tools::cargo_tool("cargo-deny", "checks licences, bans and sources")?;
    tools::cargo_tool("cargo-nextest", "runs the tests, one process each")?;
    crate::cmd::step("nothing is missing");
    Ok(())
}
