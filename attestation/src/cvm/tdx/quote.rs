//! The quote: header, body of the guest, and what signs them.

use crate::error::{Fault, ParseError};
use crate::reader::Reader;
use crate::x509::{Bundle, Certificate};

/// Largest quote that is read. Real ones have some 5 KB; buffers that hold them have 8.
pub const MAX_QUOTE_BYTES: usize = 64 * 1024;
/// `Attestation Key Type`: ECDSA P-256, the only one that is used.
const ECDSA_P256: u16 = 2;
/// `TEE Type`
const TDX: u32 = 0x81;
/// `Certification Data Type`: the report of the quoting enclave and what certifies it.
const QE_REPORT: u16 = 6;
/// `Certification Data Type`: PCK certificate and its chain, as PEM.
const PCK_CHAIN: u16 = 5;
/// Body types of version 5.
const TD_1_0: u16 = 2;
const TD_1_5: u16 = 3;
/// TDX 1.5 with what a migration and a partition are told by.
const TD_1_5_EXTENDED: u16 = 4;
/// `TUD.DEBUG` in the first byte of `TDATTRIBUTES`.
const DEBUG: u8 = 1;

/// What the TDX module reports of a guest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Body<'a> {
    /// `TEE_TCB_SVN`: versions of the firmware under which the guest was launched; the TDX module's
    /// minor and major version come first.
    pub tee_tcb_svn: &'a [u8; 16],
    /// `MRSEAM`: digest of the TDX module.
    pub mr_seam: &'a [u8; 48],
    /// `MRSIGNERSEAM`: who signed the TDX module; zero for Intel.
    pub mr_signer_seam: &'a [u8; 48],
    /// `SEAMATTRIBUTES`
    pub seam_attributes: &'a [u8; 8],
    /// `TDATTRIBUTES`
    pub td_attributes: &'a [u8; 8],
    /// `XFAM`
    pub xfam: &'a [u8; 8],
    /// `MRTD`: the guest as launched.
    pub mr_td: &'a [u8; 48],
    /// `MRCONFIGID`
    pub mr_config_id: &'a [u8; 48],
    /// `MROWNER`
    pub mr_owner: &'a [u8; 48],
    /// `MROWNERCONFIG`
    pub mr_owner_config: &'a [u8; 48],
    /// `RTMR0` to `RTMR3`: what the guest measured since.
    pub rtmr: [&'a [u8; 48]; 4],
    /// `REPORTDATA`: what the guest bound.
    pub report_data: &'a [u8; 64],
    /// `TEE_TCB_SVN_2`: versions of the firmware that runs now, which may be newer than at the
    /// launch. TDX 1.5.
    pub tee_tcb_svn2: Option<&'a [u8; 16]>,
    /// `MRSERVICETD`. TDX 1.5.
    pub mr_service_td: Option<&'a [u8; 48]>,
    /// `VMID`: which partition of the guest asked; 0 is the guest itself. Body type 4.
    pub vmid: Option<u8>,
    /// `TD_ID`: which launch of the guest this is, kept when it migrates; zero where the host does not
    /// have it reported. Body type 4.
    pub td_id: Option<&'a [u8; 32]>,
}

impl<'a> Body<'a> {
    fn read(r: &mut Reader<'a>, kind: u16) -> Result<Self, ParseError> {
        let mut body = Self {
            tee_tcb_svn: r.array_ref("body.TEE_TCB_SVN")?,
            mr_seam: r.array_ref("body.MRSEAM")?,
            mr_signer_seam: r.array_ref("body.MRSIGNERSEAM")?,
            seam_attributes: r.array_ref("body.SEAMATTRIBUTES")?,
            td_attributes: r.array_ref("body.TDATTRIBUTES")?,
            xfam: r.array_ref("body.XFAM")?,
            mr_td: r.array_ref("body.MRTD")?,
            mr_config_id: r.array_ref("body.MRCONFIGID")?,
            mr_owner: r.array_ref("body.MROWNER")?,
            mr_owner_config: r.array_ref("body.MROWNERCONFIG")?,
            rtmr: [
                r.array_ref("body.RTMR0")?,
                r.array_ref("body.RTMR1")?,
                r.array_ref("body.RTMR2")?,
                r.array_ref("body.RTMR3")?,
            ],
            report_data: r.array_ref("body.REPORTDATA")?,
            tee_tcb_svn2: None,
            mr_service_td: None,
            vmid: None,
            td_id: None,
        };
        if kind == TD_1_5 || kind == TD_1_5_EXTENDED {
            body.tee_tcb_svn2 = Some(r.array_ref("body.TEE_TCB_SVN_2")?);
            body.mr_service_td = Some(r.array_ref("body.MRSERVICETD")?);
        }
        if kind == TD_1_5_EXTENDED {
            body.vmid = Some(r.u8("body.VMID")?);
            body.td_id = Some(r.array_ref("body.TD_ID")?);
            r.take("body.DEVINFO", 48)?;
            r.take("body.INIT_SERVTD_HASH", 48)?;
            r.take("body.INIT_SERVTD_ATTR", 8)?;
            r.take("body.INIT_CPUSVN", 16)?;
            r.take("body.INIT_TEE_TCB_SVN", 16)?;
            r.take("body.INIT_TEE_FMSPC", 12)?;
            r.take("body.CURR_SERVTD_HASH", 48)?;
            r.take("body.CURR_SERVTD_ATTR", 8)?;
        }
        Ok(body)
    }

