//! Who signed a kernel module, as the end of its file says. The kernel checks the signature; here
//! only a name is read.
//!
//! Layout: `scripts/sign-file.c` and `include/linux/module_signature.h` of Linux; RFC 5652,
//! `SignedData`.

use crate::error::{Fault, ParseError};
use crate::reader::Reader;

/// Most bytes of a file's end that are looked at: a signature of RSA-4096 with its certificate
/// needs a few thousand.
pub const SIGNATURE_TAIL: usize = 64 * 1024;

const MAGIC: &[u8] = b"~Module signature appended~\n";
/// `struct module_signature`.
const INFO: usize = 12;
/// `PKEY_ID_PKCS7`
const PKCS7: u8 = 2;
/// Most bytes of a name or a serial number.
const WORDS: usize = 256;
/// Most parts of an issuer's name.
const NAMES: usize = 32;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const OID: u8 = 0x06;
/// `[0]` around something, and `[0]` and `[1]` in place of something.
const CONTEXT_0: u8 = 0xa0;
const CONTEXT_1: u8 = 0xa1;
const KEY_ID: u8 = 0x80;
/// 1.2.840.113549.1.7.2, `id-signedData`.
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
/// 2.5.4.3, `id-at-commonName`.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// A signature at the end of a module. Nobody has checked it here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ModuleSignature {
    /// Whose key it is said to be.
    pub signer: ModuleSigner,
}

/// How a signer is named.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ModuleSigner {
    /// By the certificate.
    Certificate {
        /// Common name of its issuer; empty where there is none.
        issuer: String,
        /// Its serial number, big-endian.
        serial: Vec<u8>,
    },
    /// By the key's identifier.
    Key(Vec<u8>),
}

impl std::fmt::Display for ModuleSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Certificate { issuer, serial } => {
                write!(f, "{issuer}, serial {}", hex::encode(serial))
            }
            Self::Key(id) => write!(f, "key {}", hex::encode(id)),
        }
    }
}

impl ModuleSignature {
    /// Reads the last bytes of a module's file, [`SIGNATURE_TAIL`] of them at most; `None` where
    /// they end without a signature.
    pub fn parse(tail: &[u8]) -> Result<Option<Self>, ParseError> {
        let start = tail.len().saturating_sub(SIGNATURE_TAIL);
        let tail = tail.get(start..).unwrap_or_default();
        let Some(rest) = tail.strip_suffix(MAGIC) else {
            return Ok(None);
        };
        let Some((rest, info)) = rest.len().checked_sub(INFO).map(|at| rest.split_at(at)) else {
            let fault = Fault::Truncated {
                want: INFO,
                left: rest.len(),
            };
            return Err(Reader::new("module_signature", rest).fault("sig_len", fault));
        };
        let mut r = Reader::new("module_signature", info);
        r.take("algo, hash", 2)?;
        let kind = r.u8("id_type")?;
        r.take("signer_len, key_id_len, __pad", 5)?;
        let length = r.u32("sig_len")?;
        if kind != PKCS7 {
            return Err(r.fault_at("id_type", 2, Fault::Unsupported { found: kind.into() }));
        }
        let from = usize::try_from(length).ok();
        let from = from.and_then(|length| rest.len().checked_sub(length));
        let Some(blob) = from.and_then(|from| rest.get(from..)) else {
            let fault = Fault::TooMany {
                found: length.into(),
                limit: u64::try_from(rest.len()).unwrap_or(u64::MAX),
            };
            return Err(r.fault_at("sig_len", 8, fault));
        };
        let signer = signer(blob)?;
        Ok(Some(Self { signer }))
    }
}

