//! Which machine runs when: an interpreted processor takes one of ours, so as many machines as
//! there are of those, and two at most.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::scenario::{Acts, SCENARIOS, Scenario};
use super::{Disks, Kernel, Outcome, Stack, packages, play};
use crate::{cmd, paths};

/// Each has a gigabyte and a half of memory, and a copy of the root disk.
const AT_MOST: usize = 2;

/// Plays each of these on each of these kernels; `more` goes to the kernel's command line. The
/// outcomes are in the order of kernels, then of scenarios.
pub(super) fn play_all(
    kernels: &[Kernel],
    wanted: &[&'static Scenario],
    release: bool,
    more: &str,
) -> Result<Vec<Outcome>> {
    let home = paths::target().join("vm");
    fs::create_dir_all(&home).with_context(|| format!("make {}", home.display()))?;
    let _alone = alone(&home)?;
    let grounds: Vec<(Kernel, Stack, Disks)> = kernels
        .iter()
        .map(|kernel| {
            let stack = packages::stack(*kernel)?;
            let disks = Disks::make(&home.join(kernel.name()), &stack, release)?;
            Ok((*kernel, stack, disks))
        })
        .collect::<Result<_>>()?;
    let queue: Mutex<VecDeque<_>> = Mutex::new(longest_first(&grounds, wanted).into());
    let lanes = thread::available_parallelism().map_or(1, |cores| cores.get().min(AT_MOST));
    let lane = || {
        let mut outcomes = Vec::new();
        while let Some(((kernel, stack, disks), scenario)) =
            queue.lock().ok().and_then(|mut queue| queue.pop_front())
        {
            cmd::speak_of(format!("{} {:<9}", kernel.name(), scenario.name));
            outcomes.push(play(scenario, *kernel, stack, disks, more));
        }
        outcomes
    };
    let mut outcomes: Vec<Outcome> = thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        let ended = lanes.into_iter().map(|lane| {
            lane.join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        ended.flatten().collect()
    });
    let place = |one: &Outcome| {
        (
            kernels.iter().position(|kernel| *kernel == one.kernel),
            SCENARIOS
                .iter()
                .position(|known| known.name == one.scenario.name),
        )
    };
    outcomes.sort_by_key(place);
    Ok(outcomes)
}

/// So that no lane is left alone with a long one at the end.
fn longest_first<'a, T>(
    grounds: &'a [T],
    wanted: &[&'static Scenario],
) -> Vec<(&'a T, &'static Scenario)> {
    let mut queue: Vec<_> = wanted
        .iter()
        .flat_map(|scenario| grounds.iter().map(move |ground| (ground, *scenario)))
        .collect();
    queue.sort_by_key(|(_, scenario)| std::cmp::Reverse(at_most(scenario)));
    queue
}

/// What all its boots may take.
fn at_most(scenario: &Scenario) -> Duration {
    match scenario.acts {
        Acts::Inside { boots, .. } => scenario.limit.saturating_mul(boots),
        Acts::Directed(_) => scenario.limit,
    }
}

/// Held while machines run.
fn alone(home: &Path) -> Result<fs::File> {
    let lock = fs::File::create(home.join("lock")).context("make a lock")?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .context("another `cargo xtask vm-test` is running")?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::super::scenario::{SCENARIOS, WAYS_OUT};
    use super::{at_most, longest_first};

    #[test]
    fn each_is_played_on_each_kernel_and_the_longest_begin() {
        let wanted: Vec<_> = SCENARIOS.iter().collect();
        let queue = longest_first(&[1, 2], &wanted);
        assert_eq!(queue.len(), 2 * SCENARIOS.len());
        for scenario in SCENARIOS {
            for ground in [1, 2] {
                let here = queue
                    .iter()
                    .filter(|(on, one)| **on == ground && one.name == scenario.name);
                assert_eq!(here.count(), 1, "{} on {ground}", scenario.name);
            }
        }
        let begin: Vec<_> = queue.iter().take(4).map(|(_, one)| one.name).collect();
        assert_eq!(begin, ["fence", "fence", WAYS_OUT, WAYS_OUT]);
        let limits: Vec<_> = queue.iter().map(|(_, one)| at_most(one)).collect();
        assert!(limits.is_sorted_by(|a, b| a >= b), "{limits:?}");
    }
}
