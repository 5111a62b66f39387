//! The functions that a module imports: every one that the Rust SDK 0.2.5 names, so that a module links in every profile.
//!
//! `imports!` has their only description. It makes C symbols of them for a module that runs natively, and a table for one that an
//! interpreter runs ([`host_call`]). The functions themselves are methods of `Worker` (`calls.rs`).

use crate::abi::{exports, status};
use crate::calls::Outcome;
use crate::vm::{running, Worker};

/// The memory of a module, where host calls read their arguments and leave their results. Addresses are the module's.
///
/// The methods panic where the module has no such memory.
pub trait Memory {
    /// A copy of what lies there.
    fn read(&self, at: u64, size: u64) -> Vec<u8>;
    /// Writes bytes.
    fn write(&mut self, at: u64, bytes: &[u8]);
    /// Writes an address or a size, in as many bytes as the module has for one.
    fn write_word(&mut self, at: u64, word: u64);
    /// Has the module allocate memory, and returns its address.
    fn allocate(&mut self, size: usize) -> u64;
}

/// A host call: it takes the module's memory and the arguments as plain numbers, and returns a status.
pub type HostCall = fn(&mut dyn Memory, &[u64]) -> u32;

/// The host call of this name.
pub fn host_call(name: &str) -> Option<HostCall> {
    let found = IMPORTS.iter().find(|(known, _)| *known == name);
    found.map(|(_, call)| *call)
}

/// Memory of this process, which a native module shares.
struct Native;

impl Memory for Native {
    fn read(&self, at: u64, size: u64) -> Vec<u8> {
        if size == 0 {
            return Vec::new();
        }
        // SAFETY: the module passes the address and the size of bytes that live during the call.
        unsafe { std::slice::from_raw_parts(at as *const u8, size as usize) }.to_vec()
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        // SAFETY: the module passes the address of a variable, or `allocate` returned it.
        unsafe { (at as *mut u8).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }

    fn write_word(&mut self, at: u64, word: u64) {
        self.write(at, &(word as usize).to_ne_bytes());
    }

    fn allocate(&mut self, size: usize) -> u64 {
        exports::proxy_on_memory_allocate(size) as u64
    }
}

/// A host call under way: the arguments that are not read yet, and what is known of those that are.
struct Invocation<'a> {
    function: &'static str,
    memory: &'a mut dyn Memory,
    numbers: std::slice::Iter<'a, u64>,
    /// The first bytes among the arguments, by which faults are aimed.
    key: Option<Vec<u8>>,
    /// The size of all bytes among the arguments.
    bytes: usize,
    /// The size of the numbers that are values.
    values: usize,
}

/// The kinds of arguments, each read from the next numbers.
impl<'a> Invocation<'a> {
    fn new(function: &'static str, memory: &'a mut dyn Memory, numbers: &'a [u64]) -> Self {
        Self {
            function,
            memory,
            numbers: numbers.iter(),
            key: None,
            bytes: 0,
            values: 0,
        }
    }

    fn number(&mut self) -> u64 {
        let number = self.numbers.next().copied();
        number.unwrap_or_else(|| panic!("{} has more arguments", self.function))
    }

    fn bytes(&mut self) -> Vec<u8> {
        let (at, size) = (self.number(), self.number());
        let bytes = self.memory.read(at, size);
        self.bytes += bytes.len();
        self.key.get_or_insert_with(|| bytes.clone());
        bytes
    }

    /// Says which map, buffer or half is meant.
    fn which(&mut self) -> u32 {
        self.number() as u32
    }

    fn usize(&mut self) -> usize {
        self.number() as usize
    }

    fn u32(&mut self) -> u32 {
        self.values += 4;
        self.number() as u32
    }

    fn i32(&mut self) -> i32 {
        self.u32() as i32
    }

    fn u64(&mut self) -> u64 {
        self.values += 8;
        self.number()
    }

    fn i64(&mut self) -> i64 {
        self.u64() as i64
    }
}

