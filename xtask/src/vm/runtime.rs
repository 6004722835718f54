//! What root does while a machine runs. With the strict part in the profile it leaves a trace that
//! turns the verdict and is named; without it the fence's claims are root's word, and say so.

use std::fs;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::site::NODE;
use super::stage::{Boot, Stage, Standing};
use super::validated::{AFFIRMED, PROFILE, REFUSED, listed};

/// What has to be on the command line before the fence's claims are more than root's word.
const STRICT: &str = "lockdown=integrity module.sig_enforce=1 sysctl.kernel.kexec_load_disabled=1";
const SET: &str = "root-cannot-lie-1";

/// A program that is known, until it is another.
const TOOL: &str = "/usr/bin/busybox-study";
/// Signed by the distribution, and part of no boot so far.
const MODULE: &str = "/modules/dummy.ko";
const ATTACKER: &str = "/usr/bin/attacker";

pub(super) fn play(stage: &mut Stage<'_>) -> Result<()> {
    let mut runtime = Runtime::begin(stage)?;
    runtime
        .captured("a profile captured from a running node, its strict part added, is met by it")?;
    runtime.changed()?;
    runtime.captured("what was approved after it came is known")?;
    runtime.forged()?;
    runtime.stage.shut_down()
}

struct Runtime<'a, 'b> {
    stage: &'a mut Stage<'b>,
    inventory: String,
    /// The agent's program, SHA-256.
    agent: String,
    /// The profile with its strict part.
    strict: String,
    last: String,
}

impl<'a, 'b> Runtime<'a, 'b> {
    fn begin(stage: &'a mut Stage<'b>) -> Result<Self> {
        stage.power_on(Boot {
            words: STRICT,
            ..Boot::default()
        })?;
        // The kernel measures what root reads, and an agent's state is new all the time. It leaves
        // out what lies in memory.
        stage.run("mount -t tmpfs none /var/lib/bailiwick")?;
        // Of its own content: files are known by that.
        let make = format!("cp /bin/busybox {TOOL} && echo study >> {TOOL}");
        stage.order(&json!({ "run": ["sh", "-c", make] }))?;
        stage.run(&format!("{TOOL} true"))?;
        let digest = stage.run("sha256sum /usr/bin/bailiwick-agent")?;
        let digest = digest["out"].as_str().unwrap_or_default();
        let agent = digest.split_whitespace().next().unwrap_or_default();
        let agent = agent.to_owned();
        stage.start_node()?;
        let inventory = listed(stage)?;
        let first = u64::from(stage.site.apply(&inventory, PROFILE)?);
        let standing = stage.judged("", |now| now.verdict == AFFIRMED && now.version == first)?;
        if standing.verdict != AFFIRMED {
            bail!("the node was never affirmed: {}", standing.result);
        }
        Ok(Self {
            stage,
            inventory,
            agent,
            strict: String::new(),
            last: standing.statement,
        })
    }

    fn verdict(&mut self, check: &str, want: &str, words: &[&str]) -> Result<Standing> {
        let standing = self.stage.verdict(check, &self.last, want, words)?;
        self.last.clone_from(&standing.statement);
        Ok(standing)
    }

    /// Signs a profile, and says whether the node stands by it, and by whose word.
    fn apply(&mut self, check: &str, profile: &str, word: &str) -> Result<()> {
        let version = u64::from(self.stage.site.apply(&self.inventory, profile)?);
        let standing = self.stage.judged(&self.last, |now| {
            now.verdict == AFFIRMED && now.version == version
        })?;
        let found = fence_word(&standing.result);
        let good = standing.verdict == AFFIRMED && standing.version == version && found == word;
        self.stage.check(
            check,
            good,
            json!({ "verdict": standing.verdict, "fence.word": found,
                "policy": standing.version, "of": version }),
        );
        self.last = standing.statement;
        Ok(())
    }

