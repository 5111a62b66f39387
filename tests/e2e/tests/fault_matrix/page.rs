//! The page with the matrix, written from cells and read back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use e2e::Engine;

use super::requests::Kind;
use super::rows::Row;
use super::AT_ONCE;

/// The result of one fault for one kind of request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cell {
    pub(super) gets: String,
    pub(super) attempts: String,
    pub(super) learnt: String,
    pub(super) time: String,
    pub(super) alone: String,
    pub(super) alone_time: String,
}

impl Cell {
    /// The result with the times of another one.
    pub(super) fn at_the_times_of(&self, other: &Self) -> Self {
        Self {
            time: other.time.clone(),
            alone_time: other.alone_time.clone(),
            ..self.clone()
        }
    }

    /// The answer without another backend, and its time unless that is at once.
    fn alone(&self) -> String {
        match self.alone_time.as_str() {
            AT_ONCE | "-" => self.alone.clone(),
            time => format!("{} ({time})", self.alone),
        }
    }
}

/// The place of a cell: the group and name of its fault, the kind of request, and whether the engine is the router.
pub(super) type Place = (String, String, Kind, bool);
pub(super) type Cells = BTreeMap<Place, Cell>;

const BEGIN: &str = "<!-- Made by `UPDATE_GOLDEN=1 cargo xtask test fault_matrix` -->\n";
const END: &str = "<!-- End of the tables -->\n";
const HEAD: &str = "| fault of the first backend | request | client gets | attempts | learnt | time | without another backend |\n|---|---|---|---|---|---|---|\n";

pub(super) fn is_router(engine: Engine) -> bool {
    engine == Engine::Router
}

pub(super) fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/failure-modes.md")
}

/// The tables of these cells.
pub(super) fn tables(rows: &[Row], cells: &Cells) -> String {
    let mut text = String::new();
    let mut group = "";
    for row in rows {
        if row.group != group {
            group = row.group;
            text += &format!("\n## {group}\n\n{HEAD}");
        }
        for (label, cell) in lines(row, cells) {
            let Cell {
                gets,
                attempts,
                learnt,
                time,
                ..
            } = cell;
            let alone = cell.alone();
            text += &format!(
                "| {} | {label} | {gets} | {attempts} | {learnt} | {time} | {alone} |\n",
                row.fault
            );
        }
    }
    text + "\n"
}

/// The different cells of a row, each with the requests that have it.
fn lines<'c>(row: &Row, cells: &'c Cells) -> Vec<(String, &'c Cell)> {
    let mut places: Vec<(&Cell, Vec<Kind>, Vec<Kind>)> = Vec::new();
    for &kind in row.kinds {
        for router in [false, true] {
            let place = (row.group.to_owned(), row.fault.to_owned(), kind, router);
            let Some(cell) = cells.get(&place) else {
                continue;
            };
            let at = places.iter().position(|(known, ..)| *known == cell);
            let at = at.unwrap_or_else(|| {
                places.push((cell, Vec::new(), Vec::new()));
                places.len() - 1
            });
            match router {
                false => places[at].1.push(kind),
                true => places[at].2.push(kind),
            }
        }
    }
    let label = |kinds: &[Kind]| match kinds == row.kinds && kinds.len() > 1 {
        true => "all".to_owned(),
        false => kinds
            .iter()
            .map(|kind| kind.name())
            .collect::<Vec<_>>()
            .join(", "),
    };
    let lines = places.into_iter().map(|(cell, filter, router)| {
        let both: Vec<_> = filter
            .iter()
            .filter(|kind| router.contains(kind))
            .copied()
            .collect();
        let only = |kinds: &[Kind]| -> Vec<Kind> {
            kinds
                .iter()
                .filter(|kind| !both.contains(kind))
                .copied()
                .collect()
        };
        let parts = [
            (both.clone(), ""),
            (only(&filter), " (filter)"),
            (only(&router), " (router)"),
        ];
        let parts = parts.iter().filter(|(kinds, _)| !kinds.is_empty());
        let parts: Vec<_> = parts.map(|(kinds, engine)| label(kinds) + engine).collect();
        (parts.join("; "), cell)
    });
    lines.collect()
}

/// The cells of a page.
pub(super) fn cells(rows: &[Row], page: &str) -> Cells {
    let mut cells = Cells::new();
    let mut group = String::new();
    let (_, tables) = page.split_once(BEGIN).unwrap_or_default();
    for line in tables.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            group = heading.to_owned();
        }
        let columns: Vec<_> = line.trim_matches(['|', ' ']).split(" | ").collect();
        let [fault, label, gets, attempts, learnt, time, alone] = columns[..] else {
            continue;
        };
        let Some(row) = rows
            .iter()
            .find(|row| row.group == group && row.fault == fault)
        else {
            continue;
        };
        let (alone, alone_time) = alone
            .strip_suffix(')')
            .and_then(|alone| alone.split_once(" ("))
            .unwrap_or((alone, AT_ONCE));
        let cell = Cell {
            gets: gets.to_owned(),
            attempts: attempts.to_owned(),
            learnt: learnt.to_owned(),
            time: time.to_owned(),
            alone: alone.to_owned(),
            alone_time: alone_time.to_owned(),
        };
        for part in label.split("; ") {
            let engines: &[bool] = match part {
                part if part.ends_with(" (filter)") => &[false],
                part if part.ends_with(" (router)") => &[true],
                _ => &[false, true],
            };
            let names = part
                .trim_end_matches(" (filter)")
                .trim_end_matches(" (router)");
            let is_meant =
                |kind: &Kind| names == "all" || names.split(", ").any(|name| name == kind.name());
            for &kind in row.kinds.iter().filter(|kind| is_meant(kind)) {
                for &router in engines {
                    cells.insert(
                        (group.clone(), fault.to_owned(), kind, router),
                        cell.clone(),
                    );
                }
            }
        }
    }
    cells
}

/// The page with other tables.
pub(super) fn with_tables(page: &str, tables: &str) -> String {
    let (before, _) = page
        .split_once(BEGIN)
        .expect("the page has the tables' begin");
    let (_, after) = page.split_once(END).expect("the page has the tables' end");
    format!("{before}{BEGIN}{tables}{END}{after}")
}
