//! The evidence port: one stream per node, read at the node's pace and within bounds.

mod entries;
mod evidence;
mod logs;
mod nonces;
mod place;
mod rate;
mod relay;
mod service;
mod stream;
mod streams;

pub use logs::LogsKnown;
pub use nonces::{NonceRefused, Nonces};
pub use service::{Evidence, Shared};
pub(crate) use service::{error_chain, send_chunks, store as store_failed};
pub use streams::{Closed, Command, Streams};