    /// Drafts a profile by the client, adds the strict part, and has it signed.
    fn captured(&mut self, check: &str) -> Result<()> {
        let words = ["profile", "capture", NODE, "--name", "vm-runtime"];
        let draft = self.stage.site.told(&words)?;
        if !draft.contains(TOOL) {
            bail!("the draft does not know {TOOL}: {draft}");
        }
        self.strict = format!(
            "{}\n[strict]\nset = \"{SET}\"\nagent = [\"{}\"]\n",
            draft.trim_end(),
            self.agent
        );
        let strict = self.strict.clone();
        self.apply(check, &strict, SET)
    }

    /// One after the other, in one boot: what is in the list stays in the list.
    fn changed(&mut self) -> Result<()> {
        let order = json!({ "run": ["sh", "-c", format!("echo changed >> {TOOL}")] });
        self.stage.order(&order)?;
        self.stage.run(&format!("{TOOL} true"))?;
        self.verdict(
            "an executable changed at run time is refused",
            REFUSED,
            &[TOOL, "ima.unknown", "known under that name"],
        )?;
        self.stage.run(&format!("insmod {MODULE}"))?;
        self.verdict(
            "a kernel module that is not in the profile is refused, signed or not",
            REFUSED,
            &[MODULE],
        )?;
        // Claims are read before the quote: the statement whose list has it may count modules from
        // before.
        let later = self
            .stage
            .judged(&self.last, |now| now.verdict == REFUSED)?;
        self.last = later.statement;
        Ok(())
    }

    /// The fence is gone, and the TPM signs that it stands.
    fn forged(&mut self) -> Result<()> {
        self.apply(
            "without the strict part the fence's claims are root's word",
            PROFILE,
            "root",
        )?;
        self.stage.order(&json!({ "stop": "run" }))?;
        self.stage
            .run("cp /run/bailiwick/fence.log /run/early.log")?;
        self.stage.order(&json!({ "stop": "fence" }))?;
        self.stage.run("rm -r /sys/fs/bpf/bailiwick")?;
        self.forge()?;
        let standing = self.verdict(
            "root detached the fence and forged the statement: a profile without the strict part \
             believes it, as root's word",
            AFFIRMED,
            &[],
        )?;
        let word = fence_word(&standing.result);
        self.stage.check(
            "and the result says whose word that is",
            word == "root",
            json!({ "fence.word": word }),
        );
        let strict = self.strict.clone();
        self.stage.site.apply(&self.inventory, &strict)?;
        self.forge()?;
        self.verdict(
            "the same forgery under the strict part: what root ran for it is in the list",
            REFUSED,
            &[ATTACKER, "ima.unknown"],
        )
        .map(drop)
    }

    /// The node's own newest statement, as if nothing had been, quoted now.
    fn forge(&mut self) -> Result<()> {
        let file = self.stage.scratch("stored-statement");
        let path = file.display().to_string();
        self.stage
            .site
            .does(&["node", "statement", NODE, "--out", &path])?;
        let stored = fs::read(&file).context("read the stored statement")?;
        self.stage.write("/run/stored", &stored, false)?;
        let order = json!({ "run": [
            ATTACKER, "forge", "--config", "/etc/bailiwick/agent.toml",
            "--stored", "/run/stored", "--honest", "/run/stored", "--log", "/run/early.log",
            "--list", "/sys/kernel/security/ima/binary_runtime_measurements",
            "--forge", "nothing", "--tried", "as if nothing had been", "--expected", "",
        ] });
        self.stage.order(&order).map(drop)
    }
}

/// Whose word the fence's claims are.
fn fence_word(result: &Value) -> String {
    let submods = result["submods"].as_object().into_iter().flatten();
    let mut claims = submods.map(|(_, submod)| &submod["bailiwick.claims"]["fence.word"]["value"]);
    let word = claims.find_map(Value::as_str);
    word.unwrap_or_default().to_owned()
}
