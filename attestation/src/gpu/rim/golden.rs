//! Measurements of a device against reference values.
//!
//! The driver's RIM and the VBIOS's share one table of measurements and divide it: a measurement
//! both claim is a contradiction. What neither claims is compared with nothing, and told if it is
//! not zero.

use super::{Endorsed, Golden, Rim};

/// The measurement of the video decoder, which stands for nothing while that is off.
pub const NVDEC_INDEX: u8 = 35;
/// What a report says of a video decoder that is off.
pub const NVDEC_OFF: u8 = 0x55;
/// Blocks of a report are numbered from 1; the numbers above mean something else.
const LAST_BLOCK: u8 = 254;

/// What a RIM is for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Slot {
    /// The driver, and the microcode it loads.
    Driver,
    /// The VBIOS, or the firmware of a switch.
    Vbios,
}

/// The kind of device, `edition` in a RIM.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Edition {
    /// `GPU`: has a driver and a VBIOS.
    Gpu,
    /// `SWITCH`: has firmware alone.
    Switch,
}

impl Edition {
    /// As a RIM spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gpu => "GPU",
            Self::Switch => "SWITCH",
        }
    }

    /// The RIMs that such a device needs.
    #[must_use]
    pub const fn slots(self) -> &'static [Slot] {
        match self {
            Self::Gpu => &[Slot::Driver, Slot::Vbios],
            Self::Switch => &[Slot::Vbios],
        }
    }
}

/// The device that a RIM has to be for. All of it is from its signed report and its certificates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Target<'a> {
    /// The chip, as RIMs spell it: `GH100`.
    pub product: &'a str,
    /// What kind of device it is.
    pub edition: Edition,
    /// Version of the driver; a switch has none.
    pub driver_version: Option<&'a str>,
    /// Version of VBIOS or firmware: `96.00.9F.00.01`.
    pub vbios_version: &'a str,
    /// The state of the video decoder; a switch has none.
    pub nvdec: Option<u8>,
}

impl Target<'_> {
    fn version(&self, slot: Slot) -> Option<&str> {
        match slot {
            Slot::Driver => self.driver_version,
            Slot::Vbios => Some(self.vbios_version),
        }
    }

    fn is_of(&self, rim: &Rim) -> bool {
        rim.product == self.product && rim.edition == self.edition.name()
    }

    fn fits(&self, rim: &Rim, slot: Slot) -> bool {
        let version = self.version(slot);
        self.is_of(rim) && version.is_some_and(|own| own.eq_ignore_ascii_case(&rim.version))
    }
}

/// Why a RIM is for none of the devices at hand.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unfit {
    /// For another chip or kind of device.
    #[error("the RIM is for {product} ({edition}), and no device is one")]
    Product {
        /// As the RIM says.
        product: String,
        /// As the RIM says.
        edition: String,
    },
    /// For another version.
    #[error("the RIM is for version {version} of {product}, and no device has it")]
    Version {
        /// As the RIM says.
        product: String,
        /// As the RIM says.
        version: String,
    },
}

impl Unfit {
    /// The stable name of the refusal.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Product { .. } => "rim-product-mismatch",
            Self::Version { .. } => "rim-version-mismatch",
        }
    }
}

/// Why a RIM that was given is for none of these devices, if so.
#[must_use]
pub fn unfit(rim: Endorsed<'_>, slot: Slot, devices: &[Target<'_>]) -> Option<Unfit> {
    let rim = rim.rim();
    if devices.iter().any(|device| device.fits(rim, slot)) {
        return None;
    }
    let product = rim.product.clone();
    Some(if devices.iter().any(|device| device.is_of(rim)) {
        Unfit::Version {
            product,
            version: rim.version.clone(),
        }
    } else {
        Unfit::Product {
            product,
            edition: rim.edition.clone(),
        }
    })
}

/// A measurement that is none of what it may be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mismatch {
    /// From 0.
    pub index: u8,
    /// Whose reference values.
    pub slot: Slot,
    /// What the RIM calls it.
    pub name: String,
    /// What it may be.
    pub expected: Vec<[u8; super::REFERENCE_VALUE_BYTES]>,
    /// What it is; `None`: the report has no such block.
    pub found: Option<Vec<u8>>,
}

/// What came of a comparison. Indices are from 0 and in order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Comparison {
    /// Place, among those given, of the driver RIM compared with.
    pub driver: Option<usize>,
    /// Place, among those given, of the VBIOS RIM compared with.
    pub vbios: Option<usize>,
    /// Measurements that are as they may be.
    pub matched: Vec<u8>,
    /// Measurements that are not.
    pub mismatched: Vec<Mismatch>,
    /// Not compared: the video decoder, while it is off.
    pub skipped: Vec<u8>,
    /// Measurements of which no RIM compared with says anything, and which are not zero.
    pub uncovered_nonzero: Vec<u8>,
    /// Measurements that both RIMs claim: a contradiction, and nothing is good then.
    pub conflict: Vec<u8>,
}

