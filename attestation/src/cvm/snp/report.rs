//! `ATTESTATION_REPORT`.

use crate::error::{Fault, ParseError};
use crate::reader::Reader;

/// Bytes of a report: Table 23.
pub(super) const REPORT_BYTES: usize = 1184;
/// Bytes the signature covers.
const SIGNED: usize = 0x2a0;
/// Versions whose layout is known here.
const VERSIONS: [u32; 3] = [2, 3, 5];
/// `SIGNATURE_ALGO`: ECDSA P-384 with SHA-384, the only one defined.
const ECDSA_P384: u32 = 1;
/// Bytes in which each of r and s stands, least significant first.
const COORDINATE: usize = 72;
/// `POLICY.DEBUG`
const DEBUG: u64 = 1 << 19;

/// Product lines, by the root that endorses them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Product {
    /// EPYC 7003.
    Milan,
    /// EPYC 9004 and 8004.
    Genoa,
    /// EPYC 9005.
    Turin,
}

impl Product {
    /// The name in certificates.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// By family and model of `CPUID`, which reports have since version 3.
    #[must_use]
    pub const fn of_cpuid(family: u8, model: u8) -> Option<Self> {
        match (family, model) {
            (0x19, 0x00..=0x0f) => Some(Self::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Some(Self::Genoa),
            (0x1a, 0x00..=0x1f) => Some(Self::Turin),
            _ => None,
        }
    }
}

/// `TCB_VERSION`: eight bytes whose meaning depends on the product.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Tcb(pub [u8; 8]);

impl Tcb {
    /// The parts by their names in KDS certificates (`blSPL` and so on), in that product's places:
    /// Table 3 of the ABI, and its Turin form.
    #[must_use]
    pub const fn parts(self, product: Product) -> [(&'static str, u8); 4] {
        let Self([a, b, c, d, _, _, g, h]) = self;
        match product {
            Product::Milan | Product::Genoa => {
                [("blSPL", a), ("teeSPL", b), ("snpSPL", g), ("ucodeSPL", h)]
            }
            Product::Turin => [("blSPL", b), ("teeSPL", c), ("snpSPL", d), ("ucodeSPL", h)],
        }
    }

    /// `fmcSPL`, which Turin has.
    #[must_use]
    pub const fn fmc(self, product: Product) -> Option<u8> {
        let Self([fmc, ..]) = self;
        match product {
            Product::Turin => Some(fmc),
            _ => None,
        }
    }
}

/// Which key the report says it was signed with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SigningKey {
    /// The chip's own.
    Vcek,
    /// One that AMD gave to a cloud provider.
    Vlek,
    /// None: the hypervisor asked for an unsigned report.
    Unsigned,
    /// A value that is reserved.
    Reserved(u8),
}

/// A report, borrowed from its bytes. Nothing in it is trusted yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Report<'a> {
    /// `VERSION`: 2, 3 or 5.
    pub version: u32,
    /// `GUEST_SVN`
    pub guest_svn: u32,
    /// `POLICY` the guest was launched with.
    pub policy: u64,
    /// `FAMILY_ID`, as whoever signed the launch says.
    pub family_id: &'a [u8; 16],
    /// `IMAGE_ID`, likewise.
    pub image_id: &'a [u8; 16],
    /// `VMPL` that asked, 0 (most privileged) to 3; 0xffffffff where the host asked.
    pub vmpl: u32,
    /// `CURRENT_TCB`
    pub current_tcb: Tcb,
    /// `PLATFORM_INFO`
    pub platform_info: u64,
    /// `SIGNING_KEY`
    pub signing_key: SigningKey,
    /// `REPORT_DATA`: what the guest bound.
    pub report_data: &'a [u8; 64],
    /// `MEASUREMENT` of the guest as launched.
    pub measurement: &'a [u8; 48],
    /// `HOST_DATA`
    pub host_data: &'a [u8; 32],
    /// `ID_KEY_DIGEST`: SHA-384 of the key that signed `MEASUREMENT` before the launch; zeros: none did.
    pub id_key_digest: &'a [u8; 48],
    /// `REPORT_ID`
    pub report_id: &'a [u8; 32],
    /// `REPORTED_TCB`: the versions the key stands for.
    pub reported_tcb: Tcb,
    /// Family and model, since version 3.
    pub cpuid: Option<(u8, u8)>,
    /// `CHIP_ID`; zeros where the host has it left out.
    pub chip_id: &'a [u8; 64],
    /// `COMMITTED_TCB`
    pub committed_tcb: Tcb,
    /// `LAUNCH_TCB`
    pub launch_tcb: Tcb,
    /// What the signature covers.
    pub(super) signed: &'a [u8],
    /// r and s, big-endian.
    pub(super) signature: [[u8; COORDINATE]; 2],
}

