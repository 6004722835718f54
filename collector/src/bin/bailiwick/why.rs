//! Deviations in an operator's words: what is wrong, who says so, and what restores standing.

use bailiwick_attestation::appraisal::{Deviation, Finding};
use bailiwick_attestation::proto::v1;
use serde_json::{Value, json};

use crate::format::time;
use crate::restore::restore;

/// Whose word the claims about the fence are, where it is nobody's but root's.
pub(crate) fn word(result: &Value) -> &'static str {
    let word = result.pointer("/submods/fence/bailiwick.claims/fence.word/value");
    match word.and_then(Value::as_str) {
        Some("root") => {
            "\nwhat is said of the fence is the word of root on that machine: its profile has no strict \
             part that holds\n"
        }
        _ => "",
    }
}

const fn finding_word(finding: Finding) -> &'static str {
    match finding {
        Finding::Refused => "checked and refused",
        Finding::Unchecked => "could not be checked",
        Finding::Warning => "to look at",
    }
}

/// One deviation for machines.
pub(crate) fn row(deviation: &Deviation) -> Value {
    let mut row = serde_json::to_value(deviation).unwrap_or_default();
    if let Some(object) = row.as_object_mut() {
        object.insert("restore".to_owned(), json!(restore(&deviation.code)));
    }
    row
}

/// What standing hangs on, for machines: a row beside those of deviations.
pub(crate) fn standing_row(line: &v1::StandingLine) -> Value {
    json!({
        "claim": "standing",
        "code": line.code,
        "found": line.what,
        "until": line.until_ms.map(time),
        "restore": line.restore,
    })
}

/// All of them for people.
pub(crate) fn text(
    summary: &v1::NodeSummary,
    standing: &[v1::StandingLine],
    deviations: &[Deviation],
) -> String {
    let mut text = format!(
        "{} is {} since {}\n",
        summary.node,
        summary.verdict,
        time(summary.since_ms)
    );
    for line in standing {
        let until = line.until_ms.map(time);
        let until = until.map_or_else(String::new, |until| format!(" (until {until})"));
        text.push_str(&format!(
            "\n{}: {}{until}\n  to restore: {}\n",
            line.code, line.what, line.restore
        ));
    }
    for deviation in deviations {
        let source = deviation
            .provenance
            .map_or_else(String::new, |provenance| format!(" ({provenance})"));
        text.push_str(&format!(
            "\n{}: {}\n  expected:   {}\n  found:      {}{source}\n  to restore: {}\n",
            deviation.claim,
            finding_word(deviation.finding),
            deviation.expected,
            deviation.found,
            restore(&deviation.code),
        ));
    }
    plain(&text)
}

/// What nodes send may hold anything; a terminal is shown plain text.
pub(crate) fn plain(text: &str) -> String {
    let control = |c: char| c.is_control() && c != '\n';
    text.chars()
        .map(|c| if control(c) { ' ' } else { c })
        .collect()
}
