//! The conditional branches of a module, with a mark for the ways that each one goes.

use walrus::ir::{self, BinaryOp, Instr, InstrLocId, UnaryOp, Value};
use walrus::{ConstExpr, FunctionId, Module, ValType};

use crate::instrument::Sequences;

/// The bit of a mark that says that the branch was taken.
pub(crate) const TAKEN: i32 = 1;
/// The bit of a mark that says that the branch was not taken.
pub(crate) const NOT_TAKEN: i32 = 2;

/// The export with a branch's mark.
pub(crate) fn mark(index: usize) -> String {
    format!("branch {index}")
}

/// A module with marks.
pub(crate) struct Marked {
    pub(crate) bytes: Vec<u8>,
    /// The positions of the branches in the original file, in the order of their marks.
    pub(crate) positions: Vec<usize>,
}

/// The module with a mark for each `if` and each `br_if`.
///
/// # Panics
/// When the bytes are not a module.
pub(crate) fn marked(bytes: &[u8]) -> Marked {
    let mut module = Module::from_buffer(bytes).expect("the module is WebAssembly");
    let functions: Vec<_> = module.funcs.iter_local().map(|(id, _)| id).collect();
    let mut positions = Vec::new();
    for function in functions {
        mark_function(&mut module, function, &mut positions);
    }
    Marked {
        bytes: module.emit_wasm(),
        positions,
    }
}

fn mark_function(module: &mut Module, function: FunctionId, positions: &mut Vec<usize>) {
    let condition = module.locals.add(ValType::I32);
    let sequences = Sequences::of(module.funcs.get(function).kind.unwrap_local());
    for sequence in sequences {
        let body = module.funcs.get_mut(function).kind.unwrap_local_mut();
        let instructions = std::mem::take(&mut body.block_mut(sequence).instrs);
        let mut marked = Vec::with_capacity(instructions.len());
        for (instruction, position) in instructions {
            if matches!(instruction, Instr::BrIf(_) | Instr::IfElse(_)) {
                let zero = ConstExpr::Value(Value::I32(0));
                let mark_of_it = module.globals.add_local(ValType::I32, true, false, zero);
                module.exports.add(&mark(positions.len()), mark_of_it);
                positions.push(position.data() as usize);
                let one = Value::I32(1);
                // The condition's absence is 0 or 1, so the bit is 1 or 2.
                let added: [Instr; 8] = [
                    ir::LocalTee { local: condition }.into(),
                    ir::Unop {
                        op: UnaryOp::I32Eqz,
                    }
                    .into(),
                    ir::Const { value: one }.into(),
                    ir::Binop {
                        op: BinaryOp::I32Add,
                    }
                    .into(),
                    ir::GlobalGet { global: mark_of_it }.into(),
                    ir::Binop {
                        op: BinaryOp::I32Or,
                    }
                    .into(),
                    ir::GlobalSet { global: mark_of_it }.into(),
                    ir::LocalGet { local: condition }.into(),
                ];
                marked.extend(added.map(|instruction| (instruction, InstrLocId::default())));
            }
            marked.push((instruction, position));
        }
        let body = module.funcs.get_mut(function).kind.unwrap_local_mut();
        body.block_mut(sequence).instrs = marked;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{branching, BR_IF, IF};

    #[test]
    fn each_branch_notes_its_ways_until_they_are_reset() {
        let original = branching();
        let Marked { bytes, positions } = marked(&original);
        let opcodes: Vec<_> = positions.iter().map(|at| original[*at]).collect();
        assert_eq!(opcodes, [IF, BR_IF]);

        let engine = wasmi::Engine::default();
        let module = wasmi::Module::new(&engine, &bytes).unwrap();
        let mut store = wasmi::Store::new(&engine, ());
        let mut linker = wasmi::Linker::new(&engine);
        linker.func_wrap("env", "imported", || {}).unwrap();
        let instance = linker.instantiate_and_start(&mut store, &module).unwrap();
        let run = instance.get_typed_func::<(i32, i32), ()>(&store, "run");
        let run = run.unwrap();
        let marks = [0, 1].map(|index| instance.get_global(&store, &mark(index)).unwrap());
        let both = TAKEN | NOT_TAKEN;
        // Any number but 0 is true.
        for (conditions, ways) in [
            ((0, 8), [NOT_TAKEN, TAKEN]),
            ((0, 1), [NOT_TAKEN, TAKEN]),
            ((2, 1), [both, TAKEN]),
            ((0, 0), [both, both]),
        ] {
            run.call(&mut store, conditions).unwrap();
            let read = marks.map(|mark| mark.get(&store).i32().unwrap());
            assert_eq!(read, ways);
        }
    }
}
