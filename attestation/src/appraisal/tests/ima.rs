//! Measurement lists: how far they are proven, and which files are known.

use super::booted::{Booted, entry, entry_of, found, ima_pcr, want};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

use super::*;
use crate::crypto::{Curve, HashAlgorithm, PublicKey};
use crate::ima::KeyId;
use crate::profile::{Provenance, Value};
use crate::x509::pem_block;

#[test]
fn a_list_may_run_ahead_of_the_quote_and_never_behind() {
    let mut node = Booted::new();
    node.entries.push((entry("/usr/bin/later", 4), false));
    let result = node.result();
    assert_eq!(found(&result), []);
    let claims = &result.submods["tpm"].claims;
    assert_eq!(claims["ima.entries"].value, Value::Number(3));

    let mut node = Booted::new();
    node.entries.pop();
    assert_eq!(node.codes(), want(&[("ima.list", "ima-replay")]));
    let mut node = Booted::new();
    node.entries[1].0 = entry("/usr/bin/agent", 9);
    assert_eq!(node.codes(), want(&[("ima.list", "ima-replay")]));
    let mut node = Booted::new();
    node.entries.swap(1, 2);
    assert_eq!(node.codes(), want(&[("ima.list", "ima-replay")]));
}

#[test]
fn files_that_changed_while_they_were_measured_are_counted() {
    let violating = || {
        let mut node = Booted::new();
        node.entries.push((entry("/var/log/x", 0), true));
        node.case.tpm.pcrs[10] = ima_pcr(&node.entries);
        node
    };
    assert_eq!(
        violating().codes(),
        want(&[("ima.violations", "ima-violations")])
    );
    for (allowed, ok) in [
        ("max_violations = 1", true),
        ("max_violations = 0", false),
        ("any_violations = true", true),
    ] {
        let mut node = violating();
        let ima = format!("[ima]\n{allowed}\n");
        node.case.profile = node.case.profile.replace("[ima]\n", &ima);
        assert_eq!(node.codes().is_empty(), ok, "{allowed}");
    }
    // One after the quote is the next quote's.
    let mut node = Booted::new();
    node.entries.push((entry("/var/log/x", 0), true));
    assert_eq!(node.codes(), []);
}

impl Booted {
    /// Adds an entry and extends the register by it.
    fn measured(&mut self, data: Vec<u8>) {
        self.entries.push((data, false));
        self.case.tpm.pcrs[10] = ima_pcr(&self.entries);
    }

    /// What the profile says of files.
    fn files(&mut self, text: &str) {
        let ima = format!("[ima]\n{text}\n");
        self.case.profile = self.case.profile.replace("[ima]\n", &ima);
    }
}

