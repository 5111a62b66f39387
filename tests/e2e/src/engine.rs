//! Test cases that run once for each retry engine.

/// Makes each function a test for both retry engines, `filter_engine::case` and `router_engine::case`. After `filter:`
/// or `router:` it makes a test for that engine only.
///
/// The function gets the engine and passes it to [`GatewayBuilder::engine`](crate::GatewayBuilder::engine).
#[macro_export]
macro_rules! cases {
    (filter: $($cases:tt)+) => { $crate::cases!(@filter_engine Filter $($cases)+); };
    (router: $($cases:tt)+) => { $crate::cases!(@router_engine Router $($cases)+); };
    (@$module:ident $variant:ident $($(#[$attribute:meta])* fn $name:ident($engine:ident) $body:block)+) => {
        $($(#[$attribute])* #[test] fn $name() { let $engine = $crate::Engine::$variant; $body })+
    };
    ($($(#[$attribute:meta])* fn $name:ident($engine:ident) $body:block)+) => {
        $($(#[$attribute])* fn $name($engine: $crate::Engine) $body)+

        mod filter_engine {
            $(#[test] fn $name() { super::$name($crate::Engine::Filter) })+
        }

        mod router_engine {
            $(#[test] fn $name() { super::$name($crate::Engine::Router) })+
        }
    };
}
