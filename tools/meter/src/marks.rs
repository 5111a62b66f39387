//! Adds marks to a module, so that it notes which functions it executes, and which way its branches go.

use walrus::ir::{self, BinaryOp, Instr, InstrLocId, UnaryOp, Value};
use walrus::{FunctionId, Module, ValType};

use crate::instrument::{global, Sequences};

/// The bit of a branch's mark that says that the branch was taken.
pub(crate) const TAKEN: i32 = 1;
/// The bit of a branch's mark that says that the branch was not taken.
pub(crate) const NOT_TAKEN: i32 = 2;

/// The export with a branch's mark.
pub(crate) fn of_branch(index: usize) -> String {
    format!("branch {index}")
}

/// The export that is 1 once a function was executed.
pub(crate) fn of_function(index: usize) -> String {
    format!("function {index}")
}

/// A module with marks.
pub(crate) struct Marked {
    pub(crate) bytes: Vec<u8>,
    /// The positions of the branches in the original file, in the order of their marks.
    pub(crate) branches: Vec<usize>,
    /// The names of the functions, in the order of their marks and of the original file.
    pub(crate) functions: Vec<String>,
}

/// The module with a mark for each of its functions, and for each `if` and `br_if`.
///
/// # Panics
/// When the bytes are not a module.
pub(crate) fn marked(bytes: &[u8]) -> Marked {
    let mut module = Module::from_buffer(bytes).expect("the module is WebAssembly");
    let functions: Vec<_> = module.funcs.iter_local().map(|(id, _)| id).collect();
    let mut branches = Vec::new();
    for (index, function) in functions.iter().enumerate() {
        mark_branches(&mut module, *function, &mut branches);
        mark_entry(&mut module, *function, of_function(index));
    }
    let name = |id: FunctionId| module.funcs.get(id).name.clone();
    let functions = functions.into_iter().map(|id| name(id).unwrap_or_default());
    let functions = functions.collect();
    Marked {
        bytes: module.emit_wasm(),
        branches,
        functions,
    }
}

fn mark_branches(module: &mut Module, function: FunctionId, branches: &mut Vec<usize>) {
    let condition = module.locals.add(ValType::I32);
    let sequences = Sequences::of(module.funcs.get(function).kind.unwrap_local());
    for sequence in sequences {
        let body = module.funcs.get_mut(function).kind.unwrap_local_mut();
        let instructions = std::mem::take(&mut body.block_mut(sequence).instrs);
        let mut marked = Vec::with_capacity(instructions.len());
        for (instruction, position) in instructions {
            if matches!(instruction, Instr::BrIf(_) | Instr::IfElse(_)) {
                let mark = global(module, &of_branch(branches.len()), Value::I32(0));
                branches.push(position.data() as usize);
                let value = Value::I32(1);
                // The test for zero gives 0 or 1, so the bit is 1 or 2.
                let added: [Instr; 8] = [
                    ir::LocalTee { local: condition }.into(),
                    ir::Unop {
                        op: UnaryOp::I32Eqz,
                    }
                    .into(),
                    ir::Const { value }.into(),
                    ir::Binop {
                        op: BinaryOp::I32Add,
                    }
                    .into(),
                    ir::GlobalGet { global: mark }.into(),
                    ir::Binop {
                        op: BinaryOp::I32Or,
                    }
                    .into(),
                    ir::GlobalSet { global: mark }.into(),
                    ir::LocalGet { local: condition }.into(),
                ];
                marked.extend(added.map(|added| (added, InstrLocId::default())));
            }
            marked.push((instruction, position));
        }
        let body = module.funcs.get_mut(function).kind.unwrap_local_mut();
        body.block_mut(sequence).instrs = marked;
    }
}

fn mark_entry(module: &mut Module, function: FunctionId, name: String) {
    let global = global(module, &name, Value::I32(0));
    let value = Value::I32(1);
    let added: [Instr; 2] = [ir::Const { value }.into(), ir::GlobalSet { global }.into()];
    let added = added.map(|added| (added, InstrLocId::default()));
    let body = module.funcs.get_mut(function).kind.unwrap_local_mut();
    let entry = body.entry_block();
    body.block_mut(entry).instrs.splice(0..0, added);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{branching, BR_IF, IF};

    #[test]
    fn branches_note_their_ways_and_functions_their_execution() {
        let original = branching();
        let Marked {
            bytes,
            branches,
            functions,
        } = marked(&original);
        let opcodes: Vec<_> = branches.iter().map(|at| original[*at]).collect();
        assert_eq!(opcodes, [IF, BR_IF]);
        assert_eq!(functions, ["run", "callee"]);

        let engine = wasmi::Engine::default();
        let module = wasmi::Module::new(&engine, &bytes).unwrap();
        let mut store = wasmi::Store::new(&engine, ());
        let mut linker = wasmi::Linker::new(&engine);
        linker.func_wrap("env", "imported", || {}).unwrap();
        let instance = linker.instantiate_and_start(&mut store, &module).unwrap();
        let run = instance.get_typed_func::<(i32, i32), ()>(&store, "run");
        let run = run.unwrap();
        let marks = [of_branch(0), of_branch(1), of_function(0), of_function(1)];
        let marks = marks.map(|name| instance.get_global(&store, &name).unwrap());
        let both = TAKEN | NOT_TAKEN;
        // Any number but 0 is true.
        for (conditions, expected) in [
            ((0, 8), [NOT_TAKEN, TAKEN, 1, 0]),
            ((0, 1), [NOT_TAKEN, TAKEN, 1, 0]),
            ((2, 1), [both, TAKEN, 1, 1]),
            ((0, 0), [both, both, 1, 1]),
        ] {
            run.call(&mut store, conditions).unwrap();
            let read = marks.map(|mark| mark.get(&store).i32().unwrap());
            assert_eq!(read, expected);
        }
    }
}
