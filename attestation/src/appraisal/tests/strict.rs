//! What was taken back is refused wherever it stands, and whose word the fence's claims are.

use super::booted::{Booted, entry, extend, found, ima_pcr, want};
use super::*;
use crate::boot::EventType;
use crate::crypto::HashAlgorithm;
use crate::profile::{Provenance, Value};

/// Claims and codes.
type Codes<'a> = &'a [(&'a str, &'a str)];

const SHA256: HashAlgorithm = HashAlgorithm::Sha256;

fn digest(bytes: &[u8]) -> String {
    SHA256.digest(&[bytes]).unwrap().to_string()
}

fn revoke(node: &mut Booted, digest: &str, rest: &str) {
    let entry = format!("[[revoked]]\ndigest = \"{digest}\"\nreason = \"CVE-1\"\n{rest}");
    node.case.profile.push_str(&entry);
}

fn revoked(result: &AttestationResult) -> Vec<(String, String)> {
    let own = result.deviations().filter(|one| one.code == "revoked");
    own.map(|one| (one.claim.clone(), one.found.clone()))
        .collect()
}

#[test]
fn what_was_taken_back_is_refused_wherever_it_stands() {
    let pcr7 = {
        let node = Booted::new();
        hex::encode(node.case.tpm.pcrs[7])
    };
    let pcr14 = {
        let node = Booted::new();
        hex::encode(node.case.tpm.pcrs[14])
    };
    let rows = [
        ("a boot loader", digest(b"shim"), "boot.applications"),
        ("a key list", digest(b"bad"), "boot.dbx"),
        ("an initrd", digest(b"initrd"), "boot.files"),
        // Of this no fact is made, and it stands in the log.
        ("a separator", digest(&[0; 4]), "boot.log.pcr.0"),
        ("a register", pcr7, "tpm.pcr.sha256.7"),
        // What the profile pins is a claim, too; this one is a register and nothing else.
        (
            "a register that nobody asks for",
            pcr14,
            "tpm.pcr.sha256.14",
        ),
        ("a file that ran", hex::encode([3; 32]), "ima.file"),
    ];
    for (name, digest, claim) in rows {
        let mut node = Booted::new();
        revoke(&mut node, &digest, "");
        let result = node.result();
        let found = revoked(&result);
        let told = result
            .deviations()
            .find(|one| one.code == "revoked")
            .unwrap();
        let by = Some(match claim.starts_with("tpm.") {
            true => Provenance::HardwareSigned,
            false => Provenance::Measured,
        });
        assert_eq!(told.provenance, by, "{name}");
        assert_eq!(
            found,
            [(claim.to_owned(), format!("{digest}: CVE-1"))],
            "{name}"
        );
        assert_eq!(result.status, Status::Contraindicated, "{name}");
    }
    // It wins over what the profile allows by name.
    let mut node = Booted::new();
    let both = format!("{},{}", digest(b"shim"), digest(b"kernel"));
    let allowed = format!("is = \"{both}\"\nprovenance = \"measured\"");
    node.case.require("boot.applications", &allowed);
    assert_eq!(node.codes(), []);
    revoke(&mut node, &digest(b"kernel"), "");
    assert_eq!(node.codes(), want(&[("boot.applications", "revoked")]));
    // Neighbours: another digest, a later day, and the day itself.
    let mut node = Booted::new();
    revoke(&mut node, &digest(b"shim "), "");
    assert_eq!(node.codes(), []);
    for (since, refused) in [
        ("2027-01-15T08:00:00Z", true),
        ("2027-01-15T08:00:01Z", false),
    ] {
        let mut node = Booted::new();
        node.case.now = UnixTime::from_secs(1_800_000_000);
        revoke(
            &mut node,
            &digest(b"shim"),
            &format!("since = \"{since}\"\n"),
        );
        assert_eq!(!node.codes().is_empty(), refused, "{since}");
    }
    // Without a log nobody can tell, and a profile that asks says so.
    let mut node = Booted::new();
    node.case.profile = node.case.profile.replace("[boot]\n[ima]\n", "");
    revoke(&mut node, &digest(b"shim"), "");
    assert_eq!(node.codes(), want(&[("boot.applications", "revoked")]));
    node.case.logs.clear();
    let result = node.case.appraise();
    assert_eq!(found(&result), want(&[("boot.log", "boot-log-missing")]));
    assert_eq!(result.status, Status::None);
}

