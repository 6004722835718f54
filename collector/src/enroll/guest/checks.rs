//! What can be said of a guest that enrols: its paper, and then the report of its processor. No clock,
//! no disk: the collector asks when the guest comes, and `bailiwick verify` asks again years later.

use bailiwick_attestation::crypto::{Curve, KeyError, PublicKey};
use bailiwick_attestation::cvm::snp::MAX_TABLE;
use bailiwick_attestation::cvm::tdx::MAX_QUOTE_BYTES;
use bailiwick_attestation::cvm::{self, Facts, Judged, Other};
use bailiwick_attestation::evidence::{GuestSigner, Nonce, guest_id, guest_transport_data};
use bailiwick_attestation::gpu::Endorsements;
use bailiwick_attestation::profile::Profile;
use bailiwick_attestation::proto::v1;
use bailiwick_attestation::x509::Certificate;
use bailiwick_attestation::{DeploymentId, IdError, NodeId, Sha256Digest, UnixTime};
use bailiwick_policy::model::Node;

use super::super::EnrollRefused;
use super::super::checks::{DEVICES, SERIAL};
use super::super::joins::Words;

/// Longest `SubjectPublicKeyInfo`: one of P-256 has 91 bytes.
const SPKI: usize = 256;
/// Kinds of reports that are about a guest alone. Others are about a TPM beside one.
const KINDS: [&str; 2] = ["sev-snp", "tdx"];

/// Why a guest is not let in, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum GuestRefused {
    /// What is refused of a TPM, too.
    #[error(transparent)]
    Enroll(#[from] EnrollRefused),
    /// The name is none.
    #[error("GuestRequest.node: {0}")]
    Name(#[from] IdError),
    /// Too long, or too many.
    #[error("{0} is longer than any honest one")]
    TooLong(&'static str),
    /// The key is none.
    #[error("GuestRequest.transport_spki")]
    Key(#[source] KeyError),
    /// The key is of another kind.
    #[error("GuestRequest.transport_spki: must be ECDSA on P-256, not {0}")]
    KeyKind(String),
    /// What should be a report is none.
    #[error("GuestProof.evidence.{field} {fault}")]
    Evidence {
        /// Which part.
        field: &'static str,
        /// What is wrong.
        fault: String,
    },
    /// The report says otherwise than it must, or nothing vouches for it.
    #[error("{why}")]
    Report {
        /// Stable word.
        code: &'static str,
        /// It was checked; otherwise something to check it with is missing.
        refused: bool,
        /// In words.
        why: String,
    },
    /// The inventory lists a TPM under this name.
    #[error(
        "the signed inventory lists {0} with a TPM (EK {1}): enrol with that one, or have approvers sign \
         a [[guest]] entry in its place"
    )]
    HasTpm(NodeId, Sha256Digest),
    /// The inventory does not list the name.
    #[error(
        "the signed inventory lists no guest {node}; have approvers add and sign in inventory.toml\n{entry}"
    )]
    Unlisted {
        /// What it calls itself.
        node: NodeId,
        /// What to sign.
        entry: String,
    },
    /// The report is of another guest than the inventory lists.
    #[error(
        "{node} is another guest by the signed inventory: {} is to be {}, and its report says {}",
        other.claim, other.expected, other.found
    )]
    Other {
        /// The listed guest.
        node: NodeId,
        /// In what it differs.
        other: Other,
    },
    /// Another running guest has followed this one.
    #[error(
        "another guest has enrolled as {0} after this one: two run under one name; stop one, and launch \
         the other anew"
    )]
    Superseded(NodeId),
}

impl GuestRefused {
    /// Stable word for scripts.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Enroll(refused) => refused.code(),
            Self::Name(_) => "node-name",
            Self::TooLong(_) => "request-too-long",
            Self::Key(_) | Self::KeyKind(_) => "transport-key",
            Self::Evidence { .. } => "guest-evidence",
            Self::Report { code, .. } => code,
            Self::HasTpm(..) => "guest-of-tpm-node",
            Self::Unlisted { .. } => "guest-unlisted",
            Self::Other { other, .. } => match other.claim {
                "cvm.chip_id" => "guest-chip",
                _ => "guest-launch",
            },
            Self::Superseded(_) => "guest-superseded",
        }
    }

    /// Nothing was found wrong: something to check it with is missing, and somebody has to bring that.
    #[must_use]
    pub const fn unchecked(&self) -> bool {
        matches!(self, Self::Report { refused: false, .. })
    }
}

/// A request whose paper is in order.
#[derive(Clone, Debug)]
pub struct Applicant {
    /// What it calls itself.
    pub claimed: NodeId,
    /// What stands for it where an EK's digest stands.
    pub id: Sha256Digest,
    /// SHA-256 of its key's `SubjectPublicKeyInfo`.
    pub key: Sha256Digest,
    /// The key: an uncompressed point on P-256.
    pub point: Vec<u8>,
}

