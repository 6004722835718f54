//! The TPM, reached without its library: commands as they are.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    path::PathBuf,
    thread,
    time::Duration,
};

use bailiwick_attestation::tpm::{MAX_RESPONSE, ResponseRefused};

/// How often a TPM that says "again" is asked again, and after how long.
const ATTEMPTS: u32 = 50;
const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// A socket that is silent for so long is given up.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RawError {
    /// Not an address that is reached without a library.
    #[error("TCTI {0:?} is neither device:PATH nor swtpm:host=HOST,port=PORT")]
    Address(String),
    /// Nobody answers there, or the connection broke.
    #[error("{address}")]
    Connection {
        /// The TPM's.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What the TPM answers.
    #[error("TPM")]
    Response(#[source] ResponseRefused),
}

/// Where a TPM takes commands as they are.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Address {
    Device(PathBuf),
    Socket(String, u16),
}

impl Address {
    /// A TCTI string as tpm2-tss spells it.
    pub(crate) fn parse(tcti: &str) -> Option<Self> {
        let (kind, rest) = tcti.split_once(':').unwrap_or((tcti, ""));
        match (kind, rest) {
            ("device", "") => Some(Self::Device(PathBuf::from("/dev/tpmrm0"))),
            ("device", path) => Some(Self::Device(PathBuf::from(path))),
            ("swtpm", rest) => {
                let (mut host, mut port) = ("localhost", 2321);
                for part in rest.split(',').filter(|part| !part.is_empty()) {
                    match part.split_once('=')? {
                        ("host", value) => host = value,
                        ("port", value) => port = value.parse().ok()?,
                        _ => return None,
                    }
                }
                Some(Self::Socket(host.to_owned(), port))
            }
            _ => None,
        }
    }

    /// Opens the device: what one command loads, the next one finds.
    fn open(&self) -> io::Result<Line<'_>> {
        match self {
            Self::Device(path) => {
                let device = OpenOptions::new().read(true).write(true).open(path)?;
                Ok(Line::Device(device))
            }
            Self::Socket(host, port) => Ok(Line::Socket(host, *port)),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(path) => path.display().fmt(f),
            Self::Socket(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// One connection. Behind a resource manager what is loaded belongs to it, and goes with it.
#[derive(Debug)]
enum Line<'a> {
    Device(File),
    /// One for each command: a software TPM serves one at a time, and others wait for theirs.
    Socket(&'a str, u16),
}

impl Line<'_> {
    fn ask(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Device(device) => {
                // One write is one command, one read one response.
                device.write_all(command)?;
                let mut response = vec![0; MAX_RESPONSE];
                let length = device.read(&mut response)?;
                response.truncate(length);
                Ok(response)
            }
            Self::Socket(host, port) => {
                let at = (*host, *port).to_socket_addrs()?.next();
                let at = at.ok_or(io::ErrorKind::AddrNotAvailable)?;
                let mut stream = TcpStream::connect_timeout(&at, SILENCE)?;
                stream.set_read_timeout(Some(SILENCE))?;
                stream.set_write_timeout(Some(SILENCE))?;
                stream.set_nodelay(true)?;
                stream.write_all(command)?;
                let mut head = [0; 6];
                stream.read_exact(&mut head)?;
                let [_, _, a, b, c, d] = head;
                let length = u32::from_be_bytes([a, b, c, d]);
                let left = usize::try_from(length)
                    .ok()
                    .filter(|length| *length <= MAX_RESPONSE)
                    .and_then(|length| length.checked_sub(head.len()))
                    .ok_or(io::ErrorKind::InvalidData)?;
                let mut response = head.to_vec();
                response.resize(head.len().saturating_add(left), 0);
                stream.read_exact(response.split_at_mut(head.len()).1)?;
                Ok(response)
            }
        }
    }
}

/// Several commands to one TPM, over one connection.
#[derive(Debug)]
pub(crate) struct Talk<'a> {
    address: &'a Address,
    line: Line<'a>,
}

impl<'a> Talk<'a> {
    pub(crate) fn begin(address: &'a Address) -> Result<Self, RawError> {
        match address.open() {
            Ok(line) => Ok(Self { address, line }),
            Err(source) => Err(Self::broken(address, source)),
        }
    }

    fn broken(address: &Address, source: io::Error) -> RawError {
        RawError::Connection {
            address: address.to_string(),
            source,
        }
    }

    /// Asks until the TPM has time.
    pub(crate) fn ask<T>(
        &mut self,
        command: &[u8],
        read: impl Fn(&[u8]) -> Result<T, ResponseRefused>,
    ) -> Result<T, RawError> {
        let mut attempts = ATTEMPTS;
        loop {
            let response = self.line.ask(command);
            let response = response.map_err(|source| Self::broken(self.address, source))?;
            attempts = attempts.saturating_sub(1);
            match read(&response) {
                Ok(answer) => return Ok(answer),
                Err(refused) if refused.try_again() && attempts > 0 => thread::sleep(AGAIN_AFTER),
                Err(refused) => return Err(RawError::Response(refused)),
            }
        }
    }
}
