//! What Intel publishes of processors, read. Nothing in it is trusted yet.

use std::fmt;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

use crate::error::{Fault, ParseError};
use crate::ids::UnixTime;
use crate::x509::{Bundle, Certificate, RevocationList};

/// Largest collateral that is read. Real sets have 16 KB; revocation lists grow.
pub const MAX_COLLATERAL_BYTES: usize = 4 * 1024 * 1024;

const STRUCTURE: &str = "Collateral";

/// Names of the parts, as the collateral spells them.
pub(super) const PCK_CRL: &str = "pck_crl";
pub(super) const ROOT_CA_CRL: &str = "root_ca_crl";
pub(super) const TCB_INFO: &str = "tcb_info";
pub(super) const QE_IDENTITY: &str = "qe_identity";

/// One set of collateral, as the Provisioning Certification Service hands out its parts.
#[derive(Clone, Debug)]
pub struct Collateral {
    pub(super) pck_crl_issuer_chain: Vec<Certificate>,
    pub(super) root_ca_crl: RevocationList,
    pub(super) pck_crl: RevocationList,
    pub(super) tcb_info: SignedText,
    pub(super) qe_identity: SignedText,
    /// The processor's certificate, for quotes that do not hold it.
    pub pck_certificate_chain: Option<Vec<Certificate>>,
}

/// A text as it was signed, with who signed it.
#[derive(Clone, Debug)]
pub(super) struct SignedText {
    /// The name of the part.
    pub(super) what: &'static str,
    pub(super) text: String,
    /// r and s, big-endian.
    pub(super) signature: [u8; 64],
    pub(super) chain: Vec<Certificate>,
}

#[derive(Deserialize)]
struct Raw {
    pck_crl_issuer_chain: String,
    root_ca_crl: String,
    pck_crl: String,
    tcb_info_issuer_chain: String,
    tcb_info: String,
    tcb_info_signature: String,
    qe_identity_issuer_chain: String,
    qe_identity: String,
    qe_identity_signature: String,
    #[serde(default)]
    pck_certificate_chain: Option<String>,
}

impl Collateral {
    /// Reads one JSON object: chains as PEM, lists as hexadecimal DER, texts as they were signed.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        if bytes.len() > MAX_COLLATERAL_BYTES {
            let as_u64 = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
            let fault = Fault::TooMany {
                found: as_u64(bytes.len()),
                limit: as_u64(MAX_COLLATERAL_BYTES),
            };
            return Err(wrong("object", fault));
        }
        let raw: Raw = match serde_json::from_slice(bytes) {
            Ok(raw) => raw,
            Err(error) => return Err(wrong("object", Fault::Json(error.to_string()))),
        };
        Ok(Self {
            pck_crl_issuer_chain: chain(&raw.pck_crl_issuer_chain)?,
            root_ca_crl: list(ROOT_CA_CRL, &raw.root_ca_crl)?,
            pck_crl: list(PCK_CRL, &raw.pck_crl)?,
            tcb_info: SignedText {
                what: TCB_INFO,
                text: raw.tcb_info,
                signature: signature("tcb_info_signature", &raw.tcb_info_signature)?,
                chain: chain(&raw.tcb_info_issuer_chain)?,
            },
            qe_identity: SignedText {
                what: QE_IDENTITY,
                text: raw.qe_identity,
                signature: signature("qe_identity_signature", &raw.qe_identity_signature)?,
                chain: chain(&raw.qe_identity_issuer_chain)?,
            },
            pck_certificate_chain: raw
                .pck_certificate_chain
                .as_deref()
                .map(chain)
                .transpose()?,
        })
    }
}

fn wrong(field: &'static str, fault: Fault) -> ParseError {
    ParseError {
        structure: STRUCTURE,
        field,
        offset: 0,
        fault,
    }
}

fn chain(pem: &str) -> Result<Vec<Certificate>, ParseError> {
    let bundle = Bundle::parse(pem.as_bytes())?;
    match bundle.unreadable.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(bundle.certificates),
    }
}

