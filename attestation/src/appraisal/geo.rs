//! Where the node stands, as its geotag says: what of it is a claim, and what a profile that asks
//! for it concludes when there is none.
//!
//! Whose signature counts is policy, so the caller says ([`GeoWord`]); that the TPM holds it and
//! certified it for this statement, evidence has shown before; here remain its time and what the
//! inventory says of the same place.

use std::collections::BTreeMap;

use super::{
    Subject,
    claims::Found,
    result::{AppraisedClaim, AttestationResult, Deviation, Finding},
};
use crate::{
    geotag::Geotag,
    ids::UnixTime,
    profile::{Profile, Provenance, Value},
};

/// What begins the names of these claims, and of no other.
const NAMES: &str = "geo.";

/// Whose word it is where a node stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum GeoWord {
    /// The evidence brings no geotag.
    Absent,
    /// The node says why it brings none.
    Unavailable(String),
    /// There is one, and it does not count.
    Refused {
        /// Stable word.
        code: &'static str,
        /// In words.
        why: String,
    },
    /// An approver's, for this TPM; whether it has ended is for appraisal to say.
    Signed {
        /// What it says.
        tag: Geotag,
        /// Who signed, as the approvers' file names them.
        by: String,
    },
}

/// What is known of the place.
pub(super) enum Place {
    /// Nothing, and a requirement misses it.
    Unknown,
    /// Nothing, and the result says why already.
    Told,
    /// By name.
    Claims(BTreeMap<&'static str, AppraisedClaim>),
}

impl Place {
    /// A profile that asks for nothing of a geotag has none judged; one that does refuses whatever
    /// does not hold.
    pub(super) fn judge(
        result: &mut AttestationResult,
        subject: Option<&Subject<'_>>,
        profile: &Profile,
        now: UnixTime,
    ) -> Self {
        let Some(subject) = subject else {
            return Self::Unknown;
        };
        let asked = profile
            .requirements
            .iter()
            .any(|requirement| requirement.claim.starts_with(NAMES));
        let mut deviate = |finding, code: &str, expected: &str, found: String| {
            if asked {
                result.deviate(Deviation {
                    claim: "geo.tag".to_owned(),
                    finding,
                    code: code.to_owned(),
                    expected: expected.to_owned(),
                    found,
                    provenance: (finding == Finding::Refused).then_some(Provenance::OperatorSigned),
                });
            }
            Self::Told
        };
        let expected = "a geotag of this node, signed by an approver, in its TPM";
        let (tag, by) = match subject.geotag {
            GeoWord::Absent => return Self::Unknown,
            GeoWord::Unavailable(why) => {
                let why = format!("unavailable: {why}");
                return deviate(Finding::Unchecked, "geotag-unavailable", expected, why);
            }
            GeoWord::Refused { code, why } => {
                return deviate(Finding::Refused, code, expected, why.clone());
            }
            GeoWord::Signed { tag, by } => (tag, by),
        };
        let term = "a geotag in its time";
        if now < tag.at {
            let from = format!("it begins {} s after 1970", tag.at.secs());
            return deviate(Finding::Refused, "geotag-early", term, from);
        }
        if now > tag.until {
            let ended = format!("it ended {} s after 1970", tag.until.secs());
            return deviate(Finding::Refused, "geotag-expired", term, ended);
        }
        if let Some(listed) = subject.jurisdiction
            && *listed != tag.jurisdiction
        {
            // Two people say two things, and neither is more right than the other.
            let listed = format!("{listed}, as the inventory has it");
            let found = tag.jurisdiction.to_string();
            return deviate(Finding::Refused, "geotag-jurisdiction", &listed, found);
        }
        let claims = Self::claims(tag, by);
        for (name, claim) in &claims {
            result.note((*name).to_owned(), claim.clone());
        }
        Self::Claims(claims)
    }

    fn claims(tag: &Geotag, by: &str) -> BTreeMap<&'static str, AppraisedClaim> {
        let text = |text: &str| Value::Text(text.to_owned());
        let mut values = vec![
            ("geo.place", text(&tag.place)),
            ("geo.jurisdiction", text(tag.jurisdiction.as_str())),
            ("geo.until", Value::Number(tag.until.secs())),
            ("geo.signed_by", text(by)),
        ];
        if let Some(rack) = &tag.rack {
            values.push(("geo.rack", text(rack)));
        }
        let signed = |(name, value)| {
            let provenance = Provenance::OperatorSigned;
            (name, AppraisedClaim { value, provenance })
        };
        values.into_iter().map(signed).collect()
    }

    /// What was found under a name of this module's: nothing more where the result says why.
    /// `None`: not such a name.
    pub(super) fn find(&self, claim: &str) -> Option<Option<Found>> {
        claim.starts_with(NAMES).then(|| match self {
            Self::Told => None,
            Self::Unknown => Some(Found::Missing),
            Self::Claims(claims) => Some(claims.get(claim).map_or(Found::Missing, |claim| {
                Found::Is(claim.value.clone(), claim.provenance)
            })),
        })
    }
}
