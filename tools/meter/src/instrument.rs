//! Adds counters to a module, so that it counts its executed instructions and notes its executed code.

use walrus::ir::{self, BinaryOp, Instr, InstrLocId, InstrSeqId, Value, Visitor};
use walrus::{ConstExpr, FunctionId, GlobalId, LocalFunction, Module, ValType};

use crate::module::Function;

/// The export with a function's counter.
pub(crate) fn counter(index: usize) -> String {
    format!("instructions of {index}")
}

/// The export that is 1 once a piece was executed.
pub(crate) fn mark(index: usize) -> String {
    format!("mark of {index}")
}

/// A module with counters.
pub(crate) struct Instrumented {
    pub(crate) bytes: Vec<u8>,
    /// The functions' names, in the order of their counters.
    pub(crate) functions: Vec<String>,
    /// The pieces, in the order of their marks.
    pub(crate) pieces: Vec<Piece>,
}

/// Instructions of which all are executed or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// The index of its function.
    pub(crate) function: usize,
    /// Its size in the module's file.
    pub(crate) bytes: u64,
}

/// The module with a counter for each function and a mark for each piece.
///
/// # Panics
/// When the bytes are not a module.
pub(crate) fn instrument(bytes: &[u8]) -> Instrumented {
    let mut module = Module::from_buffer(bytes).expect("the module is WebAssembly");
    let functions: Vec<_> = module.funcs.iter_local().map(|(id, _)| id).collect();
    let mut pieces = Vec::new();
    for (index, function) in functions.iter().enumerate() {
        let counter = global(&mut module, &counter(index), Value::I64(0));
        for bytes in instrument_function(&mut module, *function, counter, pieces.len()) {
            let function = index;
            pieces.push(Piece { function, bytes });
        }
    }
    let names = functions.into_iter().map(|id| name(module.funcs.get(id)));
    let functions = names.collect();
    let bytes = module.emit_wasm();
    Instrumented {
        bytes,
        functions,
        pieces,
    }
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
    function.name.clone().unwrap_or_else(|| "?".to_owned())
}

/// A new variable with this value, exported under this name.
pub(crate) fn global(module: &mut Module, name: &str, value: Value) -> GlobalId {
    let kind = match value {
        Value::I32(_) => ValType::I32,
        _ => ValType::I64,
    };
    let global = (module.globals).add_local(kind, true, false, ConstExpr::Value(value));
    module.exports.add(name, global);
    global
}

/// Adds the counter to a function, and a mark to each of its pieces, the first of which has this index. Returns the
/// pieces' sizes.
fn instrument_function(
    module: &mut Module,
    function: FunctionId,
    counter: GlobalId,
    first: usize,
) -> Vec<u64> {
    let body = module.funcs.get(function).kind.unwrap_local();
    let (sequences, positions) = (Sequences::of(body), Positions::of(body));
    let mut pieces = Vec::new();
    for sequence in sequences {
        let body = module.funcs.get_mut(function).kind.unwrap_local_mut();
        let mut instructions = std::mem::take(&mut body.block_mut(sequence).instrs);
        let mut counted = Vec::with_capacity(instructions.len() * 2);
        // Between two points of control flow, all instructions are executed or none.
        while !instructions.is_empty() {
            let diverging = instructions.iter().position(|(i, _)| may_diverge(i));
            let length = diverging.map_or(instructions.len(), |at| at + 1);
            let straight: Vec<_> = instructions.drain(..length).collect();
            let executed = straight.iter().filter(|(i, _)| !is_label(i)).count();
            if executed > 0 {
                let mark = global(module, &mark(first + pieces.len()), Value::I32(0));
                pieces.push(straight.iter().map(|(_, at)| positions.size_at(*at)).sum());
                let added = add_to(counter, executed as i64).into_iter();
                let added = added.chain(set(mark));
                counted.extend(added.map(|instruction| (instruction, InstrLocId::default())));
            }
            counted.extend(straight);
        }
        let body = module.funcs.get_mut(function).kind.unwrap_local_mut();
        body.block_mut(sequence).instrs = counted;
    }
    pieces
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

/// Whether the instruction only gives a place a label.
fn is_label(instruction: &Instr) -> bool {
    matches!(instruction, Instr::Block(_) | Instr::Loop(_))
}

fn set(mark: GlobalId) -> [Instr; 2] {
    let value = Value::I32(1);
    [
        ir::Const { value }.into(),
        ir::GlobalSet { global: mark }.into(),
    ]
}

fn add_to(counter: GlobalId, number: i64) -> [Instr; 4] {
    let value = Value::I64(number);
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
pub(crate) struct Sequences(Vec<InstrSeqId>);

impl Sequences {
    pub(crate) fn of(function: &LocalFunction) -> Vec<InstrSeqId> {
        let mut sequences = Self::default();
        ir::dfs_in_order(&mut sequences, function, function.entry_block());
        sequences.0
    }
}

impl<'a> Visitor<'a> for Sequences {
    fn start_instr_seq(&mut self, sequence: &'a ir::InstrSeq) {
        self.0.push(sequence.id());
    }
}

/// The positions of a function's instructions in the module's file, in ascending order.
#[derive(Default)]
struct Positions(Vec<u32>);

impl Positions {
    fn of(function: &LocalFunction) -> Self {
        let mut positions = Self::default();
        ir::dfs_in_order(&mut positions, function, function.entry_block());
        positions.0.sort_unstable();
        positions
    }

    /// The size of the instruction at this position: the distance to the next one. 0 if either is missing.
    fn size_at(&self, position: InstrLocId) -> u64 {
        if position.is_default() {
            return 0;
        }
        let position = position.data();
        let next = self.0.partition_point(|other| *other <= position);
        let size = self.0.get(next).map_or(0, |next| next - position);
        u64::from(size)
    }
}

impl<'a> Visitor<'a> for Positions {
    fn visit_instr(&mut self, _: &'a Instr, position: &'a InstrLocId) {
        if !position.is_default() {
            self.0.push(position.data());
        }
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
        let Instrumented {
            bytes,
            functions,
            pieces,
        } = instrument(&module.emit_wasm());
        assert_eq!(functions.len(), 1);

        let engine = wasmi::Engine::default();
        let module = wasmi::Module::new(&engine, &bytes).unwrap();
        let mut store = wasmi::Store::new(&engine, ());
        let instance = wasmi::Linker::new(&engine);
        let instance = instance.instantiate_and_start(&mut store, &module).unwrap();
        let run = instance.get_typed_func::<i32, ()>(&store, "run").unwrap();
        let counted = instance.get_global(&store, &counter(0)).unwrap();
        let code = |store: &wasmi::Store<()>| -> u64 {
            let executed = pieces.iter().enumerate().filter(|(index, _)| {
                let mark = instance.get_global(store, &mark(*index)).unwrap();
                mark.get(store).i32() == Some(1)
            });
            executed.map(|(_, piece)| piece.bytes).sum()
        };
        // Code counts once, however often it is executed. The last `drop` counts nothing, because no instruction follows it.
        for (leaves, executed, bytes) in [(1, 6, 11), (0, 10, 18), (1, 6, 18)] {
            counted.set(&mut store, wasmi::Val::I64(0)).unwrap();
            run.call(&mut store, leaves).unwrap();
            assert_eq!(counted.get(&store).i64(), Some(executed));
            assert_eq!(code(&store), bytes);
        }
    }
}
