//! NVIDIA GPUs and switches under confidential computing, verified with nothing but the bytes.
//!
//! A device's firmware signs its measurements in answer to a challenge; its key is certified by
//! the chip's, and that by NVIDIA. [`appraise`] judges all devices of a machine at once and answers
//! field by field: what a verdict takes is for a profile to say.
//!
//! | module | holds |
//! |---|---|
//! | [`evidence`](parse_evidence) | files in which evidence is passed around |
//! | [`report`](Report) | the signed exchange |
//! | [`opaque`](Opaque) | what the device says of itself in it |
//! | [`dice`](Fwid) | what the leaf certificate says of its firmware |
//! | [`path`](check_chain) | chains to NVIDIA's roots: of devices, of signers of reference values |
//! | [`device`](judge) | one device: report and chain together |
//! | [`topology`](judge_set) | Protected PCIe: GPUs and switches that name each other |
//! | [`endorsements`](Endorsements) | what vouches for devices: roots, reference values, revocation |
//! | [`ocsp`](Response) | revocation, one certificate at a time, as an operator brought it |
//! | [`crl`](check_crl) | the same, as lists |
//! | [`remembered`](GoodSignatures) | signatures that need not be verified again |
//! | [`root`](Root) | roots that an operator brings: nobody's, until a profile names them |
//! | [`rim`] | reference values: what they say, who signed them, how a device compares |

mod appraise;
mod crl;
mod device;
mod dice;
mod endorsements;
mod evidence;
mod ocsp;
mod opaque;
mod packed;
mod path;
mod remembered;
mod report;
pub mod rim;
mod root;
mod topology;

pub use appraise::{Answer, Asked, appraise};
pub use crl::{CrlRefused, MAX_CRL_BYTES, check_crl, crl_document, parse_crl};
pub(crate) use device::judge_remembering;
pub use device::{
    Architecture, CHAIN_LENGTH, Checked, Device, DeviceRefused, Evidence, FwidState, Identity,
    PDI_PREFIX, judge,
};
pub use dice::Fwid;
pub use endorsements::Endorsements;
pub use evidence::{
    MAX_EVIDENCE_BYTES, MAX_REPORT_FILE, StoredEvidence, parse_evidence, unpack_report,
};
pub use ocsp::{MAX_OCSP_BYTES, OcspRefused, Response, Revocation, Status};
pub use opaque::{Entry, Mode, Opaque, OpaqueRefused, Pdi, Ports};
pub use path::{
    Anchors, ChainRefused, FoundPath, check_chain, find_chain, find_chain_above, find_path,
    outside_dates,
};
pub use remembered::GoodSignatures;
pub use report::{Block, MAX_REPORT_BYTES, Report, ReportRefused};
pub use root::{MAX_ROOT_BYTES, Root, RootRefused};
pub use topology::{Topology, TopologyRefused, judge_set};

#[cfg(test)]
pub(crate) mod tests;
