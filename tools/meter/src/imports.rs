//! The host calls that the module makes: each is handed on to the mock host's function of the same name, a C symbol, with copies
//! of what the module's pointers point to.

use wasmi::{Caller, Extern, Linker, Memory};

type Result<T> = std::result::Result<T, wasmi::Error>;

const MODULE: &str = "env";
const OK: u32 = 0;

// The mock host's functions, as in proxy-wasm ABI 0.2.1.
extern "C" {
    fn proxy_log(level: u32, data: *const u8, size: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_get_buffer_bytes(
        kind: u32,
        start: usize,
        max_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_set_buffer_bytes(
        kind: u32,
        start: usize,
        length: usize,
        data: *const u8,
        size: usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        key: *const u8,
        key_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_set_header_map_pairs(map: u32, data: *const u8, size: usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_add_header_map_value(
        map: u32,
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, key: *const u8, key_size: usize) -> u32;
    fn proxy_get_property(
        path: *const u8,
        path_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_set_property(
        path: *const u8,
        path_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
        cas: u32,
    ) -> u32;
    fn proxy_continue_stream(half: u32) -> u32;
    fn proxy_close_stream(half: u32) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_http_call(
        cluster: *const u8,
        cluster_size: usize,
        headers: *const u8,
        headers_size: usize,
        body: *const u8,
        body_size: usize,
        trailers: *const u8,
        trailers_size: usize,
        timeout: u32,
        number: *mut u32,
    ) -> u32;
    fn proxy_set_effective_context(context: u32) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, by: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
}

/// The module's memory.
pub(crate) fn memory(caller: &Caller<'_, ()>) -> Result<Memory> {
    let memory = caller.get_export("memory").and_then(Extern::into_memory);
    memory.ok_or_else(|| wasmi::Error::new("the module exports no memory"))
}

/// A copy of the module's bytes.
fn bytes(caller: &Caller<'_, ()>, at: u32, size: u32) -> Result<Vec<u8>> {
    let mut bytes = vec![0; size as usize];
    memory(caller)?.read(caller, at as usize, &mut bytes)?;
    Ok(bytes)
}

fn write(caller: &mut Caller<'_, ()>, at: u32, bytes: &[u8]) -> Result<()> {
    memory(caller)?.write(caller, at as usize, bytes)?;
    Ok(())
}

/// Runs `get` and brings what it hands over into memory that the module allocates.
fn hand_over(
    caller: &mut Caller<'_, ()>,
    data: u32,
    size: u32,
    get: impl FnOnce(*mut *mut u8, *mut usize) -> u32,
) -> Result<u32> {
    let (mut native, mut length) = (std::ptr::null_mut(), 0);
    let status = get(&mut native, &mut length);
    if status != OK {
        return Ok(status);
    }
    let mut at = 0;
    if !native.is_null() {
        let slice = std::ptr::slice_from_raw_parts_mut(native, length);
        // SAFETY: the mock host had it allocated by `proxy_on_memory_allocate` of this crate, which leaks such a box.
        let bytes = unsafe { Box::from_raw(slice) };
        let allocate = caller.get_export("proxy_on_memory_allocate");
        let allocate = allocate.and_then(Extern::into_func);
        let allocate = allocate.ok_or_else(|| wasmi::Error::new("no memory can be allocated"))?;
        let allocate = allocate.typed::<u32, u32>(&*caller)?;
        at = allocate.call(&mut *caller, bytes.len() as u32)?;
        write(caller, at, &bytes)?;
    }
    write(caller, data, &at.to_le_bytes())?;
    write(caller, size, &(length as u32).to_le_bytes())?;
    Ok(status)
}

/// Defines those host calls that the balancer makes.
// SAFETY of all calls below: pointers are those of live vectors and variables, with their sizes.
pub(crate) fn link(linker: &mut Linker<()>) -> Result<()> {
    link_maps(linker)?;
    link_state(linker)?;
    link_actions(linker)
}

type Host<'a> = Caller<'a, ()>;

fn link_maps(linker: &mut Linker<()>) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "proxy_get_header_map_pairs",
        |mut c: Host<'_>, map: u32, data: u32, size: u32| {
            hand_over(&mut c, data, size, |data, size| unsafe {
                proxy_get_header_map_pairs(map, data, size)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_get_header_map_value",
        |mut c: Host<'_>, map: u32, key: u32, key_size: u32, data: u32, size: u32| {
            let key = bytes(&c, key, key_size)?;
            hand_over(&mut c, data, size, |data, size| unsafe {
                proxy_get_header_map_value(map, key.as_ptr(), key.len(), data, size)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_set_header_map_pairs",
        |c: Host<'_>, map: u32, data: u32, size: u32| {
            let data = bytes(&c, data, size)?;
            Ok::<_, wasmi::Error>(unsafe {
                proxy_set_header_map_pairs(map, data.as_ptr(), data.len())
            })
        },
    )?;
    type Edit = unsafe extern "C" fn(u32, *const u8, usize, *const u8, usize) -> u32;
    let edits: [(&str, Edit); 2] = [
        (
            "proxy_replace_header_map_value",
            proxy_replace_header_map_value,
        ),
        ("proxy_add_header_map_value", proxy_add_header_map_value),
    ];
    for (name, edit) in edits {
        linker.func_wrap(
            MODULE,
            name,
            move |c: Host<'_>, map: u32, key: u32, key_size: u32, value: u32, size: u32| {
                let (key, value) = (bytes(&c, key, key_size)?, bytes(&c, value, size)?);
                Ok::<_, wasmi::Error>(unsafe {
                    edit(map, key.as_ptr(), key.len(), value.as_ptr(), value.len())
                })
            },
        )?;
    }
    linker.func_wrap(
        MODULE,
        "proxy_remove_header_map_value",
        |c: Host<'_>, map: u32, key: u32, key_size: u32| {
            let key = bytes(&c, key, key_size)?;
            Ok::<_, wasmi::Error>(unsafe {
                proxy_remove_header_map_value(map, key.as_ptr(), key.len())
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_get_buffer_bytes",
        |mut c: Host<'_>, kind: u32, start: u32, max_size: u32, data: u32, size: u32| {
            hand_over(&mut c, data, size, |data, size| unsafe {
                proxy_get_buffer_bytes(kind, start as usize, max_size as usize, data, size)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_set_buffer_bytes",
        |c: Host<'_>, kind: u32, start: u32, length: u32, data: u32, size: u32| {
            let data = bytes(&c, data, size)?;
            Ok::<_, wasmi::Error>(unsafe {
                proxy_set_buffer_bytes(
                    kind,
                    start as usize,
                    length as usize,
                    data.as_ptr(),
                    data.len(),
                )
            })
        },
    )?;
    Ok(())
}

fn link_state(linker: &mut Linker<()>) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "proxy_get_property",
        |mut c: Host<'_>, path: u32, path_size: u32, data: u32, size: u32| {
            let path = bytes(&c, path, path_size)?;
            hand_over(&mut c, data, size, |data, size| unsafe {
                proxy_get_property(path.as_ptr(), path.len(), data, size)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_set_property",
        |c: Host<'_>, path: u32, path_size: u32, value: u32, size: u32| {
            let (path, value) = (bytes(&c, path, path_size)?, bytes(&c, value, size)?);
            Ok::<_, wasmi::Error>(unsafe {
                proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len())
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_get_shared_data",
        |mut c: Host<'_>, key: u32, key_size: u32, data: u32, size: u32, cas: u32| {
            let key = bytes(&c, key, key_size)?;
            let mut stored = 0;
            let status = hand_over(&mut c, data, size, |data, size| unsafe {
                proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &mut stored)
            })?;
            write(&mut c, cas, &stored.to_le_bytes())?;
            Ok::<_, wasmi::Error>(status)
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_set_shared_data",
        |c: Host<'_>, key: u32, key_size: u32, value: u32, size: u32, cas: u32| {
            let (key, value) = (bytes(&c, key, key_size)?, bytes(&c, value, size)?);
            Ok::<_, wasmi::Error>(unsafe {
                proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas)
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_get_current_time_nanoseconds",
        |mut c: Host<'_>, time: u32| {
            let mut nanos = 0;
            let status = unsafe { proxy_get_current_time_nanoseconds(&mut nanos) };
            write(&mut c, time, &nanos.to_le_bytes())?;
            Ok::<_, wasmi::Error>(status)
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_define_metric",
        |mut c: Host<'_>, kind: u32, name: u32, name_size: u32, at: u32| {
            let name = bytes(&c, name, name_size)?;
            let mut id = 0;
            let status = unsafe { proxy_define_metric(kind, name.as_ptr(), name.len(), &mut id) };
            write(&mut c, at, &id.to_le_bytes())?;
            Ok::<_, wasmi::Error>(status)
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_increment_metric",
        |_: Host<'_>, id: u32, by: i64| unsafe { proxy_increment_metric(id, by) },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_record_metric",
        |_: Host<'_>, id: u32, value: u64| unsafe { proxy_record_metric(id, value) },
    )?;
    Ok(())
}

fn link_actions(linker: &mut Linker<()>) -> Result<()> {
    linker.func_wrap(
        MODULE,
        "proxy_log",
        |c: Host<'_>, level: u32, data: u32, size: u32| {
            let text = bytes(&c, data, size)?;
            Ok::<_, wasmi::Error>(unsafe { proxy_log(level, text.as_ptr(), text.len()) })
        },
    )?;
    type Act = unsafe extern "C" fn(u32) -> u32;
    let acts: [(&str, Act); 4] = [
        (
            "proxy_set_tick_period_milliseconds",
            proxy_set_tick_period_milliseconds,
        ),
        ("proxy_continue_stream", proxy_continue_stream),
        ("proxy_close_stream", proxy_close_stream),
        ("proxy_set_effective_context", proxy_set_effective_context),
    ];
    for (name, act) in acts {
        linker.func_wrap(MODULE, name, move |_: Host<'_>, number: u32| unsafe {
            act(number)
        })?;
    }
    linker.func_wrap(
        MODULE,
        "proxy_send_local_response",
        |c: Host<'_>,
         status: u32,
         details: u32,
         details_size: u32,
         body: u32,
         body_size: u32,
         headers: u32,
         headers_size: u32,
         grpc_status: i32| {
            let details = bytes(&c, details, details_size)?;
            let body = bytes(&c, body, body_size)?;
            let headers = bytes(&c, headers, headers_size)?;
            Ok::<_, wasmi::Error>(unsafe {
                proxy_send_local_response(
                    status,
                    details.as_ptr(),
                    details.len(),
                    body.as_ptr(),
                    body.len(),
                    headers.as_ptr(),
                    headers.len(),
                    grpc_status,
                )
            })
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proxy_http_call",
        |mut c: Host<'_>,
         cluster: u32,
         cluster_size: u32,
         headers: u32,
         headers_size: u32,
         body: u32,
         body_size: u32,
         trailers: u32,
         trailers_size: u32,
         timeout: u32,
         at: u32| {
            let cluster = bytes(&c, cluster, cluster_size)?;
            let headers = bytes(&c, headers, headers_size)?;
            let body = bytes(&c, body, body_size)?;
            let trailers = bytes(&c, trailers, trailers_size)?;
            let mut number = 0;
            let status = unsafe {
                proxy_http_call(
                    cluster.as_ptr(),
                    cluster.len(),
                    headers.as_ptr(),
                    headers.len(),
                    body.as_ptr(),
                    body.len(),
                    trailers.as_ptr(),
                    trailers.len(),
                    timeout,
                    &mut number,
                )
            };
            write(&mut c, at, &number.to_le_bytes())?;
            Ok::<_, wasmi::Error>(status)
        },
    )?;
    Ok(())
}
