//! The fence's own log: what was put in force, extended into a PCR before it took effect.
//!
//! Every [`Entry`] is one event of `TPM2_PCR_Event`, which hashes its bytes for each bank; the log
//! is the entries in order, nothing between. It begins with the PCR at zero and lives as long as
//! the PCR does. [`replay`] finds how many entries the quoted value covers: a log may run ahead of
//! a quote, never behind it. What is *measured* that way is what the agent was about to put in
//! force. Whether it still is, no register knows.

mod entry;
mod replay;
#[cfg(test)]
mod tests;

pub use entry::{
    Begun, Entry, EntryTooLong, LoggedGlass, LoggedPolicy, MAX_ENTRY, Program, entries,
};
pub use replay::{FenceLogRefused, Logged, Replayed, extend, replay, zero};

/// Longest log read or written: some seven thousand changes of policy in one boot.
pub const MAX_LOG: usize = 1 << 20;
