//! Why there is no configuration.

use std::{borrow::Cow, path::PathBuf};

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, a value of the wrong type.
    #[error("{file}, line {line} ({text}): {fault}")]
    Parse {
        /// The file.
        file: PathBuf,
        /// From 1.
        line: usize,
        /// That line, which names the key.
        text: String,
        /// What is wrong.
        fault: String,
    },
    /// A value that is well-formed and makes no sense.
    #[error("{file}: {key}: {fault}")]
    Value {
        /// The file.
        file: PathBuf,
        /// Dotted key.
        key: Cow<'static, str>,
        /// What is wrong.
        fault: String,
    },
}
