//! C2SP `signed-note`: a text, and one line per signature under it.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::{Engine, engine::general_purpose::STANDARD};

use crate::ids::Sha256Digest;

/// Longest note read. Ours are some 300 bytes; a cosignature adds 150.
const MAX_NOTE: usize = 64 * 1024;
/// Most signature lines read: one of ours and a witness each.
const MAX_SIGNATURES: usize = 64;
/// C2SP key type of Ed25519.
const ED25519_TYPE: u8 = 1;

/// Why a note or key is not accepted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoteError {
    /// Not a signed note.
    #[error("signed note, line {line}: {fault}")]
    Malformed {
        /// Counted from 1.
        line: usize,
        /// The rule it breaks.
        fault: &'static str,
    },
    /// Not a verifier key.
    #[error("verifier key: {0}")]
    Key(&'static str),
    /// No signature by this key.
    #[error("no signature by {0}")]
    Unsigned(String),
    /// A signature line claims this key and does not verify.
    #[error("the signature by {0} does not verify")]
    Signature(String),
    /// The text cannot be signed, or the provider would not.
    #[error("could not sign")]
    Sign,
}

/// A note taken apart. Nothing in it is trusted yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignedNote<'a> {
    text: &'a str,
    signatures: Vec<Line<'a>>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Line<'a> {
    name: &'a str,
    key_id: [u8; 4],
    signature: Vec<u8>,
}

impl<'a> SignedNote<'a> {
    /// Takes a note apart; every signature line must be well-formed.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NoteError> {
        let whole = |fault| NoteError::Malformed { line: 1, fault };
        if bytes.len() > MAX_NOTE {
            return Err(whole("longer than 64 KiB"));
        }
        let note = str::from_utf8(bytes).map_err(|_utf8| whole("not UTF-8"))?;
        if note.bytes().any(|b| b < 0x20 && b != b'\n') {
            return Err(whole("holds a control character"));
        }
        let Some((body, lines)) = note.rsplit_once("\n\n") else {
            return Err(whole("no blank line before the signatures"));
        };
        // The newline that ends the text's last line belongs to what is signed.
        let text = note.get(..body.len() + 1).ok_or_else(|| whole("no text"))?;
        let before = body.split('\n').count() + 1;
        let refuse = |at: usize, fault| NoteError::Malformed {
            line: before + at + 1,
            fault,
        };
        let Some(lines) = lines.strip_suffix('\n') else {
            return Err(refuse(0, "the last line does not end"));
        };
        let mut signatures = Vec::new();
        for (at, line) in lines.split('\n').enumerate() {
            if at >= MAX_SIGNATURES {
                return Err(refuse(at, "more than 64 signatures"));
            }
            let (name, encoded) = line
                .strip_prefix("— ")
                .and_then(|rest| rest.split_once(' '))
                .ok_or_else(|| refuse(at, "not a signature line"))?;
            let blob = STANDARD
                .decode(encoded)
                .map_err(|_base64| refuse(at, "signature is not base64"))?;
            let (key_id, signature) = blob
                .split_first_chunk::<4>()
                .ok_or_else(|| refuse(at, "signature is shorter than a key id"))?;
            if name.is_empty() || name.contains('+') {
                return Err(refuse(at, "not a key name"));
            }
            signatures.push(Line {
                name,
                key_id: *key_id,
                signature: signature.to_vec(),
            });
        }
        Ok(Self { text, signatures })
    }

    /// The text, if `verifier`'s key signed it. Lines of other keys are passed over.
    pub fn verify(&self, verifier: &NoteVerifier) -> Result<&'a str, NoteError> {
        let mut of_this_key = self
            .signatures
            .iter()
            .filter(|line| line.name == verifier.name && line.key_id == verifier.key_id)
            .peekable();
        if of_this_key.peek().is_none() {
            return Err(NoteError::Unsigned(verifier.name.clone()));
        }
        let key = UnparsedPublicKey::new(&ED25519, verifier.public);
        for line in of_this_key {
            if key.verify(self.text.as_bytes(), &line.signature).is_err() {
                return Err(NoteError::Signature(verifier.name.clone()));
            }
        }
        Ok(self.text)
    }
}

