//! The signature inside a RIM: XML-DSig, enveloped, in the one shape that NVIDIA signs.
//!
//! Whatever XML-DSig lets a signer choose is an opening for someone else to choose it: so there is
//! one signature, a child of the outermost element, one reference, to the whole document, and one
//! set of algorithms. The key is that of the first certificate; any other hint in `KeyInfo` is
//! passed over.
//!
//! Rules: XML Signature Syntax and Processing 1.1; algorithms: RFC 4051 and its successors.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::c14n::canonical;
use super::xml::Element;
use crate::crypto::{self, HashAlgorithm, PublicKey, SignatureScheme, VerifyError, ecdsa_der};
use crate::error::{Fault, ParseError};
use crate::x509::Certificate;

/// Namespace of the elements of a signature.
const DSIG: &str = "http://www.w3.org/2000/09/xmldsig#";
/// Canonical XML 1.1 without comments.
const C14N: &str = "http://www.w3.org/2006/12/xml-c14n11";
/// The document without the signature in it.
const ENVELOPED: &str = "http://www.w3.org/2000/09/xmldsig#enveloped-signature";
/// SHA-384 as RFC 4051 names it; XML Encryption has another name for the same.
const SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#sha384";
/// ECDSA over SHA-384.
const ECDSA_SHA384: &str = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384";

/// Certificates in one signature. Genuine ones have four: signer, two CAs and the root.
const MAX_CERTIFICATES: usize = 8;

/// Bytes of a SHA-384 digest, and of each half of the signature.
const HALF: usize = 48;

/// An algorithm other than the one that is understood.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Foreign {
    /// The element that names it.
    pub(super) element: &'static str,
    /// What it names.
    pub(super) found: String,
}

/// The one signature of a document, well-formed. Nothing in it is trusted yet.
#[derive(Debug)]
pub(super) struct Signature<'d, 'a> {
    element: Element<'d, 'a>,
    signed_info: Element<'d, 'a>,
    digest: [u8; HALF],
    value: [[u8; HALF]; 2],
    /// As they stand, the signer's first.
    pub(super) certificates: Vec<Certificate>,
    /// Algorithms that are not the ones understood.
    pub(super) foreign: Vec<Foreign>,
}

impl<'d, 'a> Signature<'d, 'a> {
    /// Finds the signature of the document that `root` is the outermost element of.
    pub(super) fn find(root: Element<'d, 'a>) -> Result<Self, ParseError> {
        let mut all = root.descendants().filter(|one| one.is(DSIG, "Signature"));
        let element = all
            .next()
            .ok_or_else(|| wrong(root, "Signature", "there is none"))?;
        if let Some(second) = all.next() {
            return Err(wrong(second, "Signature", "there is more than one"));
        }
        if !element.parent().is_some_and(|parent| parent.same(&root)) {
            let why = "stands inside something else than the document itself";
            return Err(wrong(element, "Signature", why));
        }
        let [signed_info, value, key_info] = children(
            element,
            "Signature",
            ["SignedInfo", "SignatureValue", "KeyInfo"],
        )?;
        let [method, algorithm, reference] = children(
            signed_info,
            "SignedInfo",
            ["CanonicalizationMethod", "SignatureMethod", "Reference"],
        )?;
        if reference.attribute("", "URI") != Some("") {
            let why = "is to something else than the whole document";
            return Err(wrong(reference, "Reference.URI", why));
        }
        let [transforms, hash, digest] = children(
            reference,
            "Reference",
            ["Transforms", "DigestMethod", "DigestValue"],
        )?;
        let mut foreign = Vec::new();
        for (element, name, known) in [
            (method, "CanonicalizationMethod", C14N),
            (algorithm, "SignatureMethod", ECDSA_SHA384),
            (hash, "DigestMethod", SHA384),
        ] {
            let found = algorithm_of(element, name)?;
            if found != known {
                foreign.push(Foreign::new(name, found));
            }
        }
        let listed = transforms_of(transforms)?;
        if listed != [ENVELOPED, C14N] {
            foreign.push(Foreign::new("Transforms", &listed.join(" ")));
        }
        let wrong_size = |element, name| wrong(element, name, "has another length");
        let digest_bytes = base64(digest, "DigestValue")?;
        let value_bytes = base64(value, "SignatureValue")?;
        let halves = value_bytes
            .split_at_checked(HALF)
            .and_then(|(r, s)| Some([r.try_into().ok()?, s.try_into().ok()?]));
        Ok(Self {
            element,
            signed_info,
            digest: digest_bytes
                .try_into()
                .map_err(|_bytes| wrong_size(digest, "DigestValue"))?,
            value: halves.ok_or_else(|| wrong_size(value, "SignatureValue"))?,
            certificates: certificates(key_info)?,
            foreign,
        })
    }

