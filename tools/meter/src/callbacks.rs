//! The callbacks that the mock host calls, as C symbols. Each one calls the module.

use crate::module::call;

/// Sizes and ids are 32-bit numbers on the module's side.
fn number(value: impl TryInto<u32>) -> i32 {
    let value = value.try_into();
    value.unwrap_or_else(|_| panic!("more than a 32-bit module can have")) as i32
}

/// Envoy's action for a stream without this callback: it continues.
const CONTINUE: i32 = 0;

#[no_mangle]
extern "C" fn _initialize() {
    call("_initialize", &[]);
}

/// Host calls ask the module itself ([`crate::imports`]), because this process's memory is not the module's.
#[no_mangle]
extern "C" fn proxy_on_memory_allocate(_: usize) -> *mut u8 {
    unreachable!("a host call that was not the module's")
}

#[no_mangle]
extern "C" fn proxy_on_context_create(context: u32, root: u32) {
    call("proxy_on_context_create", &[number(context), number(root)]);
}

#[no_mangle]
extern "C" fn proxy_on_vm_start(root: u32, size: usize) -> bool {
    call("proxy_on_vm_start", &[number(root), number(size)]) != Some(0)
}

#[no_mangle]
extern "C" fn proxy_on_configure(root: u32, size: usize) -> bool {
    call("proxy_on_configure", &[number(root), number(size)]) != Some(0)
}

#[no_mangle]
extern "C" fn proxy_on_tick(root: u32) {
    call("proxy_on_tick", &[number(root)]);
}

#[no_mangle]
extern "C" fn proxy_on_request_headers(context: u32, count: usize, end: bool) -> u32 {
    let arguments = [number(context), number(count), i32::from(end)];
    call("proxy_on_request_headers", &arguments).unwrap_or(CONTINUE) as u32
}

#[no_mangle]
extern "C" fn proxy_on_request_body(context: u32, size: usize, end: bool) -> u32 {
    let arguments = [number(context), number(size), i32::from(end)];
    call("proxy_on_request_body", &arguments).unwrap_or(CONTINUE) as u32
}

#[no_mangle]
extern "C" fn proxy_on_request_trailers(context: u32, count: usize) -> u32 {
    let arguments = [number(context), number(count)];
    call("proxy_on_request_trailers", &arguments).unwrap_or(CONTINUE) as u32
}

#[no_mangle]
extern "C" fn proxy_on_response_headers(context: u32, count: usize, end: bool) -> u32 {
    let arguments = [number(context), number(count), i32::from(end)];
    call("proxy_on_response_headers", &arguments).unwrap_or(CONTINUE) as u32
}

#[no_mangle]
extern "C" fn proxy_on_response_body(context: u32, size: usize, end: bool) -> u32 {
    let arguments = [number(context), number(size), i32::from(end)];
    call("proxy_on_response_body", &arguments).unwrap_or(CONTINUE) as u32
}

#[no_mangle]
extern "C" fn proxy_on_response_trailers(context: u32, count: usize) -> u32 {
    let arguments = [number(context), number(count)];
    call("proxy_on_response_trailers", &arguments).unwrap_or(CONTINUE) as u32
}

#[no_mangle]
extern "C" fn proxy_on_http_call_response(
    context: u32,
    number_of_call: u32,
    headers: usize,
    body_size: usize,
    trailers: usize,
) {
    let arguments = [
        number(context),
        number(number_of_call),
        number(headers),
        number(body_size),
        number(trailers),
    ];
    call("proxy_on_http_call_response", &arguments);
}

#[no_mangle]
extern "C" fn proxy_on_log(context: u32) {
    call("proxy_on_log", &[number(context)]);
}

#[no_mangle]
extern "C" fn proxy_on_done(context: u32) -> bool {
    call("proxy_on_done", &[number(context)]) != Some(0)
}

#[no_mangle]
extern "C" fn proxy_on_delete(context: u32) {
    call("proxy_on_delete", &[number(context)]);
}
