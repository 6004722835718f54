//! The one way in which every format says what is wrong with its bytes.

/// Bytes that are not the structure they claim to be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{structure}.{field} at offset {offset}: {fault}")]
pub struct ParseError {
    /// Structure as its specification spells it.
    pub structure: &'static str,
    /// Member as its specification spells it.
    pub field: &'static str,
    /// Bytes from the start of the structure.
    pub offset: usize,
    /// What is wrong there.
    pub fault: Fault,
}

impl ParseError {
    /// What the DER decoder says about `field` of `structure`, at the offset it found it.
    pub(crate) fn from_der(
        structure: &'static str,
        field: &'static str,
        error: &der::Error,
    ) -> Self {
        let offset = error.position().map_or(0, u32::from);
        Self {
            structure,
            field,
            offset: usize::try_from(offset).unwrap_or_default(),
            fault: Fault::Der(error.kind()),
        }
    }
}

/// What is wrong with a field.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// The input ends inside the field.
    #[error("needs {want} bytes, {left} left")]
    Truncated {
        /// Bytes the field asks for.
        want: usize,
        /// Bytes that follow.
        left: usize,
    },
    /// A constant is not what the specification says.
    #[error("found {found:#x}, wanted {want:#x}")]
    Mismatch {
        /// The value found.
        found: u64,
        /// The only value allowed.
        want: u64,
    },
    /// A value outside what is defined or supported.
    #[error("{found:#x} is not a value this field may hold")]
    Unsupported {
        /// The value found.
        found: u64,
    },
    /// More elements or bytes than any honest sender has.
    #[error("{found} exceeds the limit of {limit}")]
    TooMany {
        /// The count declared.
        found: u64,
        /// The most that is read.
        limit: u64,
    },
    /// Bytes after the end of the structure.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// Not the distinguished encoding of anything this field may hold.
    #[error("not DER: {0}")]
    Der(der::ErrorKind),
    /// Text that is not the JSON it should be; line and column count inside that text.
    #[error("not the JSON expected: {0}")]
    Json(String),
    /// A rule of the format in words, for what is not a number.
    #[error("{0}")]
    Rule(&'static str),
}
