//! The host calls themselves, as the worker makes them whose callback runs.

use std::rc::Rc;
use std::time::Duration;

use crate::abi::{buffer, map, status};
use crate::half::Half;
use crate::headers::Headers;
use crate::stream::{Direction, LocalReply, StreamState};
use crate::vm::{next_id, Call, Effect, Worker};

/// The result of a host call, or the status of a refusal.
pub(crate) type Outcome<T = ()> = Result<T, u32>;

/// Each is described in [`crate::imports`].
impl Worker {
    pub(crate) fn proxy_log(&self, level: u32, text: Vec<u8>) -> Outcome {
        self.log(level, &text);
        Ok(())
    }

    /// Everything is wanted.
    pub(crate) fn proxy_get_log_level(&self) -> Outcome<u32> {
        Ok(0)
    }

    pub(crate) fn proxy_get_current_time_nanoseconds(&self) -> Outcome<u64> {
        Ok(self.process.clock())
    }

    pub(crate) fn proxy_set_tick_period_milliseconds(&self, period: u32) -> Outcome {
        // Each root context has a timer of its own.
        if let Some(root) = self.acting_root() {
            root.set_period(Duration::from_millis(period.into()));
        }
        Ok(())
    }

    pub(crate) fn proxy_get_buffer_bytes(
        &self,
        kind: u32,
        start: usize,
        max_size: usize,
    ) -> Outcome<Vec<u8>> {
        read_buffer(self, kind, |buffer| {
            let rest = buffer.get(start..).ok_or(status::BAD_ARGUMENT)?;
            Ok(rest[..rest.len().min(max_size)].to_vec())
        })
    }

    pub(crate) fn proxy_set_buffer_bytes(
        &self,
        kind: u32,
        start: usize,
        length: usize,
        new: Vec<u8>,
    ) -> Outcome {
        let direction = match kind {
            buffer::REQUEST_BODY => Direction::Request,
            buffer::RESPONSE_BODY => Direction::Response,
            _ => return Err(status::BAD_ARGUMENT),
        };
        let stream = stream(self)?;
        let mut half = stream.half(direction);
        set_body(&mut half, start, length, new)
    }

    /// A map that is not there has no pairs.
    pub(crate) fn proxy_get_header_map_pairs(&self, kind: u32) -> Outcome<Vec<u8>> {
        Ok(read_map(self, kind, Headers::encode).unwrap_or_default())
    }

    pub(crate) fn proxy_set_header_map_pairs(&self, kind: u32, pairs: Vec<u8>) -> Outcome {
        change_map(self, kind, |map| *map = Headers::decode(&pairs))
    }

    pub(crate) fn proxy_get_header_map_value(&self, kind: u32, key: Vec<u8>) -> Outcome<Vec<u8>> {
        let name = String::from_utf8_lossy(&key);
        let value = read_map(self, kind, |map| map.first(&name).map(<[u8]>::to_vec));
        value.ok_or(status::BAD_ARGUMENT)?.ok_or(status::NOT_FOUND)
    }

    pub(crate) fn proxy_remove_header_map_value(&self, kind: u32, key: Vec<u8>) -> Outcome {
        let name = String::from_utf8_lossy(&key);
        change_map(self, kind, |map| map.remove(&name))
    }

    pub(crate) fn proxy_replace_header_map_value(
        &self,
        kind: u32,
        key: Vec<u8>,
        value: Vec<u8>,
    ) -> Outcome {
        let name = String::from_utf8_lossy(&key);
        change_map(self, kind, |map| map.replace(&name, &value))
    }

    pub(crate) fn proxy_add_header_map_value(
        &self,
        kind: u32,
        key: Vec<u8>,
        value: Vec<u8>,
    ) -> Outcome {
        let name = String::from_utf8_lossy(&key);
        change_map(self, kind, |map| map.add(name, value))
    }

    pub(crate) fn proxy_get_property(&self, path: Vec<u8>) -> Outcome<Vec<u8>> {
        let stream = self.acting_stream();
        let value = stream.and_then(|stream| stream.property(&path));
        value
            .or_else(|| self.property(&path))
            .ok_or(status::NOT_FOUND)
    }