#[test]
fn files_are_known_by_what_is_in_them() {
    let (agent, tool, other) = ("02".repeat(32), "03".repeat(32), "04".repeat(32));
    let lines = |tool: &str| {
        format!(
            "files = '''\n# fleet\n{agent}  /usr/bin/agent\nsha256:{tool} */usr/bin/tool\n'''\n"
        )
    };
    let one =
        |rest: &str| format!("[[ima.file]]\ndigest = \"{tool}\"\nname = \"tool 1.2\"\n{rest}\n");
    let unlisted = lines(&other);
    let rows: &[(&str, String, &[&str])] = &[
        ("all listed", lines(&tool), &[]),
        ("one not", unlisted.clone(), &["file-unknown"]),
        ("listed with words", format!("{unlisted}{}", one("")), &[]),
        (
            "not over yet",
            format!("{unlisted}{}", one("not_after = \"2027-01-15T08:00:01Z\"")),
            &[],
        ),
        (
            "over",
            format!("{unlisted}{}", one("not_after = \"2027-01-15T08:00:00Z\"")),
            &["file-ended"],
        ),
        (
            "to come",
            format!("{unlisted}{}", one("not_before = \"2027-01-15T08:00:01Z\"")),
            &["file-early"],
        ),
        (
            "over, and listed again",
            format!(
                "{}{}",
                lines(&tool),
                one("not_after = \"2027-01-15T08:00:00Z\"")
            ),
            &[],
        ),
        (
            "taken back, though it stands in the list",
            format!(
                "{}{}",
                lines(&tool),
                one("revoked = \"2027-01-01T00:00:00Z\"")
            ),
            &["file-revoked"],
        ),
        (
            "one not, which is to be told",
            format!("unknown = \"warn\"\n{unlisted}"),
            &["file-unknown"],
        ),
    ];
    for (name, profile, want) in rows {
        let mut node = Booted::new();
        node.files(profile);
        let result = node.result();
        let codes: Vec<String> = found(&result).into_iter().map(|(_, code)| code).collect();
        assert_eq!(codes, *want, "{name}");
        let status = match *want {
            [] => Status::Affirming,
            _ if name.ends_with("told") => Status::Warning,
            _ => Status::Contraindicated,
        };
        assert_eq!(result.status, status, "{name}");
        let claims = &result.submods["tpm"].claims;
        let unknown = u64::try_from(want.len()).unwrap();
        assert_eq!(
            claims["ima.unknown"].value,
            Value::Number(unknown),
            "{name}"
        );
        assert_eq!(
            claims["ima.listed"].value,
            Value::Number(2 - unknown),
            "{name}"
        );
    }
    let mut node = Booted::new();
    node.files(&unlisted);
    let result = node.result();
    let said = &result.deviations().next().unwrap().found;
    let nearest = format!("known under that name: /usr/bin/tool, sha256:{other}");
    for part in ["\"/usr/bin/tool\"", "entry 3", "unsigned", &tool, &nearest] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_path_explains_and_never_excuses() {
    let agent = "02".repeat(32);
    let lines = format!(
        "files = '''\n{agent} /usr/bin/agent\n{} /usr/bin/tool\n'''",
        "03".repeat(32)
    );
    let overlay = "/var/lib/containers/overlay/f00/diff/usr/bin/tool";
    let rows: &[(&str, Vec<u8>, bool, &str)] = &[
        (
            "known content, below an overlay",
            entry(overlay, 3),
            true,
            "",
        ),
        (
            "other content, below an overlay",
            entry(overlay, 9),
            false,
            "/usr/bin/tool, sha256:03",
        ),
        (
            "other content, at the path",
            entry("/usr/bin/tool", 9),
            false,
            "/usr/bin/tool, sha256:03",
        ),
        (
            "in a container of its own root",
            entry("/opt/tool", 9),
            false,
            "/usr/bin/tool, sha256:03",
        ),
        ("nothing like it", entry("/tmp/x", 9), false, "unsigned"),
        (
            "another file of that name",
            entry("boot_aggregate", 9),
            false,
            "unsigned",
        ),
    ];
    for (name, data, known, says) in rows {
        let mut node = Booted::new();
        node.files(&lines);
        node.measured(data.clone());
        let result = node.result();
        assert_eq!(found(&result).is_empty(), *known, "{name}");
        let said = result
            .deviations()
            .next()
            .map(|deviation| deviation.found.clone());
        assert!(said.unwrap_or_default().contains(says), "{name}");
    }
    // Not proven yet, so not judged yet.
    let mut node = Booted::new();
    node.files(&lines);
    node.entries.push((entry("/tmp/x", 9), false));
    assert_eq!(node.codes(), []);
}

#[test]
fn many_unknown_files_are_counted() {
    for (more, told) in [(14, 16), (15, 17), (40, 17)] {
        let mut node = Booted::new();
        node.files(&format!("files = '''\n{} a\n'''", "99".repeat(32)));
        for number in 0..more {
            node.measured(entry(&format!("/tmp/{number}"), 200));
        }
        let result = node.result();
        assert_eq!(found(&result).len(), told, "{more}");
        let last = result.deviations().last().unwrap();
        assert_eq!(last.code == "file-more", told == 17, "{more}");
        let unknown = Value::Number(more + 2);
        assert_eq!(result.submods["tpm"].claims["ima.unknown"].value, unknown);
    }
}

#[test]
fn the_first_entry_is_the_registers_the_kernel_found() {
    let with = |aggregate: Option<Vec<u8>>| {
        let mut node = Booted::new();
        match aggregate {
            Some(aggregate) => node.entries[0].0 = aggregate,
            None => drop(node.entries.remove(0)),
        }
        node.case.tpm.pcrs[10] = ima_pcr(&node.entries);
        let result = node.result();
        let claims = &result.submods["tpm"].claims;
        let same = claims
            .get("ima.boot_aggregate")
            .map(|claim| claim.value.clone());
        (found(&result), same)
    };
    let over = |end: usize| {
        let node = Booted::new();
        let registers: Vec<&[u8]> = node.case.tpm.pcrs[..end]
            .iter()
            .map(<[u8; 32]>::as_slice)
            .collect();
        let hash = HashAlgorithm::Sha256.digest(&registers).unwrap();
        entry_of("boot_aggregate", hash.as_slice())
    };
    let one = |code: &str| want(&[("ima.boot_aggregate", code)]);
    let (yes, no) = (Some(Value::Flag(true)), Some(Value::Flag(false)));
    assert_eq!(with(Some(over(10))), (vec![], yes.clone()));
    assert_eq!(with(Some(over(8))), (vec![], yes));
    assert_eq!(with(Some(over(9))), (one("boot-aggregate"), no.clone()));
    let other = entry("boot_aggregate", 7);
    assert_eq!(with(Some(other)), (one("boot-aggregate"), no.clone()));
    let zero = entry("boot_aggregate", 0);
    assert_eq!(with(Some(zero)), (one("boot-aggregate-zero"), no.clone()));
    let file = entry("/init", 1);
    assert_eq!(
        with(Some(file)),
        (one("boot-aggregate-missing"), no.clone())
    );
    assert_eq!(with(None), (one("boot-aggregate-missing"), no));
    // Another kernel started by the first one finds the same.
    let mut node = Booted::new();
    node.files(&format!(
        "files = '''\n{} a\n{} b\n'''",
        "02".repeat(32),
        "03".repeat(32)
    ));
    node.measured(over(10));
    let result = node.result();
    assert_eq!(found(&result), []);
    assert_eq!(
        result.submods["tpm"].claims["ima.kernels"].value,
        Value::Number(2)
    );
}

#[test]
fn files_that_somebody_signed_are_counted_apart() {
    let make = || EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
    let public = |pair: &EcdsaKeyPair| {
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        PublicKey::ec_from_coordinates(Curve::P256, x, y).unwrap()
    };
    let signed = |pair: &EcdsaKeyPair, name: &str| {
        let content = name.as_bytes();
        let hash = HashAlgorithm::Sha256.digest(&[content]).unwrap();
        let signature = pair.sign(&SystemRandom::new(), content).unwrap();
        let signature = signature.as_ref();
        let len = u16::try_from(signature.len()).unwrap().to_be_bytes();
        let id = KeyId::of(&public(pair)).0;
        let field = [&[3, 2, 4][..], &id, &len, signature].concat();
        let len = u32::try_from(field.len()).unwrap().to_le_bytes();
        [&entry_of(name, hash.as_slice())[..], &len, &field].concat()
    };
    let (vendor, stranger) = (make(), make());
    let mut node = Booted::new();
    let listed = ["02".repeat(32), "03".repeat(32)];
    node.files(&format!(
        "files = '''\n{} a\n{} b\n'''\n[[ima.key]]\nname = \"vendor\"\npem = '''\n{}'''\n",
        listed[0],
        listed[1],
        pem_block("PUBLIC KEY", &public(&vendor).to_spki_der())
    ));
    for name in ["/usr/bin/one", "/usr/bin/two", "/usr/bin/three"] {
        node.measured(signed(&vendor, name));
    }
    let result = node.result();
    assert_eq!(found(&result), []);
    let counts = |result: &AttestationResult| {
        let claims = &result.submods["tpm"].claims;
        ["ima.listed", "ima.signed", "ima.unknown"].map(|name| claims[name].value.clone())
    };
    assert_eq!(counts(&result), [2, 3, 0].map(Value::Number));
    node.measured(signed(&stranger, "/usr/bin/four"));
    let result = node.result();
    assert_eq!(found(&result).len(), 1);
    assert_eq!(counts(&result), [2, 3, 1].map(Value::Number));
}

#[test]
fn a_module_on_disk_is_the_one_that_was_loaded() {
    const KO: &str = "/lib/modules/6.1.0/updates/dkms/nvidia.ko";
    type Row<'a> = (
        &'a str,
        &'a [(&'a str, u8)],
        &'a str,
        Option<u8>,
        &'a [&'a str],
    );
    let differs: &[&str] = &["module-not-as-loaded"];
    let rows: &[Row<'_>] = &[
        ("the same", &[(KO, 5)], "nvidia", Some(5), &[]),
        ("another on disk", &[(KO, 5)], "nvidia", Some(6), differs),
        (
            "loaded from elsewhere",
            &[(KO, 5), ("/tmp/nvidia.ko", 6)],
            "nvidia",
            Some(5),
            differs,
        ),
        ("loaded anew", &[(KO, 5), (KO, 6)], "nvidia", Some(6), &[]),
        (
            "compressed",
            &[("/m/nvidia-uvm.ko.zst", 5)],
            "nvidia_uvm",
            Some(6),
            differs,
        ),
        ("another module", &[(KO, 5)], "nvidia_uvm", Some(6), &[]),
        ("never loaded", &[], "nvidia", Some(6), &[]),
        (
            "not a module",
            &[("/usr/bin/nvidia.ko.txt", 5)],
            "nvidia",
            Some(6),
            &[],
        ),
        ("nothing told of the disk", &[(KO, 5)], "nvidia", None, &[]),
    ];
    for (name, loaded, module, on_disk, want) in rows {
        let mut node = Booted::new();
        for (file, content) in *loaded {
            node.measured(entry(file, *content));
        }
        let claim = |byte: &u8| v1::Claim {
            name: format!("module.{module}.sha256"),
            source: KO.to_owned(),
            value: Some(v1::claim::Value::Data(vec![*byte; 32])),
        };
        node.case.statement.claims.extend(on_disk.iter().map(claim));
        let codes: Vec<String> = node.codes().into_iter().map(|(_, code)| code).collect();
        assert_eq!(codes, *want, "{name}");
    }
}

