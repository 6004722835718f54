//! A collector on this machine, for a node that boots inside of one: the two meet at two ports.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::image::built;
use super::machine::{Carrier, Machine, Running, SITE, SITE_PORTS};
use super::policy::{Approvers, DEPLOYMENT, THRESHOLD, files};
use crate::cmd;
use crate::demo::daemon::tied;
use crate::demo::pager::free_port;

/// What the inventory calls the machine.
pub(super) const NODE: &str = "vm-01";

/// The collector, who signs for it, and how to ask it.
#[derive(Debug)]
pub(super) struct Site {
    dir: PathBuf,
    /// `None` until a machine is there whose maker it trusts.
    process: Option<Running>,
    /// Enrolment, evidence, queries.
    ports: [u16; 3],
    client: PathBuf,
    ca: PathBuf,
    approvers: Approvers,
    /// Its own keys, as policy names them.
    for_policy: String,
    versions: u32,
}

impl Site {
    /// Makes its keys.
    pub(super) fn make(dir: &Path, approvers: &Approvers) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("clear {}", dir.display()))?;
        }
        fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
        let made = cmd::output(
            cmd::command(built(false, "bailiwick-collector")?)
                .args(["init", "--deployment", DEPLOYMENT])
                .args(["--name", SITE, "--name", "127.0.0.1"])
                .args(["--output", "json", "--dir"])
                .arg(dir.join("state")),
        )?;
        let made: Value = serde_json::from_str(&made).context("read what init made")?;
        let word = |key: &str| {
            let value = made[key].as_str().map(str::to_owned);
            value.with_context(|| format!("init named no {key}"))
        };
        let ports = [free_port()?, free_port()?, free_port()?];
        let client = dir.join("client.toml");
        let text = format!(
            "endpoint = \"https://127.0.0.1:{}\"\nca = {:?}\ncert = {:?}\nkey = {:?}\n",
            ports[2],
            word("ca")?,
            word("operator_certificate")?,
            word("operator_key")?,
        );
        fs::write(&client, text).context("configure the client")?;
        Ok(Self {
            dir: dir.to_owned(),
            process: None,
            ports,
            client,
            ca: word("ca")?.into(),
            approvers: approvers.clone(),
            for_policy: word("collector_toml")?,
            versions: 0,
        })
    }

    pub(super) fn carrier<'a>(&self, busybox: &'a Path) -> Carrier<'a> {
        let [enroll, evidence, _] = self.ports;
        Carrier {
            busybox,
            ports: [enroll, evidence],
        }
    }

    /// Starts it, trusting who made the machine's TPM.
    pub(super) fn start(&mut self, machine: &Machine) -> Result<()> {
        let (root, between) = machine.maker()?;
        let between: Vec<PathBuf> = between.into_iter().collect();
        let [enroll, evidence, query] = self.ports;
        let config = self.dir.join("collector.toml");
        let text = format!(
            r#"state_dir = {:?}

[listen]
enroll = "127.0.0.1:{enroll}"
evidence = "127.0.0.1:{evidence}"
query = "127.0.0.1:{query}"

[enroll]
ek_roots = [{root:?}]
ek_intermediates = {between:?}

[policy]
approvers = {:?}
threshold = {THRESHOLD}
"#,
            self.dir.join("state"),
            self.approvers.allowed_signers(),
        );
        fs::write(&config, text).context("configure the collector")?;
        let log = self.dir.join("collector.log");
        let log = fs::File::create(&log).with_context(|| format!("make {}", log.display()))?;
        let mut run = tied(built(false, "bailiwick-collector")?);
        run.args(["run", "--config"]).arg(&config);
        run.stdin(Stdio::null())
            .stdout(log.try_clone().context("share a log")?)
            .stderr(log)
            .process_group(0);
        self.process = Some(Running(run.spawn().context("start the collector")?));
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, query)).is_err() {
            if Instant::now() > deadline {
                bail!("the collector does not listen; see {}", self.dir.display());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Has both approvers sign the next version, and brings it.
    pub(super) fn apply(&mut self, inventory: &str, profile: &str) -> Result<u32> {
        let folder = |version: u32| self.dir.join(format!("policy-{version}"));
        let previous = (self.versions > 0).then(|| folder(self.versions).join("manifest.toml"));
        let bundle = folder(self.versions + 1);
        let files = files(inventory, profile, &self.for_policy);
        self.approvers.sign(&bundle, &files, previous.as_deref())?;
        let mut apply = self.client()?;
        cmd::output(apply.args(["policy", "apply"]).arg(&bundle))?;
        self.versions += 1;
        Ok(self.versions)
    }

    /// A query's answer. That a node is not trusted is an answer too, whatever the exit code.
    pub(super) fn ask(&self, words: &[&str]) -> Result<Value> {
        let text = self.told(&[words, &["--output", "json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("read {words:?}"))
    }

    /// The same for people.
    pub(super) fn told(&self, words: &[&str]) -> Result<String> {
        let mut client = self.client()?;
        let out = client
            .args(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .output()
            .context("start the client")?;
        if out.stdout.is_empty() {
            bail!(
                "{}: {}",
                cmd::shown(&client),
                String::from_utf8_lossy(&out.stderr).trim()
            );
        }
        String::from_utf8(out.stdout).context("the client prints text")
    }

    /// Has the client do something that prints nothing.
    pub(super) fn does(&self, words: &[&str]) -> Result<()> {
        let mut client = self.client()?;
        cmd::output(client.args(words)).map(drop)
    }

    /// The configuration of a machine's agent.
    pub(super) fn agent(&self, bank: &str) -> Result<(String, Vec<u8>)> {
        let [enroll, evidence] = SITE_PORTS;
        let text = format!(
            r#"deployment = "{DEPLOYMENT}"
node = "{NODE}"

[collector]
enroll = "{SITE}:{enroll}"
evidence = "{SITE}:{evidence}"
ca_file = "/etc/bailiwick/ca.pem"

[policy]
approvers = "/etc/bailiwick/allowed_signers"
threshold = {THRESHOLD}

[tpm]
bank = "{bank}"

[fence]
root = "/studies"
whole_host = false

[evidence]
interval_s = 15
"#
        );
        let ca = fs::read(&self.ca).with_context(|| format!("read {}", self.ca.display()))?;
        Ok((text, ca))
    }

    fn client(&self) -> Result<std::process::Command> {
        let mut client = cmd::command(built(false, "bailiwick")?);
        client.env("BAILIWICK_CONFIG", &self.client);
        Ok(client)
    }
}