impl<'a> Report<'a> {
    /// Reads a report: exactly 1184 bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new("ATTESTATION_REPORT", bytes);
        let version = r.u32_le("VERSION")?;
        if !VERSIONS.contains(&version) {
            let found = version.into();
            return Err(r.fault_at("VERSION", 0, Fault::Unsupported { found }));
        }
        let guest_svn = r.u32_le("GUEST_SVN")?;
        let policy = r.u64_le("POLICY")?;
        let family_id = r.array_ref("FAMILY_ID")?;
        let image_id = r.array_ref("IMAGE_ID")?;
        let vmpl = r.u32_le("VMPL")?;
        let at = r.offset();
        let algorithm = r.u32_le("SIGNATURE_ALGO")?;
        if algorithm != ECDSA_P384 {
            let found = algorithm.into();
            return Err(r.fault_at("SIGNATURE_ALGO", at, Fault::Unsupported { found }));
        }
        let current_tcb = Tcb(r.array("CURRENT_TCB")?);
        let platform_info = r.u64_le("PLATFORM_INFO")?;
        let keys = r.u32_le("SIGNING_KEY")?;
        r.take("reserved", 4)?;
        let report_data = r.array_ref("REPORT_DATA")?;
        let measurement = r.array_ref("MEASUREMENT")?;
        let host_data = r.array_ref("HOST_DATA")?;
        let id_key_digest = r.array_ref("ID_KEY_DIGEST")?;
        r.take("AUTHOR_KEY_DIGEST", 48)?;
        let report_id = r.array_ref("REPORT_ID")?;
        r.take("REPORT_ID_MA", 32)?;
        let reported_tcb = Tcb(r.array("REPORTED_TCB")?);
        let family = r.u8("CPUID_FAM_ID")?;
        let model = r.u8("CPUID_MOD_ID")?;
        r.take("CPUID_STEP", 1)?;
        r.take("reserved", 21)?;
        let chip_id = r.array_ref("CHIP_ID")?;
        let committed_tcb = Tcb(r.array("COMMITTED_TCB")?);
        r.take("CURRENT_BUILD", 4)?;
        r.take("COMMITTED_BUILD", 4)?;
        let launch_tcb = Tcb(r.array("LAUNCH_TCB")?);
        r.take("LAUNCH_MIT_VECTOR", SIGNED - 0x1f8)?;
        let signature = [component(&mut r, "R")?, component(&mut r, "S")?];
        r.take("SIGNATURE.reserved", REPORT_BYTES - SIGNED - 2 * COORDINATE)?;
        r.finish()?;
        let [low, ..] = keys.to_le_bytes();
        Ok(Self {
            version,
            guest_svn,
            policy,
            family_id,
            image_id,
            vmpl,
            current_tcb,
            platform_info,
            signing_key: match (low >> 2) & 7 {
                0 => SigningKey::Vcek,
                1 => SigningKey::Vlek,
                7 => SigningKey::Unsigned,
                other => SigningKey::Reserved(other),
            },
            report_data,
            measurement,
            host_data,
            id_key_digest,
            report_id,
            reported_tcb,
            cpuid: (version >= 3).then_some((family, model)),
            chip_id,
            committed_tcb,
            launch_tcb,
            signed: bytes.get(..SIGNED).unwrap_or_default(),
            signature,
        })
    }

    /// The guest may be read by its host.
    #[must_use]
    pub const fn debug(&self) -> bool {
        self.policy & DEBUG != 0
    }

    /// The host has the chip's id left out. No other field says so: `MASK_CHIP_KEY` is about the key.
    #[must_use]
    pub fn hides_chip(&self) -> bool {
        self.chip_id.iter().all(|byte| *byte == 0)
    }
}

/// One of r and s, turned round.
fn component(r: &mut Reader<'_>, field: &'static str) -> Result<[u8; COORDINATE], ParseError> {
    let mut bytes: [u8; COORDINATE] = r.array(field)?;
    bytes.reverse();
    Ok(bytes)
}
