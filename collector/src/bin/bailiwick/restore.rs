//! What restores standing, by the code of what is wrong.

/// What restores standing, by the deviation's code.
pub(crate) fn restore(code: &str) -> &'static str {
    match code {
        "pending" => "have approvers list this TPM in inventory.toml and sign a new policy",
        "no-policy" => "apply a signed policy: bailiwick policy apply FOLDER",
        "policy-absent" | "policy-behind" => {
            "the node has been offered the policy; if it stays so, read its agent's log"
        }
        "policy-ahead" => "apply the newer policy here: bailiwick policy apply FOLDER",
        "other-policy" => {
            "two manifests of one version exist: find out who signed them, then sign a later one"
        }
        "other-approvers" => {
            "the node was installed with other approvers than this collector: reinstall one of them"
        }
        "policy-expired" => "sign and apply a new version with a later not_after",
        "pcr-value" => {
            "the machine booted something else than was validated: boot what was, or, if the change \
             is approved, add the new value to profile.toml and sign"
        }
        "pcr-not-quoted" => "add the register to the agent's configuration",
        "fence-mode" | "fence-fault" => {
            "the fence is not whole: restart bailiwick-fence, and find out who detached it"
        }
        "claim-value" => {
            "bring the machine back to what the profile demands, or sign a profile that allows this"
        }
        "boot-log-replay" => {
            "something was measured that this log does not say: read the log on the machine itself, with \
             bailiwick inspect tcg-eventlog --pcrs; if its firmware leaves events out, name the register \
             under boot.unreplayable in profile.toml and sign"
        }
        "boot-log-missing" | "ima-list-missing" => {
            "the kernel gave none (a TPM driver loaded too late, IMA off), or this collector lost what \
             came with the first statement of the boot: restart the agent"
        }
        "digest-not-of-data"
        | "unexpected-event"
        | "policy-twice"
        | "no-separator"
        | "startup-locality"
        | "startup-locality-late"
        | "separator-error"
        | "separator-data" => {
            "the log contradicts itself, as a forged one does: treat the machine as tampered with until \
             its firmware explains it"
        }
        "duplicate-separator" => {
            "known of some OVMF builds: if this is one, name the quirk under boot.quirks and sign"
        }
        "ima-replay" | "ima-entry" => {
            "the list is not what PCR 10 was extended with: treat the machine as tampered with"
        }
        "ima-violations" => {
            "files were open for writing while they were measured: exclude what does so from the IMA \
             policy, or allow a number under [ima] in profile.toml and sign"
        }
        "file-unknown" | "file-more" => {
            "nobody approved what ran or was read: take it off the machine and reboot it, or list its \
             digest under [ima] in profile.toml and sign"
        }
        "file-key" | "file-signature" => {
            "its signature is by a key that the profile does not list, or not over these bytes: \
             replace the file and reboot, or list its digest under [ima] and sign"
        }
        "file-early" | "file-ended" | "file-revoked" => {
            "it is known, and not good now: replace it and reboot, or sign other dates under [ima]"
        }
        "revoked" => {
            "it was good once and is taken back, whatever else allows it: replace it on the machine"
        }
        "strict-secure-boot"
        | "strict-command-line"
        | "strict-lockdown"
        | "strict-modules"
        | "strict-kexec"
        | "strict-ima-policy"
        | "strict-overrides"
        | "strict-boot-aggregate" => {
            "until this is measured, root may have said all of it: boot the machine as the strict part \
             of the profile demands, or leave the strict part out and take the fence's claims for root's \
             word"
        }
        "strict-unknown" | "strict-agent" => {
            "something ran that the profile does not know, or the agent is not the one it names: treat \
             the machine as tampered with, or list what is approved and sign"
        }
        "pcr-ended" | "pcr-early" | "pcr-revoked" | "claim-ended" | "claim-early"
        | "claim-revoked" => {
            "it is known, and not good now: bring the machine to what is, or sign other dates"
        }
        "claim-missing" | "claim-unavailable" => {
            "the agent did not or could not read this: see its log, or its version"
        }
        "claim-provenance" => "the profile wants a better source than this machine has",
        "gap" | "sequence-gap" => {
            "part of the record is lost and stays so; the next whole statement restores standing"
        }
        "epoch-changed" => "the node lost its log; look at its disk before you believe it again",
        "chain-broken" | "sequence-repeated" => {
            "two histories of one node exist: a restored snapshot or a copied disk; find the other"
        }
        "epoch-unacknowledged" => {
            "look at the node, then: bailiwick enroll approve NODE, and sign the policy"
        }
        "ak-not-of-node" => "have an approver challenge it: bailiwick enroll approve NODE",
        "chassis-serial" | "device-missing" | "device-of-another-node" => {
            "compare machine and inventory.toml; whichever is wrong, put right"
        }
        "gpu-of-another-node" | "gpu-not-of-node" | "gpu-of-node-missing" => {
            "a chip's own certificate says so: find out which host it is in; if it was moved, change \
             inventory.toml and sign"
        }
        "gpu-unlisted" => "list the identifiers of its GPUs (PDI-…) in inventory.toml and sign",
        "not-hardware" => {
            "what answered is no GPU that proves itself under NVIDIA's root: look at what is in the host"
        }
        "rim-missing" | "rim-signer-expired" | "revocation-unknown" => {
            "bring newer documents: bailiwick endorsements import, into the collector's store"
        }
        "ocsp-signature" => {
            "a response among the endorsements is signed by nobody who may: find out who brought it, \
             and take it out of the store"
        }
        "device-unlisted" => "list the device in inventory.toml, or take it out",
        "chassis-unavailable" | "devices-unavailable" | "clock-unsafe" => {
            "see why the node could not read it; the next statement is judged anew"
        }
        "tpm-cleared" => "somebody cleared the TPM: enrol the node again and have it confirmed",
        "clock-went-back" => "the TPM's clock was set back: treat the machine as tampered with",
        "reset-without-boot" | "boot-without-reset" => {
            "boot and TPM do not agree (kexec, or a reset chip): power-cycle the machine"
        }
        "unchallenged" => "none needed: it was out of reach; the next challenge is answered anew",
        "node-name" => "correct the node's name in its agent's configuration",
        "approvers-behind" => {
            "the node has not taken the change of approvers yet: read its agent's log"
        }
        "boot-aggregate" | "boot-aggregate-missing" => {
            "the list is not of this boot, or its beginning is gone: treat the machine as tampered with"
        }
        "boot-aggregate-zero" => {
            "the kernel found no TPM in time, or no bank whose hash is built into it: build the TPM's \
             driver in, and give the TPM a SHA-256 bank"
        }
        "boot-log-malformed"
        | "boot-log-of-guest"
        | "ima-list-malformed"
        | "userspace-log-malformed"
        | "userspace-log-too-long" => {
            "read it on the machine itself with bailiwick inspect, which names the place: it was changed, \
             or is of a form not known here"
        }
        "bank-absent" | "bank-incomplete" | "no-complete-bank" => {
            "the machine's log does not have the profile's bank: choose another under [tpm], or have its \
             firmware measure into this one"
        }
        "enter-initrd" | "leave-initrd" => {
            "systemd measured its phases otherwise than a clean boot does: boot it again, and find out \
             what ran before"
        }
        "clock-skew" => "put its time service right; where it is right, look at the collector's",
        "clock-disagrees" => {
            "the TPM's clock and the machine's tell two stories of one time: see who set which"
        }
        "quoted-late" | "signed-in-advance" => {
            "it was signed long before or after what it says: find out who held it back or made it early"
        }
        "history-number" | "receipt-unknown" => {
            "what it signed while it was out of reach hangs on a receipt that is not known here: restore \
             this collector's record, or take the history for the node's word"
        }
        "endorsement-expired" => {
            "have its maker's certificate renewed, or list it in inventory.toml again and sign"
        }
        "default-deny" => {
            "a fence that lets pass what no rule names is none: sign a policy that denies"
        }
        "device-granted" => {
            "a study holds a device that the policy gives to nobody or to another: end what holds it"
        }
        "module-not-as-loaded" => {
            "its file is another than what was loaded: after an update of the driver, reboot or load it \
             anew; if nobody updated it, treat the machine as tampered with"
        }
        "driver-versions-differ" => {
            "library, module and /proc are of two drivers: reload the module, or reboot the machine"
        }
        "fence-log-missing" | "fence-log-unavailable" | "fence-unknown" => {
            "the fence's word did not come: restart bailiwick-fence and the agent, and read their logs"
        }
        "fence-log-malformed"
        | "fence-log-changed"
        | "fence-log-mismatch"
        | "fence-log-does-not-replay" => {
            "what it says of its fence is not what was extended: treat the machine as tampered with, and \
             reboot it to clear the register"
        }
        "gpu-missing" | "gpu-unavailable" | "gpu-not-kept" => {
            "no report of its GPUs came: see the agent's log for what their library says, and ask again \
             with bailiwick challenge NODE"
        }
        "gpu-report-old" | "gpu-unanchored" => {
            "its report is not of this challenge's time: ask again with bailiwick challenge NODE"
        }
        "gpu-not-proven" | "gpu-count" => {
            "not every GPU answered: look at the host, or sign another number under [gpu]"
        }
        "gpu-mode" | "gpu-devtools" => {
            "set the GPUs to the mode that [gpu] asks for, and reset them; in any other they prove nothing"
        }
        "gpu-architecture" | "gpu-driver" | "gpu-vbios" | "fwid-not-reported" => {
            "bring driver or VBIOS to what [gpu] names, or sign a profile that names this one"
        }
        "gpu-disagreement" => {
            "its driver says something else than its GPU signed: treat the host as tampered with"
        }
        "measurement-mismatch" | "rim-conflict" => {
            "its firmware or driver is not what its maker published: find out who changed it, or bring \
             the maker's newer reference values"
        }
        "uncovered-measurement" => {
            "no reference value says what this is: bring those that do, or name it under gpu.uncovered"
        }
        "topology" | "topology-incomplete" => {
            "GPUs and switches do not name each other: have all of them report, and look at the links"
        }
        "cvm-missing" | "cvm-unavailable" | "cvm-refused" => {
            "no report of its processor came: see the agent's log; a guest needs /sys/kernel/config/tsm or \
             /dev/sev-guest, and a machine that is no confidential guest another profile"
        }
        "cvm-key-missing" | "cvm-chain-missing" | "cvm-certificate-expired" => {
            "bring the certificates of its chip's key for the firmware it runs now: bailiwick endorsements \
             import; of AMD's they are at the key distribution service"
        }
        "cvm-collateral-missing"
        | "cvm-collateral-expired"
        | "cvm-collateral"
        | "cvm-revocation-unknown" => {
            "bring what its maker publishes now (collateral, lists of revoked certificates): bailiwick \
             endorsements import"
        }
        "cvm-report-data" => {
            "its report is of another statement, challenge or TPM: somebody played an old one, or brings \
             another guest's; treat the node as impersonated"
        }
        "cvm-runtime-data" | "cvm-vtpm-ak" | "cvm-vtpm-level" => {
            "what names its vTPM's key is not its paravisor's word for the key that signs: name the paravisor's \
             key in tpm.ak_handle and enrol again; if it is there, treat the node as impersonated"
        }
        "cvm-vtpm-ek" => {
            "its SVSM keeps a TPM with another EK than it enrolled with: set tpm.ek in agent.toml to the kind \
             the SVSM has (rsa-2048) and enrol again; if it is that, treat the node as impersonated"
        }
        "cvm-not-fresh" => {
            "its paravisor has not made a report for this question yet: ask again with bailiwick challenge \
             NODE; where it never does, sign stale = true under [cvm.vtpm]"
        }
        "cvm-quote-missing" => {
            "a TD report proves nothing to anybody but its own processor: ask for no more of this guest than \
             provider-signed, and for nothing under cvm.*"
        }
        "cvm-debug" => {
            "its host can read this guest: launch it with another policy; what it held is no secret any more"
        }
        "cvm-chip-not-of-node" => {
            "it runs on a chip that its inventory entry does not name: find out who moved it; if it was \
             moved, name the chip (SNP-…, TDX-…) in inventory.toml and sign"
        }
        "cvm-unlisted" => "list the chip it runs on (SNP-…, TDX-…) in inventory.toml and sign",
        "cvm-tcb" | "cvm-tcb-status" | "cvm-firmware" => {
            "its maker takes this firmware back or calls it out of date: update the host, or sign a profile \
             that allows this under [cvm]"
        }
        "cvm-kind" => "this collector does not judge that kind of report: update it",
        "evidence-malformed" => {
            "its agent is newer than this collector, or something between them changes what it sends"
        }
        "instance-identity" => "two machines show one identity: find the copy",
        "signer-kind" => "a TPM signed it and a guest enrolled, or the other way round",
        "signer-not-of-node" => {
            "it signs as what the inventory does not list it as: list it as a [[node]] with its TPM, or as a \
             [[guest]] without one, and sign; if neither is so, treat it as impersonated"
        }
        "registers-unsigned" => {
            "a guest without a TPM has no register: hold guests against a guest-profile.toml that asks for none"
        }
        "guest-key" => {
            "it speaks for another key than the one it enrolled with: see that one agent runs in the guest; if \
             one does, treat the guest as impersonated"
        }
        "guest-chip" => {
            "it runs on a chip that its [[guest]] entry does not name: find out who moved it; if it was moved, \
             name the chip in inventory.toml and sign"
        }
        "guest-launch" => {
            "something else was launched than approvers listed: launch what was, or, if the change is approved, \
             name the new launch in its [[guest]] entry and sign"
        }
        "guest-instance" => {
            "another running guest answered than the one that enrolled: find the copy; the one that is to stay \
             enrols again"
        }
        "guest-superseded" => {
            "two run under one name: find out who started the other, stop one, and launch the one that is to \
             stay anew"
        }
        "guest-key-outlived-boot" => {
            "somebody took the guest's key into another boot, where it was not drawn: treat the guest as copied, \
             and launch it anew"
        }
        other => of_family(other),
    }
}

