//! What one answer costs as tables and studies grow.

use anyhow::{Context as _, Result, bail};
use bailiwick_agent::fence_service::Enforcer as _;
use bailiwick_ebpf_common::policy::SUBJECTS;
use bailiwick_policy::{bundle::WorldKind, world::World};
use serde_json::{Value, json};

use super::{
    bundle,
    ground::{Actor, Net},
    lookup::{Kernel, random, round, table},
    program,
    scene::Scene,
    study,
    table::{Prefix, source},
};

const PREFIXES: [usize; 3] = [10_000, 100_000, 1_000_000];
const STUDIES: [usize; 3] = [1, 100, 10_000];
/// A map for policies whose studies are counted.
const WORLD: &str = "192.0.2.0,192.0.2.63,DE\n";

/// One object per size: a lookup in a map of so many prefixes, over random ones of them, or a
/// verdict on a datagram where there are so many studies.
pub(crate) fn measure(prefixes: &[Prefix]) -> Result<Value> {
    eprintln!("growth");
    let mut all = Vec::new();
    let mut kernel = Kernel::load()?;
    for count in PREFIXES {
        let nanos = lookup(&mut kernel, prefixes, count)
            .inspect_err(|error| eprintln!("   {count} prefixes: {error:#}"));
        let (v4, v6) = nanos.ok().unzip();
        all.push(json!({
            "prefixes": count,
            "v4_ns": v4.map(round),
            "v6_ns": v6.map(round),
        }));
    }
    drop(kernel);
    for count in STUDIES {
        let nanos = verdict(count);
        let nanos = nanos.inspect_err(|error| eprintln!("   {count} studies: {error:#}"));
        all.push(json!({"studies": count, "verdict_ns": nanos.ok().map(round)}));
    }
    Ok(all.into())
}

/// Of both families together `count` prefixes, drawn evenly from the real ones.
fn lookup(kernel: &mut Kernel, prefixes: &[Prefix], count: usize) -> Result<(f64, f64)> {
    let mut random = random(0x2545_f491_4f6c_dd1d);
    let mut left = u64::try_from(prefixes.len())?;
    let mut wanted = u64::try_from(count)?;
    let mut text = String::new();
    let mut drawn = Vec::with_capacity(count);
    for prefix in prefixes {
        if left > 0 && random() % left < wanted {
            wanted -= 1;
            text += &prefix.text()?;
            text.push(',');
            text += std::str::from_utf8(&prefix.code)?;
            text.push('\n');
            drawn.push(*prefix);
        }
        left = left.saturating_sub(1);
    }
    let text = text.replace(",??", ",ZZ");
    let world = World::compile(&source(WorldKind::Csv, text.into_bytes()), &[])?;
    let image = world.image(1);
    let [v4, v6] = [true, false].map(|v4| table(&image, &drawn, v4));
    Ok((kernel.random(&image, &v4)?, kernel.random(&image, &v6)?))
}

/// A datagram out of the last of so many studies.
fn verdict(count: usize) -> Result<f64> {
    if count > SUBJECTS {
        bail!("a policy has room for {SUBJECTS}");
    }
    let scene = Scene::new(&format!("grow{count}"));
    let mut files = vec![("world.csv".to_owned(), WORLD.to_owned())];
    for number in 0..count {
        let name = format!("s{number}");
        let below = format!("studies/{name}");
        files.push((
            format!("studies/{name}.toml"),
            study(&name, &scene.path(&below)),
        ));
    }
    let borrowed: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    let policy = bundle::signed(&scene.folder(), 1, &borrowed);
    for number in 0..count {
        std::fs::create_dir_all(scene.cgroup(&format!("studies/s{number}")))?;
    }
    let mut fence = scene.open();
    fence.set_lease_end(u64::MAX)?;
    fence.apply_policy(&policy)?;
    let net = Net::new(&format!("grow{count}"))?;
    let last = scene.cgroup(&format!("studies/s{}", count.saturating_sub(1)));
    let mut actor = Actor::new(&last, &net.inside)?;
    let pin = program(&scene, "egress");
    let mut all = Vec::new();
    for _ in 0..7 {
        all.push(actor.ask(&format!("judge {} 200000", pin.display()))?);
    }
    all.sort_by(f64::total_cmp);
    all.get(3).copied().context("seven of them")
}
