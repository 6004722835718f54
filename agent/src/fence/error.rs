//! Why a fence does not stand, or something could not be done to it.

use std::{io, path::PathBuf};

use bailiwick_policy::image::CgroupsRefused;

use super::{place::PlaceError, record::RecordError};

/// Why something could not be done. What was in force before still is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FenceError {
    /// The place to fence.
    #[error("fence.root")]
    Place(#[from] PlaceError),
    /// The folder for pins.
    #[error("fence.bpffs: {}", path.display())]
    Pins {
        /// Folder or pin.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One fence per folder.
    #[error("fence.bpffs: another process holds {}", .0.display())]
    Held(PathBuf),
    /// The pins there fence something else.
    #[error(
        "fence.bpffs: the pinned link {name} fences cgroup {id}, which is not fence.root; \
         `bailiwick-agent unfence` removes it"
    )]
    OtherRoot {
        /// Name of the link.
        name: &'static str,
        /// The cgroup it is attached to.
        id: u64,
    },
    /// The object carried inside was not taken.
    #[error("load the BPF object")]
    Load(#[source] Box<aya::EbpfError>),
    /// The verifier, or the kernel's features.
    #[error("load program {name}")]
    Program {
        /// Its name.
        name: &'static str,
        /// Why.
        #[source]
        source: Box<aya::programs::ProgramError>,
    },
    /// The object carried inside is not the one this code was written for.
    #[error("the BPF object has no {0}")]
    Missing(&'static str),
    /// The ring buffer of denied devices.
    #[error("map DEVICE_EVENTS")]
    Events(#[source] aya::maps::MapError),
    /// A call of bpf(2).
    #[error("{what} {name}")]
    Kernel {
        /// What was to be done.
        what: &'static str,
        /// To which map or link.
        name: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// This host has cgroups that the policy's table cannot hold.
    #[error("the selected cgroups")]
    Cgroups(#[from] CgroupsRefused),
    /// More addresses of studies on other nodes than the table holds.
    #[error("{found} addresses of studies on other nodes; there is room for {limit}")]
    Peers {
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Held back: what takes effect has to be in the fence's PCR first.
    #[error("held back until the fence log can be extended")]
    Unmeasured(#[from] RecordError),
    /// The probe could not be sent, or was not denied.
    #[error("probe: {0}")]
    Probe(String),
}

impl FenceError {
    /// For `map_err` on a call of bpf(2).
    pub(super) fn kernel(what: &'static str, name: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Kernel { what, name, source }
    }
}
