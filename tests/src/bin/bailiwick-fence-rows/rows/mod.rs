//! The table of known ways round a fence, as attacks.

mod asked;
mod device;
mod forwarded;
mod frame;
mod header;
mod held;
mod kernel;
mod other;
mod policy;
mod rdma;
mod socket;
mod tunnel;

use crate::row::Row;

/// Where the study may not go, and where it may.
const US: &str = "198.51.100.7";
const US6: &str = "2001:db8:2::7";
const DE: &str = "192.0.2.7";
const DE6: &str = "2001:db8:1::7";
/// Somebody who may be reached by UDP at port 5000 alone.
const SERVICE: &str = "203.0.113.9";
const SERVICE6: &str = "2001:db8:2::9";

/// All of them, in the order they are played.
pub(crate) fn all() -> Vec<&'static Row> {
    [
        socket::ROWS,
        header::ROWS,
        held::ROWS,
        frame::ROWS,
        tunnel::ROWS,
        device::ROWS,
        forwarded::ROWS,
        kernel::ROWS,
        policy::ROWS,
        other::ROWS,
        asked::ROWS,
        rdma::ROWS,
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::all;

    #[test]
    fn attacks_have_names_of_their_own() {
        let names: BTreeSet<&str> = all().iter().map(|row| row.attack).collect();
        assert_eq!(names.len(), all().len());
    }
}
