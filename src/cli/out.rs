//! What a command prints.

use std::io::{ErrorKind, Write};

use podrun::error::{Error, Result, acts};
use serde::Serialize;

/// Prints `text`. A reader that has seen enough is no failure.
pub(super) fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Error::io("write", "stdout", &error)),
        _ => Ok(()),
    }
}

/// Prints one line.
pub(super) fn line(text: impl std::fmt::Display) -> Result<()> {
    print(&format!("{text}\n"))
}

/// Prints `value` as JSON that a person can read.
pub(super) fn json<T: Serialize>(value: &T) -> Result<()> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| Error::failed("encode", error.to_string()))?;
    line(escape(text))
}

/// JSON lets DEL, the control characters above ASCII and those that turn the direction of writing through
/// as they are, and terminals act on them. Outside of strings there are none; of those below DEL only
/// newlines.
pub(super) fn escape(json: String) -> String {
    let acts = |c: char| c != '\n' && acts(c);
    if !json.contains(acts) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() + 8);
    for c in json.chars() {
        if acts(c) { escaped.push_str(&format!("\\u{:04x}", u32::from(c))) } else { escaped.push(c) }
    }
    escaped
}

/// Prints rows of tab-separated cells as columns.
pub(super) fn table(rows: &[String]) -> Result<()> {
    print(&columns(rows)?)
}

/// Rows of tab-separated cells as columns.
pub(super) fn columns(rows: &[String]) -> Result<String> {
    let mut writer = tabwriter::TabWriter::new(Vec::new()).padding(3);
    let text = rows.join("\n") + "\n";
    let failed = |error: std::io::Error| Error::failed("format the table", error.to_string());
    writer.write_all(text.as_bytes()).and_then(|()| writer.flush()).map_err(failed)?;
    let bytes = writer.into_inner().map_err(|error| Error::failed("format the table", error.to_string()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// `text` as one cell: on one line, without anything that a terminal would act on, and not wider
/// than `width`.
pub(super) fn cell(text: &str, width: usize) -> String {
    let mut cell: String = text.chars().map(|c| if acts(c) { '?' } else { c }).take(width + 1).collect();
    if cell.chars().count() > width {
        cell = cell.chars().take(width - 1).chain(['…']).collect();
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_holds_nothing_that_a_terminal_acts_on_and_says_the_same() {
        let text = "a\u{7f}\u{9b}2J\x1bé\u{202e}";
        let json = escape(serde_json::to_string(text).expect("JSON"));
        assert_eq!(json, r#""a\u007f\u009b2J\u001bé\u202e""#);
        assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), text);
    }

    #[test]
    fn a_cell_is_one_line_of_bounded_width() {
        assert_eq!(cell("sh -c a\tb\n", 30), "sh -c a?b?");
        assert_eq!(cell("abcdef", 4), "abc…");
    }
}