    /// The document is the one that was digested.
    pub(super) fn digest_fits(&self, root: Element<'_, '_>) -> bool {
        let document = canonical(root, Some(self.element));
        let digest = HashAlgorithm::Sha384.digest(&[&document]);
        digest.is_some_and(|digest| digest.as_slice() == self.digest)
    }

    /// That key signed the digest, and everything else `SignedInfo` says.
    pub(super) fn signed_by(&self, key: &PublicKey) -> Result<(), VerifyError> {
        let signed = canonical(self.signed_info, None);
        let [r, s] = &self.value;
        let der = ecdsa_der(r, s).ok_or(VerifyError::Mismatch)?;
        let scheme = SignatureScheme::Ecdsa(HashAlgorithm::Sha384);
        crypto::verify(key, scheme, &signed, &der)
    }
}

impl Foreign {
    fn new(element: &'static str, found: &str) -> Self {
        Self {
            element,
            found: found.chars().take(200).collect(),
        }
    }
}

fn wrong(element: Element<'_, '_>, field: &'static str, why: &'static str) -> ParseError {
    ParseError {
        structure: "Signature",
        field,
        offset: element.offset(),
        fault: Fault::Rule(why),
    }
}

/// The children of an element, which are these and no others, in this order.
fn children<'d, 'a, const N: usize>(
    element: Element<'d, 'a>,
    field: &'static str,
    names: [&str; N],
) -> Result<[Element<'d, 'a>; N], ParseError> {
    let found: Vec<Element<'_, '_>> = element.children().take(N + 1).collect();
    let as_named = found.len() == N
        && found
            .iter()
            .zip(names)
            .all(|(child, name)| child.is(DSIG, name));
    let found: Result<[Element<'_, '_>; N], _> = found.try_into();
    match found {
        Ok(found) if as_named => Ok(found),
        _ => Err(wrong(
            element,
            field,
            "does not hold what it has to, in order",
        )),
    }
}

/// The algorithm an element names. None of those understood has parameters.
fn algorithm_of<'d>(element: Element<'d, '_>, field: &'static str) -> Result<&'d str, ParseError> {
    if !element.is_empty() {
        return Err(wrong(element, field, "has parameters"));
    }
    element
        .attribute("", "Algorithm")
        .ok_or_else(|| wrong(element, field, "names no algorithm"))
}

fn transforms_of<'d>(transforms: Element<'d, '_>) -> Result<Vec<&'d str>, ParseError> {
    let each = transforms.children().map(|transform| {
        if transform.is(DSIG, "Transform") {
            algorithm_of(transform, "Transform")
        } else {
            Err(wrong(transform, "Transforms", "holds something else"))
        }
    });
    each.collect()
}

fn base64(element: Element<'_, '_>, field: &'static str) -> Result<Vec<u8>, ParseError> {
    let text = element
        .text()
        .ok_or_else(|| wrong(element, field, "holds something else than text"))?;
    let packed: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    STANDARD
        .decode(packed)
        .map_err(|_error| wrong(element, field, "is not base64"))
}

/// The certificates of `X509Data`. Keys and names beside it are hints nobody signed.
fn certificates(key_info: Element<'_, '_>) -> Result<Vec<Certificate>, ParseError> {
    let mut data = key_info.children().filter(|one| one.is(DSIG, "X509Data"));
    let (Some(data), None) = (data.next(), data.next()) else {
        return Err(wrong(key_info, "KeyInfo", "does not hold one X509Data"));
    };
    let mut found = Vec::new();
    for element in data.children() {
        if !element.is(DSIG, "X509Certificate") {
            return Err(wrong(element, "X509Data", "holds something else"));
        }
        if found.len() == MAX_CERTIFICATES {
            return Err(wrong(element, "X509Data", "holds too many certificates"));
        }
        let der = base64(element, "X509Certificate")?;
        // Places inside a certificate count from its own start.
        found.push(Certificate::parse(&der)?);
    }
    if found.is_empty() {
        return Err(wrong(data, "X509Data", "holds no certificate"));
    }
    Ok(found)
}
