//! What the signed inventory joins: a name, an EK, an AK. Pure: a table of refusals.

use bailiwick_attestation::{NodeId, Sha256Digest};
use bailiwick_policy::model::Node;

use super::checks::EnrollRefused;
use crate::direct::Policy;

/// What approvers signed of a TPM, and of the name it claims.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Words<'a> {
    /// Why the TPM was taken out of service.
    pub(super) retired: Option<&'a str>,
    /// The TPM's entry.
    pub(super) listed: Option<&'a Node>,
    /// The entry of the name.
    pub(super) named: Option<&'a Node>,
}

impl<'a> Words<'a> {
    pub(super) fn of(policy: &'a Policy, ek: &Sha256Digest, claimed: &NodeId) -> Self {
        Self {
            retired: policy.retired(ek),
            listed: policy.listed(ek),
            named: policy.named(claimed),
        }
    }
}

/// The inventory joins name, EK and AK; whatever it says of one of them binds the others. `ak` is
/// a `TPM2B_NAME` without its size.
pub(super) fn of_node(
    words: &Words<'_>,
    ek: &Sha256Digest,
    ak: &[u8],
    claimed: &NodeId,
) -> Result<(), EnrollRefused> {
    if let Some(why) = words.retired {
        return Err(EnrollRefused::Retired(why.to_owned()));
    }
    let refuse = |listed: String| {
        Err(EnrollRefused::EkNotOfNode {
            listed,
            claimed: claimed.clone(),
            ek: *ek,
        })
    };
    let Some(node) = words.listed else {
        return match words.named {
            None => Ok(()),
            Some(other) => refuse(format!("{} with EK {}", other.name, other.ek)),
        };
    };
    if node.name != *claimed {
        return refuse(format!("this TPM as {}", node.name));
    }
    match &node.ak {
        Some(confirmed) if confirmed != ak => Err(EnrollRefused::AkNotOfNode {
            found: hex::encode(ak),
        }),
        _ => Ok(()),
    }
}

/// A node has one TPM at a time, and approvers say when it is another. `former` are the TPMs that
/// enrolled under its name; `spoken_for`: one that approvers list, or retired.
pub(super) fn follows(
    node: &Node,
    ek: &Sha256Digest,
    former: &[Sha256Digest],
    spoken_for: impl Fn(&Sha256Digest) -> bool,
) -> Result<(), EnrollRefused> {
    match former.iter().find(|old| *old != ek && !spoken_for(old)) {
        None => Ok(()),
        // Nothing replaces a TPM but another one.
        Some(former) if node.guest.is_some() => Err(EnrollRefused::FormerInService {
            node: node.name.clone(),
            former: *former,
        }),
        Some(former) => Err(EnrollRefused::ReplacesMissing {
            node: node.name.clone(),
            former: *former,
        }),
    }
}

#[cfg(test)]
mod tests {
    use bailiwick_attestation::JurisdictionCode;
    use bailiwick_attestation::cvm::GuestIdentity;

    use super::*;

    const EK: Sha256Digest = Sha256Digest([1; 32]);
    const OTHER: Sha256Digest = Sha256Digest([2; 32]);
    const AK: &[u8] = &[0, 11, 5];

    fn node(name: &str, ek: Sha256Digest, ak: Option<&[u8]>) -> Node {
        Node {
            name: NodeId::new(name).unwrap(),
            ek,
            ak: ak.map(<[u8]>::to_vec),
            chassis_serial: None,
            devices: Vec::new(),
            place: None,
            jurisdiction: JurisdictionCode::new("DE").unwrap(),
            addresses: Vec::new(),
            epoch: 0,
            tpm: None,
            guest: None,
            geotags_since: None,
            replaces: None,
            confirmed: None,
        }
    }

    #[test]
    fn name_ek_and_ak_bind_each_other() {
        let own = node("gpu-01", EK, Some(AK));
        let unbound = node("gpu-01", EK, None);
        let elsewhere = node("gpu-02", EK, Some(AK));
        let taken = node("gpu-01", OTHER, Some(AK));
        let nobody = Words::default();
        let table: [(&str, Words<'_>, Result<(), &str>); 8] = [
            ("nobody signed for either", nobody, Ok(())),
            (
                "listed, with this AK",
                Words {
                    listed: Some(&own),
                    named: Some(&own),
                    ..nobody
                },
                Ok(()),
            ),
            (
                "listed, without an AK",
                Words {
                    listed: Some(&unbound),
                    named: Some(&unbound),
                    ..nobody
                },
                Ok(()),
            ),
            (
                "listed under another name",
                Words {
                    listed: Some(&elsewhere),
                    ..nobody
                },
                Err("ek-not-of-node"),
            ),
            (
                "listed under another name, and this one is another TPM's",
                Words {
                    listed: Some(&elsewhere),
                    named: Some(&taken),
                    ..nobody
                },
                Err("ek-not-of-node"),
            ),
            (
                "the name is another TPM's",
                Words {
                    named: Some(&taken),
                    ..nobody
                },
                Err("ek-not-of-node"),
            ),
            (
                "retired",
                Words {
                    retired: Some("retired: its board is gone"),
                    ..nobody
                },
                Err("node-retired"),
            ),
            (
                "retired, and listed all the same",
                Words {
                    retired: Some("retired: its board is gone"),
                    listed: Some(&own),
                    named: Some(&own),
                },
                Err("node-retired"),
            ),
        ];
        let claimed = NodeId::new("gpu-01").unwrap();
        for (row, words, want) in table {
            let got = of_node(&words, &EK, AK, &claimed);
            assert_eq!(
                got.as_ref().map_err(EnrollRefused::code),
                want.as_ref().map(|()| &()).map_err(|code| *code),
                "{row}"
            );
        }
        let words = Words {
            listed: Some(&own),
            named: Some(&own),
            ..nobody
        };
        let refused = of_node(&words, &EK, &[0, 11, 6], &claimed).unwrap_err();
        assert_eq!(refused.code(), "ak-not-of-node");
        assert!(refused.to_string().contains("000b06"), "{refused}");
    }

    #[test]
    fn a_node_has_one_tpm_at_a_time() {
        let own = node("gpu-01", EK, None);
        let spoken_for = |former: &Sha256Digest| *former == Sha256Digest([3; 32]);
        let settled = Sha256Digest([3; 32]);
        let table = [
            ("none before", vec![], None),
            ("the same", vec![EK], None),
            ("one that approvers speak of", vec![settled], None),
            ("one nobody speaks of", vec![OTHER], Some(OTHER)),
            (
                "one nobody speaks of, behind others",
                vec![EK, settled, OTHER],
                Some(OTHER),
            ),
        ];
        for (row, former, want) in table {
            let got = follows(&own, &EK, &former, spoken_for).err();
            let open = got.map(|refused| match refused {
                EnrollRefused::ReplacesMissing { former, .. } => former,
                other => panic!("{row}: {other}"),
            });
            assert_eq!(open, want, "{row}");
        }
        let guest = Node {
            guest: Some(GuestIdentity::default()),
            ..own
        };
        let refused = follows(&guest, &EK, &[OTHER], spoken_for).unwrap_err();
        assert_eq!(refused.code(), "former-in-service");
        assert!(follows(&guest, &EK, &[settled], spoken_for).is_ok());
    }
}
