//! The tour's output: headings, sentences, tables and checks, as plain text with a little color on a terminal.

use std::env;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

/// The width of headings.
const WIDTH: usize = 78;

/// Standard output. A failed write, such as after the reader has left, does not stop the tour.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    colour: bool,
}

#[derive(Clone, Copy)]
enum Colour {
    Bold,
    Green,
    Dim,
}

impl Screen {
    /// With color on a terminal, unless the environment disables it (`NO_COLOR`, or a terminal without color).
    pub fn new() -> Self {
        let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self {
            colour: io::stdout().is_terminal() && !unwanted,
        }
    }

    /// The first or the last line.
    pub fn title(self, text: &str) {
        self.line("");
        self.line(&self.painted(Colour::Bold, text));
        self.line("");
    }

    /// The heading of a step.
    pub fn step(self, number: usize, of: usize, title: &str) {
        let text = format!("-- {number}/{of}  {title} ");
        let fill = "-".repeat(WIDTH.saturating_sub(text.len()));
        self.line("");
        self.line(&self.painted(Colour::Bold, &format!("{text}{fill}")));
        self.line("");
    }

    /// A sentence.
    pub fn say(self, text: &str) {
        self.line(&format!("  {text}"));
    }

    /// A sentence, followed by an empty line.
    pub fn tell(self, text: &str) {
        self.say(text);
        self.gap();
    }

    /// An empty line.
    pub fn gap(self) {
        self.line("");
    }

    /// A name and its value: `name   value`.
    pub fn fact(self, name: &str, value: impl Display) {
        self.line(&format!("  {name:<15}{value}"));
    }

    /// Text to copy: a command or a program.
    pub fn code(self, text: &str) {
        for line in text.lines() {
            let line = if line.is_empty() {
                String::new()
            } else {
                format!("    {line}")
            };
            self.line(&self.painted(Colour::Dim, &line));
        }
    }

    /// A check that has passed.
    pub fn passed(self, claim: &str) {
        self.line(&format!("  {}  {claim}", self.painted(Colour::Green, "ok")));
    }

    /// A piece of an unfinished line, which appears at once.
    pub fn piece(self, text: &str) {
        let mut out = io::stdout().lock();
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }

    /// A table with these columns. Its head is written now, and its rows follow.
    pub fn table(self, columns: &[Column]) -> Table<'_> {
        let table = Table {
            screen: self,
            columns,
        };
        let head: Vec<_> = columns.iter().map(|column| column.name.clone()).collect();
        self.line(&self.painted(Colour::Dim, &table.row_text(&head)));
        table
    }

    fn line(self, text: &str) {
        self.piece(&format!("{text}\n"));
    }

    fn painted(self, colour: Colour, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Bold => 1,
            Colour::Green => 32,
            Colour::Dim => 2,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

/// A column of a table: its heading and its least width.
#[derive(Clone, Debug)]
pub struct Column {
    name: String,
    width: usize,
    is_number: bool,
}

impl Column {
    /// A column of text, aligned left.
    pub fn text(name: &str, width: usize) -> Self {
        Self {
            name: name.to_owned(),
            width: width.max(name.len()),
            is_number: false,
        }
    }

    /// A column of numbers, aligned right.
    pub fn number(name: &str, width: usize) -> Self {
        Self {
            is_number: true,
            ..Self::text(name, width)
        }
    }
}

/// A table whose rows appear one after the other.
#[derive(Debug)]
pub struct Table<'a> {
    screen: Screen,
    columns: &'a [Column],
}

impl Table<'_> {
    /// Writes a row, with a cell for each column.
    pub fn row(&self, cells: &[String]) {
        self.screen.line(&self.row_text(cells));
    }

    fn row_text(&self, cells: &[String]) -> String {
        let cells = self.columns.iter().zip(cells).map(|(column, cell)| {
            let width = column.width;
            if column.is_number {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            }
        });
        let row = cells.collect::<Vec<_>>().join("   ");
        format!("    {row}").trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_together_and_texts_begin_together() {
        let screen = Screen { colour: false };
        let columns = [
            Column::number("#", 2),
            Column::text("backend", 10),
            Column::number("status", 3),
            Column::text("", 0),
        ];
        let table = Table {
            screen,
            columns: &columns,
        };
        let row = |cells: [&str; 4]| table.row_text(&cells.map(str::to_owned));
        assert_eq!(
            row(["#", "backend", "status", ""]),
            "     #   backend      status"
        );
        assert_eq!(
            row(["7", "eastus", "200", ""]),
            "     7   eastus          200"
        );
        assert_eq!(
            row(["12", "west", "429", "no"]),
            "    12   west            429   no"
        );
    }

    #[test]
    fn colour_is_only_where_it_is_wanted() {
        let paint = |colour| Screen { colour }.painted(Colour::Green, "ok");
        assert_eq!(paint(false), "ok");
        assert_eq!(paint(true), "\u{1b}[32mok\u{1b}[0m");
    }
}
