//! The names of proxy-wasm ABI 0.2.1, and the functions a module built on the Rust SDK exports.

/// The module's answer to a callback of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The message goes on.
    Continue,
    /// The message is held.
    Pause,
}

impl Action {
    pub(crate) fn from_abi(action: u32) -> Self {
        match action {
            0 => Self::Continue,
            1 => Self::Pause,
            other => panic!("the module returned the action {other}, which the SDK does not have"),
        }
    }
}

/// The statuses of host calls.
pub mod status {
    /// Success.
    pub const OK: u32 = 0;
    /// The requested thing does not exist.
    pub const NOT_FOUND: u32 = 1;
    /// An argument is invalid.
    pub const BAD_ARGUMENT: u32 = 2;
    /// Another worker was quicker.
    pub const CAS_MISMATCH: u32 = 8;
    /// Envoy could not do it. For a call: no healthy host, or an open circuit breaker.
    pub const INTERNAL_FAILURE: u32 = 10;
    /// Envoy does not offer this. The SDK's own enum has no such status.
    pub const UNIMPLEMENTED: u32 = 12;
}

/// A header map.
pub(crate) mod map {
    pub(crate) const REQUEST_HEADERS: u32 = 0;
    pub(crate) const REQUEST_TRAILERS: u32 = 1;
    pub(crate) const RESPONSE_HEADERS: u32 = 2;
    pub(crate) const RESPONSE_TRAILERS: u32 = 3;
    pub(crate) const CALL_HEADERS: u32 = 6;
    pub(crate) const CALL_TRAILERS: u32 = 7;
}

/// A buffer.
pub(crate) mod buffer {
    pub(crate) const REQUEST_BODY: u32 = 0;
    pub(crate) const RESPONSE_BODY: u32 = 1;
    pub(crate) const CALL_BODY: u32 = 4;
    pub(crate) const VM_CONFIGURATION: u32 = 6;
    pub(crate) const PLUGIN_CONFIGURATION: u32 = 7;
}

/// The module's exports. All are safe to call: they take plain numbers.
pub(crate) mod exports {
    // `proxy_on_memory_allocate` returns memory that belongs to the module's allocator.
    unsafe extern "C" {
        pub(crate) safe fn _initialize();
        pub(crate) safe fn proxy_on_memory_allocate(size: usize) -> *mut u8;
        pub(crate) safe fn proxy_on_context_create(context: u32, root: u32);
        pub(crate) safe fn proxy_on_vm_start(root: u32, configuration_size: usize) -> bool;
        pub(crate) safe fn proxy_on_configure(root: u32, configuration_size: usize) -> bool;
        pub(crate) safe fn proxy_on_tick(root: u32);
        pub(crate) safe fn proxy_on_request_headers(context: u32, count: usize, end: bool) -> u32;
        pub(crate) safe fn proxy_on_request_body(context: u32, size: usize, end: bool) -> u32;
        pub(crate) safe fn proxy_on_request_trailers(context: u32, count: usize) -> u32;
        pub(crate) safe fn proxy_on_response_headers(context: u32, count: usize, end: bool) -> u32;
        pub(crate) safe fn proxy_on_response_body(context: u32, size: usize, end: bool) -> u32;
        pub(crate) safe fn proxy_on_response_trailers(context: u32, count: usize) -> u32;
        pub(crate) safe fn proxy_on_http_call_response(
            context: u32,
            call: u32,
            headers: usize,
            body_size: usize,
            trailers: usize,
        );
        pub(crate) safe fn proxy_on_log(context: u32);
        pub(crate) safe fn proxy_on_done(context: u32) -> bool;
        pub(crate) safe fn proxy_on_delete(context: u32);
    }
}
