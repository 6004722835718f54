//! A quote of TDX.

use super::{Asked, Facts, Fault, Judged, Revocation, answers, chip, refused, unchecked, words};
use crate::cvm::TDX_PREFIX;
use crate::cvm::tdx::{self, Quote, TcbStatus, TdxRefused};
use crate::ids::Sha256Digest;
use crate::x509::PathRefused;

/// Sets of collateral tried: editions that overlap.
const MAX_EDITIONS: usize = 4;

pub(super) fn judge(asked: &Asked<'_>, quote: &Quote<'_>) -> Judged {
    let body = &quote.body;
    let [minor, major, ..] = *body.tee_tcb_svn;
    let facts = Facts {
        technology: "tdx",
        version: quote.version.into(),
        chip: None,
        product: None,
        tcb: vec![("module", major.into()), ("module_minor", minor.into())],
        tcb_status: None,
        vmpl: None,
        debug: body.debug(),
        measurement: hex::encode(body.mr_td),
        host_data: hex::encode(body.mr_config_id),
        policy: hex::encode(body.td_attributes),
        registers: body.rtmr.map(hex::encode).to_vec(),
        signer: None,
        instance: body.launch_id().copied(),
    };
    let mut judged = Judged::of(facts);
    judged
        .faults
        .extend(answers(body.report_data, asked.report_data));
    if let Some(vmid @ 1..) = body.vmid {
        // It answers for itself, under the measurement of the guest around it.
        let why = format!("partition {vmid} of the guest asked, not the guest itself");
        judged.faults.push(refused("cvm-partition", why));
    }
    let Some(brought) = &quote.pck_chain else {
        let why = "the quote does not hold the certificate of its processor's key";
        judged.faults.push(unchecked("cvm-key-missing", why));
        return judged;
    };
    let mut chain = brought.clone();
    chain.extend(asked.roots.iter().map(|root| (*root).clone()));
    let maker = asked.endorsements.tdx_root.clone();
    let mut certified = tdx::verify_under(&maker, quote, &chain, asked.at);
    let mut root = maker;
    judged.hardware = certified.is_ok();
    for own in asked.roots {
        if certified.is_ok() {
            break;
        }
        let own = Sha256Digest::of(&[own.spki_der()]).to_string();
        if let Ok(under) = tdx::verify_under(&own, quote, &chain, asked.at) {
            certified = Ok(under);
            root = own;
        }
    }
    let certified = match certified {
        Ok(certified) => certified,
        Err(why) => {
            judged.faults.extend(why.iter().map(fault));
            return judged;
        }
    };
    judged.signed = true;
    if let Some(facts) = &mut judged.facts {
        facts.chip = chip(TDX_PREFIX, &certified.pck.ppid);
        facts.tcb.push(("pce", certified.pck.pce_svn.into()));
    }
    let fmspc = certified.pck.fmspc;
    let all = asked.endorsements.collateral.iter();
    let editions = all.filter(|(_, about, _)| *about == fmspc);
    let mut good: Option<(u32, Sha256Digest, TcbStatus)> = None;
    let mut unsaid = None;
    for (file, _, collateral) in editions.take(MAX_EDITIONS) {
        let endorsed = tdx::endorse_under(&root, collateral, asked.at);
        match endorsed.and_then(|said| tdx::evaluate(&certified, &said)) {
            Ok(tcb) if good.is_none_or(|(newest, ..)| newest < tcb.evaluation) => {
                good = Some((tcb.evaluation, *file, tcb.status));
            }
            Ok(_) => {}
            Err(why) => {
                let faults: Vec<Fault> = why.iter().map(fault).collect();
                // What one edition takes back, no other one brings again.
                if faults.iter().any(|fault| fault.refused) {
                    judged.relied_on.insert(*file);
                    judged.faults.extend(faults);
                    return judged;
                }
                unsaid = unsaid.or(Some(faults));
            }
        }
    }
    match (good, unsaid) {
        (Some((_, file, status)), _) => {
            judged.relied_on.insert(file);
            judged.revocation = Revocation::Good;
            if let Some(facts) = &mut judged.facts {
                facts.tcb_status = Some(status);
            }
        }
        (None, Some(faults)) => judged.faults.extend(faults),
        (None, None) => {
            let why = format!("no collateral about processors {}", hex::encode(fmspc));
            judged.faults.push(unchecked("cvm-collateral-missing", why));
        }
    }
    judged
}

fn fault(why: &TdxRefused) -> Fault {
    let text = words(why);
    match why {
        TdxRefused::Path { reason, .. }
            if matches!(
                **reason,
                PathRefused::Expired { .. } | PathRefused::NotYetValid { .. }
            ) =>
        {
            unchecked("cvm-certificate-expired", text)
        }
        TdxRefused::Root(_) | TdxRefused::Path { .. } => refused("cvm-root", text),
        TdxRefused::QuoteSignature(_)
        | TdxRefused::QeReportSignature(_)
        | TdxRefused::AttestationKey { .. } => refused("cvm-signature", text),
        TdxRefused::Key(_) | TdxRefused::NotPck(_) | TdxRefused::PckExtension(_) => {
            refused("cvm-key", text)
        }
        TdxRefused::NotYetValid { .. } | TdxRefused::Stale { .. } => {
            unchecked("cvm-collateral-expired", text)
        }
        TdxRefused::Collateral { .. } => unchecked("cvm-collateral-missing", text),
        TdxRefused::Signer { .. }
        | TdxRefused::TextSignature { .. }
        | TdxRefused::List { .. }
        // Nothing is wrong with the report: whoever filled the store is asked.
        | TdxRefused::Malformed(..) => unchecked("cvm-collateral", text),
        TdxRefused::Revoked { .. } => refused("cvm-revoked", text),
        TdxRefused::QeIdentity { .. } | TdxRefused::Module { .. } => {
            refused("cvm-firmware", text)
        }
        TdxRefused::Level { .. } | TdxRefused::TcbRevoked { .. } => refused("cvm-tcb", text),
    }
}