#[test]
fn a_value_of_a_register_is_good_in_its_time() {
    let pcr = hex::encode([0_u8; 32]);
    let other = hex::encode([1_u8; 32]);
    type Row<'a> = (&'a str, String, Codes<'a>);
    let rows: [Row<'_>; 7] = [
        ("always", format!("\"{pcr}\""), &[]),
        (
            "now",
            format!("{{ is = \"{pcr}\", not_after = \"2027-01-15T08:00:01Z\" }}"),
            &[],
        ),
        (
            "ended",
            format!("{{ is = \"{pcr}\", not_after = \"2027-01-15T08:00:00Z\" }}"),
            &[("tpm.pcr.sha256.7", "pcr-ended")],
        ),
        (
            "early",
            format!("{{ is = \"{pcr}\", not_before = \"2027-01-15T08:00:01Z\" }}"),
            &[("tpm.pcr.sha256.7", "pcr-early")],
        ),
        (
            "revoked",
            format!("{{ is = \"{pcr}\", revoked = \"2027-01-01T00:00:00Z\" }}"),
            &[("tpm.pcr.sha256.7", "pcr-revoked")],
        ),
        (
            "another",
            format!("\"{other}\""),
            &[("tpm.pcr.sha256.7", "pcr-value")],
        ),
        (
            "old and new",
            format!("\"{other}\", {{ is = \"{pcr}\", not_after = \"2030-01-01T00:00:00Z\" }}"),
            &[],
        ),
    ];
    for (name, values, codes) in rows {
        let mut case = Case::ordinary();
        case.profile = case
            .profile
            .replace(&format!("[\"{pcr}\"]"), &format!("[{values}]"));
        assert_eq!(found(&case.appraise()), want(codes), "{name}");
    }
}

/// The ordinary command line with all that the strict part wants of it.
const STRICT: &str = "root=/dev/vda ro lockdown=integrity module.sig_enforce=1 \
    sysctl.kernel.kexec_load_disabled=1 ima_policy=tcb";

/// A node that the strict part lets pass.
fn strict(line: &str) -> Booted {
    let mut node = Booted::new();
    for event in &mut node.events {
        if event.0 != 8 {
            continue;
        }
        // The command that loads the kernel, and the kernel's own line after it.
        let loads = event.2.starts_with(b"linux ");
        event.2 = format!("{}{line}", if loads { "linux " } else { "" }).into_bytes();
        event.3 = event.2.clone();
    }
    let mut register = [0; 32];
    for event in node.events.iter().filter(|event| event.0 == 8) {
        extend(
            &mut register,
            SHA256.digest(&[&event.2]).unwrap().as_slice(),
        );
    }
    node.case.tpm.pcrs[8] = register;
    node.kernel_starts();
    let listed: String = [2_u8, 3, 9]
        .map(|byte| format!("{} known\n", hex::encode([byte; 32])))
        .concat();
    let listed = format!("[ima]\nfiles = \"\"\"\n{listed}\"\"\"\n");
    node.case.profile = node.case.profile.replace("[ima]\n", &listed);
    let kernel = format!(
        "one_of = [\"{},{}\"]\nprovenance = \"measured\"",
        digest(b"shim"),
        digest(b"kernel")
    );
    node.case.require("boot.applications", &kernel);
    node
}

fn with_set(node: &mut Booted, agent: u8) {
    let agent = hex::encode([agent; 32]);
    let set = format!("[strict]\nset = \"root-cannot-lie-1\"\nagent = [\"{agent}\"]\n");
    node.case.profile.push_str(&set);
}

