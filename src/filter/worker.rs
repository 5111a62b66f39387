//! State that all streams of one configuration on one worker thread share: the [balancer](Balancer), ticks, statistics
//! and calls.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::envoy::Envoy;
use super::host::{self, Buffer, HostError, Map};
use super::place::Request;
use crate::core::balancer::{Agenda, Awaited, Balancer, Began, Silences, WaitResult, NOW};
use crate::core::config::Config;
use crate::core::identity::{Answer, Call, Keeper};
use crate::core::metrics::Event;
use crate::core::statistics::{Change, Statistics};
use crate::core::swap::SwapError;
use crate::core::text::number;
use crate::core::time::Timestamp;

/// A stream's interface to its worker. While these methods run, Envoy's effective context is the stream's.
pub(super) trait Stream {
    /// The stream's wait is over: what it waited for is there, or will not come.
    fn wait_ended(&self, result: WaitResult);

    /// A call got its answer. The stream made the call while the root context was running.
    fn call_answered(&self, call: u32);
}

/// One configuration's state on one worker thread.
pub(crate) struct Worker {
    root_id: u32,
    pub(crate) balancer: Balancer<Envoy>,
    /// Borrowed for one step at a time and never while a stream's method runs, since the stream may call the worker
    /// again.
    mutable: RefCell<Mutable>,
}

/// The mutable part of a [`Worker`], beside its balancer.
struct Mutable {
    agenda: Agenda<Rc<dyn Stream>>,
    silences: Silences<Request>,
    /// One keeper for each identity.
    keepers: Vec<Keeper<Envoy>>,
    statistics: Statistics,
    metrics: Metrics,
}

impl Worker {
    /// Starts the worker. Its first tick comes almost at once.
    #[inline(never)]
    pub(super) fn start(root_id: u32, config: Config) -> Result<Self, HostError> {
        let (statistics, definitions) = Statistics::new(&config);
        let mut metrics = Metrics::default();
        for definition in definitions {
            metrics.change(definition)?;
        }
        host::set_tick_period(NOW)?;
        let balancer = Balancer::new(Envoy, config, host::entropy())?;
        let identities = balancer.config.identities.iter().cloned();
        let keepers = identities.zip(balancer.credentials.stores());
        let mutable = Mutable {
            agenda: Agenda::default(),
            silences: Silences::default(),
            keepers: keepers.map(|(it, store)| Keeper::new(it, store)).collect(),
            statistics,
            metrics,
        };
        Ok(Self {
            root_id,
            balancer,
            mutable: RefCell::new(mutable),
        })
    }

    /// Puts the stream on the waiting list. `false` if the stream cannot wait.
    pub(super) fn wait(&self, id: u32, stream: Rc<dyn Stream>, awaited: Awaited) -> bool {
        let now = host::now();
        let mut mutable = self.mutable.borrow_mut();
        let began = (mutable.agenda).wait(id, stream, awaited, &self.balancer, now);
        drop(mutable);
        if began == Began::NeedsTick {
            // The timer belongs to the effective root context, which behind the router is the upstream filter's.
            report(host::in_context(self.root_id, id, || tick_after(NOW)));
        }
        began != Began::Refused
    }

    /// Removes the stream from the waiting list.
    pub(super) fn forget(&self, id: u32) {
        self.mutable.borrow_mut().agenda.forget(id);
    }

    /// Limits the silences of the request's answer, which has begun, to `longest`.
    pub(super) fn watch(&self, request: Rc<Request>, longest: Duration) {
        let (id, now) = (request.id, host::now());
        (self.mutable.borrow_mut().silences).watch(id, request, longest, now);
    }

    /// Ends the silence limit of the request's answer.
    pub(super) fn unwatch(&self, id: u32) {
        self.mutable.borrow_mut().silences.forget(id);
    }

    fn end_silences(&self, now: Timestamp) {
        let silent = self.mutable.borrow_mut().silences.take_silent(now);
        for request in silent {
            self.as_stream(request.id, || request.silent());
        }
    }

    /// Registers the stream's call. The SDK passes the answer of a call made in a root context's callback to that root,
    /// which forwards it.
    pub(super) fn call_made(&self, call: u32, id: u32, stream: Rc<dyn Stream>) {
        (self.mutable.borrow_mut().agenda).call_made(call, id, stream);
    }

    /// Drops the answer of an ended stream's call. Envoy cannot cancel the call; its timeout ends it.
    pub(super) fn disown_call(&self, call: u32) {
        self.mutable.borrow_mut().agenda.take_call(call);
    }

    /// Does the periodic work. Returns whether it read the backends' health, which it does once a second.
    #[inline(never)]
    pub(super) fn on_tick(&self) -> bool {
        let now = host::now();
        self.balancer.credentials.look(now);
        for index in 0..self.balancer.config.identities.len() {
            let call = self.keeper(index, |keeper, count| keeper.keep_fresh(now, count));
            self.fetch(index, call.flatten(), now);
        }
        self.end_waits(now);
        let is_full = self.mutable.borrow_mut().agenda.is_full_tick(now);
        if is_full {
            self.balancer.fleet.on_tick(now);
            self.balancer.admit_tokens(now);
            self.end_silences(now);
            self.report_statistics(now);
        }
        let mut mutable = self.mutable.borrow_mut();
        tick_after(mutable.agenda.next_tick(&self.balancer, now));
        is_full
    }

