//! What manifests other than a policy say.

mod break_glass;
mod erasure;

pub use break_glass::{
    BREAK_GLASS_FILE_LIMIT, BREAK_GLASS_NODES_LIMIT, BREAK_GLASS_SECONDS, BreakGlass, Nodes,
};
pub use erasure::{ERASURE_BUCKETS_LIMIT, ERASURE_FILE_LIMIT, Erasure};
