//! When GPUs are asked: after boot, when the driver says something else than before, and once an
//! hour; never twice within half a minute, and never again because it failed.

use std::time::{Duration, Instant};

use bailiwick_attestation::{
    Sha256Digest,
    proto::v1::{Claim, Statement, claim::Value},
};
use prost::Message;

/// Least time between two requests to one GPU, whoever made them.
pub const PAUSE: Duration = Duration::from_secs(30);

/// What of the driver's word a report speaks of, too. All else (processes, rows of memory) changes
/// without a new report being worth its price.
const ABOUT: [&str; 3] = ["nvml.driver-version", "nvml.driver-loads", "nvml.gpus"];
const ABOUT_MODE: [&str; 2] = ["nvml.cc.", "nscq."];
const ABOUT_GPU: [&str; 6] = ["uuid", "vbios", "pci", "pdi", "mig", "resets"];

/// Decides; owns no clock.
#[derive(Debug)]
pub struct Schedule {
    every: Duration,
    /// The driver has GPUs.
    there: bool,
    seen: Option<Sha256Digest>,
    wanted: bool,
    asked: Option<Instant>,
}

impl Schedule {
    /// Asked once in `every`; `asked`: when this boot's GPUs were asked last, by any process.
    #[must_use]
    pub const fn new(every: Duration, asked: Option<Instant>) -> Self {
        Self {
            every,
            there: false,
            seen: None,
            wanted: true,
            asked,
        }
    }

    /// Takes what the driver says. True: it says something else than before, so what GPUs said
    /// before is of another state (driver reloaded, GPU reset, mode or MIG changed).
    pub fn notice(&mut self, claims: &[Claim]) -> bool {
        let mut claims = claims.iter().filter(|claim| is_about(&claim.name));
        let count = claims.clone().find(|claim| claim.name == "nvml.gpus");
        let count = count.and_then(|claim| claim.value.as_ref());
        self.there = matches!(count, Some(Value::Number(1..)));
        let said = Statement {
            claims: claims.by_ref().cloned().collect(),
            ..Statement::default()
        };
        let said = Sha256Digest::of(&[&said.encode_to_vec()]);
        let changed = self.seen.replace(said).is_some_and(|seen| seen != said);
        self.wanted |= changed;
        changed
    }

    /// The driver has GPUs.
    #[must_use]
    pub const fn there(&self) -> bool {
        self.there
    }

    /// They are to be asked now.
    #[must_use]
    pub fn due(&self, now: Instant) -> bool {
        let since = |pause| self.asked.is_none_or(|asked| now >= asked + pause);
        self.there && since(PAUSE) && (self.wanted || since(self.every))
    }

    /// They are being asked. Whatever comes of it, that was it.
    pub fn asking(&mut self, now: Instant) {
        self.asked = Some(now);
        self.wanted = false;
    }

    /// Nobody will know what challenge they answered: once more, in its time.
    pub fn unheard(&mut self) {
        self.wanted = true;
    }
}

fn is_about(name: &str) -> bool {
    let of_gpu = || {
        let (_, field) = name.strip_prefix("nvml.gpu.")?.split_once('.')?;
        Some(ABOUT_GPU.contains(&field))
    };
    ABOUT.contains(&name)
        || ABOUT_MODE.iter().any(|it| name.starts_with(it))
        || of_gpu().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(name: &str, value: Value) -> Claim {
        Claim {
            name: name.to_owned(),
            source: "nvml".to_owned(),
            value: Some(value),
        }
    }

    fn said(mig: &str, processes: u64) -> Vec<Claim> {
        vec![
            claim("nvml.gpus", Value::Number(1)),
            claim("nvml.cc.enabled", Value::Flag(true)),
            claim("nvml.gpu.0.mig", Value::Text(mig.to_owned())),
            claim("nvml.gpu.0.processes", Value::Number(processes)),
        ]
    }

    const HOUR: Duration = Duration::from_secs(3600);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn they_are_asked_after_boot_on_change_and_hourly_and_never_soon_again() {
        let start = Instant::now();
        let mut schedule = Schedule::new(HOUR, None);
        assert!(!schedule.due(start), "nobody knows of any");
        assert!(
            !schedule.notice(&said("off", 0)),
            "the first word is no change"
        );
        assert!(schedule.due(start));
        schedule.asking(start);
        for (name, later, want) in [
            ("at once", Duration::ZERO, false),
            ("after the pause", PAUSE, false),
            ("just before the hour", HOUR - SECOND, false),
            ("after the hour", HOUR, true),
        ] {
            assert_eq!(schedule.due(start + later), want, "{name}");
        }
        assert!(!schedule.notice(&said("off", 7)), "processes come and go");
        assert!(!schedule.due(start + PAUSE));
        assert!(schedule.notice(&said("on", 7)));
        assert!(
            !schedule.due(start + PAUSE - SECOND),
            "a change does not shorten the pause"
        );
        assert!(schedule.due(start + PAUSE));
        schedule.asking(start + PAUSE);
        assert!(!schedule.due(start + PAUSE * 2), "whatever came of it");
        schedule.unheard();
        assert!(schedule.due(start + PAUSE * 2));
        let gone = [claim("nvml.gpus", Value::Unavailable("lost".to_owned()))];
        assert!(schedule.notice(&gone) && !schedule.due(start + HOUR * 2));
    }

    #[test]
    fn each_change_of_what_a_report_speaks_of_is_noticed() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (name, before, after, want) in [
            ("nvml.driver-version", text("580.1"), text("580.2"), true),
            (
                "nvml.driver-loads",
                Value::Number(0),
                Value::Number(1),
                true,
            ),
            ("nvml.gpus", Value::Number(2), Value::Number(1), true),
            ("nvml.cc.ready", Value::Flag(true), Value::Flag(false), true),
            ("nvml.gpu.0.mig", text("off"), text("on"), true),
            (
                "nvml.gpu.0.resets",
                Value::Number(0),
                Value::Number(1),
                true,
            ),
            ("nvml.gpu.0.uuid", text("GPU-7"), text("GPU-8"), true),
            ("nscq.switch.0.mode", text("locked"), text("off"), true),
            (
                "nvml.gpu.0.processes",
                Value::Number(0),
                Value::Number(1),
                false,
            ),
            (
                "nvml.gpu.0.remapped-rows",
                Value::Number(0),
                Value::Number(1),
                false,
            ),
        ] {
            let mut schedule = Schedule::new(HOUR, None);
            let said = |value: &Value| [claim("nvml.name", text("x")), claim(name, value.clone())];
            assert!(!schedule.notice(&said(&before)), "{name}");
            assert!(!schedule.notice(&said(&before)), "{name}");
            assert_eq!(schedule.notice(&said(&after)), want, "{name}");
        }
    }

    #[test]
    fn a_new_process_keeps_the_pause_of_the_one_before_it() {
        let start = Instant::now();
        let mut schedule = Schedule::new(HOUR, Some(start));
        schedule.notice(&said("off", 0));
        assert!(!schedule.due(start + PAUSE - SECOND));
        assert!(schedule.due(start + PAUSE));
    }
}