impl Invocation<'_> {
    /// Counts the call and makes it, unless a fault refuses it. The other numbers are the places of the result.
    fn answer<T: Answer>(mut self, act: impl FnOnce(&Worker) -> Outcome<T>) -> u32 {
        let key = self.key.take().unwrap_or_default();
        // Bytes are copied. What a call without any hands over is its numbers.
        let sent = if self.bytes > 0 {
            self.bytes
        } else {
            self.values
        };
        let outcome = running(|worker| {
            let allowed = worker.process.faults.check(self.function, &key);
            let outcome = allowed.and_then(|()| act(worker));
            let received = outcome.as_ref().map_or(0, Answer::size);
            worker.process.counts.add(self.function, sent, received);
            outcome
        });
        match outcome {
            Some(Ok(answer)) => {
                answer.write(&mut self);
                status::OK
            }
            Some(Err(status)) => status,
            // After a failed assertion what is left of the module goes with its thread, outside of any callback. A line that is
            // refused then makes the SDK panic, which would end all tests and hide what the assertion said.
            None if self.function == "proxy_log" => status::OK,
            // Outside of a callback there is no context, as in Envoy.
            None => status::INTERNAL_FAILURE,
        }
    }
}

/// The result of a host call.
trait Answer {
    /// How many bytes the module receives.
    fn size(&self) -> usize;
    /// Writes the result into the module's memory.
    fn write(self, call: &mut Invocation<'_>);
}

impl Answer for () {
    fn size(&self) -> usize {
        0
    }

    fn write(self, _: &mut Invocation<'_>) {}
}

impl Answer for u32 {
    fn size(&self) -> usize {
        4
    }

    fn write(self, call: &mut Invocation<'_>) {
        let at = call.number();
        call.memory.write(at, &self.to_le_bytes());
    }
}

impl Answer for u64 {
    fn size(&self) -> usize {
        8
    }

    fn write(self, call: &mut Invocation<'_>) {
        let at = call.number();
        call.memory.write(at, &self.to_le_bytes());
    }
}

/// Bytes go into memory that the module allocates itself; nothing is allocated for nothing.
impl Answer for Vec<u8> {
    fn size(&self) -> usize {
        self.len()
    }

    fn write(self, call: &mut Invocation<'_>) {
        let mut address = 0;
        if !self.is_empty() {
            running(|worker| worker.process.counts.add("proxy_on_memory_allocate", 0, 0));
            address = call.memory.allocate(self.len());
            call.memory.write(address, &self);
        }
        for word in [address, self.len() as u64] {
            let at = call.number();
            call.memory.write_word(at, word);
        }
    }
}

/// A shared value and the number that compare-and-swap goes by.
impl Answer for (Vec<u8>, u32) {
    fn size(&self) -> usize {
        self.0.len()
    }

