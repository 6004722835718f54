//! What the kernel says about itself.

use bailiwick_attestation::proto::v1::{Claim, claim::Value};

use super::{Host, from_file, text};

pub(super) fn claims(host: &Host, out: &mut Vec<Claim>) {
    let proc = |file| host.proc.join(file);
    let sys = |file| host.sys.join(file);
    out.extend([
        from_file("kernel.release", &proc("sys/kernel/osrelease"), text),
        from_file("kernel.version", &proc("sys/kernel/version"), text),
        from_file("kernel.cmdline", &proc("cmdline"), text),
        from_file("kernel.taint", &proc("sys/kernel/tainted"), number),
        from_file(
            "kernel.kexec-disabled",
            &proc("sys/kernel/kexec_load_disabled"),
            flag,
        ),
        from_file("kernel.lockdown", &sys("kernel/security/lockdown"), chosen),
        from_file("kernel.lsm", &sys("kernel/security/lsm"), text),
        from_file(
            "kernel.module-signatures",
            &sys("module/module/parameters/sig_enforce"),
            flag,
        ),
    ]);
}

fn number(text: String) -> Result<Value, String> {
    match text.parse() {
        Ok(number) => Ok(Value::Number(number)),
        Err(_) => Err(format!("{text:?} is not a number")),
    }
}

fn flag(text: String) -> Result<Value, String> {
    match text.as_str() {
        "Y" | "1" => Ok(Value::Flag(true)),
        "N" | "0" => Ok(Value::Flag(false)),
        _ => Err(format!("{text:?} is neither yes nor no")),
    }
}

/// `none [integrity] confidentiality`: the word in brackets holds.
fn chosen(text: String) -> Result<Value, String> {
    text.split_whitespace()
        .find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
        .map(|word| Value::Text(word.to_owned()))
        .ok_or_else(|| format!("{text:?} marks no choice"))
}
