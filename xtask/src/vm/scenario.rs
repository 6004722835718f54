//! What is tried in a machine. The name is what the program inside is told.

use std::time::Duration;

/// One machine, booted once or more.
#[derive(Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    /// For people.
    pub(super) about: &'static str,
    pub(super) secure_boot: bool,
    /// How often it is powered on, each time with the disks and the TPM of the last.
    pub(super) boots: u32,
    /// List of modules that are loaded beyond those every machine has; empty: none.
    pub(super) modules: &'static str,
    /// Words that the kernel is told at the second boot, and the registers below PCR 10 that are to
    /// turn by them.
    pub(super) next: Option<(&'static str, &'static [u32])>,
    /// For the program inside, each boot: many times what it takes on two idle processors.
    pub(super) limit: Duration,
}

/// The one whose checks are rows of `cargo xtask attack fence`.
pub(super) const WAYS_OUT: &str = "ways-out";

/// All there are.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "boot",
        about: "Secure Boot, lockdown, IMA, TPM and BPF as the kernel shows them",
        secure_boot: true,
        boots: 1,
        modules: "",
        next: None,
        limit: Duration::from_secs(300),
    },
    Scenario {
        name: "boot-open",
        about: "the same with Secure Boot off: measured, and told apart",
        secure_boot: false,
        boots: 1,
        modules: "",
        next: None,
        limit: Duration::from_secs(300),
    },
    Scenario {
        name: "boot-next",
        about: "two boots, the second with another command line: its registers turn",
        secure_boot: true,
        boots: 2,
        modules: "",
        next: Some(("panic=30", &[8, 9])),
        limit: Duration::from_secs(300),
    },
    Scenario {
        name: "fence",
        about: "a whole host: fenced before its network, its agent killed, rebooted",
        secure_boot: true,
        boots: 2,
        modules: "",
        next: None,
        limit: Duration::from_secs(1200),
    },
    Scenario {
        name: WAYS_OUT,
        about: "attacks that take modules of the kernel: tunnels, bonds, SCTP, vsock",
        secure_boot: true,
        boots: 1,
        modules: "ways-out",
        next: None,
        limit: Duration::from_secs(2400),
    },
];