fn word(result: &AttestationResult) -> (&Value, Provenance) {
    let claim = &result.submods["fence"].claims["fence.word"];
    (&claim.value, claim.provenance)
}

fn root() -> Value {
    Value::Text("root".to_owned())
}

#[test]
fn what_root_could_have_done_is_refused_by_name() {
    const LINE: &str = "boot.command_line";
    type Edit = fn(&mut Booted);
    let nothing: Edit = |_| {};
    let without = |word: &str| STRICT.replace(word, "");
    let with = |word: &str| format!("{STRICT} {word}");
    type Row<'a> = (&'a str, String, Edit, Vec<(&'a str, &'a str)>);
    let rows: Vec<Row<'_>> = vec![
        ("as it is to be", STRICT.to_owned(), nothing, vec![]),
        (
            "no lockdown",
            without("lockdown=integrity"),
            nothing,
            vec![(LINE, "strict-lockdown")],
        ),
        (
            "more of it",
            STRICT.replace("integrity", "confidentiality"),
            nothing,
            vec![],
        ),
        (
            "another word",
            STRICT.replace("=integrity", "=none"),
            nothing,
            vec![(LINE, "strict-lockdown")],
        ),
        (
            "modules left out",
            with("lsm=apparmor,bpf"),
            nothing,
            vec![(LINE, "strict-lockdown")],
        ),
        (
            "modules named",
            with("lsm=lockdown,apparmor"),
            nothing,
            vec![],
        ),
        (
            "the last list counts",
            with("lsm=lockdown lsm=bpf"),
            nothing,
            vec![(LINE, "strict-lockdown")],
        ),
        (
            "unsigned modules",
            without("module.sig_enforce=1"),
            nothing,
            vec![(LINE, "strict-modules")],
        ),
        (
            "turned off",
            STRICT.replace("enforce=1", "enforce=0"),
            nothing,
            vec![(LINE, "strict-modules")],
        ),
        (
            "turned off again",
            with("module.sig_enforce=n"),
            nothing,
            vec![(LINE, "strict-modules")],
        ),
        (
            "with a dash and no value",
            STRICT.replace("sig_enforce=1", "sig-enforce"),
            nothing,
            vec![],
        ),
        (
            "kexec",
            without("sysctl.kernel.kexec_load_disabled=1"),
            nothing,
            vec![(LINE, "strict-kexec")],
        ),
        (
            "kexec on",
            STRICT.replace("disabled=1", "disabled=0"),
            nothing,
            vec![(LINE, "strict-kexec")],
        ),
        (
            "with slashes",
            STRICT.replace("sysctl.kernel.kexec", "sysctl/kernel/kexec"),
            nothing,
            vec![],
        ),
        (
            "no policy",
            without("ima_policy=tcb"),
            nothing,
            vec![(LINE, "strict-ima-policy")],
        ),
        (
            "another policy",
            STRICT.replace("=tcb", "=critical_data"),
            nothing,
            vec![(LINE, "strict-ima-policy")],
        ),
        (
            "several rules",
            STRICT.replace("=tcb", "=critical_data|tcb"),
            nothing,
            vec![],
        ),
        (
            "quoted rules",
            STRICT.replace("=tcb", "=\"critical_data tcb\""),
            nothing,
            vec![],
        ),
        (
            "turned off whole",
            with("ima=off"),
            nothing,
            vec![(LINE, "strict-ima-policy")],
        ),
        (
            "quotes within a word",
            STRICT.replace("lockdown=", "lock\"down\"="),
            nothing,
            vec![(LINE, "strict-lockdown")],
        ),
        (
            "quotes that end within it",
            STRICT.replace("lockdown=integrity", "x=\"a\\ lockdown=integrity\""),
            nothing,
            vec![(LINE, "strict-lockdown")],
        ),
        (
            "a quote that stays behind",
            STRICT.replace("lockdown=integrity", "x=\"y\" lockdown=integrity\""),
            nothing,
            vec![
                (LINE, "strict-lockdown"),
                (LINE, "strict-modules"),
                (LINE, "strict-kexec"),
                (LINE, "strict-ima-policy"),
            ],
        ),
        (
            "a quote at the end of a value",
            format!("{} lockdown=integrity\"", without("lockdown=integrity")),
            nothing,
            vec![(LINE, "strict-lockdown")],
        ),
        (
            "a quote at the end of a word",
            format!("{} module.sig_enforce\"", without("module.sig_enforce=1")),
            nothing,
            vec![(LINE, "strict-modules")],
        ),
        (
            "a word in quotes",
            STRICT.replace("lockdown=integrity", "\"lockdown=integrity\""),
            nothing,
            vec![],
        ),
        (
            "init's in quotes",
            STRICT.replace("ro ", "ro \"--\" "),
            nothing,
            vec![
                (LINE, "strict-lockdown"),
                (LINE, "strict-modules"),
                (LINE, "strict-kexec"),
                (LINE, "strict-ima-policy"),
            ],
        ),
        (
            "what only looks like init's, and a list behind it",
            with("-\"-\" lsm=yama"),
            nothing,
            vec![(LINE, "strict-lockdown")],
        ),
        (
            "words of the ramdisk's",
            with("bootconfig"),
            nothing,
            vec![(LINE, "strict-overrides")],
        ),
        (
            "what would see to it left out",
            with("initcall_blacklist=kexec_core_sysctl_init"),
            nothing,
            vec![(LINE, "strict-overrides")],
        ),
        (
            "as long as a kernel reads",
            format!("{STRICT} {}", "x".repeat(2036 - STRICT.len() - 1)),
            nothing,
            vec![],
        ),
        (
            "longer",
            format!("{STRICT} {}", "x".repeat(2036 - STRICT.len())),
            nothing,
            vec![(LINE, "strict-command-line")],
        ),
        (
            "all of it for init",
            STRICT.replace("ro ", "ro -- "),
            nothing,
            vec![
                (LINE, "strict-lockdown"),
                (LINE, "strict-modules"),
                (LINE, "strict-kexec"),
                (LINE, "strict-ima-policy"),
            ],
        ),
        (
            "in quotes of something else",
            STRICT.replace("lockdown=integrity", "x=\"a lockdown=integrity\""),
            nothing,
            vec![(LINE, "strict-lockdown")],
        ),
        (
            "another agent",
            STRICT.to_owned(),
            |node| node.entries[1].0 = entry("/usr/bin/agent", 9),
            vec![("ima.agent", "strict-agent")],
        ),
        (
            "an agent that changed while it was measured",
            STRICT.to_owned(),
            |node| {
                node.entries[1].1 = true;
                node.case.profile = node
                    .case
                    .profile
                    .replace("[ima]\n", "[ima]\nany_violations = true\n");
            },
            vec![("ima.agent", "strict-agent")],
        ),
        (
            "something unknown ran",
            STRICT.to_owned(),
            |node| node.entries.push((entry("/tmp/x", 7), false)),
            vec![
                ("ima.file", "file-unknown"),
                ("ima.unknown", "strict-unknown"),
            ],
        ),
        (
            "nobody listed what may run",
            STRICT.to_owned(),
            |node| {
                let from = node.case.profile.find("files = ").unwrap();
                let to = node.case.profile.rfind("\"\"\"\n").unwrap() + 4;
                node.case.profile.replace_range(from..to, "");
            },
            vec![("ima.unknown", "strict-unknown")],
        ),
        (
            "an agent after the quote",
            STRICT.to_owned(),
            |node| node.entries.swap(1, 2),
            vec![],
        ),
    ];
    for (name, line, edit, codes) in rows {
        let mut node = strict(&line);
        edit(&mut node);
        node.case.tpm.pcrs[10] = ima_pcr(&node.entries);
        if name == "an agent after the quote" {
            node.case.tpm.pcrs[10] = ima_pcr(&node.entries[..2]);
        }
        with_set(&mut node, 2);
        let result = node.result();
        let mut codes = codes;
        if name == "an agent after the quote" {
            codes.push(("ima.agent", "strict-agent"));
        }
        let holds = codes.is_empty();
        let (mut have, mut expect) = (found(&result), want(&codes));
        have.sort();
        expect.sort();
        assert_eq!(have, expect, "{name}");
        let set = Value::Text("root-cannot-lie-1".to_owned());
        let want = match holds {
            true => (&set, Provenance::Measured),
            false => (&root(), Provenance::SelfReported),
        };
        assert_eq!(word(&result), want, "{name}");
    }
}