    fn write(self, call: &mut Invocation<'_>) {
        self.0.write(call);
        self.1.write(call);
    }
}

/// A C symbol that makes the host call of the same name: `[its parameters so far]`, then the kinds that are left.
macro_rules! symbol {
    ($name:ident [$($parameter:ident: $type:ty,)*]) => {
        #[no_mangle]
        extern "C" fn $name($($parameter: $type),*) -> u32 {
            calls::$name(&mut Native, &[$($parameter as u64),*])
        }
    };
    // Macros are hygienic: these names are others each time.
    ($name:ident [$($done:tt)*] bytes $($rest:ident)*) => {
        symbol!($name [$($done)* data: *const u8, size: usize,] $($rest)*);
    };
    ($name:ident [$($done:tt)*] given $($rest:ident)*) => {
        symbol!($name [$($done)* data: *mut *mut u8, size: *mut usize,] $($rest)*);
    };
    ($name:ident [$($done:tt)*] place $($rest:ident)*) => {
        symbol!($name [$($done)* place: *mut u8,] $($rest)*);
    };
    ($name:ident [$($done:tt)*] which $($rest:ident)*) => {
        symbol!($name [$($done)* which: u32,] $($rest)*);
    };
    ($name:ident [$($done:tt)*] $number:ident $($rest:ident)*) => {
        symbol!($name [$($done)* number: $number,] $($rest)*);
    };
}

/// Arguments have kinds, which are methods of [`Invocation`]. A result is `given` in memory that the module allocates, or written
/// into a `place`.
macro_rules! imports {
    (
        offered: { $($name:ident($($argument:ident: $kind:ident),*) $(-> ($($result:ident),*))?;)* }
        not_offered: { $($other:ident($($other_kind:ident),*);)* }
    ) => {
        mod calls {
            use super::{status, Invocation, Memory};

            $(pub(super) fn $name(memory: &mut dyn Memory, numbers: &[u64]) -> u32 {
                #[allow(unused_mut)]
                let mut call = Invocation::new(stringify!($name), memory, numbers);
                $(let $argument = call.$kind();)*
                call.answer(|worker| worker.$name($($argument),*))
            })*

            $(pub(super) fn $other(memory: &mut dyn Memory, numbers: &[u64]) -> u32 {
                let call = Invocation::new(stringify!($other), memory, numbers);
                call.answer(|_| Err::<(), _>(status::BAD_ARGUMENT))
            })*
        }

        $(symbol!($name [] $($kind)* $($($result)*)?);)*
        $(symbol!($other [] $($other_kind)*);)*

        const IMPORTS: &[(&str, HostCall)] = &[
            $((stringify!($name), calls::$name),)*
            $((stringify!($other), calls::$other),)*
        ];
    };
}

imports! {
    offered: {
        proxy_log(level: u32, text: bytes);
        proxy_get_log_level() -> (place);
        proxy_get_current_time_nanoseconds() -> (place);
        proxy_set_tick_period_milliseconds(period: u32);
        proxy_get_buffer_bytes(buffer: which, start: usize, max_size: usize) -> (given);
        proxy_set_buffer_bytes(buffer: which, start: usize, length: usize, new: bytes);
        proxy_get_header_map_pairs(map: which) -> (given);
        proxy_set_header_map_pairs(map: which, pairs: bytes);
        proxy_get_header_map_value(map: which, key: bytes) -> (given);
        proxy_remove_header_map_value(map: which, key: bytes);
        proxy_replace_header_map_value(map: which, key: bytes, value: bytes);
        proxy_add_header_map_value(map: which, key: bytes, value: bytes);
        proxy_get_property(path: bytes) -> (given);
        proxy_set_property(path: bytes, value: bytes);
        proxy_get_shared_data(key: bytes) -> (given, place);
        proxy_set_shared_data(key: bytes, value: bytes, cas: u32);
        proxy_continue_stream(half: which);
        proxy_close_stream(half: which);
        proxy_send_local_response(status: u32, details: bytes, body: bytes, headers: bytes, grpc_status: i32);
        proxy_http_call(cluster: bytes, headers: bytes, body: bytes, trailers: bytes, timeout: u32) -> (place);
        proxy_set_effective_context(context: u32);
        proxy_define_metric(kind: which, name: bytes) -> (place);
        proxy_increment_metric(id: u32, by: i64);
        proxy_record_metric(id: u32, value: u64);
        proxy_get_metric(id: u32) -> (place);
        proxy_done();
    }
    // There are no TCP streams, queues, gRPC calls and foreign functions here. These are only there to link.
    not_offered: {
        proxy_get_status(place, given);
        proxy_register_shared_queue(bytes, place);
        proxy_resolve_shared_queue(bytes, bytes, place);
        proxy_dequeue_shared_queue(u32, given);
        proxy_enqueue_shared_queue(u32, bytes);
        proxy_call_foreign_function(bytes, bytes, given);
        proxy_grpc_call(bytes, bytes, bytes, bytes, bytes, u32, place);
        proxy_grpc_stream(bytes, bytes, bytes, bytes, place);
        proxy_grpc_send(u32, bytes, u32);
        proxy_grpc_cancel(u32);
        proxy_grpc_close(u32);
    }
}