fn key_id(name: &str, public: &[u8; 32]) -> [u8; 4] {
    let digest = Sha256Digest::of(&[name.as_bytes(), b"\n", &[ED25519_TYPE], public]);
    let [a, b, c, d, ..] = digest.0;
    [a, b, c, d]
}

/// A key that notes are checked with: `name+key id+base64(type ‖ public key)`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NoteVerifier {
    name: String,
    key_id: [u8; 4],
    public: [u8; 32],
}

impl NoteVerifier {
    /// From an Ed25519 public key.
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self, NoteError> {
        if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c == '+') {
            return Err(NoteError::Key(
                "the name is empty or holds white space or '+'",
            ));
        }
        Ok(Self {
            name: name.to_owned(),
            key_id: key_id(name, &public),
            public,
        })
    }

    /// Reads the text form; the id in it must be the key's.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key("not of the form name+id+key"));
        };
        let key = STANDARD
            .decode(key)
            .map_err(|_base64| NoteError::Key("key is not base64"))?;
        let Some((&ED25519_TYPE, public)) = key.split_first() else {
            return Err(NoteError::Key("not an Ed25519 key (type 1)"));
        };
        let Ok(public) = <[u8; 32]>::try_from(public) else {
            return Err(NoteError::Key("an Ed25519 key has 32 bytes"));
        };
        let verifier = Self::new(name, public)?;
        if hex::encode(verifier.key_id) != id {
            return Err(NoteError::Key("the id is not this key's"));
        }
        Ok(verifier)
    }

    /// Name of the key, by convention the origin of the log.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for NoteVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut key = vec![ED25519_TYPE];
        key.extend_from_slice(&self.public);
        write!(
            f,
            "{}+{}+{}",
            self.name,
            hex::encode(self.key_id),
            STANDARD.encode(key)
        )
    }
}

/// A key that notes are signed with.
pub struct NoteSigner {
    verifier: NoteVerifier,
    pair: Ed25519KeyPair,
}

impl NoteSigner {
    /// From an Ed25519 private key in PKCS#8.
    pub fn from_pkcs8(name: &str, pkcs8: &[u8]) -> Result<Self, NoteError> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8)
            .map_err(|_rejected| NoteError::Key("not an Ed25519 key in PKCS#8"))?;
        let public = <[u8; 32]>::try_from(pair.public_key().as_ref())
            .map_err(|_length| NoteError::Key("an Ed25519 key has 32 bytes"))?;
        Ok(Self {
            verifier: NoteVerifier::new(name, public)?,
            pair,
        })
    }

    /// The other half.
    #[must_use]
    pub const fn verifier(&self) -> &NoteVerifier {
        &self.verifier
    }

    /// Signs `text`, which must end in a newline and hold no blank line.
    pub fn sign(&self, text: &str) -> Result<String, NoteError> {
        if !text.ends_with('\n') || text.contains("\n\n") {
            return Err(NoteError::Sign);
        }
        let signature = self
            .pair
            .try_sign(text.as_bytes())
            .map_err(|_provider| NoteError::Sign)?;
        let mut blob = self.verifier.key_id.to_vec();
        blob.extend_from_slice(signature.as_ref());
        Ok(format!(
            "{text}\n— {} {}\n",
            self.verifier.name,
            STANDARD.encode(blob)
        ))
    }

    /// Signs a note that others have signed, under their lines.
    pub fn cosign(&self, note: &str) -> Result<String, NoteError> {
        let text = SignedNote::parse(note.as_bytes())?.text;
        let own = self.sign(text)?;
        let line = own.get(text.len() + 1..).ok_or(NoteError::Sign)?;
        Ok(format!("{note}{line}"))
    }
}

