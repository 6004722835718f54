//! Signatures that were found good before: a machine shows the same chains for weeks, and an
//! operator's documents are about all of them.
//!
//! One kind of fact is remembered: this key made this signature over these bytes. It is so for ever.
//! Whose key is trusted, what counts at a time and what is revoked is asked anew each time, and a
//! signature that is not good is never remembered.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::ids::Sha256Digest;

/// Good signatures by digest, as many as were asked for, the ones longest not asked about left out
/// first. Threads share it.
pub struct GoodSignatures {
    half: usize,
    halves: Mutex<Halves>,
}

/// What was asked about lately, and before that.
#[derive(Default)]
struct Halves {
    young: HashSet<Sha256Digest>,
    old: HashSet<Sha256Digest>,
}

impl GoodSignatures {
    /// Remembers at most `most`, in 32 bytes each and what a hash set takes beside.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            half: most / 2,
            halves: Mutex::new(Halves::default()),
        }
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        let halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        halves.young.len() + halves.old.len()
    }

    /// None is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn knows(&self, fact: &Sha256Digest) -> bool {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        if halves.young.contains(fact) {
            return true;
        }
        let known = halves.old.remove(fact);
        if known {
            halves.add(*fact, self.half);
        }
        known
    }

    fn add(&self, fact: Sha256Digest) {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        halves.add(fact, self.half);
    }
}

impl Halves {
    fn add(&mut self, fact: Sha256Digest, half: usize) {
        if half == 0 {
            return;
        }
        if self.young.len() >= half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(fact);
    }
}

impl fmt::Debug for GoodSignatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GoodSignatures")
            .field("held", &self.len())
            .finish_non_exhaustive()
    }
}

/// What a signature is about. Each kind is verified in one way, so that parts of one kind, in
/// their order, decide the outcome alone.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// The issuer's point on P-384; the whole certificate.
    Certificate,
    /// The leaf's point on P-384; the whole report.
    Report,
    /// The signer's point on P-384; hash, what is signed, signature.
    Response,
    /// The issuer's whole certificate; SHA-256 of the whole list.
    List,
}

/// Verifies, unless the very same was found good before.
pub(super) fn once<E>(
    memory: Option<&GoodSignatures>,
    kind: Kind,
    parts: &[&[u8]],
    verify: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let Some(memory) = memory else {
        return verify();
    };
    let fact = fact(kind, parts);
    if memory.knows(&fact) {
        return Ok(());
    }
    verify()?;
    memory.add(fact);
    Ok(())
}

/// Each part with its length before it: no two lists of parts are one run of bytes.
fn fact(kind: Kind, parts: &[&[u8]]) -> Sha256Digest {
    let kind: &[u8] = match kind {
        Kind::Certificate => b"certificate",
        Kind::Report => b"report",
        Kind::Response => b"response",
        Kind::List => b"list",
    };
    let digests = parts.iter().map(|part| Sha256Digest::of(&[part]).0);
    let digests: Vec<u8> = digests.flatten().collect();
    Sha256Digest::of(&[b"bailiwick good signature v1\0", kind, b"\0", &digests])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(memory: &GoodSignatures, kind: Kind, parts: &[&[u8]], good: bool) -> (bool, bool) {
        let mut verified = false;
        let outcome = once(Some(memory), kind, parts, || {
            verified = true;
            good.then_some(()).ok_or(())
        });
        (outcome.is_ok(), verified)
    }

    #[test]
    fn what_was_good_is_not_verified_again_and_nothing_else_is_spared() {
        let memory = GoodSignatures::new(16);
        let (key, bytes): (&[u8], &[u8]) = (b"key", b"bytes");
        let report = Kind::Report;
        assert_eq!(asked(&memory, report, &[key, bytes], false), (false, true));
        assert!(memory.is_empty(), "a bad one is not remembered");
        assert_eq!(asked(&memory, report, &[key, bytes], true), (true, true));
        // Not even asked: whatever would be said now.
        assert_eq!(asked(&memory, report, &[key, bytes], false), (true, false));
        for (name, kind, parts) in [
            ("another key", report, vec![b"kez".as_slice(), bytes]),
            ("other bytes", report, vec![key, b"bytez"]),
            ("another kind", Kind::Certificate, vec![key, bytes]),
            ("cut elsewhere", report, vec![b"keyb".as_slice(), b"ytes"]),
            ("all in one", report, vec![b"keybytes".as_slice()]),
            ("one more", report, vec![key, bytes, b""]),
        ] {
            assert_eq!(asked(&memory, kind, &parts, false), (false, true), "{name}");
        }
        assert_eq!(memory.len(), 1);
        let nothing = |verified: &mut bool| {
            once(None, report, &[key, bytes], || {
                *verified = true;
                Ok::<(), ()>(())
            })
        };
        let mut verified = false;
        assert_eq!((nothing(&mut verified), verified), (Ok(()), true));
    }

    #[test]
    fn memory_is_bounded_and_keeps_what_is_asked_about() {
        let memory = GoodSignatures::new(8);
        for number in 0..100u8 {
            asked(&memory, Kind::Report, &[&[number]], true);
            let (_, verified) = asked(&memory, Kind::Report, &[&[0]], true);
            assert!(!verified || number == 0, "{number}");
            assert!(memory.len() <= 8, "{}", memory.len());
        }
        assert_eq!(asked(&memory, Kind::Report, &[&[99]], true), (true, false));
        assert_eq!(asked(&memory, Kind::Report, &[&[50]], true), (true, true));
        let none = GoodSignatures::new(0);
        asked(&none, Kind::Report, &[&[1]], true);
        assert!(none.is_empty());
    }
}
