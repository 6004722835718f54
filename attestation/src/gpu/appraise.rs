//! All devices of a machine together, with everything an operator brought for them.

use crate::ids::UnixTime;
use crate::x509::Certificate;

use super::device::{Device, Evidence, judge};
use super::ocsp::{OcspRefused, Response, Revocation};
use super::path::Anchors;
use super::topology::{Topology, TopologyRefused, judge_set};

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
    /// Certificates other than the devices' that responses may be about.
    pub others: &'a [&'a [Certificate]],
    /// The time at which all of it has to count.
    pub at: UnixTime,
}

/// The answer, field by field.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    /// Each device by itself.
    pub devices: Vec<Device<'a>>,
    /// Which of the certificates are known to be good; none of a bad one is here.
    pub revocation: Vec<Revocation<'a>>,
    /// What is wrong with a response, by its place.
    pub ocsp_refused: Vec<(usize, OcspRefused)>,
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
        .map(|evidence| judge(*evidence, asked.anchors, asked.nonce, asked.at))
        .collect();
    let chains = devices.iter().map(|device| device.certificates);
    let pairs: Vec<_> = chains
        .chain(asked.others.iter().copied())
        .flat_map(with_issuers)
        .collect();
    let mut revocation = Vec::new();
    let mut ocsp_refused = Vec::new();
    // Without any certificate there is nothing that a response could be about.
    if !pairs.is_empty() {
        for (place, response) in asked.ocsp.iter().enumerate() {
            let (believed, refused) = response.check(&pairs, asked.at);
            revocation.extend(believed);
            ocsp_refused.extend(refused.into_iter().map(|why| (place, why)));
        }
    }
    let (topology, topology_refused) = judge_set(&devices);
    Answer {
        devices,
        revocation,
        ocsp_refused,
        topology,
        topology_refused,
    }
}

/// Every certificate of a chain with the one that follows it, if that is whom it names as issuer.
fn with_issuers(chain: &[Certificate]) -> impl Iterator<Item = (&Certificate, &Certificate)> {
    let pairs = chain.iter().zip(chain.iter().skip(1));
    pairs.filter(|(subject, issuer)| subject.issuer() == issuer.subject())
}
