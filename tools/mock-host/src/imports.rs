//! The functions a module imports, as C symbols: every one the Rust SDK 0.2.5 names, so that it links in every profile.

use std::time::Duration;

use crate::abi::{buffer, exports, map, status};
use crate::half::Half;
use crate::headers::Headers;
use crate::stream::{Direction, LocalReply, StreamState};
use crate::vm::{next_id, running, Call, Effect, Worker};

type Outcome = Result<(), u32>;

/// One host call: counted, refused if a fault says so, else done.
fn host_call(
    function: &'static str,
    key: &[u8],
    bytes_out: usize,
    act: impl FnOnce(&Worker) -> Result<usize, u32>,
) -> u32 {
    let outcome = running(|worker| {
        let outcome = worker
            .process
            .faults
            .check(function, key)
            .and_then(|()| act(worker));
        let bytes_in = outcome.unwrap_or_default();
        worker.process.counts.add(function, bytes_out, bytes_in);
        outcome.map(|_| ())
    });
    match outcome {
        Some(Ok(())) => status::OK,
        Some(Err(status)) => status,
        // Outside of a callback there is no context, as in Envoy.
        None => status::INTERNAL_FAILURE,
    }
}

fn done(outcome: Outcome) -> Result<usize, u32> {
    outcome.map(|()| 0)
}

/// The module's bytes at `data`.
///
/// # Safety
/// `data` is valid for reads of `size` bytes, or `size` is 0.
unsafe fn bytes<'a>(data: *const u8, size: usize) -> &'a [u8] {
    if size == 0 {
        return &[];
    }
    // SAFETY: as promised by the caller.
    unsafe { std::slice::from_raw_parts(data, size) }
}

/// Hands `bytes` to the module in memory that it allocates itself; nothing is allocated for nothing.
///
/// # Safety
/// `data` and `size` are valid for writes.
unsafe fn give(bytes: &[u8], data: *mut *mut u8, size: *mut usize) -> Result<usize, u32> {
    let memory = match bytes.len() {
        0 => std::ptr::null_mut(),
        length => {
            running(|w| w.process.counts.add("proxy_on_memory_allocate", 0, 0));
            let memory = exports::proxy_on_memory_allocate(length);
            // SAFETY: the module has just allocated so many bytes.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory, length) };
            memory
        }
    };
    // SAFETY: as promised by the caller.
    unsafe {
        data.write(memory);
        size.write(bytes.len());
    }
    Ok(bytes.len())
}

fn stream(worker: &Worker) -> Result<std::rc::Rc<StreamState>, u32> {
    worker.acting_stream().ok_or(status::BAD_ARGUMENT)
}

/// A map to read. In the log phase everything can be read, otherwise only what is open.
fn read_map<T>(worker: &Worker, kind: u32, read: impl FnOnce(&Headers) -> T) -> Option<T> {
    if let map::CALL_HEADERS | map::CALL_TRAILERS = kind {
        let answer = worker.answer.borrow();
        let answer = answer.as_ref()?;
        return (kind == map::CALL_HEADERS).then(|| read(&answer.headers));
    }
    let stream = worker.acting_stream()?;
    let (direction, trailers) = half_of(kind)?;
    let half = stream.half(direction);
    let logging = stream.logging.get();
    if trailers {
        (half.trailers_open || logging).then(|| read(&half.trailers))
    } else {
        (half.headers_open || logging).then(|| read(&half.headers))
    }
}

/// A map to change.
fn change_map(worker: &Worker, kind: u32, change: impl FnOnce(&mut Headers)) -> Outcome {
    let stream = stream(worker)?;
    let (direction, trailers) = half_of(kind).ok_or(status::BAD_ARGUMENT)?;
    let half = &mut *stream.half(direction);
    let open = if trailers {
        half.trailers_open.then_some(&mut half.trailers)
    } else {
        half.headers_open.then_some(&mut half.headers)
    };
    open.map(change).ok_or(status::BAD_ARGUMENT)
}

