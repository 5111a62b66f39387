//! A small module for tests.

use walrus::{FunctionBuilder, Module, ValType};

/// The opcodes of branches that depend on a condition.
pub(crate) const IF: u8 = 0x04;
pub(crate) const BR_IF: u8 = 0x0d;

/// A module with an imported function, the function `callee`, which calls it, and the exported `run(a, b)`, which calls `callee` if
/// `a` is not 0 (`if`), and again if `b` is 0 (`br_if`).
pub(crate) fn branching() -> Vec<u8> {
    let mut module = Module::default();
    let none = module.types.add(&[], &[]);
    let (imported, _) = module.add_import_func("env", "imported", none);
    let mut callee = FunctionBuilder::new(&mut module.types, &[], &[]);
    callee.name("callee".to_owned());
    callee.func_body().call(imported);
    let callee = callee.finish(Vec::new(), &mut module.funcs);

    let mut run = FunctionBuilder::new(&mut module.types, &[ValType::I32; 2], &[]);
    run.name("run".to_owned());
    let [a, b] = [(); 2].map(|()| module.locals.add(ValType::I32));
    let mut body = run.func_body();
    body.local_get(a).if_else(
        None,
        |then| {
            then.call(callee);
        },
        |_| {},
    );
    body.block(None, |block| {
        let out = block.id();
        block.local_get(b).br_if(out).call(callee);
    });
    let run = run.finish(vec![a, b], &mut module.funcs);
    module.exports.add("run", run);
    module.emit_wasm()
}
