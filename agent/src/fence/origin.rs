//! Where the world map in force comes from, for statements.

use bailiwick_attestation::{UnixTime, profile::WorldProfile, proto::v1::fence_state::WorldMap};
use bailiwick_ebpf_common::world::WorldHeader;
use tracing::warn;

/// What the map's header says of itself, and how old the policy lets it be.
#[derive(Debug)]
pub(super) struct Origin {
    said: WorldMap,
    profile: WorldProfile,
}

impl Origin {
    pub(super) fn new(header: &WorldHeader, profile: WorldProfile) -> Self {
        let said = WorldMap {
            source_digest: header.source_digest.to_vec(),
            built: header.built,
            ranges: header.ranges,
            source: letters(&header.source),
            licence: letters(&header.licence),
            max_age_days: profile.max_age_days.unwrap_or(0),
            old: false,
        };
        let origin = Self { said, profile };
        if origin.said(crate::clock::now()).old {
            warn!(
                built = origin.said.built,
                max_age_days = origin.said.max_age_days,
                "the world map is older than the policy allows"
            );
        }
        origin
    }

    /// As statements have it.
    pub(super) fn said(&self, now: UnixTime) -> WorldMap {
        WorldMap {
            old: self.profile.overdue(self.said.built, now).is_some(),
            ..self.said.clone()
        }
    }
}

/// Up to the zeros behind it.
fn letters(padded: &[u8]) -> String {
    let end = padded.iter().position(|b| *b == 0).unwrap_or(padded.len());
    String::from_utf8_lossy(padded.get(..end).unwrap_or(padded)).into_owned()
}

#[cfg(test)]
mod tests {
    use bailiwick_ebpf_common::{Plain as _, WorldImage};

    use super::*;

    #[test]
    fn a_map_says_who_made_it_and_when_it_is_old() {
        let mut image = WorldImage::zeroed();
        image.header.built = 1_800_000_000;
        image.header.source[..3].copy_from_slice(b"RIR");
        image.header.licence = [b'x'; 128];
        let profile = WorldProfile {
            digest: None,
            max_age_days: Some(10),
        };
        let origin = Origin::new(&image.header, profile);
        for (days, old) in [(0, false), (10, false), (11, true)] {
            let now = UnixTime::from_secs(1_800_000_000 + days * 86_400);
            let said = origin.said(now);
            assert_eq!((said.source.as_str(), said.old), ("RIR", old), "{days}");
            assert_eq!(said.licence.len(), 128);
        }
    }
}