fn half_of(kind: u32) -> Option<(Direction, bool)> {
    Some(match kind {
        map::REQUEST_HEADERS => (Direction::Request, false),
        map::REQUEST_TRAILERS => (Direction::Request, true),
        map::RESPONSE_HEADERS => (Direction::Response, false),
        map::RESPONSE_TRAILERS => (Direction::Response, true),
        _ => return None,
    })
}

fn read_buffer<T>(
    worker: &Worker,
    kind: u32,
    read: impl FnOnce(&[u8]) -> Result<T, u32>,
) -> Result<T, u32> {
    let of_stream = |direction| -> Result<Vec<u8>, u32> {
        let stream = stream(worker)?;
        let body = stream.half(direction).body().to_vec();
        Ok(body)
    };
    match kind {
        buffer::REQUEST_BODY => read(&of_stream(Direction::Request)?),
        buffer::RESPONSE_BODY => read(&of_stream(Direction::Response)?),
        buffer::CALL_BODY => {
            let answer = worker.answer.borrow();
            read(&answer.as_ref().ok_or(status::NOT_FOUND)?.body)
        }
        buffer::PLUGIN_CONFIGURATION => {
            let configuration = worker.configuration.borrow();
            read(configuration.as_ref().ok_or(status::NOT_FOUND)?)
        }
        buffer::VM_CONFIGURATION => read(&[]),
        _ => Err(status::NOT_FOUND),
    }
}

#[no_mangle]
unsafe extern "C" fn proxy_log(level: u32, data: *const u8, size: usize) -> u32 {
    // SAFETY: the module's text.
    let text = unsafe { bytes(data, size) };
    let refused = host_call("proxy_log", b"", size, |worker| {
        worker.log(level, text);
        Ok(0)
    });
    // After a failed assertion what is left of the module goes with its thread, outside of any callback. A line that is refused
    // then makes the SDK panic, which would end all tests and hide what the assertion said.
    match running(|_| ()) {
        Some(()) => refused,
        None => status::OK,
    }
}

#[no_mangle]
unsafe extern "C" fn proxy_get_log_level(level: *mut u32) -> u32 {
    host_call("proxy_get_log_level", b"", 0, |_| {
        // SAFETY: the module's variable. Everything is wanted.
        unsafe { level.write(0) };
        Ok(4)
    })
}

#[no_mangle]
unsafe extern "C" fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32 {
    host_call("proxy_get_current_time_nanoseconds", b"", 0, |worker| {
        // SAFETY: the module's variable.
        unsafe { time.write(worker.process.clock()) };
        Ok(8)
    })
}

#[no_mangle]
extern "C" fn proxy_set_tick_period_milliseconds(period: u32) -> u32 {
    host_call("proxy_set_tick_period_milliseconds", b"", 4, |worker| {
        // Each root context has a timer of its own.
        if let Some(root) = worker.acting_root() {
            root.set_period(Duration::from_millis(period.into()));
        }
        Ok(0)
    })
}

#[no_mangle]
unsafe extern "C" fn proxy_get_buffer_bytes(
    kind: u32,
    start: usize,
    max_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    host_call("proxy_get_buffer_bytes", b"", 0, |worker| {
        read_buffer(worker, kind, |buffer| {
            let rest = buffer.get(start..).ok_or(status::BAD_ARGUMENT)?;
            // SAFETY: the module's variables.
            unsafe { give(&rest[..rest.len().min(max_size)], data, size) }
        })
    })
}

#[no_mangle]
unsafe extern "C" fn proxy_set_buffer_bytes(
    kind: u32,
    start: usize,
    length: usize,
    data: *const u8,
    size: usize,
) -> u32 {
    // SAFETY: the module's bytes.
    let new = unsafe { bytes(data, size) };
    host_call("proxy_set_buffer_bytes", b"", size, |worker| {
        let direction = match kind {
            buffer::REQUEST_BODY => Direction::Request,
            buffer::RESPONSE_BODY => Direction::Response,
            _ => return Err(status::BAD_ARGUMENT),
        };
        let stream = stream(worker)?;
        let mut half = stream.half(direction);
        done(set_body(&mut half, start, length, new))
    })
}

