//! Data on stdout, messages on stderr: the only place that writes to either.

use std::io::{IsTerminal as _, Write as _};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};

use super::exit::{CommandError, Exit};

/// The version of what `-o json` and `-o jsonl` print. Fields are added without a new one.
const JSON_VERSION: u32 = 1;

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for people
    Table,
    /// More columns
    Wide,
    /// One JSON document
    Json,
    /// One JSON document a line
    Jsonl,
    /// Names only, one a line
    Name,
}

impl Format {
    /// What was asked for; else a table on a terminal and `otherwise` for programs.
    pub(super) fn or_default(asked: Option<Self>, otherwise: Self) -> Self {
        let terminal = std::io::stdout().is_terminal();
        asked.unwrap_or(if terminal { Self::Table } else { otherwise })
    }
}

/// Writes lines to stdout. A reader that has gone away ends the program quietly.
pub(super) fn print(text: &str) -> Result<(), CommandError> {
    let mut out = std::io::stdout().lock();
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    write!(out, "{text}{newline}").and_then(|()| out.flush()).map_err(unwritable)
}

/// Writes bytes to stdout as they are.
pub(super) fn write(bytes: &[u8]) -> Result<(), CommandError> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(unwritable)
}

fn unwritable(error: std::io::Error) -> CommandError {
    match error.kind() {
        std::io::ErrorKind::BrokenPipe => CommandError::quiet(Exit::Signal(13)),
        _ => CommandError::internal(format!("stdout can't be written: {error}")),
    }
}

/// Writes a message to stderr. A failure to write can't be reported.
pub(super) fn message(text: &str) {
    drop(writeln!(std::io::stderr().lock(), "lockd: {}", printable(text)));
}

/// A progress line on stderr, where that is a terminal. Wiped in the end.
pub(super) struct ProgressLine {
    shown: bool,
}

impl ProgressLine {
    pub(super) fn new() -> Self {
        Self { shown: std::io::stderr().is_terminal() }
    }

    /// Instead of what was shown before.
    pub(super) fn show(&self, text: &str) {
        if self.shown {
            // A failure to write can't be reported.
            drop(write!(std::io::stderr().lock(), "\r\x1b[K{}", printable(text)));
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.show("");
    }
}

/// A document as every JSON output of lockd begins.
pub(super) fn document(kind: &str, mut fields: Value) -> Value {
    if let Value::Object(fields) = &mut fields {
        fields.insert("version".to_owned(), json!(JSON_VERSION));
        fields.insert("kind".to_owned(), json!(kind));
    }
    fields
}

/// One document, on one line or on many.
pub(super) fn print_json(format: Format, document: &Value) -> Result<(), CommandError> {
    match format {
        Format::Jsonl => print(&document.to_string()),
        Format::Json | Format::Table | Format::Wide | Format::Name => {
            print(&format!("{document:#}"))
        }
    }
}

/// The text without what would drive a terminal: much of it comes from others.
pub(super) fn printable(text: &str) -> String {
    let mild = |c: char| !c.is_control() || c == '\n' || c == '\t';
    text.chars().map(|c| if mild(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

/// Columns without frames, as kubectl prints them.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_printed_drives_a_terminal() {
        assert_eq!(printable("a\u{1b}[31m\u{7}\u{9b}b\nü"), "a\u{fffd}[31m\u{fffd}\u{fffd}b\nü");
    }

    #[test]
    fn tables_have_columns_and_no_frames() {
        let text = table(&["NAME", "TOKEN"], [vec!["orders/1".to_owned(), "7".to_owned()]]);
        assert_eq!(text, "NAME      TOKEN\norders/1  7\n");
    }
}
