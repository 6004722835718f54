//! Measures what the README promises, each as a ratio within one run or against its aim.
//!
//! The crates' own benches print one JSON object each; the agent is measured here, from release
//! builds, on the demo's stage with a whole world map.

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

use crate::cmd::{self, step};
use crate::demo::footprint;
use crate::install::{self, capability};
use crate::{build, paths};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Only the benches whose name contains this; `fence` is the fence, `appraise` appraisal with its
    /// logs, `agent` the footprint
    only: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

/// The bench of the fence: lookups, the whole of it on a wire, growth, the world map.
const FENCE: &str = "fence";
/// The bench of appraisal with its logs: a first statement of a boot, a steady one, growth, memory.
const APPRAISE: &str = "appraise";

pub(crate) fn run(args: &Args) -> Result<()> {
    capability::for_demo()?;
    install::for_bench()?;
    build::kernel_side()?;
    let wanted = |name: &str| match args.only.as_deref() {
        Some(only @ (FENCE | APPRAISE)) => name == only,
        only => only.is_none_or(|only| name.contains(only)),
    };
    let mut all = Map::new();
    for (package, bench) in benches()? {
        if !wanted(&bench) {
            continue;
        }
        step(format_args!("measuring {bench} of {package}"));
        match measure(&package, &bench) {
            Ok(Value::Object(figures)) => join(&mut all, figures),
            Ok(other) => bail!("{bench} printed {other}, which is no object"),
            Err(error) => {
                // Nothing is written that was not measured.
                step(format_args!("{bench} could not be measured: {error:#}"));
                all.insert(bench, Value::Null);
            }
        }
    }
    if wanted("agent") {
        step("measuring the agent's footprint, with a whole world map");
        build::programs(true)?;
        let figures = footprint::measure().unwrap_or_else(|error| {
            step(format_args!("the agent could not be measured: {error:#}"));
            Value::Null
        });
        all.insert("agent".to_owned(), figures);
    }
    if args.only.as_deref() == Some(APPRAISE) && args.output == Output::Json {
        return cmd::result(format_args!(
            "{:#}",
            all.get(APPRAISE).unwrap_or(&Value::Null)
        ));
    }
    // What one bench alone says is printed as it says it; what it could not measure is null in it.
    if args.only.as_deref() == Some(FENCE) && args.output == Output::Json {
        return cmd::result(format_args!("{:#}", Value::Object(all)));
    }
    let complete = !all.is_empty() && all.values().all(|figures| !figures.is_null());
    match args.output {
        Output::Json => {
            all.insert("complete".to_owned(), json!(complete));
            cmd::result(format_args!("{:#}", Value::Object(all)))?;
        }
        Output::Text => {
            for (name, figures) in &all {
                rows(name, figures)?;
            }
        }
    }
    if !complete {
        bail!("not everything could be measured");
    }
    Ok(())
}

/// Two benches may have something to say of one thing.
fn join(all: &mut Map<String, Value>, figures: Map<String, Value>) {
    for (name, more) in figures {
        match (all.get_mut(&name), more) {
            (Some(Value::Object(known)), Value::Object(more)) => join(known, more),
            (_, more) => {
                all.insert(name, more);
            }
        }
    }
}

fn rows(name: &str, figures: &Value) -> Result<()> {
    match figures {
        Value::Object(inner) => inner
            .iter()
            .try_for_each(|(key, value)| rows(&format!("{name}.{key}"), value)),
        Value::Null => cmd::result(format_args!("{name:<48} not measured")),
        Value::Number(number) if number.is_f64() => cmd::result(format_args!(
            "{name:<48} {:.3}",
            number.as_f64().unwrap_or_default()
        )),
        other => cmd::result(format_args!("{name:<48} {other}")),
    }
}

/// Package and name of every bench in the workspace.
fn benches() -> Result<Vec<(String, String)>> {
    let text = cmd::output(cmd::cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: Value = serde_json::from_str(&text).context("read cargo metadata")?;
    let mut found = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        for target in package["targets"].as_array().into_iter().flatten() {
            let kinds = target["kind"].as_array().into_iter().flatten();
            if kinds.into_iter().any(|kind| kind == "bench") {
                let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
                found.push((name(package), name(target)));
            }
        }
    }
    Ok(found)
}

/// The object a bench prints, as the last line that is one.
fn measure(package: &str, bench: &str) -> Result<Value> {
    let text = cmd::heard(
        cmd::cargo()
            .args(["bench", "--quiet", "--package", package, "--bench", bench])
            .env("BAILIWICK_BPF_OBJECT", paths::bpf_object()),
    )?;
    let last = text.lines().rev().find(|line| line.starts_with('{'));
    let object = last.with_context(|| format!("{bench} printed no object"))?;
    serde_json::from_str(object).with_context(|| format!("read what {bench} printed"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    #[test]
    fn what_two_benches_say_of_one_thing_is_kept() {
        let Value::Object(mut all) = json!({"world": {"load_ms": 1, "v4": {"a": 2}}, "x": null})
        else {
            unreachable!("an object")
        };
        let Value::Object(more) = json!({"world": {"bytes": 3, "v4": {"b": 4}}, "x": {"y": 5}})
        else {
            unreachable!("an object")
        };
        super::join(&mut all, more);
        let want =
            json!({"world": {"load_ms": 1, "bytes": 3, "v4": {"a": 2, "b": 4}}, "x": {"y": 5}});
        assert_eq!(Value::Object(all), want);
    }
}