impl Comparison {
    /// Measurements that were compared.
    #[must_use]
    pub const fn compared(&self) -> usize {
        self.matched.len() + self.mismatched.len()
    }

    /// Everything that was compared is as it may be, and the RIMs do not contradict each other.
    #[must_use]
    pub const fn good(&self) -> bool {
        self.mismatched.is_empty() && self.conflict.is_empty()
    }

    /// RIMs that such a device needs and that were not among those given.
    #[must_use]
    pub fn missing(&self, edition: Edition) -> Vec<Slot> {
        let there = |slot: &Slot| match slot {
            Slot::Driver => self.driver.is_some(),
            Slot::Vbios => self.vbios.is_some(),
        };
        let slots = edition.slots().iter().copied();
        slots.filter(|slot| !there(slot)).collect()
    }
}

/// What one RIM alone says of the measurements.
#[derive(Default)]
struct Part {
    matched: Vec<u8>,
    mismatched: Vec<Mismatch>,
    skipped: Vec<u8>,
}

/// Compares a device with the RIMs that fit it. Of several for one version (NVIDIA issues RIMs
/// again with other values) the one with the fewest mismatches counts, whole: values of one are
/// never mixed with those of another. RIMs that do not fit are passed over; [`unfit`] names them.
///
/// `block` gives the value of the block with that number of the report, from 1.
#[must_use]
pub fn compare<'b>(
    device: &Target<'_>,
    block: impl Fn(u8) -> Option<&'b [u8]>,
    drivers: &[Endorsed<'_>],
    vbioses: &[Endorsed<'_>],
) -> Comparison {
    let driver = best(device, &block, Slot::Driver, drivers);
    let vbios = best(device, &block, Slot::Vbios, vbioses);
    let mut all = Comparison {
        driver: driver.as_ref().map(|(place, ..)| *place),
        vbios: vbios.as_ref().map(|(place, ..)| *place),
        ..Comparison::default()
    };
    let covered = |index: u8| {
        let has = |part: &Option<(usize, &Rim, Part)>| {
            part.as_ref().is_some_and(|(_, rim, _)| rim.covers(index))
        };
        (has(&driver), has(&vbios))
    };
    for number in 1..=LAST_BLOCK {
        let index = number - 1;
        match covered(index) {
            (true, true) => all.conflict.push(index),
            (false, false) => {
                let value = block(number).unwrap_or_default();
                if value.iter().any(|byte| *byte != 0) {
                    all.uncovered_nonzero.push(index);
                }
            }
            _ => {}
        }
    }
    for (_, _, part) in [driver, vbios].into_iter().flatten() {
        all.matched.extend(part.matched);
        all.mismatched.extend(part.mismatched);
        all.skipped.extend(part.skipped);
    }
    all.matched.sort_unstable();
    all.mismatched.sort_by_key(|one| (one.index, one.slot));
    all.skipped.sort_unstable();
    all
}

fn best<'a, 'b>(
    device: &Target<'_>,
    block: &impl Fn(u8) -> Option<&'b [u8]>,
    slot: Slot,
    rims: &[Endorsed<'a>],
) -> Option<(usize, &'a Rim, Part)> {
    rims.iter()
        .enumerate()
        .map(|(place, rim)| (place, rim.rim()))
        .filter(|(_, rim)| device.fits(rim, slot))
        .map(|(place, rim)| (place, rim, compare_one(device, block, slot, rim)))
        .min_by_key(|(_, _, part)| part.mismatched.len())
}

fn compare_one<'b>(
    device: &Target<'_>,
    block: &impl Fn(u8) -> Option<&'b [u8]>,
    slot: Slot,
    rim: &Rim,
) -> Part {
    let mut part = Part::default();
    for golden in &rim.golden {
        let index = golden.index;
        if index == NVDEC_INDEX && device.nvdec == Some(NVDEC_OFF) {
            part.skipped.push(index);
            continue;
        }
        let found = index.checked_add(1).and_then(block);
        if found.is_some_and(|value| allows(golden, value)) {
            part.matched.push(index);
        } else {
            part.mismatched.push(Mismatch {
                index,
                slot,
                name: golden.name.clone(),
                expected: golden.alternatives.clone(),
                found: found.map(<[u8]>::to_vec),
            });
        }
    }
    part
}

/// Zero is a value like any other: some measurements may be just that.
fn allows(golden: &Golden, value: &[u8]) -> bool {
    golden.alternatives.iter().any(|allowed| allowed == value)
}
