//! What is tried in a machine. The name is what the program inside is told.

use std::time::Duration;

use anyhow::Result;

use super::stage::Stage;
use super::{restarts, runtime, validated};

/// What happens in a machine.
#[derive(Clone, Copy, Debug)]
pub(super) enum Acts {
    /// The program inside knows.
    Inside {
        /// How often it is powered on, each time with the disks and the TPM of the last.
        boots: u32,
        /// Words that the kernel is told at the second boot, and the registers below PCR 10 that
        /// are to turn by them.
        next: Option<(&'static str, &'static [u32])>,
    },
    /// Directed from here, with a collector here.
    Directed(fn(&mut Stage<'_>) -> Result<()>),
}

/// One machine, booted once or more.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// For people.
    pub(super) about: &'static str,
    pub(super) secure_boot: bool,
    /// Banks of its TPM.
    pub(super) banks: &'static str,
    /// What happens.
    pub(super) acts: Acts,
    /// List of modules that are loaded beyond those every machine has; empty: none.
    pub(super) modules: &'static str,
    /// For the program inside, each boot: many times what it takes on two idle processors.
    pub(super) limit: Duration,
}

/// The one whose checks are rows of `cargo xtask attack fence`.
pub(super) const WAYS_OUT: &str = "ways-out";

/// All there are.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "boot",
        about: "Secure Boot, lockdown, IMA, TPM with two banks and BPF as the kernel shows them",
        secure_boot: true,
        banks: "sha256,sha384",
        acts: Acts::Inside {
            boots: 1,
            next: None,
        },
        modules: "",
        limit: Duration::from_secs(300),
    },
    Scenario {
        name: "boot-open",
        about: "the same with Secure Boot off: measured, and told apart",
        secure_boot: false,
        banks: "sha256",
        acts: Acts::Inside {
            boots: 1,
            next: None,
        },
        modules: "",
        limit: Duration::from_secs(300),
    },
    Scenario {
        name: "boot-next",
        about: "two boots, the second with another command line: its registers turn",
        secure_boot: true,
        banks: "sha256",
        acts: Acts::Inside {
            boots: 2,
            next: Some(("mitigations=off", &[8, 9])),
        },
        modules: "",
        limit: Duration::from_secs(300),
    },
    Scenario {
        name: "fence",
        about: "a whole host: fenced before its network, its agent killed, rebooted",
        secure_boot: true,
        banks: "sha256",
        acts: Acts::Inside {
            boots: 2,
            next: None,
        },
        modules: "",
        limit: Duration::from_secs(1200),
    },
    Scenario {
        name: WAYS_OUT,
        about: "attacks that take modules of the kernel: tunnels, bonds, SCTP, vsock",
        secure_boot: true,
        banks: "sha256",
        acts: Acts::Inside {
            boots: 1,
            next: None,
        },
        modules: "ways-out",
        limit: Duration::from_secs(2400),
    },
    Scenario {
        name: "validated",
        about: "agent and collector: what turns a node's verdict, and what `why` says of it",
        secure_boot: true,
        banks: "sha256",
        acts: Acts::Directed(validated::play),
        modules: "",
        limit: Duration::from_secs(1800),
    },
    Scenario {
        name: "revoked",
        about: "an older signed shim that the profile takes back, and the present one in dbx",
        secure_boot: true,
        banks: "sha256",
        acts: Acts::Directed(validated::revoked),
        modules: "",
        limit: Duration::from_secs(1800),
    },
    Scenario {
        name: "runtime",
        about: "what root does while it runs: strict part, changed program, module, forged statement",
        secure_boot: true,
        banks: "sha256",
        acts: Acts::Directed(runtime::play),
        modules: "",
        limit: Duration::from_secs(1800),
    },
    Scenario {
        name: "restarts",
        about: "another kernel by kexec, and power cut in the middle of an attestation",
        secure_boot: true,
        banks: "sha256",
        acts: Acts::Directed(restarts::play),
        modules: "",
        limit: Duration::from_secs(1800),
    },
    Scenario {
        name: "sha384",
        about: "the SHA-384 bank is quoted: boot log, list and profile in it",
        secure_boot: true,
        // Quoted is the first. Debian's kernels have SHA-384 as a module, so that IMA finds the boot's
        // registers in another bank or nowhere.
        banks: "sha384,sha256",
        acts: Acts::Directed(validated::in_its_bank),
        modules: "",
        limit: Duration::from_secs(1800),
    },
];
