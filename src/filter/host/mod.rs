//! The host calls. No other file but `abi.rs` names them.
//!
//! The SDK's wrappers panic on every status they do not expect, and a panic ends all streams of the worker. The
//! functions here return a [`HostError`] instead. Only `dispatch_http_call` goes through the SDK, because the SDK's
//! dispatcher must know the call.
#![allow(unsafe_code)]

mod abi;

use std::cell::Cell;
use std::fmt;
use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::types::Status;

use crate::core::header_map::HeaderMap;
use crate::core::statistics::Kind;
use crate::core::time::{millis, Timestamp};

const OK: u32 = Status::Ok as u32;
const NOT_FOUND: u32 = Status::NotFound as u32;
const CAS_MISMATCH: u32 = Status::CasMismatch as u32;

/// A host call that Envoy refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostError {
    call: &'static str,
    status: u32,
}

impl HostError {
    /// There is no backend to call. The module reports this error, not Envoy.
    pub(super) const NO_BACKEND: Self = Self {
        call: "a call to no backend",
        status: u32::MAX,
    };

    /// Another worker changed the shared value before each attempt to store it.
    pub(super) const CONFLICT: Self = Self {
        call: "set_shared_data",
        status: CAS_MISMATCH,
    };

    /// Whether Envoy rejected an argument, such as the name of a cluster.
    pub(crate) fn is_bad_argument(self) -> bool {
        self.status == Status::BadArgument as u32
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Envoy refused {} with status {}", self.call, self.status)
    }
}

type Result<T> = std::result::Result<T, HostError>;

/// A header map of the current context.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum Map {
    RequestHeaders = 0,
    RequestTrailers = 1,
    ResponseHeaders = 2,
    CallHeaders = 6,
}

/// A buffer of the current context.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum Buffer {
    RequestBody = 0,
    ResponseBody = 1,
    CallBody = 4,
    PluginConfiguration = 7,
}

/// A half of a stream.
#[derive(Clone, Copy, Debug)]
#[repr(u32)]
pub(crate) enum Half {
    Request = 0,
    Response = 1,
}

fn check(call: &'static str, status: u32) -> Result<()> {
    match status {
        OK => Ok(()),
        status => Err(HostError { call, status }),
    }
}

/// Takes ownership of the bytes that `get` makes the host allocate in the module's memory. `None` if the host has no
/// value.
fn bytes(
    call: &'static str,
    get: impl FnOnce(*mut *mut u8, *mut usize) -> u32,
) -> Result<Option<Vec<u8>>> {
    let mut data = std::ptr::null_mut();
    let mut size = 0;
    match get(&mut data, &mut size) {
        OK if data.is_null() => Ok(Some(Vec::new())),
        // SAFETY: the host allocated exactly `size` bytes through the SDK's `proxy_on_memory_allocate`, and hands over
        // their ownership. That function leaks a boxed slice of that size from the global allocator.
        OK => Ok(Some(unsafe { Vec::from_raw_parts(data, size, size) })),
        NOT_FOUND => Ok(None),
        status => Err(HostError { call, status }),
    }
}

/// The time on Envoy's clock.
pub(crate) fn now() -> Timestamp {
    let mut nanos = 0;
    // SAFETY: the host writes one u64. The call cannot fail. If it did, the epoch would make every token look valid and
    // every wait overdue, which ends the wait.
    unsafe { abi::proxy_get_current_time_nanoseconds(&mut nanos) };
    Timestamp::from_millis(nanos / 1_000_000)
}

/// A number that differs between Envoys: the nanoseconds of its clock.
pub(crate) fn entropy() -> u64 {
    let mut nanos = 0;
    // SAFETY: the host writes one u64. The call cannot fail, and any number serves.
    unsafe { abi::proxy_get_current_time_nanoseconds(&mut nanos) };
    nanos
}

/// Sets how often the root context ticks.
pub(crate) fn set_tick_period(period: Duration) -> Result<()> {
    let millis = u32::try_from(millis(period)).unwrap_or(u32::MAX);
    // SAFETY: no pointers.
    check("set_tick_period", unsafe {
        abi::proxy_set_tick_period_milliseconds(millis)
    })
}

