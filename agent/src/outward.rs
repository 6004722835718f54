//! The outward certificate: what others may believe of this node, on disk only while it stands.
//!
//! The collector sends one beside a lease. It is for the node's TLS key (in the TPM, or of a guest's boot) and ends no later than
//! that lease. A statement with any verdict but an affirming one takes the file away, and so does
//! the end of its life. Losing it costs the node nothing else: the evidence channel has a
//! certificate of its own.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bailiwick_attestation::{
    UnixTime,
    proto::v1::OutwardCertificate,
    x509::{Certificate, MAX_CERTIFICATE_BYTES, pem_block, pem_blocks},
};
use tracing::{error, info};

use crate::files::{read_bounded, write_public};

/// Most certificates in its chain: leaf, outward CA, and two for whoever puts a CA above that.
const CHAIN: usize = 4;

/// Longest file: base64 takes four bytes for three, and labels and line ends the rest.
const MAX_FILE: usize = CHAIN * MAX_CERTIFICATE_BYTES * 2;

/// Label of a certificate in PEM.
const LABEL: &str = "CERTIFICATE";

/// Why a certificate is not kept.
#[derive(Debug, thiserror::Error)]
pub enum OutwardRefused {
    /// None, too many, or one that cannot be read.
    #[error("OutwardCertificate.certificate_chain: {0}")]
    Chain(String),
    /// Somebody else's key: the node could not use it.
    #[error("the certificate is not for this node's TLS key")]
    Key,
    /// Its time is over by this node's clock.
    #[error("the certificate ended at {not_after:?}, and it is {now:?}")]
    Expired {
        /// Its end.
        not_after: UnixTime,
        /// This node's clock.
        now: UnixTime,
    },
    /// The message says another end than the certificate.
    #[error("OutwardCertificate.not_after_ms is {said:?}, the certificate says {not_after:?}")]
    NotAfter {
        /// What the message says.
        said: UnixTime,
        /// What the certificate says.
        not_after: UnixTime,
    },
    /// The file.
    #[error("{file}")]
    File {
        /// The file.
        file: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// The file, and until when it may be there.
#[derive(Debug)]
pub struct Outward {
    file: PathBuf,
    spki: Vec<u8>,
    not_after: Option<UnixTime>,
}

impl Outward {
    /// Takes over what an earlier run left below `state_dir` if it still stands, and removes it
    /// otherwise. `spki`: the `SubjectPublicKeyInfo` of the TLS key, DER.
    #[must_use]
    pub fn open(state_dir: &Path, spki: Vec<u8>, now: UnixTime) -> Self {
        let mut outward = Self {
            file: state_dir.join("outward/certificate.pem"),
            spki,
            not_after: None,
        };
        match outward.kept(now) {
            Ok(not_after) => outward.not_after = not_after,
            Err(why) => outward.remove(&why.to_string()),
        }
        outward
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// When the file has to go; `None`: there is none.
    #[must_use]
    pub const fn until(&self) -> Option<UnixTime> {
        self.not_after
    }

    /// Puts a chain in place of the one before, if it is this node's and still lasts.
    pub fn replace(
        &mut self,
        message: &OutwardCertificate,
        now: UnixTime,
    ) -> Result<(), OutwardRefused> {
        let not_after = self.check(&message.certificate_chain, now)?;
        let said = UnixTime(message.not_after_ms);
        if said != not_after {
            return Err(OutwardRefused::NotAfter { said, not_after });
        }
        let pem: String = message
            .certificate_chain
            .iter()
            .map(|der| pem_block(LABEL, der))
            .collect();
        write_public(&self.file, pem.as_bytes()).map_err(|source| self.failed(source))?;
        self.not_after = Some(not_after);
        Ok(())
    }

    /// Takes the file away, if there is one.
    pub fn remove(&mut self, why: &str) {
        self.not_after = None;
        match fs::remove_file(&self.file) {
            Ok(()) => info!(file = %self.file.display(), why, "outward certificate removed"),
            Err(gone) if gone.kind() == io::ErrorKind::NotFound => {}
            // What it says ends by itself in minutes; whoever reads it must not wait for that.
            Err(fault) => error!(file = %self.file.display(), why, %fault,
                "the outward certificate could not be removed"),
        }
    }

    /// Takes the file away once its time is over.
    pub fn expire(&mut self, now: UnixTime) {
        if self.not_after.is_some_and(|end| now >= end) {
            self.remove("its time is over");
        }
    }

    fn kept(&self, now: UnixTime) -> Result<Option<UnixTime>, OutwardRefused> {
        let bytes = match read_bounded(&self.file, MAX_FILE) {
            Ok(bytes) => bytes,
            Err(none) if none.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.failed(source)),
        };
        let text = String::from_utf8_lossy(&bytes);
        let chain = pem_blocks(&text, LABEL, CHAIN)
            .map_err(|error| OutwardRefused::Chain(error.to_string()))?;
        self.check(&chain, now).map(Some)
    }

    /// The end of a chain that is this node's and has not ended.
    fn check(&self, chain: &[Vec<u8>], now: UnixTime) -> Result<UnixTime, OutwardRefused> {
        let refuse = |why: String| OutwardRefused::Chain(why);
        if chain.len() > CHAIN {
            return Err(refuse(format!("{} of at most {CHAIN}", chain.len())));
        }
        let mut certificates = Vec::new();
        for der in chain {
            let certificate = Certificate::parse(der).map_err(|error| refuse(error.to_string()))?;
            certificates.push(certificate);
        }
        let leaf = certificates
            .first()
            .ok_or_else(|| refuse("is empty".to_owned()))?;
        if leaf.spki_der() != self.spki {
            return Err(OutwardRefused::Key);
        }
        let not_after = leaf.not_after();
        if now >= not_after {
            return Err(OutwardRefused::Expired { not_after, now });
        }
        Ok(not_after)
    }

    fn failed(&self, source: io::Error) -> OutwardRefused {
        OutwardRefused::File {
            file: self.file.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rcgen::{CertificateParams, KeyPair, PublicKeyData as _};

    use super::*;

    const END: u64 = 1_800_000_300;
    const NOW: UnixTime = UnixTime(1_800_000_000_000);

    fn message(key: &KeyPair) -> OutwardCertificate {
        let mut params = CertificateParams::default();
        params.not_before = time::OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        let end = i64::try_from(END).unwrap();
        params.not_after = time::OffsetDateTime::from_unix_timestamp(end).unwrap();
        OutwardCertificate {
            certificate_chain: vec![params.self_signed(key).unwrap().der().to_vec()],
            not_after_ms: END * 1000,
        }
    }

    fn open(dir: &Path, key: &KeyPair, now: UnixTime) -> Outward {
        Outward::open(dir, key.subject_public_key_info(), now)
    }

    #[test]
    fn it_is_there_while_it_stands_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let message = message(&key);
        let mut outward = open(dir.path(), &key, NOW);
        let file = dir.path().join("outward/certificate.pem");
        assert_eq!((outward.until(), file.exists()), (None, false));

        outward.replace(&message, NOW).unwrap();
        let end = UnixTime::from_secs(END);
        assert_eq!(outward.until(), Some(end));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file), 0o644);
        assert_eq!(mode(file.parent().unwrap()), 0o755);
        let text = fs::read_to_string(&file).unwrap();
        let chain = pem_blocks(&text, LABEL, CHAIN).unwrap();
        assert_eq!(chain, message.certificate_chain);

        let longest = OutwardCertificate {
            certificate_chain: vec![message.certificate_chain[0].clone(); CHAIN],
            ..message.clone()
        };
        outward.replace(&longest, NOW).unwrap();

        // A restart keeps it, a moment before its end; the end takes it away.
        let last = UnixTime(end.millis() - 1);
        let mut outward = open(dir.path(), &key, last);
        assert_eq!(outward.until(), Some(end));
        outward.expire(last);
        assert!(file.exists());
        outward.expire(end);
        assert_eq!((outward.until(), file.exists()), (None, false));

        outward.replace(&message, NOW).unwrap();
        outward.remove("contraindicated");
        assert_eq!((outward.until(), file.exists()), (None, false));
        outward.remove("twice");
    }

    #[test]
    fn a_start_removes_what_does_not_stand() {
        let key = KeyPair::generate().unwrap();
        let other = KeyPair::generate().unwrap();
        let cases: [(&str, &KeyPair, UnixTime, Option<&[u8]>); 4] = [
            ("its time is over", &key, UnixTime::from_secs(END), None),
            ("another key", &other, NOW, None),
            ("not a certificate", &key, NOW, Some(b"nonsense")),
            ("longer than any", &key, NOW, Some(&[b'x'; MAX_FILE + 1])),
        ];
        for (name, key_now, now, content) in cases {
            let dir = tempfile::tempdir().unwrap();
            let mut outward = open(dir.path(), &key, NOW);
            outward.replace(&message(&key), NOW).unwrap();
            if let Some(content) = content {
                fs::write(outward.file(), content).unwrap();
            }
            let again = open(dir.path(), key_now, now);
            assert_eq!(again.until(), None, "{name}");
            assert!(!again.file().exists(), "{name}");
        }
    }

    #[test]
    fn what_is_not_ours_or_over_is_not_written() {
        let key = KeyPair::generate().unwrap();
        let good = message(&key);
        let leaf = good.certificate_chain[0].clone();
        let with = |chain: Vec<Vec<u8>>| OutwardCertificate {
            certificate_chain: chain,
            ..good.clone()
        };
        let cases = [
            ("no certificate", with(Vec::new()), NOW, "is empty"),
            (
                "one too many",
                with(vec![leaf.clone(); CHAIN + 1]),
                NOW,
                "5 of at most 4",
            ),
            (
                "one byte short",
                with(vec![leaf[..leaf.len() - 1].to_vec()]),
                NOW,
                "OutwardCertificate.certificate_chain: ",
            ),
            (
                "another key",
                message(&KeyPair::generate().unwrap()),
                NOW,
                "not for this node's TLS key",
            ),
            (
                "at its end",
                good.clone(),
                UnixTime::from_secs(END),
                "the certificate ended at",
            ),
            (
                "another end than it says",
                OutwardCertificate {
                    not_after_ms: END * 1000 + 1,
                    ..good.clone()
                },
                NOW,
                "OutwardCertificate.not_after_ms",
            ),
        ];
        for (name, message, now, want) in cases {
            let dir = tempfile::tempdir().unwrap();
            let mut outward = open(dir.path(), &key, now);
            let refused = outward.replace(&message, now).unwrap_err().to_string();
            assert!(refused.contains(want), "{name}: {refused}");
            assert!(!outward.file().exists(), "{name}");
        }
    }
}
