//! What a node writes into its own log, and what of it can be forgotten.
//!
//! An entry is public: it is hashed into the log, the log's root stands in every statement, and
//! nothing ever removes it. What is personal in a denial (addresses, ports, paths, users) is
//! sealed beside it, and the entry holds a commitment that says nothing without the key. The key
//! of an entry is derived from one for its study, subject bucket and retention class; destroying
//! that one leaves every proof valid and every copy of the sealed half silent.

mod entry;
pub mod hpke;
mod proof;
mod seal;

pub use entry::{Entry, EntryRefused, MAX_ENTRY, MAX_FLOWS, MAX_SEALED};
pub use proof::{EntryUnproven, ProvenEntry, verify_entry};
pub use seal::{
    BUCKETS, BucketKey, KeyId, KeyTerms, SealError, WRAPPED, bucket_of, committed_under,
    keys_digest,
};
