//! The node's TPM: identity, quotes, the transport key.
//!
//! Three keys. The *EK* comes from the manufacturer's template and names the TPM. The *AK*
//! (restricted) signs quotes and certifies. The *transport key* (unrestricted, ECDSA P-256) is the
//! agent's TLS identity. AK and transport key are children of an owner-hierarchy storage key and
//! lie as wrapped blobs in the state folder: useless on any other TPM, kept across restarts.
//!
//! ESYS contexts are bound to one connection and block, so one thread owns the TPM and runs what
//! is sent to it ([`Tpm`]); `device.rs` is that thread's side.

mod device;
mod endorsement;
mod geotag;
mod iak;
mod keys;
pub(crate) mod nv;
pub(crate) mod raw;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bailiwick_attestation::{
    crypto::HashAlgorithm,
    tpm::{CertifyRefused, NvRefused, QuoteRefused},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tss_esapi::{TctiNameConf, interface_types::algorithm::HashingAlgorithm};

use device::Device;
pub use iak::IakWord;
pub use raw::RawError;

/// How long the thread is waited for when nobody asks any more: a command takes a second at most, and
/// three handles are flushed.
const FAREWELL: Duration = Duration::from_secs(5);
/// Requests waiting for the TPM's thread. Full: the caller is told [`TpmError::Busy`], for a TPM
/// that is eight commands behind does not answer a challenge in time either.
const QUEUE: usize = 8;

/// Longest wait for a TLS signature; discrete TPMs need up to a second.
const SIGN_TIMEOUT: Duration = Duration::from_secs(20);

/// Which endorsement key names this TPM.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EkKind {
    /// TCG profile, low range.
    #[default]
    #[serde(rename = "rsa-2048")]
    Rsa2048,
    /// TCG profile, low range.
    EccP256,
    /// TCG profile, high range.
    EccP384,
}

/// How the AK signs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AkKind {
    /// ECDSA over SHA-256.
    #[default]
    EcdsaP256,
    /// RSASSA-PKCS1-v1.5 over SHA-256.
    #[serde(rename = "rsassa-2048")]
    Rsassa2048,
}

/// Bank whose PCRs are quoted. SHA-1 is not offered: nothing that appraises accepts it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bank {
    /// 32-byte registers.
    #[default]
    Sha256,
    /// 48-byte registers.
    Sha384,
}

impl Bank {
    /// `TPM_ALG_ID`.
    #[must_use]
    pub const fn algorithm(self) -> u32 {
        match self {
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
        }
    }

    /// The hash of its registers.
    #[must_use]
    pub const fn hash(self) -> HashAlgorithm {
        match self {
            Self::Sha256 => HashAlgorithm::Sha256,
            Self::Sha384 => HashAlgorithm::Sha384,
        }
    }

    const fn hashing(self) -> HashingAlgorithm {
        match self {
            Self::Sha256 => HashingAlgorithm::Sha256,
            Self::Sha384 => HashingAlgorithm::Sha384,
        }
    }
}

/// What the TPM's thread needs to know before it starts.
#[derive(Clone, Debug)]
pub struct Settings {
    /// TCTI string, checked: `device:/dev/tpmrm0`, `swtpm:host=…,port=…`.
    pub tcti: Tcti,
    /// Endorsement key to use.
    pub ek: EkKind,
    /// Kind of AK made where there is none yet.
    pub ak: AkKind,
    /// Persistent handle of a key that is the AK instead.
    pub ak_handle: Option<u32>,
    /// Bank to quote.
    pub bank: Bank,
    /// PCRs to quote, ascending, 0 to 23.
    pub pcrs: Vec<u8>,
    /// Folder of the wrapped key blobs.
    pub keys: PathBuf,
}

/// A TCTI string this build understands.
#[derive(Clone, Debug, Eq, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tcti {
    text: String,
    conf: TctiNameConf,
}

impl Tcti {
    /// The kernel's resource manager, first TPM.
    pub(crate) fn device() -> Self {
        let text = "device:/dev/tpmrm0".to_owned();
        let conf = TctiNameConf::from_str(&text).expect("a literal");
        Self { text, conf }
    }
}

