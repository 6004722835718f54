//! How this machine was booted, as its kernel shows it: what everything measured rests on.

use std::fs;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::Told;
use crate::host::read;

const IMA: &str = "/sys/kernel/security/ima/ascii_runtime_measurements";
const BOOT_LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
const PCRS: &str = "/sys/class/tpm/tpm0/pcr-sha256";
/// There where the TPM has the bank.
const PCRS_384: &str = "/sys/class/tpm/tpm0/pcr-sha384";
/// The variable `SecureBoot` of the EFI global variables: four bytes of attributes, then 0 or 1.
const SECURE_BOOT: &str =
    "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// With an initial ramdisk as root the list has one line, and proves nothing.
const IMA_LINES: usize = 20;

pub(crate) fn run(told: &mut Told, secure: bool) -> Result<()> {
    told.fact("kernel", read("/proc/sys/kernel/osrelease")?)?;
    told.fact("command line", read("/proc/cmdline")?)?;
    drop(crate::host::run(
        "mount -t efivarfs none /sys/firmware/efi/efivars",
    ));
    let variable = fs::read(SECURE_BOOT)
        .ok()
        .and_then(|bytes| bytes.get(4).copied());
    told.check(
        "firmware says whether Secure Boot is on",
        variable.map(|value| value == 1) == Some(secure),
        json!(variable),
    )?;
    let lockdown = read("/sys/kernel/security/lockdown")?;
    let want = if secure { "[integrity]" } else { "[none]" };
    told.check(
        "lockdown follows Secure Boot",
        lockdown.contains(want),
        lockdown,
    )?;
    let modules = read("/sys/kernel/security/lsm")?;
    told.check(
        "BPF is among the security modules",
        modules.split(',').any(|name| name == "bpf"),
        modules,
    )?;
    let unsigned = crate::host::run("insmod /etc/bailiwick/unsigned.ko");
    told.check(
        "a module nobody signed loads only where Secure Boot is off",
        unsigned.is_err() == secure,
        unsigned
            .err()
            .map_or_else(|| "loaded".to_owned(), |why| format!("{why:#}")),
    )?;
    // Started, each with its libraries, so that there is something to measure.
    for words in [
        "/usr/bin/bailiwick-agent --version",
        "ip -V",
        "tc -V",
        "nsenter --version",
    ] {
        crate::host::run(words)?;
    }
    let list = read(IMA)?;
    let lines = list.lines().count();
    told.check(
        "IMA measures what runs from the root disk",
        lines > IMA_LINES,
        lines,
    )?;
    let files: Vec<&str> = list
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .collect();
    told.fact("measured files", json!(files))?;
    for file in [
        "/sbin/init",
        "/usr/bin/bailiwick-vm-guest",
        "/usr/bin/bailiwick-agent",
    ] {
        told.check(
            &format!("{file} is in the list"),
            files.contains(&file),
            lines,
        )?;
    }
    told.check(
        "modules are in the list",
        files.iter().any(|file| file.ends_with(".ko")),
        lines,
    )?;
    told.check(
        "what was measured last is the TPM's",
        extended(&list)?,
        Value::Null,
    )?;
    registers(told)?;
    let boot_log = fs::metadata(BOOT_LOG);
    let bytes = fs::read(BOOT_LOG).map(|log| log.len());
    told.check(
        "the firmware's log is there",
        boot_log.is_ok() && bytes.as_ref().is_ok_and(|length| *length > 1000),
        bytes.unwrap_or(0),
    )?;
    // Read after the registers: a list may run ahead of what the TPM said, never behind it.
    keep(told, "boot-log", BOOT_LOG)?;
    keep(told, "ima-list", IMA)
}

/// For whoever reads it on another machine.
fn keep(told: &mut Told, name: &str, file: &str) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("read {file}"))?;
    told.line(&json!({ "kept": name, "base64": STANDARD.encode(bytes) }))
}

/// Whether PCR 10 is not what it is after a reset.
fn extended(list: &str) -> Result<bool> {
    let value = read(&format!("{PCRS}/10"))?;
    Ok(!list.is_empty() && value.chars().any(|digit| digit != '0'))
}

fn registers(told: &mut Told) -> Result<()> {
    let bank = |folder: &str| -> Result<serde_json::Map<String, Value>> {
        let value = |index| {
            Ok((
                format!("{index}"),
                read(&format!("{folder}/{index}"))?.into(),
            ))
        };
        (0..24).map(value).collect()
    };
    let all = bank(PCRS)?;
    if fs::exists(PCRS_384).context("look for a bank")? {
        told.fact("pcr-sha384", bank(PCRS_384)?)?;
    }
    let measured = |index: &str| {
        all.get(index)
            .and_then(Value::as_str)
            .is_some_and(|value| value.chars().any(|digit| digit != '0'))
    };
    // Firmware, boot loader, Secure Boot's keys; GRUB's commands and files; shim's own.
    let boot = ["0", "4", "7", "8", "9"];
    told.check(
        "firmware, boot loader, keys, commands and files are measured",
        boot.iter().all(|index| measured(index)),
        json!(
            boot.iter()
                .filter(|index| measured(index))
                .collect::<Vec<_>>()
        ),
    )?;
    told.fact("pcr-sha256", all)
}
