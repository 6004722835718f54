//! How much slower than a processor this machine is.

use std::sync::OnceLock;
use std::time::Duration;

/// Where a processor is interpreted, whoever starts this program says how many times as long
/// everything takes. Attackers inherit it.
const VARIABLE: &str = "BAILIWICK_PACE";

/// A time that is enough on two idle processors, as it has to be here.
pub(crate) fn paced(time: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let factor = FACTOR.get_or_init(|| factor(std::env::var(VARIABLE).ok().as_deref()));
    time.saturating_mul(*factor)
}

fn factor(said: Option<&str>) -> u32 {
    said.and_then(|said| said.parse().ok())
        .map_or(1, |factor: u32| factor.clamp(1, 60))
}

#[cfg(test)]
mod tests {
    use super::factor;

    #[test]
    fn no_machine_is_faster_than_one() {
        let rows = [
            ("nothing is said", None, 1),
            ("four times", Some("4"), 4),
            ("faster", Some("0"), 1),
            ("for ever", Some("1000000"), 60),
            ("no number", Some("slow"), 1),
        ];
        for (name, said, want) in rows {
            assert_eq!(factor(said), want, "{name}");
        }
    }
}
