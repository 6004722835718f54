//! What vouches for GPUs and processors, as an operator brought it: a folder of reference values,
//! responses about revocation, lists of revoked certificates, certificates of processors' keys, Intel's
//! collateral, and roots, each named by the digest of its content.
//! A root in it vouches for nothing until approvers name its digest in a profile.
//!
//! Everything is checked when it is read, under NVIDIA's roots, and again once an hour: signers'
//! certificates run out. What is not what its name says, or nobody signed, is left out and said.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bailiwick_attestation::cvm::tdx::{Collateral, MAX_COLLATERAL_BYTES};
use bailiwick_attestation::cvm::{MAX_CERTIFICATES_BYTES, parse_certificates};
use bailiwick_attestation::gpu::rim::MAX_RIM_FILE;
use bailiwick_attestation::gpu::{
    Endorsements, GoodSignatures, MAX_CRL_BYTES, MAX_OCSP_BYTES, MAX_ROOT_BYTES, Response, Root,
    parse_crl,
};
use bailiwick_attestation::{Sha256Digest, UnixTime};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Files of a store, at most: NVIDIA has some hundred RIMs out.
const MAX_FILES: usize = 4096;
/// How often the folder's list is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// How often all of it is checked again though nothing changed.
const AGAIN_MS: u64 = 3_600_000;
/// Behind the digest in a name: reference values.
pub const RIM: &str = ".rim.xml";
/// Likewise: responses about revocation.
pub const OCSP: &str = ".ocsp.der";
/// Likewise: lists of revoked certificates.
pub const CRL: &str = ".crl.der";
/// Likewise: roots.
pub const ROOT: &str = ".root.der";
/// Likewise: certificates of processors' keys and what stands above them.
pub const CERTIFICATES: &str = ".certs";
/// Likewise: what Intel says of processors.
pub const COLLATERAL: &str = ".tdx.json";
/// Signatures over chains, reports and documents that are not verified twice: those of twenty
/// thousand GPUs, in some eight megabytes once all of them came.
const REMEMBERED: usize = 1 << 17;

/// What is in force, and where it comes from.
#[derive(Debug)]
pub struct Endorsed {
    folder: Option<PathBuf>,
    /// Outlives each reading: a signature is good whatever else is brought.
    memory: Arc<GoodSignatures>,
    current: Mutex<Arc<Endorsements>>,
}

/// What one reading found.
#[derive(Debug, Default)]
pub struct Read {
    /// What counts.
    pub endorsements: Endorsements,
    /// Names that do not: changed, signed by nobody who is trusted, or nothing that is known.
    pub refused: Vec<String>,
}

impl Endorsed {
    /// Reads the folder, where one is configured.
    pub fn open(folder: Option<&Path>, now: UnixTime) -> io::Result<Self> {
        let read = match folder {
            Some(folder) => self::read(folder, now)?,
            None => Read::default(),
        };
        tell(&read);
        let memory = Arc::new(GoodSignatures::new(REMEMBERED));
        let endorsements = read.endorsements.remembering(Arc::clone(&memory));
        Ok(Self {
            folder: folder.map(Path::to_owned),
            memory,
            current: Mutex::new(Arc::new(endorsements)),
        })
    }

    /// What counts now.
    #[must_use]
    pub fn current(&self) -> Arc<Endorsements> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Follows the folder until told to stop. One that cannot be read leaves what was read before.
    pub async fn follow(self: Arc<Self>, now: impl Fn() -> UnixTime, stop: CancellationToken) {
        let Some(folder) = self.folder.clone() else {
            return;
        };
        let mut known = (names(&folder).ok(), now());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let found = names(&folder).ok();
            let at = now();
            let late = at.millis().saturating_sub(known.1.millis()) >= AGAIN_MS;
            if found.is_none() || (found == known.0 && !late) {
                continue;
            }
            let from = folder.clone();
            match tokio::task::spawn_blocking(move || read(&from, at)).await {
                Ok(Ok(read)) => {
                    tell(&read);
                    let memory = Arc::clone(&self.memory);
                    let endorsements = Arc::new(read.endorsements.remembering(memory));
                    *self.current.lock().unwrap_or_else(PoisonError::into_inner) = endorsements;
                    known = (found, at);
                }
                Ok(Err(error)) => warn!(folder = %folder.display(), %error, "not read"),
                Err(error) => warn!(%error, "reading endorsements"),
            }
        }
    }
}

