//! A software key in the clothes of a TPM, for tests and benchmarks: it signs what a TPM would,
//! and what a TPM never would.

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use bailiwick_attestation::{
    Sha256Digest, UnixTime,
    appraisal::{Boot, Previous},
    evidence::{Binding, Freshness, StatementSigner, TpmQuoteSigner},
    proto::v1,
    tlog::Head,
    tpm::{AkPublic, ClockInfo, Public},
};
use prost::Message;

/// `fixedTPM | fixedParent | sensitiveDataOrigin | userWithAuth | restricted | sign`.
const AK_ATTRIBUTES: u32 = 0x0005_0072;

enum Pair {
    Ecdsa(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>),
}

pub(crate) struct SoftTpm {
    pair: Pair,
    pub(crate) clock: ClockInfo,
    pub(crate) pcrs: Vec<[u8; 32]>,
    /// Which of them it quotes, lowest first.
    pub(crate) quotes: [bool; 24],
}

fn sized(bytes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(bytes.len()).expect("fixture fields are short");
    [&len.to_be_bytes(), bytes].concat()
}

impl SoftTpm {
    pub(crate) fn new() -> Self {
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .expect("a key");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref())
            .expect("a key");
        Self::with(Pair::Ecdsa(Box::new(pair)))
    }

    /// With an AK of RSA-2048.
    pub(crate) fn rsa() -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
        Self::with(Pair::Rsa(Box::new(pair)))
    }

    fn with(pair: Pair) -> Self {
        let clock = ClockInfo {
            clock: 1000,
            reset_count: 7,
            restart_count: 0,
            safe: true,
        };
        Self {
            pair,
            clock,
            pcrs: vec![[0; 32]; 24],
            quotes: [true; 24],
        }
    }

    /// `TPMT_PUBLIC` of a signing key: ECDSA on P-256, or RSASSA of 2048 bits, each with SHA-256.
    pub(crate) fn ak(&self) -> AkPublic {
        let mut out = match &self.pair {
            Pair::Ecdsa(_) => vec![0x00, 0x23, 0x00, 0x0b],
            Pair::Rsa(_) => vec![0x00, 0x01, 0x00, 0x0b],
        };
        out.extend(AK_ATTRIBUTES.to_be_bytes());
        match &self.pair {
            Pair::Ecdsa(pair) => {
                let point = pair.public_key().as_ref();
                // No policy; symmetric null; ECDSA with SHA-256; P-256; no KDF.
                out.extend([
                    0, 0, 0x00, 0x10, 0x00, 0x18, 0x00, 0x0b, 0x00, 0x03, 0x00, 0x10,
                ]);
                out.extend(sized(&point[1..33]));
                out.extend(sized(&point[33..]));
            }
            Pair::Rsa(pair) => {
                // RSAPublicKey: two lengths and a zero before the modulus, the exponent behind it.
                let modulus = pair.public_key().as_ref()[9..265].to_vec();
                // No policy; symmetric null; RSASSA with SHA-256; 2048 bits; the usual exponent.
                out.extend([0, 0, 0x00, 0x10, 0x00, 0x14, 0x00, 0x0b, 0x08, 0x00]);
                out.extend([0; 4]);
                out.extend(sized(&modulus));
            }
        }
        AkPublic::new(Public::parse(&out).expect("well-formed")).expect("an AK")
    }

    /// Quotes SHA-256 PCRs over any 32 bytes.
    pub(crate) fn quote(&self, qualifying: &[u8; 32]) -> v1::TpmQuote {
        let mut attest = self.attested(0x8018, qualifying);
        attest.extend([0, 0, 0, 1, 0x00, 0x0b, 3]);
        attest.extend(self.quotes.chunks(8).map(|eight| {
            let bits = eight.iter().rev();
            bits.fold(0_u8, |byte, bit| byte << 1 | u8::from(*bit))
        }));
        let values = self.pcrs.iter().zip(self.quotes);
        let values: Vec<u8> = values
            .filter(|(_, quoted)| *quoted)
            .flat_map(|(value, _)| *value)
            .collect();
        attest.extend(sized(Sha256Digest::of(&[&values]).as_bytes()));
        let signature = self.sign(&attest);
        v1::TpmQuote { attest, signature }
    }

    /// `TPMS_ATTEST` up to where its type decides.
    fn attested(&self, kind: u16, qualifying: &[u8; 32]) -> Vec<u8> {
        let mut attest = 0xff54_4347_u32.to_be_bytes().to_vec();
        attest.extend(kind.to_be_bytes());
        attest.extend(sized(self.ak().name().as_bytes()));
        attest.extend(sized(qualifying));
        attest.extend(self.clock.clock.to_be_bytes());
        attest.extend(self.clock.reset_count.to_be_bytes());
        attest.extend(self.clock.restart_count.to_be_bytes());
        attest.push(u8::from(self.clock.safe));
        attest.extend(0x2019_1023_0016_3636_u64.to_be_bytes());
        attest
    }

    /// `TPMT_SIGNATURE`.
    fn sign(&self, attest: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ecdsa(pair) => {
                let signed = pair.sign(&random, attest).expect("a signature");
                let (r, s) = signed.as_ref().split_at(32);
                [&[0x00, 0x18, 0x00, 0x0b], sized(r).as_slice(), &sized(s)].concat()
            }
            Pair::Rsa(pair) => {
                let mut signed = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, attest, &mut signed)
                    .expect("a signature");
                [&[0x00, 0x14, 0x00, 0x0b], sized(&signed).as_slice()].concat()
            }
        }
    }

    /// Certifies an area at the geotag's index, written and locked for good.
    pub(crate) fn nv_certify(&self, qualifying: &[u8; 32], contents: &[u8]) -> v1::Geotag {
        let size = u16::try_from(contents.len()).expect("fixture areas are short");
        let nv_public = [
            &0x0180_0b43_u32.to_be_bytes()[..],
            &[0x00, 0x0b],
            &0x2202_3802_u32.to_be_bytes(),
            &[0, 0],
            &size.to_be_bytes(),
        ]
        .concat();
        let mut attest = self.attested(0x8014, qualifying);
        let digest = Sha256Digest::of(&[&nv_public]);
        attest.extend(sized(&[&[0x00, 0x0b], &digest.0[..]].concat()));
        attest.extend([0, 0]);
        attest.extend(sized(contents));
        let signature = self.sign(&attest);
        v1::Geotag {
            nv_public,
            attest,
            signature,
            unavailable: String::new(),
        }
    }

    /// The envelope around a statement.
    pub(crate) fn evidence(&self, statement: &[u8], freshness: &Freshness) -> v1::Evidence {
        let binding = Binding::new(freshness, statement);
        let values = (0..)
            .zip(&self.pcrs)
            .zip(self.quotes)
            .filter(|(_, quoted)| *quoted)
            .map(|((index, value), _)| v1::PcrValue {
                index,
                digest: value.to_vec(),
            })
            .collect();
        v1::Evidence {
            statement: statement.to_vec(),
            freshness: Some(match freshness {
                Freshness::Challenged(nonce) => {
                    v1::evidence::Freshness::Nonce(nonce.as_bytes().to_vec())
                }
                Freshness::Unchallenged {
                    last_receipt,
                    number,
                } => v1::evidence::Freshness::Unchallenged(v1::Unchallenged {
                    last_receipt: last_receipt.0.to_vec(),
                    number: *number,
                    receipt: Vec::new(),
                }),
            }),
            signer: Some(v1::evidence::Signer::TpmQuote(
                self.quote(&TpmQuoteSigner::carrier(&binding)),
            )),
            pcrs: vec![v1::PcrBank {
                algorithm: 0x000b,
                values,
            }],
            ..Default::default()
        }
    }
}

