//! `bailiwick inspect tpm-quote`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use bailiwick_attestation::crypto::{HashAlgorithm, PublicKey};
use bailiwick_attestation::tpm::{AkPublic, Attest, PcrValues, Public, Quote, Signature};
use bailiwick_attestation::x509::pem_blocks;
use serde_json::Value;

use super::file::read;
use super::report::{Finding, Report};

/// Larger than any attestation (an NV certification may carry 2 KiB), signature or public area.
const STRUCTURE_LIMIT: u64 = 16 * 1024;
/// Every PCR of every bank as text is below 64 KiB.
const PCRS_LIMIT: u64 = 256 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// `TPMS_ATTEST`, with or without a `TPM2B` length.
    #[arg(long, value_name = "FILE")]
    attest: PathBuf,
    /// `TPMT_SIGNATURE`.
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// The attestation key: `TPMT_PUBLIC`, `TPM2B_PUBLIC`, or PEM or DER `SubjectPublicKeyInfo`.
    #[arg(long, value_name = "FILE")]
    ak: Option<PathBuf>,
    /// The challenge, as the TPM was to sign it.
    #[arg(long, value_name = "HEX", value_parser = hex_bytes)]
    nonce: Option<Bytes>,
    /// PCR values: JSON, tpm2-tools YAML, or its serialized form.
    #[arg(long, value_name = "FILE")]
    pcrs: Option<PathBuf>,
}

/// Bytes of an argument. A type of its own: clap takes a bare `Vec` for a repeated option.
#[derive(Clone, Debug)]
struct Bytes(Vec<u8>);

fn hex_bytes(text: &str) -> Result<Bytes, hex::FromHexError> {
    hex::decode(text).map(Bytes)
}

/// What `--ak` holds.
pub(super) enum Ak {
    /// A public area whose attributes were found good.
    Checked(Box<AkPublic>),
    /// A key that may verify the signature, though nobody can say what else it signs.
    Bare(PublicKey),
}

impl Ak {
    /// The key itself.
    pub(super) fn key(&self) -> &PublicKey {
        match self {
            Self::Checked(ak) => ak.key(),
            Self::Bare(key) => key,
        }
    }
}

pub(super) fn inspect(args: &Args) -> anyhow::Result<Report> {
    let mut report = Report::new("tpm-quote");
    let attest = read(&args.attest, STRUCTURE_LIMIT, &mut report)?;
    let signature = match &args.signature {
        Some(path) => read(path, STRUCTURE_LIMIT, &mut report)?,
        None => {
            let finding = Finding::new("signature-not-given", "no signature to check");
            report.undecided(finding);
            None
        }
    };
    let ak = match &args.ak {
        Some(path) => read(path, STRUCTURE_LIMIT, &mut report)?,
        None => {
            let finding = Finding::new("ak-not-given", "no key to check the signature with");
            report.undecided(finding);
            None
        }
    };
    let pcrs = match &args.pcrs {
        Some(path) => read(path, PCRS_LIMIT, &mut report)?,
        None => None,
    };

    let attest = attest
        .as_deref()
        .and_then(|bytes| read_attest(bytes, &mut report));
    let signature = signature.and_then(|bytes| match Signature::parse(&bytes) {
        Ok(signature) => Some(signature),
        Err(error) => {
            report.refuse(Finding::from_error("malformed", &error));
            None
        }
    });
    let ak = ak.and_then(|bytes| read_ak(&bytes, &mut report));
    let pcrs = pcrs.and_then(|bytes| match PcrValues::parse_file(&bytes) {
        Ok(values) => Some(values),
        Err(error) => {
            report.refuse(Finding::from_error("pcr-values", &error));
            None
        }
    });

    if let Some(signature) = &signature {
        check_signature(attest.as_ref(), signature, ak.as_ref(), &mut report);
    }
    if let Some(attest) = attest {
        check_nonce(&attest, args.nonce.as_ref(), &mut report);
        check_quote(attest, signature.as_ref(), pcrs.as_ref(), &mut report);
    }
    Ok(report)
}

fn read_attest<'a>(bytes: &'a [u8], report: &mut Report) -> Option<Attest<'a>> {
    let attest = match Attest::parse_either(bytes) {
        Ok(attest) => attest,
        Err(error) => {
            report.refuse(Finding::from_error("malformed", &error));
            return None;
        }
    };
    report.fact("type", attest.kind.name());
    report.fact("extra_data", hex::encode(attest.extra_data));
    report.fact("reset_count", attest.clock_info.reset_count);
    report.fact("restart_count", attest.clock_info.restart_count);
    report.fact("clock", attest.clock_info.clock);
    report.fact("safe", attest.clock_info.safe);
    report.fact(
        "firmware_version",
        format!("{:016x}", attest.firmware_version),
    );
    Some(attest)
}

pub(super) fn read_ak(bytes: &[u8], report: &mut Report) -> Option<Ak> {
    match load_ak(bytes, report) {
        Ok(ak) => ak,
        Err(finding) => {
            report.refuse(finding);
            None
        }
    }
}

