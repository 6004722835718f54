//! A report of SEV-SNP.

use std::collections::BTreeSet;

use super::{
    Asked, Facts, Fault, Judged, LaunchSigner, Revocation, answers, chip, refused, tcb_text,
    unchecked, words,
};
use crate::cvm::SNP_PREFIX;
use crate::cvm::snp::{self, Endorsement, Product, Report, SigningKey, SnpRefused, Table};
use crate::ids::Sha256Digest;
use crate::x509::{Certificate, MAX_PATH, PathRefused};

/// Certificates tried as the key's: one from the host and one from the operator, and what a key got
/// anew. Each costs two signatures by RSA.
const MAX_TRIED: usize = 4;
/// Certificates whose key is looked for by its signature, where the chip does not say whose it is; each
/// costs one by ECDSA.
const MAX_SOUGHT: usize = 256;
/// Highest VMPL of a guest; the host asks under another number.
const MAX_VMPL: u32 = 3;

pub(super) fn judge(asked: &Asked<'_>, report: &Report<'_>) -> Judged {
    let product = snp::product(report);
    let mut judged = Judged::of(facts(report, product));
    judged
        .faults
        .extend(answers(report.report_data, asked.report_data));
    if report.vmpl > MAX_VMPL {
        let why = format!("VMPL {:#x}: the host asked for it", report.vmpl);
        judged.faults.push(refused("cvm-not-of-guest", why));
    }
    let kind = match report.signing_key {
        SigningKey::Vcek => Endorsement::Vcek,
        SigningKey::Vlek => Endorsement::Vlek,
        none @ (SigningKey::Unsigned | SigningKey::Reserved(_)) => {
            let why = format!("the report is signed with no key of a chip: {none:?}");
            judged.faults.push(refused("cvm-unsigned", why));
            return judged;
        }
    };
    // A table that cannot be read is the host's, and takes nothing from what the operator has.
    let table = Table::parse(asked.table).unwrap_or_default().certificates;
    let brought = asked.endorsements.certificates.iter();
    let of_chip = |one: &&Certificate| snp::is_of_chip(report, kind, one);
    let keys: Vec<&Certificate> = table
        .iter()
        .chain(brought.clone().map(|(_, one)| one))
        .filter(of_chip)
        .collect();
    let fitting = keys.iter().filter(|one| snp::is_for(report, kind, one));
    // Of a chip that hides any key of such firmware may be its own: another one's says nothing of it.
    let hides = kind == Endorsement::Vcek && report.hides_chip();
    let fitting = fitting
        .take(if hides { MAX_SOUGHT } else { MAX_TRIED })
        .filter(|one| !hides || snp::signature(report, one).is_ok());
    // Keys of other chips lead nowhere from here.
    let between = brought
        .clone()
        .map(|(_, one)| one)
        .filter(|one| one.is_ca());
    let roots = asked.roots.iter().copied();
    let chain: Vec<Certificate> = table
        .iter()
        .filter(|one| one.is_ca())
        .chain(between)
        .chain(roots)
        .cloned()
        .collect();
    let mut tried = fitting.peekable();
    if tried.peek().is_none() {
        judged
            .faults
            .push(key_missing(report, kind, product, !keys.is_empty()));
        return judged;
    }
    let mut first = None;
    for key in tried {
        match under(asked, report, kind, key, &chain, product) {
            Ok((path, hardware)) => {
                judged.signed = true;
                judged.hardware = hardware;
                for (file, _) in brought.filter(|(_, one)| path.contains(one)) {
                    judged.relied_on.insert(*file);
                }
                let (revocation, lists) = revocation(asked, &path);
                judged.relied_on.extend(lists);
                match revocation {
                    Ok(known) => judged.revocation = known,
                    Err(fault) => judged.faults.push(fault),
                }
                return judged;
            }
            Err(faults) => first = first.or(Some(faults)),
        }
    }
    judged.faults.extend(first.unwrap_or_default());
    judged
}

fn key_missing(
    report: &Report<'_>,
    kind: Endorsement,
    product: Product,
    other_versions: bool,
) -> Fault {
    let tcb = tcb_text(&tcb(report, product));
    let whose = match kind {
        Endorsement::Vcek if report.hides_chip() => {
            "the chip, which hides, that signed it".to_owned()
        }
        Endorsement::Vcek => format!("chip {}", hex::encode(report.chip_id)),
        Endorsement::Vlek => "the provider".to_owned(),
    };
    let there = match other_versions {
        true => "; there is one for other firmware",
        false => "",
    };
    let why = format!("no certificate of {whose} at {tcb}{there}");
    unchecked("cvm-key-missing", why)
}

/// Under the makers' roots, or else under those that a profile names.
fn under(
    asked: &Asked<'_>,
    report: &Report<'_>,
    kind: Endorsement,
    key: &Certificate,
    chain: &[Certificate],
    product: Product,
) -> Result<(Vec<Certificate>, bool), Vec<Fault>> {
    // No path is looked for to a key that did not sign it.
    if let Err(why) = snp::signature(report, key) {
        return Err(vec![fault(&why, key, chain)]);
    }
    let makers = asked.endorsements.snp_roots.iter();
    let makers: Vec<(Product, &str)> = makers.map(|(p, root)| (*p, root.as_str())).collect();
    let why = match snp::endorsed_under(&makers, report, kind, key, chain, asked.at) {
        Ok((_, path)) => return Ok((path, true)),
        Err(why) => why,
    };
    let own = asked.roots.iter();
    let own: Vec<String> = own
        .map(|root| Sha256Digest::of(&[root.spki_der()]).to_string())
        .collect();
    let own: Vec<(Product, &str)> = own.iter().map(|root| (product, root.as_str())).collect();
    if !own.is_empty()
        && let Ok((_, path)) = snp::endorsed_under(&own, report, kind, key, chain, asked.at)
    {
        return Ok((path, false));
    }
    Err(why.iter().map(|why| fault(why, key, chain)).collect())
}