/// Up to `max_size` bytes of a buffer from `start` on. Empty without such a buffer.
pub(crate) fn buffer(buffer: Buffer, start: usize, max_size: usize) -> Result<Vec<u8>> {
    let found = bytes("get_buffer", |data, size| {
        // SAFETY: `data` and `size` are valid for writes.
        unsafe { abi::proxy_get_buffer_bytes(buffer as u32, start, max_size, data, size) }
    })?;
    Ok(found.unwrap_or_default())
}

/// Replaces the content of a buffer. Envoy can replace all of it or add at either end.
pub(crate) fn replace_buffer(buffer: Buffer, bytes: &[u8]) -> Result<()> {
    // SAFETY: `bytes` is valid for reads.
    check("set_buffer", unsafe {
        abi::proxy_set_buffer_bytes(buffer as u32, 0, usize::MAX, bytes.as_ptr(), bytes.len())
    })
}

/// A whole header map.
pub(crate) fn headers(map: Map) -> Result<HeaderMap> {
    let found = bytes("get_header_map_pairs", |data, size| {
        // SAFETY: `data` and `size` are valid for writes.
        unsafe { abi::proxy_get_header_map_pairs(map as u32, data, size) }
    })?;
    Ok(HeaderMap::new(found.unwrap_or_default()))
}

/// Replaces all headers of a map.
pub(crate) fn replace_headers(map: Map, headers: &[(&[u8], &[u8])]) -> Result<()> {
    let headers = HeaderMap::encode(headers);
    // SAFETY: `headers` is valid for reads.
    check("set_header_map_pairs", unsafe {
        abi::proxy_set_header_map_pairs(map as u32, headers.as_ptr(), headers.len())
    })
}

/// The value of a header.
pub(crate) fn header(map: Map, name: &str) -> Result<Option<Vec<u8>>> {
    bytes("get_header_map_value", |data, size| {
        // SAFETY: `name` is valid for reads, `data` and `size` for writes.
        unsafe {
            abi::proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), data, size)
        }
    })
}

/// Sets a header, and replaces its values.
pub(crate) fn set_header(map: Map, name: &str, value: &str) -> Result<()> {
    // SAFETY: `name` and `value` are valid for reads.
    check("replace_header_map_value", unsafe {
        abi::proxy_replace_header_map_value(
            map as u32,
            name.as_ptr(),
            name.len(),
            value.as_ptr(),
            value.len(),
        )
    })
}

/// Removes a header with all its values.
pub(crate) fn remove_header(map: Map, name: &str) -> Result<()> {
    // SAFETY: `name` is valid for reads.
    check("remove_header_map_value", unsafe {
        abi::proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len())
    })
}

/// A property of the current context. Zero bytes separate the parts of its path.
pub(crate) fn property(path: &str) -> Result<Option<Vec<u8>>> {
    bytes("get_property", |data, size| {
        // SAFETY: `path` is valid for reads, `data` and `size` for writes.
        unsafe { abi::proxy_get_property(path.as_ptr(), path.len(), data, size) }
    })
}

/// Sets a property of the current stream. Envoy's filter state names it `wasm.NAME`.
pub(crate) fn set_property(name: &str, value: &[u8]) -> Result<()> {
    // SAFETY: `name` and `value` are valid for reads.
    check("set_property", unsafe {
        abi::proxy_set_property(name.as_ptr(), name.len(), value.as_ptr(), value.len())
    })
}

/// A shared value and its compare-and-swap number.
pub(super) fn shared(key: &str) -> Result<(Option<Vec<u8>>, u32)> {
    let mut cas = 0;
    let current = bytes("get_shared_data", |data, size| {
        // SAFETY: `key` is valid for reads, the rest for writes.
        unsafe { abi::proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &mut cas) }
    })?;
    Ok((current, cas))
}

