//! What approvers did not sign, or not for this, or not for now.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use super::ground::Ground;
use super::outcome::Outcome;
use crate::cmd;
use crate::demo::flows::Standing;
use crate::demo::policy::{APPROVERS, DEPLOYMENT, THRESHOLD};
use crate::demo::world::WORLD_CSV;
use crate::paths;

/// A folder that is to pass for a policy.
struct Forgery {
    folder: PathBuf,
}

impl Forgery {
    /// The files in force, with neither manifest nor signatures.
    fn begin(ground: &Ground, name: &str) -> Result<Self> {
        let newest = newest(ground)?;
        let folder = ground.scene.path(&format!("forged-{name}"));
        if folder.exists() {
            fs::remove_dir_all(&folder).context("remove an older forgery")?;
        }
        cmd::run(cmd::command("cp").arg("-a").arg(newest).arg(&folder))?;
        for entry in fs::read_dir(&folder).context("list a forgery")? {
            let path = entry.context("list a forgery")?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with("manifest.toml") {
                fs::remove_file(&path).context("remove an honest manifest")?;
            }
        }
        Ok(Self { folder })
    }

    fn write(&self, path: &str, text: &str) -> Result<&Self> {
        fs::write(self.folder.join(path), text).with_context(|| format!("write {path}"))?;
        Ok(self)
    }

    /// The next version over the files as they are.
    fn compose(&self, ground: &Ground, deployment: &str, not_after: u64) -> Result<&Self> {
        cmd::output(
            cmd::command(paths::binary(false, "bailiwick"))
                .args(["policy", "manifest", "--deployment", deployment])
                .args(["--reason", "a little change", "--not-after"])
                .arg(not_after.to_string())
                .arg("--previous")
                .arg(newest(ground)?.join("manifest.toml"))
                .arg(&self.folder),
        )?;
        Ok(self)
    }

    fn sign(&self, key: &Path, name: &str, namespace: &str) -> Result<&Self> {
        let manifest = self.folder.join("manifest.toml");
        cmd::output(
            cmd::command("ssh-keygen")
                .args(["-q", "-Y", "sign", "-n", namespace, "-f"])
                .arg(key)
                .arg(&manifest),
        )?;
        fs::rename(
            self.folder.join("manifest.toml.sig"),
            self.folder.join(format!("manifest.toml.{name}.sig")),
        )
        .context("name a signature")?;
        Ok(self)
    }

    /// Both true approvers sign, for `namespace`.
    fn sign_both(&self, ground: &Ground, namespace: &str) -> Result<&Self> {
        for name in APPROVERS {
            self.sign(&ground.stage.approvers.key(name), name, namespace)?;
        }
        Ok(self)
    }

    /// Through the collector, and past it to the fence's own socket.
    fn deliver(
        &self,
        ground: &Ground,
        outcome: &mut Outcome,
        tried: &str,
        expected: &str,
    ) -> Result<()> {
        let said = ground.apply(&self.folder)?;
        let (code, said) = said.map_or((None, String::new()), |(code, said)| (Some(code), said));
        outcome.tried(
            &format!("{tried}, by the client"),
            expected,
            code.as_deref(),
            &said,
        );
        self.to_fence(ground, outcome, tried, expected)
    }

    fn to_fence(
        &self,
        ground: &Ground,
        outcome: &mut Outcome,
        tried: &str,
        expected: &str,
    ) -> Result<()> {
        self.of_kind(ground, outcome, "policy", (tried, expected))
    }

    /// Straight to the fence, as what it is said to be.
    fn of_kind(
        &self,
        ground: &Ground,
        outcome: &mut Outcome,
        kind: &str,
        (tried, expected): (&str, &str),
    ) -> Result<()> {
        let config = ground.stage.node.config().display().to_string();
        let tried = format!("{tried}, at the fence");
        let folder = self.folder.display().to_string();
        let words = [
            "policy", "--config", &config, "--tried", &tried, "--kind", kind,
        ];
        ground.attacker(
            outcome,
            words.into_iter().chain(["--expected", expected, &folder]),
        )
    }
}

fn newest(ground: &Ground) -> Result<&Path> {
    ground
        .stage
        .approvers
        .newest()
        .context("a policy was signed")
}

fn namespace(deployment: &str, kind: &str) -> String {
    format!("bailiwick/{deployment}/{kind}")
}

/// Seconds since 1970.
fn now() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(now.context("the clock is before 1970")?.as_secs())
}

fn tomorrow() -> Result<u64> {
    Ok(now()? + 24 * 3600)
}

