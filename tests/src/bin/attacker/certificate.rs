//! A node's transport certificate, copied by somebody who cannot copy the key in its TPM.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use bailiwick_agent::config::{Collector, Endpoint};
use bailiwick_agent::enroll::Enrolment;
use bailiwick_agent::proto::v1::evidence_service_client::EvidenceServiceClient;
use bailiwick_agent::tls::{self, ConnectError};
use bailiwick_agent::tpm::{Tpm, TpmError};
use bailiwick_agent::{channel, enroll};
use bailiwick_attestation::{Sha256Digest, UnixTime};
use bailiwick_collector::init::{NodeCertificate, StateDir};
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use self::aws_lc_rs_keys::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use super::tries::{Came, tell};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The victim's agent configuration: its certificate and key blobs are what is stolen
    #[arg(long)]
    victim: PathBuf,
    /// The thief's own agent configuration, with a TPM of its own
    #[arg(long)]
    thief: PathBuf,
    /// Where operators ask, `HOST:PORT`
    #[arg(long)]
    query: String,
    /// Folder with an operator's certificate and key, NAME.pem and NAME.key
    #[arg(long)]
    operators: PathBuf,
    /// An older certificate of the victim's, as the agent keeps it
    #[arg(long)]
    older: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Issued {
    /// The victim's agent configuration: whose name the certificate bears, and where it is shown
    #[arg(long)]
    victim: PathBuf,
    /// SHA-256 of the victim's EK, hex
    #[arg(long)]
    ek: String,
    /// Name of the victim's AK, hex
    #[arg(long)]
    ak: String,
    /// The collector's stolen state folder, with the CA's key
    #[arg(long)]
    stolen: PathBuf,
    /// The CA of the certificate that the true collector shows
    #[arg(long)]
    ca: PathBuf,
    /// The stolen CA counts no more
    #[arg(long)]
    revoked: bool,
}

/// Whoever has the CA's key makes a certificate for any node, over a key of their own.
pub(crate) async fn issued(args: &Issued) -> anyhow::Result<()> {
    let victim = super::config(&args.victim)?;
    let der = software_key()?;
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der.secret_pkcs8_der())
        .map_err(|_rejected| anyhow!("the key just drawn"))?;
    let now = bailiwick_agent::clock::now();
    let cas = StateDir::at(&args.stolen).cas()?;
    let authority = &cas.first.authority;
    let certificate = authority.issue_node(
        &NodeCertificate {
            ek_digest: Sha256Digest::try_from(args.ek.clone())?,
            ak_name: hex::decode(&args.ak).context("read --ak")?,
            public_point: pair.public_key().as_ref().to_vec(),
            not_after: UnixTime::from_secs(now.secs() + 3600),
        },
        now,
    )?;
    let key = aws_lc_rs::sign::any_ecdsa_type(&PrivateKeyDer::Pkcs8(der))?;
    let chain = vec![certificate, authority.certificate().clone()];
    let certified = CertifiedKey::new(chain, key);
    let collector = Collector {
        ca_file: Some(args.ca.clone()),
        ..victim.collector.clone()
    };
    let came = knock(&collector, &collector.evidence, certified).await?;
    // The CA in force bears the same name: it is tried, and did not sign.
    let expected = if args.revoked { "tls-DecryptError" } else { "" };
    tell(
        "a certificate in the node's name, made with the stolen CA",
        expected,
        &came,
    )
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<()> {
    let (victim, thief) = (super::config(&args.victim)?, super::config(&args.thief)?);
    if let Some(older) = &args.older {
        return superseded(&victim, older).await;
    }
    let stolen =
        Enrolment::read(&enroll::file(&victim))?.context("the victim has no certificate")?;
    let query =
        Endpoint::try_from(args.query.clone()).map_err(|fault| anyhow!("--query: {fault}"))?;
    let key = aws_lc_rs::sign::any_ecdsa_type(&PrivateKeyDer::Pkcs8(software_key()?))?;
    let with_software_key = CertifiedKey::new(stolen.chain.clone(), key);
    for (door, endpoint, expected) in [
        (
            "evidence port",
            victim.collector.evidence.clone(),
            "tls-DecryptError",
        ),
        // Another authority stands before the operators' door, and it is asked first.
        ("query port", query, "tls-UnknownCA"),
    ] {
        let certified = CertifiedKey::new(
            with_software_key.cert.clone(),
            Arc::clone(&with_software_key.key),
        );
        let came = knock(&victim.collector, &endpoint, certified).await?;
        tell(
            &format!("the certificate with a key of the thief's, {door}"),
            expected,
            &came,
        )?;
    }

    let mut settings = thief.tpm_settings();
    settings.keys = victim.tpm_settings().keys;
    let came = match Tpm::open(settings) {
        Ok(_) => Came::Succeeded("another TPM loaded the key blobs".to_owned()),
        Err(error @ TpmError::ForeignKeys { .. }) => {
            Came::refused("foreign-keys", error.to_string())
        }
        Err(error) => return Err(error).context("open the thief's TPM"),
    };
    tell(
        "the certificate with the copied key blobs, in another TPM",
        "foreign-keys",
        &came,
    )?;

    for (certificate, key) in operators(&args.operators)? {
        let chain = vec![CertificateDer::from_pem_file(&certificate)?];
        let key = aws_lc_rs::sign::any_supported_type(&PrivateKeyDer::from_pem_file(&key)?)?;
        let came = knock(
            &victim.collector,
            &victim.collector.evidence,
            CertifiedKey::new(chain, key),
        )
        .await?;
        tell(
            "an operator's certificate and key, evidence port",
            "tls-UnknownCA",
            &came,
        )?;
    }
    Ok(())
}