/// Envoy prepends, replaces or appends, nothing else.
fn set_body(half: &mut Half, start: usize, length: usize, new: &[u8]) -> Outcome {
    let body = half.body_mut();
    match (start, length) {
        (0, 0) => drop(body.splice(..0, new.iter().copied())),
        (0, length) if length >= body.len() => *body = new.to_vec(),
        (start, _) if start >= body.len() => body.extend_from_slice(new),
        _ => return Err(status::BAD_ARGUMENT),
    }
    Ok(())
}

#[no_mangle]
unsafe extern "C" fn proxy_get_header_map_pairs(
    kind: u32,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    host_call("proxy_get_header_map_pairs", b"", 0, |worker| {
        // A map that is not there has no pairs.
        let pairs = read_map(worker, kind, Headers::encode).unwrap_or_default();
        // SAFETY: the module's variables.
        unsafe { give(&pairs, data, size) }
    })
}

#[no_mangle]
unsafe extern "C" fn proxy_set_header_map_pairs(kind: u32, data: *const u8, size: usize) -> u32 {
    // SAFETY: the module's bytes.
    let pairs = Headers::decode(unsafe { bytes(data, size) });
    host_call("proxy_set_header_map_pairs", b"", size, |worker| {
        done(change_map(worker, kind, |map| *map = pairs))
    })
}

#[no_mangle]
unsafe extern "C" fn proxy_get_header_map_value(
    kind: u32,
    key: *const u8,
    key_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    // SAFETY: the module's bytes.
    let key = unsafe { bytes(key, key_size) };
    host_call("proxy_get_header_map_value", key, key_size, |worker| {
        let name = String::from_utf8_lossy(key);
        let value = read_map(worker, kind, |map| map.first(&name).map(<[u8]>::to_vec));
        let value = value.ok_or(status::BAD_ARGUMENT)?;
        // SAFETY: the module's variables.
        unsafe { give(&value.ok_or(status::NOT_FOUND)?, data, size) }
    })
}

#[no_mangle]
unsafe extern "C" fn proxy_remove_header_map_value(
    kind: u32,
    key: *const u8,
    key_size: usize,
) -> u32 {
    // SAFETY: the module's bytes.
    let key = unsafe { bytes(key, key_size) };
    host_call("proxy_remove_header_map_value", key, key_size, |worker| {
        let name = String::from_utf8_lossy(key);
        done(change_map(worker, kind, |map| map.remove(&name)))
    })
}

#[no_mangle]
unsafe extern "C" fn proxy_replace_header_map_value(
    kind: u32,
    key: *const u8,
    key_size: usize,
    value: *const u8,
    value_size: usize,
) -> u32 {
    // SAFETY: the module's bytes.
    let (key, value) = unsafe { (bytes(key, key_size), bytes(value, value_size)) };
    let size = key_size + value_size;
    host_call("proxy_replace_header_map_value", key, size, |worker| {
        let name = String::from_utf8_lossy(key);
        done(change_map(worker, kind, |map| map.replace(&name, value)))
    })
}

#[no_mangle]
unsafe extern "C" fn proxy_add_header_map_value(
    kind: u32,
    key: *const u8,
    key_size: usize,
    value: *const u8,
    value_size: usize,
) -> u32 {
    // SAFETY: the module's bytes.
    let (key, value) = unsafe { (bytes(key, key_size), bytes(value, value_size)) };
    let size = key_size + value_size;
    host_call("proxy_add_header_map_value", key, size, |worker| {
        let name = String::from_utf8_lossy(key);
        done(change_map(worker, kind, |map| map.add(name, value)))
    })
}

#[no_mangle]
unsafe extern "C" fn proxy_get_property(
    path: *const u8,
    path_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    // SAFETY: the module's bytes.
    let path = unsafe { bytes(path, path_size) };
    host_call("proxy_get_property", path, path_size, |worker| {
        let stream = worker.acting_stream();
        let value = stream.and_then(|stream| stream.property(path));
        let value = value.or_else(|| worker.property(path));
        // SAFETY: the module's variables.
        unsafe { give(&value.ok_or(status::NOT_FOUND)?, data, size) }
    })
}

