//! A study's key, destroyed because approvers said so: everything is proved as before, and every
//! copy is silent.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::ground::{Ground, refusal};
use super::outcome::Outcome;
use crate::cmd;
use crate::demo::flows::Standing;
use crate::demo::policy::{APPROVERS, DEPLOYMENT, NODE};
use crate::paths;

/// Whose key it is.
const STUDY: &str = "cardio";
/// For a key to go at collector and node.
const SOON: Duration = Duration::from_secs(90);

/// One denial of the study, as the node's log has it.
struct Entry {
    epoch: String,
    index: String,
    /// Where it went: what must never be read again.
    to: String,
}

pub(super) fn study_key(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    ground.outside(outcome, "before", Standing::Attested)?;
    let entry = ground
        .scene
        .wait("a denial that opens", SOON, || opened(ground))?;
    // Whoever has access keeps copies of everything: of the entry, of both databases, of the node.
    let open = fs::read(shown(ground, &entry, "entry-open", true)?).context("read an entry")?;
    ensure!(
        contains(&open, &entry.to),
        "what opens does not show the address"
    );
    let proof = shown(ground, &entry, "entry-before", false)?;
    ensure!(proved(ground, &proof)?, "the entry is not proved before");
    let copies = ground.scene.path("copies");
    fs::create_dir(&copies).context("make a folder")?;
    let state = ground.stage.collector.state().to_owned();
    for file in ["collector.db", "collector.db-wal"] {
        if state.join(file).exists() {
            fs::copy(state.join(file), copies.join(file)).context("copy the record")?;
        }
    }
    cmd::run(
        cmd::command("cp")
            .arg("-a")
            .arg(ground.scene.path("node"))
            .arg(copies.join("node")),
    )?;

    erase(ground)?;
    ground
        .scene
        .wait("the collector's key to go", SOON, || match opened(ground) {
            Ok(entry) => bail!("{} is still read", entry.to),
            Err(_) => Ok(()),
        })?;
    ground.scene.wait("the node's key to go", SOON, || {
        let all = ground
            .stage
            .collector
            .ask(&["events", "--all", "--limit", "1000"])?;
        ensure!(all.to_string().contains("keys erased"), "not yet");
        Ok(())
    })?;

    let events = private(ground)?;
    let (mut sealed, mut read) = (0, 0);
    for event in &events {
        let closed = event["closed"].as_str().unwrap_or_default();
        if closed.is_empty() && event["to"].as_str().is_some_and(|to| !to.is_empty()) {
            read += 1;
        } else {
            sealed += 1;
        }
    }
    outcome.counted(
        "private halves at the collector",
        "erased",
        sealed + read,
        read,
    );

    // The entry is asked for with its private half, by its number.
    let mut client = ground.stage.collector.client();
    let words = ["event", NODE, &entry.epoch, &entry.index, "--private"];
    client
        .args(words)
        .arg("--out")
        .arg(ground.scene.path("entry-closed"));
    let (code, said) = refusal(&mut client)?.unzip();
    outcome.tried(
        "the private half of one entry, asked for by its number",
        "entry-closed",
        code.as_deref(),
        &said.unwrap_or_default(),
    );
    let asked = shown(ground, &entry, "entry-after", false)?;
    for (name, file) in [("from before", &proof), ("from afterwards", &asked)] {
        ensure!(
            proved(ground, file)?,
            "the entry {name} is not proved any more"
        );
    }
    outcome.saw("the entry's proof holds, as shown before and after".to_owned());

    // Copies: the address is in none of them, and the record put back opens nothing.
    for name in ["collector.db", "collector.db-wal", "node"] {
        let place = copies.join(name);
        if place.exists() {
            let found = anywhere(&place, &entry.to)?;
            outcome.tried(
                &format!("a copy of {name} from before"),
                "sealed",
                (!found).then_some("sealed"),
                &format!("{} in the clear: {found}", entry.to),
            );
        }
    }
    ground.stage.collector.kill()?;
    for file in ["collector.db", "collector.db-wal", "collector.db-shm"] {
        let there = state.join(file);
        if there.exists() {
            fs::remove_file(&there).context("take the record away")?;
        }
        if copies.join(file).exists() {
            fs::copy(copies.join(file), &there).context("put the record back")?;
        }
    }
    ground.stage.collector.start(&ground.scene)?;
    let again = opened(ground).ok().map(|entry| entry.to);
    outcome.tried(
        "the collector's record from before, put back",
        "erased",
        again.is_none().then_some("erased"),
        &again.unwrap_or_default(),
    );
    Ok(())
}

/// Denials of the study with their private halves, where they open.
fn private(ground: &Ground) -> Result<Vec<Value>> {
    let words = ["events", "--private", "--study", STUDY, "--limit", "1000"];
    let all = ground.stage.collector.ask(&words)?;
    Ok(all.as_array().cloned().unwrap_or_default())
}