fn list(field: &'static str, text: &str) -> Result<RevocationList, ParseError> {
    let der = hex::decode(text).ok();
    let der = der.ok_or_else(|| wrong(field, Fault::Rule("is not hexadecimal")))?;
    RevocationList::parse(&der)
}

fn signature(field: &'static str, text: &str) -> Result<[u8; 64], ParseError> {
    let mut signature = [0; 64];
    match hex::decode_to_slice(text, &mut signature) {
        Ok(()) => Ok(signature),
        Err(_) => Err(wrong(field, Fault::Rule("is not 64 bytes in hexadecimal"))),
    }
}

/// What Intel says of firmware of one age.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub enum TcbStatus {
    /// Nothing newer is known to be needed.
    UpToDate,
    /// Good for software that was built for it.
    SWHardeningNeeded,
    /// A setting of the platform may be wrong.
    ConfigurationNeeded,
    /// Both.
    ConfigurationAndSWHardeningNeeded,
    /// Known to be vulnerable.
    OutOfDate,
    /// That, and a setting may be wrong.
    OutOfDateConfigurationNeeded,
    /// Not to be believed.
    Revoked,
    /// Launched under firmware that was out of date; what runs now is not. Concluded, never listed.
    #[serde(skip)]
    TDRelaunchAdvised,
    /// That, and a setting of the platform may be wrong.
    #[serde(skip)]
    TDRelaunchAdvisedConfigurationNeeded,
}

impl TcbStatus {
    /// All that somebody may find good enough: what Intel takes back is refused in any case.
    pub const TOLERABLE: [Self; 8] = [
        Self::UpToDate,
        Self::SWHardeningNeeded,
        Self::ConfigurationNeeded,
        Self::ConfigurationAndSWHardeningNeeded,
        Self::OutOfDate,
        Self::OutOfDateConfigurationNeeded,
        Self::TDRelaunchAdvised,
        Self::TDRelaunchAdvisedConfigurationNeeded,
    ];

    /// As Intel spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UpToDate => "UpToDate",
            Self::SWHardeningNeeded => "SWHardeningNeeded",
            Self::ConfigurationNeeded => "ConfigurationNeeded",
            Self::ConfigurationAndSWHardeningNeeded => "ConfigurationAndSWHardeningNeeded",
            Self::OutOfDate => "OutOfDate",
            Self::OutOfDateConfigurationNeeded => "OutOfDateConfigurationNeeded",
            Self::Revoked => "Revoked",
            Self::TDRelaunchAdvised => "TDRelaunchAdvised",
            Self::TDRelaunchAdvisedConfigurationNeeded => "TDRelaunchAdvisedConfigurationNeeded",
        }
    }
}

/// What both texts begin with; read first, so that a text of another kind is told as that.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) version: u32,
    #[serde(rename = "issueDate")]
    pub(super) issued: Moment,
    #[serde(rename = "nextUpdate")]
    pub(super) next_update: Moment,
}

