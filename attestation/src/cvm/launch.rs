//! What approvers say of a guest: the chips it may run on, and what has to be launched there.

use super::Facts;

/// A guest as approvers know it. All texts are lower-case hexadecimal, as [`Facts`] spells them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GuestIdentity {
    /// Names of chips (`SNP-…`, `TDX-…`), sorted, all of one maker; at least one.
    pub chips: Vec<String>,
    /// What has to be launched.
    pub launch: Launch,
}

/// What has to be launched. At least one of measurement and signer is named.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Launch {
    /// `MEASUREMENT` of SEV-SNP, `MRTD` of TDX: 48 bytes.
    pub measurement: Option<String>,
    /// Whose signature over the measurement the chip has to have checked, of SEV-SNP.
    pub signer: Option<LaunchKey>,
    /// `HOST_DATA` of SEV-SNP (32 bytes), `MRCONFIGID` of TDX (48 bytes): what tells guests of one
    /// launch apart, by the word of whoever launched them.
    pub host_data: Option<String>,
}

/// Who signs measurements before a launch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LaunchKey {
    /// `ID_KEY_DIGEST`, 48 bytes.
    pub id_key: String,
    /// `FAMILY_ID`, 16 bytes.
    pub family: String,
    /// `IMAGE_ID`, 16 bytes.
    pub image: String,
}

/// What a report says otherwise than approvers do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Other {
    /// Dotted name of the claim.
    pub claim: &'static str,
    /// By approvers.
    pub expected: String,
    /// By the report.
    pub found: String,
}

impl GuestIdentity {
    /// The first thing in which a report is another's; `None`: it is of this guest.
    #[must_use]
    pub fn other(&self, facts: &Facts) -> Option<Other> {
        let other = |claim, expected: &str, found: &str| Other {
            claim,
            expected: expected.to_owned(),
            found: found.to_owned(),
        };
        let chip = facts.chip.as_deref().unwrap_or("a chip that is not told");
        if !self.chips.iter().any(|own| own == chip) {
            return Some(other("cvm.chip_id", &self.chips.join(" or "), chip));
        }
        let Launch {
            measurement,
            signer,
            host_data,
        } = &self.launch;
        if let Some(own) = measurement
            && *own != facts.measurement
        {
            return Some(other("cvm.measurement", own, &facts.measurement));
        }
        if let Some(own) = host_data
            && *own != facts.host_data
        {
            return Some(other("cvm.host_data", own, &facts.host_data));
        }
        let own = signer.as_ref()?;
        let Some(found) = &facts.signer else {
            return Some(other("cvm.id_key", &own.id_key, "a launch nobody signed"));
        };
        [
            ("cvm.id_key", &own.id_key, &found.id_key),
            ("cvm.family_id", &own.family, &found.family),
            ("cvm.image_id", &own.image, &found.image),
        ]
        .into_iter()
        .find(|(_, own, found)| own != found)
        .map(|(claim, own, found)| other(claim, own, found))
    }
}
