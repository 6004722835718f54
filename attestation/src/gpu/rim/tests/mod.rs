//! RIMs made in the test: who signs them, what they say, and what is done to them on the way.

pub(crate) mod made;

mod content;
mod golden;
mod signature;
mod signer;
