//! What vouches for GPUs: roots, reference values, revocation, as an operator brought them.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::ocsp::Response;
use super::path::Anchors;
use super::remembered::GoodSignatures;
use super::rim::{self, Slot};
use crate::ids::{Sha256Digest, UnixTime};
use crate::x509::RevocationList;

/// Everything beside a profile that GPUs are held against. Its default trusts NVIDIA's roots and
/// knows no reference values.
#[derive(Clone, Debug)]
pub struct Endorsements {
    pub(crate) devices: Anchors,
    signers: Anchors,
    /// The roots are NVIDIA's: what they vouch for is hardware.
    pub(crate) hardware: bool,
    rims: Vec<(Slot, rim::Checked)>,
    pub(crate) ocsp: Vec<Response>,
    pub(crate) crls: Vec<RevocationList>,
    memory: Option<Arc<GoodSignatures>>,
}

impl Default for Endorsements {
    fn default() -> Self {
        Self {
            devices: Anchors::device(),
            signers: Anchors::rim(),
            hardware: true,
            rims: Vec::new(),
            ocsp: Vec::new(),
            crls: Vec::new(),
            memory: None,
        }
    }
}

impl Endorsements {
    /// Under roots that somebody configured. Whatever they vouch for is no hardware of NVIDIA's,
    /// and never called that.
    #[must_use]
    pub fn under(roots: Anchors) -> Self {
        Self {
            devices: roots.clone(),
            signers: roots,
            hardware: false,
            ..Self::default()
        }
    }

    /// For tests of this crate: made devices, judged as if they were hardware.
    #[cfg(test)]
    pub(crate) fn as_if_hardware(roots: Anchors) -> Self {
        Self {
            hardware: true,
            ..Self::under(roots)
        }
    }

    /// Adds a file of reference values, checked as of `at`. False: nobody who is trusted signed it.
    pub fn add_rim(&mut self, file: &[u8], at: UnixTime) -> bool {
        let checked = rim::check(file, &self.signers, at);
        let Some(endorsed) = checked.endorsed() else {
            return false;
        };
        let slot = slot_of(&endorsed.rim().version);
        self.rims.push((slot, checked));
        true
    }

    /// Adds a response about revocation. What it is worth shows once it is held against a chain.
    pub fn add_ocsp(&mut self, response: Response) {
        self.ocsp.push(response);
    }

    /// Adds a list of revoked certificates. What it is worth shows likewise.
    pub fn add_crl(&mut self, list: RevocationList) {
        self.crls.push(list);
    }

    /// The same, with signatures that were good before, which are not verified again. Clones share
    /// them.
    #[must_use]
    pub fn remembering(self, memory: Arc<GoodSignatures>) -> Self {
        Self {
            memory: Some(memory),
            ..self
        }
    }

    /// Signatures that were good before.
    pub(crate) fn memory(&self) -> Option<&GoodSignatures> {
        self.memory.as_deref()
    }

    /// How many files of reference values, responses about revocation and lists there are.
    #[must_use]
    pub const fn held(&self) -> (usize, usize, usize) {
        (self.rims.len(), self.ocsp.len(), self.crls.len())
    }

    /// Reference values that will do: the pinned ones, where any are.
    pub(crate) fn rims(
        &self,
        pins: Option<&BTreeSet<Sha256Digest>>,
    ) -> Cow<'_, [(Slot, rim::Checked)]> {
        let Some(pins) = pins else {
            return Cow::Borrowed(&self.rims);
        };
        let all = self.rims.iter();
        let pinned = all.filter(|(_, rim)| pins.contains(&rim.digest));
        Cow::Owned(pinned.cloned().collect())
    }
}

/// A VBIOS has five numbers, a driver two or three. A file that is put in the wrong place by this
/// fits no device there, since versions are compared whole.
fn slot_of(version: &str) -> Slot {
    match version.split('.').count() {
        5.. => Slot::Vbios,
        _ => Slot::Driver,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::rim::tests::made::{AT, Signer, Tag};

    #[test]
    fn what_nobody_who_is_trusted_signed_is_left_out() {
        let signer = Signer::new();
        let driver = signer.rim(&Tag::driver(&[7]));
        let vbios = signer.rim(&Tag::vbios(&[1]));
        let mut own = Endorsements::under(signer.anchors());
        assert!(own.add_rim(driver.as_bytes(), AT) && own.add_rim(vbios.as_bytes(), AT));
        let slots: Vec<Slot> = own.rims.iter().map(|(slot, _)| *slot).collect();
        assert_eq!(slots, [Slot::Driver, Slot::Vbios]);
        assert!(!own.hardware, "no other root makes hardware");
        let mut nvidia = Endorsements::default();
        assert!(nvidia.hardware && !nvidia.add_rim(driver.as_bytes(), AT));
        assert!(!nvidia.add_rim(b"no RIM", AT) && nvidia.rims.is_empty());
        let pinned = [own.rims[0].1.digest].into();
        assert_eq!(
            (own.rims(None).len(), own.rims(Some(&pinned)).len()),
            (2, 1)
        );
    }
}
