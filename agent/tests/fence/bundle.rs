//! Policies, signed by a key made for each.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use bailiwick_attestation::{
    DeploymentId, Sha256Digest, UnixTime,
    proto::v1::{PolicyBundle, PolicyFile},
};
use bailiwick_policy::{
    approvers::Approvers,
    bundle::{Bundle, VerifiedBundle},
    kind::Kind,
    manifest::{Draft, compose},
};

const PROFILE: &str = "name = \"p\"\nlease_seconds = 60\nmax_silence_seconds = 60\n[tpm]\n\
                       bank = \"sha256\"\nrequire = [0]\n";

/// The given files, and as little as possible of those a policy must have beside them.
pub(crate) fn signed(scratch: &Path, version: u64, files: &[(&str, &str)]) -> VerifiedBundle {
    let (message, signers) = message(scratch, version, files);
    let approvers = Approvers::parse("a", signers.as_bytes(), 1).unwrap();
    let now = UnixTime::from_secs(1_900_000_000);
    Bundle::from(message)
        .verify_in_force(&approvers, &deployment(), now)
        .unwrap()
}

fn deployment() -> DeploymentId {
    DeploymentId::new("demo").unwrap()
}

/// The same as it travels, and the `allowed_signers` of the one who signed it.
pub(crate) fn message(
    scratch: &Path,
    version: u64,
    files: &[(&str, &str)],
) -> (PolicyBundle, String) {
    let deployment = deployment();
    let mut all: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let rest = [
        ("host-fence.toml", ""),
        ("sites.toml", ""),
        ("inventory.toml", ""),
        ("collector.toml", ""),
        ("profile.toml", PROFILE),
    ];
    for (path, text) in rest.iter().chain(files) {
        all.insert((*path).to_owned(), text.as_bytes().to_vec());
    }
    let draft = Draft {
        deployment: &deployment,
        kind: Kind::Policy,
        version,
        // Of version 1 there is none, of a later one any: nothing here was in force before.
        previous: (version > 1).then_some(Sha256Digest([1; 32])),
        not_after: UnixTime::from_secs(4_000_000_000),
        reason: "a test",
    };
    let manifest = compose(&draft, &all).unwrap();
    let folder = scratch.join(format!("policy-{version}"));
    fs::create_dir_all(&folder).unwrap();
    let (key, file) = (folder.join("alice"), folder.join("manifest.toml"));
    fs::write(&file, &manifest).unwrap();
    let keygen = |arguments: &[&str]| {
        let mut command = Command::new("ssh-keygen");
        command.arg("-q").args(arguments).arg("-f").arg(&key);
        command
    };
    let made = keygen(&["-t", "ed25519", "-N", "", "-C", ""])
        .status()
        .unwrap();
    assert!(made.success());
    let mut sign = keygen(&["-Y", "sign", "-n", "bailiwick/demo/policy"]);
    assert!(sign.arg(&file).status().unwrap().success());
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    let message = PolicyBundle {
        manifest: manifest.into_bytes(),
        signatures: vec![fs::read(folder.join("manifest.toml.sig")).unwrap()],
        files: all
            .into_iter()
            .map(|(path, content)| PolicyFile { path, content })
            .collect(),
        before: Vec::new(),
    };
    (message, format!("alice {public}"))
}
