//! An ABI double of NVML, of NSCQ and of CUDA's driver API, for machines without a GPU.
//!
//! The shared library has NVML's symbols and the layouts of its structures, written down from the
//! header and not taken from the crate the agent uses. What it answers stands in a file beside it
//! ([`script`]); reports are signed with keys made for the test ([`made`]), or are recorded ones.
//! It is a part of tests and no hardware: no chain made here leads to NVIDIA's root, and a
//! recorded report does not answer the challenge.
//!
//! | module | holds |
//! |---|---|
//! | [`script`] | what it answers, and what goes wrong |
//! | [`stage`] | a double made ready in a folder, for a test or the demo |
//! | `made` | devices in the shape of NVIDIA's, under a root of the test |
//! | `abi`, `load`, `events` | NVML's symbols |
//! | `nscq` | NSCQ's symbols, for switches |
//! | `cuda` | those of CUDA's driver API that a small computation takes, computed on the host |

mod abi;
mod cuda;
mod events;
mod load;
#[path = "../../../attestation/src/gpu/tests/made.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "the generator of the verifier's own tests, of which they need more"
)]
mod made;
mod nscq;
pub mod script;
pub mod stage;

pub use script::{CudaScript, Device, Fault, NscqScript, Script, Switch, Wrong};
pub use stage::{Recorded, Staged, library};
