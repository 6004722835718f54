//! Known weaknesses of the dependencies. A chore of its own: the database is fetched.

use anyhow::{Context as _, Result};

use crate::{cmd, install};

pub(crate) fn run() -> Result<()> {
    install::for_advisories()?;
    let deny = cmd::find("cargo-deny").context("cargo-deny was installed above")?;
    cmd::run(cmd::command(deny).args(["check", "--hide-inclusion-graph", "advisories"]))?;
    cmd::result("no advisory stands against a dependency")
}