fn load_ak(bytes: &[u8], report: &mut Report) -> Result<Option<Ak>, Finding> {
    let text = std::str::from_utf8(bytes).ok();
    let spki = match text.filter(|text| text.contains("-----BEGIN ")) {
        Some(text) => {
            let blocks = pem_blocks(text, "PUBLIC KEY", 1)
                .map_err(|error| Finding::from_error("malformed", &error))?;
            let block = blocks.into_iter().next();
            Some(block.ok_or_else(|| Finding::new("malformed", "the PEM holds no PUBLIC KEY"))?)
        }
        // No public area begins with an ASN.1 SEQUENCE: as its type or its length, 0x30.. is
        // out of range.
        None if bytes.first() == Some(&0x30) => Some(bytes.to_vec()),
        None => None,
    };
    if let Some(spki) = spki {
        let key = PublicKey::from_spki_der(&spki)
            .map_err(|error| Finding::from_error(error.code(), &error))?;
        report.warn(Finding::new(
            "ak-attributes-unknown",
            "a bare key cannot show whether it is restricted: the TPM may sign anything with it",
        ));
        return Ok(Some(Ak::Bare(key)));
    }
    let public =
        Public::parse_either(bytes).map_err(|error| Finding::from_error("malformed", &error))?;
    if let Some(name) = public.name() {
        report.fact("ak_name", name.to_string());
    }
    let key = public.key().cloned();
    match AkPublic::new(public) {
        Ok(ak) => Ok(Some(Ak::Checked(Box::new(ak)))),
        Err(error) => {
            report.refuse(Finding::from_error(error.code(), &error));
            Ok(key.map(Ak::Bare))
        }
    }
}

fn check_signature(
    attest: Option<&Attest<'_>>,
    signature: &Signature,
    ak: Option<&Ak>,
    report: &mut Report,
) {
    let key = match ak {
        Some(Ak::Checked(ak)) => {
            if !ak.allows(signature) {
                let finding = "the signature's scheme or hash is not the AK's";
                report.refuse(Finding::new("signature-scheme", finding));
                return;
            }
            ak.key()
        }
        Some(Ak::Bare(key)) => key,
        None => {
            if signature.hash() == HashAlgorithm::Sha1 {
                let finding = "SHA-1 signatures are not accepted";
                report.refuse(Finding::new("sha1-signature", finding));
            }
            return;
        }
    };
    if let Some(attest) = attest
        && let Err(error) = signature.verify(key, attest.signed)
    {
        report.refuse(Finding::from_error(error.code(), &error));
    }
}

fn check_nonce(attest: &Attest<'_>, nonce: Option<&Bytes>, report: &mut Report) {
    match nonce {
        Some(Bytes(nonce)) if nonce != attest.extra_data => {
            let detail = "extraData is not the nonce: the quote answers another challenge";
            report.refuse(Finding::new("nonce", detail));
        }
        Some(_) => {}
        None => {
            let detail = "no nonce given: the quote may be an old one";
            report.warn(Finding::new("nonce-not-checked", detail));
        }
    }
}

fn check_quote(
    attest: Attest<'_>,
    signature: Option<&Signature>,
    pcrs: Option<&PcrValues>,
    report: &mut Report,
) {
    let quote = match Quote::from_attest(attest) {
        Ok(quote) => quote,
        Err(error) => {
            report.refuse(Finding::from_error(error.code(), &error));
            return;
        }
    };
    let mut banks: Vec<HashAlgorithm> = quote.selection().banks().map(|bank| bank.bank).collect();
    banks.dedup();
    if let [bank] = banks.as_slice() {
        let indices = quote.selection().registers().map(|(_, index)| index);
        let indices: BTreeSet<u8> = indices.collect();
        report.fact("bank", bank.name());
        let indices: Vec<Value> = indices.into_iter().map(Value::from).collect();
        report.fact("selection", indices);
    }
    if quote.selection().is_empty() {
        let detail = "the quote selects no PCR and so says nothing";
        report.refuse(Finding::new("empty-selection", detail));
    }
    if banks == [HashAlgorithm::Sha1] {
        let detail = "only the SHA-1 bank is quoted: collisions are cheap";
        report.warn(Finding::new("sha1-bank", detail));
    }
    let Some(pcrs) = pcrs else {
        return;
    };
    // The digest over the values uses the hash of the signature; without one its length tells.
    let hash = signature.map_or_else(
        || match quote.digest().as_slice().len() {
            20 => HashAlgorithm::Sha1,
            48 => HashAlgorithm::Sha384,
            64 => HashAlgorithm::Sha512,
            _ => HashAlgorithm::Sha256,
        },
        Signature::hash,
    );
    if let Err(error) = quote.compare(hash, pcrs) {
        report.refuse(Finding::from_error(error.code(), &error));
    }
    let extra: Vec<String> = pcrs
        .iter()
        .filter(|(bank, index, _)| !quote.selection().contains(*bank, *index))
        .map(|(bank, index, _)| format!("{bank}:{index}"))
        .collect();
    if !extra.is_empty() {
        let detail = format!("given, but not quoted: {}", extra.join(", "));
        report.warn(Finding::new("pcr-not-selected", detail));
    }
}
