//! Bytes to a response.

use const_oid::ObjectIdentifier;
use der::asn1::{BitStringRef, GeneralizedTime, OctetStringRef};
use der::{Tag, TagNumber};
use x509_cert::spki::AlgorithmIdentifierRef;

use crate::crypto::HashAlgorithm;
use crate::error::ParseError;
use crate::ids::{Sha256Digest, UnixTime};
use crate::x509::Certificate;
use crate::x509::der::{Walk, context};

use super::{Answer, CertId, FILE, OcspRefused, ResponderId, Response, Status};

/// Answers in one response; real ones have one.
const MAX_ANSWERS: usize = 32;
/// Certificates in one response; real ones have one.
const MAX_CERTIFICATES: usize = 8;

const BASIC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.1");

/// Hashes a `CertID` may be made with. SHA-1 only names a certificate here, it vouches for none.
const CERT_ID_HASHES: [(&str, HashAlgorithm); 4] = [
    ("1.3.14.3.2.26", HashAlgorithm::Sha1),
    ("2.16.840.1.101.3.4.2.1", HashAlgorithm::Sha256),
    ("2.16.840.1.101.3.4.2.2", HashAlgorithm::Sha384),
    ("2.16.840.1.101.3.4.2.3", HashAlgorithm::Sha512),
];

/// Reads a response, in either form, to its last byte.
pub(super) fn response(bytes: &[u8]) -> Result<Response, OcspRefused> {
    let der = FILE.der(bytes)?;
    let mut outer = Walk::new(FILE.structure, &der)?;
    let mut response = outer.enter("OCSPResponse", Tag::Sequence)?;
    let (tag, status) = response.any("responseStatus")?;
    let [status] = *status else {
        return Err(response.rule("responseStatus", "is no status").into());
    };
    if tag != Tag::Enumerated {
        return Err(response.rule("responseStatus", "is no status").into());
    }
    if status != 0 {
        return Err(OcspRefused::Unsuccessful(status));
    }
    let mut tagged = response.enter("responseBytes", context(0))?;
    let mut bytes = tagged.enter("responseBytes", Tag::Sequence)?;
    let kind: ObjectIdentifier = bytes.read("responseType")?;
    if kind != BASIC {
        return Err(bytes.rule("responseType", "is not a basic response").into());
    }
    let basic: &OctetStringRef = bytes.read("response")?;
    bytes.finish("responseBytes")?;
    tagged.finish("responseBytes")?;
    response.finish("OCSPResponse")?;
    outer.finish("OCSPResponse")?;
    Ok(basic_response(basic.as_bytes(), Sha256Digest::of(&[&der]))?)
}

fn basic_response(der: &[u8], digest: Sha256Digest) -> Result<Response, ParseError> {
    let mut outer = Walk::new("BasicOCSPResponse", der)?;
    let mut basic = outer.enter("BasicOCSPResponse", Tag::Sequence)?;
    let mut peek = basic.clone();
    let tbs = peek.raw("tbsResponseData")?.to_vec();
    let mut data = basic.enter("tbsResponseData", Tag::Sequence)?;
    if data.at_context(TagNumber(0)) {
        let mut tagged = data.enter("version", context(0))?;
        let version: u8 = tagged.read("version")?;
        if version != 0 {
            return Err(tagged.rule("version", "is not 1"));
        }
    }
    let responder = responder_id(&mut data)?;
    let produced_at = time(&mut data, "producedAt")?;
    let mut list = data.enter("responses", Tag::Sequence)?;
    let mut answers = Vec::new();
    while !list.is_empty() {
        if answers.len() == MAX_ANSWERS {
            return Err(list.rule("responses", "are more than anybody asks for"));
        }
        answers.push(answer(&mut list)?);
    }
    no_critical(&mut data, "responseExtensions")?;
    data.finish("tbsResponseData")?;

    let algorithm: AlgorithmIdentifierRef<'_> = basic.read("signatureAlgorithm")?;
    let hash = match algorithm.oid.to_string().as_str() {
        "1.2.840.10045.4.3.2" => HashAlgorithm::Sha256,
        "1.2.840.10045.4.3.3" => HashAlgorithm::Sha384,
        "1.2.840.10045.4.3.4" => HashAlgorithm::Sha512,
        _ => return Err(basic.rule("signatureAlgorithm", "is not ECDSA")),
    };
    let signature: BitStringRef<'_> = basic.read("signature")?;
    let Some(signature) = signature.as_bytes().map(<[u8]>::to_vec) else {
        return Err(basic.rule("signature", "is not a whole number of bytes"));
    };
    let mut certificates = Vec::new();
    if basic.at_context(TagNumber(0)) {
        let mut tagged = basic.enter("certs", context(0))?;
        let mut list = tagged.enter("certs", Tag::Sequence)?;
        while !list.is_empty() {
            if certificates.len() == MAX_CERTIFICATES {
                return Err(list.rule("certs", "are more than any responder needs"));
            }
            certificates.push(Certificate::parse(list.raw("certs")?)?);
        }
        tagged.finish("certs")?;
    }
    basic.finish("BasicOCSPResponse")?;
    outer.finish("BasicOCSPResponse")?;
    Ok(Response {
        digest,
        tbs,
        hash,
        signature,
        responder,
        produced_at,
        answers,
        certificates,
    })
}

