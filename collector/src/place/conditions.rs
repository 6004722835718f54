//! What of a node's place somebody has to look at, and what to do about it: for alerts, and for
//! whoever asks about the node.

use std::net::IpAddr;

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::proto::v1::StandingLine;

use super::Place;

/// A geotag's end is told so long before, or for the last sixth of its life where that is shorter.
const NOTICE_MS: u64 = 30 * 24 * 3_600_000;
const NOTICE_SHARE: u64 = 6;

/// Something to look at.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Condition {
    /// Stable word.
    pub code: &'static str,
    /// In words.
    pub what: String,
    /// What ends it.
    pub restore: &'static str,
    /// Since when it may be so.
    pub since: UnixTime,
    /// When it gets worse by itself.
    pub until: Option<UnixTime>,
}

/// What there is to look at. `listed`: addresses that the inventory gives the node; `counts_since`:
/// geotags before that were taken back by approvers, who need not be told.
#[must_use]
pub fn conditions(
    place: &Place,
    listed: impl Fn(&IpAddr) -> bool,
    counts_since: Option<UnixTime>,
    now: UnixTime,
) -> Vec<Condition> {
    let Place { tag, .. } = place;
    if counts_since.is_some_and(|since| tag.at < since) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let life = tag.until.since(tag.at);
    let notice = NOTICE_MS.min(life / NOTICE_SHARE);
    let since = UnixTime(tag.until.millis().saturating_sub(notice));
    if now > tag.until {
        found.push(Condition {
            code: "geotag-ended",
            what: "its geotag has ended: nobody says any more where it stands".to_owned(),
            restore: "have somebody stand there and sign another: bailiwick-agent geotag draft",
            since: tag.until,
            until: None,
        });
    } else if now >= since {
        let days = tag.until.since(now) / (24 * 3_600_000);
        found.push(Condition {
            code: "geotag-ending",
            what: format!("its geotag ends in {days} days"),
            restore: "have somebody stand there and sign another: bailiwick-agent geotag draft",
            since,
            until: Some(tag.until),
        });
    }
    if !place.fault.is_empty() {
        found.push(Condition {
            code: "geotag-gone",
            what: format!("it shows its geotag no more [{}]", place.fault),
            restore: "find out who deleted or replaced it, then provision it again; or take it back \
                      by geotags_since in the inventory",
            since: now,
            until: None,
        });
    }
    let differences = place.expected.differences(&place.shown, listed);
    let since = place.differs.unwrap_or(now);
    let missing = differences.missing.join(", ");
    if !differences.new.is_empty() {
        let mut what = format!("beside it is {}", differences.new.join(", "));
        if !missing.is_empty() {
            what.push_str(&format!(", in place of {missing}"));
        }
        what.push_str(", which was not there when its geotag was first shown");
        found.push(Condition {
            code: "place-changed",
            what,
            restore: "go and look where it stands; put it back, or sign another geotag there. An \
                      address that is its own everywhere belongs into its inventory entry",
            since,
            until: None,
        });
    } else if !missing.is_empty() {
        found.push(Condition {
            code: "place-missing",
            what: format!("it hears no more of {missing}"),
            restore: "look after the cable and the switch; if that was taken away for good, sign \
                      another geotag there",
            since,
            until: None,
        });
    }
    found
}

/// The same for whoever asks about the node.
#[must_use]
pub fn line(condition: Condition) -> StandingLine {
    StandingLine {
        code: condition.code.to_owned(),
        what: condition.what,
        restore: condition.restore.to_owned(),
        until_ms: condition.until.map(UnixTime::millis),
    }
}
