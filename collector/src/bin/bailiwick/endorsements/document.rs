//! One document an operator brings: what kind it is, what it says, until when it counts.

use std::borrow::Cow;

use bailiwick_attestation::cvm::tdx::{Collateral, MAX_COLLATERAL_BYTES, TdxRefused, endorse};
use bailiwick_attestation::cvm::{
    MAX_CERTIFICATES_BYTES, is_certificates, parse_certificates, words,
};
use bailiwick_attestation::gpu::rim::{self, Checked, MAX_RIM_FILE};
use bailiwick_attestation::gpu::{
    Anchors, MAX_CRL_BYTES, MAX_OCSP_BYTES, MAX_ROOT_BYTES, Response, Root, crl_document, parse_crl,
};
use bailiwick_attestation::x509::{Certificate, RevocationList};
use bailiwick_attestation::{Sha256Digest, UnixTime};
use bailiwick_collector::endorsements::{CERTIFICATES, COLLATERAL, CRL, OCSP, RIM, ROOT};
use serde_json::{Value, json};

use super::DAY;
use crate::format::time;

/// The longest of all.
pub(super) const MAX_FILE: usize = {
    assert!(MAX_RIM_FILE >= MAX_CRL_BYTES && MAX_RIM_FILE >= MAX_OCSP_BYTES);
    assert!(MAX_RIM_FILE >= MAX_ROOT_BYTES && MAX_RIM_FILE >= MAX_CERTIFICATES_BYTES);
    if MAX_RIM_FILE > MAX_COLLATERAL_BYTES {
        MAX_RIM_FILE
    } else {
        MAX_COLLATERAL_BYTES
    }
};

/// What an operator may bring.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// Reference values.
    Rim,
    /// A response about revocation.
    Ocsp,
    /// A list of revoked certificates.
    Crl,
    /// A root.
    Root,
    /// Certificates of processors' keys, and what stands above them.
    Certificates,
    /// What Intel says of processors.
    Collateral,
}

/// Whose reference values will do.
#[derive(Debug)]
pub(super) struct Trust {
    /// NVIDIA's root, or those that stand on the command line.
    pub(super) base: Anchors,
    /// Roots that were brought. What they vouch for is kept, and counts where a profile names them.
    pub(super) brought: Anchors,
}

impl Kind {
    pub(super) const ALL: [Self; 6] = [
        Self::Rim,
        Self::Ocsp,
        Self::Crl,
        Self::Root,
        Self::Certificates,
        Self::Collateral,
    ];

    /// `rim`, `ocsp`, `crl`, `root`, `certificates`, `collateral`.
    const fn name(self) -> &'static str {
        match self {
            Self::Rim => "rim",
            Self::Ocsp => "ocsp",
            Self::Crl => "crl",
            Self::Root => "root",
            Self::Certificates => "certificates",
            Self::Collateral => "collateral",
        }
    }

    /// Behind the digest in the name of a kept file.
    pub(super) const fn suffix(self) -> &'static str {
        match self {
            Self::Rim => RIM,
            Self::Ocsp => OCSP,
            Self::Crl => CRL,
            Self::Root => ROOT,
            Self::Certificates => CERTIFICATES,
            Self::Collateral => COLLATERAL,
        }
    }

    /// By content. What is neither a response, a list nor a certificate is held to be reference
    /// values, and says what it lacks to be that.
    pub(super) fn of(file: &[u8]) -> Self {
        if is_certificates(file) {
            return Self::Certificates;
        }
        if Collateral::parse(file).is_ok() {
            return Self::Collateral;
        }
        if file.starts_with(b"-----BEGIN CERTIFICATE-----") {
            return Self::Root;
        }
        let tags = |der: Option<Cow<'_, [u8]>>| inside(&der.unwrap_or_default());
        if let [Some(ENUMERATED), _] = tags(Response::document(file).ok()) {
            return Self::Ocsp;
        }
        if let [Some(SEQUENCE), Some(VERSION)] = tags(Root::document(file).ok()) {
            return Self::Root;
        }
        match tags(crl_document(file).ok()) {
            [Some(SEQUENCE), _] => Self::Crl,
            _ => Self::Rim,
        }
    }
}

const SEQUENCE: u8 = 0x30;
const ENUMERATED: u8 = 0x0a;
/// How a certificate says its version, and a list does not.
const VERSION: u8 = 0xa0;

