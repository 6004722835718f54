//! Socket options that nobody may set.

/// `SOL_PACKET`: options of `AF_PACKET` sockets.
const SOL_PACKET: i32 = 263;
/// `PACKET_QDISC_BYPASS`: frames go to the driver past every traffic-control hook, so that nothing
/// on an uplink sees them.
const PACKET_QDISC_BYPASS: i32 = 20;

/// Whether the option is refused, whatever its value: switching it off is nobody's need.
#[inline(always)]
#[must_use]
pub const fn refused(level: i32, name: i32) -> bool {
    level == SOL_PACKET && name == PACKET_QDISC_BYPASS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_blinds_a_line_is_refused() {
        let rows = [
            ("PACKET_QDISC_BYPASS", 263, 20, true),
            ("its neighbours", 263, 19, false),
            ("its neighbours", 263, 21, false),
            ("the same number of another level", 1, 20, false),
            ("SO_REUSEADDR", 1, 2, false),
            ("nothing", 0, 0, false),
        ];
        for (name, level, option, want) in rows {
            assert_eq!(refused(level, option), want, "{name}: {level}, {option}");
        }
    }
}