impl TryFrom<String> for Tcti {
    type Error = TpmError;
    fn try_from(text: String) -> Result<Self, TpmError> {
        match TctiNameConf::from_str(&text) {
            Ok(conf) => Ok(Self { text, conf }),
            Err(source) => Err(TpmError::Tcti { text, source }),
        }
    }
}

impl std::fmt::Display for Tcti {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Tcti> for String {
    fn from(tcti: Tcti) -> Self {
        tcti.text
    }
}

/// What the TPM could not do.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// Not a TCTI string.
    #[error(
        "TCTI {text:?} is not one of device:PATH, swtpm:host=HOST,port=PORT, mssim:…, tabrmd:…"
    )]
    Tcti {
        /// As configured.
        text: String,
        /// The library's word.
        #[source]
        source: tss_esapi::Error,
    },
    /// Nobody answers there.
    #[error("no TPM at {tcti}; is there one, and may this process open it?")]
    Connect {
        /// As configured.
        tcti: String,
        /// Response code.
        #[source]
        source: tss_esapi::Error,
    },
    /// A command failed.
    #[error("TPM: {doing}")]
    Command {
        /// What was being done.
        doing: &'static str,
        /// Response code.
        #[source]
        source: tss_esapi::Error,
    },
    /// Blobs that this TPM did not make, or cannot load since it was cleared.
    #[error(
        "the key blobs in {folder} do not load: another TPM made them, or this one was cleared; \
         move the folder away to make new keys (a new AK: the inventory entry that names the old \
         one has to be signed again)"
    )]
    ForeignKeys {
        /// Folder of the blobs.
        folder: PathBuf,
        /// Response code.
        #[source]
        source: tss_esapi::Error,
    },
    /// A blob that cannot be read or written.
    #[error("key blob {file}")]
    Blob {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The bank is not allocated, or lacks a configured register.
    #[error("the TPM has no PCR {index} in the configured bank")]
    NoPcr {
        /// The register.
        index: u8,
    },
    /// The library's rendering of the quote is not what the TPM signed.
    #[error("the TPM's quote does not verify")]
    Quote(#[source] Box<QuoteRefused>),
    /// The same, of the transport key's certification.
    #[error("the TPM's certification of the transport key does not verify")]
    Certify(#[source] Box<CertifyRefused>),
    /// A geotag that one command cannot certify.
    #[error(
        "the geotag takes {found} bytes, and this TPM certifies {most} at once: use a shorter \
         place, or a smaller key (Ed25519, ECDSA)"
    )]
    Geotag {
        /// Bytes of the record.
        found: usize,
        /// What the TPM says.
        most: usize,
    },
    /// A command that the library lacks failed.
    #[error("TPM: {doing}")]
    Raw {
        /// What was being done.
        doing: &'static str,
        /// Why it has no answer.
        #[source]
        source: RawError,
    },
    /// What came back is not what was asked for.
    #[error("the TPM's answer: {0}")]
    Answer(&'static str),
    /// Too many requests wait.
    #[error("the TPM is {QUEUE} requests behind")]
    Busy,
    /// No answer in time.
    #[error("the TPM did not answer in {SIGN_TIMEOUT:?}")]
    Timeout,
    /// The thread is gone.
    #[error("the TPM's thread has ended")]
    Gone,
}

/// The public side of this node's keys; constant while the process runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// `TPMT_PUBLIC`.
    pub ek_public: Vec<u8>,
    /// From NV, as stored there (padding and all): the EK's certificate first, then the chain
    /// indices of on-die CAs. Empty where the TPM holds none.
    pub ek_certificates: Vec<Vec<u8>>,
    /// `TPMT_PUBLIC`.
    pub ak_public: Vec<u8>,
    /// Name algorithm, then digest.
    pub ak_name: Vec<u8>,
    /// `TPMT_PUBLIC` of the TLS key.
    pub transport_public: Vec<u8>,
    /// Affine coordinates of the TLS key, 32 bytes each, big-endian.
    pub transport_point: ([u8; 32], [u8; 32]),
    /// The keys were there already when the TPM was opened.
    pub kept: bool,
}

/// An attestation structure and the AK's signature over it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Signed {
    /// `TPMS_ATTEST`.
    pub attest: Vec<u8>,
    /// `TPMT_SIGNATURE`.
    pub signature: Vec<u8>,
}

