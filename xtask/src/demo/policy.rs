//! What the demo's two approvers sign: real files, real `ssh-keygen` signatures.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use super::scene::Scene;
use super::world::{GROUPS, MANAGEMENT_PORT, PLACES};
use crate::{cmd, paths};

/// Name of the installation.
pub const DEPLOYMENT: &str = "demo";
/// Name of the node, once the inventory has it.
pub const NODE: &str = "gpu-01";
/// Both of the two must sign.
pub const THRESHOLD: usize = 2;

/// Who they are; their keys and signatures are named after them.
pub const APPROVERS: [&str; 2] = ["alice", "bob"];

/// What one version of the policy says, where it does not always say the same.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The collector's keys.
    pub collector_toml: &'a str,
    /// Reference values.
    pub pcrs: &'a [(u8, String)],
    /// The node, once it is known.
    pub listed: Option<&'a Listed>,
    /// Seconds of standing that one affirming result grants.
    pub lease_seconds: u32,
    /// Seconds after which a silent node is stale.
    pub max_silence_seconds: u32,
    /// Name and content of the world map.
    pub world: (&'static str, &'a str),
    /// Why this version is made.
    pub reason: &'a str,
    /// Files that stand in place of those the demo would write.
    pub instead: &'a [(String, String)],
}

/// The node as the signed inventory names it.
#[derive(Clone, Debug)]
pub struct Listed {
    pub ek: String,
    pub ak: Option<String>,
    /// `pending` or `enrolled`, as the collector has it.
    pub state: String,
    /// Why, in the collector's words.
    pub reason: String,
}

/// Writes and signs one bundle after another.
#[derive(Debug)]
pub struct Approvers {
    dir: PathBuf,
    allowed_signers: PathBuf,
    version: u64,
    /// The manifest before.
    previous: Option<PathBuf>,
    /// `bailiwick`, which writes manifests.
    client: PathBuf,
}

impl Approvers {
    /// Draws both keys, and the file by which a machine knows them.
    pub fn appoint(scene: &Scene, release: bool) -> Result<Self> {
        let dir = scene.path("approvers");
        fs::create_dir(&dir).context("make the approvers' folder")?;
        let mut lines = String::new();
        for name in APPROVERS {
            let key = dir.join(name);
            cmd::output(
                cmd::command("ssh-keygen")
                    .args(["-q", "-t", "ed25519", "-N", "", "-C", name, "-f"])
                    .arg(&key),
            )?;
            let public =
                fs::read_to_string(key.with_extension("pub")).context("read a public key")?;
            let words: Vec<&str> = public.split_whitespace().take(2).collect();
            lines += &format!(
                "{name}@demo.example namespaces=\"bailiwick/{DEPLOYMENT}/*\" {}\n",
                words.join(" ")
            );
        }
        let allowed_signers = dir.join("allowed_signers");
        fs::write(&allowed_signers, lines).context("write allowed_signers")?;
        Ok(Self {
            dir,
            allowed_signers,
            version: 0,
            previous: None,
            client: paths::binary(release, "bailiwick"),
        })
    }

    /// What the image of each machine carries.
    pub fn allowed_signers(&self) -> &Path {
        &self.allowed_signers
    }

