//! Devices made in the test, under a root of the test: what they sign, and who lies about it.

mod appraise;
mod device;
mod made;
mod ocsp;
mod path;
mod report;
mod responses;