/// A key that `ssh-keygen` drew for nobody we know.
fn strangers_key(ground: &Ground) -> Result<PathBuf> {
    let key = ground.scene.path("stranger");
    if !key.exists() {
        cmd::output(
            cmd::command("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "stranger", "-f"])
                .arg(&key),
        )?;
    }
    Ok(key)
}

pub(super) fn other_kind_or_deployment(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    for (name, deployment, kind, expected) in [
        (
            "for another kind, inventory",
            DEPLOYMENT,
            "inventory",
            "policy-wrong-kind",
        ),
        (
            "for another kind, world",
            DEPLOYMENT,
            "world",
            "policy-wrong-kind",
        ),
        (
            "for another deployment",
            "other",
            "policy",
            "policy-wrong-deployment",
        ),
    ] {
        let forged = Forgery::begin(ground, "namespace")?;
        forged
            .compose(ground, DEPLOYMENT, tomorrow()?)?
            .sign_both(ground, &namespace(deployment, kind))?;
        let tried = format!("both approvers' signatures {name}");
        forged.deliver(ground, outcome, &tried, expected)?;
    }
    let forged = Forgery::begin(ground, "deployment")?;
    forged
        .compose(ground, "other", tomorrow()?)?
        .sign_both(ground, &namespace("other", "policy"))?;
    let tried = "another deployment's manifest";
    forged.deliver(ground, outcome, tried, "policy-wrong-deployment")?;

    let forged = Forgery::begin(ground, "kind")?;
    forged.compose(ground, DEPLOYMENT, tomorrow()?)?;
    let manifest = forged.folder.join("manifest.toml");
    let text = fs::read_to_string(&manifest).context("read a manifest")?;
    let text = text.replace("kind = \"policy\"", "kind = \"inventory\"");
    forged.write("manifest.toml", &text)?;
    forged.sign_both(ground, &namespace(DEPLOYMENT, "policy"))?;
    // There is no such kind, so the client knows no place to take it to.
    let tried = "a manifest that says it is of another kind";
    forged.to_fence(ground, outcome, tried, "policy-malformed")?;
    ground.outside(outcome, "afterwards", Standing::Attested)
}

pub(super) fn mixed(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let older = newest(ground)?.to_owned();
    let listed = ground.listed.clone();
    let reason = "the same once more, so that there are two versions";
    ground.stage.apply(&ground.scene, Some(&listed), reason)?;
    let both = namespace(DEPLOYMENT, "policy");

    let forged = Forgery::begin(ground, "older-signatures")?;
    forged.compose(ground, DEPLOYMENT, tomorrow()?)?;
    for name in APPROVERS {
        let signature = format!("manifest.toml.{name}.sig");
        fs::copy(older.join(&signature), forged.folder.join(&signature))
            .context("copy a signature")?;
    }
    let tried = "a new manifest under an older one's signatures";
    forged.deliver(ground, outcome, tried, "policy-under-signed")?;

    let forged = Forgery::begin(ground, "half-older")?;
    forged.compose(ground, DEPLOYMENT, tomorrow()?)?;
    forged.sign(&ground.stage.approvers.key("alice"), "alice", &both)?;
    let signature = "manifest.toml.bob.sig";
    fs::copy(older.join(signature), forged.folder.join(signature)).context("copy a signature")?;
    let tried = "one approver's signature of this version, the other's of the one before";
    forged.deliver(ground, outcome, tried, "policy-under-signed")?;

    for (name, path, text, expected) in [
        (
            "the world map of another version",
            "world.csv",
            "192.0.2.0,192.0.2.63,FR\n",
            "policy-file-digest",
        ),
        (
            "a file that the manifest does not list",
            "studies/more.toml",
            "name = \"more\"\n",
            "policy-file-unlisted",
        ),
    ] {
        let forged = Forgery::begin(ground, "files")?;
        forged
            .compose(ground, DEPLOYMENT, tomorrow()?)?
            .sign_both(ground, &both)?
            .write(path, text)?;
        // The client sends what the manifest lists; whoever sits on the wire sends the rest.
        if expected == "policy-file-unlisted" {
            forged.to_fence(ground, outcome, name, expected)?;
        } else {
            forged.deliver(ground, outcome, name, expected)?;
        }
    }
    let forged = Forgery::begin(ground, "missing")?;
    forged
        .compose(ground, DEPLOYMENT, tomorrow()?)?
        .sign_both(ground, &both)?;
    fs::remove_file(forged.folder.join("inventory.toml")).context("leave a file out")?;
    forged.to_fence(
        ground,
        outcome,
        "a listed file left out",
        "policy-file-missing",
    )?;
    ground.outside(outcome, "afterwards", Standing::Attested)
}

pub(super) fn expired(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    for (name, ago) in [("a minute", 60), ("a year", 365 * 24 * 3600)] {
        let forged = Forgery::begin(ground, "expired")?;
        forged
            .compose(ground, DEPLOYMENT, now()? - ago)?
            .sign_both(ground, &namespace(DEPLOYMENT, "policy"))?;
        let tried = format!("a manifest that ended {name} ago");
        forged.deliver(ground, outcome, &tried, "policy-expired")?;
    }
    ground.outside(outcome, "afterwards", Standing::Attested)
}

pub(super) fn old(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let older = newest(ground)?.to_owned();
    let listed = ground.listed.clone();
    let reason = "the same once more, so that there is an older one";
    ground.stage.apply(&ground.scene, Some(&listed), reason)?;
    ground.stage.wait_for_policy(&ground.scene)?;
    let forged = Forgery { folder: older };
    let tried = "the version before, as both approvers signed it";
    forged.deliver(ground, outcome, tried, "policy-rolled-back")?;
    ground.outside(outcome, "afterwards", Standing::Attested)
}

/// A stolen collector appoints approvers of its own, and its nodes are offered their policy.
pub(super) fn made_up_world_map(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    // China becomes a part of Germany.
    let world = WORLD_CSV.replace(",CN", ",DE");
    let stranger = strangers_key(ground)?;
    let signers = namespace(DEPLOYMENT, "policy");
    let forged = Forgery::begin(ground, "world")?;
    forged
        .write("world.csv", &world)?
        .compose(ground, DEPLOYMENT, tomorrow()?)?;
    forged.deliver(
        ground,
        outcome,
        "a world map that nobody signed",
        "policy-unsigned",
    )?;
    forged.sign(&stranger, "stranger", &signers)?;
    forged.deliver(
        ground,
        outcome,
        "one that a stranger signed",
        "policy-under-signed",
    )?;
    forged.sign(&ground.stage.approvers.key("alice"), "alice", &signers)?;
    let tried = "one that a stranger and one approver signed";
    forged.deliver(ground, outcome, tried, "policy-under-signed")?;

    let public = fs::read_to_string(stranger.with_extension("pub")).context("read a key")?;
    let allowed = ground.scene.path("strangers-approvers");
    fs::write(&allowed, format!("stranger {public}")).context("appoint a stranger")?;
    ground.stage.collector.kill()?;
    ground.stage.collector =
        ground
            .stage
            .collector
            .copied(&ground.scene, "collector-stolen", (&allowed, 1))?;
    let fence = ground.log_from_now("fence");
    ground.stage.collector.start(&ground.scene)?;
    // The thief's collector takes what its own approvers signed.
    if let Some((code, said)) = ground.apply(&forged.folder)? {
        anyhow::bail!("the thief's own collector refused: {code}: {said}");
    }
    let line = ground.scene.wait(
        "the node to answer the thief's policy",
        Duration::from_secs(60),
        || fence.line("refused"),
    )?;
    let code = line
        .split_once("code=\"")
        .and_then(|(_, rest)| rest.split_once('"'))
        .map(|(code, _)| code);
    let tried = "the stolen collector, with all its keys, offers it to the node";
    outcome.tried(tried, "policy-under-signed", code, &line);
    // It withholds the lease from a node with other approvers, and opens nothing.
    ground
        .at_most(outcome, "afterwards", Standing::Attested)
        .map(drop)
}

/// A stolen collector appoints an approver of its own, by the door that approvers use.
pub(super) fn made_up_approver(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let stranger = strangers_key(ground)?;
    let keys: Vec<PathBuf> = APPROVERS
        .iter()
        .map(|name| ground.stage.approvers.key(name))
        .collect();
    let [alice, bob] = keys.as_slice() else {
        anyhow::bail!("two approvers");
    };
    let old = ground.stage.approvers.allowed_signers().to_owned();
    let public = fs::read_to_string(stranger.with_extension("pub")).context("read a key")?;
    let grown = fs::read_to_string(&old).context("read the approvers")? + "mallory " + &public;
    let alone = format!("mallory {public}");
    let both = namespace(DEPLOYMENT, "approvers");
    let other = namespace(DEPLOYMENT, "policy");
    /// In words, signers, threshold, version, keys and namespaces, what is due.
    type Row<'a> = (
        &'a str,
        &'a str,
        u32,
        u64,
        &'a [(&'a Path, &'a str)],
        &'a str,
    );
    let rows: [Row<'_>; 7] = [
        (
            "an approver more, that nobody signed for",
            &grown,
            2,
            1,
            &[],
            "policy-unsigned",
        ),
        (
            "an approver more, signed by itself",
            &grown,
            2,
            1,
            &[(&stranger, &both)],
            "policy-under-signed",
        ),
        (
            "an approver more, signed by itself and one of the two",
            &grown,
            2,
            1,
            &[(&stranger, &both), (alice, &both)],
            "policy-under-signed",
        ),
        (
            "a set of the stranger alone, signed by it",
            &alone,
            1,
            1,
            &[(&stranger, &both)],
            "policy-under-signed",
        ),
        (
            "a set that has not signed for itself",
            &alone,
            1,
            1,
            &[(alice, &both), (bob, &both)],
            "approvers-new-under-signed",
        ),
        (
            "signatures that both gave for a policy",
            &grown,
            2,
            1,
            &[(alice, &other), (bob, &other)],
            "policy-wrong-kind",
        ),
        (
            "a change that follows one nobody has",
            &grown,
            2,
            2,
            &[(alice, &both), (bob, &both)],
            "approvers-gap",
        ),
    ];
    for (tried, signers, threshold, version, signatures, expected) in rows {
        let folder = ground.scene.path("forged-approvers");
        drop(fs::remove_dir_all(&folder));
        fs::create_dir_all(&folder).context("make a folder")?;
        let forged = Forgery { folder };
        forged
            .write("allowed_signers", signers)?
            .write("approvers.toml", &format!("threshold = {threshold}\n"))?;
        let mut compose = cmd::command(paths::binary(false, "attacker"));
        compose
            .args(["compose", "--deployment", DEPLOYMENT, "--kind", "approvers"])
            .args(["--version", &version.to_string()])
            .args(["--not-after", &tomorrow()?.to_string(), "--genesis"])
            .arg(&old)
            .arg(&forged.folder);
        cmd::output(&mut compose)?;
        for (place, (key, namespace)) in signatures.iter().enumerate() {
            forged.sign(key, &format!("signer{place}"), namespace)?;
        }
        forged.of_kind(ground, outcome, "approvers", (tried, expected))?;
    }
    let forged = Forgery::begin(ground, "of-strangers")?;
    forged.compose(ground, DEPLOYMENT, tomorrow()?)?;
    forged.sign(&stranger, "stranger", &other)?;
    forged.sign(alice, "alice", &other)?;
    let tried = "a policy of such an approver";
    forged.deliver(ground, outcome, tried, "policy-under-signed")?;
    ground.outside(outcome, "afterwards", Standing::Attested)
}

