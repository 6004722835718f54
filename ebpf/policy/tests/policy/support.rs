//! Keys and signatures made by `ssh-keygen`, and bundles signed with them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use bailiwick_attestation::{DeploymentId, Sha256Digest, UnixTime};
use bailiwick_policy::approvers::Approvers;
use bailiwick_policy::bundle::Bundle;
use bailiwick_policy::kind::Kind;
use bailiwick_policy::manifest::{Draft, compose};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// 2026-06-01T00:00:00Z.
pub(crate) const NOW: UnixTime = UnixTime(1_780_272_000_000);
/// 2027-01-01T00:00:00Z.
pub(crate) const NOT_AFTER: UnixTime = UnixTime(1_798_761_600_000);
pub(crate) const NAMESPACE: &str = "bailiwick/demo/policy";

pub(crate) fn demo() -> DeploymentId {
    DeploymentId::new("demo").unwrap()
}

/// A folder with keys in it, gone when dropped.
pub(crate) struct Keys {
    dir: tempfile::TempDir,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a key (`arguments` as in `-t rsa -b 2048`) and gives `keytype base64`.
    pub(crate) fn make(&self, name: &str, arguments: &str) -> String {
        let mut command = Command::new("ssh-keygen");
        command
            .args(["-q", "-N", "", "-C", "", "-f"])
            .arg(self.path(name));
        run(command.args(arguments.split(' ')));
        let line = fs::read_to_string(self.path(&format!("{name}.pub"))).unwrap();
        line.trim().to_owned()
    }

    /// Signs as `ssh-keygen -Y sign` does; `more` as in `-O hashalg=sha256`.
    pub(crate) fn sign(
        &self,
        name: &str,
        namespace: &str,
        message: &[u8],
        more: &[&str],
    ) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new_in(self.dir.path()).unwrap();
        fs::write(file.path(), message).unwrap();
        let mut command = Command::new("ssh-keygen");
        command
            .args(["-q", "-Y", "sign", "-n", namespace, "-f"])
            .arg(self.path(name));
        run(command.args(more).arg(file.path()));
        let signature = file.path().with_extension("sig");
        let signature = if signature.exists() {
            signature
        } else {
            with_sig(file.path())
        };
        let armored = fs::read(&signature).unwrap();
        fs::remove_file(signature).unwrap();
        armored
    }

    /// What `ssh-keygen -Y verify` says.
    pub(crate) fn openssh_accepts(
        &self,
        allowed: &str,
        principal: &str,
        namespace: &str,
        at: &str,
        armored: &[u8],
        message: &[u8],
    ) -> bool {
        let dir = tempfile::tempdir_in(self.dir.path()).unwrap();
        let at_path = |name: &str| dir.path().join(name);
        fs::write(at_path("allowed"), allowed).unwrap();
        fs::write(at_path("sig"), armored).unwrap();
        fs::write(at_path("message"), message).unwrap();
        let mut command = Command::new("ssh-keygen");
        command.args(["-Y", "verify", "-I", principal, "-n", namespace]);
        command.arg(format!("-Overify-time={at}"));
        command
            .arg("-f")
            .arg(at_path("allowed"))
            .arg("-s")
            .arg(at_path("sig"));
        command.stdin(fs::File::open(at_path("message")).unwrap());
        command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap()
            .success()
    }
}

