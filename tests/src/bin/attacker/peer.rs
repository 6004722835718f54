//! A peer entry that no node signed: a way out of the fence, made by whoever carries entries.

use std::path::PathBuf;

use anyhow::Context as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use bailiwick_agent::ipc::FenceClient;
use bailiwick_agent::proto::fence::ApplyPeers;
use bailiwick_agent::tpm::Tpm;
use bailiwick_attestation::Sha256Digest;
use bailiwick_attestation::evidence::transport_binding;
use bailiwick_attestation::proto::v1::{PeerBody, PeerEntries, PeerEntry};
use bailiwick_policy::peers::{LIFE_LIMIT_MS, signed_bytes};
use prost::Message as _;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The configuration of the agent whose fence is told
    #[arg(long)]
    config: PathBuf,
    /// The thief's own agent configuration, with a TPM of its own
    #[arg(long)]
    thief: PathBuf,
    /// The node the entry speaks for
    #[arg(long)]
    node: String,
    /// The study it lets out
    #[arg(long)]
    study: String,
    /// Where to
    #[arg(long)]
    address: std::net::IpAddr,
    /// Who signs
    #[arg(long, value_enum)]
    by: By,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum By {
    /// A key of the collector's own, shown with a genuine TPM's AK
    Software,
    /// A genuine TPM that is another node's, or nobody's
    OtherTpm,
    /// The node's own TPM, in the hands of root
    OwnTpm,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let config = super::config(&args.config)?;
    let settings = match args.by {
        By::OwnTpm => config.tpm_settings(),
        By::Software | By::OtherTpm => super::config(&args.thief)?.tpm_settings(),
    };
    let tpm = Tpm::open(settings).context("open a TPM")?;
    let identity = tpm.identity().clone();
    let ek = Sha256Digest::of(&[&identity.ek_public]);
    let binding = transport_binding(&config.deployment, &ek);
    let certified = tpm.certify_transport(binding.0).await?;
    let body = PeerBody {
        deployment: config.deployment.to_string(),
        node: args.node.clone(),
        study: args.study.clone(),
        addresses: vec![match args.address {
            std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
            std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
        }],
        issued_ms: bailiwick_agent::clock::now().millis(),
        lasts_ms: LIFE_LIMIT_MS,
    }
    .encode_to_vec();
    let signature = if args.by == By::Software {
        let drawn =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
                .ok()
                .context("the provider drew no key")?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, drawn.as_ref())
            .ok()
            .context("a key just drawn")?;
        let signed = key.sign(&SystemRandom::new(), &signed_bytes(&body)).ok();
        signed
            .context("the provider did not sign")?
            .as_ref()
            .to_vec()
    } else {
        let digest = Sha256Digest::of(&[&signed_bytes(&body)]);
        let (r, s) = tpm.sign_transport(digest.0)?;
        der(&r, &s)
    };
    let entries = vec![PeerEntry {
        body,
        signature,
        key_public: identity.transport_public,
        key_attest: certified.attest,
        key_signature: certified.signature,
        ak_public: identity.ak_public,
    }];
    let mut fence = FenceClient::new(&config.fence.socket);
    let apply = ApplyPeers {
        entries: Some(PeerEntries { entries }),
    };
    fence.apply_peers(apply).await.context("tell the fence")?;
    let state = fence.state().await?.fence.context("the fence's state")?;
    let line = serde_json::json!({"peers_live": state.peers_live});
    std::io::Write::write_all(&mut std::io::stdout(), format!("{line}\n").as_bytes())
        .context("write to stdout")
}

/// `SEQUENCE { r INTEGER, s INTEGER }`.
fn der(r: &[u8; 32], s: &[u8; 32]) -> Vec<u8> {
    let mut body = integer(r);
    body.extend(integer(s));
    let length = u8::try_from(body.len()).unwrap_or(u8::MAX);
    [&[0x30, length], body.as_slice()].concat()
}

/// The shortest form: no leading zeros, but one where the first bit is set.
fn integer(scalar: &[u8; 32]) -> Vec<u8> {
    let zeros = scalar
        .iter()
        .take(31)
        .take_while(|byte| **byte == 0)
        .count();
    let (_, minimal) = scalar.split_at(zeros);
    let mut content = Vec::new();
    if minimal.first().is_some_and(|first| *first >= 0x80) {
        content.push(0);
    }
    content.extend_from_slice(minimal);
    let length = u8::try_from(content.len()).unwrap_or(u8::MAX);
    [&[0x02, length], content.as_slice()].concat()
}
