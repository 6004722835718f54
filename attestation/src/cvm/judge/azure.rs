//! What Azure's paravisor laid into its vTPM.
//!
//! A report proves of a vTPM what whoever asked for it says, and any guest may say what it likes. It is
//! a paravisor's word only from the most privileged level, which no guest of a paravisor runs at, and
//! only if what was launched is a paravisor: that is for the profile to know, by its measurement or by
//! the key that signed it.

use super::{ANOTHER_AK, Asked, Judged, Vtpm, amd, privileged, refused, unchecked, words};
use crate::cvm::hcl::{Hardware, HclReport};
use crate::cvm::snp::Report;

pub(super) fn judge(asked: &Asked<'_>, hcl: &HclReport<'_>) -> Judged {
    let bound = hcl.report_data();
    let (mut judged, found) = match hcl.hardware {
        Hardware::SevSnp(bytes) => match Report::parse(bytes) {
            Ok(report) => {
                let beneath = Asked {
                    // Held against what is bound here, below: another question is another fault.
                    report_data: report.report_data,
                    ..*asked
                };
                (amd::judge(&beneath, &report), *report.report_data)
            }
            Err(why) => return Judged::unread(refused("cvm-malformed", words(&why))),
        },
        Hardware::Tdx(report) => {
            let why = "a TD report, which only its own processor can check: a quote made of it is \
                       not there";
            let judged = Judged::unread(unchecked("cvm-quote-missing", why));
            (judged, *report.report_data)
        }
        Hardware::None => {
            let why = "the VM has a vTPM, and no processor that speaks for it";
            return Judged::unread(refused("cvm-missing", why));
        }
        Hardware::Other(kind) => {
            let why = format!("a report of kind {kind}, which nobody here can check");
            return Judged::unread(unchecked("cvm-kind", why));
        }
    };
    if found != bound {
        let (found, bound) = (hex::encode(found), hex::encode(bound));
        let why =
            format!("the processor bound {found}, and the runtime data that came would be {bound}");
        judged.faults.push(refused("cvm-runtime-data", why));
    }
    judged.faults.extend(privileged(&judged));
    let runtime = match hcl.runtime() {
        Ok(runtime) => runtime,
        Err(why) => {
            judged.faults.push(refused("cvm-malformed", words(&why)));
            return judged;
        }
    };
    let ak = asked.tpm.map(|keys| keys.ak);
    if let Some(ak) = ak.filter(|ak| **ak != runtime.ak) {
        let digest = |key: &crate::crypto::PublicKey| {
            crate::ids::Sha256Digest::of(&[&key.to_spki_der()]).to_string()
        };
        let why = format!(
            "the report names the AK with key {}, and {} signed the quote",
            digest(&runtime.ak),
            digest(ak)
        );
        judged.faults.push(refused(ANOTHER_AK, why));
    }
    judged.vtpm = Some(Vtpm {
        named: ak == Some(&runtime.ak),
        fresh: runtime.question == Some(*asked.report_data),
    });
    judged
}
