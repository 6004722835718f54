//! `TPMS_ATTEST`: everything a TPM signs about itself has this shape and differs in `type`.

use arrayvec::ArrayVec;

use crate::crypto::Digest;
use crate::error::{Fault, ParseError};
use crate::ids::Sha256Digest;
use crate::reader::Reader;

use super::pcr::PcrSelection;
use super::public::{MAX_DIGEST_BYTES, MAX_NAME_BYTES, hash, sized};

/// `0xff` and "TCG": only the TPM itself puts it in front of what a restricted key signs.
const TPM_GENERATED_VALUE: u32 = 0xff54_4347;
/// `TPM2B_DATA`: a digest with its algorithm.
const MAX_DATA_BYTES: u16 = 66;
/// `TPM2B_MAX_NV_BUFFER` of the implementations known.
const MAX_NV_BYTES: u16 = 2048;

/// What the TPM signs as `extraData`: 0 to 64 bytes. Ours is a hash over nonce and statement.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct QualifyingData(ArrayVec<u8, 64>);

impl QualifyingData {
    /// The bytes as qualifying data, or `None` where there are more than 64.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        ArrayVec::try_from(bytes).ok().map(Self)
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

impl From<Sha256Digest> for QualifyingData {
    fn from(digest: Sha256Digest) -> Self {
        Self(digest.0.into_iter().collect())
    }
}

/// `TPMS_CLOCK_INFO`: the TPM's own sense of time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClockInfo {
    /// Milliseconds the TPM has been powered, over all its life since it was last cleared.
    pub clock: u64,
    /// Counts TPM Resets (reboots) since the last clear.
    pub reset_count: u32,
    /// Counts TPM Restarts and Resumes since the last reset.
    pub restart_count: u32,
    /// No value of `clock` this high was ever reported before a power loss.
    pub safe: bool,
}

/// What `type` says was attested.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AttestKind {
    /// `TPM_ST_ATTEST_NV`
    Nv,
    /// `TPM_ST_ATTEST_COMMAND_AUDIT`
    CommandAudit,
    /// `TPM_ST_ATTEST_SESSION_AUDIT`
    SessionAudit,
    /// `TPM_ST_ATTEST_CERTIFY`
    Certify,
    /// `TPM_ST_ATTEST_QUOTE`
    Quote,
    /// `TPM_ST_ATTEST_TIME`
    Time,
    /// `TPM_ST_ATTEST_CREATION`
    Creation,
    /// `TPM_ST_ATTEST_NV_DIGEST`
    NvDigest,
}

impl AttestKind {
    const ALL: [Self; 8] = [
        Self::Nv,
        Self::CommandAudit,
        Self::SessionAudit,
        Self::Certify,
        Self::Quote,
        Self::Time,
        Self::Creation,
        Self::NvDigest,
    ];

    /// `TPMI_ST_ATTEST`.
    #[must_use]
    pub const fn tpm_id(self) -> u16 {
        match self {
            Self::Nv => 0x8014,
            Self::CommandAudit => 0x8015,
            Self::SessionAudit => 0x8016,
            Self::Certify => 0x8017,
            Self::Quote => 0x8018,
            Self::Time => 0x8019,
            Self::Creation => 0x801a,
            Self::NvDigest => 0x801c,
        }
    }

    /// `quote`, `certify`, `time`, `command-audit`, …
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nv => "nv",
            Self::CommandAudit => "command-audit",
            Self::SessionAudit => "session-audit",
            Self::Certify => "certify",
            Self::Quote => "quote",
            Self::Time => "time",
            Self::Creation => "creation",
            Self::NvDigest => "nv-digest",
        }
    }
}

/// The part that depends on the type.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Attested<'a> {
    /// `TPMS_QUOTE_INFO`
    Quote {
        /// Which PCRs, in the order their values were hashed.
        selection: PcrSelection,
        /// Hash over their values.
        digest: Digest,
    },
    /// `TPMS_CERTIFY_INFO`
    Certify {
        /// Name of the certified object.
        name: &'a [u8],
        /// Its name within its hierarchy.
        qualified_name: &'a [u8],
    },
    /// `TPMS_NV_CERTIFY_INFO`
    Nv {
        /// Name of the index.
        name: &'a [u8],
        /// Where in its data area `contents` begins.
        offset: u16,
        /// What stands there.
        contents: &'a [u8],
    },
    /// Read to its end; nothing here is made of it.
    Other,
}

/// A well-formed `TPMS_ATTEST`. Nothing in it is trusted yet.
///
/// Layout: TPM 2.0 Library r1.59, Part 2, `TPMS_ATTEST`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attest<'a> {
    /// The bytes a signature covers.
    pub signed: &'a [u8],
    /// What was attested.
    pub kind: AttestKind,
    /// Qualified name of the signing key; as good as random without the whole hierarchy.
    pub qualified_signer: &'a [u8],
    /// What the caller asked to have signed with it.
    pub extra_data: &'a [u8],
    /// The TPM's clock. Its counters are obfuscated for keys outside the endorsement and
    /// platform hierarchies, differently for each key and constantly for one.
    pub clock_info: ClockInfo,
    /// The vendor's number, obfuscated like the counters.
    pub firmware_version: u64,
    /// What depends on the type.
    pub attested: Attested<'a>,
}

