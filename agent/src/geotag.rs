//! Where this machine stands: the text somebody signs who stands there, and what was signed, on its
//! way into the TPM.

use bailiwick_attestation::{
    DeploymentId, IdError, JurisdictionCode, Sha256Digest, UnixTime,
    geotag::{Geotag, GeotagMalformed, Record, namespace},
};
use bailiwick_policy::ssh::{SignatureFault, SshSignature, dearmor};

/// What cannot be signed, or put into this TPM.
#[derive(Debug, thiserror::Error)]
pub enum GeotagError {
    /// Not the text of a geotag, or one that would not be read back.
    #[error(transparent)]
    Malformed(#[from] GeotagMalformed),
    /// No jurisdiction.
    #[error(transparent)]
    Jurisdiction(#[from] IdError),
    /// For another installation than this machine's configuration names.
    #[error("written for deployment {0}, and this machine is of {1}")]
    Deployment(DeploymentId, DeploymentId),
    /// For another machine.
    #[error("written for the TPM with EK {0}, and this one has {1}")]
    Ek(Sha256Digest, Sha256Digest),
    /// Not in its time.
    #[error("good from {from} to {until}, and it is {now} (seconds since 1970)")]
    Term {
        /// When it begins.
        from: u64,
        /// When it ends.
        until: u64,
        /// The present.
        now: u64,
    },
    /// No signature over this text.
    #[error("signature")]
    Signature(#[from] SignatureFault),
    /// Text and signature together.
    #[error(
        "text and signature are longer than a TPM certifies at once: use a shorter place, or a smaller key (Ed25519, ECDSA)"
    )]
    TooLong,
}

/// What somebody says who stands before the machine.
#[derive(Clone, Debug)]
pub struct Said {
    /// Site, room, row.
    pub place: String,
    /// Rack.
    pub rack: Option<String>,
    /// ISO 3166 code, or an operator's own.
    pub jurisdiction: String,
    /// When it ends, whole seconds.
    pub until: UnixTime,
}

/// The text to sign.
pub fn draft(
    said: &Said,
    deployment: &DeploymentId,
    ek: Sha256Digest,
    now: UnixTime,
) -> Result<String, GeotagError> {
    let tag = Geotag {
        deployment: deployment.clone(),
        ek,
        place: said.place.clone(),
        rack: said.rack.clone(),
        jurisdiction: JurisdictionCode::new(&said.jurisdiction)?,
        at: UnixTime::from_secs(now.secs()),
        until: said.until,
    };
    let text = tag.text();
    // What cannot be read back is not worth a signature.
    Geotag::parse(text.as_bytes())?;
    Ok(text)
}

/// A signed geotag that belongs into this TPM.
#[derive(Debug)]
pub struct Signed {
    /// What it says.
    pub tag: Geotag,
    /// Who signed; whether that counts is the collector's approvers' to say.
    pub signature: SshSignature,
    /// What the TPM is to keep.
    pub record: Vec<u8>,
}

/// Reads a text and the armored signature over it, and whether they belong into this TPM.
pub fn check(
    text: &[u8],
    armored: &[u8],
    deployment: &DeploymentId,
    ek: Sha256Digest,
    now: UnixTime,
) -> Result<Signed, GeotagError> {
    let tag = Geotag::parse(text)?;
    if tag.deployment != *deployment {
        return Err(GeotagError::Deployment(tag.deployment, deployment.clone()));
    }
    if tag.ek != ek {
        return Err(GeotagError::Ek(tag.ek, ek));
    }
    if now < tag.at || now > tag.until {
        return Err(GeotagError::Term {
            from: tag.at.secs(),
            until: tag.until.secs(),
            now: now.secs(),
        });
    }
    let blob = dearmor(armored)?;
    let signature = SshSignature::parse_blob(&blob)?;
    signature.verify(&namespace(deployment), text)?;
    let record = Record {
        text,
        signature: &blob,
    };
    let record = record.to_bytes().ok_or(GeotagError::TooLong)?;
    Ok(Signed {
        tag,
        signature,
        record,
    })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const NOW: UnixTime = UnixTime(1_780_272_000_000);
    const EK: Sha256Digest = Sha256Digest([0x11; 32]);

    fn demo() -> DeploymentId {
        DeploymentId::new("demo").unwrap()
    }

    fn said() -> Said {
        Said {
            place: "FRA1 / row 3".to_owned(),
            rack: Some("12".to_owned()),
            jurisdiction: "DE".to_owned(),
            until: UnixTime(NOW.0 + 1_000_000),
        }
    }

    #[test]
    fn what_is_drafted_can_be_read_back() {
        let text = draft(&said(), &demo(), EK, UnixTime(NOW.0 + 999)).unwrap();
        let tag = Geotag::parse(text.as_bytes()).unwrap();
        assert_eq!((tag.at, tag.ek), (NOW, EK));
        type Edit = fn(&mut Said);
        let rows: &[(&str, Edit)] = &[
            ("no place", |s| s.place.clear()),
            ("a place of two lines", |s| s.place = "a\nrack 1".to_owned()),
            ("no rack of no name", |s| s.rack = Some(String::new())),
            ("no country", |s| s.jurisdiction = "Germany".to_owned()),
            ("ends at once", |s| s.until = NOW),
        ];
        for (name, edit) in rows {
            let mut bad = said();
            edit(&mut bad);
            assert!(draft(&bad, &demo(), EK, NOW).is_err(), "{name}");
        }
    }

    #[test]
    fn what_belongs_into_this_tpm_is_signed_for_it_and_in_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let sign = |kind: &str, namespace: &str, text: &str| {
            let (key, file) = (
                dir.path().join(format!("key-{kind}")),
                dir.path().join("text"),
            );
            let run = |command: &mut Command| assert!(command.status().unwrap().success());
            if !key.exists() {
                let mut make = Command::new("ssh-keygen");
                make.args(["-q", "-N", "", "-t", kind, "-f"]).arg(&key);
                if kind == "rsa" {
                    make.args(["-b", "4096"]);
                }
                run(&mut make);
            }
            std::fs::write(&file, text).unwrap();
            let signature = dir.path().join("text.sig");
            drop(std::fs::remove_file(&signature));
            let mut sign = Command::new("ssh-keygen");
            sign.args(["-q", "-Y", "sign", "-n", namespace, "-f"]);
            run(sign.arg(&key).arg(&file));
            std::fs::read(signature).unwrap()
        };
        let space = "bailiwick/demo/geotag";
        let text = draft(&said(), &demo(), EK, NOW).unwrap();
        let good = sign("ed25519", space, &text);
        let signed = check(text.as_bytes(), &good, &demo(), EK, NOW).unwrap();
        let record = Record::parse(&signed.record).unwrap();
        assert_eq!(record.text, text.as_bytes());
        assert_eq!(signed.tag.place, "FRA1 / row 3");

        for last in [NOW, UnixTime(NOW.0 + 1_000_000)] {
            assert!(check(text.as_bytes(), &good, &demo(), EK, last).is_ok());
        }

        let other = DeploymentId::new("other").unwrap();
        let says = |text: &str, armored: &[u8], deployment: &DeploymentId, ek, now| {
            let refused = check(text.as_bytes(), armored, deployment, ek, now).unwrap_err();
            crate::uplink::link::chain(&refused)
        };
        let another = text.replace("row 3", "row 4");
        let policy = sign("ed25519", "bailiwick/demo/policy", &text);
        let large = sign("rsa", space, &text);
        let rows = [
            (
                "another deployment",
                says(&text, &good, &other, EK, NOW),
                "this machine is of other",
            ),
            (
                "another machine",
                says(&text, &good, &demo(), Sha256Digest([0x12; 32]), NOW),
                "this one has 1212",
            ),
            (
                "too early",
                says(&text, &good, &demo(), EK, UnixTime(NOW.0 - 1)),
                "good from",
            ),
            (
                "too late",
                says(&text, &good, &demo(), EK, UnixTime(NOW.0 + 1_000_001)),
                "good from",
            ),
            (
                "another text",
                says(&another, &good, &demo(), EK, NOW),
                "does not verify",
            ),
            (
                "another purpose",
                says(&text, &policy, &demo(), EK, NOW),
                "made for namespace",
            ),
            (
                "no armor",
                says(&text, b"alice", &demo(), EK, NOW),
                "is not one block",
            ),
            (
                "a large key",
                says(&text, &large, &demo(), EK, NOW),
                "longer than a TPM certifies",
            ),
            ("no text", says("x", &good, &demo(), EK, NOW), "line 1"),
        ];
        for (name, said, want) in rows {
            assert!(said.contains(want), "{name}: {said}");
        }
    }
}