/// Checks everything but the report.
pub fn check(
    request: &v1::GuestRequest,
    deployment: &DeploymentId,
) -> Result<Applicant, GuestRefused> {
    if request.deployment != deployment.as_str() {
        let want = deployment.clone();
        return Err(EnrollRefused::Deployment { want }.into());
    }
    let devices = &request.devices;
    let too_long = [
        (
            "GuestRequest.transport_spki",
            request.transport_spki.len() > SPKI,
        ),
        (
            "GuestRequest.chassis_serial",
            request.chassis_serial.len() > SERIAL,
        ),
        ("GuestRequest.devices", devices.len() > DEVICES),
        (
            "GuestRequest.devices",
            devices.iter().any(|id| id.len() > SERIAL),
        ),
    ];
    if let Some((field, _)) = too_long.iter().find(|(_, longer)| *longer) {
        return Err(GuestRefused::TooLong(field));
    }
    let claimed = NodeId::new(&request.node)?;
    let spki = &request.transport_spki;
    // DER has one spelling of a key on P-256, so that the digest of its bytes is the key's.
    let key = PublicKey::from_spki_der(spki).map_err(GuestRefused::Key)?;
    let PublicKey::Ec {
        curve: Curve::P256,
        point,
    } = &key
    else {
        return Err(GuestRefused::KeyKind(key.kind()));
    };
    Ok(Applicant {
        id: guest_id(&claimed),
        key: Sha256Digest::of(&[spki]),
        point: point.clone(),
        claimed,
    })
}

/// What the report is held against.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The installation.
    pub deployment: &'a DeploymentId,
    /// What the guest was asked with.
    pub nonce: &'a Nonce,
    /// The profile in force; `None`: no policy is, and makers' roots alone count.
    pub profile: Option<&'a Profile>,
    /// What vouches for processors.
    pub endorsements: &'a Endorsements,
    /// When.
    pub at: UnixTime,
}

/// What a good report says.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The running guest, and its key.
    pub signer: GuestSigner,
    /// The chip, and what was launched.
    pub facts: Facts,
}

/// Judges the report: that it is the answer to this question for this key, that it is signed under a
/// root that counts, and that no host reads the guest. Firmware, revocation lists and kinds are asked
/// of every statement, and not here: a guest that is behind has to be heard.
pub fn judge(
    applicant: &Applicant,
    evidence: Option<&v1::TeeEvidence>,
    asked: &Asked<'_>,
) -> Result<Shown, GuestRefused> {
    let (evidence, report) = report(evidence)?;
    let strict = asked.profile.and_then(|profile| profile.cvm.clone());
    let strict = strict.unwrap_or_default();
    let endorsements = asked.endorsements;
    let roots: Vec<&Certificate> = match &strict.roots {
        Some(named) => endorsements.counting(named, asked.at).collect(),
        None => Vec::new(),
    };
    let data = guest_transport_data(asked.deployment, asked.nonce, &applicant.key);
    let judged = cvm::judge(&cvm::Asked {
        kind: &report.kind,
        report: &report.report,
        table: &evidence.certificates,
        report_data: &data,
        manifest: &[],
        tpm: None,
        endorsements: &endorsements.processors,
        crls: endorsements.crls(),
        roots: &roots,
        at: asked.at,
    });
    let facts = good(judged)?;
    let refuse = |code, why| GuestRefused::Report {
        code,
        refused: true,
        why,
    };
    // Whatever a profile allows beside a quote: no key is this guest's alone that its host may read.
    if facts.debug {
        let why = format!("its host may read this guest: policy {}", facts.policy);
        return Err(refuse("cvm-debug", why));
    }
    if let (Some(most), Some(found)) = (strict.max_vmpl, facts.vmpl)
        && found > most
    {
        let why = format!("asked for at VMPL {found:#x}, and the profile allows {most} at most");
        return Err(refuse("cvm-vmpl", why));
    }
    Ok(Shown {
        signer: GuestSigner {
            key: applicant.key,
            instance: facts.instance,
        },
        facts,
    })
}

/// The report, and what came beside it.
fn report(
    evidence: Option<&v1::TeeEvidence>,
) -> Result<(&v1::TeeEvidence, &v1::TeeReport), GuestRefused> {
    let fault = |field, fault: &str| GuestRefused::Evidence {
        field,
        fault: fault.to_owned(),
    };
    let evidence = evidence.ok_or_else(|| fault("report", "is absent"))?;
    let report = evidence.report.as_ref();
    let report = report.ok_or_else(|| fault("report", "is absent"))?;
    if !KINDS.contains(&report.kind.as_str()) {
        let kind: String = report.kind.chars().take(40).collect();
        let wrong = format!(
            "{kind:?} is no report of a guest alone: {}",
            KINDS.join(" or ")
        );
        return Err(fault("report.kind", &wrong));
    }
    let too_long = [
        (
            "GuestProof.evidence.report",
            report.report.len() > MAX_QUOTE_BYTES,
        ),
        (
            "GuestProof.evidence.certificates",
            evidence.certificates.len() > MAX_TABLE,
        ),
    ];
    if let Some((field, _)) = too_long.iter().find(|(_, longer)| *longer) {
        return Err(GuestRefused::TooLong(field));
    }
    if !evidence.manifest.is_empty() {
        return Err(fault(
            "manifest",
            "is there, and the report is about no service",
        ));
    }
    Ok((evidence, report))
}

