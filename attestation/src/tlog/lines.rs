//! Plain lines, `name value`, in one order and one spelling: how everything in the log is written.

use super::receipt::LogEntryError;
use crate::ids::{Sha256Digest, UnixTime};

/// Takes named values off the front.
pub(super) struct Lines<'a> {
    rest: std::str::Split<'a, char>,
    bytes: &'a [u8],
    /// The last one taken, counted from 1.
    line: usize,
}

impl<'a> Lines<'a> {
    /// Expects `header` as the first line; `fault` says what is not there without it.
    pub(super) fn new(
        bytes: &'a [u8],
        header: &str,
        fault: &'static str,
    ) -> Result<Self, LogEntryError> {
        let fail = |fault| LogEntryError { line: 1, fault };
        let text = str::from_utf8(bytes).map_err(|_utf8| fail("not UTF-8"))?;
        let mut rest = text.split('\n');
        if rest.next() != Some(header) {
            return Err(fail(fault));
        }
        let line = 1;
        Ok(Self { rest, bytes, line })
    }

    /// The value of the next line, which must bear this name.
    pub(super) fn text(&mut self, name: &'static str) -> Result<&'a str, LogEntryError> {
        self.line = self.line.saturating_add(1);
        self.rest
            .next()
            .and_then(|text| text.strip_prefix(name))
            .and_then(|text| text.strip_prefix(' '))
            .ok_or_else(|| self.fail(name))
    }

    pub(super) fn number(&mut self, name: &'static str) -> Result<u64, LogEntryError> {
        let text = self.text(name)?;
        text.parse()
            .map_err(|_digits| self.fail("not a decimal number"))
    }

    /// Milliseconds since 1970.
    pub(super) fn time(&mut self, name: &'static str) -> Result<UnixTime, LogEntryError> {
        self.number(name).map(UnixTime)
    }

    pub(super) fn digest(&mut self, name: &'static str) -> Result<Sha256Digest, LogEntryError> {
        let text = self.text(name)?.to_owned();
        Sha256Digest::try_from(text).map_err(|_digest| self.fail("not a SHA-256 digest"))
    }

    /// What is wrong with the line taken last.
    pub(super) const fn fail(&self, fault: &'static str) -> LogEntryError {
        let line = self.line;
        LogEntryError { line, fault }
    }

    /// What was read, written again, must be what was there.
    pub(super) fn finish(self, written_again: &[u8]) -> Result<(), LogEntryError> {
        if written_again == self.bytes {
            return Ok(());
        }
        Err(LogEntryError {
            line: self.line.saturating_add(1),
            fault: "not the canonical spelling",
        })
    }
}