#[test]
fn what_is_not_measured_is_no_answer() {
    let codes = |node: &mut Booted| -> Vec<String> {
        with_set(node, 2);
        let result = node.result();
        result.deviations().map(|one| one.code.clone()).collect()
    };
    // Secure Boot off, and measured so.
    let mut off = strict(STRICT);
    let mut register = [0; 32];
    for event in off.events.iter_mut().filter(|event| event.0 == 7) {
        if event.2.windows(2).any(|pair| pair == b"S\0") && event.2.last() == Some(&1) {
            *event.2.last_mut().unwrap() = 0;
            *event.3.last_mut().unwrap() = 0;
        }
        extend(
            &mut register,
            SHA256.digest(&[&event.2]).unwrap().as_slice(),
        );
    }
    off.case.tpm.pcrs[7] = register;
    assert!(codes(&mut off).contains(&"strict-secure-boot".to_owned()));
    // A command line that nobody measured.
    let mut hidden = strict(STRICT);
    for event in &mut hidden.events {
        if event.0 == 8 && event.1 == EventType::IPL {
            event.3 = b"kernel_cmdline: lockdown=none\0".to_vec();
        }
    }
    assert!(codes(&mut hidden).contains(&"strict-command-line".to_owned()));
    // Logs that are missing: nobody can tell, and nothing is affirmed.
    let mut missing = strict(STRICT);
    with_set(&mut missing, 2);
    missing.result();
    missing.case.logs.clear();
    let result = missing.case.appraise();
    let refused: Vec<_> = result
        .deviations()
        .filter(|one| one.finding == Finding::Refused)
        .collect();
    assert_eq!(refused, Vec::<&Deviation>::new());
    assert_eq!(result.status, Status::None);
    assert_eq!(word(&result), (&root(), Provenance::SelfReported));
    // Without the strict part nothing is demanded, and it is said whose word the rest is.
    let mut plain = strict(STRICT);
    let result = plain.result();
    assert_eq!(found(&result), []);
    assert_eq!(word(&result), (&root(), Provenance::SelfReported));
}

/// A vTPM's logs replay to what its provider has it sign: nothing of them is measured by hardware.
#[test]
fn what_a_provider_says_is_no_measurement() {
    let mut node = strict(STRICT);
    with_set(&mut node, 2);
    node.case.kind = TpmKind::Virtual;
    let kernel = node
        .case
        .profile
        .find("claim = \"boot.applications\"")
        .unwrap();
    let rest = node.case.profile.split_off(kernel);
    let rest = rest.replacen("measured", "provider-signed", 1);
    node.case.profile.push_str(&rest);
    node.case.profile = node
        .case
        .profile
        .replace("hardware-signed", "provider-signed");
    let result = node.result();
    let codes: Vec<&str> = result.deviations().map(|one| one.code.as_str()).collect();
    assert_eq!(
        codes,
        [
            "strict-secure-boot",
            "strict-command-line",
            "strict-unknown",
            "strict-boot-aggregate"
        ]
    );
    assert_eq!(word(&result), (&root(), Provenance::SelfReported));
    for submod in ["host", "tpm"] {
        let claims = &result.submods[submod].claims;
        let best = claims.values().map(|claim| claim.provenance).max();
        assert_eq!(best, Some(Provenance::ProviderSigned), "{submod}");
    }
}