fn tell(read: &Read) {
    let (rims, responses, lists, roots) = read.endorsements.held();
    let (certificates, collateral) = read.endorsements.processors.held();
    info!(
        rims,
        responses, lists, roots, certificates, collateral, "endorsements"
    );
    for name in &read.refused {
        warn!(
            file = name,
            "left out: not what its name says, or signed by nobody"
        );
    }
}

fn names(folder: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder)?.take(MAX_FILES) {
        if let Ok(name) = entry?.file_name().into_string() {
            names.insert(name);
        }
    }
    Ok(names)
}

/// Reads a store whole, as of `at`.
pub fn read(folder: &Path, at: UnixTime) -> io::Result<Read> {
    let mut out = Read::default();
    // Roots first, since the others are known by them.
    let (roots, others): (Vec<_>, Vec<_>) = names(folder)?
        .into_iter()
        .partition(|name| name.ends_with(ROOT));
    for name in roots.into_iter().chain(others) {
        let Some((digest, kind)) = name.split_once('.') else {
            continue;
        };
        let good = match format!(".{kind}").as_str() {
            RIM => {
                let bytes = bounded(&folder.join(&name), MAX_RIM_FILE)?;
                named(digest, &bytes) && out.endorsements.add_rim(&bytes, at)
            }
            OCSP => {
                let bytes = bounded(&folder.join(&name), MAX_OCSP_BYTES)?;
                let response = Response::parse(&bytes).ok();
                let response = response.filter(|_| named(digest, &bytes));
                response.map(|it| out.endorsements.add_ocsp(it)).is_some()
            }
            CRL => {
                let bytes = bounded(&folder.join(&name), MAX_CRL_BYTES)?;
                let list = parse_crl(&bytes).ok().filter(|_| named(digest, &bytes));
                list.map(|it| out.endorsements.add_crl(it)).is_some()
            }
            ROOT => {
                let bytes = bounded(&folder.join(&name), MAX_ROOT_BYTES)?;
                let root = Root::parse(&bytes).ok().filter(|_| named(digest, &bytes));
                root.is_some_and(|root| out.endorsements.add_root(root))
            }
            CERTIFICATES => {
                let bytes = bounded(&folder.join(&name), MAX_CERTIFICATES_BYTES)?;
                let all = parse_certificates(&bytes).ok();
                let all = all.filter(|_| named(digest, &bytes));
                let processors = &mut out.endorsements.processors;
                let file = Sha256Digest::of(&[&bytes]);
                all.is_some_and(|all| processors.add_certificates(file, all))
            }
            COLLATERAL => {
                let bytes = bounded(&folder.join(&name), MAX_COLLATERAL_BYTES)?;
                let all = Collateral::parse(&bytes).ok();
                let all = all.filter(|_| named(digest, &bytes));
                let processors = &mut out.endorsements.processors;
                let file = Sha256Digest::of(&[&bytes]);
                all.is_some_and(|all| processors.add_collateral(file, all))
            }
            // Half written, or somebody else's.
            _ => continue,
        };
        if !good {
            out.refused.push(name);
        }
    }
    Ok(out)
}

fn named(digest: &str, bytes: &[u8]) -> bool {
    Sha256Digest::of(&[bytes]).to_string() == digest
}