impl fmt::Debug for NoteSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoteSigner")
            .field("verifier", &self.verifier)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that the format's reference implementation (Go's `sumdb/note`) documents.
    const PETER: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        — PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    fn signer(seed: u8) -> NoteSigner {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap();
        let pkcs8 = pair.to_pkcs8v1().unwrap();
        NoteSigner::from_pkcs8("log.example/eu", pkcs8.as_ref()).unwrap()
    }

    #[test]
    fn reads_what_the_reference_implementation_signs() {
        let verifier = NoteVerifier::parse(PETER).unwrap();
        assert_eq!(verifier.to_string(), PETER);
        let note = SignedNote::parse(NOTE.as_bytes()).unwrap();
        assert!(
            note.verify(&verifier)
                .unwrap()
                .ends_with("your problem is.\n")
        );
    }

    #[test]
    fn refuses_what_the_key_did_not_sign() {
        let verifier = NoteVerifier::parse(PETER).unwrap();
        let edited = NOTE.replace("answer", "ansver");
        assert_eq!(
            SignedNote::parse(edited.as_bytes())
                .unwrap()
                .verify(&verifier),
            Err(NoteError::Signature("PeterNeumann".to_owned()))
        );
        let other = signer(7);
        assert_eq!(
            SignedNote::parse(NOTE.as_bytes())
                .unwrap()
                .verify(other.verifier()),
            Err(NoteError::Unsigned("log.example/eu".to_owned()))
        );
    }

    #[test]
    fn signs_what_it_verifies_and_passes_over_other_lines() {
        let (ours, witness) = (signer(1), signer(2));
        let note = ours.sign("log.example/eu\n3\nroot\n").unwrap();
        let both = witness.cosign(&note).unwrap();
        assert!(both.starts_with(&note));
        let parsed = SignedNote::parse(both.as_bytes()).unwrap();
        for verifier in [ours.verifier(), witness.verifier()] {
            assert_eq!(
                parsed.verify(verifier).unwrap(),
                "log.example/eu\n3\nroot\n"
            );
        }
    }

    #[test]
    fn malformed_notes_name_the_line() {
        let cases = [
            (
                "empty",
                "",
                "signed note, line 1: no blank line before the signatures",
            ),
            (
                "unsigned",
                "a\n",
                "signed note, line 1: no blank line before the signatures",
            ),
            (
                "no dash",
                "a\n\nb c\n",
                "signed note, line 3: not a signature line",
            ),
            (
                "no base64",
                "a\n\n— b !\n",
                "signed note, line 3: signature is not base64",
            ),
            (
                "short",
                "a\n\n— b AAA=\n",
                "signed note, line 3: signature is shorter than a key id",
            ),
            (
                "no end",
                "a\n\n— b AAAAAA==",
                "signed note, line 3: the last line does not end",
            ),
            (
                "control",
                "a\r\n\n— b AAAAAA==\n",
                "signed note, line 1: holds a control character",
            ),
        ];
        for (name, bytes, want) in cases {
            assert_eq!(
                SignedNote::parse(bytes.as_bytes()).unwrap_err().to_string(),
                want,
                "{name}"
            );
        }
    }

    #[test]
    fn keys_say_what_is_wrong_with_them() {
        let cases = [
            ("short", "a+b", "verifier key: not of the form name+id+key"),
            (
                "id",
                &PETER.replace("c74f20a3", "c74f20a4"),
                "verifier key: the id is not this key's",
            ),
            (
                "type",
                "a+00000000+Ahpc",
                "verifier key: not an Ed25519 key (type 1)",
            ),
            (
                "length",
                "a+00000000+AQ==",
                "verifier key: an Ed25519 key has 32 bytes",
            ),
        ];
        for (name, text, want) in cases {
            assert_eq!(
                NoteVerifier::parse(text).unwrap_err().to_string(),
                want,
                "{name}"
            );
        }
    }
}