    fn end_waits(&self, now: Timestamp) {
        let mut mutable = self.mutable.borrow_mut();
        let ended = mutable.agenda.take_ended(&self.balancer, now);
        drop(mutable);
        for (id, stream, result) in ended {
            self.as_stream(id, || {
                stream.wait_ended(result);
                Ok(())
            });
        }
    }

    /// Runs `act` for the stream `id` from a callback of the root context.
    pub(super) fn as_stream(&self, id: u32, act: impl FnOnce() -> Result<(), HostError>) {
        let set_running = |runs| self.mutable.borrow_mut().agenda.set_root_running(runs);
        set_running(true);
        report(host::in_context(id, self.root_id, || report(act())));
        set_running(false);
    }

    /// Handles the answer to a call that a root context's callback made: one for a token, or one of a stream's.
    pub(super) fn on_call_response(&self, call: u32) {
        let taken = self.mutable.borrow_mut().agenda.take_call(call);
        if let Some((id, stream)) = taken {
            return self.as_stream(id, || {
                stream.call_answered(call);
                Ok(())
            });
        }
        let now = host::now();
        self.balancer.credentials.look(now);
        if let Err(error) = self.token_answered(call, now) {
            log::error!("identity: {error}");
        }
        self.balancer.admit_tokens(now);
        self.end_waits(now);
    }

    fn token_answered(&self, call: u32, now: Timestamp) -> Result<(), HostError> {
        const LARGEST_ANSWER: usize = 64 * 1024;
        let mut keepers = 0..self.balancer.config.identities.len();
        let Some(index) = keepers.find(|index| {
            let keepers = &self.mutable.borrow().keepers;
            keepers.get(*index).is_some_and(|it| it.awaits(call))
        }) else {
            return Ok(());
        };
        let headers = host::headers(Map::CallHeaders)?;
        let body = host::buffer(Buffer::CallBody, 0, LARGEST_ANSWER)?;
        let status = headers.get(":status").map(str::as_bytes);
        let answer = Answer {
            status: status.and_then(number),
            retry_after: headers.get("retry-after"),
            body: &body,
        };
        let next = self.keeper(index, |keeper, count| keeper.on_answer(answer, now, count));
        self.fetch(index, next.flatten(), now);
        Ok(())
    }

    /// Makes the next call to get the identity's token, if there is one.
    #[inline(never)]
    fn fetch(&self, identity: usize, call: Option<Call>, now: Timestamp) {
        let Some(call) = call else {
            return;
        };
        let headers = call.headers.iter();
        let headers = headers.map(|(name, value)| (*name, value.as_str()));
        let made = host::call(
            &call.cluster,
            headers.collect(),
            call.body.reveal().as_bytes(),
            Vec::new(),
            call.timeout,
        );
        let made = made.map_err(|error| error.to_string());
        self.keeper(identity, |keeper, count| {
            keeper.called(&call.cluster, made, now, count)
        });
    }

    /// Runs `act` on the keeper of an identity's token, and logs an error of the host. The next tick tries again.
    fn keeper<T>(
        &self,
        identity: usize,
        act: impl FnOnce(&mut Keeper<Envoy>, &dyn Fn(Event)) -> Result<T, SwapError<HostError>>,
    ) -> Option<T> {
        let mut mutable = self.mutable.borrow_mut();
        let count = |event| self.balancer.count(event);
        let result = act(mutable.keepers.get_mut(identity)?, &count);
        let logged = result.map_err(|error| log::error!("identity: {error}"));
        logged.ok()
    }

    /// Reports the statistics to Envoy.
    pub(super) fn report_statistics(&self, now: Timestamp) {
        let mutable = &mut *self.mutable.borrow_mut();
        for change in mutable.statistics.changes(&self.balancer, now) {
            report(mutable.metrics.change(change));
        }
    }
}

/// Envoy's ids of the statistics, by their numbers in [`Statistics`]. `None` if Envoy refused a definition.
#[derive(Default)]
struct Metrics(Vec<Option<u32>>);

impl Metrics {
    #[inline(never)]
    fn change(&mut self, change: Change) -> Result<(), HostError> {
        let id = |number: usize| self.0.get(number).copied().flatten();
        match change {
            Change::Define(kind, name) => {
                let id = host::define_metric(kind, &name);
                self.0.push(id.ok());
                id.map(drop)
            }
            Change::Add(number, count) => {
                id(number).map_or(Ok(()), |id| host::increment_metric(id, count))
            }
            Change::Record(number, value) => {
                id(number).map_or(Ok(()), |id| host::record_metric(id, value))
            }
        }
    }
}

fn tick_after(period: Duration) {
    report(host::set_tick_period(period));
}

/// Logs an error of the host that does not stop the work.
fn report(result: Result<(), HostError>) {
    if let Err(error) = result {
        log::error!("{error}");
    }
}