/// A collector restored from a backup, and a node whose disk is new: neither knows of the newest.
pub(super) fn reimaged(ground: &mut Ground, outcome: &mut Outcome) -> Result<()> {
    let older = newest(ground)?.to_owned();
    ground.stage.collector.kill()?;
    let allowed = ground.stage.approvers.allowed_signers().to_owned();
    let backup =
        ground
            .stage
            .collector
            .copied(&ground.scene, "collector-backup", (&allowed, THRESHOLD))?;
    ground.stage.collector.start(&ground.scene)?;
    let listed = ground.listed.clone();
    let reason = "the policy that the backup does not know";
    ground.stage.apply(&ground.scene, Some(&listed), reason)?;
    ground.stage.wait_for_policy(&ground.scene)?;
    ground.stage.wait_for_statement(&ground.scene)?;

    ground.stage.collector.kill()?;
    ground.stage.node.cut_power()?;
    ground.scene.kill_workloads()?;
    ground.scene.drop_pins()?;
    fs::remove_dir_all(ground.scene.path("node").join("fence")).context("image the disk anew")?;
    ground.stage.tpm.boot(&ground.scene, false)?;
    ground.stage.node.draw_boot_id()?;
    ground.stage.node.start_fence(&ground.scene)?;
    ground.stage.workloads = ground.stage.world.start_workloads(&ground.scene)?;
    let fence = ground.log_from_now("fence");
    ground.stage.node.start_agent(&ground.scene)?;
    std::thread::sleep(Duration::from_secs(3));
    let forged = Forgery { folder: older };
    let tried = "the version before, as both approvers signed it";
    forged.to_fence(ground, outcome, tried, "policy-rolled-back")?;
    ground.outside(outcome, "with no policy that counts", Standing::Closed)?;

    ground.stage.collector = backup;
    ground.stage.collector.start(&ground.scene)?;
    let line = ground.scene.wait(
        "the node to answer the older policy",
        Duration::from_secs(60),
        || {
            let lines = fence.count("policy-rolled-back");
            anyhow::ensure!(lines > 1, "{lines} refusals");
            fence.line("policy-rolled-back")
        },
    )?;
    let tried = "a collector restored from a backup offers it";
    outcome.tried(
        tried,
        "policy-rolled-back",
        Some("policy-rolled-back"),
        &line,
    );
    ground.outside(outcome, "afterwards", Standing::Closed)
}
