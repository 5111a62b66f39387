//! Branch hints: they tell V8 which way the module's branches go when it serves requests.
//!
//! V8 moves code behind an unlikely branch to the end of its function, so a request loads less code into the CPU's caches. The
//! hints come from the typical paths of a request: a branch gets one if all of them together took it one way only. They are a custom
//! section (<https://github.com/WebAssembly/branch-hinting>), which changes no result, and which other programs ignore. V8 reads it
//! since version 13.7, and so does every supported Envoy.

use std::collections::BTreeMap;
use std::ops::Range;

use wasm_encoder::{BranchHint, BranchHints, Module, RawSection, SectionId};
use wasmparser::{Import, Parser, Payload, TypeRef};

use crate::branches::{self, Marked, NOT_TAKEN, TAKEN};
use crate::{module, paths};

/// The module with hints.
///
/// # Panics
/// When the bytes are not the balancer's module.
pub fn add(bytes: &[u8]) -> Vec<u8> {
    let one_sided = one_sided(bytes);
    with_section(bytes, &section(bytes, &one_sided))
}

/// The positions of the branches that went one way only, and whether they were taken.
fn one_sided(bytes: &[u8]) -> BTreeMap<usize, bool> {
    let Marked { bytes, positions } = branches::marked(bytes);
    let run = move || {
        let marks = module::load(&bytes, (0..positions.len()).map(branches::mark));
        let mut ways = vec![0; marks.len()];
        paths::typical(|act| {
            // The preparation is not part of the path.
            module::take(&marks);
            act();
            for (ways, more) in ways.iter_mut().zip(module::take(&marks)) {
                *ways |= more;
            }
        });
        let ways = positions.into_iter().zip(ways);
        ways.filter_map(|(position, ways)| Some((position, only_way(ways)?)))
            .collect()
    };
    // Each thread has a module of its own.
    let running = std::thread::spawn(run);
    running.join().expect("the module works")
}

/// Whether a branch with this mark was taken, if it went one way only.
fn only_way(mark: i32) -> Option<bool> {
    match mark {
        TAKEN => Some(true),
        NOT_TAKEN => Some(false),
        _ => None,
    }
}

/// The section for the branches at these positions of the file.
fn section(bytes: &[u8], one_sided: &BTreeMap<usize, bool>) -> BranchHints {
    let mut section = BranchHints::new();
    for (function, body) in bodies(bytes) {
        let hints = one_sided.range(body.clone());
        let hints: Vec<_> = hints
            .map(|(position, taken)| BranchHint {
                branch_func_offset: (position - body.start) as u32,
                branch_hint_value: u32::from(*taken),
            })
            .collect();
        if !hints.is_empty() {
            section.function_hints(function, hints);
        }
    }
    section
}

/// The index of each function, and the place of its body in the file.
fn bodies(bytes: &[u8]) -> Vec<(u32, Range<usize>)> {
    let (mut imported, mut bodies) = (0, Vec::new());
    for payload in payloads(bytes) {
        match payload {
            Payload::ImportSection(imports) => {
                let functions = imports.into_imports().flatten().filter(is_function);
                imported = functions.count() as u32;
            }
            Payload::CodeSectionEntry(body) => {
                bodies.push((imported + bodies.len() as u32, body.range()));
            }
            _ => {}
        }
    }
    bodies
}

fn is_function(import: &Import<'_>) -> bool {
    matches!(import.ty, TypeRef::Func(_) | TypeRef::FuncExact(_))
}

/// The module with this section before its code, where readers expect it.
fn with_section(bytes: &[u8], section: &BranchHints) -> Vec<u8> {
    let mut module = Module::new();
    for payload in payloads(bytes) {
        if let Some((id, place)) = payload.as_section() {
            if id == SectionId::Code as u8 {
                module.section(section);
            }
            let data = &bytes[place];
            module.section(&RawSection { id, data });
        }
    }
    module.finish()
}

fn payloads(bytes: &[u8]) -> impl Iterator<Item = Payload<'_>> {
    let payloads = Parser::new(0).parse_all(bytes);
    payloads.map(|payload| payload.expect("the module is WebAssembly"))
}

#[cfg(test)]
mod tests {
    use wasmparser::KnownCustom;

    use super::*;
    use crate::testing::{branching, BR_IF, IF};

    /// The positions of a module's branches with hints, and whether they are likely to be taken.
    fn hinted(bytes: &[u8]) -> BTreeMap<usize, bool> {
        let bodies: BTreeMap<_, _> = bodies(bytes).into_iter().collect();
        let mut hinted = BTreeMap::new();
        for payload in payloads(bytes) {
            assert!(
                !(matches!(payload, Payload::CodeSectionStart { .. }) && hinted.is_empty()),
                "the hints are before the code"
            );
            let Payload::CustomSection(custom) = payload else {
                continue;
            };
            let KnownCustom::BranchHints(functions) = custom.as_known() else {
                continue;
            };
            for function in functions {
                let function = function.unwrap();
                let body = &bodies[&function.func];
                for hint in function.hints {
                    let hint = hint.unwrap();
                    let at = body.start + hint.func_offset as usize;
                    hinted.insert(at, hint.taken);
                }
            }
        }
        hinted
    }

    #[test]
    fn a_hint_names_its_branch_and_the_rest_stays() {
        let bytes = branching();
        let positions = branches::marked(&bytes).positions;
        let one_sided = positions.iter().copied().zip([true, false]).collect();
        let section = section(&bytes, &one_sided);
        let added = with_section(&bytes, &section);
        let hinted = hinted(&added).into_iter();
        let hinted: Vec<_> = hinted.map(|(at, taken)| (added[at], taken)).collect();
        assert_eq!(hinted, [(IF, true), (BR_IF, false)]);
        let rest = |bytes: &[u8]| -> Vec<_> {
            let sections = payloads(bytes).filter(|payload| match payload {
                Payload::CustomSection(custom) => custom.name() != "metadata.code.branch_hint",
                _ => true,
            });
            let sections = sections.filter_map(|payload| payload.as_section());
            sections
                .map(|(id, place)| (id, bytes[place].to_vec()))
                .collect()
        };
        assert_eq!(rest(&added), rest(&bytes));
    }

    #[test]
    fn only_branches_that_went_one_way_get_a_hint() {
        let ways = [0, NOT_TAKEN, TAKEN, TAKEN | NOT_TAKEN];
        assert_eq!(ways.map(only_way), [None, Some(false), Some(true), None]);
    }

    #[test]
    fn the_built_module_has_the_hints_of_its_own_code() {
        let bytes = std::fs::read(module::path()).unwrap();
        let hinted = hinted(&bytes);
        assert!(hinted.len() > 1000, "{} hints", hinted.len());
        assert!(hinted == one_sided(&bytes));
    }
}
