//! The PCR that the fence's log is extended into, reached without a TPM library.
//!
//! Two commands, a connection for each. Whoever waits for the TPM waits in a thread of its own, so
//! that a chip that does not answer holds up nothing but the log.

use std::{
    fmt, io,
    sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel},
    thread,
    time::Duration,
};

use bailiwick_attestation::{
    crypto::{Digest, HashAlgorithm},
    tpm::{ResponseRefused, pcr_event, pcr_event_response, pcr_read, pcr_read_response},
};

use crate::tpm::raw::{Address, RawError, Talk};

/// Why a register was not extended or read.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The TPM was not reached, or answered with a refusal.
    #[error(transparent)]
    Tpm(#[from] RawError),
    /// No thread to wait in.
    #[error("start a thread that waits for the TPM")]
    Thread(#[source] io::Error),
    /// An event longer than a TPM takes.
    #[error("an event of {0} bytes is longer than a TPM takes")]
    TooLong(usize),
    /// No answer in time. It may still come: whether the register was extended is unknown.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// The answer to an earlier command has not come yet.
    #[error("the TPM still owes an answer")]
    Busy,
}

/// One PCR.
pub trait Register: Send + fmt::Debug {
    /// Extends every bank with the digest of `event`; waits for `patience` at most. After an
    /// error it may or may not have been extended.
    fn extend(&mut self, event: &[u8], patience: Duration) -> Result<(), RegisterError>;

    /// The value in the bank that is quoted.
    fn value(&mut self, patience: Duration) -> Result<Digest, RegisterError>;

    /// Bank of [`Register::value`].
    fn bank(&self) -> HashAlgorithm;

    /// Its number.
    fn index(&self) -> u8;
}

/// A PCR of the node's TPM.
#[derive(Debug)]
pub struct TpmRegister {
    address: Result<Address, String>,
    bank: HashAlgorithm,
    index: u8,
    /// A thread whose answer came too late so far.
    late: Option<Receiver<()>>,
}

impl TpmRegister {
    /// The register `index` of the TPM at `tcti`, whose `bank` is quoted. Nothing is opened yet.
    #[must_use]
    pub fn new(tcti: &str, bank: HashAlgorithm, index: u8) -> Self {
        Self {
            address: Address::parse(tcti).ok_or_else(|| tcti.to_owned()),
            bank,
            index,
            late: None,
        }
    }

    /// Asks in a thread, and waits for it as long as patience lasts.
    fn ask<T: Send + 'static>(
        &mut self,
        patience: Duration,
        command: Vec<u8>,
        read: impl Fn(&[u8]) -> Result<T, ResponseRefused> + Send + 'static,
    ) -> Result<T, RegisterError> {
        let address = match &self.address {
            Ok(address) => address.clone(),
            Err(tcti) => return Err(RawError::Address(tcti.clone()).into()),
        };
        if let Some(late) = &self.late
            && late.try_recv() == Err(TryRecvError::Empty)
        {
            return Err(RegisterError::Busy);
        }
        let (done, answers) = channel();
        let (ended, end) = channel::<()>();
        thread::Builder::new()
            .name("tpm".to_owned())
            .spawn(move || {
                // Nobody may wait any more.
                let answer = Talk::begin(&address).and_then(|mut talk| talk.ask(&command, read));
                drop(done.send(answer));
                drop(ended);
            })
            .map_err(RegisterError::Thread)?;
        match answers.recv_timeout(patience) {
            Ok(answer) => {
                self.late = None;
                Ok(answer?)
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                self.late = Some(end);
                Err(RegisterError::Late(patience))
            }
        }
    }
}

impl Register for TpmRegister {
    fn extend(&mut self, event: &[u8], patience: Duration) -> Result<(), RegisterError> {
        let command = pcr_event(self.index, event).ok_or(RegisterError::TooLong(event.len()))?;
        self.ask(patience, command, pcr_event_response)
    }