fn with_sig(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

fn run(command: &mut Command) {
    let out = command
        .output()
        .expect("ssh-keygen (package openssh-client) runs");
    assert!(
        out.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
}

fn string(out: &mut Vec<u8>, part: &[u8]) {
    out.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
    out.extend(part);
}

/// A hardware key in software: what a token would answer, flags included.
pub(crate) enum Token {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

impl Token {
    pub(crate) fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    pub(crate) fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn blob(&self) -> (&'static str, Vec<u8>) {
        let mut blob = Vec::new();
        let kind = match self {
            Self::Ed25519(key) => {
                string(&mut blob, b"sk-ssh-ed25519@openssh.com");
                string(&mut blob, key.public_key().as_ref());
                "sk-ssh-ed25519@openssh.com"
            }
            Self::P256(key) => {
                string(&mut blob, b"sk-ecdsa-sha2-nistp256@openssh.com");
                string(&mut blob, b"nistp256");
                string(&mut blob, key.public_key().as_ref());
                "sk-ecdsa-sha2-nistp256@openssh.com"
            }
        };
        string(&mut blob, b"ssh:");
        (kind, blob)
    }

    /// `keytype base64`.
    pub(crate) fn line(&self) -> String {
        let (kind, blob) = self.blob();
        format!("{kind} {}", STANDARD.encode(blob))
    }

    /// PROTOCOL.sshsig around PROTOCOL.u2f.
    pub(crate) fn sign(&self, namespace: &str, message: &[u8], flags: u8) -> Vec<u8> {
        let mut covered = b"SSHSIG".to_vec();
        for part in [namespace.as_bytes(), b"", b"sha512"] {
            string(&mut covered, part);
        }
        string(&mut covered, digest(&SHA512, message).as_ref());
        let mut to_sign = digest(&SHA256, b"ssh:").as_ref().to_vec();
        to_sign.push(flags);
        to_sign.extend(7_u32.to_be_bytes());
        to_sign.extend(digest(&SHA256, &covered).as_ref());

        let (kind, blob) = self.blob();
        let mut inner = Vec::new();
        match self {
            Self::Ed25519(key) => string(&mut inner, key.sign(&to_sign).as_ref()),
            Self::P256(key) => {
                let pair = key.sign(&SystemRandom::new(), &to_sign).unwrap();
                let (r, s) = pair.as_ref().split_at(32);
                let mut both = Vec::new();
                string(&mut both, &mpint(r));
                string(&mut both, &mpint(s));
                string(&mut inner, &both);
            }
        }
        let mut signature = Vec::new();
        string(&mut signature, kind.as_bytes());
        signature.extend(inner);
        signature.push(flags);
        signature.extend(7_u32.to_be_bytes());

        let mut out = b"SSHSIG\0\0\0\x01".to_vec();
        for part in [&blob, namespace.as_bytes(), b"", b"sha512", &signature] {
            string(&mut out, part);
        }
        armor(&out)
    }
}

fn mpint(number: &[u8]) -> Vec<u8> {
    let start = number.iter().position(|b| *b != 0).unwrap();
    let mut out = number[start..].to_vec();
    if out[0] >= 0x80 {
        out.insert(0, 0);
    }
    out
}

/// As OpenSSH writes it: 70 characters a line.
pub(crate) fn armor(blob: &[u8]) -> Vec<u8> {
    let base64 = STANDARD.encode(blob);
    let lines: Vec<&str> = base64
        .as_bytes()
        .chunks(70)
        .map(|c| str::from_utf8(c).unwrap())
        .collect();
    format!(
        "-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n",
        lines.join("\n")
    )
    .into_bytes()
}

/// The bytes inside the armor.
pub(crate) fn dearmor(armored: &[u8]) -> Vec<u8> {
    let text = str::from_utf8(armored).unwrap();
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(body).unwrap()
}

/// The files of a small policy, by path.
pub(crate) fn files() -> BTreeMap<String, Vec<u8>> {
    let study = "name = \"cardio\"\nmode = \"enforce\"\n[select]\ncgroups = [\"/studies/cardio\"]\n\
                 [allow]\njurisdictions = [\"DE\"]\n";
    let profile = "name = \"p\"\nlease_seconds = 60\nmax_silence_seconds = 60\n[tpm]\n\
                   bank = \"sha256\"\nrequire = [0]\n";
    [
        ("studies/cardio.toml", study),
        ("host-fence.toml", ""),
        ("sites.toml", ""),
        ("inventory.toml", ""),
        ("collector.toml", ""),
        ("profile.toml", profile),
        ("world.csv", "192.0.2.0,192.0.2.255,DE\n"),
    ]
    .map(|(path, text)| (path.to_owned(), text.as_bytes().to_vec()))
    .into()
}

/// Three people with a key each, two of whom it takes.
pub(crate) struct Fleet {
    pub(crate) keys: Keys,
    pub(crate) allowed: String,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let keys = Keys::new();
        let mut allowed = String::new();
        for name in ["alice", "bob", "carol"] {
            let line = keys.make(name, "-t ed25519");
            allowed.push_str(&format!(
                "{name}@example.org namespaces=\"bailiwick/*\" {line}\n"
            ));
        }
        Self { keys, allowed }
    }

    pub(crate) fn approvers(&self) -> Approvers {
        Approvers::parse("allowed_signers", self.allowed.as_bytes(), 2).unwrap()
    }

    /// A bundle over `files`, signed by `signers` for `namespace`.
    pub(crate) fn bundle(
        &self,
        manifest: &str,
        files: &BTreeMap<String, Vec<u8>>,
        signers: &[&str],
    ) -> Bundle {
        self.bundle_of(Kind::Policy, manifest, files, signers)
    }

    /// The same of any kind.
    pub(crate) fn bundle_of(
        &self,
        kind: Kind,
        manifest: &str,
        files: &BTreeMap<String, Vec<u8>>,
        signers: &[&str],
    ) -> Bundle {
        let namespace = kind.namespace(&demo());
        let sign = |name: &&str| self.keys.sign(name, &namespace, manifest.as_bytes(), &[]);
        let signatures = signers.iter().map(sign).collect();
        Bundle::from_files(manifest.into(), signatures, files.clone())
    }
}

/// A manifest of the given version over `files`.
pub(crate) fn manifest(
    version: u64,
    previous: Option<Sha256Digest>,
    files: &BTreeMap<String, Vec<u8>>,
) -> String {
    manifest_of(Kind::Policy, version, previous, files)
}

/// The same of any kind.
pub(crate) fn manifest_of(
    kind: Kind,
    version: u64,
    previous: Option<Sha256Digest>,
    files: &BTreeMap<String, Vec<u8>>,
) -> String {
    let deployment = demo();
    let draft = Draft {
        deployment: &deployment,
        kind,
        version,
        previous,
        not_after: NOT_AFTER,
        reason: "a test",
    };
    compose(&draft, files).unwrap()
}
