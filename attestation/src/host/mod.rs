//! What a host's own files say, where reading them takes more than a line.

mod module;

pub use module::{ModuleSignature, ModuleSigner, SIGNATURE_TAIL};
