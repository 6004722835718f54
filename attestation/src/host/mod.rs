//! What a host's own files say, and who is beside it, where reading them takes more than a line.

mod lldp;
mod module;

pub use lldp::{LLDP_ETHERTYPE, LLDP_LIMIT, Neighbour};
pub use module::{ModuleSignature, ModuleSigner, SIGNATURE_TAIL};