/// The first of `SignedData.signerInfos`: the kernel's tool writes one.
fn signer(blob: &[u8]) -> Result<ModuleSigner, ParseError> {
    let mut r = Reader::new("ContentInfo", blob);
    let mut content = within(&mut r, SEQUENCE, "ContentInfo", "ContentInfo")?;
    if element(&mut content, OID, "contentType")? != SIGNED_DATA {
        return Err(content.fault_at("contentType", 0, Fault::Rule("is not signedData")));
    }
    let mut explicit = within(&mut content, CONTEXT_0, "content", "ContentInfo.content")?;
    let mut data = within(&mut explicit, SEQUENCE, "content", "SignedData")?;
    element(&mut data, INTEGER, "version")?;
    element(&mut data, SET, "digestAlgorithms")?;
    element(&mut data, SEQUENCE, "encapContentInfo")?;
    for (tag, field) in [(CONTEXT_0, "certificates"), (CONTEXT_1, "crls")] {
        if data.rest().first() == Some(&tag) {
            element(&mut data, tag, field)?;
        }
    }
    let mut infos = within(&mut data, SET, "signerInfos", "SignerInfos")?;
    let mut info = within(&mut infos, SEQUENCE, "signerInfo", "SignerInfo")?;
    element(&mut info, INTEGER, "version")?;
    if info.rest().first() == Some(&KEY_ID) {
        let id = element(&mut info, KEY_ID, "sid")?;
        return Ok(ModuleSigner::Key(bounded(&info, id)?.to_vec()));
    }
    let mut sid = within(&mut info, SEQUENCE, "sid", "IssuerAndSerialNumber")?;
    let mut name = within(&mut sid, SEQUENCE, "issuer", "Name")?;
    let serial = element(&mut sid, INTEGER, "serialNumber")?;
    Ok(ModuleSigner::Certificate {
        issuer: common_name(&mut name)?,
        serial: bounded(&sid, serial)?.to_vec(),
    })
}

/// The last common name, which is the one people read.
fn common_name(name: &mut Reader<'_>) -> Result<String, ParseError> {
    let mut found = String::new();
    for _ in 0..NAMES {
        if name.rest().is_empty() {
            break;
        }
        let mut set = within(name, SET, "rdn", "RelativeDistinguishedName")?;
        let mut pair = within(&mut set, SEQUENCE, "attribute", "AttributeTypeAndValue")?;
        if element(&mut pair, OID, "type")? == COMMON_NAME {
            let (_, value) = tlv(&mut pair, "value")?;
            let value = String::from_utf8_lossy(bounded(&pair, value)?);
            found = value.chars().filter(|c| !c.is_control()).collect();
        }
    }
    Ok(found)
}

fn bounded<'a>(r: &Reader<'_>, bytes: &'a [u8]) -> Result<&'a [u8], ParseError> {
    if bytes.len() <= WORDS {
        return Ok(bytes);
    }
    let fault = Fault::TooMany {
        found: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        limit: u64::try_from(WORDS).unwrap_or(u64::MAX),
    };
    Err(r.fault("value", fault))
}

fn within<'a>(
    r: &mut Reader<'a>,
    tag: u8,
    field: &'static str,
    structure: &'static str,
) -> Result<Reader<'a>, ParseError> {
    Ok(Reader::new(structure, element(r, tag, field)?))
}

fn element<'a>(r: &mut Reader<'a>, tag: u8, field: &'static str) -> Result<&'a [u8], ParseError> {
    let at = r.offset();
    match tlv(r, field)? {
        (found, content) if found == tag => Ok(content),
        (found, _) => {
            let (found, want) = (found.into(), tag.into());
            Err(r.fault_at(field, at, Fault::Mismatch { found, want }))
        }
    }
}