/// A statement of an ordinary node, number `sequence`, following `previous`.
pub(crate) fn statement(sequence: u64, previous: Option<Sha256Digest>) -> v1::Statement {
    let text = |name: &str, value: &str| v1::Claim {
        name: name.to_owned(),
        source: "/proc".to_owned(),
        value: Some(v1::claim::Value::Text(value.to_owned())),
    };
    let mut claims = vec![
        text("kernel.release", "6.12.41+deb13-amd64"),
        text("kernel.lockdown", "integrity"),
        v1::Claim {
            name: "boot.secure-boot".to_owned(),
            source: "efivars".to_owned(),
            value: Some(v1::claim::Value::Flag(true)),
        },
        v1::Claim {
            name: "host.gpu-driver".to_owned(),
            source: "nvml".to_owned(),
            value: Some(v1::claim::Value::Unavailable("no library".to_owned())),
        },
    ];
    claims.extend((0..60).map(|n| text(&format!("host.fact-{n}"), "an ordinary fact")));
    v1::Statement {
        format: 1,
        deployment: "demo".to_owned(),
        node: "gpu-01".to_owned(),
        boot_id: vec![1; 16],
        wall_time_ms: 1_800_000_000_000,
        boot_time_ns: 1_000_000_000,
        sequence,
        previous: previous.map(|digest| digest.0.to_vec()),
        approvers_digest: vec![3; 32],
        policy: Some(v1::PolicyState {
            version: 2,
            manifest_digest: vec![4; 32],
            world_digest: vec![5; 32],
            not_after_ms: 2_000_000_000_000,
        }),
        fence: Some(v1::FenceState {
            mode: v1::fence_state::Mode::Enforcing.into(),
            root: "/".to_owned(),
            whole_host: true,
            ..Default::default()
        }),
        claims,
        log: Some(v1::LogHead {
            size: 1,
            root: vec![6; 32],
        }),
        ..Default::default()
    }
}

/// What the statement with number 5 follows.
pub(crate) fn previous(tpm: &SoftTpm) -> Previous {
    Previous {
        digest: Sha256Digest([9; 32]),
        epoch: 0,
        sequence: 4,
        log: Head::empty(),
        wall_time: UnixTime(1_799_999_999_900),
        boot_time_ns: 900_000_000,
        tie: None,
        run: None,
        gpu: None,
        boot: Boot {
            id: [1; 16],
            reset_count: 7,
        },
        clock: Some(ClockInfo {
            clock: 900,
            reset_count: 7,
            restart_count: 0,
            safe: true,
        }),
        ak: Sha256Digest::of(&[tpm.ak().name().as_bytes()]),
    }
}

pub(crate) fn encode(statement: &v1::Statement) -> Vec<u8> {
    statement.encode_to_vec()
}

/// A profile that the ordinary node meets.
pub(crate) const PROFILE: &str = r#"
name = "demo-1"
lease_seconds = 300
max_silence_seconds = 180
[tpm]
bank = "sha256"
require = [0, 1, 2, 3, 4, 5, 6, 7]
[tpm.values]
"7" = ["0000000000000000000000000000000000000000000000000000000000000000"]
[[require]]
claim = "kernel.lockdown"
one_of = ["integrity", "confidentiality"]
provenance = "self-reported"
[[require]]
claim = "boot.secure-boot"
is = true
provenance = "self-reported"
[[require]]
claim = "fence.whole_host"
is = true
provenance = "self-reported"
[[require]]
claim = "tpm.reset_count"
at_least = 1
provenance = "hardware-signed"
"#;