/// What was checked and refused comes before what could not be checked.
pub(super) fn good(judged: Judged) -> Result<Facts, GuestRefused> {
    let mut faults = judged.faults;
    faults.sort_by_key(|fault| !fault.refused);
    if let Some(fault) = faults.into_iter().next() {
        return Err(GuestRefused::Report {
            code: fault.code,
            refused: fault.refused,
            why: fault.why,
        });
    }
    match judged.facts {
        Some(facts) if judged.signed => Ok(facts),
        _ => Err(GuestRefused::Report {
            code: "cvm-unsigned",
            refused: true,
            why: "nothing vouches for the report".to_owned(),
        }),
    }
}

/// What approvers signed of the name, before there is a report.
pub(in super::super) fn named<'a>(
    words: &Words<'a>,
    claimed: &NodeId,
) -> Result<Option<&'a Node>, GuestRefused> {
    if let Some(why) = words.retired {
        return Err(EnrollRefused::Retired(why.to_owned()).into());
    }
    match words.named {
        Some(node) if node.guest.is_none() => Err(GuestRefused::HasTpm(claimed.clone(), node.ek)),
        named => Ok(named),
    }
}

/// The report is of the listed guest.
pub fn of_node(
    listed: Option<&Node>,
    shown: &Facts,
    claimed: &v1::GuestRequest,
) -> Result<(), GuestRefused> {
    let identity = listed.and_then(|node| Some((node, node.guest.as_ref()?)));
    let Some((node, identity)) = identity else {
        return Err(GuestRefused::Unlisted {
            node: NodeId::new(&claimed.node)?,
            entry: entry(claimed, shown),
        });
    };
    match identity.other(shown) {
        None => Ok(()),
        Some(other) => Err(GuestRefused::Other {
            node: node.name.clone(),
            other,
        }),
    }
}

/// The entry to sign for a guest that enrolled then, by the report it enrolled with. Nothing of that is verified
/// here: whoever signs compares it with what they launched.
#[must_use]
pub fn to_sign(guest: &v1::GuestEnrolment, enrolled: UnixTime) -> String {
    let request = guest.request.clone().unwrap_or_default();
    let evidence = guest.evidence.as_ref();
    let judged = report(evidence).map(|(evidence, report)| {
        cvm::judge(&cvm::Asked {
            kind: &report.kind,
            report: &report.report,
            table: &evidence.certificates,
            report_data: &[0; 64],
            manifest: &[],
            tpm: None,
            endorsements: &cvm::Endorsements::default(),
            crls: &[],
            roots: &[],
            at: enrolled,
        })
    });
    match judged.ok().and_then(|judged| judged.facts) {
        Some(facts) => entry(&request, &facts),
        None => "its report cannot be read\n".to_owned(),
    }
}

/// The inventory entry an approver would sign for this guest: what its report says of it.
#[must_use]
pub fn entry(request: &v1::GuestRequest, facts: &Facts) -> String {
    let name = NodeId::new(&request.node);
    let name = name.map_or_else(|_no_name| String::new(), |name| name.to_string());
    let mut entry = format!("[[guest]]\nname = \"{name}\"\n");
    match &facts.chip {
        Some(chip) => entry.push_str(&format!("chips = [\"{chip}\"]\n")),
        None => entry
            .push_str("chips = []                   # its report hides on which chip it runs\n"),
    }
    entry.push_str(&format!("measurement = \"{}\"\n", facts.measurement));
    if let Some(signer) = &facts.signer {
        entry.push_str(
            "# Who signed the launch; in place of its measurement it covers later ones, too.\n",
        );
        entry.push_str(&format!(
            "id_key = \"{}\"\nfamily_id = \"{}\"\nimage_id = \"{}\"\n",
            signer.id_key, signer.family, signer.image
        ));
    }
    if facts.host_data.bytes().any(|digit| digit != b'0') {
        entry.push_str(&format!("host_data = \"{}\"\n", facts.host_data));
    }
    // A chassis is the host's word in a guest, and its chips stand above.
    let plain = |id: &&String| {
        let plain = |c: char| !c.is_control() && c != '"' && c != '\\';
        !id.is_empty() && id.chars().all(plain) && !cvm::is_chip_name(id)
    };
    let devices: Vec<String> = request
        .devices
        .iter()
        .filter(plain)
        .map(|id| format!("\"{id}\""))
        .collect();
    if !devices.is_empty() {
        entry.push_str(&format!("devices = [{}]\n", devices.join(", ")));
    }
    entry.push_str("place = \"\"                  # where it runs\n");
    entry.push_str("jurisdiction = \"\"           # for example DE\n");
    entry
}
