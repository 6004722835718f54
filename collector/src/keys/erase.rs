//! An erasure that approvers signed takes effect: keys destroyed, a certificate in the log.

use bailiwick_attestation::events::keys_digest;
use bailiwick_attestation::tlog::{ActKind, ErasureCertificate};
use bailiwick_attestation::{Sha256Digest, StudyId, UnixTime};
use bailiwick_policy::content::Erasure;
use tracing::info;

use super::{KeyRow, Keys, KeysError};
use crate::record::{NewAct, Store, StoreError};

/// Why an erasure did not take effect.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// A key is not gone.
    #[error("keys not destroyed")]
    Keys(#[from] KeysError),
    /// They are gone, and the certificate is not written: it is once the erasure is applied again.
    #[error("no certificate")]
    Store(#[from] StoreError),
}

/// Whether an erasure means this key.
fn meant(erasure: &Erasure, key: &KeyRow) -> bool {
    // A name that is none cannot have been meant.
    StudyId::new(&key.study).is_ok_and(|study| erasure.names(&study, &key.bucket, &key.retention))
}

/// Whether this manifest's erasure took effect: its certificate is an act of the log.
async fn certified(store: &Store, manifest: &Sha256Digest) -> Result<bool, StoreError> {
    let bodies = store.act_bodies(ActKind::Erasure).await?;
    let mut certificates = bodies.iter().map(|body| ErasureCertificate::parse(body));
    Ok(certificates.any(|read| read.is_ok_and(|read| read.manifest == *manifest)))
}

/// What the log says about the keys that are gone by this manifest.
fn certificate(
    erasure: &Erasure,
    manifest: Sha256Digest,
    gone: &[KeyRow],
    now: UnixTime,
) -> ErasureCertificate {
    let ids: Vec<_> = gone.iter().map(|key| key.id).collect();
    let buckets = erasure.buckets.as_ref().map(|names| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.join(",")
    });
    ErasureCertificate {
        study: erasure.study.to_string(),
        buckets: buckets.unwrap_or_else(|| "*".to_owned()),
        retention: erasure.retention.clone().unwrap_or_else(|| "*".to_owned()),
        manifest,
        keys: u64::try_from(ids.len()).unwrap_or(u64::MAX),
        keys_digest: keys_digest(&ids),
        destroyed: now,
    }
}

impl Keys {
    /// Applies an erasure that approvers signed; once it took effect, again is nothing. Keys first,
    /// then the certificate: cut off in between, the next attempt certifies what is gone.
    pub async fn erase(
        &self,
        store: &Store,
        erasure: &Erasure,
        manifest: Sha256Digest,
        now: UnixTime,
    ) -> Result<(), EraseError> {
        if certified(store, &manifest).await? {
            return Ok(());
        }
        self.destroy(|key| meant(erasure, key), &manifest, now)
            .await?;
        let all = self.list().await?;
        let by_this = |key: &&KeyRow| key.destroyed.is_some_and(|(_, by)| by == manifest);
        let gone: Vec<KeyRow> = all.iter().filter(by_this).cloned().collect();
        let act = NewAct {
            kind: ActKind::Erasure,
            subject: erasure.study.to_string(),
            ek: None,
            actor: "collector".to_owned(),
            body: certificate(erasure, manifest, &gone, now).to_bytes(),
            now,
        };
        store.act_insert(act).await?;
        info!(%manifest, study = %erasure.study, keys = gone.len(), "keys destroyed");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bailiwick_attestation::events::KeyId;

    use super::*;

    fn key(study: &str, bucket: &str) -> KeyRow {
        KeyRow {
            id: KeyId([1; 16]),
            ek: Sha256Digest([2; 32]),
            study: study.to_owned(),
            bucket: bucket.to_owned(),
            retention: "default".to_owned(),
            key_store: String::new(),
            made: UnixTime(1),
            destroyed: None,
        }
    }

    fn erasure(rest: &str) -> Erasure {
        let text = format!("study = \"cardio\"\nreason = \"consent withdrawn\"\n{rest}");
        Erasure::parse("erasure.toml", text.as_bytes()).unwrap()
    }

    #[test]
    fn an_erasure_means_its_own_keys() {
        let all = erasure("");
        let some = erasure("buckets = [\"b-01\", \"b-02\"]\n");
        let none = erasure("retention = \"trial\"\n");
        let rows = [
            ("cardio", "b-01", [true, true, false]),
            ("cardio", "b-03", [true, false, false]),
            ("neuro", "b-01", [false, false, false]),
            ("Not a study", "b-01", [false, false, false]),
        ];
        for (study, bucket, want) in rows {
            let got = [&all, &some, &none].map(|e| meant(e, &key(study, bucket)));
            assert_eq!(got, want, "{study} {bucket}");
        }
    }

    #[test]
    fn a_certificate_names_what_is_gone() {
        let manifest = Sha256Digest([4; 32]);
        let gone = [key("cardio", "b-01")];
        let some = erasure("buckets = [\"b-01\", \"b-02\"]\n");
        let entry = certificate(&some, manifest, &gone, UnixTime(9));
        assert_eq!(
            (entry.buckets.as_str(), entry.retention.as_str()),
            ("b-01,b-02", "*")
        );
        assert_eq!(
            (entry.keys, entry.keys_digest),
            (1, keys_digest(&[KeyId([1; 16])]))
        );
        let none = certificate(&erasure(""), manifest, &[], UnixTime(9));
        assert_eq!((none.buckets.as_str(), none.keys), ("*", 0));
        let bytes = none.to_bytes();
        assert_eq!(ErasureCertificate::parse(&bytes), Ok(none));
    }
}
