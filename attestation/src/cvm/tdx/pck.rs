//! What the certificate of a processor's key says of the processor.

use const_oid::ObjectIdentifier;
use der::asn1::{AnyRef, OctetStringRef};
use der::{Decode, Sequence};

use super::refused::TdxRefused;
use crate::error::ParseError;
use crate::x509::Certificate;

const STRUCTURE: &str = "SGXExtensions";
/// `SGX Extensions`; its parts are numbered below it.
const EXTENSIONS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113741.1.13.1");
/// What every such certificate is called.
const COMMON_NAME: &str = "Intel SGX PCK Certificate";

/// The processor as its certificate describes it: PCK Certificate Profile, §1.3.5.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pck {
    /// `PPID`: which processor. Other identifiers in the certificate change with firmware.
    pub ppid: [u8; 16],
    /// `FMSPC`: family, model, stepping, platform: whose TCB info applies.
    pub fmspc: [u8; 6],
    /// `PCE-ID`
    pub pce_id: [u8; 2],
    /// `PCESVN`
    pub pce_svn: u16,
    /// `SGX TCB Comp01 SVN` to `16`.
    pub components: [u8; 16],
}

#[derive(Clone, Copy, Sequence)]
struct Item<'a> {
    id: ObjectIdentifier,
    value: AnyRef<'a>,
}

impl Pck {
    pub(super) fn of(certificate: &Certificate) -> Result<Self, TdxRefused> {
        let name = certificate.subject().common_name();
        if name != COMMON_NAME || certificate.is_ca() {
            return Err(TdxRefused::NotPck(name));
        }
        let extension = certificate
            .extension(EXTENSIONS)
            .ok_or(TdxRefused::PckExtension(None))?;
        Self::parse(&extension.value).map_err(|error| TdxRefused::PckExtension(Some(error)))
    }

    fn parse(der: &[u8]) -> Result<Self, ParseError> {
        let items = items(der, "extnValue")?;
        let tcb = find(&items, "TCB", &[2])?;
        let tcb: Vec<Item<'_>> = decode(tcb, "TCB")?;
        let mut components = [0; 16];
        for (component, number) in components.iter_mut().zip(1_u32..) {
            let svn = find(&tcb, "TCB.SVN", &[2, number])?;
            *component = decode(svn, "TCB.SVN")?;
        }
        Ok(Self {
            ppid: bytes(&items, "PPID", 1)?,
            fmspc: bytes(&items, "FMSPC", 4)?,
            pce_id: bytes(&items, "PCE-ID", 3)?,
            pce_svn: decode(find(&tcb, "TCB.PCESVN", &[2, 17])?, "TCB.PCESVN")?,
            components,
        })
    }
}

fn items<'a>(der: &'a [u8], field: &'static str) -> Result<Vec<Item<'a>>, ParseError> {
    Vec::from_der(der).map_err(|error| ParseError::from_der(STRUCTURE, field, &error))
}

fn decode<
    'a,
    T: Decode<'a, Error = der::Error>
        + der::Tagged
        + der::DecodeValue<'a, Error = der::Error>
        + der::FixedTag,
>(
    value: AnyRef<'a>,
    field: &'static str,
) -> Result<T, ParseError> {
    value
        .decode_as()
        .map_err(|error| ParseError::from_der(STRUCTURE, field, &error))
}

/// The part with that number below [`EXTENSIONS`].
fn find<'a>(
    items: &[Item<'a>],
    field: &'static str,
    number: &[u32],
) -> Result<AnyRef<'a>, ParseError> {
    let is = |id: &ObjectIdentifier| {
        let below: Vec<u32> = id.arcs().skip(EXTENSIONS.arcs().count()).collect();
        EXTENSIONS
            .arcs()
            .eq(id.arcs().take(EXTENSIONS.arcs().count()))
            && below == number
    };
    let found = items.iter().find(|item| is(&item.id));
    found.map(|item| item.value).ok_or(ParseError {
        structure: STRUCTURE,
        field,
        offset: 0,
        fault: crate::error::Fault::Rule("is missing"),
    })
}

fn bytes<const N: usize>(
    items: &[Item<'_>],
    field: &'static str,
    number: u32,
) -> Result<[u8; N], ParseError> {
    let value = find(items, field, &[number])?;
    let octets: &OctetStringRef = value
        .decode_as()
        .map_err(|error| ParseError::from_der(STRUCTURE, field, &error))?;
    let octets = octets.as_bytes().try_into().ok();
    octets.ok_or(ParseError {
        structure: STRUCTURE,
        field,
        offset: 0,
        fault: crate::error::Fault::Rule("has another length"),
    })
}
