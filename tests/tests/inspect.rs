//! `bailiwick inspect` on what a TPM and tpm2-tools write, and its exit codes.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::path::{Path, PathBuf};
use std::process::Command;

use bailiwick_tests::swtpm::SoftTpm;
use serde_json::Value;

/// Runs `bailiwick inspect` with arguments separated by spaces.
fn inspect(folder: &Path, arguments: &str) -> (Option<i32>, Value) {
    let here = std::env::current_exe().unwrap();
    let profile = here.parent().and_then(Path::parent).unwrap();
    let binary = profile.join("bailiwick");
    assert!(
        binary.is_file(),
        "{} is missing: build the workspace first",
        binary.display()
    );
    let output = Command::new(binary)
        .arg("inspect")
        .args(arguments.split_whitespace())
        .args(["--output", "json"])
        .current_dir(folder)
        .output()
        .unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code(), report)
}

/// A TPM with a quote over SHA-256 PCRs 0, 7 and 16, and its files.
fn quoted() -> (SoftTpm, PathBuf) {
    let tpm = SoftTpm::start().unwrap();
    for command in [
        "tpm2_pcrextend 16:sha256=0101010101010101010101010101010101010101010101010101010101010101",
        "tpm2_createprimary -C e -G ecc256:ecdsa-sha256:null -c ak.ctx -f tpmt -o ak.tpmt \
         -a fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign|restricted",
        "tpm2_readpublic -c ak.ctx -f tss -o ak.tss",
        "tpm2_readpublic -c ak.ctx -f pem -o ak.pem",
        "tpm2_readpublic -c ak.ctx -f der -o ak.der",
        "tpm2_quote -c ak.ctx -l sha256:0,7,16 -q 00112233 -m attest -s signature \
         -o pcrs.serialized -F serialized",
        "tpm2_quote -c ak.ctx -l sha256:0,7,17 -q 00112233 -m other -s other.signature \
         -o other.serialized -F serialized",
    ] {
        tpm.tool(command).unwrap();
    }
    let read = Command::new("tpm2_pcrread")
        .arg("sha256:0,7,16")
        .env("TPM2TOOLS_TCTI", tpm.tcti())
        .output()
        .unwrap();
    let folder = tpm.path("");
    std::fs::write(folder.join("pcrs.yaml"), read.stdout).unwrap();
    let flipped = |from: &str, to: &str| {
        let mut bytes = std::fs::read(folder.join(from)).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(folder.join(to), bytes).unwrap();
    };
    flipped("attest", "attest.flipped");
    flipped("signature", "signature.flipped");
    std::fs::write(folder.join("large"), vec![b'{'; 1 << 20]).unwrap();
    (tpm, folder)
}

#[test]
fn every_form_of_a_real_quote_is_read_and_its_neighbours_are_refused() {
    let (_tpm, folder) = quoted();
    let good = "--attest attest --signature signature --nonce 00112233";
    for (arguments, exit, code) in [
        (format!("{good} --ak ak.tpmt --pcrs pcrs.serialized"), 0, ""),
        (format!("{good} --ak ak.tss --pcrs pcrs.yaml"), 0, ""),
        (format!("{good} --ak ak.pem"), 0, ""),
        (format!("{good} --ak ak.der"), 0, ""),
        (good.to_owned(), 1, ""),
        ("--attest attest --ak ak.tpmt".to_owned(), 1, ""),
        (
            format!("{good} --ak ak.tpmt --pcrs other.serialized"),
            2,
            "pcr-missing",
        ),
        (
            format!("{good} --ak ak.tpmt --pcrs large"),
            2,
            "file-too-large",
        ),
        (
            format!("{good} --ak ak.tpmt --pcrs attest"),
            2,
            "pcr-values",
        ),
        (format!("{good} --ak pcrs.yaml"), 2, "malformed"),
        (
            "--attest attest.flipped --signature signature --ak ak.tpmt".to_owned(),
            2,
            "signature",
        ),
        (
            "--attest attest --signature signature.flipped --ak ak.tpmt".to_owned(),
            2,
            "signature",
        ),
        (
            "--attest attest --signature other.signature --ak ak.tpmt".to_owned(),
            2,
            "signature",
        ),
        ("--attest attest --nonce 0011223344".to_owned(), 2, "nonce"),
        ("--attest signature".to_owned(), 2, "malformed"),
    ] {
        let (status, report) = inspect(&folder, &format!("tpm-quote {arguments}"));
        assert_eq!(status, Some(exit), "{arguments}: {report:#}");
        let refusals = report["refusals"].as_array().unwrap();
        let found = refusals.iter().any(|refusal| refusal["code"] == code);
        assert_eq!(found, !code.is_empty(), "{arguments}: {report:#}");
    }
    let (_, report) = inspect(&folder, &format!("tpm-quote {good} --ak ak.tpmt"));
    assert_eq!(report["facts"]["selection"], serde_json::json!([0, 7, 16]));
    assert_eq!(report["facts"]["bank"], "sha256");
    assert_eq!(report["facts"]["extra_data"], "00112233");
}

#[test]
fn what_could_not_be_told_is_not_refused() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        "tpm-quote",
        "tpm-quote --attest absent",
        "tpm-quote --attest absent --nonce xyz",
        "tpm-quote --no-such-option",
        "no-such-kind",
        "ek-cert absent --roots absent",
        "ek-cert absent",
        "ek-cert absent --roots absent --at yesterday",
    ] {
        let (status, report) = inspect(folder.path(), arguments);
        assert_eq!(status, Some(1), "{arguments}");
        assert_eq!(report, Value::Null, "{arguments}: no verdict");
    }
}