#[no_mangle]
unsafe extern "C" fn proxy_set_property(
    path: *const u8,
    path_size: usize,
    value: *const u8,
    value_size: usize,
) -> u32 {
    // SAFETY: the module's bytes.
    let (path, value) = unsafe { (bytes(path, path_size), bytes(value, value_size)) };
    let size = path_size + value_size;
    host_call("proxy_set_property", path, size, |worker| {
        let stream = worker.acting_stream().ok_or(status::NOT_FOUND)?;
        let mut filter_state = stream.filter_state.borrow_mut();
        filter_state.insert(path.to_vec(), value.to_vec());
        Ok(0)
    })
}

#[no_mangle]
unsafe extern "C" fn proxy_get_shared_data(
    key: *const u8,
    key_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
    cas: *mut u32,
) -> u32 {
    // SAFETY: the module's bytes.
    let key = unsafe { bytes(key, key_size) };
    host_call("proxy_get_shared_data", key, key_size, |worker| {
        let (value, stored_cas) = worker.process.shared.get(key).ok_or(status::NOT_FOUND)?;
        // SAFETY: the module's variables.
        unsafe {
            cas.write(stored_cas);
            give(&value, data, size)
        }
    })
}

#[no_mangle]
unsafe extern "C" fn proxy_set_shared_data(
    key: *const u8,
    key_size: usize,
    value: *const u8,
    value_size: usize,
    cas: u32,
) -> u32 {
    // SAFETY: the module's bytes.
    let (key, value) = unsafe { (bytes(key, key_size), bytes(value, value_size)) };
    let size = key_size + value_size;
    host_call("proxy_set_shared_data", key, size, |worker| {
        done(worker.process.shared.set(key, value, cas))
    })
}

#[no_mangle]
extern "C" fn proxy_continue_stream(half: u32) -> u32 {
    host_call("proxy_continue_stream", b"", 0, |worker| {
        let direction = match half {
            0 => Direction::Request,
            1 => Direction::Response,
            _ => return Err(status::BAD_ARGUMENT),
        };
        if let Some(stream) = worker.acting_stream() {
            // Whichever half it is, Envoy forgets the request's maps.
            let mut request = stream.half(Direction::Request);
            request.headers_open = false;
            worker
                .effects
                .borrow_mut()
                .push(Effect::Resume(stream.id, direction));
        }
        Ok(0)
    })
}

#[no_mangle]
extern "C" fn proxy_close_stream(half: u32) -> u32 {
    host_call("proxy_close_stream", b"", 0, |worker| {
        if half > 1 {
            return Err(status::BAD_ARGUMENT);
        }
        if let Some(stream) = worker.acting_stream() {
            worker.effects.borrow_mut().push(Effect::Close(stream.id));
        }
        Ok(0)
    })
}

#[no_mangle]
unsafe extern "C" fn proxy_send_local_response(
    status: u32,
    details: *const u8,
    details_size: usize,
    body: *const u8,
    body_size: usize,
    headers: *const u8,
    headers_size: usize,
    _grpc_status: i32,
) -> u32 {
    // SAFETY: the module's bytes.
    let (details, body, headers) = unsafe {
        (
            bytes(details, details_size),
            bytes(body, body_size),
            bytes(headers, headers_size),
        )
    };
    let size = details_size + body_size + headers_size;
    host_call("proxy_send_local_response", b"", size, |worker| {
        // Envoy stops the iteration of the callback that is running, whichever stream is answered.
        worker.iteration_stopped.set(true);
        if let Some(stream) = worker.acting_stream() {
            let reply = LocalReply {
                status,
                details: String::from_utf8_lossy(details).replace(' ', "_"),
                headers: Headers::decode(headers),
                body: body.to_vec(),
            };
            worker
                .effects
                .borrow_mut()
                .push(Effect::Reply(stream.id, reply));
        }
        Ok(0)
    })
}

