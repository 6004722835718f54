//! What vouches for GPUs: roots, reference values, revocation, as an operator brought them.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::ocsp::Response;
use super::path::{Anchors, outside_dates};
use super::remembered::GoodSignatures;
use super::rim::{self, Slot};
use super::root::Root;
use crate::cvm;
use crate::ids::{Sha256Digest, UnixTime};
use crate::x509::{Certificate, RevocationList};

/// Roots that are held beside NVIDIA's: a site has one or two, and reference values that NVIDIA did
/// not sign are tried with each.
const MAX_ROOTS: usize = 16;

/// Everything beside a profile that GPUs are held against. Its default trusts NVIDIA's roots and
/// knows no reference values.
#[derive(Clone, Debug)]
pub struct Endorsements {
    pub(crate) devices: Anchors,
    signers: Anchors,
    /// The roots are NVIDIA's: what they vouch for is hardware.
    pub(crate) hardware: bool,
    rims: Vec<(Slot, rim::Checked)>,
    /// Roots that were brought. They vouch for nothing until a profile names them.
    roots: Vec<Root>,
    /// Reference values under one of those, by its digest.
    own_rims: Vec<(Sha256Digest, Slot, rim::Checked)>,
    pub(crate) ocsp: Vec<Response>,
    pub(crate) crls: Vec<RevocationList>,
    /// What vouches for the processors of confidential guests: one folder is brought for all devices.
    /// Roots and lists are shared.
    pub processors: cvm::Endorsements,
    memory: Option<Arc<GoodSignatures>>,
}

impl Default for Endorsements {
    fn default() -> Self {
        Self {
            devices: Anchors::device(),
            signers: Anchors::rim(),
            hardware: true,
            rims: Vec::new(),
            roots: Vec::new(),
            own_rims: Vec::new(),
            ocsp: Vec::new(),
            crls: Vec::new(),
            processors: cvm::Endorsements::default(),
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

    /// Adds a root, which vouches for nothing until a profile names it. False: there are as many as
    /// are held.
    pub fn add_root(&mut self, root: Root) -> bool {
        let room = self.roots.len() < MAX_ROOTS;
        if room {
            self.roots.push(root);
        }
        room
    }

    /// Adds a file of reference values, checked as of `at`. False: nobody who is trusted signed it,
    /// nor anybody under a root that was added before.
    pub fn add_rim(&mut self, file: &[u8], at: UnixTime) -> bool {
        let checked = rim::check(file, &self.signers, at);
        if let Some(slot) = slot_of(&checked) {
            self.rims.push((slot, checked));
            return true;
        }
        let own = self.roots.iter().find_map(|root| {
            let anchors = Anchors::of(std::slice::from_ref(root.certificate()));
            let checked = rim::check(file, &anchors, at);
            Some((root.digest(), slot_of(&checked)?, checked))
        });
        let found = own.is_some();
        self.own_rims.extend(own);
        found
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

    /// How many files of reference values, responses about revocation, lists and roots there are.
    #[must_use]
    pub const fn held(&self) -> (usize, usize, usize, usize) {
        let rims = self.rims.len() + self.own_rims.len();
        (rims, self.ocsp.len(), self.crls.len(), self.roots.len())
    }

    /// What chains of devices may end in: NVIDIA's roots, and those of `named` that were brought
    /// and count at that time.
    pub(crate) fn device_anchors(
        &self,
        named: Option<&BTreeSet<Sha256Digest>>,
        at: UnixTime,
    ) -> Cow<'_, Anchors> {
        let brought = named.map(|named| self.counting(named, at));
        let own: Vec<Certificate> = brought.into_iter().flatten().cloned().collect();
        match own.is_empty() {
            true => Cow::Borrowed(&self.devices),
            false => Cow::Owned(self.devices.clone().and(Anchors::of(&own))),
        }
    }

    /// Lists of revoked certificates.
    #[must_use]
    pub fn crls(&self) -> &[RevocationList] {
        &self.crls
    }

    /// Certificates of the roots that are named, were brought, and count at that time.
    pub fn counting<'a>(
        &'a self,
        named: &'a BTreeSet<Sha256Digest>,
        at: UnixTime,
    ) -> impl Iterator<Item = &'a Certificate> {
        let roots = self.roots.iter().filter(|it| named.contains(&it.digest()));
        let certificates = roots.map(Root::certificate);
        certificates.filter(move |one| outside_dates([*one], at).is_empty())
    }

    /// The root of a chain is NVIDIA's: what it vouches for is hardware, if all else is right. A
    /// root that was brought makes none, whoever named it.
    pub(crate) fn is_hardware(&self, root: Option<&Certificate>) -> bool {
        self.hardware && root.is_some_and(|root| self.devices.hold(root))
    }

    /// The root that was brought and has the key of this certificate.
    pub(crate) fn brought_root(&self, certificate: &Certificate) -> Option<Sha256Digest> {
        let key = certificate.key().ok()?;
        let mut roots = self.roots.iter();
        let root = roots.find(|root| root.certificate().key().is_ok_and(|own| own == key))?;
        Some(root.digest())
    }

    /// The root that was brought under which reference values of that digest are.
    pub(crate) fn own_root_of(&self, rim: &Sha256Digest) -> Option<Sha256Digest> {
        let mut own = self.own_rims.iter();
        let found = own.find(|(_, _, checked)| checked.digest == *rim)?;
        Some(found.0)
    }

    /// Reference values that will do: the pinned ones, where any are; of those that NVIDIA did not
    /// sign the ones under a root that is named and counts at that time.
    pub(crate) fn rims(
        &self,
        pins: Option<&BTreeSet<Sha256Digest>>,
        roots: Option<&BTreeSet<Sha256Digest>>,
        at: UnixTime,
    ) -> Cow<'_, [(Slot, rim::Checked)]> {
        let counting: Vec<&Certificate> = match roots {
            Some(named) => self.counting(named, at).collect(),
            None => Vec::new(),
        };
        let counts = |root: &Sha256Digest| {
            let mut roots = self.roots.iter();
            let root = roots.find(|it| it.digest() == *root);
            root.is_some_and(|root| counting.contains(&root.certificate()))
        };
        let own = self.own_rims.iter().filter(|(root, ..)| counts(root));
        let mut own = own.map(|(_, slot, rim)| (*slot, rim.clone())).peekable();
        if pins.is_none() && own.peek().is_none() {
            return Cow::Borrowed(&self.rims);
        }
        let all = self.rims.iter().cloned().chain(own);
        let pinned = all.filter(|(_, rim)| pins.is_none_or(|pins| pins.contains(&rim.digest)));
        Cow::Owned(pinned.collect())
    }
}

/// What reference values are for, if somebody who is trusted signed them. A VBIOS has five numbers,
/// a driver two or three. A file that is put in the wrong place by this fits no device there, since
/// versions are compared whole.
fn slot_of(checked: &rim::Checked) -> Option<Slot> {
    let version = &checked.endorsed()?.rim().version;
    Some(match version.split('.').count() {
        5.. => Slot::Vbios,
        _ => Slot::Driver,
    })
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
            (
                own.rims(None, None, AT).len(),
                own.rims(Some(&pinned), None, AT).len()
            ),
            (2, 1)
        );
    }
}