/// An area of the TPM's memory, certified whole.
#[derive(Clone, Debug)]
pub struct CertifiedArea {
    /// `TPMS_NV_PUBLIC`.
    pub public: Vec<u8>,
    /// The AK's word on it.
    pub signed: Signed,
    /// What stands there, or why nobody will believe it.
    pub contents: Result<Vec<u8>, NvRefused>,
}

/// A quote, and what was read after it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quoted {
    /// Over the configured bank and registers.
    pub signed: Signed,
    /// `TPMS_CLOCK_INFO` of the quote.
    pub clock: Clock,
    /// `CLOCK_BOOTTIME` just before the quote, nanoseconds.
    pub boot_time_ns: u64,
    /// Register and value, ascending, read after the quote.
    pub pcrs: Vec<(u8, Vec<u8>)>,
}

/// `TPMS_CLOCK_INFO`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Clock {
    /// Milliseconds the TPM has run since it was made or cleared.
    pub clock_ms: u64,
    /// TPM resets (boots).
    pub reset_count: u32,
    /// Resumes since then.
    pub restart_count: u32,
    /// False after a loss of power, until the clock passes its last saved value.
    pub safe: bool,
}

type Job = Box<dyn FnOnce(&mut Device) + Send>;

/// The TPM, from any task: requests queue for the one thread that speaks to it.
///
/// The thread ends, and flushes what it loaded, when the last clone is dropped, which waits for it.
#[derive(Clone, Debug)]
pub struct Tpm {
    // First: the thread ends when the last of these is gone, and only then is waited for.
    jobs: mpsc::Sender<Job>,
    _thread: Arc<Worker>,
    identity: Arc<Identity>,
}

/// The TPM's thread, waited for when dropped: the libraries it runs free what they share when the
/// process ends, and must not be in use then.
#[derive(Debug)]
struct Worker(Option<JoinHandle<()>>);

impl Drop for Worker {
    fn drop(&mut self) {
        let Some(thread) = self.0.take() else { return };
        // A job may hold the last clone.
        if thread.thread().id() == std::thread::current().id() {
            return;
        }
        // A TPM that answers no more must not keep the process for ever.
        let end = Instant::now() + FAREWELL;
        while !thread.is_finished() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        if thread.is_finished() {
            drop(thread.join());
        }
    }
}

impl Tpm {
    /// Connects, makes or loads the keys and starts the thread. Blocks: some TPMs take seconds
    /// to make an RSA EK.
    pub fn open(settings: Settings) -> Result<Self, TpmError> {
        let (jobs, mut queue) = mpsc::channel::<Job>(QUEUE);
        let (ready_tx, ready) = std::sync::mpsc::sync_channel(1);
        let spawned = std::thread::Builder::new()
            .name("tpm".to_owned())
            .spawn(move || {
                let opened = Device::open(settings);
                let (mut device, answer) = match opened {
                    Ok((device, identity)) => (Some(device), Ok(identity)),
                    Err(err) => (None, Err(err)),
                };
                if ready_tx.send(answer).is_err() {
                    return;
                }
                while let (Some(device), Some(job)) = (device.as_mut(), queue.blocking_recv()) {
                    job(device);
                }
            });
        let thread = Worker(Some(spawned.map_err(|_no_thread| TpmError::Gone)?));
        let identity = ready.recv().unwrap_or(Err(TpmError::Gone))?;
        Ok(Self {
            jobs,
            _thread: Arc::new(thread),
            identity: Arc::new(identity),
        })
    }

    /// The public side of the keys.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether the keys were there already: then this node had a log, too.
    #[must_use]
    pub fn keys_were_kept(&self) -> bool {
        self.identity.kept
    }

    /// Quotes, then reads the registers. `qualifying` becomes `extraData`.
    pub async fn quote(&self, qualifying: [u8; 32]) -> Result<Quoted, TpmError> {
        self.call(move |device| device.quote(&qualifying)).await
    }

    /// `TPM2_Certify` of the transport key by the AK.
    pub async fn certify_transport(&self, qualifying: [u8; 32]) -> Result<Signed, TpmError> {
        self.call(move |device| device.certify_transport(&qualifying))
            .await
    }

