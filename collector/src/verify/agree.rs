//! Whether what was concluded then and what is concluded now are one conclusion.

use bailiwick_attestation::UnixTime;
use bailiwick_attestation::appraisal::{AkWord, ENDORSEMENTS};
use bailiwick_attestation::tlog::LogEntry;
use serde_json::Value;

use super::Outcome;

/// How two results compare.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Agreement {
    /// They say the same.
    Whole,
    /// They say the same but for a maker's word on the AK, which was not asked for now.
    ButMakersWord,
    /// They do not.
    None,
}

/// Compares a stored result with appraisal's of today, both as the collector writes them.
/// `unasked`: no maker's word on the AK could be asked for now. The verifier's own version may
/// differ between then and now; its conclusion may not.
pub(super) fn results(mut then: Value, mut now: Value, unasked: bool) -> Agreement {
    let by = |side: &Value, whose: &AkWord| {
        let word = side.get("bailiwick.ak").and_then(Value::as_str);
        word.is_some_and(|word| word == whose.to_string())
    };
    let spared = unasked && by(&now, &AkWord::Collector) && by(&then, &AkWord::Iak);
    for side in [&mut then, &mut now] {
        if let Some(object) = side.as_object_mut() {
            object.remove("ear.verifier-id");
            // Another document may say the same; results of earlier versions name none.
            object.remove(ENDORSEMENTS);
            if spared {
                object.remove("bailiwick.ak");
            }
        }
    }
    spare_word(&then, &mut now);
    match (then == now, spared) {
        (false, _) => Agreement::None,
        (true, true) => Agreement::ButMakersWord,
        (true, false) => Agreement::Whole,
    }
}

/// Results of earlier versions do not say whose word the fence's claims are.
fn spare_word(then: &Value, now: &mut Value) {
    const CLAIMS: &str = "/submods/fence/bailiwick.claims";
    const WORD: &str = "fence.word";
    let said = then
        .pointer(CLAIMS)
        .is_none_or(|claims| claims.get(WORD).is_some());
    if let Some(claims) = now.pointer_mut(CLAIMS).filter(|_| !said)
        && let Some(claims) = claims.as_object_mut()
    {
        claims.remove(WORD);
    }
}

/// The checks of a report that follow: name, outcome, detail. `status`: what appraisal says today.
pub(super) fn told(agreement: Agreement, status: &str) -> Vec<(&'static str, Outcome, String)> {
    let same = |outcome| {
        (
            "result",
            outcome,
            format!("{status}, as the collector concluded"),
        )
    };
    match agreement {
        Agreement::Whole => vec![same(Outcome::Ok)],
        Agreement::ButMakersWord => {
            let unasked = "the collector says a maker's IAK vouches; bring its roots to check";
            vec![
                ("ak", Outcome::Undecided, unasked.to_owned()),
                same(Outcome::Ok),
            ]
        }
        Agreement::None => {
            let other = format!("appraisal now says {status}, the stored result says otherwise");
            vec![("result", Outcome::Refused, other)]
        }
    }
}

/// What the log's entry says otherwise than the stored statement; `None`: nothing. `verdict`: what
/// appraisal says today.
pub(super) fn as_logged(entry: &LogEntry, received: UnixTime, verdict: &str) -> Option<String> {
    if entry.received != received {
        return Some("the log says it came at another time".to_owned());
    }
    (entry.verdict != verdict).then(|| format!("the log says {}, not {verdict}", entry.verdict))
}

#[cfg(test)]
mod tests {
    use bailiwick_attestation::Sha256Digest;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_conclusion_is_the_same_or_it_is_not() {
        let own = |verifier: &str, status: &str, ak: &str| json!({"ear.verifier-id": verifier, "ear.status": status, "bailiwick.ak": ak});
        let now = own("2", "affirming", "collector's word");
        let table = [
            (
                "the same, by an older verifier",
                own("1", "affirming", "collector's word"),
                false,
                Agreement::Whole,
            ),
            (
                "the same, and no maker spoke then either",
                own("1", "affirming", "collector's word"),
                true,
                Agreement::Whole,
            ),
            (
                "another conclusion",
                own("1", "contraindicated", "collector's word"),
                true,
                Agreement::None,
            ),
            (
                "a maker spoke then, and could not be asked now",
                own("1", "affirming", "iak"),
                true,
                Agreement::ButMakersWord,
            ),
            (
                "a maker spoke then, was asked now, and is silent",
                own("1", "affirming", "iak"),
                false,
                Agreement::None,
            ),
            (
                "a maker spoke then, and the conclusion is another",
                own("1", "warning", "iak"),
                true,
                Agreement::None,
            ),
            (
                "a person confirmed then, and nobody now",
                own("1", "affirming", "confirmed"),
                true,
                Agreement::None,
            ),
            ("no object", json!([]), true, Agreement::None),
        ];
        for (row, then, unasked, want) in table {
            assert_eq!(results(then, now.clone(), unasked), want, "{row}");
        }
        let makers = own("1", "affirming", "iak");
        let confirmed = own("2", "affirming", "confirmed");
        let got = results(makers, confirmed, true);
        assert_eq!(got, Agreement::None, "a maker spoke then, a person now");
    }

    #[test]
    fn what_differs_is_refused_and_what_was_not_asked_is_undecided() {
        let outcomes = |agreement| -> Vec<_> {
            let told = told(agreement, "affirming").into_iter();
            told.map(|(name, outcome, _)| (name, outcome)).collect()
        };
        assert_eq!(outcomes(Agreement::Whole), [("result", Outcome::Ok)]);
        assert_eq!(
            outcomes(Agreement::ButMakersWord),
            [("ak", Outcome::Undecided), ("result", Outcome::Ok)]
        );
        assert_eq!(outcomes(Agreement::None), [("result", Outcome::Refused)]);
    }

    #[test]
    fn the_log_tells_when_it_came_and_what_was_said() {
        let entry = LogEntry {
            subject: "gpu-01".to_owned(),
            epoch: 1,
            sequence: 7,
            statement: Sha256Digest([1; 32]),
            verdict: "affirming".to_owned(),
            received: UnixTime(1000),
        };
        assert_eq!(as_logged(&entry, UnixTime(1000), "affirming"), None);
        let later = as_logged(&entry, UnixTime(1001), "affirming").unwrap();
        assert!(later.contains("another time"), "{later}");
        let other = as_logged(&entry, UnixTime(1000), "warning").unwrap();
        assert!(other.contains("affirming, not warning"), "{other}");
    }
}