impl<'a> Attest<'a> {
    /// Reads one marshalled `TPMS_ATTEST` to its last byte.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new("TPMS_ATTEST", bytes);
        r.expect_u32("magic", TPM_GENERATED_VALUE)?;
        let type_at = r.offset();
        let id = r.u16("type")?;
        let Some(kind) = AttestKind::ALL.into_iter().find(|kind| kind.tpm_id() == id) else {
            return Err(r.fault_at("type", type_at, Fault::Unsupported { found: id.into() }));
        };
        let qualified_signer = r.sized_u16(
            "qualifiedSigner.size",
            "qualifiedSigner.name",
            MAX_NAME_BYTES,
        )?;
        let extra_data = r.sized_u16("extraData.size", "extraData.buffer", MAX_DATA_BYTES)?;
        let clock_info = clock_info(&mut r)?;
        let firmware_version = r.u64("firmwareVersion")?;
        let attested = attested(&mut r, kind)?;
        r.finish()?;
        Ok(Self {
            signed: bytes,
            kind,
            qualified_signer,
            extra_data,
            clock_info,
            firmware_version,
            attested,
        })
    }

    /// Reads a `TPMS_ATTEST` with or without the length of a `TPM2B_ATTEST` in front.
    ///
    /// The two cannot be confused: the magic read as a length is longer than any attestation.
    pub fn parse_either(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let magic = TPM_GENERATED_VALUE.to_be_bytes();
        let inner = bytes.get(2..6);
        let whole = bytes
            .split_first_chunk::<2>()
            .is_some_and(|(head, rest)| usize::from(u16::from_be_bytes(*head)) == rest.len());
        if !bytes.starts_with(&magic) && (whole || inner == Some(&magic)) {
            return Self::parse(sized(bytes, "TPM2B_ATTEST")?);
        }
        Self::parse(bytes)
    }
}

fn clock_info(r: &mut Reader<'_>) -> Result<ClockInfo, ParseError> {
    let clock = r.u64("clockInfo.clock")?;
    let reset_count = r.u32("clockInfo.resetCount")?;
    let restart_count = r.u32("clockInfo.restartCount")?;
    let safe = yes_no(r, "clockInfo.safe")?;
    Ok(ClockInfo {
        clock,
        reset_count,
        restart_count,
        safe,
    })
}

/// `TPMI_YES_NO`.
fn yes_no(r: &mut Reader<'_>, field: &'static str) -> Result<bool, ParseError> {
    let offset = r.offset();
    match r.u8(field)? {
        0 => Ok(false),
        1 => Ok(true),
        found => {
            let fault = Fault::Unsupported {
                found: found.into(),
            };
            Err(r.fault_at(field, offset, fault))
        }
    }
}

fn attested<'a>(r: &mut Reader<'a>, kind: AttestKind) -> Result<Attested<'a>, ParseError> {
    let digest = |r: &mut Reader<'a>, size, buffer| r.sized_u16(size, buffer, MAX_DIGEST_BYTES);
    let name = |r: &mut Reader<'a>, size, buffer| r.sized_u16(size, buffer, MAX_NAME_BYTES);
    match kind {
        AttestKind::Quote => {
            let selection = PcrSelection::read(r, "attested.quote.pcrSelect")?;
            let at = r.offset();
            let bytes = digest(
                r,
                "attested.quote.pcrDigest.size",
                "attested.quote.pcrDigest",
            )?;
            let Some(digest) = Digest::from_slice(bytes) else {
                return Err(r.fault_at("pcrDigest", at, Fault::Rule("is longer than any digest")));
            };
            return Ok(Attested::Quote { selection, digest });
        }
        AttestKind::Certify => {
            return Ok(Attested::Certify {
                name: name(r, "attested.certify.name.size", "attested.certify.name")?,
                qualified_name: name(
                    r,
                    "attested.certify.qualifiedName.size",
                    "attested.certify.qualifiedName",
                )?,
            });
        }
        AttestKind::Time => {
            r.u64("attested.time.time")?;
            clock_info(r)?;
            r.u64("attested.time.firmwareVersion")?;
        }
        AttestKind::Creation => {
            name(
                r,
                "attested.creation.objectName.size",
                "attested.creation.objectName",
            )?;
            digest(
                r,
                "attested.creation.creationHash.size",
                "attested.creation.creationHash",
            )?;
        }
        AttestKind::CommandAudit => {
            r.u64("attested.commandAudit.auditCounter")?;
            hash(r, "attested.commandAudit.digestAlg")?;
            digest(
                r,
                "attested.commandAudit.auditDigest.size",
                "attested.commandAudit.auditDigest",
            )?;
            digest(
                r,
                "attested.commandAudit.commandDigest.size",
                "attested.commandAudit.commandDigest",
            )?;
        }
        AttestKind::SessionAudit => {
            yes_no(r, "attested.sessionAudit.exclusiveSession")?;
            digest(
                r,
                "attested.sessionAudit.sessionDigest.size",
                "attested.sessionAudit.sessionDigest",
            )?;
        }
        AttestKind::Nv => {
            return Ok(Attested::Nv {
                name: name(r, "attested.nv.indexName.size", "attested.nv.indexName")?,
                offset: r.u16("attested.nv.offset")?,
                contents: r.sized_u16(
                    "attested.nv.nvContents.size",
                    "attested.nv.nvContents",
                    MAX_NV_BYTES,
                )?,
            });
        }
        AttestKind::NvDigest => {
            name(
                r,
                "attested.nvDigest.indexName.size",
                "attested.nvDigest.indexName",
            )?;
            digest(
                r,
                "attested.nvDigest.nvDigest.size",
                "attested.nvDigest.nvDigest",
            )?;
        }
    }
    Ok(Attested::Other)
}
