//! What a node's verdict turns on: a clean boot is affirmed against the profile captured from one,
//! and each thing that differs turns it, with a reason that names what.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use super::site::NODE;
use super::stage::{Boot, Claims, JUDGED, Stage, Standing, appended, measured, profile};
use super::{packages, variables};

pub(super) const AFFIRMED: &str = "affirming";
pub(super) const REFUSED: &str = "contraindicated";

/// What GRUB writes beside the digest of a kernel's line, and of a command that is none of its own.
const KERNELS: &[u8] = b"kernel_cmdline: (";
const GRUBS: &[u8] = b"grub_cmd: (";

/// Until firmware has found out that it may not run what it found.
const FORBIDDEN: Duration = Duration::from_secs(300);

const BOOT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
const IMA_LIST: &str = "/sys/kernel/security/ima/binary_runtime_measurements";

/// Asked of every version; what is measured of the boot comes behind it.
pub(super) const PROFILE: &str = r#"name = "vm-1"
lease_seconds = 300
max_silence_seconds = 600

[tpm]
bank = "sha256"
require = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14]

[boot]

[ima]
any_violations = true

[fence]
pcr = 13

[[require]]
claim = "fence.policy_version"
at_least = 1
provenance = "measured"
"#;

/// What the next version of the kernel's configuration says.
const UPDATED: &str = "mitigations=off";

/// The node enrols, its profile is captured, and it goes through everything that may befall it.
pub(super) fn play(stage: &mut Stage<'_>) -> Result<()> {
    let mut play = Play::begin(stage)?;
    play.clean()?;
    play.another_command_line()?;
    play.retold_command_line()?;
    play.another_ramdisk()?;
    play.secure_boot_off()?;
    play.updated()
}

/// The same in whatever bank the TPM has.
pub(super) fn in_its_bank(stage: &mut Stage<'_>) -> Result<()> {
    Play::begin(stage)?.clean()
}

/// What was signed once, and is good no more.
pub(super) fn revoked(stage: &mut Stage<'_>) -> Result<()> {
    Play::begin(stage)?.older_shim()
}

pub(super) struct Play<'a, 'b> {
    pub(super) stage: &'a mut Stage<'b>,
    inventory: String,
    /// What every profile begins with.
    head: String,
    /// What the clean boot measured.
    clean: Claims,
    /// What the updated one did.
    updated: Claims,
    clean_log: Vec<u8>,
    /// Digest of the statement judged last.
    last: String,
}

impl<'a, 'b> Play<'a, 'b> {
    pub(super) fn begin(stage: &'a mut Stage<'b>) -> Result<Self> {
        let head = PROFILE.replace("sha256", stage.bank());
        stage.power_on(Boot::default())?;
        stage.start_node()?;
        let inventory = listed(stage)?;
        let first = stage.site.apply(&inventory, &head)?;
        let drafted = stage.judged("", |now| {
            now.verdict == AFFIRMED && now.version == u64::from(first)
        })?;
        let mut play = Self {
            clean: measured(&drafted.result, stage.bank())?,
            updated: Claims::new(),
            clean_log: stage.read(BOOT_LOG)?,
            last: drafted.statement,
            inventory,
            head,
            stage,
        };
        play.apply(
            "the boot that a profile was captured from is affirmed by it",
            &profile(&play.head, &[(&play.clean, "")]),
        )?;
        play.stage.shut_down()?;
        Ok(play)
    }

    pub(super) fn verdict(&mut self, check: &str, want: &str, words: &[&str]) -> Result<Standing> {
        let standing = self.stage.verdict(check, &self.last, want, words)?;
        self.last.clone_from(&standing.statement);
        Ok(standing)
    }

    pub(super) fn boot(&mut self, boot: Boot<'_>) -> Result<()> {
        self.stage.power_on(boot)?;
        self.stage.start_node()
    }

    /// Signs a profile, and waits until the node stands by it.
    fn apply(&mut self, check: &str, profile: &str) -> Result<()> {
        let version = u64::from(self.stage.site.apply(&self.inventory, profile)?);
        let standing = self.stage.judged(&self.last, |now| {
            now.verdict == AFFIRMED && now.version == version
        })?;
        self.stage.check(
            check,
            standing.verdict == AFFIRMED && standing.version == version,
            json!({ "verdict": standing.verdict, "policy": standing.version, "of": version,
                "asked": profile.matches("[[require]]").count() }),
        );
        self.last = standing.statement;
        Ok(())
    }

