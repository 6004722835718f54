//! Listings: a table for people, JSON and CSV for machines.

use std::io::Write as _;

use anyhow::Context as _;
use bailiwick_attestation::UnixTime;
use clap::ValueEnum;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// How a listing is printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For machines.
    Json,
    /// For spreadsheets.
    Csv,
}

/// A listing: columns and one JSON object per row. Members that are no column are only in JSON.
pub(crate) struct Listing {
    pub(crate) columns: &'static [&'static str],
    pub(crate) rows: Vec<Value>,
}

impl Listing {
    /// Prints it.
    pub(crate) fn print(&self, format: Format) -> anyhow::Result<()> {
        match format {
            Format::Json => print(&format!("{}\n", serde_json::to_string_pretty(&self.rows)?)),
            Format::Csv => print(&self.csv()),
            Format::Table => print(&self.table()),
        }
    }

    fn cells(&self, row: &Value) -> Vec<String> {
        self.columns
            .iter()
            .map(|column| match row.get(column) {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(Value::Array(all)) if all.iter().all(Value::is_string) => {
                    let words: Vec<&str> = all.iter().filter_map(Value::as_str).collect();
                    words.join(", ")
                }
                Some(other) => other.to_string(),
            })
            .collect()
    }

    fn csv(&self) -> String {
        let quote = |cell: &String| {
            if cell.contains([',', '"', '\n', '\r']) {
                format!("\"{}\"", cell.replace('"', "\"\""))
            } else {
                cell.clone()
            }
        };
        let mut text = self.columns.join(",");
        text.push_str("\r\n");
        for row in &self.rows {
            let cells: Vec<String> = self.cells(row).iter().map(quote).collect();
            text.push_str(&cells.join(","));
            text.push_str("\r\n");
        }
        text
    }

    fn table(&self) -> String {
        let head: Vec<String> = self
            .columns
            .iter()
            .map(|column| column.replace('_', " ").to_uppercase())
            .collect();
        let mut lines = vec![head];
        lines.extend(self.rows.iter().map(|row| self.cells(row)));
        // What nodes send may hold anything; a terminal is shown plain text.
        for cell in lines.iter_mut().flatten() {
            if cell.chars().any(char::is_control) {
                *cell = cell
                    .chars()
                    .map(|c| if c.is_control() { ' ' } else { c })
                    .collect();
            }
        }
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|at| {
                let cells = lines.iter().filter_map(|line| line.get(at));
                cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for line in &lines {
            let cells: Vec<String> = line
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// Writes to stdout.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("stdout")
}

/// RFC 3339 in UTC, whole seconds; empty for zero.
pub(crate) fn time(ms: u64) -> String {
    let secs = i64::try_from(ms / 1000).unwrap_or(i64::MAX);
    if secs == 0 {
        return String::new();
    }
    OffsetDateTime::from_unix_timestamp(secs)
        .ok()
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_default()
}

/// A point in time from a command line: RFC 3339, or seconds since 1970.
pub(crate) fn parse_time(text: &str) -> Result<UnixTime, String> {
    if let Ok(secs) = text.parse() {
        return Ok(UnixTime::from_secs(secs));
    }
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|error| error.to_string())?;
    u64::try_from(time.unix_timestamp())
        .map(UnixTime::from_secs)
        .map_err(|_negative| "before 1970".to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn listings_align_and_quote() {
        let listing = Listing {
            columns: &["node", "reason"],
            rows: vec![
                json!({"node": "gpu-01", "reason": "a \"b\", c"}),
                json!({"node": "g", "reason": null, "more": 1}),
            ],
        };
        assert_eq!(listing.table(), "NODE    REASON\ngpu-01  a \"b\", c\ng\n");
        assert_eq!(
            listing.csv(),
            "node,reason\r\ngpu-01,\"a \"\"b\"\", c\"\r\ng,\r\n"
        );
        let hostile = Listing {
            columns: &["node"],
            rows: vec![json!({"node": "a\u{1b}[2Jb"})],
        };
        assert_eq!(hostile.table(), "NODE\na [2Jb\n");
    }

    #[test]
    fn times_read_back() {
        assert_eq!(time(1_800_000_000_000), "2027-01-15T08:00:00Z");
        assert_eq!(time(0), "");
        let cases = [
            ("1800000000", Some(1_800_000_000)),
            ("2027-01-15T09:00:00+01:00", Some(1_800_000_000)),
            ("1969-12-31T23:59:59Z", None),
            ("yesterday", None),
        ];
        for (text, want) in cases {
            let got = parse_time(text).ok().map(UnixTime::secs);
            assert_eq!(got, want, "{text}");
        }
    }
}
