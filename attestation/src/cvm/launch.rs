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
    /// The measurement that is to take its place: good beside it, so that approvers sign before the
    /// guest is launched anew, and again afterwards.
    pub next_measurement: Option<String>,
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
            next_measurement,
            signer,
            host_data,
        } = &self.launch;
        let mut measured = measurement.iter().chain(next_measurement);
        if measurement.is_some() && !measured.any(|own| *own == facts.measurement) {
            let own: Vec<&str> = measurement
                .iter()
                .chain(next_measurement)
                .map(String::as_str)
                .collect();
            return Some(other(
                "cvm.measurement",
                &own.join(" or "),
                &facts.measurement,
            ));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cvm::LaunchSigner;

    fn facts() -> Facts {
        Facts {
            technology: "sev-snp",
            version: 3,
            chip: Some("SNP-07".to_owned()),
            product: None,
            tcb: Vec::new(),
            tcb_status: None,
            vmpl: Some(0),
            debug: false,
            measurement: "06".to_owned(),
            host_data: "05".to_owned(),
            policy: String::new(),
            registers: Vec::new(),
            signer: Some(LaunchSigner {
                id_key: "0a".to_owned(),
                family: "0b".to_owned(),
                image: "0c".to_owned(),
                svn: 1,
            }),
            instance: None,
        }
    }

    /// A guest of which approvers know everything.
    fn whole() -> GuestIdentity {
        GuestIdentity {
            chips: vec!["SNP-06".to_owned(), "SNP-07".to_owned()],
            launch: Launch {
                measurement: Some("06".to_owned()),
                next_measurement: None,
                signer: Some(LaunchKey {
                    id_key: "0a".to_owned(),
                    family: "0b".to_owned(),
                    image: "0c".to_owned(),
                }),
                host_data: Some("05".to_owned()),
            },
        }
    }

    #[test]
    fn a_report_is_of_the_guest_that_is_listed_in_all_that_is_listed() {
        type Row = (
            &'static str,
            fn(&mut Facts),
            Option<(&'static str, &'static str, &'static str)>,
        );
        let rows: &[Row] = &[
            ("as it is", |_| {}, None),
            (
                "another chip",
                |f| f.chip = Some("SNP-08".to_owned()),
                Some(("cvm.chip_id", "SNP-06 or SNP-07", "SNP-08")),
            ),
            (
                "a chip that hides",
                |f| f.chip = None,
                Some(("cvm.chip_id", "SNP-06 or SNP-07", "a chip that is not told")),
            ),
            (
                "another measurement",
                |f| f.measurement = "07".to_owned(),
                Some(("cvm.measurement", "06", "07")),
            ),
            (
                "for somebody else",
                |f| f.host_data = "06".to_owned(),
                Some(("cvm.host_data", "05", "06")),
            ),
            (
                "signed by nobody",
                |f| f.signer = None,
                Some(("cvm.id_key", "0a", "a launch nobody signed")),
            ),
            (
                "signed by another key",
                |f| f.signer.as_mut().unwrap().id_key = "0d".to_owned(),
                Some(("cvm.id_key", "0a", "0d")),
            ),
            (
                "of another family",
                |f| f.signer.as_mut().unwrap().family = "0d".to_owned(),
                Some(("cvm.family_id", "0b", "0d")),
            ),
            (
                "of another image",
                |f| f.signer.as_mut().unwrap().image = "0d".to_owned(),
                Some(("cvm.image_id", "0c", "0d")),
            ),
        ];
        for (name, edit, want) in rows {
            let mut facts = facts();
            edit(&mut facts);
            let want = want.map(|(claim, expected, found)| Other {
                claim,
                expected: expected.to_owned(),
                found: found.to_owned(),
            });
            assert_eq!(whole().other(&facts), want, "{name}");
        }
    }

    /// What approvers leave open is anybody's to choose, and nothing else is.
    #[test]
    fn what_is_not_listed_is_not_asked() {
        let mut bare = whole();
        bare.launch.signer = None;
        bare.launch.host_data = None;
        let mut other = facts();
        other.signer = None;
        other.host_data = "06".to_owned();
        assert_eq!(bare.other(&other), None);
        other.measurement = "07".to_owned();
        assert_eq!(bare.other(&other).unwrap().claim, "cvm.measurement");
    }

    #[test]
    fn a_launch_and_the_one_after_it_are_both_good() {
        let mut both = whole();
        both.launch.next_measurement = Some("07".to_owned());
        for (measurement, want) in [("06", None), ("07", None), ("08", Some(("06 or 07", "08")))] {
            let mut facts = facts();
            facts.measurement = measurement.to_owned();
            let found = both
                .other(&facts)
                .map(|other| (other.expected, other.found));
            let want = want.map(|(expected, found)| (expected.to_owned(), found.to_owned()));
            assert_eq!(found, want, "{measurement}");
        }
    }
}