    fn clean(&mut self) -> Result<()> {
        self.boot(Boot::default())?;
        self.verdict(
            "a clean boot is affirmed against the captured profile",
            AFFIRMED,
            &[],
        )?;
        let list = self.stage.read(IMA_LIST)?;
        let half = first_half(&list).context("IMA's list has entries")?;
        put_over(self.stage, IMA_LIST, half)?;
        self.verdict(
            "an IMA list cut short is refused",
            REFUSED,
            &["ima.list", "PCR 10"],
        )?;
        take_away(self.stage, IMA_LIST)?;
        self.verdict("the whole list restores standing", AFFIRMED, &[])?;
        self.stage.shut_down()
    }

    fn another_command_line(&mut self) -> Result<()> {
        self.boot(Boot {
            words: UPDATED,
            ..Boot::default()
        })?;
        let standing = self.verdict(
            "another command line is refused",
            REFUSED,
            &["boot.command_line", UPDATED],
        )?;
        self.updated = measured(&standing.result, self.stage.bank())?;
        let clean = self.clean_log.clone();
        put_over(self.stage, BOOT_LOG, &clean)?;
        self.verdict(
            "the log of a clean boot, shown for this one, is refused by its registers",
            REFUSED,
            &["boot.log.pcr.8", "boot.log.pcr.9"],
        )?;
        take_away(self.stage, BOOT_LOG)?;
        let forged = forged(self.stage.read(BOOT_LOG)?)?;
        put_over(self.stage, BOOT_LOG, &forged)?;
        self.verdict(
            "words that a log's digests are not of are no claim, and what asks for them is refused",
            REFUSED,
            &["boot.command_line", "not in the evidence"],
        )?;
        self.stage.shut_down()
    }

    /// GRUB hashes a command as it hashes a kernel's line: only the words beside the digest say which it
    /// was.
    fn retold_command_line(&mut self) -> Result<()> {
        self.boot(Boot {
            words: UPDATED,
            retold: true,
            ..Boot::default()
        })?;
        let told = self.verdict(
            "beside a command that could be a kernel's line, no line is a claim",
            REFUSED,
            &["boot.command_line", "not in the evidence"],
        )?;
        let honest = self.stage.read(BOOT_LOG)?;
        let forged = renamed(&honest, GRUBS, KERNELS).context("GRUB ran the clean boot's line")?;
        let forged = renamed(&forged, KERNELS, GRUBS).context("GRUB started a kernel")?;
        put_over(self.stage, BOOT_LOG, &forged)?;
        let found = self.verdict(
            "a command that a log calls the kernel's line is none",
            REFUSED,
            &["boot.command_line", "not in the evidence"],
        )?;
        let (before, after) = (
            measured(&told.result, self.stage.bank())?,
            measured(&found.result, self.stage.bank())?,
        );
        self.stage.check(
            "the log with other words says the same",
            forged != honest && before == after,
            json!({ "asked": after.len() }),
        );
        take_away(self.stage, BOOT_LOG)?;
        self.stage.shut_down()
    }

    fn another_ramdisk(&mut self) -> Result<()> {
        let other = self.stage.scratch("initrd-other");
        // Behind an archive's end the kernel skips zeros; GRUB measures the file.
        appended(&self.stage.disks.initrd, &[0; 512], &other)?;
        self.boot(Boot {
            initrd: Some(&other),
            ..Boot::default()
        })?;
        self.verdict(
            "another initial ramdisk is refused",
            REFUSED,
            &["boot.files", "tpm.pcr.sha256.9"],
        )?;
        self.stage.shut_down()
    }

    fn secure_boot_off(&mut self) -> Result<()> {
        let settings = self.stage.machine.variables();
        variables::secure_boot(&settings, false)?;
        self.boot(Boot::default())?;
        self.verdict(
            "Secure Boot off is refused",
            REFUSED,
            &["boot.secure_boot", "false"],
        )?;
        self.stage.shut_down()?;
        variables::secure_boot(&settings, true)
    }

    /// Old and new are both good for a while.
    fn updated(&mut self) -> Result<()> {
        self.boot(Boot::default())?;
        self.verdict("a clean boot restores standing", AFFIRMED, &[])?;
        let later = "not_after = \"2100-01-01T00:00:00Z\"";
        let both = profile(&self.head, &[(&self.clean, later), (&self.updated, "")]);
        self.apply("an update is signed while the old boot is good", &both)?;
        self.stage.shut_down()?;
        self.boot(Boot {
            words: UPDATED,
            ..Boot::default()
        })?;
        self.verdict("the updated boot is affirmed as well", AFFIRMED, &[])?;
        self.stage.shut_down()
    }

