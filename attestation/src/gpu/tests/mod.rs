//! Devices made in the test, under a root of the test: what they sign, and who lies about it.

mod appraise;
mod crl;
mod device;
pub(crate) mod lists;
pub(crate) mod made;
mod ocsp;
mod path;
mod remembered;
mod report;
pub(crate) mod responses;
mod root;
