//! What the kernel thinks of its clock: whether anybody disciplines it, and how far it may be off.
//! Statements carry the TPM's clock beside it.

use bailiwick_attestation::proto::v1::{Claim, claim::Value};

use super::claim;
use crate::sys::time::{Discipline, discipline};

/// What begins the names of claims that move by themselves.
pub(crate) const NAMES: &str = "time.";

const SOURCE: &str = "adjtimex(2)";

pub(super) fn claims(out: &mut Vec<Claim>) {
    say(discipline().map_err(|err| super::why(&err)), out);
}

fn say(found: Result<Discipline, String>, out: &mut Vec<Claim>) {
    let found = match found {
        Ok(found) => found,
        Err(why) => {
            out.push(claim("time.synchronized", SOURCE, Value::Unavailable(why)));
            return;
        }
    };
    out.push(claim(
        "time.synchronized",
        SOURCE,
        Value::Flag(found.synchronized),
    ));
    if found.synchronized {
        // What an undisciplined clock says of its error is nothing.
        for (name, value) in [
            ("time.offset-us", found.offset_us),
            ("time.max-error-us", found.max_error_us),
        ] {
            out.push(claim(name, SOURCE, Value::Number(value)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_undisciplined_clock_has_no_error_to_tell() {
        let mut out = Vec::new();
        let mut found = Discipline {
            synchronized: true,
            offset_us: 12,
            max_error_us: 900,
        };
        say(Ok(found), &mut out);
        let names: Vec<&str> = out.iter().map(|claim| claim.name.as_str()).collect();
        assert_eq!(
            names,
            ["time.synchronized", "time.offset-us", "time.max-error-us"]
        );
        assert_eq!(out[1].value, Some(Value::Number(12)));
        assert!(names.iter().all(|name| name.starts_with(NAMES)));
        found.synchronized = false;
        let mut out = Vec::new();
        say(Ok(found), &mut out);
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].value, Some(Value::Flag(false)));
        let mut out = Vec::new();
        say(Err("EPERM".to_owned()), &mut out);
        assert_eq!(out[0].value, Some(Value::Unavailable("EPERM".to_owned())));
        claims(&mut Vec::new());
    }
}
