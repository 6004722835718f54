//! What names the logs that travel beside a statement.

use crate::ids::Sha256Digest;
use crate::proto::v1;

/// Told apart from a log that is whole.
const PART: &[u8] = b"bailiwick log part v1\0";

/// What names a log: SHA-256 of one that is whole. A part names what it goes on from, and its name
/// stands for both.
#[must_use]
pub fn log_name(log: &v1::Log) -> Sha256Digest {
    if log.follows.is_empty() {
        return Sha256Digest::of(&[&log.content]);
    }
    Sha256Digest::of(&[PART, &log.follows, &log.content])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_named_with_all_that_came_before_it() {
        let log = |content: &[u8], follows: &[u8]| v1::Log {
            name: "ima".to_owned(),
            content: content.to_vec(),
            follows: follows.to_vec(),
        };
        let whole = log(b"one", &[]);
        assert_eq!(log_name(&whole), Sha256Digest::of(&[b"one"]));
        let name = log_name(&whole);
        let part = log(b"two", name.as_bytes());
        let names = [
            log_name(&whole),
            log_name(&log(b"onetwo", &[])),
            log_name(&log(b"two", &[])),
            log_name(&part),
            log_name(&log(b"two", log_name(&part).as_bytes())),
            log_name(&log(b"twp", name.as_bytes())),
        ];
        for (at, one) in names.iter().enumerate() {
            assert!(!names[..at].contains(one), "{at}");
        }
    }
}
