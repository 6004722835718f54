//! A quote held against what Intel says of processors, enclaves and firmware.

use super::collateral::{EnclaveLevel, Module, PlatformLevel, QeIdentity, TcbInfo, TcbStatus};
use super::pck::Pck;
use super::quote::{Body, QeReport};
use super::refused::TdxRefused;
use super::signed::{Endorsements, revoked};
use super::verify::Certified;

/// What Intel says of the firmware behind a quote.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tcb {
    /// Of all of it together.
    pub status: TcbStatus,
    /// Of the platform: microcode, BIOS and what loads the TDX module.
    pub platform: TcbStatus,
    /// Of the TDX module, where it is listed by itself.
    pub module: Option<TcbStatus>,
    /// Of the quoting enclave.
    pub qe: TcbStatus,
    /// Advisories that name what was found, in the order found, each once.
    pub advisories: Vec<String>,
    /// `tcbEvaluationDataNumber` of the TCB info: which edition of Intel's word this is.
    pub evaluation: u32,
    /// That of the enclave's identity.
    pub qe_evaluation: u32,
}

/// Judges the firmware behind a quote. Refused is what Intel took back, what it does not list,
/// and what the endorsements are not about; all else is told as it is.
pub fn evaluate(
    certified: &Certified<'_>,
    endorsements: &Endorsements,
) -> Result<Tcb, Vec<TdxRefused>> {
    let Endorsements {
        tcb_info,
        qe_identity,
        root_ca_crl,
        pck_crl,
        ..
    } = endorsements;
    let mut refused = about(certified, endorsements);
    refused.extend(revoked(root_ca_crl, &certified.path));
    refused.extend(revoked(pck_crl, &certified.path));
    if !refused.is_empty() {
        // Levels of another platform say nothing of this one.
        return Err(refused);
    }
    refused.extend(qe(&certified.quote.qe_report, qe_identity));
    let qe = qe_level(&certified.quote.qe_report, qe_identity).map_err(|why| refused.push(why));
    let found = firmware(&certified.pck, &certified.quote.body, tcb_info);
    let found = found.map_err(|why| refused.push(why));
    let (Ok(qe), Ok(found)) = (qe, found) else {
        return Err(refused);
    };
    if !refused.is_empty() {
        return Err(refused);
    }
    let mut advisories: Vec<String> = Vec::new();
    for one in found.advisories.into_iter().chain(&qe.advisories) {
        if !advisories.contains(one) {
            advisories.push(one.clone());
        }
    }
    Ok(Tcb {
        status: with_part(found.status, qe.status),
        platform: found.platform,
        module: found.module,
        qe: qe.status,
        advisories,
        evaluation: tcb_info.evaluation,
        qe_evaluation: qe_identity.evaluation,
    })
}

/// The endorsements are of this processor's kind and by the issuer of its certificate.
fn about(certified: &Certified<'_>, endorsements: &Endorsements) -> Vec<TdxRefused> {
    let Pck { fmspc, pce_id, .. } = &certified.pck;
    let info = &endorsements.tcb_info;
    let mut rows = vec![
        (
            "tcb_info.fmspc",
            hex::encode(info.fmspc.0),
            hex::encode(fmspc),
        ),
        (
            "tcb_info.pceId",
            hex::encode(info.pce_id.0),
            hex::encode(pce_id),
        ),
    ];
    let issuer = certified.path.first().map(|leaf| leaf.issuer());
    if let Some(issuer) = issuer.filter(|issuer| *issuer != endorsements.pck_crl.issuer()) {
        let found = endorsements.pck_crl.issuer().label();
        rows.push(("pck_crl", found, issuer.label()));
    }
    let differ = rows
        .into_iter()
        .filter(|(_, found, expected)| found != expected);
    differ
        .map(|(what, found, expected)| TdxRefused::Collateral {
            what,
            found,
            expected,
        })
        .collect()
}