#[test]
fn modules_that_were_loaded_are_claims_and_a_node_cannot_make_them() {
    let ask = |node: &mut Booted, byte: u8| {
        let value = format!(
            "is = \"sha256:{}\"\nprovenance = \"measured\"",
            hex::encode([byte; 32])
        );
        node.case.require("ima.module.nvidia", &value);
    };
    let mut node = Booted::new();
    node.measured(entry("/lib/modules/6.1.0/nvidia.ko", 5));
    ask(&mut node, 5);
    assert_eq!(node.codes(), []);
    let claims = &node.result().submods["tpm"].claims;
    assert_eq!(claims["ima.module.nvidia"].provenance, Provenance::Measured);

    let mut other = Booted::new();
    other.measured(entry("/lib/modules/6.1.0/nvidia.ko", 6));
    ask(&mut other, 5);
    assert_eq!(other.codes(), want(&[("ima.module.nvidia", "claim-value")]));

    let mut said = Booted::new();
    ask(&mut said, 5);
    said.case.statement.claims.push(v1::Claim {
        name: "ima.module.nvidia".to_owned(),
        source: "a node".to_owned(),
        value: Some(v1::claim::Value::Text(format!(
            "sha256:{}",
            hex::encode([5; 32])
        ))),
    });
    assert_eq!(
        said.codes(),
        want(&[("ima.module.nvidia", "claim-missing")])
    );

    let told = |node: &mut Booted| {
        let claims = node.result().submods.remove("tpm").unwrap().claims;
        let modules = claims
            .into_keys()
            .filter(|name| name.starts_with("ima.module."));
        modules.collect::<Vec<_>>()
    };
    let longest = format!("nvidia{}", "x".repeat(58));
    let mut names = Booted::new();
    for name in ["snd", &longest, &format!("{longest}x")] {
        names.measured(entry(&format!("/m/{name}.ko"), 5));
    }
    assert_eq!(told(&mut names), [format!("ima.module.{longest}")]);

    let mut many = Booted::new();
    for number in 0..40 {
        many.measured(entry(&format!("/m/nvidia{number}.ko"), 5));
    }
    assert_eq!(told(&mut many).len(), 16);
}
