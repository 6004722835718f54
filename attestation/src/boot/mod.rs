//! The boot event log of TCG PC Client firmware: what each register was extended with, and why.
//!
//! A log is a list of claims. That it replays to a quoted register proves its digests and their
//! order, and nothing else: event types and most event data are covered by no digest. So reading
//! ([`EventLog`]), replaying ([`Replay`]) and judging what may be believed of the content
//! ([`examine`]) are three steps, and a fact is taken only from data whose digest is its hash.
//!
//! Formats: TCG PC Client Platform Firmware Profile 1.06 (PFP), §10; SHA-1 logs of its §10.2.1;
//! CCEL of TDX guests (UEFI 2.10, §38), which has the crypto-agile shape over four registers.

mod content;
mod event;
mod facts;
mod grub;
mod log;
mod quirk;
mod replay;
mod userspace;
mod variable;
mod walk;

pub use content::{Content, Finding, examine};
pub use event::{Event, EventType};
pub use facts::{CommandLine, Facts, Late};
pub use log::{Bank, EventLog, EventLogError, Format};
pub use quirk::Quirk;
pub use replay::{BankError, Compared, Replay, compare};
pub use userspace::{MAX_USERSPACE_LOG, UserspaceEvent, UserspaceLog, UserspaceLogError};
pub use variable::UefiVariable;

#[cfg(test)]
mod tests;
