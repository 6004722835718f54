//! A signature appended to a file, as modules and kernels have: PKCS#7 `SignedData` (RFC 2315)
//! over content that lies before it.

use const_oid::ObjectIdentifier;
use der::Tag;
use der::asn1::OctetStringRef;

use super::template::FileDigest;
use crate::crypto::{
    HashAlgorithm, PublicKey, SignatureScheme, VerifyError, verify, verify_digest,
};
use crate::error::ParseError;
use crate::x509::{Walk, context};

const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const HASHES: [(ObjectIdentifier, HashAlgorithm); 3] = [
    (
        ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1"),
        HashAlgorithm::Sha256,
    ),
    (
        ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2"),
        HashAlgorithm::Sha384,
    ),
    (
        ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3"),
        HashAlgorithm::Sha512,
    ),
];

/// The one signature of such a message. Nothing of it is verified yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Appended<'a> {
    hash: HashAlgorithm,
    /// What is signed instead of the content, if there is more to say than its digest.
    attributes: Option<Attributes<'a>>,
    signature: &'a [u8],
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Attributes<'a> {
    /// `SET OF Attribute`, as it is signed.
    signed: Vec<u8>,
    message_digest: &'a [u8],
}

impl<'a> Appended<'a> {
    /// Reads a message with exactly one signer; certificates in it are of no account.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let mut outer = Walk::new("PKCS7", bytes)?;
        let mut info = outer.enter("contentInfo", Tag::Sequence)?;
        outer.finish("contentInfo")?;
        let kind: ObjectIdentifier = info.read("contentType")?;
        if kind != SIGNED_DATA {
            return Err(info.rule("contentType", "is not signedData"));
        }
        let mut content = info.enter("content", context(0))?;
        let mut data = content.enter("signedData", Tag::Sequence)?;
        data.raw("version")?;
        data.raw("digestAlgorithms")?;
        data.raw("contentInfo")?;
        for number in [0, 1] {
            if data.at_context(der::TagNumber(number)) {
                data.raw("certificates")?;
            }
        }
        let mut signers = data.enter("signerInfos", Tag::Set)?;
        let mut signer = signers.enter("signerInfo", Tag::Sequence)?;
        signers.finish("signerInfos")?;
        signer.raw("version")?;
        signer.raw("sid")?;
        let mut algorithm = signer.enter("digestAlgorithm", Tag::Sequence)?;
        let id: ObjectIdentifier = algorithm.read("digestAlgorithm")?;
        let known = HASHES.into_iter().find(|(known, _)| *known == id);
        let Some((_, hash)) = known else {
            return Err(signer.rule("digestAlgorithm", "is of no kind that is accepted"));
        };
        let attributes = match signer.at_context(der::TagNumber(0)) {
            true => Some(attributes(&mut signer)?),
            false => None,
        };
        signer.raw("signatureAlgorithm")?;
        let signature: &OctetStringRef = signer.read("signature")?;
        Ok(Self {
            hash,
            attributes,
            signature: signature.as_bytes(),
        })
    }

    /// That `key` signed the content with this digest.
    pub(super) fn verify(
        &self,
        key: &PublicKey,
        content: &FileDigest<'_>,
    ) -> Result<(), VerifyError> {
        let scheme = match key {
            PublicKey::Rsa { .. } => SignatureScheme::RsaPkcs1(self.hash),
            _ => SignatureScheme::Ecdsa(self.hash),
        };
        if content.algorithm != self.hash.name() {
            return Err(VerifyError::Mismatch);
        }
        match &self.attributes {
            None => verify_digest(key, scheme, content.digest, self.signature),
            Some(said) if said.message_digest == content.digest => {
                verify(key, scheme, &said.signed, self.signature)
            }
            Some(_) => Err(VerifyError::Mismatch),
        }
    }
}

fn attributes<'a>(signer: &mut Walk<'a>) -> Result<Attributes<'a>, ParseError> {
    let mut signed = signer.clone().raw("authenticatedAttributes")?.to_vec();
    // It is signed as the set it is, and written under another tag.
    if let Some(tag) = signed.first_mut() {
        *tag = 0x31;
    }
    let mut all = signer.enter("authenticatedAttributes", context(0))?;
    let mut found = None;
    while !all.is_empty() {
        let mut one = all.enter("attribute", Tag::Sequence)?;
        let kind: ObjectIdentifier = one.read("attribute.type")?;
        if kind != MESSAGE_DIGEST {
            continue;
        }
        let mut values = one.enter("attribute.values", Tag::Set)?;
        let digest: &OctetStringRef = values.read("messageDigest")?;
        values.finish("messageDigest")?;
        if found.replace(digest.as_bytes()).is_some() {
            return Err(all.rule("messageDigest", "stands there twice"));
        }
    }
    let message_digest = found.ok_or_else(|| all.rule("messageDigest", "is absent"))?;
    Ok(Attributes {
        signed,
        message_digest,
    })
}
