//! Certificates as they are, not as they should be.

mod pem;

pub use pem::pem_blocks;