    fn value(&mut self, patience: Duration) -> Result<Digest, RegisterError> {
        let (bank, index) = (self.bank, self.index);
        let command = pcr_read(bank, index);
        self.ask(patience, command, move |response| {
            pcr_read_response(response, bank, index)
        })
    }

    fn bank(&self) -> HashAlgorithm {
        self.bank
    }

    fn index(&self) -> u8 {
        self.index
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, path::PathBuf, time::Instant};

    use bailiwick_attestation::fence_log;

    use super::*;
    use crate::tpm::{raw::SILENCE, testing::SoftTpm};

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn addresses_are_those_of_the_configuration() {
        let socket = |host: &str, port| Some(Address::Socket(host.to_owned(), port));
        let device = |path: &str| Some(Address::Device(PathBuf::from(path)));
        let cases = [
            ("device", device("/dev/tpmrm0")),
            ("device:", device("/dev/tpmrm0")),
            ("device:/dev/tpm0", device("/dev/tpm0")),
            ("swtpm", socket("localhost", 2321)),
            ("swtpm:host=127.0.0.1,port=7", socket("127.0.0.1", 7)),
            ("swtpm:port=70000", None),
            ("swtpm:path=/run/x", None),
            ("mssim:host=127.0.0.1,port=7", None),
            ("tabrmd", None),
            ("", None),
        ];
        for (tcti, want) in cases {
            assert_eq!(Address::parse(tcti), want, "{tcti}");
        }
        let mut none = TpmRegister::new("tabrmd", HashAlgorithm::Sha256, 13);
        let refused = none.extend(b"x", PATIENCE).unwrap_err();
        assert!(matches!(refused, RegisterError::Tpm(RawError::Address(tcti)) if tcti == "tabrmd"));
    }

    #[test]
    fn a_tpm_extends_what_the_log_computes() {
        let soft = SoftTpm::blank();
        let tcti = soft.settings().tcti.to_string();
        for bank in [HashAlgorithm::Sha256, HashAlgorithm::Sha384] {
            let mut register = TpmRegister::new(&tcti, bank, 13);
            let before = register.value(PATIENCE).unwrap();
            register.extend(b"an event", PATIENCE).unwrap();
            let after = register.value(PATIENCE).unwrap();
            let want = fence_log::extend(bank, &before, b"an event").unwrap();
            assert_eq!(after, want, "{bank}");
        }
        let mut other = TpmRegister::new(&tcti, HashAlgorithm::Sha256, 12);
        let zero = fence_log::zero(HashAlgorithm::Sha256).unwrap();
        assert_eq!(other.value(PATIENCE).unwrap(), zero);
        let mut none = TpmRegister::new(&tcti, HashAlgorithm::Sha3_256, 13);
        assert!(matches!(
            none.value(PATIENCE),
            Err(RegisterError::Tpm(RawError::Response(_)))
        ));
    }

    #[test]
    fn a_tpm_that_does_not_answer_is_not_waited_for() {
        let silent = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = silent.local_addr().unwrap().port();
        let tcti = format!("swtpm:host=127.0.0.1,port={port}");
        let mut register = TpmRegister::new(&tcti, HashAlgorithm::Sha256, 13);
        let began = Instant::now();
        let patience = Duration::from_millis(50);
        let late = register.extend(b"x", patience).unwrap_err();
        assert!(matches!(late, RegisterError::Late(_)), "{late}");
        let busy = register.value(patience).unwrap_err();
        assert!(matches!(busy, RegisterError::Busy), "{busy}");
        assert!(began.elapsed() < SILENCE / 2);
        // The connection breaks, and the register can be asked again.
        drop(silent.accept().unwrap());
        drop(silent);
        let broken = loop {
            match register.value(PATIENCE) {
                Err(RegisterError::Busy) => thread::sleep(Duration::from_millis(5)),
                other => break other.unwrap_err(),
            }
        };
        assert!(
            matches!(broken, RegisterError::Tpm(RawError::Connection { .. })),
            "{broken}"
        );
    }
}
