//! All devices of a machine together, with everything an operator brought for them.

use crate::ids::UnixTime;

use super::crl::{self, CrlRefused};
use super::device::{Device, Evidence, judge_remembering};
use super::ocsp::{OcspRefused, Response, Revocation};
use super::path::Anchors;
use super::remembered::GoodSignatures;
use super::report::Report;
use super::rim::{self, Comparison, Endorsed, Slot, Target, Unfit};
use super::topology::{Topology, TopologyRefused, judge_set};
use crate::x509::{Certificate, RevocationList};

/// What is asked, and what there is to answer it with.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The devices, in an order that answers keep.
    pub devices: &'a [Evidence<'a>],
    /// What their chains may end in.
    pub anchors: &'a Anchors,
    /// The challenge they were given.
    pub nonce: Option<[u8; 32]>,
    /// Responses about revocation.
    pub ocsp: &'a [Response],
    /// Lists of revoked certificates.
    pub crls: &'a [RevocationList],
    /// Files of reference values, checked, and what each is for.
    pub rims: &'a [(Slot, rim::Checked)],
    /// The time at which all of it has to count.
    pub at: UnixTime,
    /// Signatures that were good before, which are not verified again.
    pub memory: Option<&'a GoodSignatures>,
}

/// The answer, field by field.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    /// Each device by itself.
    pub devices: Vec<Device<'a>>,
    /// The measurements of each device against the reference values that fit it; `None` where it
    /// has no measurements that can be read.
    pub comparisons: Vec<Option<Comparison>>,
    /// Files of reference values, by place, that are for none of the devices.
    pub unfit: Vec<(usize, Unfit)>,
    /// Which of the certificates are known to be good; none of a bad one is here.
    pub revocation: Vec<Revocation<'a>>,
    /// What is wrong with a response, by its place.
    pub ocsp_refused: Vec<(usize, OcspRefused)>,
    /// What is wrong with a list, by its place.
    pub crl_refused: Vec<(usize, CrlRefused)>,
    /// What they make together.
    pub topology: Option<Topology>,
    /// What is wrong with that.
    pub topology_refused: Vec<TopologyRefused>,
}

/// Judges all of it. Nothing stops at the first refusal.
#[must_use]
pub fn appraise<'a>(asked: &Asked<'a>) -> Answer<'a> {
    let devices: Vec<Device<'a>> = asked
        .devices
        .iter()
        .map(|evidence| {
            judge_remembering(
                *evidence,
                asked.anchors,
                asked.nonce,
                asked.at,
                asked.memory,
            )
        })
        .collect();
    let chains = devices.iter().map(|device| device.certificates);
    let pairs: Vec<_> = chains
        .chain(
            asked
                .rims
                .iter()
                .map(|(_, rim)| rim.certificates.as_slice()),
        )
        .flat_map(with_issuers)
        .collect();
    let mut revocation = Vec::new();
    let mut ocsp_refused = Vec::new();
    let mut crl_refused = Vec::new();
    // Without any certificate there is nothing that a response could be about.
    if !pairs.is_empty() {
        for (place, response) in asked.ocsp.iter().enumerate() {
            let (believed, refused) = response.check_remembering(&pairs, asked.at, asked.memory);
            revocation.extend(believed);
            ocsp_refused.extend(refused.into_iter().map(|why| (place, why)));
        }
        for (place, list) in asked.crls.iter().enumerate() {
            let (believed, refused) = crl::check_remembering(list, &pairs, asked.at, asked.memory);
            revocation.extend(believed);
            crl_refused.extend(refused.into_iter().map(|why| (place, why)));
        }
    }
    let (topology, topology_refused) = judge_set(&devices);
    let (comparisons, unfit) = compare(&devices, asked.rims);
    Answer {
        devices,
        comparisons,
        unfit,
        revocation,
        ocsp_refused,
        crl_refused,
        topology,
        topology_refused,
    }
}

/// Holds each device against what fits it; names what fits none. Only reference values that
/// somebody who is trusted signed are looked at, be the signer's certificate expired or not: that
/// is told by itself.
fn compare(
    devices: &[Device<'_>],
    rims: &[(Slot, rim::Checked)],
) -> (Vec<Option<Comparison>>, Vec<(usize, Unfit)>) {
    let endorsed = |slot: Slot| -> Vec<Endorsed<'_>> {
        let of_slot = rims.iter().filter(|(own, _)| *own == slot);
        of_slot.filter_map(|(_, rim)| rim.endorsed()).collect()
    };
    let (drivers, vbioses) = (endorsed(Slot::Driver), endorsed(Slot::Vbios));
    let targets: Vec<Option<Target<'_>>> = devices
        .iter()
        .map(|device| target(device, device.report.as_ref()?))
        .collect();
    let all: Vec<Target<'_>> = targets.iter().flatten().copied().collect();
    let unfit = rims.iter().enumerate().filter_map(|(place, (slot, rim))| {
        let why = rim::unfit(rim.endorsed()?, *slot, &all)?;
        // Where nothing can be read, nothing can be told to be something else.
        (!all.is_empty()).then_some((place, why))
    });
    let unfit = unfit.collect();
    let comparisons = devices.iter().zip(&targets).map(|(device, target)| {
        let report = device.report.as_ref()?;
        let block = |index| report.block(index);
        Some(rim::compare(target.as_ref()?, block, &drivers, &vbioses))
    });
    (comparisons.collect(), unfit)
}

/// What a device's reference values have to be for. Only a chip that is known has any.
fn target<'a>(device: &'a Device<'_>, report: &'a Report<'_>) -> Option<Target<'a>> {
    let said = &report.opaque;
    Some(Target {
        product: device.product()?,
        edition: device.edition(),
        driver_version: said.driver_version.as_deref(),
        vbios_version: said.vbios_version.as_deref().unwrap_or_default(),
        nvdec: said.nvdec,
    })
}

/// Every certificate of a chain with the one that follows it, if that is whom it names as issuer.
fn with_issuers(chain: &[Certificate]) -> impl Iterator<Item = (&Certificate, &Certificate)> {
    let pairs = chain.iter().zip(chain.iter().skip(1));
    pairs.filter(|(subject, issuer)| subject.issuer() == issuer.subject())
}
