//! Tables in Markdown.

use std::fmt;

/// The text of a cell without a value.
const NOTHING: &str = "-";

/// A Markdown table with a title. Columns and rows without any value are left out.
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(title: impl fmt::Display) -> Self {
        Self {
            title: title.to_string(),
            rows: Vec::new(),
        }
    }

    /// Sets the headings of the columns.
    pub fn head(&mut self, columns: impl IntoIterator<Item = String>) {
        self.rows
            .push([String::new()].into_iter().chain(columns).collect());
    }

    /// Whether the table has no row.
    pub fn is_empty(&self) -> bool {
        self.rows.len() <= 1
    }

    /// Adds a row, unless it has no value.
    pub fn row(
        &mut self,
        name: impl fmt::Display,
        cells: impl IntoIterator<Item = Option<String>>,
    ) {
        let cells: Vec<_> = cells.into_iter().collect();
        if cells.iter().any(Option::is_some) {
            let cells = cells
                .into_iter()
                .map(|cell| cell.unwrap_or_else(|| NOTHING.to_owned()));
            self.rows
                .push([name.to_string()].into_iter().chain(cells).collect());
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = 0..self.rows.first().map_or(0, Vec::len);
        let cells = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        let columns: Vec<_> = columns
            .filter(|column| cells(*column).skip(1).any(|cell| cell != NOTHING))
            .map(|column| {
                (
                    column,
                    cells(column).map(String::len).max().unwrap_or(0).max(3),
                )
            })
            .collect();
        writeln!(f, "## {}\n", self.title)?;
        for (index, row) in self.rows.iter().enumerate() {
            for (column, width) in &columns {
                let cell = row.get(*column).map_or("", String::as_str);
                match column {
                    0 => write!(f, "| {cell:width$} ")?,
                    _ => write!(f, "| {cell:>width$} ")?,
                }
            }
            writeln!(f, "|")?;
            if index == 0 {
                for (column, width) in &columns {
                    let colon = if *column == 0 { "" } else { ":" };
                    write!(f, "|{}{colon}", "-".repeat(width + 2 - colon.len()))?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_markdown() {
        let mut table = Table::new("Things");
        table.head(["one", "two", "three"].map(str::to_owned));
        table.row("Lua", [Some("1.0".to_owned()), None, None]);
        table.row("stock", [None, None, None]);
        table.row("idle", [None, None, Some("2.0".to_owned())]);
        assert_eq!(
            table.to_string(),
            "## Things\n\n\
             |      | one | three |\n\
             |------|----:|------:|\n\
             | Lua  | 1.0 |     - |\n\
             | idle |   - |   2.0 |\n"
        );
    }
}