/// First tag inside a DER sequence, and the first inside that, where it is one itself: in a response
/// its status, in a list and in a certificate what is signed.
fn inside(der: &[u8]) -> [Option<u8>; 2] {
    let outer = content(der).unwrap_or_default();
    let inner = content(outer).unwrap_or_default();
    [outer.first().copied(), inner.first().copied()]
}

/// What follows the head of a DER sequence.
fn content(der: &[u8]) -> Option<&[u8]> {
    let (&SEQUENCE, rest) = der.split_first()? else {
        return None;
    };
    let (length, rest) = rest.split_first()?;
    let more = match length {
        0..0x80 => 0,
        long => usize::from(long & 0x7f),
    };
    rest.get(more..)
}

/// What came of reading one.
#[derive(Debug)]
enum Content {
    Rim(Box<Checked>),
    Ocsp(Box<Response>),
    Crl(Box<RevocationList>),
    Root(Box<Root>),
    Certificates(Vec<Certificate>),
    Collateral(Box<Collateral>),
}

/// A document, read as of a time.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) kind: Kind,
    pub(super) digest: Sha256Digest,
    /// What is kept, where it may be.
    pub(super) bytes: Vec<u8>,
    /// Code and words of what is wrong with it.
    pub(super) refused: Option<(&'static str, String)>,
    /// Reference values under a root that was brought.
    own: bool,
    content: Option<Content>,
}

impl Document {
    /// Reads a file. Reference values have to be signed under a root of `trust`. Who signed what is said of
    /// revocation shows only beside the certificates it is about, which devices bring.
    pub(super) fn read(kind: Kind, file: &[u8], trust: &Trust, at: UnixTime) -> Self {
        let mut own = false;
        let (content, refused) = match kind {
            Kind::Rim => {
                let mut checked = rim::check(file, &trust.base, at);
                if checked.endorsed().is_none() {
                    let brought = rim::check(file, &trust.brought, at);
                    own = brought.endorsed().is_some();
                    if own {
                        checked = brought;
                    }
                }
                let why = checked.refusals.first();
                let why = why.map(|why| (why.code(), words(why)));
                let why = why.filter(|_| checked.endorsed().is_none());
                (Some(Content::Rim(Box::new(checked))), why)
            }
            Kind::Ocsp => match Response::parse(file) {
                Ok(response) => (Some(Content::Ocsp(Box::new(response))), None),
                Err(why) => (None, Some((why.code(), words(&why)))),
            },
            Kind::Crl => match parse_crl(file) {
                Ok(list) => (Some(Content::Crl(Box::new(list))), None),
                Err(why) => (None, Some((why.code(), words(&why)))),
            },
            Kind::Root => match Root::parse(file) {
                Ok(root) => (Some(Content::Root(Box::new(root))), None),
                Err(why) => (None, Some((why.code(), words(&why)))),
            },
            // Whose keys these are, and whether AMD says so, shows beside the reports they signed.
            Kind::Certificates => match parse_certificates(file) {
                Ok(all) => (Some(Content::Certificates(all)), None),
                Err(why) => (None, Some(("certificates-malformed", words(&why)))),
            },
            Kind::Collateral => match Collateral::parse(file) {
                Ok(collateral) => {
                    let why = forged(&collateral, at);
                    (Some(Content::Collateral(Box::new(collateral))), why)
                }
                Err(why) => (None, Some(("collateral-malformed", words(&why)))),
            },
        };
        let bytes = match kind {
            Kind::Rim => rim::document(file).ok(),
            Kind::Ocsp => Response::document(file).ok(),
            Kind::Crl => crl_document(file).ok(),
            Kind::Root => Root::document(file).ok(),
            Kind::Certificates | Kind::Collateral => None,
        };
        let bytes = bytes.map_or_else(|| file.to_vec(), Cow::into_owned);
        Self {
            kind,
            digest: Sha256Digest::of(&[&bytes]),
            bytes,
            refused,
            own,
            content,
        }
    }

    /// The root in it.
    pub(super) fn root(&self) -> Option<&Root> {
        match &self.content {
            Some(Content::Root(root)) => Some(root),
            _ => None,
        }
    }