/// The same for codes that name what is wrong with one document of a kind.
fn of_family(code: &str) -> &'static str {
    const FAMILIES: [(&[&str], &str); 6] = [
        (
            &["cvm-"],
            "what spoke is no processor that proves itself under its maker's root, or not of the guest that \
             [cvm] asks for: look at its report with bailiwick inspect snp-report, tdx-quote or hcl-report",
        ),
        (
            &[
                "chain-",
                "report-",
                "nonce-",
                "fwid-",
                "device-",
                "arch-",
                "opaque-",
                "unknown-",
                "certificate-",
                "duplicate-opaque-",
                "unsupported-spdm-",
                "gpu-",
                "measurements-",
            ],
            "what answered is no GPU that proves itself under NVIDIA's root: look at what is in the host, \
             and at its evidence with bailiwick inspect gpu",
        ),
        (
            &["rim-", "crl-", "ocsp-"],
            "bring what its maker publishes now: bailiwick endorsements import; what is said to be revoked \
             has to be replaced",
        ),
        (
            &["geotag-", "nv-"],
            "have somebody who stands there renew it: bailiwick-agent geotag provision",
        ),
        (
            &["receipt-"],
            "its receipt is not of this collector's log: restore the record, or find the other collector",
        ),
        (
            &["certify-", "quote-", "pcr-"],
            "what its TPM signed is not what it sent: treat the machine as tampered with",
        ),
    ];
    let meant = |prefixes: &[&str]| prefixes.iter().any(|prefix| code.starts_with(prefix));
    let family = FAMILIES.iter().find(|(prefixes, _)| meant(prefixes));
    family.map_or(UNKNOWN, |(_, words)| words)
}

