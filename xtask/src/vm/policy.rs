//! What approvers of the test machines sign, and how an agent inside is configured.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use super::image::{Root, built};
use crate::cmd;

/// The installation that test machines belong to.
pub(super) const DEPLOYMENT: &str = "vm";
/// How many of the approvers must sign.
pub(super) const THRESHOLD: usize = 2;
const APPROVERS: [&str; 2] = ["alice", "bob"];

/// The world as the scenarios know it: start, end, code.
const WORLD: &str = "\
192.0.2.0,192.0.2.255,DE
198.51.100.0,198.51.100.255,US
203.0.113.0,203.0.113.255,CN
2001:db8:49::,2001:db8:49:ffff:ffff:ffff:ffff:ffff,DE
2001:db8:1::,2001:db8:1:ffff:ffff:ffff:ffff:ffff,US
";

/// `ssh` has the management plane among its prefixes, and not the right to go there.
const HOST_FENCE: &str = r#"
essentials = ["neighbour-discovery", "dhcp", "groups"]

[management]
addresses = ["10.9.0.250/32"]

[[host]]
name = "ssh"
cgroups = ["/system.slice/ssh.service"]
[host.allow]
prefixes = ["198.51.100.0/24", "10.9.0.250/32"]

[[host]]
name = "bmc"
cgroups = ["/system.slice/bmc.service"]
management = true
[host.allow]
prefixes = ["10.9.0.250/32"]

[[host]]
name = "dhcp"
cgroups = ["/system.slice/dhcp.service"]
[host.allow]
prefixes = ["10.9.0.254/32"]
[host.devices]
raw_sockets = true
"#;

const SITES: &str = "[[site]]\nprefix = \"10.9.0.0/16\"\njurisdiction = \"X-OWN\"\n";

const PROFILE: &str = r#"name = "vm-1"
lease_seconds = 300
max_silence_seconds = 180

[tpm]
bank = "sha256"
require = [0, 1, 2, 3, 4, 5, 6, 7]
"#;

const AGENT: &str = r#"deployment = "vm"
node = "vm-01"

[collector]
enroll = "127.0.0.1:1"
evidence = "127.0.0.1:1"

[policy]
approvers = "/etc/bailiwick/allowed_signers"
threshold = 2
"#;

/// Who signs for test machines.
#[derive(Clone, Debug)]
pub(super) struct Approvers {
    keys: PathBuf,
}

/// Files of a bundle: path, text.
pub(super) type Files = Vec<(&'static str, String)>;

/// Writes `/etc/bailiwick`: configuration, approvers, and a bundle that both of them signed.
pub(super) fn install(root: &Root, scratch: &Path) -> Result<Approvers> {
    if scratch.exists() {
        fs::remove_dir_all(scratch).with_context(|| format!("clear {}", scratch.display()))?;
    }
    fs::create_dir_all(scratch).with_context(|| format!("make {}", scratch.display()))?;
    let etc = root.path("etc/bailiwick");
    let mut known = String::new();
    for name in APPROVERS {
        let key = scratch.join(name);
        cmd::output(
            cmd::command("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
                .arg(&key),
        )?;
        let public = fs::read_to_string(key.with_extension("pub")).context("read a public key")?;
        let words: Vec<&str> = public.split_whitespace().take(2).collect();
        known += &format!(
            "{name}@vm.example namespaces=\"bailiwick/{DEPLOYMENT}/*\" {}\n",
            words.join(" ")
        );
    }
    let approvers = Approvers {
        keys: scratch.to_owned(),
    };
    fs::write(approvers.allowed_signers(), &known).context("write allowed_signers")?;
    fs::write(etc.join("allowed_signers"), known).context("write allowed_signers")?;
    fs::write(etc.join("agent.toml"), AGENT).context("configure the agent")?;
    let files = files("", PROFILE, "");
    approvers.sign(&etc.join("policy"), &files, None)?;
    Ok(approvers)
}

/// A whole bundle, but for what is said of nodes.
pub(super) fn files(inventory: &str, profile: &str, collector: &str) -> Files {
    vec![
        ("host-fence.toml", HOST_FENCE.to_owned()),
        ("sites.toml", SITES.to_owned()),
        ("inventory.toml", inventory.to_owned()),
        ("profile.toml", profile.to_owned()),
        ("collector.toml", collector.to_owned()),
        ("world.csv", WORLD.to_owned()),
        ("studies/cardio.toml", study("cardio", "DE", "10.9.1.1/32")),
        ("studies/onco.toml", study("onco", "US", "10.9.2.1/32")),
    ]
}

impl Approvers {
    /// What every machine knows them by.
    pub(super) fn allowed_signers(&self) -> PathBuf {
        self.keys.join("allowed_signers")
    }

    /// Writes a bundle that follows the manifest `previous`, and has both sign it.
    pub(super) fn sign(&self, bundle: &Path, files: &Files, previous: Option<&Path>) -> Result<()> {
        fs::create_dir_all(bundle.join("studies")).context("make the bundle's folder")?;
        for (path, text) in files {
            fs::write(bundle.join(path), text).with_context(|| format!("write {path}"))?;
        }
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .context("the clock is before 1970")?;
        let mut compose = cmd::command(built(false, "bailiwick")?);
        compose.args(["policy", "manifest", "--deployment", DEPLOYMENT]);
        compose.args(["--reason", "a test machine", "--not-after"]);
        compose.arg((now.as_secs() + 24 * 3600).to_string());
        if let Some(previous) = previous {
            compose.arg("--previous").arg(previous);
        }
        cmd::output(compose.arg(bundle))?;
        let manifest = bundle.join("manifest.toml");
        for name in APPROVERS {
            let mut sign = cmd::command("ssh-keygen");
            sign.args(["-q", "-Y", "sign", "-n"]);
            sign.arg(format!("bailiwick/{DEPLOYMENT}/policy"));
            sign.arg("-f").arg(self.keys.join(name)).arg(&manifest);
            cmd::output(&mut sign)?;
            fs::rename(
                bundle.join("manifest.toml.sig"),
                bundle.join(format!("manifest.toml.{name}.sig")),
            )
            .context("name a signature after its signer")?;
        }
        Ok(())
    }
}

/// What it may without a lease is what it may: nobody inside grants one. Its frames are made, so that
/// they can be judged.
fn study(name: &str, allowed: &str, own: &str) -> String {
    format!(
        r#"name = "{name}"
mode = "enforce"

[select]
cgroups = ["/studies/{name}"]

[devices]
raw_sockets = true

[allow]
jurisdictions = ["{allowed}"]

[peers]
addresses = ["{own}"]

[unattested]
jurisdictions = ["{allowed}"]
"#
    )
}