#[no_mangle]
unsafe extern "C" fn proxy_http_call(
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
) -> u32 {
    // SAFETY: the module's bytes.
    let (cluster, headers, body, trailers) = unsafe {
        (
            bytes(cluster, cluster_size),
            bytes(headers, headers_size),
            bytes(body, body_size),
            bytes(trailers, trailers_size),
        )
    };
    let size = cluster_size + headers_size + body_size + trailers_size;
    host_call("proxy_http_call", cluster, size, |worker| {
        let made = worker.make_call(Call {
            number: next_id(),
            cluster: String::from_utf8_lossy(cluster).into_owned(),
            headers: Headers::decode(headers),
            body: body.to_vec(),
            trailers: Headers::decode(trailers),
            timeout: Duration::from_millis(timeout.into()),
            context: worker.acting(),
        })?;
        // SAFETY: the module's variable.
        unsafe { number.write(made) };
        Ok(4)
    })
}

#[no_mangle]
extern "C" fn proxy_set_effective_context(context: u32) -> u32 {
    host_call("proxy_set_effective_context", b"", 4, |worker| {
        if !worker.knows(context) {
            return Err(status::BAD_ARGUMENT);
        }
        worker.effective.set(context);
        Ok(0)
    })
}

#[no_mangle]
unsafe extern "C" fn proxy_define_metric(
    kind: u32,
    name: *const u8,
    name_size: usize,
    id: *mut u32,
) -> u32 {
    // SAFETY: the module's bytes.
    let name = unsafe { bytes(name, name_size) };
    host_call("proxy_define_metric", name, name_size, |worker| {
        let name = String::from_utf8_lossy(name);
        let defined = worker.process.statistics.define(kind, &name)?;
        // SAFETY: the module's variable.
        unsafe { id.write(defined) };
        Ok(4)
    })
}

#[no_mangle]
extern "C" fn proxy_increment_metric(id: u32, by: i64) -> u32 {
    host_call("proxy_increment_metric", b"", 12, |worker| {
        done(worker.process.statistics.increment(id, by))
    })
}

#[no_mangle]
extern "C" fn proxy_record_metric(id: u32, value: u64) -> u32 {
    host_call("proxy_record_metric", b"", 12, |worker| {
        done(worker.process.statistics.record(id, value))
    })
}

#[no_mangle]
unsafe extern "C" fn proxy_get_metric(id: u32, value: *mut u64) -> u32 {
    host_call("proxy_get_metric", b"", 4, |worker| {
        let current = worker.process.statistics.read(id)?;
        // SAFETY: the module's variable.
        unsafe { value.write(current) };
        Ok(8)
    })
}

#[no_mangle]
extern "C" fn proxy_done() -> u32 {
    host_call("proxy_done", b"", 0, |_| Ok(0))
}

/// Imports that are only there to link: nothing here has TCP streams, queues, gRPC or foreign functions.
macro_rules! not_offered {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {$(
        #[no_mangle]
        extern "C" fn $name($($argument: $type),*) -> u32 {
            $(let _ = $argument;)*
            host_call(stringify!($name), b"", 0, |_| Err(status::BAD_ARGUMENT))
        }
    )*};
}

not_offered! {
    proxy_get_status(code: *mut u32, data: *mut *mut u8, size: *mut usize);
    proxy_register_shared_queue(name: *const u8, name_size: usize, id: *mut u32);
    proxy_resolve_shared_queue(
        vm: *const u8, vm_size: usize, name: *const u8, name_size: usize, id: *mut u32
    );
    proxy_dequeue_shared_queue(id: u32, data: *mut *mut u8, size: *mut usize);
    proxy_enqueue_shared_queue(id: u32, data: *const u8, size: usize);
    proxy_call_foreign_function(
        name: *const u8, name_size: usize, arguments: *const u8, arguments_size: usize,
        results: *mut *mut u8, results_size: *mut usize
    );
    proxy_grpc_call(
        upstream: *const u8, upstream_size: usize, service: *const u8, service_size: usize,
        method: *const u8, method_size: usize, metadata: *const u8, metadata_size: usize,
        message: *const u8, message_size: usize, timeout: u32, id: *mut u32
    );
    proxy_grpc_stream(
        upstream: *const u8, upstream_size: usize, service: *const u8, service_size: usize,
        method: *const u8, method_size: usize, metadata: *const u8, metadata_size: usize,
        id: *mut u32
    );
    proxy_grpc_send(id: u32, message: *const u8, message_size: usize, end: bool);
    proxy_grpc_cancel(id: u32);
    proxy_grpc_close(id: u32);
}
