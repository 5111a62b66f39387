//! Adds counters to a module, so that it counts its executed instructions.

use walrus::ir::{self, BinaryOp, Instr, InstrLocId, InstrSeqId, Visitor};
use walrus::{ConstExpr, FunctionId, GlobalId, Module, ValType};

use crate::module::Function;

/// The export with a function's counter.
pub(crate) fn counter(index: usize) -> String {
    format!("instructions of {index}")
}

/// The module with a counter for each function, and the functions' names in the counters' order.
///
/// # Panics
/// When the bytes are not a module.
pub(crate) fn instrument(bytes: &[u8]) -> (Vec<u8>, Vec<String>) {
    let mut module = Module::from_buffer(bytes).expect("the module is WebAssembly");
    let functions: Vec<_> = module.funcs.iter_local().map(|(id, _)| id).collect();
    let names = functions.into_iter().enumerate().map(|(index, function)| {
        let zero = ConstExpr::Value(ir::Value::I64(0));
        let global = module.globals.add_local(ValType::I64, true, false, zero);
        module.exports.add(&counter(index), global);
        count(&mut module, function, global);
        name(module.funcs.get(function))
    });
    let names = names.collect();
    (module.emit_wasm(), names)
}

/// The function with the largest body.
///
/// # Panics
/// When the bytes are not a module.
pub(crate) fn largest(bytes: &[u8]) -> Option<Function> {
    let module = Module::from_buffer(bytes).expect("the module is WebAssembly");
    let bodies = module.funcs.iter_local().filter_map(|(id, function)| {
        let bytes = function.original_range.as_ref()?.len() as u64;
        Some((bytes, id))
    });
    let (bytes, id) = bodies.max()?;
    let name = name(module.funcs.get(id));
    Some(Function { name, bytes })
}

fn name(function: &walrus::Function) -> String {
    let mangled = function.name.as_deref().unwrap_or("?");
    format!("{:#}", rustc_demangle::demangle(mangled))
}

fn count(module: &mut Module, function: FunctionId, counter: GlobalId) {
    let function = module.funcs.get_mut(function).kind.unwrap_local_mut();
    let mut sequences = Sequences::default();
    ir::dfs_in_order(&mut sequences, function, function.entry_block());
    for sequence in sequences.0 {
        let instructions = &mut function.block_mut(sequence).instrs;
        let mut counted = Vec::with_capacity(instructions.len() * 2);
        // Between two points of control flow, all instructions are executed or none.
        while !instructions.is_empty() {
            let diverging = instructions.iter().position(|(i, _)| may_diverge(i));
            let length = diverging.map_or(instructions.len(), |at| at + 1);
            let straight: Vec<_> = instructions.drain(..length).collect();
            let executed = straight.iter().filter(|(i, _)| !is_mark(i)).count();
            if executed > 0 {
                let add = add_to(counter, executed as i64);
                counted.extend(add.map(|instruction| (instruction, InstrLocId::default())));
            }
            counted.extend(straight);
        }
        *instructions = counted;
    }
}

/// Whether the following instructions of the sequence may be skipped after this one.
fn may_diverge(instruction: &Instr) -> bool {
    matches!(
        instruction,
        Instr::Block(_)
            | Instr::Loop(_)
            | Instr::IfElse(_)
            | Instr::Br(_)
            | Instr::BrIf(_)
            | Instr::BrTable(_)
            | Instr::Return(_)
            | Instr::Unreachable(_)
    )
}

/// Whether the instruction only marks a place.
fn is_mark(instruction: &Instr) -> bool {
    matches!(instruction, Instr::Block(_) | Instr::Loop(_))
}

fn add_to(counter: GlobalId, number: i64) -> [Instr; 4] {
    let value = ir::Value::I64(number);
    let op = BinaryOp::I64Add;
    [
        ir::GlobalGet { global: counter }.into(),
        ir::Const { value }.into(),
        ir::Binop { op }.into(),
        ir::GlobalSet { global: counter }.into(),
    ]
}

/// All sequences of a function.
#[derive(Default)]
struct Sequences(Vec<InstrSeqId>);

impl<'a> Visitor<'a> for Sequences {
    fn start_instr_seq(&mut self, sequence: &'a ir::InstrSeq) {
        self.0.push(sequence.id());
    }
}

#[cfg(test)]
mod tests {
    use walrus::FunctionBuilder;

    use super::*;

    #[test]
    fn the_largest_function_is_found() {
        let mut module = Module::default();
        for (name, calls) in [("small", 1), ("large", 3), ("middle", 2)] {
            let mut function = FunctionBuilder::new(&mut module.types, &[], &[]);
            function.name(name.to_owned());
            for number in 0..calls {
                function.func_body().i32_const(number).drop();
            }
            let function = function.finish(Vec::new(), &mut module.funcs);
            module.exports.add(name, function);
        }
        // The number of groups of locals, three groups of two bytes each and a type, and the end.
        let (name, bytes) = ("large".to_owned(), 1 + 3 * 3 + 1);
        assert_eq!(largest(&module.emit_wasm()), Some(Function { name, bytes }));
    }

    #[test]
    fn what_is_executed_is_counted_and_nothing_else() {
        let mut module = Module::default();
        let mut function = FunctionBuilder::new(&mut module.types, &[ValType::I32], &[]);
        let leave = module.locals.add(ValType::I32);
        let mut body = function.func_body();
        body.i32_const(1).drop().block(None, |block| {
            let out = block.id();
            block.local_get(leave).br_if(out);
            block.i32_const(2).drop().i32_const(3).drop();
        });
        body.i32_const(4).drop();
        let function = function.finish(vec![leave], &mut module.funcs);
        module.exports.add("run", function);
        let (bytes, names) = instrument(&module.emit_wasm());
        assert_eq!(names.len(), 1);

        let engine = wasmi::Engine::default();
        let module = wasmi::Module::new(&engine, &bytes).unwrap();
        let mut store = wasmi::Store::new(&engine, ());
        let instance = wasmi::Linker::new(&engine);
        let instance = instance.instantiate_and_start(&mut store, &module).unwrap();
        let run = instance.get_typed_func::<i32, ()>(&store, "run").unwrap();
        let counted = instance.get_global(&store, &counter(0)).unwrap();
        for (leaves, executed) in [(1, 6), (0, 10)] {
            counted.set(&mut store, wasmi::Val::I64(0)).unwrap();
            run.call(&mut store, leaves).unwrap();
            assert_eq!(counted.get(&store).i64(), Some(executed));
        }
    }
}
