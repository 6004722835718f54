//! Standing that ends without a statement to judge: a person took the node or its certificate back.

use bailiwick_attestation::proto::v1;
use bailiwick_attestation::tpm::Attest;
use bailiwick_attestation::{DeploymentId, Sha256Digest};
use prost::Message as _;

use super::REASON;

/// Whose standing ends.
#[derive(Clone, Copy, Debug)]
pub struct Ending<'a> {
    /// The installation.
    pub deployment: &'a DeploymentId,
    /// Its AK.
    pub ak_name: &'a [u8],
    /// The policy in force.
    pub manifest: Sha256Digest,
    /// Why, for whoever reads the node's log.
    pub reason: &'a str,
}

impl Ending<'_> {
    /// The lease that ends it at once, tied to the newest statement accepted of the node: it holds
    /// against every lease the node has had, and an older one played again does not hold against
    /// it. The node's name is that statement's, which is the inventory's wherever standing came of
    /// it: the inventory in force may not have it any more, and the node may have enrolled before
    /// any had. None where nothing signed the statement.
    #[must_use]
    pub fn lease(&self, newest: &v1::Evidence) -> Option<v1::LeaseBody> {
        let (clock_ms, reset_count) = match newest.signer.as_ref()? {
            v1::evidence::Signer::TpmQuote(quote) => {
                let clock = Attest::parse(&quote.attest).ok()?.clock_info;
                (clock.clock, clock.reset_count)
            }
            v1::evidence::Signer::TeeReport(_) => kernel_clock(newest),
        };
        let statement = v1::Statement::decode(newest.statement.as_slice()).ok()?;
        Some(v1::LeaseBody {
            deployment: self.deployment.to_string(),
            node: statement.node,
            ak_name: self.ak_name.to_vec(),
            reset_count,
            until_clock_ms: 0,
            statement_digest: Sha256Digest::of(&[&newest.statement]).as_bytes().to_vec(),
            manifest_digest: self.manifest.as_bytes().to_vec(),
            reason: self.reason.chars().take(REASON).collect(),
            quoted_clock_ms: clock_ms,
            quoted_boot_time_ns: newest.quoted_boot_time_ns,
            gpus_proven: false,
        })
    }
}

/// The clock, ms, and the boot by which the lease of a guest without a TPM counts: the kernel's, as the
/// agent read it beside the report, and none, for its key is of one boot.
pub(super) fn kernel_clock(evidence: &v1::Evidence) -> (u64, u32) {
    (evidence.quoted_boot_time_ns / 1_000_000, 0)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::Ed25519KeyPair;
    use bailiwick_attestation::standing::{LeaseSigner, LeaseTerms, QuotedAt, verify_lease};
    use bailiwick_attestation::{NodeId, UnixTime};

    use super::*;

    /// `TPMS_ATTEST` of a quote at a moment of a boot; nobody looks at its signature here.
    fn quoted(clock_ms: u64, resets: u32) -> Vec<u8> {
        let mut attest = b"\xffTCG\x80\x18\0\0\0\0".to_vec();
        attest.extend(clock_ms.to_be_bytes());
        attest.extend(resets.to_be_bytes());
        attest.extend([0; 4]);
        attest.push(1);
        attest.extend([0; 8]);
        attest.extend([0, 0, 0, 1, 0x00, 0x0b, 3, 1, 0, 0, 0, 32]);
        attest.extend([7; 32]);
        attest
    }

    fn newest() -> Vec<u8> {
        v1::Statement {
            node: "gpu-01".to_owned(),
            ..v1::Statement::default()
        }
        .encode_to_vec()
    }

    fn evidence(attest: Vec<u8>) -> v1::Evidence {
        v1::Evidence {
            statement: newest(),
            signer: Some(v1::evidence::Signer::TpmQuote(v1::TpmQuote {
                attest,
                signature: Vec::new(),
            })),
            quoted_boot_time_ns: 5_000,
            ..v1::Evidence::default()
        }
    }

    #[test]
    fn a_node_taken_back_believes_the_end_of_its_lease() {
        let deployment = DeploymentId::new("demo").unwrap();
        let ending = Ending {
            deployment: &deployment,
            ak_name: &[0, 11, 5],
            manifest: Sha256Digest([4; 32]),
            reason: "node-retired",
        };
        let body = ending.lease(&evidence(quoted(9_000, 3))).unwrap();
        let key = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let signer = LeaseSigner::from_pkcs8("lease", key.as_ref()).unwrap();
        let lease = signer.sign(&body).unwrap();
        let node = NodeId::new("gpu-01").unwrap();
        let quote = QuotedAt {
            statement: Sha256Digest::of(&[&newest()]),
            clock_ms: 9_000,
            boot_time_ns: 5_000,
        };
        let end = |reset_count, in_force, statements: &[QuotedAt]| {
            let terms = LeaseTerms {
                deployment: &deployment,
                node: &node,
                ak_name: &[0, 11, 5],
                reset_count,
                statements,
                in_force,
                now: UnixTime(1),
            };
            let keys = [signer.public().unwrap()];
            verify_lease(&lease, &keys, &terms)
                .map(|lease| lease.end_boot_ns())
                .map_err(|refused| refused.code())
        };
        let other = QuotedAt {
            boot_time_ns: 6_000,
            ..quote
        };
        for (name, resets, in_force, statements, want) in [
            (
                "over the lease that answers it",
                3,
                Some(9_000),
                [quote],
                Ok(0),
            ),
            ("over an older one", 3, Some(8_000), [quote], Ok(0)),
            ("where there is none", 3, None, [quote], Ok(0)),
            (
                "over a later one",
                3,
                Some(9_001),
                [quote],
                Err("lease-older"),
            ),
            ("in another boot", 4, None, [quote], Err("lease-not-ours")),
            (
                "of another quote",
                3,
                None,
                [other],
                Err("lease-unknown-statement"),
            ),
        ] {
            assert_eq!(end(resets, in_force, &statements), want, "{name}");
        }
        let guest = v1::Evidence {
            signer: Some(v1::evidence::Signer::TeeReport(v1::TeeReport::default())),
            quoted_boot_time_ns: 5_999_999,
            ..evidence(Vec::new())
        };
        let body = ending.lease(&guest).unwrap();
        let clock = (body.quoted_clock_ms, body.reset_count, body.until_clock_ms);
        assert_eq!(clock, (5, 0, 0), "the kernel's clock, ms");
        assert_eq!(body.quoted_boot_time_ns, 5_999_999);
        assert_eq!(ending.lease(&evidence(vec![1, 2, 3])), None, "no quote");
        assert_eq!(ending.lease(&v1::Evidence::default()), None, "no signer");
        let mut other = evidence(quoted(9_000, 3));
        other.statement = vec![0xff];
        assert_eq!(ending.lease(&other), None, "no statement");
        let words = "w".repeat(REASON + 1);
        let long = Ending {
            reason: &words,
            ..ending
        };
        let body = long.lease(&evidence(quoted(1, 1))).unwrap();
        assert_eq!(body.reason.len(), REASON);
    }
}