    /// Signed by the same, and taken back: by the profile, which the collector holds against it,
    /// then by the firmware's list, which does not let it run.
    fn older_shim(&mut self) -> Result<()> {
        let shim = packages::older_shim()?;
        self.boot(Boot {
            shim: Some(&shim),
            ..Boot::default()
        })?;
        let standing = self.verdict(
            "an older signed shim boots, and is refused as unknown",
            REFUSED,
            &["boot.applications"],
        )?;
        let older = measured(&standing.result, self.stage.bank())?;
        let revoked = "revoked = \"2026-01-01T00:00:00Z\", name = \"the older shim\"";
        let text = profile(&self.head, &[(&self.clean, ""), (&older, revoked)]);
        self.stage.site.apply(&self.inventory, &text)?;
        self.verdict(
            "an older signed shim that the profile revokes is refused as such",
            REFUSED,
            &["boot.applications", "revoked since"],
        )?;
        self.stage.shut_down()?;
        let applications = self.clean.get("boot.applications");
        let shim = applications
            .and_then(|all| all.as_str()?.split(',').next())
            .context("the clean boot ran applications")?;
        // `sha256:` may stand before it.
        let digest = shim.rsplit(':').next().unwrap_or(shim).to_owned();
        variables::forbid(&self.stage.machine.variables(), &digest)?;
        self.stage.start_firmware(Boot::default())?;
        let denied = self.stage.console(
            FORBIDDEN,
            &["Access Denied", "Security Violation", "Welcome to GRUB"],
        )?;
        self.stage.check(
            "a shim that stands in dbx does not boot",
            matches!(denied, Some("Access Denied" | "Security Violation")),
            json!(denied),
        );
        self.stage.cut_power()
    }
}

/// What the inventory says of the node that came.
pub(super) fn listed(stage: &mut Stage<'_>) -> Result<String> {
    let begun = Instant::now();
    let ek = loop {
        let nodes = stage.site.ask(&["nodes"])?;
        let first = nodes.as_array().and_then(|nodes| nodes.first()).cloned();
        if let Some(ek) = first.as_ref().and_then(|node| node["ek"].as_str()) {
            break ek.to_owned();
        }
        if begun.elapsed() > JUDGED {
            bail!("no node came; see {}", stage.machine.dir().display());
        }
        thread::sleep(Duration::from_millis(500));
    };
    Ok(format!(
        "[[node]]\nname = \"{NODE}\"\nek = \"{ek}\"\nplace = \"a test machine\"\njurisdiction = \"DE\"\n"
    ))
}

/// The agent reads something else where the kernel shows a log.
fn put_over(stage: &mut Stage<'_>, log: &str, bytes: &[u8]) -> Result<()> {
    stage.write("/run/put-over", bytes, false)?;
    stage.run(&format!("mount --bind /run/put-over {log}"))?;
    stage.restart_agent()
}

/// The kernel's own again.
fn take_away(stage: &mut Stage<'_>, log: &str) -> Result<()> {
    stage.run(&format!("umount {log}"))?;
    stage.restart_agent()
}

/// The first event whose data begin so, with another beginning; digests stay as they were.
fn renamed(log: &[u8], from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    let at = log.windows(from.len()).position(|some| some == from)?;
    let (before, rest) = log.split_at_checked(at.checked_sub(4)?)?;
    let (len, data) = rest.split_first_chunk::<4>()?;
    let (len, from_len) = (u32::from_le_bytes(*len), u32::try_from(from.len()).ok()?);
    let len = len.checked_sub(from_len)? + u32::try_from(to.len()).ok()?;
    Some([before, &len.to_le_bytes(), to, data.get(from.len()..)?].concat())
}

/// Another digit in the kernel's command line, which GRUB measured; its digest as it was, so that
/// the log replays.
fn forged(mut log: Vec<u8>) -> Result<Vec<u8>> {
    const LINE: &[u8] = b"kernel_cmdline: ";
    const LEVEL: &[u8] = b"loglevel=4";
    let find = |from: usize, words: &[u8]| {
        let rest = log.get(from..)?;
        let at = rest.windows(words.len()).position(|some| some == words)?;
        Some(from + at)
    };
    let level = find(0, LINE).and_then(|line| find(line, LEVEL));
    let level = level.context("the command line stands in the log")?;
    if let Some(digit) = log.get_mut(level + LEVEL.len() - 1) {
        *digit = b'7';
    }
    Ok(log)
}

/// Whole entries of the kernel's binary list: register, template hash, name with its length, data
/// with its length, little-endian (`ima_measurements_show`).
fn first_half(list: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| -> Option<usize> {
        let bytes = list.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let mut ends = Vec::new();
    let mut at = 0;
    while at < list.len() {
        // SHA-1, whatever the bank.
        let name = at + 4 + 20;
        let data = name + 4 + number(name)?;
        at = data + 4 + number(data)?;
        ends.push(at);
    }
    list.get(..*ends.get(ends.len() / 2)?)
}