    /// What tells this launch from others; `None`: the host has nothing of it reported.
    #[must_use]
    pub fn launch_id(&self) -> Option<&'a [u8; 32]> {
        self.td_id.filter(|id| **id != [0; 32])
    }

    /// The guest may be read by its host.
    #[must_use]
    pub const fn debug(&self) -> bool {
        let [first, ..] = self.td_attributes;
        *first & DEBUG != 0
    }
}

/// What the processor reports of the quoting enclave, which holds the attestation key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct QeReport<'a> {
    /// `MISCSELECT`
    pub misc_select: &'a [u8; 4],
    /// `ATTRIBUTES`
    pub attributes: &'a [u8; 16],
    /// `MRENCLAVE`
    pub mr_enclave: &'a [u8; 32],
    /// `MRSIGNER`
    pub mr_signer: &'a [u8; 32],
    /// `ISVPRODID`
    pub isv_prod_id: u16,
    /// `ISVSVN`
    pub isv_svn: u16,
    /// `REPORTDATA`: the attestation key's digest.
    pub report_data: &'a [u8; 64],
}

impl<'a> QeReport<'a> {
    fn read(r: &mut Reader<'a>) -> Result<Self, ParseError> {
        r.take("qe_report.CPUSVN", 16)?;
        let misc_select = r.array_ref("qe_report.MISCSELECT")?;
        r.take("qe_report.reserved", 28)?;
        let attributes = r.array_ref("qe_report.ATTRIBUTES")?;
        let mr_enclave = r.array_ref("qe_report.MRENCLAVE")?;
        r.take("qe_report.reserved", 32)?;
        let mr_signer = r.array_ref("qe_report.MRSIGNER")?;
        r.take("qe_report.reserved", 96)?;
        let isv_prod_id = r.u16_le("qe_report.ISVPRODID")?;
        let isv_svn = r.u16_le("qe_report.ISVSVN")?;
        r.take("qe_report.reserved", 60)?;
        Ok(Self {
            misc_select,
            attributes,
            mr_enclave,
            mr_signer,
            isv_prod_id,
            isv_svn,
            report_data: r.array_ref("qe_report.REPORTDATA")?,
        })
    }
}

/// A well-formed quote, borrowed from its bytes. Nothing in it is trusted yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Quote<'a> {
    /// 4 or 5.
    pub version: u16,
    /// `QE Vendor ID`
    pub qe_vendor_id: &'a [u8; 16],
    /// What the guest's firmware says.
    pub body: Body<'a>,
    /// What the processor says of the quoting enclave.
    pub qe_report: QeReport<'a>,
    /// The processor's key and what leads from it to Intel's, leaf first. `None`: the quote names
    /// the processor in another way, and its certificate has to come from elsewhere.
    pub pck_chain: Option<Vec<Certificate>>,
    /// What the quote's signature covers.
    pub(super) signed: &'a [u8],
    /// r and s, big-endian.
    pub(super) signature: &'a [u8; 64],
    /// x and y, big-endian.
    pub(super) attestation_key: &'a [u8; 64],
    /// The bytes of [`Quote::qe_report`].
    pub(super) qe_report_bytes: &'a [u8],
    /// r and s, big-endian.
    pub(super) qe_report_signature: &'a [u8; 64],
    /// What the quoting enclave bound beside its key.
    pub(super) qe_auth_data: &'a [u8],
}