/// TCB info of version 3 for TDX: every level that a platform may be at, best first.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct TcbInfo {
    pub(super) fmspc: Hex<6>,
    #[serde(rename = "pceId")]
    pub(super) pce_id: Hex<2>,
    #[serde(rename = "tcbEvaluationDataNumber")]
    pub(super) evaluation: u32,
    #[serde(rename = "tdxModule")]
    pub(super) module: Module,
    /// Absent where there is but one kind of TDX module.
    #[serde(rename = "tdxModuleIdentities", default)]
    pub(super) modules: Vec<ModuleIdentity>,
    #[serde(rename = "tcbLevels")]
    pub(super) levels: Vec<PlatformLevel>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Module {
    #[serde(rename = "mrsigner")]
    pub(super) signer: Hex<48>,
    pub(super) attributes: Hex<8>,
    #[serde(rename = "attributesMask")]
    pub(super) mask: Hex<8>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct ModuleIdentity {
    /// `TDX_` and the major version in two hexadecimal digits.
    pub(super) id: String,
    #[serde(flatten)]
    pub(super) module: Module,
    #[serde(rename = "tcbLevels")]
    pub(super) levels: Vec<EnclaveLevel>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct PlatformLevel {
    pub(super) tcb: PlatformTcb,
    #[serde(rename = "tcbStatus")]
    pub(super) status: TcbStatus,
    #[serde(rename = "advisoryIDs", default)]
    pub(super) advisories: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct PlatformTcb {
    #[serde(rename = "sgxtcbcomponents")]
    pub(super) sgx: [Component; 16],
    #[serde(rename = "pcesvn")]
    pub(super) pce_svn: u16,
    #[serde(rename = "tdxtcbcomponents")]
    pub(super) tdx: [Component; 16],
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Component {
    pub(super) svn: u8,
}

/// A level of an enclave or of the TDX module.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct EnclaveLevel {
    pub(super) tcb: EnclaveTcb,
    #[serde(rename = "tcbStatus")]
    pub(super) status: TcbStatus,
    #[serde(rename = "advisoryIDs", default)]
    pub(super) advisories: Vec<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct EnclaveTcb {
    #[serde(rename = "isvsvn")]
    pub(super) isv_svn: u16,
}

/// Identity of the quoting enclave, version 2.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct QeIdentity {
    #[serde(rename = "tcbEvaluationDataNumber")]
    pub(super) evaluation: u32,
    #[serde(rename = "miscselect")]
    pub(super) misc_select: Hex<4>,
    #[serde(rename = "miscselectMask")]
    pub(super) misc_select_mask: Hex<4>,
    pub(super) attributes: Hex<16>,
    #[serde(rename = "attributesMask")]
    pub(super) attributes_mask: Hex<16>,
    #[serde(rename = "mrsigner")]
    pub(super) signer: Hex<32>,
    #[serde(rename = "isvprodid")]
    pub(super) prod_id: u16,
    #[serde(rename = "tcbLevels")]
    pub(super) levels: Vec<EnclaveLevel>,
}

/// The little of a TCB info that says whether it is about a processor at all.
#[derive(Debug, Deserialize)]
struct About {
    fmspc: Hex<6>,
}

impl Collateral {
    /// The processors that its TCB info says it is about (`FMSPC`), before anybody looked at its
    /// signature.
    #[must_use]
    pub fn fmspc(&self) -> Option<[u8; 6]> {
        let about: About = self.tcb_info.read().ok()?;
        Some(about.fmspc.0)
    }

    /// From when until when all of its parts count, by their own word.
    #[must_use]
    pub fn counts(&self) -> Option<(UnixTime, UnixTime)> {
        let mut all = Vec::new();
        for text in [&self.tcb_info, &self.qe_identity] {
            let head: Head = text.read().ok()?;
            all.push((head.issued.0, head.next_update.0));
        }
        for list in [&self.root_ca_crl, &self.pck_crl] {
            all.push((list.this_update(), list.next_update()));
        }
        let from = all.iter().map(|(from, _)| *from).max();
        from.zip(all.iter().map(|(_, until)| *until).min())
    }
}

impl SignedText {
    /// Reads the text as `T`.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, ParseError> {
        serde_json::from_str(&self.text).map_err(|error| ParseError {
            structure: self.what,
            field: "text",
            offset: 0,
            fault: Fault::Json(error.to_string()),
        })
    }
}

/// Bytes as hexadecimal text of just that length.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) struct Hex<const N: usize>(pub(super) [u8; N]);

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let mut bytes = [0; N];
        match hex::decode_to_slice(&text, &mut bytes) {
            Ok(()) => Ok(Self(bytes)),
            Err(_) => Err(D::Error::custom(format!("not {N} bytes in hexadecimal"))),
        }
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// A moment as these texts write it: `2026-01-31T00:00:00Z`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Moment(pub(super) UnixTime);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        match text.parse::<der::DateTime>() {
            Ok(moment) => Ok(Self(UnixTime::from_secs(moment.unix_duration().as_secs()))),
            Err(_) => Err(D::Error::custom("not a moment as in 2026-01-31T00:00:00Z")),
        }
    }
}
