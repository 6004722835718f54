//! Which program a process runs, as far as it can still be asked.

use std::fs;

/// Path of the program that process `pid` ran at `at_ns` (boot time); empty where nobody can say:
/// the process is gone, or its number is another's by now.
pub(super) fn executable(pid: u32, at_ns: u64) -> String {
    let program = fs::read_link(format!("/proc/{pid}/exe"));
    // Looked at after the link: a process that took the number in between began after `at_ns`.
    let stat = fs::read(format!("/proc/{pid}/stat"));
    let (Ok(program), Ok(stat)) = (program, stat) else {
        return String::new();
    };
    match began_ns(&stat, rustix::param::clock_ticks_per_second()) {
        Some(began) if began <= at_ns => program.to_string_lossy().into_owned(),
        _ => String::new(),
    }
}

/// When a process began (boot time, ns, rounded down), from `/proc/PID/stat`; see proc_pid_stat(5).
///
/// The second field is the program's name, in parentheses, and may hold anything: counting begins
/// after the last one.
fn began_ns(stat: &[u8], ticks_per_second: u64) -> Option<u64> {
    const START_TIME: usize = 22;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end.checked_add(1)?..)?).ok()?;
    let ticks: u64 = rest
        .split_ascii_whitespace()
        .nth(START_TIME - 3)?
        .parse()
        .ok()?;
    ticks
        .checked_mul(1_000_000_000)?
        .checked_div(ticks_per_second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn a_process_that_began_later_is_another() {
        let pid = std::process::id();
        let own = std::env::current_exe().unwrap();
        assert_eq!(
            executable(pid, clock::boot_time_ns()),
            own.to_str().unwrap()
        );
        assert_eq!(executable(pid, 0), "", "the number was another's then");
        assert_eq!(executable(u32::MAX, clock::boot_time_ns()), "");
    }

    #[test]
    fn the_start_is_read_behind_the_name() {
        let stat = |name: &str, start: &str| {
            format!(
                "4711 ({name}) S 1 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 {start} 9 9\n"
            )
        };
        let cases = [
            ("plain", stat("curl", "250"), Some(2_500_000_000)),
            (
                "a name that looks like fields",
                stat("a) R 1 (b", "250"),
                Some(2_500_000_000),
            ),
            ("no number", stat("curl", "x"), None),
            ("beyond", stat("curl", "99999999999999999999"), None),
            (
                "beyond in nanoseconds",
                stat("curl", "18446744073709551615"),
                None,
            ),
            ("no name", "4711 curl S".to_owned(), None),
            ("cut off", "4711 (curl) S 1 2 3".to_owned(), None),
            ("nothing", String::new(), None),
        ];
        for (name, text, want) in cases {
            assert_eq!(began_ns(text.as_bytes(), 100), want, "{name}");
        }
    }
}
