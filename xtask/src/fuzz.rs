//! Runs the fuzz targets of `tests/fuzz`, each for a while.
//!
//! The stable compiler instruments them: what cargo-fuzz would pass, without its address
//! sanitizer, since the parsers hold no `unsafe` that it could watch.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cmd::{self, step};
use crate::{install, paths};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Only these targets
    targets: Vec<String>,
}

/// Coverage counters, comparison tracing, checks on, one unit: so that the counters stay dense.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks \
    -Ccodegen-units=1 -Clto=off";

pub(crate) fn run(args: &Args) -> Result<()> {
    install::for_build()?;
    let manifest = paths::root().join("tests/fuzz/Cargo.toml");
    let all = targets(&manifest)?;
    let chosen: Vec<&String> = all
        .iter()
        .filter(|name| args.targets.is_empty() || args.targets.contains(name))
        .collect();
    if let Some(unknown) = args.targets.iter().find(|name| !all.contains(name)) {
        bail!("no fuzz target {unknown}; there are: {}", all.join(", "));
    }
    let host = host()?;
    step("building the fuzz targets, instrumented");
    let out = paths::target().join("fuzz");
    cmd::run(
        cmd::cargo()
            .args([
                "build",
                "--quiet",
                "--release",
                "--target",
                &host,
                "--manifest-path",
            ])
            .arg(&manifest)
            .arg("--target-dir")
            .arg(&out)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", FLAGS),
    )?;
    let mut crashed = Vec::new();
    for name in chosen {
        step(format_args!("fuzzing {name} for {} s", args.seconds));
        let corpus = out.join("corpus").join(name);
        let artifacts = out.join("artifacts").join(name);
        for dir in [&corpus, &artifacts] {
            fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        let mut fuzzer = cmd::command(out.join(&host).join("release").join(name));
        fuzzer.arg(&corpus);
        // Seeds kept with the sources are read and never written.
        let seeds = paths::root().join("tests/fuzz/seeds").join(name);
        if seeds.is_dir() {
            fuzzer.arg(seeds);
        }
        fuzzer
            .arg(format!("-max_total_time={}", args.seconds))
            .arg(format!("-artifact_prefix={}/", artifacts.display()))
            .args([
                "-timeout=10",
                "-rss_limit_mb=2048",
                "-print_final_stats=1",
                "-verbosity=0",
                "-print_funcs=0",
            ]);
        let survived = cmd::run(&mut fuzzer).is_ok();
        cmd::result(format_args!(
            "{name:<28} {}",
            if survived { "ok" } else { "crashed" }
        ))?;
        if !survived {
            crashed.push(format!("{name} (see {})", artifacts.display()));
        }
    }
    if !crashed.is_empty() {
        bail!("crashed: {}", crashed.join(", "));
    }
    Ok(())
}

fn targets(manifest: &Path) -> Result<Vec<String>> {
    let text = cmd::output(
        cmd::cargo()
            .args([
                "metadata",
                "--no-deps",
                "--format-version=1",
                "--manifest-path",
            ])
            .arg(manifest),
    )?;
    let metadata: Value = serde_json::from_str(&text).context("read cargo metadata")?;
    let bins = metadata["packages"][0]["targets"]
        .as_array()
        .context("no targets in cargo metadata")?;
    Ok(bins
        .iter()
        .filter_map(|bin| bin["name"].as_str().map(str::to_owned))
        .collect())
}

fn host() -> Result<String> {
    let text = cmd::output(cmd::command("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc -vV names no host")?.to_owned())
}
