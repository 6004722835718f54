//! The whole world: built, loaded, swapped; what it takes of the kernel's memory and of the agent's.

use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bailiwick_agent::config::FenceSection;
use bailiwick_agent::{fence::Fence, fence_service::Enforcer as _, ipc::FenceClient};
use bailiwick_policy::{bundle::WorldKind, world::World};
use prost::Message as _;
use serde_json::{Value, json};

use super::{
    bundle,
    lookup::round,
    scene::{PROGRAM, Scene},
    table::source,
};

const TIMES: u32 = 7;

/// `fence` has the files in force.
pub(crate) fn measure(
    text: &str,
    scene: &Scene,
    fence: &mut Fence,
    files: &[(&str, &str)],
) -> Result<Value> {
    eprintln!("the world");
    let map = source(WorldKind::GeoipDb, text.as_bytes().to_vec());
    let mut build = Vec::new();
    for _ in 0..TIMES {
        let begun = Instant::now();
        let world = World::compile(&map, &[])?;
        drop(world.image(1));
        build.push(begun.elapsed());
    }
    let (mut load, mut swap) = (Vec::new(), Vec::new());
    for version in 2..2 + u64::from(TIMES) {
        let policy = bundle::signed(&scene.folder(), version, files);
        fence.apply_policy(&policy)?;
        let took = fence.took();
        load.push(took.load);
        swap.push(took.swap);
    }
    let agent = agent_bytes(files)
        .inspect_err(|error| eprintln!("   the agent's memory is not measured: {error:#}"));
    Ok(json!({
        "build_ms": median(build),
        "load_ms": median(load),
        "swap_ms": median(swap),
        "kernel_bytes": kernel_bytes()?,
        "agent_bytes": agent.ok(),
    }))
}

fn median(mut all: Vec<Duration>) -> Option<f64> {
    all.sort();
    let middle = all.get(all.len() / 2)?;
    Some(round(middle.as_secs_f64() * 1000.0))
}

/// What the kernel says that the maps this process holds take, each once.
fn kernel_bytes() -> Result<u64> {
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        // One that was closed since is none.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        let value = |key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.and_then(|rest| rest.trim().parse::<u64>().ok())
        };
        if let (Some(id), Some(bytes)) = (value("map_id:"), value("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    Ok(maps.values().sum())
}

/// Resident memory of `bailiwick-agent fence`, the whole world in force.
fn agent_bytes(files: &[(&str, &str)]) -> Result<u64> {
    let scene = Scene::new("agent");
    let folder = scene.folder();
    fs::create_dir_all(folder.join("state/fence"))?;
    let study = super::study("cardio", &scene.path("studies/cardio"));
    let mut own: Vec<(&str, &str)> = files.to_vec();
    for (path, text) in &mut own {
        if *path == "studies/cardio.toml" {
            *text = &study;
        }
    }
    let (message, signers) = bundle::message(&folder, 1, &own);
    fs::write(folder.join("state/fence/policy"), message.encode_to_vec())?;
    drop(message);
    fs::write(folder.join("allowed_signers"), signers)?;
    // There is no TPM here to extend what is put in force into.
    let section = FenceSection {
        measured: false,
        ..scene.section.clone()
    };
    let config = format!(
        "deployment = \"demo\"\nnode = \"bench\"\nstate_dir = {:?}\n\
         [collector]\nenroll = \"127.0.0.1:1\"\nevidence = \"127.0.0.1:1\"\n\
         [policy]\napprovers = {:?}\nthreshold = 1\n\
         [fence]\n{}",
        folder.join("state"),
        folder.join("allowed_signers"),
        toml::to_string(&section)?,
    );
    let file = folder.join("agent.toml");
    fs::write(&file, config)?;
    let child = Command::new(PROGRAM)
        .arg("--config")
        .arg(&file)
        .arg("fence")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.join("fence.log"))?)
        .spawn()?;
    let mut child = Ended(child);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let begun = Instant::now();
    loop {
        let state = runtime.block_on(FenceClient::new(&scene.section.socket).state());
        let policy = state.ok().and_then(|state| state.policy);
        if policy.is_some_and(|policy| policy.version == 1) {
            break;
        }
        if let Some(status) = child.0.try_wait()? {
            let log = fs::read_to_string(folder.join("fence.log"))?;
            bail!("the fence ended with {status}: {log}");
        }
        if begun.elapsed() > Duration::from_secs(60) {
            let log = fs::read_to_string(folder.join("fence.log"))?;
            bail!("the fence does not have the policy after a minute: {log}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // What it does at once after starting is done.
    std::thread::sleep(Duration::from_secs(1));
    let memory = fs::read_to_string(format!("/proc/{}/smaps_rollup", child.0.id()))?;
    for line in memory.lines().skip(1) {
        eprintln!("   {line}");
    }
    let line = memory.lines().find_map(|line| line.strip_prefix("Rss:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next());
    let kib: u64 = kib.context("no Rss")?.parse()?;
    Ok(kib * 1024)
}

/// A process that ends with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
