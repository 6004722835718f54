//! What vouches for processors beside their makers' roots, as an operator brought it.

use crate::cvm::snp::{self, Product};
use crate::cvm::tdx::{self, Collateral};
use crate::error::ParseError;
use crate::ids::Sha256Digest;
use crate::x509::{Bundle, Certificate};

/// Longest file of certificates: a key's with its chain, or some dozen keys of a fleet.
pub const MAX_CERTIFICATES_BYTES: usize = 256 * 1024;
/// Certificates that are held: a key for each of some thousand processors and a chain for each of
/// their kinds. Finding the one of a report looks at all of them.
const MAX_CERTIFICATES: usize = 4096;
/// Sets of collateral that are held: one for each kind of processor and edition.
const MAX_COLLATERAL: usize = 64;

/// Certificates and collateral. Nothing in it is trusted by being there: its signatures lead to the
/// makers' roots, which are built in, or it says nothing.
#[derive(Clone, Debug)]
pub struct Endorsements {
    /// Digest of the file it stood in, and the certificate.
    pub(super) certificates: Vec<(Sha256Digest, Certificate)>,
    /// Digest of the file, and whose processors its TCB info says it is about.
    pub(super) collateral: Vec<(Sha256Digest, [u8; 6], Collateral)>,
    /// Roots that are hardware, by SHA-256 of the key.
    pub(super) snp_roots: Vec<(Product, String)>,
    /// Likewise, of TDX.
    pub(super) tdx_root: String,
}

impl Default for Endorsements {
    fn default() -> Self {
        let roots = snp::ROOTS.iter();
        Self {
            certificates: Vec::new(),
            collateral: Vec::new(),
            snp_roots: roots
                .map(|(product, key)| (*product, (*key).to_owned()))
                .collect(),
            tdx_root: tdx::ROOT.to_owned(),
        }
    }
}

impl Endorsements {
    /// Adds a file of certificates: of keys, of what stands between, of AMD's roots. False: there is
    /// no more room for them.
    pub fn add_certificates(&mut self, file: Sha256Digest, all: Vec<Certificate>) -> bool {
        let room = self.certificates.len().saturating_add(all.len()) <= MAX_CERTIFICATES;
        if room {
            self.certificates
                .extend(all.into_iter().map(|one| (file, one)));
        }
        room
    }

    /// Adds a set of collateral. False: it does not say what it is about, or there is no more room.
    pub fn add_collateral(&mut self, file: Sha256Digest, collateral: Collateral) -> bool {
        let Some(about) = collateral.fmspc() else {
            return false;
        };
        let room = self.collateral.len() < MAX_COLLATERAL;
        if room {
            self.collateral.push((file, about, collateral));
        }
        room
    }

    /// How many certificates and sets of collateral there are.
    #[must_use]
    pub const fn held(&self) -> (usize, usize) {
        (self.certificates.len(), self.collateral.len())
    }

    /// For tests of this crate: made processors, judged as if they were hardware.
    #[cfg(test)]
    pub(crate) fn where_hardware_is(mut self, snp: &[(Product, String)], tdx: &str) -> Self {
        self.snp_roots = snp.to_vec();
        tdx.clone_into(&mut self.tdx_root);
        self
    }
}

/// A file holds certificates of processors, and not of another kind of device: the keys that sign
/// reports say so, and AMD's own chain has names. What came in one file with one belongs to it.
#[must_use]
pub fn is_certificates(file: &[u8]) -> bool {
    let named = |one: &Certificate| {
        let name = one.subject().common_name();
        snp::is_key(one) || name.starts_with("SEV-") || name.starts_with("ARK-")
    };
    let all = parse_certificates(file).unwrap_or_default();
    all.iter().any(named)
}

/// Reads a file of certificates whole: PEM or DER, one or several.
pub fn parse_certificates(file: &[u8]) -> Result<Vec<Certificate>, ParseError> {
    if file.len() > MAX_CERTIFICATES_BYTES {
        let as_u64 = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        return Err(ParseError {
            structure: "Certificates",
            field: "file",
            offset: 0,
            fault: crate::error::Fault::TooMany {
                found: as_u64(file.len()),
                limit: as_u64(MAX_CERTIFICATES_BYTES),
            },
        });
    }
    let bundle = Bundle::parse(file)?;
    match bundle.unreadable.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(bundle.certificates),
    }
}
