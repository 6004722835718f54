//! Reading the log: records, their banks, and where it ends.

use arrayvec::ArrayVec;

use super::event::{Event, EventType};
use crate::crypto::HashAlgorithm;
use crate::error::{Fault, ParseError};
use crate::reader::Reader;

/// Banks a header can declare: `HASH_COUNT` of the reference TPM.
const MAX_BANKS: u32 = 16;
/// Longest digest of a bank, bytes.
const MAX_DIGEST: u16 = 64;
/// `TCG_EfiSpecIDEvent.signature` of the crypto-agile format.
const AGILE: &[u8; 16] = b"Spec ID Event03\0";
/// One more than the highest PCR there is: PFP 1.06, §3.3.4.
const REGISTERS: u32 = 24;
/// One more than the highest register of a CCEL: MRTD and four RTMRs.
const CC_REGISTERS: u32 = 5;
/// An `EV_NO_ACTION` of some firmware belongs to no register.
const NO_REGISTER: u32 = u32::MAX;

/// Shape of the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// `TCG_PCR_EVENT2` with a digest per bank.
    CryptoAgile,
    /// `TCG_PCR_EVENT`: one SHA-1 digest, on TPM 2.0 too.
    Sha1,
    /// Crypto-agile, SHA-384, over the registers of a TDX guest: 1 to 4 are RTMR 0 to 3.
    Ccel,
}

impl Format {
    /// The name `bailiwick inspect` prints.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CryptoAgile => "crypto-agile",
            Self::Sha1 => "sha1",
            Self::Ccel => "ccel",
        }
    }

    /// Register that holds the Secure Boot policy: PFP 1.06, §3.3.4.8; UEFI 2.10, §38.4.1.
    #[must_use]
    pub const fn secure_boot_register(self) -> u32 {
        match self {
            Self::CryptoAgile | Self::Sha1 => 7,
            Self::Ccel => 1,
        }
    }
}

/// A bank as the header declares it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bank {
    /// `TPM_ALG_ID`.
    pub id: u16,
    /// Bytes of a digest, 1 to 64.
    pub len: u16,
}

impl Bank {
    /// The algorithm, where it is one we know.
    #[must_use]
    pub fn hash(self) -> Option<HashAlgorithm> {
        HashAlgorithm::from_tpm_id(self.id)
    }

    /// `sha256`, or the number of one we do not know.
    #[must_use]
    pub fn name(self) -> String {
        self.hash().map_or_else(
            || format!("{:#06x}", self.id),
            |hash| hash.name().to_owned(),
        )
    }
}

/// Why bytes are not an event log.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EventLogError {
    /// Nothing at all.
    #[error("the log is empty")]
    Empty,
    /// A record that is none.
    #[error("malformed event log")]
    Malformed(#[from] ParseError),
}

impl EventLogError {
    /// Stable word.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Empty => "empty-log",
            Self::Malformed(_) => "malformed",
        }
    }
}

/// A log read whole. Nothing in it is believed yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct EventLog<'a> {
    format: Format,
    banks: ArrayVec<Bank, 16>,
    events: Vec<Event<'a>>,
}

impl<'a> EventLog<'a> {
    /// Reads every record. A log may be padded with 0x00 or 0xff to the size of its table; any
    /// other byte after the last record is refused.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EventLogError> {
        if bytes.is_empty() {
            return Err(EventLogError::Empty);
        }
        let mut r = Reader::new("TCG_PCR_EVENT", bytes);
        let first = old_event(&mut r)?;
        let mut log = Self {
            format: Format::Sha1,
            banks: ArrayVec::new(),
            events: vec![first],
        };
        if first.kind == EventType::NO_ACTION && first.data.starts_with(AGILE) {
            log.format = Format::CryptoAgile;
            log.banks = spec_id(first.data)?;
        } else {
            let (id, len) = (HashAlgorithm::Sha1.tpm_id(), 20);
            log.banks.push(Bank { id, len });
        }
        let padding = padding(bytes);
        let record = match log.format {
            Format::Sha1 => "TCG_PCR_EVENT",
            _ => "TCG_PCR_EVENT2",
        };
        let mut r = Reader::starting(record, bytes, r.offset());
        while r.offset() < padding {
            let event = match log.format {
                Format::Sha1 => old_event(&mut r)?,
                _ => agile_event(&mut r, &log.banks)?,
            };
            log.events.push(event);
        }
        if log.looks_like_ccel() {
            log.format = Format::Ccel;
        }
        log.check_registers()?;
        Ok(log)
    }

    /// Shape of the log.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// Banks in the order of the header.
    #[must_use]
    pub fn banks(&self) -> &[Bank] {
        &self.banks
    }

    /// Every record, the header included.
    #[must_use]
    pub fn events(&self) -> &[Event<'a>] {
        &self.events
    }

    /// The digest of an event in a bank; `None` where it carries none.
    #[must_use]
    pub fn digest(&self, event: &Event<'a>, bank: HashAlgorithm) -> Option<&'a [u8]> {
        if event.offset == 0 || self.format == Format::Sha1 {
            return (bank == HashAlgorithm::Sha1).then_some(event.digests);
        }
        let mut rest = event.digests;
        while let Some((id, tail)) = rest.split_first_chunk::<2>() {
            let id = u16::from_le_bytes(*id);
            let len = self.banks.iter().find(|bank| bank.id == id)?.len;
            let (digest, tail) = tail.split_at_checked(len.into())?;
            if id == bank.tpm_id() {
                return Some(digest);
            }
            rest = tail;
        }
        None
    }

    /// A CCEL has SHA-384 alone and four registers. A TPM may have SHA-384 alone too, but its log
    /// begins with firmware in PCR 0, which no event of a CCEL can name.
    fn looks_like_ccel(&self) -> bool {
        let sha384 = HashAlgorithm::Sha384.tpm_id();
        let only = matches!(self.banks.as_slice(), [bank] if bank.id == sha384);
        let mut extending = self
            .events
            .iter()
            .filter(|event| event.extends())
            .peekable();
        let header = self.events.first().map_or(0, |event| event.register);
        only && (header == 1 || extending.peek().is_some())
            && extending.all(|event| (1..CC_REGISTERS).contains(&event.register))
    }

    fn check_registers(&self) -> Result<(), ParseError> {
        let end = match self.format {
            Format::Ccel => CC_REGISTERS,
            _ => REGISTERS,
        };
        for event in &self.events {
            let none = event.register == NO_REGISTER && !event.extends();
            if event.register >= end && !none {
                return Err(ParseError {
                    structure: "TCG_PCR_EVENT2",
                    field: "pcrIndex",
                    offset: event.offset,
                    fault: Fault::Unsupported {
                        found: event.register.into(),
                    },
                });
            }
        }
        Ok(())
    }
}

