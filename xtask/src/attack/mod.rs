//! `cargo xtask attack`: everybody who is against us, played on real parts.
//!
//! `fence` tries every known way round it, `survival` what must not open it; `rows` starts the
//! program that does both. `trust` is the rest
//! of this room: the demo's stage stands, with the real programs on it, and each attack tries to get what it
//! should not have. What was tried and what came of it is counted where it happens; an attack that
//! could not be carried out is an error, and is never shown as a refusal.

mod erasure;
mod fence;
mod fleet;
mod ground;
mod hostile;
mod identity;
mod keys;
mod loss;
mod outcome;
mod peers;
mod policy;
mod rows;
mod standing;
mod time;

use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::Value;

use self::ground::Ground;
use self::outcome::Outcome;
use crate::build;
use crate::cmd::{self, step};
use crate::install::{self, capability};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Family {
    /// Every known way round the fence
    Fence(rows::Args),
    /// The agent killed, upgraded and given policies under a flood, and killed at every BPF call
    Survival(rows::Survival),
    /// Liars, thieves and broken disks
    Trust(Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the attack of this name; may be given more than once
    #[arg(long)]
    only: Vec<String>,
    /// Says what there is, and tries nothing
    #[arg(long)]
    list: bool,
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

/// One attack. It finds an attested node, and says whether it leaves one.
struct Attack {
    /// Stable, kebab-case.
    name: &'static str,
    /// In a line.
    what: &'static str,
    run: fn(&mut Ground, &mut Outcome) -> Result<()>,
    /// The stage is of no use to the next.
    spoils: bool,
}

/// Those that leave the stage as they found it come first: they share one.
const TRUST: &[Attack] = &[
    Attack {
        name: "shop-bought-tpm",
        what: "a real TPM with its maker's chain, in nobody's inventory",
        run: identity::shop_bought_tpm,
        spoils: false,
    },
    Attack {
        name: "stolen-client-certificate",
        what: "a node's transport certificate in other hands",
        run: identity::stolen_certificate,
        spoils: false,
    },
    Attack {
        name: "endorsement-expired",
        what: "a maker's certificate past its end, or before its beginning",
        run: identity::endorsement_expired,
        spoils: false,
    },
    Attack {
        name: "software-key-node",
        what: "a collector invents a node with a software key",
        run: identity::software_key,
        spoils: false,
    },
    Attack {
        name: "made-up-lease",
        what: "leases the collector made itself, or about something else",
        run: standing::made_up_lease,
        spoils: false,
    },
    Attack {
        name: "other-kind-or-deployment",
        what: "approvers' signatures given for something else",
        run: policy::other_kind_or_deployment,
        spoils: false,
    },
    Attack {
        name: "mixed-manifest",
        what: "a manifest, signatures and files of two versions",
        run: policy::mixed,
        spoils: false,
    },
    Attack {
        name: "expired-manifest",
        what: "a manifest past its not_after",
        run: policy::expired,
        spoils: false,
    },
    Attack {
        name: "old-policy",
        what: "a policy that approvers signed once and replaced since",
        run: policy::old,
        spoils: false,
    },
    Attack {
        name: "made-up-approver",
        what: "a stolen collector appoints an approver of its own",
        run: policy::made_up_approver,
        spoils: false,
    },
    Attack {
        name: "log-rewritten",
        what: "root rewrites the node's log between two quotes",
        run: loss::log_rewritten,
        spoils: false,
    },
    Attack {
        name: "agent-killed-uplink-cut",
        what: "nobody attests any more, and the studies go on",
        run: standing::killed_and_cut,
        spoils: false,
    },
    Attack {
        name: "reboot-to-escape",
        what: "a tampered machine is rebooted, or pretends to be",
        run: standing::reboot,
        spoils: false,
    },
    Attack {
        name: "agent-clock",
        what: "the node's clock is an hour off, and a year",
        run: time::agent_clock,
        spoils: false,
    },
    Attack {
        name: "collector-clock",
        what: "the collector's clock is an hour off, and a year",
        run: time::collector_clock,
        spoils: true,
    },
    Attack {
        name: "reimaged-node-old-policy",
        what: "a node with a new disk is offered a policy that was replaced",
        run: policy::reimaged,
        spoils: true,
    },
    Attack {
        name: "made-up-world-map",
        what: "a stolen collector moves a country",
        run: policy::made_up_world_map,
        spoils: true,
    },
    Attack {
        name: "fence-detached-and-forged",
        what: "root detaches the fence, extends nothing and forges the statement",
        run: fence::forged,
        spoils: true,
    },
    Attack {
        name: "lease-key-rotated-and-revoked",
        what: "a lease key is replaced under load, and the old one was stolen",
        run: keys::lease_key,
        spoils: true,
    },
    Attack {
        name: "study-key-destroyed",
        what: "what a study's destroyed key opened is asked for again, and copies are kept",
        run: erasure::study_key,
        spoils: true,
    },
    Attack {
        name: "log-and-ca-keys-rotated-and-revoked",
        what: "the log's key and the CA are replaced under load, and the old ones were stolen",
        run: keys::log_and_ca,
        spoils: true,
    },
    Attack {
        name: "hundred-nodes-one-cause",
        what: "a hundred simulated nodes fail for one cause",
        run: fleet::one_cause,
        spoils: true,
    },
    Attack {
        name: "hostile-collector",
        what: "a collector with every key of the real one breaks one rule after the other",
        run: hostile::collector,
        spoils: true,
    },
    Attack {
        name: "retired-node",
        what: "a node that approvers took out of service goes on",
        run: identity::retired,
        spoils: true,
    },
    Attack {
        name: "other-chassis",
        what: "the listed TPM in a machine with another chassis serial",
        run: identity::other_chassis,
        spoils: true,
    },
    Attack {
        name: "made-up-peer-entry",
        what: "whoever carries peer entries makes one",
        run: peers::made_up_peer,
        spoils: true,
    },
    Attack {
        name: "statements-signed-in-advance",
        what: "a stock of statements, played out when they are no longer true",
        run: standing::signed_in_advance,
        spoils: true,
    },
    Attack {
        name: "disk-rolled-back",
        what: "the node's disk is put back as it was an hour ago",
        run: loss::disk_rolled_back,
        spoils: true,
    },
    Attack {
        name: "tpm-cleared",
        what: "the TPM is cleared, and the node comes back with a clean past",
        run: loss::tpm_cleared,
        spoils: true,
    },
    Attack {
        name: "disk-lost",
        what: "a node comes back without its disk",
        run: loss::disk,
        spoils: true,
    },
];

pub(crate) fn run(family: &Family) -> Result<()> {
    match family {
        Family::Fence(args) => rows::run(args),
        Family::Survival(args) => rows::survival(args),
        Family::Trust(args) => trust(args),
    }
}

fn trust(args: &Args) -> Result<()> {
    if args.list {
        for attack in TRUST {
            cmd::result(format_args!("{:<28} {}", attack.name, attack.what))?;
        }
        return Ok(());
    }
    let unknown = args
        .only
        .iter()
        .find(|name| TRUST.iter().all(|attack| attack.name != **name));
    if let Some(name) = unknown {
        bail!("there is no attack {name:?}; --list says what there is");
    }
    capability::for_demo()?;
    install::for_demo()?;
    build::kernel_side()?;
    build::programs(false)?;
    let chosen = TRUST
        .iter()
        .filter(|attack| args.only.is_empty() || args.only.iter().any(|n| n == attack.name));
    let outcomes = play(chosen);
    match args.output {
        Output::Json => {
            let rows: Value = outcomes.iter().map(Outcome::json).collect();
            cmd::result(format_args!("{rows:#}"))?;
        }
        Output::Text => cmd::result(outcome::table(&outcomes))?,
    }
    let bad: Vec<&str> = outcomes
        .iter()
        .filter(|outcome| !outcome.is_good())
        .map(|outcome| outcome.name)
        .collect();
    if bad.is_empty() {
        return Ok(());
    }
    bail!("not as it must be: {}", bad.join(", "))
}

/// One after the other, on one stage as long as it serves.
fn play<'a>(attacks: impl Iterator<Item = &'a Attack>) -> Vec<Outcome> {
    let mut ground = None;
    let mut outcomes = Vec::new();
    for attack in attacks {
        step(format_args!("== {}: {}", attack.name, attack.what));
        let begun = Instant::now();
        let mut outcome = Outcome::new(attack.name);
        let done =
            Ground::attested(&mut ground).and_then(|ground| (attack.run)(ground, &mut outcome));
        if let Err(error) = done {
            if let Some(ground) = &ground {
                ground.last_words();
            }
            outcome.failed(&error);
        }
        if attack.spoils || !outcome.is_good() {
            ground = None;
        }
        step(format_args!(
            "   {} ({:.0} s)",
            outcome.line(),
            begun.elapsed().as_secs_f64()
        ));
        outcomes.push(outcome);
        if interrupted(&ground) {
            break;
        }
    }
    outcomes
}

fn interrupted(ground: &Option<Ground>) -> bool {
    ground
        .as_ref()
        .is_some_and(|ground| ground.scene.go_on().is_err())
}