/// The enclave that holds the attestation key is Intel's quoting enclave for TDX.
fn qe(report: &QeReport<'_>, identity: &QeIdentity) -> Vec<TdxRefused> {
    let prod_id = report.isv_prod_id.to_le_bytes();
    let rows: [(&'static str, Vec<u8>, &[u8]); 4] = [
        (
            "MISCSELECT",
            masked(report.misc_select, &identity.misc_select_mask.0),
            &identity.misc_select.0,
        ),
        (
            "ATTRIBUTES",
            masked(report.attributes, &identity.attributes_mask.0),
            &identity.attributes.0,
        ),
        ("MRSIGNER", report.mr_signer.to_vec(), &identity.signer.0),
        (
            "ISVPRODID",
            prod_id.to_vec(),
            &identity.prod_id.to_le_bytes(),
        ),
    ];
    let differ = rows
        .into_iter()
        .filter(|(_, found, expected)| found != expected);
    differ
        .map(|(field, found, expected)| TdxRefused::QeIdentity {
            field,
            found: hex::encode(found),
            expected: hex::encode(expected),
        })
        .collect()
}

fn masked(value: &[u8], mask: &[u8]) -> Vec<u8> {
    value.iter().zip(mask).map(|(v, m)| v & m).collect()
}

fn qe_level<'a>(
    report: &QeReport<'_>,
    identity: &'a QeIdentity,
) -> Result<&'a EnclaveLevel, TdxRefused> {
    enclave_level("quoting enclave", report.isv_svn, &identity.levels)
}

/// The best level that this version reaches.
fn enclave_level<'a>(
    what: &'static str,
    svn: u16,
    levels: &'a [EnclaveLevel],
) -> Result<&'a EnclaveLevel, TdxRefused> {
    let reached = levels.iter().find(|level| level.tcb.isv_svn <= svn);
    let level = reached.ok_or_else(|| TdxRefused::Level {
        what,
        found: format!("version {svn}"),
    })?;
    not_revoked(what, level.status)?;
    Ok(level)
}

fn not_revoked(what: &'static str, status: TcbStatus) -> Result<(), TdxRefused> {
    if status == TcbStatus::Revoked {
        return Err(TdxRefused::TcbRevoked { what, status });
    }
    Ok(())
}

/// Firmware at one moment of the guest's life.
struct Firmware<'a> {
    status: TcbStatus,
    platform: TcbStatus,
    module: Option<TcbStatus>,
    advisories: Vec<&'a String>,
}

/// The firmware the guest was launched under, and, where the quote says which runs now (the TDX
/// module can be replaced below running guests), whether launching it anew would help.
fn firmware<'a>(pck: &Pck, body: &Body<'_>, info: &'a TcbInfo) -> Result<Firmware<'a>, TdxRefused> {
    let mut launched = at_versions(pck, body, body.tee_tcb_svn, info)?;
    if let Some(now) = body.tee_tcb_svn2 {
        let now = at_versions(pck, body, now, info)?;
        launched.status = relaunch(launched.status, now.status);
    }
    Ok(launched)
}

fn at_versions<'a>(
    pck: &Pck,
    body: &Body<'_>,
    svn: &[u8; 16],
    info: &'a TcbInfo,
) -> Result<Firmware<'a>, TdxRefused> {
    let [minor, major, ..] = *svn;
    // Version 0 of the module is listed with the platform, later ones by themselves.
    let (module, own) = if major == 0 {
        (&info.module, None)
    } else {
        let id = format!("TDX_{major:02X}");
        let listed = info.modules.iter().find(|module| module.id == id);
        let listed = listed.ok_or_else(|| TdxRefused::Module {
            field: "TEE_TCB_SVN",
            found: id,
            expected: ids(info),
        })?;
        let level = enclave_level("TDX module", minor.into(), &listed.levels)?;
        (&listed.module, Some(level))
    };
    by_intel(body, module)?;
    let platform = platform_level(pck, svn, info)?;
    not_revoked("platform", platform.status)?;
    let status = match own {
        Some(own) => with_part(platform.status, own.status),
        None => platform.status,
    };
    let own_advisories = own.map(|own| own.advisories.iter());
    Ok(Firmware {
        status,
        platform: platform.status,
        module: own.map(|own| own.status),
        advisories: platform
            .advisories
            .iter()
            .chain(own_advisories.into_iter().flatten())
            .collect(),
    })
}