    pub(crate) fn proxy_set_property(&self, path: Vec<u8>, value: Vec<u8>) -> Outcome {
        let stream = self.acting_stream().ok_or(status::NOT_FOUND)?;
        stream.filter_state.borrow_mut().insert(path, value);
        Ok(())
    }

    pub(crate) fn proxy_get_shared_data(&self, key: Vec<u8>) -> Outcome<(Vec<u8>, u32)> {
        self.process.shared.get(&key).ok_or(status::NOT_FOUND)
    }

    pub(crate) fn proxy_set_shared_data(&self, key: Vec<u8>, value: Vec<u8>, cas: u32) -> Outcome {
        self.process.shared.set(&key, &value, cas)
    }

    pub(crate) fn proxy_continue_stream(&self, half: u32) -> Outcome {
        let direction = match half {
            0 => Direction::Request,
            1 => Direction::Response,
            _ => return Err(status::BAD_ARGUMENT),
        };
        if let Some(stream) = self.acting_stream() {
            // Whichever half it is, Envoy forgets the request's maps.
            stream.half(Direction::Request).headers_open = false;
            self.effects
                .borrow_mut()
                .push(Effect::Resume(stream.id, direction));
        }
        Ok(())
    }

    pub(crate) fn proxy_close_stream(&self, half: u32) -> Outcome {
        if half > 1 {
            return Err(status::BAD_ARGUMENT);
        }
        if let Some(stream) = self.acting_stream() {
            self.effects.borrow_mut().push(Effect::Close(stream.id));
        }
        Ok(())
    }

    pub(crate) fn proxy_send_local_response(
        &self,
        status: u32,
        details: Vec<u8>,
        body: Vec<u8>,
        headers: Vec<u8>,
        _grpc_status: i32,
    ) -> Outcome {
        // Envoy stops the iteration of the callback that is running, whichever stream is answered.
        self.iteration_stopped.set(true);
        if let Some(stream) = self.acting_stream() {
            let reply = LocalReply {
                status,
                details: String::from_utf8_lossy(&details).replace(' ', "_"),
                headers: Headers::decode(&headers),
                body,
            };
            self.effects
                .borrow_mut()
                .push(Effect::Reply(stream.id, reply));
        }
        Ok(())
    }

    pub(crate) fn proxy_http_call(
        &self,
        cluster: Vec<u8>,
        headers: Vec<u8>,
        body: Vec<u8>,
        trailers: Vec<u8>,
        timeout: u32,
    ) -> Outcome<u32> {
        self.make_call(Call {
            number: next_id(),
            cluster: String::from_utf8_lossy(&cluster).into_owned(),
            headers: Headers::decode(&headers),
            body,
            trailers: Headers::decode(&trailers),
            timeout: Duration::from_millis(timeout.into()),
            context: self.acting(),
        })
    }

    pub(crate) fn proxy_set_effective_context(&self, context: u32) -> Outcome {
        if !self.knows(context) {
            return Err(status::BAD_ARGUMENT);
        }
        self.effective.set(context);
        Ok(())
    }

    pub(crate) fn proxy_define_metric(&self, kind: u32, name: Vec<u8>) -> Outcome<u32> {
        let name = String::from_utf8_lossy(&name);
        self.process.statistics.define(kind, &name)
    }

    pub(crate) fn proxy_increment_metric(&self, id: u32, by: i64) -> Outcome {
        self.process.statistics.increment(id, by)
    }

    pub(crate) fn proxy_record_metric(&self, id: u32, value: u64) -> Outcome {
        self.process.statistics.record(id, value)
    }

    pub(crate) fn proxy_get_metric(&self, id: u32) -> Outcome<u64> {
        self.process.statistics.read(id)
    }

    pub(crate) fn proxy_done(&self) -> Outcome {
        Ok(())
    }
}

fn stream(worker: &Worker) -> Outcome<Rc<StreamState>> {
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

/// Envoy prepends, replaces or appends, nothing else.
fn set_body(half: &mut Half, start: usize, length: usize, new: Vec<u8>) -> Outcome {
    let body = half.body_mut();
    match (start, length) {
        (0, 0) => drop(body.splice(..0, new)),
        (0, length) if length >= body.len() => *body = new,
        (start, _) if start >= body.len() => body.extend(new),
        _ => return Err(status::BAD_ARGUMENT),
    }
    Ok(())
}
