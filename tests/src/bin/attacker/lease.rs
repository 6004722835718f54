//! Leases the node should not have: signed with a key of the thief's own, or with the collector's
//! stolen one about something else than this node, this AK, this boot, this statement.
//!
//! They go to the fence's own socket: no door lies behind it.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use bailiwick_agent::ipc::{FenceClient, IpcError};
use bailiwick_agent::proto::fence::{ApplyLease, apply_lease};
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::standing::{LeaseSigner, MAX_LEASE_MS};
use bailiwick_collector::init::StateDir;

use super::tries::{Came, tell};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The node's agent configuration
    #[arg(long)]
    config: PathBuf,
    /// SHA-256 of the node's EK, hex
    #[arg(long)]
    ek: String,
    /// Name of the node's AK, hex
    #[arg(long)]
    ak: String,
    /// The collector's stolen state folder
    #[arg(long)]
    stolen: PathBuf,
    /// Its first lease key is in the policy no more
    #[arg(long)]
    revoked: bool,
}

/// The boot, and the statement, that the request is about.
const RESET: u32 = 41;
const CLOCK_MS: u64 = 1_000_000;
const BOOT_NS: u64 = 50_000_000_000;
const STATEMENT: [u8; 32] = [9; 32];

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let config = super::config(&args.config)?;
    let ak_name = hex::decode(&args.ak).context("read --ak")?;
    let request = ApplyLease {
        lease: None,
        ek_digest: hex::decode(&args.ek).context("read --ek")?,
        ak_name: ak_name.clone(),
        reset_count: RESET,
        quoted: vec![apply_lease::Quoted {
            statement_digest: STATEMENT.to_vec(),
            clock_ms: CLOCK_MS,
            boot_time_ns: BOOT_NS,
        }],
    };
    let good = v1::LeaseBody {
        deployment: config.deployment.to_string(),
        node: config.node.to_string(),
        ak_name,
        reset_count: RESET,
        until_clock_ms: CLOCK_MS + 3_600_000,
        statement_digest: STATEMENT.to_vec(),
        manifest_digest: vec![0; 32],
        reason: "affirming".to_owned(),
        quoted_clock_ms: CLOCK_MS,
        quoted_boot_time_ns: BOOT_NS,
        gpus_proven: true,
    };
    let state = StateDir::at(&args.stolen);
    let id = state.identity()?.lease_key_id;
    let stolen = LeaseSigner::from_pkcs8(&id, &state.lease_key()?)?;
    if args.revoked {
        for (tried, until) in [("for an hour", good.until_clock_ms), ("to end standing", 0)] {
            let body = v1::LeaseBody {
                until_clock_ms: until,
                ..good.clone()
            };
            let came = offer(&config, &request, stolen.sign(&body)?).await?;
            let tried = format!("signed with the revoked key, {tried}");
            tell(&tried, "lease-unknown-key", &came)?;
        }
        return Ok(());
    }
    let own = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
    let own = own.map_err(|_unspecified| anyhow!("the provider drew no key"))?;
    let unknown = LeaseSigner::from_pkcs8("lease-of-mine", own.as_ref())?;
    let passed_off = LeaseSigner::from_pkcs8(&id, own.as_ref())?;

    let with = |edit: fn(&mut v1::LeaseBody)| {
        let mut body = good.clone();
        edit(&mut body);
        body
    };
    let cases: [(&str, &LeaseSigner, v1::LeaseBody, &str); 9] = [
        (
            "signed with a key nobody approved",
            &unknown,
            good.clone(),
            "lease-unknown-key",
        ),
        (
            "signed with such a key under the approved name",
            &passed_off,
            good.clone(),
            "lease-signature",
        ),
        (
            "stolen key: for another deployment",
            &stolen,
            with(|b| b.deployment = "other".into()),
            "lease-not-ours",
        ),
        (
            "stolen key: for another node",
            &stolen,
            with(|b| b.node = "gpu-02".into()),
            "lease-not-ours",
        ),
        (
            "stolen key: for another AK",
            &stolen,
            with(|b| b.ak_name = vec![0, 11, 5]),
            "lease-not-ours",
        ),
        (
            "stolen key: for another boot",
            &stolen,
            with(|b| b.reset_count += 1),
            "lease-not-ours",
        ),
        (
            "stolen key: for a statement never made",
            &stolen,
            with(|b| b.statement_digest = vec![8; 32]),
            "lease-unknown-statement",
        ),
        (
            "stolen key: over other clocks than the quote's",
            &stolen,
            with(|b| b.quoted_boot_time_ns *= 2),
            "lease-unknown-statement",
        ),
        (
            "stolen key: longer than a week",
            &stolen,
            with(|b| b.until_clock_ms += MAX_LEASE_MS),
            "lease-too-long",
        ),
    ];
    for (tried, signer, body, expected) in cases {
        let came = offer(&config, &request, signer.sign(&body)?).await?;
        tell(tried, expected, &came)?;
    }
    let mut edited = stolen.sign(&with(|b| b.until_clock_ms = CLOCK_MS + 1000))?;
    let honest = edited.clone();
    for (tried, at) in [("one bit of the body", 0), ("one bit of the signature", 1)] {
        edited.clone_from(&honest);
        let bytes = [&mut edited.body, &mut edited.signature];
        let [body, signature] = bytes;
        let bytes = if at == 0 { body } else { signature };
        let last = bytes.last_mut().context("nothing to change")?;
        *last ^= 1;
        let came = offer(&config, &request, edited.clone()).await?;
        tell(
            &format!("a lease with {tried} changed"),
            "lease-signature",
            &came,
        )?;
    }
    Ok(())
}

async fn offer(
    config: &bailiwick_agent::config::Config,
    request: &ApplyLease,
    lease: v1::Lease,
) -> anyhow::Result<Came> {
    let request = ApplyLease {
        lease: Some(lease),
        ..request.clone()
    };
    let mut fence = FenceClient::new(&config.fence.socket);
    match fence.apply_lease(request).await {
        Ok(()) => Ok(Came::Succeeded("the fence took it".to_owned())),
        Err(IpcError::Refused { code, detail }) => Ok(Came::refused(code, detail)),
        Err(error) => Err(error).context("ask the fence"),
    }
}