fn ids(info: &TcbInfo) -> String {
    let ids: Vec<&str> = info.modules.iter().map(|one| one.id.as_str()).collect();
    format!("[{}]", ids.join(", "))
}

/// The module is signed by whom, and runs as, the TCB info says.
fn by_intel(body: &Body<'_>, module: &Module) -> Result<(), TdxRefused> {
    let attributes = masked(body.seam_attributes, &module.mask.0);
    let rows: [(&'static str, &[u8], &[u8]); 2] = [
        ("MRSIGNERSEAM", body.mr_signer_seam, &module.signer.0),
        ("SEAMATTRIBUTES", &attributes, &module.attributes.0),
    ];
    match rows.into_iter().find(|(_, found, want)| found != want) {
        None => Ok(()),
        Some((field, found, expected)) => Err(TdxRefused::Module {
            field,
            found: hex::encode(found),
            expected: hex::encode(expected),
        }),
    }
}

/// The best level whose every component the platform reaches.
fn platform_level<'a>(
    pck: &Pck,
    svn: &[u8; 16],
    info: &'a TcbInfo,
) -> Result<&'a PlatformLevel, TdxRefused> {
    let [_, major, ..] = *svn;
    // The first two are the module's, where it is listed by itself.
    let skip = if major == 0 { 0 } else { 2 };
    let reached = info.levels.iter().find(|level| {
        let tcb = &level.tcb;
        let sgx = pck.components.iter().zip(&tcb.sgx);
        let tdx = svn.iter().zip(&tcb.tdx).skip(skip);
        sgx.chain(tdx).all(|(have, need)| *have >= need.svn) && pck.pce_svn >= tcb.pce_svn
    });
    reached.ok_or_else(|| TdxRefused::Level {
        what: "platform",
        found: format!(
            "SGX {}, PCE {}, TDX {}",
            hex::encode(pck.components),
            pck.pce_svn,
            hex::encode(svn)
        ),
    })
}

/// A platform with a part that has a level of its own. Only a part that is out of date makes the
/// whole worse: what a part asks of settings or of software is not the platform's.
const fn with_part(whole: TcbStatus, part: TcbStatus) -> TcbStatus {
    use TcbStatus::{
        ConfigurationAndSWHardeningNeeded, ConfigurationNeeded, OutOfDate,
        OutOfDateConfigurationNeeded, SWHardeningNeeded, UpToDate,
    };
    match (part, whole) {
        (OutOfDate, UpToDate | SWHardeningNeeded) => OutOfDate,
        (OutOfDate, ConfigurationNeeded | ConfigurationAndSWHardeningNeeded) => {
            OutOfDateConfigurationNeeded
        }
        (_, whole) => whole,
    }
}

/// Out of date when the guest was launched, and not any more.
const fn relaunch(launched: TcbStatus, now: TcbStatus) -> TcbStatus {
    use TcbStatus::{
        ConfigurationAndSWHardeningNeeded, ConfigurationNeeded, OutOfDate,
        OutOfDateConfigurationNeeded, SWHardeningNeeded, TDRelaunchAdvised,
        TDRelaunchAdvisedConfigurationNeeded, UpToDate,
    };
    match (launched, now) {
        (OutOfDate, UpToDate | SWHardeningNeeded) => TDRelaunchAdvised,
        (OutOfDate, ConfigurationNeeded | ConfigurationAndSWHardeningNeeded)
        | (
            OutOfDateConfigurationNeeded,
            UpToDate | SWHardeningNeeded | ConfigurationNeeded | ConfigurationAndSWHardeningNeeded,
        ) => TDRelaunchAdvisedConfigurationNeeded,
        (launched, _) => launched,
    }
}