    /// From when until when it counts, by its own word or its signer's certificate.
    fn counts(&self) -> Option<(UnixTime, UnixTime)> {
        match self.content.as_ref()? {
            Content::Rim(checked) => {
                let signer = checked.certificates.first()?;
                Some((signer.not_before(), signer.not_after()))
            }
            Content::Ocsp(response) => Some(response.counts()),
            Content::Crl(list) => Some((list.this_update(), list.next_update())),
            Content::Root(root) => {
                let certificate = root.certificate();
                Some((certificate.not_before(), certificate.not_after()))
            }
            Content::Certificates(all) => {
                let from = all.iter().map(Certificate::not_before).max();
                let until = all.iter().map(Certificate::not_after).min();
                from.zip(until)
            }
            Content::Collateral(collateral) => collateral.counts(),
        }
    }

    /// How long it counts as it is; `soon`: seconds before its end.
    pub(super) fn standing(&self, at: UnixTime, soon: u64) -> &'static str {
        match self.counts() {
            Some((from, _)) if at < from => "not yet valid",
            Some((_, until)) if at.secs() > until.secs() => "ended",
            Some((_, until)) if until.secs().saturating_sub(at.secs()) <= soon => "ends soon",
            Some(_) => "valid",
            None => "refused",
        }
    }

    /// What it is about, in few words.
    fn about(&self) -> String {
        match &self.content {
            Some(Content::Rim(checked)) => checked.content().map_or_else(String::new, |rim| {
                let under = if self.own {
                    ", under a root that was brought"
                } else {
                    ""
                };
                format!("{} {} {}{under}", rim.product, rim.edition, rim.version)
            }),
            Some(Content::Ocsp(response)) => {
                let serials: Vec<String> = response.serials().map(hex::encode).collect();
                format!("certificate {}", serials.join(", "))
            }
            Some(Content::Crl(list)) => {
                format!("{} revoked by {}", list.len(), list.issuer().label())
            }
            Some(Content::Root(root)) => {
                let label = root.certificate().subject().label();
                match root.is_nvidias() {
                    true => format!("{label}: NVIDIA's, which is built in"),
                    false => {
                        format!("{label}: counts where a profile names it, never for hardware")
                    }
                }
            }
            Some(Content::Certificates(all)) => {
                let names: Vec<String> = all.iter().map(|one| one.subject().label()).collect();
                names.join(", ")
            }
            Some(Content::Collateral(collateral)) => {
                let about = collateral.fmspc().map(hex::encode).unwrap_or_default();
                format!("processors {about}")
            }
            None => String::new(),
        }
    }

    /// One row of a listing.
    pub(super) fn row(&self, at: UnixTime) -> Value {
        let (rim, signer) = match &self.content {
            Some(Content::Rim(checked)) => (checked.content(), checked.certificates.first()),
            _ => (None, None),
        };
        let ends = self.counts().map(|(_, until)| until);
        let code = match &self.content {
            // A signer's certificate that has run out refuses nothing, and is told.
            Some(Content::Rim(checked)) => checked.refusals.first().map(|why| why.code()),
            _ => self.refused.as_ref().map(|(code, _)| *code),
        };
        json!({
            "kind": self.kind.name(),
            "sha256": self.digest.to_string(),
            "about": self.about(),
            "product": rim.map(|rim| &rim.product),
            "edition": rim.map(|rim| &rim.edition),
            "version": rim.map(|rim| &rim.version),
            "tag": rim.map(|rim| &rim.id),
            "active": rim.map(|rim| rim.golden.len()),
            "signer": signer.map(|signer: &Certificate| signer.subject().label()),
            "ends": ends.map(|ends| time(ends.secs().saturating_mul(1000))),
            "not_after": ends.map(UnixTime::secs),
            "days_left": ends.map(|ends| ends.secs().saturating_sub(at.secs()) / DAY),
            "code": code,
            "detail": self.refused.as_ref().map(|(_, words)| words),
        })
    }
}

/// What is wrong with the signatures of collateral, as of the time asked about; that it has ended, or
/// begins later, refuses nothing here.
fn forged(collateral: &Collateral, at: UnixTime) -> Option<(&'static str, String)> {
    let why = endorse(collateral, at).err()?;
    let timely = |why: &TdxRefused| {
        let ended = ["expired", "not-yet-valid"];
        matches!(
            why,
            TdxRefused::Stale { .. } | TdxRefused::NotYetValid { .. }
        ) || matches!(why, TdxRefused::Path { .. }) && ended.contains(&why.code())
    };
    let first = why.iter().find(|why| !timely(why))?;
    Some((first.code(), words(first)))
}