/// `TCG_PCR_EVENT`.
fn old_event<'a>(r: &mut Reader<'a>) -> Result<Event<'a>, ParseError> {
    let offset = r.offset();
    let register = r.u32_le("pcrIndex")?;
    let kind = EventType(r.u32_le("eventType")?);
    let digests = r.take("digest", 20)?;
    let data = data(r)?;
    Ok(Event {
        register,
        kind,
        digests,
        data,
        offset,
    })
}

/// `TCG_PCR_EVENT2`.
fn agile_event<'a>(r: &mut Reader<'a>, banks: &[Bank]) -> Result<Event<'a>, ParseError> {
    let offset = r.offset();
    let register = r.u32_le("pcrIndex")?;
    let kind = EventType(r.u32_le("eventType")?);
    let at = r.offset();
    let count = r.u32_le("digests.count")?;
    let limit = banks.len();
    if usize::try_from(count).map_or(true, |count| count > limit) {
        let fault = Fault::TooMany {
            found: count.into(),
            limit: u64::try_from(limit).unwrap_or(u64::MAX),
        };
        return Err(r.fault_at("digests.count", at, fault));
    }
    let (start, before) = (r.offset(), r.rest());
    let mut seen: ArrayVec<u16, 16> = ArrayVec::new();
    for _ in 0..count {
        let at = r.offset();
        let id = r.u16_le("digests.hashAlg")?;
        let Some(bank) = banks.iter().find(|bank| bank.id == id) else {
            let fault = Fault::Unsupported { found: id.into() };
            return Err(r.fault_at("digests.hashAlg", at, fault));
        };
        if seen.contains(&id) {
            let fault = Fault::Rule("two digests of one bank");
            return Err(r.fault_at("digests.hashAlg", at, fault));
        }
        seen.push(id);
        r.take("digests.digest", bank.len.into())?;
    }
    let digests = before.get(..r.offset() - start).unwrap_or_default();
    let data = data(r)?;
    Ok(Event {
        register,
        kind,
        digests,
        data,
        offset,
    })
}

fn data<'a>(r: &mut Reader<'a>) -> Result<&'a [u8], ParseError> {
    let at = r.offset();
    let len = r.u32_le("eventSize")?;
    match usize::try_from(len) {
        Ok(len) => r.take("event", len),
        Err(_) => Err(r.fault_at("eventSize", at, Fault::Unsupported { found: len.into() })),
    }
}

/// `TCG_EfiSpecIDEvent`, to its last byte.
fn spec_id(data: &[u8]) -> Result<ArrayVec<Bank, 16>, ParseError> {
    let mut r = Reader::new("TCG_EfiSpecIDEvent", data);
    r.take("signature", AGILE.len())?;
    r.u32_le("platformClass")?;
    r.take("specVersion", 3)?;
    r.u8("uintnSize")?;
    let at = r.offset();
    let count = r.u32_le("numberOfAlgorithms")?;
    if count == 0 {
        return Err(r.fault_at("numberOfAlgorithms", at, Fault::Rule("no bank at all")));
    }
    if count > MAX_BANKS {
        let fault = Fault::TooMany {
            found: count.into(),
            limit: MAX_BANKS.into(),
        };
        return Err(r.fault_at("numberOfAlgorithms", at, fault));
    }
    let mut banks: ArrayVec<Bank, 16> = ArrayVec::new();
    for _ in 0..count {
        let at = r.offset();
        let bank = Bank {
            id: r.u16_le("digestSizes.algorithmId")?,
            len: r.u16_le("digestSizes.digestSize")?,
        };
        if banks.iter().any(|other| other.id == bank.id) {
            let fault = Fault::Rule("a bank declared twice");
            return Err(r.fault_at("digestSizes.algorithmId", at, fault));
        }
        let fits = match bank.hash() {
            Some(hash) => usize::from(bank.len) == hash.digest_len(),
            None => (1..=MAX_DIGEST).contains(&bank.len),
        };
        if !fits {
            let fault = Fault::Unsupported {
                found: bank.len.into(),
            };
            return Err(r.fault_at("digestSizes.digestSize", at + 2, fault));
        }
        banks.push(bank);
    }
    let vendor = r.u8("vendorInfoSize")?;
    r.take("vendorInfo", vendor.into())?;
    r.finish()?;
    Ok(banks)
}

/// Where the bytes that only fill the table begin: the tail of equal 0x00 or 0xff bytes.
fn padding(bytes: &[u8]) -> usize {
    let filler = match bytes.last() {
        Some(byte @ (0x00 | 0xff)) => *byte,
        _ => return bytes.len(),
    };
    let tail = bytes.iter().rev().take_while(|byte| **byte == filler);
    bytes.len() - tail.count()
}
