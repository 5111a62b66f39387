//! The layout of the module's code: what requests execute is close together.
//!
//! A request executes most of its code once, so it takes longer the more of it the CPU has to load. The typical paths of a request
//! show which code that is:
//!
//! - The functions that they execute come first. V8 compiles most functions in the order of the file, so their machine code shares
//!   pages.
//! - A branch that they took one way only gets a hint. V8 moves the code behind an unlikely branch to the end of its function. Hints
//!   are a custom section (<https://github.com/WebAssembly/branch-hinting>), which V8 reads since version 13.7, as in every supported
//!   Envoy. Other programs ignore it.
//!
//! Neither changes a result of the module.

use std::collections::BTreeMap;
use std::convert::Infallible;

use wasm_encoder::reencode::{utils, Error, Reencode};
use wasm_encoder::{
    BranchHint, BranchHints, CodeSection, FunctionSection, Module, NameMap, NameSection,
    RawSection, SectionId,
};
use wasmparser::{
    CodeSectionReader, FunctionBody, FunctionSectionReader, Name, Parser, Payload, TypeRef,
};

use crate::marks::{self, Marked, NOT_TAKEN, TAKEN};
use crate::{module, paths};

type Result<T> = std::result::Result<T, Error<Infallible>>;

/// The module with another layout.
///
/// # Panics
/// When the bytes are not the balancer's module.
pub fn improve(bytes: &[u8]) -> Vec<u8> {
    lay_out(bytes, &Profile::of(bytes))
}

/// The code that the typical paths execute.
#[derive(Debug, PartialEq)]
struct Profile {
    /// The places of the functions in the file, in the order that they should have: executed ones first, then by name. An order by size
    /// would let V8 compile large functions at the same time, which takes more memory.
    order: Vec<usize>,
    /// The positions of the branches that went one way only, and whether they were taken.
    branches: BTreeMap<usize, bool>,
}

impl Profile {
    fn of(bytes: &[u8]) -> Self {
        let marked = marks::marked(bytes);
        // Each thread has a module of its own.
        let running = std::thread::spawn(move || Self::measured(marked));
        running.join().expect("the module works")
    }

    fn measured(marked: Marked) -> Self {
        let branches = (0..marked.branches.len()).map(marks::of_branch);
        let functions = (0..marked.functions.len()).map(marks::of_function);
        let marks = module::load(&marked.bytes, branches.chain(functions));
        let mut noted = vec![0; marks.len()];
        paths::typical(|act| {
            // The preparation is not part of the path.
            module::take(&marks);
            act();
            for (noted, more) in noted.iter_mut().zip(module::take(&marks)) {
                *noted |= more;
            }
        });
        let (ways, executed) = noted.split_at(marked.branches.len());
        let ways = marked.branches.into_iter().zip(ways);
        let mut order: Vec<_> = (0..executed.len()).collect();
        order.sort_by_key(|place| (executed[*place] == 0, &marked.functions[*place]));
        Self {
            order,
            branches: ways
                .filter_map(|(position, ways)| Some((position, only_way(*ways)?)))
                .collect(),
        }
    }
}

/// Whether a branch with this mark was taken, if it went one way only.
fn only_way(mark: i32) -> Option<bool> {
    match mark {
        TAKEN => Some(true),
        NOT_TAKEN => Some(false),
        _ => None,
    }
}

fn lay_out(bytes: &[u8], profile: &Profile) -> Vec<u8> {
    let mut places = vec![0; profile.order.len()];
    for (place, former) in (0..).zip(&profile.order) {
        places[*former] = place;
    }
    let mut layout = Layout {
        profile,
        places,
        imported: imported_functions(bytes),
        hints: BranchHints::new(),
    };
    let mut module = Module::new();
    let read = layout.parse_core_module(&mut module, Parser::new(0), bytes);
    read.expect("the module is WebAssembly");
    with_hints(&module.finish(), &layout.hints)
}

/// Copies a module in its new order, and collects the hints for the copy.
struct Layout<'a> {
    profile: &'a Profile,
    /// The new place of each function, by the former one.
    places: Vec<u32>,
    /// The number of imported functions. Their indices are the first.
    imported: u32,
    hints: BranchHints,
}

impl Reencode for Layout<'_> {
    type Error = Infallible;

    fn function_index(&mut self, function: u32) -> Result<u32> {
        Ok(match function.checked_sub(self.imported) {
            None => function,
            Some(former) => self.imported + self.places[former as usize],
        })
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: FunctionSectionReader<'_>,
    ) -> Result<()> {
        let types: Vec<_> = section.into_iter().collect::<std::result::Result<_, _>>()?;
        for former in &self.profile.order {
            functions.function(types[*former]);
        }
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: CodeSectionReader<'_>,
    ) -> Result<()> {
        let bodies: Vec<_> = section.into_iter().collect::<std::result::Result<_, _>>()?;
        for former in &self.profile.order {
            self.parse_function_body(code, bodies[*former].clone())?;
        }
        Ok(())
    }

    fn parse_function_body(
        &mut self,
        code: &mut CodeSection,
        body: FunctionBody<'_>,
    ) -> Result<()> {
        let mut function = self.new_function_with_parsed_locals(&body)?;
        let mut hints = Vec::new();
        let mut reader = body.get_operators_reader()?;
        while !reader.eof() {
            if let Some(taken) = self.profile.branches.get(&reader.original_position()) {
                hints.push(BranchHint {
                    branch_func_offset: function.byte_len() as u32,
                    branch_hint_value: u32::from(*taken),
                });
            }
            function.instruction(&self.parse_instruction(&mut reader)?);
        }
        if !hints.is_empty() {
            self.hints.function_hints(self.imported + code.len(), hints);
        }
        code.function(&function);
        Ok(())
    }

    fn parse_custom_name_subsection(
        &mut self,
        names: &mut NameSection,
        section: Name<'_>,
    ) -> Result<()> {
        let Name::Function(functions) = section else {
            return utils::parse_custom_name_subsection(self, names, section);
        };
        // Names have the order of the functions.
        let mut ordered = BTreeMap::new();
        for name in functions {
            let name = name?;
            ordered.insert(self.function_index(name.index)?, name.name);
        }
        let mut functions = NameMap::new();
        for (index, name) in ordered {
            functions.append(index, name);
        }
        names.functions(&functions);
        Ok(())
    }
}