/// One tag and its content. Lengths are definite, as DER has them.
fn tlv<'a>(r: &mut Reader<'a>, field: &'static str) -> Result<(u8, &'a [u8]), ParseError> {
    let tag = r.u8(field)?;
    let at = r.offset();
    let length = match r.u8(field)? {
        short @ 0..=0x7f => usize::from(short),
        0x81 => usize::from(r.u8(field)?),
        0x82 => usize::from(r.u16(field)?),
        found => {
            let found = found.into();
            return Err(r.fault_at(field, at, Fault::Unsupported { found }));
        }
    };
    Ok((tag, r.take(field, length)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let length = content.len();
        let head = match u8::try_from(length) {
            Ok(short @ 0..=0x7f) => vec![tag, short],
            Ok(long) => vec![tag, 0x81, long],
            Err(_) => {
                let length = u16::try_from(length).unwrap().to_be_bytes();
                vec![tag, 0x82, length[0], length[1]]
            }
        };
        [head, content].concat()
    }

    fn named(names: &[(&[u8], &[u8])]) -> Vec<u8> {
        let sets: Vec<Vec<u8>> = names
            .iter()
            .map(|(oid, text)| {
                der(
                    SET,
                    &[&der(SEQUENCE, &[&der(OID, &[oid]), &der(0x0c, &[text])])],
                )
            })
            .collect();
        let parts: Vec<&[u8]> = sets.iter().map(Vec::as_slice).collect();
        der(SEQUENCE, &parts)
    }

    fn signed(sid: &[u8], certificates: bool) -> Vec<u8> {
        let version = der(INTEGER, &[&[1]]);
        let info = der(SEQUENCE, &[&version, sid, &der(SEQUENCE, &[])]);
        let encapsulated = der(SEQUENCE, &[&der(OID, &[&[0x2a]])]);
        let certificates = match certificates {
            true => der(CONTEXT_0, &[&[0; 300]]),
            false => Vec::new(),
        };
        let data = der(
            SEQUENCE,
            &[
                &version,
                &der(SET, &[]),
                &encapsulated,
                &certificates,
                &der(SET, &[&info]),
            ],
        );
        der(
            SEQUENCE,
            &[&der(OID, &[SIGNED_DATA]), &der(CONTEXT_0, &[&data])],
        )
    }

    fn module(kind: u8, blob: &[u8], length: usize) -> Vec<u8> {
        let length = u32::try_from(length).unwrap().to_be_bytes();
        let info = [&[0, 0, kind, 0, 0, 0, 0, 0][..], &length].concat();
        [b"\x7fELF and so on", blob, &info, MAGIC].concat()
    }

    #[test]
    fn a_module_says_who_signed_it() {
        let issuer = named(&[
            (&[0x55, 0x04, 0x0a], b"Example"),
            (COMMON_NAME, b"Build key\n1"),
        ]);
        let by_certificate = der(SEQUENCE, &[&issuer, &der(INTEGER, &[&[0x12, 0x34]])]);
        let unnamed = der(SEQUENCE, &[&named(&[]), &der(INTEGER, &[&[1]])]);
        let by_key = der(KEY_ID, &[&[0xab, 0xcd]]);
        let rows: &[(&str, &[u8], &str)] = &[
            ("by certificate", &by_certificate, "Build key1, serial 1234"),
            ("without a name", &unnamed, ", serial 01"),
            ("by key", &by_key, "key abcd"),
        ];
        for (name, sid, want) in rows {
            for certificates in [false, true] {
                let blob = signed(sid, certificates);
                let file = module(2, &blob, blob.len());
                let signature = ModuleSignature::parse(&file).unwrap().unwrap();
                assert_eq!(signature.signer.to_string(), *want, "{name}");
                let long = [vec![0; SIGNATURE_TAIL], file].concat();
                assert_eq!(ModuleSignature::parse(&long), Ok(Some(signature)), "{name}");
            }
        }
    }

    #[test]
    fn what_is_no_signature_is_none_and_a_broken_one_says_where() {
        assert_eq!(ModuleSignature::parse(b""), Ok(None));
        assert_eq!(ModuleSignature::parse(b"\x7fELF"), Ok(None));
        let blob = signed(&der(KEY_ID, &[&[1]]), false);
        let good = module(2, &blob, blob.len());
        assert_eq!(ModuleSignature::parse(&good[..good.len() - 1]), Ok(None));
        let wide = signed(&der(KEY_ID, &[&[1; 257]]), false);
        let indefinite = [&[SEQUENCE, 0x80], &blob[2..]].concat();
        let rows: &[(&str, Vec<u8>, &str)] = &[
            (
                "nothing before the magic",
                MAGIC.to_vec(),
                "module_signature.sig_len",
            ),
            (
                "of another kind",
                module(1, &blob, blob.len()),
                "module_signature.id_type",
            ),
            (
                "longer than the file",
                module(2, &blob, 9999),
                "module_signature.sig_len",
            ),
            (
                "one byte short",
                module(2, &blob, blob.len() - 1),
                "ContentInfo.ContentInfo",
            ),
            (
                "one byte long",
                module(2, &blob, blob.len() + 1),
                "ContentInfo.ContentInfo",
            ),
            (
                "of no length",
                module(2, &blob, 0),
                "ContentInfo.ContentInfo",
            ),
            (
                "a wide key",
                module(2, &wide, wide.len()),
                "exceeds the limit of 256",
            ),
            ("no end", module(2, &indefinite, indefinite.len()), "0x80"),
        ];
        for (name, file, want) in rows {
            let said = ModuleSignature::parse(file).unwrap_err().to_string();
            assert!(said.contains(want), "{name}: {said}");
        }
        for at in 0..blob.len() {
            let mut spoilt = blob.clone();
            spoilt[at] ^= 0x41;
            // Read or refused; never more.
            ModuleSignature::parse(&module(2, &spoilt, spoilt.len())).ok();
        }
    }
}