/// Stores a shared value. `false` if its compare-and-swap number has changed.
pub(super) fn set_shared(key: &str, value: &[u8], cas: u32) -> Result<bool> {
    // SAFETY: `key` and `value` are valid for reads.
    let status = unsafe {
        abi::proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas)
    };
    match status {
        CAS_MISMATCH => Ok(false),
        status => check("set_shared_data", status).map(|()| {
            CHANGES.set(CHANGES.get().wrapping_add(1));
            true
        }),
    }
}

thread_local! {
    static CHANGES: Cell<u32> = const { Cell::new(0) };
}

/// The number of shared values that this VM has stored.
pub(super) fn shared_changes() -> u32 {
    CHANGES.get()
}

/// Resumes a paused half of the current stream.
pub(crate) fn resume(half: Half) -> Result<()> {
    // SAFETY: no pointers.
    check("continue_stream", unsafe {
        abi::proxy_continue_stream(half as u32)
    })
}

/// Resets the current stream, whose answer has begun. Envoy does so once the callback has returned.
pub(crate) fn reset_stream() -> Result<()> {
    // SAFETY: no pointers.
    check("close_stream", unsafe {
        abi::proxy_close_stream(Half::Response as u32)
    })
}

/// Answers the current stream. Envoy's access log has `details` as `%RESPONSE_CODE_DETAILS%`.
#[inline(never)]
pub(crate) fn send_local_response(
    status: u16,
    details: &str,
    headers: &[(&[u8], &[u8])],
    body: &[u8],
) -> Result<()> {
    let headers = HeaderMap::encode(headers);
    const NO_GRPC: i32 = -1;
    // SAFETY: all slices are valid for reads.
    check("send_local_response", unsafe {
        abi::proxy_send_local_response(
            u32::from(status),
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            NO_GRPC,
        )
    })
}

/// Sends a request of the filter's own. The context whose callback is running gets the answer, under the returned
/// number. The SDK's function panics on any status but the two that Envoy's source returns here.
///
/// # Errors
/// Envoy has no such cluster, or could not send the request.
pub(crate) fn call(
    cluster: &str,
    headers: Vec<(&str, &str)>,
    body: &[u8],
    trailers: Vec<(&str, &str)>,
    timeout: Duration,
) -> Result<u32> {
    let body = (!body.is_empty()).then_some(body);
    hostcalls::dispatch_http_call(cluster, headers, body, trailers, timeout).map_err(|status| {
        HostError {
            call: "http_call",
            status: status as u32,
        }
    })
}

/// Runs `act` as if in a callback of `context`, then makes `back` the current context again.
pub(crate) fn in_context<T>(context: u32, back: u32, act: impl FnOnce() -> T) -> Result<T> {
    // SAFETY: no pointers.
    check("set_effective_context", unsafe {
        abi::proxy_set_effective_context(context)
    })?;
    let result = act();
    // SAFETY: no pointers.
    check("set_effective_context", unsafe {
        abi::proxy_set_effective_context(back)
    })?;
    Ok(result)
}

/// Defines a statistic and returns its id.
pub(crate) fn define_metric(kind: Kind, name: &str) -> Result<u32> {
    let kind = match kind {
        Kind::Counter => 0,
        Kind::Gauge => 1,
        Kind::Histogram => 2,
    };
    let mut id = 0;
    // SAFETY: `name` is valid for reads, `id` for writes.
    let status = unsafe { abi::proxy_define_metric(kind, name.as_ptr(), name.len(), &mut id) };
    check("define_metric", status).map(|()| id)
}

/// Adds to a counter.
pub(crate) fn increment_metric(id: u32, by: u64) -> Result<()> {
    let by = i64::try_from(by).unwrap_or(i64::MAX);
    // SAFETY: no pointers.
    check("increment_metric", unsafe {
        abi::proxy_increment_metric(id, by)
    })
}

/// Sets a gauge, or records a value of a histogram.
pub(crate) fn record_metric(id: u32, value: u64) -> Result<()> {
    // SAFETY: no pointers.
    check("record_metric", unsafe {
        abi::proxy_record_metric(id, value)
    })
}