    /// The private key of one of them.
    pub fn key(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Version of the bundle signed last.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The bundle signed last.
    pub fn newest(&self) -> Option<&Path> {
        self.previous.as_deref().and_then(Path::parent)
    }

    /// Writes the next version and has both sign it; returns the bundle's folder.
    pub fn sign(&mut self, scene: &Scene, terms: Terms<'_>) -> Result<PathBuf> {
        self.version += 1;
        let bundle = scene.path(&format!("policy-{}", self.version));
        fs::create_dir_all(bundle.join("studies")).context("make the bundle's folder")?;
        let mut files = vec![
            ("host-fence.toml".to_owned(), host_fence()),
            ("sites.toml".to_owned(), sites()),
            (
                "inventory.toml".to_owned(),
                terms.listed.map(inventory).unwrap_or_default(),
            ),
            ("profile.toml".to_owned(), profile(terms)),
            ("collector.toml".to_owned(), terms.collector_toml.to_owned()),
            (terms.world.0.to_owned(), terms.world.1.to_owned()),
        ];
        for group in GROUPS.iter().filter(|group| group.study) {
            let selector = format!("{}/{}", scene.fence_root(), group.cgroup);
            files.push((
                format!("studies/{}.toml", group.name),
                study(group.name, &selector),
            ));
        }
        for (path, text) in files.iter().chain(terms.instead) {
            fs::write(bundle.join(path), text).with_context(|| format!("write {path}"))?;
        }
        let mut compose = cmd::command(&self.client);
        compose
            .args([
                "policy",
                "manifest",
                "--deployment",
                DEPLOYMENT,
                "--reason",
                terms.reason,
            ])
            .args(["--not-after", &tomorrow()?.to_string()]);
        if let Some(previous) = &self.previous {
            compose.arg("--previous").arg(previous);
        }
        cmd::output(compose.arg(&bundle))?;
        let place = bundle.join("manifest.toml");
        for name in APPROVERS {
            cmd::output(
                cmd::command("ssh-keygen")
                    .args([
                        "-q",
                        "-Y",
                        "sign",
                        "-n",
                        &format!("bailiwick/{DEPLOYMENT}/policy"),
                        "-f",
                    ])
                    .arg(self.dir.join(name))
                    .arg(&place),
            )?;
            fs::rename(
                bundle.join("manifest.toml.sig"),
                bundle.join(format!("manifest.toml.{name}.sig")),
            )
            .context("name a signature after its signer")?;
        }
        self.previous = Some(place);
        Ok(bundle)
    }
}

fn study(name: &str, selector: &str) -> String {
    let group = GROUPS.iter().find(|group| group.name == name);
    let (v4, v6, allowed) = group.map_or(("", "", &[][..]), |g| (g.v4, g.v6, g.allowed));
    format!(
        r#"name = "{name}"
mode = "enforce"

[select]
cgroups = ["{selector}"]

[allow]
jurisdictions = {allowed:?}
services = ["management", "time"]

[peers]
addresses = ["{v4}/32", "{v6}/128"]

[unattested]
services = ["management", "time"]
"#
    )
}

fn host_fence() -> String {
    let management = PLACES
        .iter()
        .find(|place| place.name == "management")
        .map_or("", |place| place.v4);
    [("management", "tcp", MANAGEMENT_PORT), ("time", "udp", 123)]
        .map(|(name, protocol, port)| {
            format!(
                "[[service]]\nname = \"{name}\"\naddress = \"{management}/32\"\nprotocol = \"{protocol}\"\nports = \"{port}\"\n"
            )
        })
        .join("\n")
}

/// The operator's own networks: nobody's country, so that only a service opens them.
fn sites() -> String {
    ["10.9.0.0/16", "fd09::/16"]
        .map(|prefix| format!("[[site]]\nprefix = \"{prefix}\"\njurisdiction = \"X-OWN\"\n"))
        .join("\n")
}

fn inventory(listed: &Listed) -> String {
    let ak = listed
        .ak
        .as_ref()
        .map(|ak| format!("ak = \"{ak}\"\n"))
        .unwrap_or_default();
    format!(
        "[[node]]\nname = \"{NODE}\"\nek = \"{}\"\n{ak}place = \"demo / row 1 / rack 1\"\njurisdiction = \"DE\"\n",
        listed.ek
    )
}

fn profile(terms: Terms<'_>) -> String {
    let Terms {
        lease_seconds,
        max_silence_seconds,
        ..
    } = terms;
    let mut text = format!(
        r#"name = "demo-1"
lease_seconds = {lease_seconds}
max_silence_seconds = {max_silence_seconds}

[tpm]
bank = "sha256"
require = [0, 1, 2, 3, 4, 5, 6, 7]

[tpm.values]
"#
    );
    for (index, value) in terms.pcrs {
        text += &format!("\"{index}\" = [\"{value}\"]\n");
    }
    text + r#"
[fence]
pcr = 13

[[require]]
claim = "fence.policy_version"
at_least = 1
provenance = "measured"

[[require]]
claim = "fence.mode"
one_of = ["enforcing", "default-deny"]
provenance = "self-reported"
"#
}

/// Seconds since 1970.
fn tomorrow() -> Result<u64> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    Ok(now.as_secs() + 24 * 3600)
}