    /// `TPM2_Certify` of the AK by the maker's key at a persistent handle.
    pub async fn certify_ak(&self, handle: u32, qualifying: [u8; 32]) -> Result<IakWord, TpmError> {
        self.call(move |device| device.certify_ak(handle, &qualifying))
            .await
    }

    /// A certificate as an NV index holds it.
    pub async fn nv_certificate(&self, index: u32) -> Result<Vec<u8>, TpmError> {
        self.call(move |device| device.nv_certificate(index)).await
    }

    /// `TPM2_ActivateCredential`: the secret sealed to this EK and this AK.
    ///
    /// `blob` is a `TPM2B_ID_OBJECT`, `secret` a `TPM2B_ENCRYPTED_SECRET`, sizes included.
    pub async fn activate(&self, blob: Vec<u8>, secret: Vec<u8>) -> Result<Vec<u8>, TpmError> {
        self.call(move |device| device.activate(&blob, &secret))
            .await
    }

    /// Signs a SHA-256 digest with the transport key; r and s, 32 bytes each. Blocks, for rustls
    /// asks in the middle of a handshake.
    pub fn sign_transport(&self, digest: [u8; 32]) -> Result<([u8; 32], [u8; 32]), TpmError> {
        let (tx, rx) = std::sync::mpsc::sync_channel(1);
        self.enqueue(Box::new(move |device| {
            // A caller that timed out is not interested any more.
            drop(tx.send(device.sign_transport(&digest)));
        }))?;
        match rx.recv_timeout(SIGN_TIMEOUT) {
            Ok(answer) => answer,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => Err(TpmError::Timeout),
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => Err(TpmError::Gone),
        }
    }

    /// What [`Tpm::remember`] last wrote; `None` where it never did, or something of another size.
    pub async fn remembered(&self, size: usize) -> Result<Option<Vec<u8>>, TpmError> {
        self.call(move |device| device.remembered(size)).await
    }

    /// Writes into the TPM's own memory, which outlives the disk. It wears: write what changed.
    pub async fn remember(&self, content: Vec<u8>) -> Result<(), TpmError> {
        self.call(move |device| device.remember(&content)).await
    }

    /// The 32 bytes that [`Tpm::keep_secret`] last wrote; `None` where it never did.
    pub async fn secret(&self) -> Result<Option<[u8; 32]>, TpmError> {
        self.call(Device::secret).await
    }

    /// Keeps 32 bytes in the TPM's own memory; what was kept before is gone.
    pub async fn keep_secret(&self, secret: [u8; 32]) -> Result<(), TpmError> {
        self.call(move |device| device.keep_secret(&secret)).await
    }

    /// Tells Azure's paravisor what its next report is to name.
    pub async fn ask_paravisor(&self, question: [u8; 64]) -> Result<(), TpmError> {
        self.call(move |device| device.ask_paravisor(&question))
            .await
    }

    /// What Azure's paravisor laid into this TPM, as it is now; `None`: there is none.
    pub async fn paravisor_report(&self) -> Result<Option<Vec<u8>>, TpmError> {
        self.call(Device::paravisor_report).await
    }

    /// Locks a geotag's record into the TPM; what stood there before is gone.
    pub async fn provision_geotag(&self, record: Vec<u8>) -> Result<(), TpmError> {
        self.call(move |device| device.provision_geotag(&record))
            .await
    }

    /// The geotag's area as the TPM certifies it over `qualifying`; `None` where there is none.
    pub async fn certify_geotag(
        &self,
        qualifying: [u8; 32],
    ) -> Result<Option<CertifiedArea>, TpmError> {
        self.call(move |device| device.certify_geotag(&qualifying))
            .await
    }

    async fn call<T, F>(&self, work: F) -> Result<T, TpmError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Device) -> Result<T, TpmError> + Send + 'static,
    {
        let (tx, rx) = oneshot::channel();
        self.enqueue(Box::new(move |device| {
            // A caller that went away is not interested any more.
            drop(tx.send(work(device)));
        }))?;
        rx.await.unwrap_or(Err(TpmError::Gone))
    }

    fn enqueue(&self, job: Job) -> Result<(), TpmError> {
        self.jobs.try_send(job).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => TpmError::Busy,
            mpsc::error::TrySendError::Closed(_) => TpmError::Gone,
        })
    }
}
