//! What the leaf certificate says of the firmware that holds its key.
//!
//! Hopper and the switches carry a `CompositeDeviceID`, Blackwell a `DiceTcbInfo` (TCG DICE
//! Attestation Architecture 1.1). Both name the digest of the firmware (FWID); the first also the
//! key it was derived from, the second whether the device is open to debugging.

use const_oid::ObjectIdentifier;
use der::Tag;
use der::asn1::OctetStringRef;
use x509_cert::spki::SubjectPublicKeyInfoRef;

use crate::crypto::PublicKey;
use crate::error::ParseError;
use crate::x509::Certificate;
use crate::x509::der::{Walk, context};

/// `CompositeDeviceID`, the predecessor of the next.
const COMPOSITE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.5.4.1");
/// `tcg-dice-TcbInfo`
const TCB_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.5.4.1.1");
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");

/// `OperationalFlags` that no device in use may have: notSecure, recovery, debug, in the first
/// byte of the bit string.
const OPEN: u8 = 0b0111_0000;
/// Digests in one `DiceTcbInfo`; real ones have two.
const MAX_FWIDS: usize = 8;

/// Digest of a firmware, SHA-384.
pub type Fwid = [u8; 48];

/// What a leaf says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Dice {
    /// Digest of the firmware that holds the leaf's key.
    pub(super) fwid: Option<Fwid>,
    /// The key that the leaf's was derived from.
    pub(super) device_key: Option<PublicKey>,
    /// First byte of the flags.
    pub(super) flags: Option<u8>,
}

impl Dice {
    /// Reads what there is; a leaf with neither extension says nothing.
    pub(super) fn of(leaf: &Certificate) -> Result<Self, ParseError> {
        let mut dice = Self::default();
        if let Some(extension) = leaf.extension(TCB_INFO) {
            tcb_info(&extension.value, &mut dice)?;
        }
        if let Some(extension) = leaf.extension(COMPOSITE) {
            composite(&extension.value, &mut dice)?;
        }
        Ok(dice)
    }

    /// The device says that it is open to debugging, in recovery or not secured.
    pub(super) fn is_open(&self) -> bool {
        self.flags.is_some_and(|flags| flags & OPEN != 0)
    }
}

/// `SEQUENCE { INTEGER 1, SubjectPublicKeyInfo, FWID }`
fn composite(der: &[u8], dice: &mut Dice) -> Result<(), ParseError> {
    let mut outer = Walk::new("CompositeDeviceID", der)?;
    let mut walk = outer.enter("CompositeDeviceID", Tag::Sequence)?;
    let version: u8 = walk.read("version")?;
    if version != 1 {
        return Err(walk.rule("version", "is not 1"));
    }
    let spki: SubjectPublicKeyInfoRef<'_> = walk.read("deviceID")?;
    let key = PublicKey::from_spki(&spki);
    dice.device_key = Some(key.map_err(|_key| walk.rule("deviceID", "is no key that is known"))?);
    let found = fwid(&mut walk)?;
    if dice.fwid.is_some_and(|other| other != found) {
        return Err(walk.rule("fwid", "is not that of DiceTcbInfo"));
    }
    dice.fwid = Some(found);
    walk.finish("CompositeDeviceID")?;
    outer.finish("CompositeDeviceID")
}

/// `DiceTcbInfo`, whose members are all optional and tagged by place.
fn tcb_info(der: &[u8], dice: &mut Dice) -> Result<(), ParseError> {
    let mut outer = Walk::new("DiceTcbInfo", der)?;
    let mut walk = outer.enter("DiceTcbInfo", Tag::Sequence)?;
    let mut last = None;
    while let Some(tag) = walk.peek() {
        let Tag::ContextSpecific { number, .. } = tag else {
            return Err(walk.rule("member", "has a tag that no member has"));
        };
        let number = number.value();
        if last.is_some_and(|last| number <= last) {
            return Err(walk.rule("member", "stands twice or out of order"));
        }
        last = Some(number);
        match number {
            6 => {
                let mut list = walk.enter("fwids", context(6))?;
                let mut count = 0;
                while !list.is_empty() {
                    if count == MAX_FWIDS {
                        return Err(list.rule("fwids", "are more than any real certificate has"));
                    }
                    let found = fwid(&mut list)?;
                    // The first is of the layer that holds the key; the others are zero.
                    if count == 0 {
                        dice.fwid = Some(found);
                    }
                    count += 1;
                }
            }
            7 => {
                let (_, bits) = walk.any("flags")?;
                // The number of unused bits, then the bits, of which zeros may be left out.
                dice.flags = match bits {
                    [] => return Err(walk.rule("flags", "are no bit string")),
                    [_] => Some(0),
                    [_, first, ..] => Some(*first),
                };
            }
            _ => {
                walk.any("member")?;
            }
        }
    }
    walk.finish("DiceTcbInfo")?;
    outer.finish("DiceTcbInfo")
}

/// `SEQUENCE { OBJECT IDENTIFIER, OCTET STRING }`
fn fwid(walk: &mut Walk<'_>) -> Result<Fwid, ParseError> {
    let mut one = walk.enter("fwid", Tag::Sequence)?;
    let algorithm: ObjectIdentifier = one.read("fwid.hashAlg")?;
    let digest: &OctetStringRef = one.read("fwid.digest")?;
    let digest = Fwid::try_from(digest.as_bytes());
    match digest {
        Ok(digest) if algorithm == SHA384 => {
            one.finish("fwid")?;
            Ok(digest)
        }
        _ => Err(one.rule("fwid", "is no SHA-384 digest")),
    }
}
