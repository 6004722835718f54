//! What Intel publishes, under its signatures and in its time.

use super::collateral::{
    Collateral, Head, Moment, PCK_CRL, QeIdentity, ROOT_CA_CRL, SignedText, TcbInfo,
};
use super::refused::TdxRefused;
use super::verify::{ROOT, p256, path};
use crate::crypto::{Curve, PublicKey};
use crate::ids::UnixTime;
use crate::x509::{Certificate, RevocationList};

/// What the signer of TCB info and identities is called. Intel's root has other keys below it,
/// every processor's among them.
const SIGNER: &str = "Intel SGX TCB Signing";

/// What Intel says, at a time. Only [`endorse`] makes one.
#[derive(Clone, Debug)]
pub struct Endorsements {
    pub(super) tcb_info: TcbInfo,
    pub(super) qe_identity: QeIdentity,
    pub(super) root_ca_crl: RevocationList,
    pub(super) pck_crl: RevocationList,
    /// When the first of its parts ends.
    pub until: UnixTime,
}

/// Checks who signed each part, that no signer is revoked, and that each part is news at `at`.
/// All that is wrong is told: a part that ended does not hide one that somebody edited.
pub fn endorse(collateral: &Collateral, at: UnixTime) -> Result<Endorsements, Vec<TdxRefused>> {
    endorse_under(ROOT, collateral, at)
}

pub(crate) fn endorse_under(
    root: &str,
    collateral: &Collateral,
    at: UnixTime,
) -> Result<Endorsements, Vec<TdxRefused>> {
    let mut check = Check {
        root,
        at,
        collateral,
        refused: Vec::new(),
        until: UnixTime(u64::MAX),
    };
    check.lists();
    let tcb_info: Option<TcbInfo> = check.text(&collateral.tcb_info, "TDX", 3);
    let qe_identity: Option<QeIdentity> = check.text(&collateral.qe_identity, "TD_QE", 2);
    match (tcb_info, qe_identity) {
        (Some(tcb_info), Some(qe_identity)) if check.refused.is_empty() => Ok(Endorsements {
            tcb_info,
            qe_identity,
            root_ca_crl: collateral.root_ca_crl.clone(),
            pck_crl: collateral.pck_crl.clone(),
            until: check.until,
        }),
        _ => Err(check.refused),
    }
}

struct Check<'a> {
    root: &'a str,
    at: UnixTime,
    collateral: &'a Collateral,
    refused: Vec<TdxRefused>,
    until: UnixTime,
}

impl Check<'_> {
    /// Both revocation lists. The root's is by the root; the other by a CA of its own.
    fn lists(&mut self) {
        let Collateral {
            pck_crl_issuer_chain: chain,
            root_ca_crl,
            pck_crl,
            ..
        } = self.collateral;
        for (what, list) in [(ROOT_CA_CRL, root_ca_crl), (PCK_CRL, pck_crl)] {
            self.window(what, list.this_update(), list.next_update());
        }
        let Some(path) = self.path(PCK_CRL, chain) else {
            return;
        };
        for (what, list, issuer) in [
            (ROOT_CA_CRL, root_ca_crl, path.last()),
            (PCK_CRL, pck_crl, path.first()),
        ] {
            let verified = issuer.map(|issuer| list.verify(issuer));
            if let Some(Err(reason)) = verified {
                let reason = Box::new(reason);
                self.refused.push(TdxRefused::List { what, reason });
            }
        }
    }

    /// A signed text of that kind. Nothing of it is read before its signature is good.
    fn text<T: serde::de::DeserializeOwned>(
        &mut self,
        text: &SignedText,
        id: &str,
        version: u32,
    ) -> Option<T> {
        let what = text.what;
        let path = self.path(what, &text.chain)?;
        // Straight under the root, where no processor's key is.
        let signer = match path.as_slice() {
            [signer, _] if signer.subject().common_name() == SIGNER => signer,
            [other, ..] => {
                let found = other.subject().label();
                self.refused.push(TdxRefused::Signer { what, found });
                return None;
            }
            [] => return None,
        };
        let Ok(
            key @ PublicKey::Ec {
                curve: Curve::P256, ..
            },
        ) = signer.key()
        else {
            self.refused.push(TdxRefused::Key(what));
            return None;
        };
        if let Err(reason) = p256(key, text.text.as_bytes(), &text.signature) {
            self.refused
                .push(TdxRefused::TextSignature { what, reason });
            return None;
        }
        let head: Head = self.read(text)?;
        let (Moment(from), Moment(until)) = (head.issued, head.next_update);
        self.window(what, from, until);
        if (head.id.as_str(), head.version) != (id, version) {
            self.refused.push(TdxRefused::Collateral {
                what,
                found: format!("{} of version {}", head.id, head.version),
                expected: format!("{id} of version {version}"),
            });
            return None;
        }
        self.read(text)
    }

    fn read<T: serde::de::DeserializeOwned>(&mut self, text: &SignedText) -> Option<T> {
        match text.read() {
            Ok(read) => Some(read),
            Err(error) => {
                self.refused.push(TdxRefused::Malformed(text.what, error));
                None
            }
        }
    }

    /// A good path to the root, with nothing revoked on it.
    fn path(&mut self, what: &'static str, chain: &[Certificate]) -> Option<Vec<Certificate>> {
        match path(self.root, what, chain, self.at) {
            Ok(path) => {
                let revoked = revoked(&self.collateral.root_ca_crl, &path);
                self.refused.extend(revoked);
                Some(path)
            }
            Err(why) => {
                self.refused.push(why);
                None
            }
        }
    }

    /// The part is good at the time asked about, both ends included.
    fn window(&mut self, what: &'static str, from: UnixTime, until: UnixTime) {
        self.until = self.until.min(until);
        if self.at.secs() < from.secs() {
            let from = from.secs();
            self.refused.push(TdxRefused::NotYetValid { what, from });
        }
        if self.at.secs() > until.secs() {
            let until = until.secs();
            self.refused.push(TdxRefused::Stale { what, until });
        }
    }
}

/// Those of the certificates that the list names.
pub(super) fn revoked(list: &RevocationList, certificates: &[Certificate]) -> Vec<TdxRefused> {
    let named = certificates.iter().filter(|one| list.names(one));
    named
        .map(|one| TdxRefused::Revoked {
            subject: one.subject().label(),
            serial: hex::encode(one.serial()),
        })
        .collect()
}