fn imported_functions(bytes: &[u8]) -> u32 {
    let imports = payloads(bytes).find_map(|payload| match payload {
        Payload::ImportSection(imports) => Some(imports),
        _ => None,
    });
    let imports = imports
        .into_iter()
        .flat_map(|imports| imports.into_imports());
    let functions = imports
        .flatten()
        .filter(|import| matches!(import.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)));
    functions.count() as u32
}

/// The module with these hints before its code, where readers expect them.
fn with_hints(bytes: &[u8], hints: &BranchHints) -> Vec<u8> {
    let mut module = Module::new();
    for payload in payloads(bytes) {
        if let Some((id, place)) = payload.as_section() {
            if id == SectionId::Code as u8 {
                module.section(hints);
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

    fn bodies(bytes: &[u8]) -> Vec<FunctionBody<'_>> {
        let bodies = payloads(bytes).filter_map(|payload| match payload {
            Payload::CodeSectionEntry(body) => Some(body),
            _ => None,
        });
        bodies.collect()
    }

    /// The positions of a module's branches with hints, and whether they are likely to be taken.
    fn hinted(bytes: &[u8]) -> BTreeMap<usize, bool> {
        let before_code = payloads(bytes)
            .take_while(|payload| !matches!(payload, Payload::CodeSectionStart { .. }));
        let customs = before_code.filter_map(|payload| match payload {
            Payload::CustomSection(custom) => Some(custom),
            _ => None,
        });
        let hints = customs.filter_map(|custom| match custom.as_known() {
            KnownCustom::BranchHints(functions) => Some(functions),
            _ => None,
        });
        let (bodies, imported) = (bodies(bytes), imported_functions(bytes));
        let mut hinted = BTreeMap::new();
        for function in hints.flatten().map(std::result::Result::unwrap) {
            let body = &bodies[(function.func - imported) as usize];
            for hint in function.hints.into_iter().map(std::result::Result::unwrap) {
                let position = body.range().start + hint.func_offset as usize;
                hinted.insert(position, hint.taken);
            }
        }
        hinted
    }

    #[test]
    fn functions_come_in_their_new_order_with_hints() {
        let bytes = branching();
        let branches = marks::marked(&bytes).branches;
        let profile = Profile {
            order: vec![1, 0],
            branches: branches.into_iter().zip([true, false]).collect(),
        };
        let laid_out = lay_out(&bytes, &profile);
        let hinted = hinted(&laid_out).into_iter();
        let hinted: Vec<_> = hinted.map(|(at, taken)| (laid_out[at], taken)).collect();
        assert_eq!(hinted, [(IF, true), (BR_IF, false)]);
        let sizes = |bytes: &[u8]| -> Vec<_> {
            bodies(bytes)
                .iter()
                .map(|body| body.range().len())
                .collect()
        };
        let mut reversed = sizes(&bytes);
        reversed.reverse();
        assert_eq!(sizes(&laid_out), reversed);
        let marked = marks::marked(&laid_out);
        assert_eq!(marked.functions, ["callee", "run"]);
    }

    #[test]
    fn a_module_in_a_new_order_does_the_same() {
        let bytes = branching();
        let profile = |order: [usize; 2]| Profile {
            order: order.to_vec(),
            branches: BTreeMap::new(),
        };
        for order in [[0, 1], [1, 0]] {
            let laid_out = lay_out(&bytes, &profile(order));
            let engine = wasmi::Engine::default();
            let module = wasmi::Module::new(&engine, &laid_out).unwrap();
            let mut store = wasmi::Store::new(&engine, 0);
            let mut linker = wasmi::Linker::new(&engine);
            let count = |mut caller: wasmi::Caller<'_, i32>| *caller.data_mut() += 1;
            linker.func_wrap("env", "imported", count).unwrap();
            let instance = linker.instantiate_and_start(&mut store, &module).unwrap();
            let run = instance.get_typed_func::<(i32, i32), ()>(&store, "run");
            let run = run.unwrap();
            for (conditions, calls) in [((0, 1), 0), ((1, 1), 1), ((1, 0), 3)] {
                run.call(&mut store, conditions).unwrap();
                assert_eq!(*store.data(), calls);
            }
        }
    }

    #[test]
    fn only_branches_that_went_one_way_get_a_hint() {
        let ways = [0, NOT_TAKEN, TAKEN, TAKEN | NOT_TAKEN];
        assert_eq!(ways.map(only_way), [None, Some(false), Some(true), None]);
    }

    #[test]
    fn the_built_module_has_the_layout_of_its_own_paths() {
        let bytes = std::fs::read(module::path()).unwrap();
        let profile = Profile::of(&bytes);
        assert!(profile.branches.len() > 1000, "{}", profile.branches.len());
        assert!(hinted(&bytes) == profile.branches);
        assert!(profile.order.is_sorted());
    }
}
