//! What was tried, what was due, and what came.

use std::io::Write as _;

use anyhow::Context as _;
use serde_json::json;
use tonic::Status;

/// What came of one try.
#[derive(Debug)]
pub(crate) enum Came {
    /// Refused, under a stable code.
    Refused {
        /// The code.
        code: String,
        /// In words.
        said: String,
    },
    /// It worked.
    Succeeded(String),
}

impl Came {
    pub(crate) fn refused(code: impl Into<String>, said: impl Into<String>) -> Self {
        Self::Refused {
            code: code.into(),
            said: said.into(),
        }
    }
}

/// `code: detail`, as every refusal of ours over gRPC reads.
impl From<Status> for Came {
    fn from(status: Status) -> Self {
        match status.message().split_once(": ") {
            Some((code, said)) => Self::refused(code, said),
            None => Self::refused(format!("{:?}", status.code()), status.message()),
        }
    }
}

/// Prints one try.
pub(crate) fn tell(tried: &str, expected: &str, came: &Came) -> anyhow::Result<()> {
    let (refused, said) = match came {
        Came::Refused { code, said } => (Some(code), said),
        Came::Succeeded(said) => (None, said),
    };
    let line = json!({"tried": tried, "expected": expected, "refused": refused, "said": said});
    writeln!(std::io::stdout(), "{line}").context("write to stdout")
}