impl<'a> Quote<'a> {
    /// Reads a quote. Zero bytes may follow: the kernel hands out a buffer of fixed size.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new("Quote", bytes);
        if bytes.len() > MAX_QUOTE_BYTES {
            return Err(r.fault("end", too_many(bytes.len(), MAX_QUOTE_BYTES)));
        }
        let version = one_of(&mut r, "header.Version", &[4, 5])?;
        one_of(&mut r, "header.AttestationKeyType", &[ECDSA_P256])?;
        let at = r.offset();
        let tee = r.u32_le("header.TEEType")?;
        if tee != TDX {
            let found = tee.into();
            return Err(r.fault_at("header.TEEType", at, Fault::Unsupported { found }));
        }
        r.take("header.reserved", 4)?;
        let qe_vendor_id = r.array_ref("header.QEVendorID")?;
        r.take("header.UserData", 20)?;
        let kind = match version {
            4 => TD_1_0,
            _ => body_type(&mut r)?,
        };
        let body = Body::read(&mut r, kind)?;
        let signed = bytes.get(..r.offset()).unwrap_or_default();

        // What is inside the signature data has to end with it.
        let mut s = sized(&mut r, bytes, "SignatureDataLength", "SignatureData")?;
        if r.rest().iter().any(|byte| *byte != 0) {
            return Err(r.fault("end", Fault::Trailing(r.rest().len())));
        }
        let signature = s.array_ref("Signature")?;
        let attestation_key = s.array_ref("AttestationKey")?;
        one_of(&mut s, "CertificationData.Type", &[QE_REPORT])?;
        let size = "CertificationData.Size";
        let mut c = sized(&mut s, bytes, size, "CertificationData.Data")?;
        s.finish()?;

        let start = c.offset();
        let qe_report = QeReport::read(&mut c)?;
        let qe_report_bytes = bytes.get(start..c.offset()).unwrap_or_default();
        let qe_report_signature = c.array_ref("qe_report.Signature")?;
        let len = c.u16_le("QEAuthenticationData.Size")?;
        let qe_auth_data = c.take("QEAuthenticationData.Data", len.into())?;
        let pck_chain = pck_chain(&mut c, bytes)?;
        c.finish()?;
        Ok(Self {
            version,
            qe_vendor_id,
            body,
            qe_report,
            pck_chain,
            signed,
            signature,
            attestation_key,
            qe_report_bytes,
            qe_report_signature,
            qe_auth_data,
        })
    }
}

fn body_type(r: &mut Reader<'_>) -> Result<u16, ParseError> {
    let kind = one_of(r, "body.Type", &[TD_1_0, TD_1_5, TD_1_5_EXTENDED])?;
    let want = match kind {
        TD_1_0 => 584,
        TD_1_5 => 648,
        _ => 885,
    };
    let at = r.offset();
    let size = r.u32_le("body.Size")?;
    if size != want {
        let fault = Fault::Mismatch {
            found: size.into(),
            want: want.into(),
        };
        return Err(r.fault_at("body.Size", at, fault));
    }
    Ok(kind)
}

/// The certificates, where the quote holds them.
fn pck_chain<'a>(
    r: &mut Reader<'a>,
    bytes: &'a [u8],
) -> Result<Option<Vec<Certificate>>, ParseError> {
    const SIZE: &str = "CertificationData.CertificationData.Size";
    const DATA: &str = "CertificationData.CertificationData.Data";
    let kind = one_of(
        r,
        "CertificationData.CertificationData.Type",
        &[1, 2, 3, 4, PCK_CHAIN, 7],
    )?;
    let inner = sized(r, bytes, SIZE, DATA)?;
    if kind != PCK_CHAIN {
        return Ok(None);
    }
    // Some quoting enclaves end the text with a zero byte, as C does.
    let text = inner.rest();
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    let bundle = Bundle::parse(text)?;
    match bundle.unreadable.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(Some(bundle.certificates)),
    }
}

fn one_of(r: &mut Reader<'_>, field: &'static str, known: &[u16]) -> Result<u16, ParseError> {
    let at = r.offset();
    let found = r.u16_le(field)?;
    if known.contains(&found) {
        return Ok(found);
    }
    let found = found.into();
    Err(r.fault_at(field, at, Fault::Unsupported { found }))
}

/// A reader of just the bytes that a length of four bytes announces; offsets stay the quote's.
fn sized<'a>(
    r: &mut Reader<'a>,
    bytes: &'a [u8],
    size: &'static str,
    field: &'static str,
) -> Result<Reader<'a>, ParseError> {
    let len = r.u32_le(size)?;
    let start = r.offset();
    // Where a length does not fit, it is longer than what is there.
    r.take(field, usize::try_from(len).unwrap_or(usize::MAX))?;
    let whole = bytes.get(..r.offset()).unwrap_or_default();
    Ok(Reader::starting("Quote", whole, start))
}

fn too_many(found: usize, limit: usize) -> Fault {
    let as_u64 = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    Fault::TooMany {
        found: as_u64(found),
        limit: as_u64(limit),
    }
}