fn fault(why: &SnpRefused, key: &Certificate, chain: &[Certificate]) -> Fault {
    let text = words(why);
    match why {
        SnpRefused::Root if !leads_to_its_end(key, chain) => unchecked("cvm-chain-missing", text),
        SnpRefused::Path(PathRefused::NoPath { .. }) => unchecked("cvm-chain-missing", text),
        SnpRefused::Path(PathRefused::Expired { .. } | PathRefused::NotYetValid { .. }) => {
            unchecked("cvm-certificate-expired", text)
        }
        SnpRefused::Root | SnpRefused::Path(_) => refused("cvm-root", text),
        SnpRefused::Signature(_) => refused("cvm-signature", text),
        SnpRefused::ChipId { .. } => refused("cvm-chip", text),
        SnpRefused::Tcb { .. } => refused("cvm-tcb", text),
        SnpRefused::Key | SnpRefused::SigningKey { .. } | SnpRefused::Extension(_) => {
            refused("cvm-key", text)
        }
        SnpRefused::Product { .. } => refused("cvm-product", text),
    }
}

/// From issuer to issuer, by their names, there is a certificate that names itself: whose root it is
/// is known, and nobody's. Otherwise somebody has yet to bring the rest.
fn leads_to_its_end(leaf: &Certificate, chain: &[Certificate]) -> bool {
    let mut last = leaf;
    for _ in 0..MAX_PATH {
        if last.is_self_issued() {
            return true;
        }
        let Some(issuer) = chain.iter().find(|one| one.subject() == last.issuer()) else {
            return false;
        };
        last = issuer;
    }
    false
}

/// What lists say of the certificates of a path: the root's on whoever signs keys, and whoever else
/// publishes one on its own. One that ended says nothing good of anybody; what it took back stays so.
fn revocation(
    asked: &Asked<'_>,
    path: &[Certificate],
) -> (Result<Revocation, Fault>, BTreeSet<Sha256Digest>) {
    let mut used = BTreeSet::new();
    let mut known = false;
    let mut ended = None;
    let root = path.last();
    for list in asked.crls {
        let Some(issuer) = path.iter().find(|one| one.subject() == list.issuer()) else {
            continue;
        };
        if list.verify(issuer).is_err() {
            continue;
        }
        if let Some(named) = path.iter().find(|one| list.names(one)) {
            let (whose, by) = (named.subject().label(), list.issuer().label());
            let why = format!("{whose:?} is revoked by {by:?}");
            used.insert(list.digest());
            return (Err(refused("cvm-revoked", why)), used);
        }
        if Some(issuer) != root {
            continue;
        }
        if (list.this_update()..=list.next_update()).contains(&asked.at) {
            known = true;
            used.insert(list.digest());
        } else {
            ended = Some(list.next_update());
        }
    }
    let root = root.map(|root| root.subject().label()).unwrap_or_default();
    let found = match (known, ended) {
        (true, _) => Revocation::Good,
        (false, Some(until)) => {
            let until = until.secs();
            Revocation::Unknown(format!(
                "the list of {root:?} counts until {until}, seconds since 1970"
            ))
        }
        (false, None) => Revocation::Unknown(format!("no list of {root:?}")),
    };
    (Ok(found), used)
}

fn tcb(report: &Report<'_>, product: Product) -> Vec<(&'static str, u64)> {
    let parts = report.reported_tcb.parts(product).into_iter();
    let names = ["bootloader", "tee", "snp", "microcode"].into_iter();
    let mut tcb: Vec<(&'static str, u64)> = names
        .zip(parts)
        .map(|(name, (_, value))| (name, value.into()))
        .collect();
    let fmc = report.reported_tcb.fmc(product);
    tcb.extend(fmc.map(|value| ("fmc", u64::from(value))));
    tcb
}

fn facts(report: &Report<'_>, product: Product) -> Facts {
    let id = match product {
        Product::Turin => report.chip_id.get(..8).unwrap_or_default(),
        Product::Milan | Product::Genoa => report.chip_id,
    };
    Facts {
        technology: "sev-snp",
        version: report.version,
        chip: chip(SNP_PREFIX, id),
        product: Some(product.name()),
        tcb: tcb(report, product),
        tcb_status: None,
        vmpl: Some(report.vmpl),
        debug: report.debug(),
        measurement: hex::encode(report.measurement),
        host_data: hex::encode(report.host_data),
        policy: format!("{:016x}", report.policy),
        registers: Vec::new(),
        // Zeros: nobody signed for it, and the processor asked nobody.
        signer: report
            .id_key_digest
            .iter()
            .any(|byte| *byte != 0)
            .then(|| LaunchSigner {
                id_key: hex::encode(report.id_key_digest),
                family: hex::encode(report.family_id),
                image: hex::encode(report.image_id),
                svn: report.guest_svn,
            }),
        instance: Some(*report.report_id),
    }
}
