//! Every case is a test of its own for each retry engine it applies to.

/// Makes each function a test for the engines named first: `case` becomes `filter_engine::case`, and so on.
///
/// The function gets the engine, and hands it to [`GatewayBuilder::engine`](crate::GatewayBuilder::engine).
#[macro_export]
macro_rules! cases {
    ($($(#[$attribute:meta])* fn $name:ident($engine:ident) $body:block)+) => {
        $($(#[$attribute])* fn $name($engine: $crate::Engine) $body)+

        mod filter_engine {
            $(#[test] fn $name() { super::$name($crate::Engine::Filter) })+
        }
    };
}
