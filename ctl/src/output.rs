//! Tables as Azure's CLI prints them, YAML, and colours.

use std::fmt::Display;
use std::io::IsTerminal;

use comfy_table::{Cell, Table as Grid, presets};
use serde::Serialize;

/// Writes a line to standard error. Nobody may listen there any more: that is no reason to stop.
pub(crate) fn tell(line: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// JSON, and nothing else on standard output.
    Json,
    /// YAML.
    Yaml,
}

/// A table: headers underlined with dashes, columns two spaces apart, no frame.
pub(crate) struct Table {
    headers: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(headers: &[&'static str]) -> Table {
        Table { headers: headers.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row<T: Display>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(|cell| cell.to_string()).collect());
    }

    /// The text; `empty` where there is no row.
    pub(crate) fn render(self, empty: &str) -> String {
        if self.rows.is_empty() {
            return empty.to_owned();
        }
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING);
        grid.set_header(self.headers.iter().map(Cell::new));
        grid.add_rows(self.rows);
        let dashes: Vec<String> =
            grid.column_max_content_widths().iter().map(|width| "-".repeat(usize::from(*width))).collect();
        for column in grid.column_iter_mut() {
            column.set_padding((0, 2));
        }
        let mut lines: Vec<String> = grid.lines().map(|line| line.trim_end().to_owned()).collect();
        lines.insert(1, dashes.join("  "));
        lines.join("\n")
    }
}

/// A table as [`Table`] renders it, of a million rows too: they are not copied.
pub(crate) fn columns<const N: usize>(headers: [&str; N], rows: &[[&str; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column]);
        cells.chain([headers[column]]).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let dashes = widths.map(|width| "-".repeat(width));
    let dashes: [&str; N] = std::array::from_fn(|column| dashes[column].as_str());
    let mut text = String::with_capacity((rows.len() + 2) * (widths.iter().sum::<usize>() + 2 * N));
    for row in [headers, dashes].iter().chain(rows) {
        let mut blanks = 0;
        for (cell, width) in row.iter().zip(widths) {
            // Blanks at the end of a line are left out.
            if !cell.is_empty() {
                text.extend(std::iter::repeat_n(' ', blanks));
                text.push_str(cell);
                blanks = 0;
            }
            blanks += 2 + width - cell.chars().count();
        }
        text.push('\n');
    }
    text.pop();
    text
}

/// YAML of any data.
pub(crate) fn to_yaml<T: Serialize>(data: &T) -> anyhow::Result<String> {
    // By way of JSON's data model, so that both formats show the same.
    let value = serde_json::to_value(data)?;
    Ok(serde_saphyr::to_string(&value)?)
}

/// Colours, where the reader is a terminal and NO_COLOR is not set (no-color.org).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    coloured: bool,
}

impl Style {
    pub(crate) fn of_stdout() -> Style {
        Style::on(std::io::stdout().is_terminal())
    }

    pub(crate) fn of_stderr() -> Style {
        Style::on(std::io::stderr().is_terminal())
    }

    fn on(terminal: bool) -> Style {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Style { coloured: wanted && terminal }
    }

    #[cfg(test)]
    pub(crate) fn plain() -> Style {
        Style { coloured: false }
    }

    fn paint(self, code: &str, text: impl Display) -> String {
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }

    pub(crate) fn good(self, text: impl Display) -> String {
        self.paint("1;32", text)
    }

    pub(crate) fn bad(self, text: impl Display) -> String {
        self.paint("1;31", text)
    }

    pub(crate) fn doubtful(self, text: impl Display) -> String {
        self.paint("33", text)
    }

    pub(crate) fn strong(self, text: impl Display) -> String {
        self.paint("1", text)
    }

    pub(crate) fn faint(self, text: impl Display) -> String {
        self.paint("2", text)
    }
}

/// `1.2 s`, `35 ms`: a duration for people.
pub(crate) fn duration(ms: u64) -> String {
    if ms < 1000 { format!("{ms} ms") } else { format!("{:.1} s", ms as f64 / 1000.0) }
}

/// `0.251 ms`, `1.2 s`: a round trip for people.
pub(crate) fn round_trip(us: u64) -> String {
    if us < 1_000_000 { format!("{:.3} ms", us as f64 / 1000.0) } else { format!("{:.1} s", us as f64 / 1e6) }
}

/// `1 change`, `2 changes`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// `12.3 kB`, with powers of ten.
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{number} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_table_look_the_same() {
        let rows = [["a", "", "long enough"], ["wider than its header", "b", ""], ["", "", ""]];
        let headers = ["First", "Second", "Third"];
        let mut table = Table::new(&headers);
        rows.iter().for_each(|row| table.row(row));
        assert_eq!(columns(headers, &rows), table.render("empty"));
    }

    #[test]
    fn a_table_looks_like_azures() {
        let mut table = Table::new(&["Source", "State", "Next Hop IP"]);
        table.row(["Default", "Active", ""]);
        table.row(["User", "Invalid", "10.0.1.4"]);
        assert_eq!(
            table.render("none"),
            "Source   State    Next Hop IP\n-------  -------  -----------\nDefault  Active\nUser     Invalid  10.0.1.4"
        );
        assert_eq!(Table::new(&["Source"]).render("No routes."), "No routes.");
    }

    #[test]
    fn yaml_keeps_types_apart() {
        let data = serde_json::json!({ "text": "true", "number": 1, "list": ["10.0.0.0/8"], "none": null });
        let text = to_yaml(&data).expect("JSON is YAML");
        assert!(text.contains("text: \"true\"") || text.contains("text: 'true'"), "{text}");
        assert!(text.contains("number: 1"), "{text}");
        assert!(text.contains("- 10.0.0.0/8"), "{text}");
    }

    #[test]
    fn quantities_are_readable() {
        assert_eq!(duration(999), "999 ms");
        assert_eq!(duration(61_250), "61.2 s");
        assert_eq!(bytes(999), "999 B");
        assert_eq!(bytes(12_345), "12.3 kB");
        assert_eq!(count(1, "lab"), "1 lab");
        assert_eq!(round_trip(251), "0.251 ms");
    }
}
