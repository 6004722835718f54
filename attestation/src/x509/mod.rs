//! Certificates as they are, not as they should be, and the paths between them.
//!
//! Every kind of hardware evidence ends in such a path. [`find_path`] answers for validity, CA
//! and key usage, path lengths, critical extensions and signatures; what a leaf must be is for
//! the format to say. Anchors are arguments.

mod bundle;
mod certificate;
pub(crate) mod der;
mod name;
mod path;
mod pem;
mod revocation;

pub(crate) use self::der::{Walk, context};
pub use bundle::{Bundle, MAX_BUNDLE};
pub use certificate::{
    Certificate, Extension, MAX_CERTIFICATE_BYTES, SUBJECT_ALT_NAME, SignatureRefused,
};
pub use name::Name;
pub use path::{MAX_PATH, MAX_SIGNATURE_CHECKS, PathRefused, find_path};
pub use pem::{pem_block, pem_blocks};
pub use revocation::{ListRefused, RevocationList};
