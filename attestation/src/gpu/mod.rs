//! NVIDIA GPUs and switches under confidential computing, verified with nothing but the bytes.
//!
//! | module | holds |
//! |---|---|
//! | [`path`](check_chain) | chains to NVIDIA's roots: of devices, of signers of reference values |

mod path;

pub use path::{Anchors, ChainRefused, check_chain, find_chain, outside_dates};

#[cfg(test)]
mod tests;