/// Of codes that a newer collector gives.
const UNKNOWN: &str = "this client does not know the code: update it";

#[cfg(test)]
mod tests {
    use super::{UNKNOWN, restore};

    /// Texts in kebab-case that stand in the sources of appraisal and are no codes.
    const NO_CODES: &[&str] = &["kebab-case"];

    #[test]
    fn every_code_that_appraisal_gives_says_what_to_do() {
        let attestation = concat!(env!("CARGO_MANIFEST_DIR"), "/../attestation/src");
        let attestation = std::path::Path::new(attestation);
        let mut folders = vec![attestation.join("appraisal")];
        let mut codes = std::collections::BTreeSet::new();
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().flatten() {
                let (path, name) = (entry.path(), entry.file_name());
                if path.is_dir() && name != "tests" {
                    folders.push(path);
                } else if name != "tests.rs" && path.extension().is_some_and(|it| it == "rs") {
                    let text = std::fs::read_to_string(path).unwrap();
                    let product = text.split("#[cfg(test)]").next().unwrap();
                    let words = product.split('"').skip(1).step_by(2);
                    codes.extend(words.filter(|word| is_code(word)).map(str::to_owned));
                }
            }
        }
        // Those of a report stand beside what they are found by.
        let judge = [
            "judge.rs",
            "judge/amd.rs",
            "judge/azure.rs",
            "judge/intel.rs",
            "judge/svsm.rs",
        ];
        let judge = judge.map(|file| std::fs::read_to_string(attestation.join("cvm").join(file)));
        let judge: Vec<String> = judge.into_iter().map(Result::unwrap).collect();
        let words = judge
            .iter()
            .flat_map(|text| text.split('"').skip(1).step_by(2));
        let own = words.filter(|word| word.starts_with("cvm-") && is_code(word));
        let before = codes.len();
        codes.extend(own.map(str::to_owned));
        assert!(codes.len() > before + 10, "{codes:?}");
        codes.retain(|code| !NO_CODES.contains(&code.as_str()));
        assert!(codes.len() > 80, "{codes:?}");
        let silent: Vec<&String> = codes
            .iter()
            .filter(|code| restore(code) == UNKNOWN)
            .collect();
        assert_eq!(silent, [""; 0]);
        assert_eq!(restore("a-code-of-next-year"), UNKNOWN);
    }

    fn is_code(word: &str) -> bool {
        let letters = |part: &str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        word.contains('-') && word.split('-').all(letters)
    }
}