fn responder_id(data: &mut Walk<'_>) -> Result<ResponderId, ParseError> {
    if data.at_context(TagNumber(1)) {
        let mut tagged = data.enter("responderID", context(1))?;
        let name = tagged.raw("responderID.byName")?.to_vec();
        tagged.finish("responderID")?;
        return Ok(ResponderId::Name(name));
    }
    let mut tagged = data.enter("responderID", context(2))?;
    let digest: &OctetStringRef = tagged.read("responderID.byKey")?;
    tagged.finish("responderID")?;
    Ok(ResponderId::Key(digest.as_bytes().to_vec()))
}

fn answer(list: &mut Walk<'_>) -> Result<Answer, ParseError> {
    let mut one = list.enter("SingleResponse", Tag::Sequence)?;
    let mut id = one.enter("certID", Tag::Sequence)?;
    let algorithm: AlgorithmIdentifierRef<'_> = id.read("hashAlgorithm")?;
    let oid = algorithm.oid.to_string();
    let known = CERT_ID_HASHES.iter().find(|(known, _)| *known == oid);
    let Some((_, hash)) = known else {
        return Err(id.rule("hashAlgorithm", "is not one that is known"));
    };
    let issuer_name: &OctetStringRef = id.read("issuerNameHash")?;
    let issuer_key: &OctetStringRef = id.read("issuerKeyHash")?;
    let (tag, serial) = id.any("serialNumber")?;
    if tag != Tag::Integer {
        return Err(id.rule("serialNumber", "is not an integer"));
    }
    id.finish("certID")?;
    let id = CertId {
        hash: *hash,
        issuer_name: issuer_name.as_bytes().to_vec(),
        issuer_key: issuer_key.as_bytes().to_vec(),
        serial: serial.to_vec(),
    };
    let status = status(&mut one)?;
    let this_update = time(&mut one, "thisUpdate")?;
    let next_update = if one.at_context(TagNumber(0)) {
        let mut tagged = one.enter("nextUpdate", context(0))?;
        let next = time(&mut tagged, "nextUpdate")?;
        tagged.finish("nextUpdate")?;
        Some(next)
    } else {
        None
    };
    no_critical(&mut one, "singleExtensions")?;
    one.finish("SingleResponse")?;
    Ok(Answer {
        id,
        status,
        this_update,
        next_update,
    })
}

fn status(one: &mut Walk<'_>) -> Result<Status, ParseError> {
    if one.at_context(TagNumber(1)) {
        let mut revoked = one.enter("certStatus.revoked", context(1))?;
        let since = time(&mut revoked, "revocationTime")?.secs();
        let mut reason = None;
        if revoked.at_context(TagNumber(0)) {
            let mut tagged = revoked.enter("revocationReason", context(0))?;
            let (_, value) = tagged.any("revocationReason")?;
            reason = value.last().copied();
            tagged.finish("revocationReason")?;
        }
        revoked.finish("certStatus.revoked")?;
        return Ok(Status::Revoked { since, reason });
    }
    let (tag, content) = one.any("certStatus")?;
    let Tag::ContextSpecific {
        constructed: false,
        number,
    } = tag
    else {
        return Err(one.rule("certStatus", "is no status"));
    };
    match (number.value(), content) {
        (0, []) => Ok(Status::Good),
        (2, []) => Ok(Status::Unknown),
        _ => Err(one.rule("certStatus", "is no status")),
    }
}

fn time(walk: &mut Walk<'_>, field: &'static str) -> Result<UnixTime, ParseError> {
    let time: GeneralizedTime = walk.read(field)?;
    Ok(UnixTime::from_secs(time.to_unix_duration().as_secs()))
}

/// Extensions, tagged 1: none that is critical is understood, and none is needed.
fn no_critical(walk: &mut Walk<'_>, field: &'static str) -> Result<(), ParseError> {
    if !walk.at_context(TagNumber(1)) {
        return Ok(());
    }
    let mut tagged = walk.enter(field, context(1))?;
    let mut list = tagged.enter(field, Tag::Sequence)?;
    while !list.is_empty() {
        let mut one = list.enter(field, Tag::Sequence)?;
        one.read::<ObjectIdentifier>(field)?;
        if one.peek() == Some(Tag::Boolean) && one.read::<bool>(field)? {
            return Err(one.rule(field, "are critical and not understood"));
        }
        one.read::<&OctetStringRef>(field)?;
        one.finish(field)?;
    }
    tagged.finish(field)
}