/// The victim's TPM itself, for as long as a thief is on the machine, with a certificate that was
/// replaced since.
async fn superseded(
    victim: &bailiwick_agent::config::Config,
    older: &std::path::Path,
) -> anyhow::Result<()> {
    let stolen = Enrolment::read(older)?.context("no older certificate")?;
    let tpm = Tpm::open(victim.tpm_settings()).context("open the victim's TPM")?;
    let tls = tls::evidence_config(&victim.collector, &[], &tpm, stolen.chain)?;
    let channel = channel::open(&victim.collector.evidence, tls).await?;
    let (_sender, messages) = mpsc::channel(1);
    let answer = EvidenceServiceClient::new(channel)
        .attest(ReceiverStream::new(messages))
        .await;
    let came = match answer {
        Ok(_) => Came::Succeeded("the stream was opened".to_owned()),
        Err(status) => status.into(),
    };
    tell(
        "the victim's own TPM with the certificate before its newest",
        "certificate-superseded",
        &came,
    )
}

async fn knock(
    collector: &Collector,
    endpoint: &Endpoint,
    certified: CertifiedKey,
) -> anyhow::Result<Came> {
    let file = collector.ca_file.as_ref().context("collector.ca_file")?;
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file)?)?;
    let resolver: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(certified));
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec()];
    match tls::connect(endpoint, Arc::new(config)).await {
        Ok(_) => Ok(Came::Succeeded("the handshake was completed".to_owned())),
        Err(error @ ConnectError::Refused { alert, .. }) => {
            Ok(Came::refused(format!("tls-{alert:?}"), error.to_string()))
        }
        Err(error) => Err(error).context("knock"),
    }
}

fn software_key() -> anyhow::Result<PrivatePkcs8KeyDer<'static>> {
    use aws_lc_rs_keys::SystemRandom;
    let drawn = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
    let Ok(drawn) = drawn else {
        bail!("the provider drew no key");
    };
    Ok(drawn.as_ref().to_vec().into())
}

/// `rustls::crypto::aws_lc_rs` has the shorter name here.
mod aws_lc_rs_keys {
    pub(super) use ::aws_lc_rs::rand::SystemRandom;
    pub(super) use ::aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair,
    };
}

/// Certificate and key of each operator.
fn operators(folder: &std::path::Path) -> anyhow::Result<Vec<(PathBuf, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).context("list the operators")? {
        let certificate = entry?.path();
        if certificate.extension().is_some_and(|end| end == "pem") {
            found.push((certificate.clone(), certificate.with_extension("key")));
        }
    }
    if found.is_empty() {
        bail!("no operator in {}", folder.display());
    }
    Ok(found)
}
