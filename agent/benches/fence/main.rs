//! What the fence costs: `cargo xtask bench fence`. Prints one JSON object; what could not be
//! measured is `null`.
//!
//! Table: Debian's `tor-geoipdb`. Everything runs in a cgroup subtree, a BPF file system and
//! network namespaces of its own.
#![expect(
    clippy::unwrap_used,
    reason = "the scene is the tests', where it is allowed"
)]

#[path = "../../tests/fence/bundle.rs"]
mod bundle;
mod ground;
mod growth;
mod lookup;
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../../tests/fence/scene.rs"]
mod scene;
mod table;
mod whole;
mod world;

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Result;
use bailiwick_agent::fence_service::Enforcer as _;
use serde_json::{Value, json};

use self::{lookup::Kernel, scene::Scene};

fn main() -> ExitCode {
    let outcome = ground::act().unwrap_or_else(measure);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("fence: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<()> {
    let text = table::text()?;
    // The far end of the wire lies where no real table has anything.
    let mut with_wire = text.clone();
    with_wire.extend(b"3221225984,3221226047,DE\n");
    let prefixes = table::prefixes(&with_wire)?;

    let lookup = or_null("lookup", || lookups(&text, &prefixes));
    let growth = or_null("growth", || growth::measure(&prefixes));
    let ground = or_null("whole and world", || on_the_wire(&with_wire, &prefixes));
    let [whole, world] = ["whole", "world"].map(|key| ground.get(key).cloned());
    let result = json!({
        "lookup": lookup,
        "whole": whole,
        "growth": growth,
        "world": world,
    });
    #[expect(clippy::print_stdout, reason = "the result")]
    {
        println!("{result}");
    }
    Ok(())
}

/// One part that fails leaves the others their figures; helpers of the tests panic.
fn or_null(what: &str, measure: impl FnOnce() -> Result<Value>) -> Value {
    match catch_unwind(AssertUnwindSafe(measure)) {
        Ok(Ok(figures)) => figures,
        Ok(Err(error)) => {
            eprintln!("{what} could not be measured: {error:#}");
            Value::Null
        }
        Err(_panic) => {
            eprintln!("{what} could not be measured");
            Value::Null
        }
    }
}

fn lookups(text: &[u8], prefixes: &[table::Prefix]) -> Result<Value> {
    eprintln!("lookups");
    let source = table::source(bailiwick_policy::bundle::WorldKind::GeoipDb, text.to_vec());
    let world = bailiwick_policy::world::World::compile(&source, &[])?;
    Kernel::load()?.measure(&world.image(1), prefixes)
}

/// The real fence with the whole world, and a study that may reach the European Union.
fn on_the_wire(text: &[u8], prefixes: &[table::Prefix]) -> Result<Value> {
    eprintln!("the whole fence");
    let scene = Scene::new("bench");
    let text = std::str::from_utf8(text)?;
    let mut fence = scene.open();
    fence.set_lease_end(u64::MAX)?;
    let study = study("cardio", &scene.path("studies/cardio"));
    let files = [("studies/cardio.toml", study.as_str()), ("world.txt", text)];
    let policy = bundle::signed(&scene.folder(), 1, &files);
    fence.apply_policy(&policy)?;
    drop(policy);
    let free = Beside::new(&scene)?;
    let whole = or_null("whole", || {
        whole::measure(&scene.cgroup("studies/cardio"), &free.0, prefixes)
    });
    let world = or_null("world", || world::measure(text, &scene, &mut fence, &files));
    Ok(json!({"whole": whole, "world": world}))
}

/// A study that may reach the European Union.
pub(crate) fn study(name: &str, cgroup: &str) -> String {
    format!(
        "name = {name:?}\nmode = \"enforce\"\n[select]\ncgroups = [{cgroup:?}]\n[allow]\n\
         jurisdictions = {:?}\n",
        whole::ALLOWED
    )
}

/// A cgroup beside the fenced one.
struct Beside(PathBuf);

impl Beside {
    fn new(scene: &Scene) -> Result<Self> {
        let root = scene.cgroup("");
        let name = root.file_name().unwrap_or_default().to_string_lossy();
        let folder = root.with_file_name(format!("{name}-free"));
        fs::create_dir(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // A process that has just ended keeps it for a moment.
        for _ in 0..50 {
            if fs::remove_dir(&self.0).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// A pinned program of a fence.
pub(crate) fn program(scene: &Scene, hook: &str) -> PathBuf {
    scene.pin(&format!("programs/{hook}"))
}