/// One that opens.
fn opened(ground: &Ground) -> Result<Entry> {
    let events = private(ground)?;
    let policy = ground.stage.approvers.newest().context("a policy")?;
    let readable = events.iter().find_map(|event| {
        let closed = event["closed"].as_str().unwrap_or_default();
        let to = event["to"].as_str().filter(|to| !to.is_empty())?;
        let proven = event["proven"].as_bool() == Some(true);
        // What the policy names is no secret, and stands in every copy.
        let secret = !anywhere(policy, to).unwrap_or(true);
        (closed.is_empty() && proven && secret).then(|| Entry {
            epoch: event["epoch"].to_string(),
            index: event["index"].to_string(),
            to: to.to_owned(),
        })
    });
    readable.with_context(|| format!("none of {} opens", events.len()))
}

/// Writes one entry with everything that proves it.
fn shown(ground: &Ground, entry: &Entry, name: &str, private: bool) -> Result<std::path::PathBuf> {
    let out = ground.scene.path(name);
    let mut client = ground.stage.collector.client();
    client
        .args(["event", NODE, &entry.epoch, &entry.index, "--out"])
        .arg(&out);
    if private {
        client.arg("--private");
    }
    cmd::output(&mut client)?;
    Ok(out)
}

/// Whether an auditor finds it in the node's log, and nothing refused.
fn proved(ground: &Ground, file: &Path) -> Result<bool> {
    let report = ground.verify(file)?;
    let checks = report["checks"].as_array().context("checks")?;
    let refused = checks.iter().any(|check| check["outcome"] == "refused");
    let entry = checks
        .iter()
        .any(|check| check["name"] == "entry" && check["outcome"] == "ok");
    Ok(entry && !refused)
}

/// Both approvers want the keys of the study gone.
fn erase(ground: &Ground) -> Result<()> {
    let folder = ground.scene.path("erasure");
    fs::create_dir(&folder).context("make a folder")?;
    let text = format!("study = \"{STUDY}\"\nreason = \"consent withdrawn\"\n");
    fs::write(folder.join("erasure.toml"), text).context("write an erasure")?;
    cmd::output(
        cmd::command(paths::binary(false, "attacker"))
            .arg("compose")
            .arg(&folder)
            .args(["--deployment", DEPLOYMENT, "--kind", "erasure"])
            .args(["--version", "1", "--not-after", "4000000000"]),
    )?;
    let manifest = folder.join("manifest.toml");
    for name in APPROVERS {
        cmd::output(
            cmd::command("ssh-keygen")
                .args(["-q", "-Y", "sign", "-n"])
                .arg(format!("bailiwick/{DEPLOYMENT}/erasure"))
                .arg("-f")
                .arg(ground.stage.approvers.key(name))
                .arg(&manifest),
        )?;
        let signed = folder.join(format!("manifest.toml.{name}.sig"));
        fs::rename(folder.join("manifest.toml.sig"), signed).context("name a signature")?;
    }
    ground.stage.collector.apply(&folder)
}

/// Whether an address stands in a file, or in any below a folder, as bytes or as text.
fn anywhere(place: &Path, address: &str) -> Result<bool> {
    if !place.is_dir() {
        return Ok(contains(&fs::read(place).context("read a copy")?, address));
    }
    for entry in fs::read_dir(place).context("list a copy")? {
        let path = entry?.path();
        if !path.is_symlink() && (path.is_dir() || path.is_file()) && anywhere(&path, address)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// As text, or as a field of a message: its length before it, for four bytes alone stand in many a
/// file.
fn contains(bytes: &[u8], address: &str) -> bool {
    let octets = match address.parse() {
        Ok(IpAddr::V4(v4)) => v4.octets().to_vec(),
        Ok(IpAddr::V6(v6)) => v6.octets().to_vec(),
        Err(_none) => Vec::new(),
    };
    let field = [
        &[u8::try_from(octets.len()).unwrap_or(0)],
        octets.as_slice(),
    ]
    .concat();
    let has = |wanted: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
    has(address.as_bytes()) || (field.len() > 1 && has(&field))
}

#[cfg(test)]
mod unit {
    use super::contains;

    #[test]
    fn an_address_is_found_as_text_and_as_bytes() {
        for (name, bytes, found) in [
            ("text", b"to 192.0.2.10:7000".as_slice(), true),
            ("a field", &[0x12, 4, 192, 0, 2, 10], true),
            ("four bytes of something else", &[9, 192, 0, 2, 10], false),
            ("another address", b"to 192.0.2.11", false),
        ] {
            assert_eq!(contains(bytes, "192.0.2.10"), found, "{name}");
        }
    }
}