/// At most one byte more than may be: what is longer has another digest than its name.
fn bounded(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(most).unwrap_or(u64::MAX);
    fs::File::open(path)?
        .take(most.saturating_add(1))
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is signed under a root is read after it, whatever the names; a root whose file is
    /// another's is none.
    #[test]
    fn roots_are_read_before_what_they_vouch_for() {
        let seed = |name: &str| {
            let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds/gpu_rim");
            fs::read(seeds.join(name)).unwrap()
        };
        let at = UnixTime::from_secs(1_767_225_600);
        let (root, rim) = (seed("root.der"), seed("driver.xml"));
        let digest = |bytes: &[u8]| Sha256Digest::of(&[bytes]).to_string();
        for (case, name, rims, roots) in [
            ("by its digest", digest(&root), 1, 1),
            ("by the digest of another", digest(b""), 0, 0),
        ] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(format!("{name}{ROOT}")), &root).unwrap();
            fs::write(dir.path().join(format!("{}{RIM}", digest(&rim))), &rim).unwrap();
            let found = read(dir.path(), at).unwrap();
            assert_eq!(found.endorsements.held(), (rims, 0, 0, roots), "{case}");
        }
    }

    /// Certificates and collateral count under the name of their content alone.
    #[test]
    fn what_vouches_for_processors_is_read_by_its_digest() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds");
        let at = UnixTime::from_secs(1_767_225_600);
        let collateral = fs::read_dir(seeds.join("tdx_collateral")).unwrap();
        let collateral = collateral.map(|entry| fs::read(entry.unwrap().path()).unwrap());
        let collateral = collateral
            .filter(|bytes| Collateral::parse(bytes).is_ok_and(|it| it.fmspc().is_some()))
            .last()
            .expect("a seed that reads");
        let certificate = fs::read(seeds.join("gpu_rim/root.der")).unwrap();
        let digest = |bytes: &[u8]| Sha256Digest::of(&[bytes]).to_string();
        for (case, names, held) in [
            (
                "by their digests",
                [digest(&certificate), digest(&collateral)],
                (1, 1),
            ),
            (
                "by each other's",
                [digest(&collateral), digest(&certificate)],
                (0, 0),
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let [certs, tdx] = names;
            fs::write(
                dir.path().join(format!("{certs}{CERTIFICATES}")),
                &certificate,
            )
            .unwrap();
            fs::write(dir.path().join(format!("{tdx}{COLLATERAL}")), &collateral).unwrap();
            let found = read(dir.path(), at).unwrap();
            assert_eq!(found.endorsements.processors.held(), held, "{case}");
            assert_eq!(found.refused.len(), 2 - held.0 - held.1, "{case}");
        }
    }

    #[test]
    fn a_folder_is_read_and_what_is_not_what_it_says_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let at = UnixTime::from_secs(1_767_225_600);
        assert_eq!(read(dir.path(), at).unwrap().refused, [""; 0]);
        let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
        let digest = Sha256Digest::of(&[b"<no RIM/>"]);
        write(&format!("{digest}.rim.xml"), b"<no RIM/>");
        write("ab.ocsp.der", b"no response");
        write("ac.crl.der", b"no list");
        write("ad.root.der", b"no root");
        write("ae.certs", b"no certificates");
        write("af.tdx.json", b"{}");
        write("notes.txt", b"somebody's");
        write(".part-1", b"half");
        let found = read(dir.path(), at).unwrap();
        assert_eq!(found.refused, {
            let rim = format!("{digest}.rim.xml");
            let others = ["ab.ocsp.der", "ac.crl.der", "ae.certs", "af.tdx.json"];
            let mut left = others.map(str::to_owned).to_vec();
            left.push(rim);
            left.sort();
            left.insert(0, "ad.root.der".to_owned());
            left
        });
        assert_eq!(found.endorsements.held(), (0, 0, 0, 0));
        assert!(read(&dir.path().join("nothing"), at).is_err());
        assert!(Endorsed::open(None, at).is_ok());
    }
}
