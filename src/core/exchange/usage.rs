//! The tokens that the client's answer reports: where they are read, and how they are counted.

use core::ops::Range;

use super::Exchange;
use crate::balancer::{Balancer, Measured, UsageOwners};
use crate::host::Host;
use crate::metrics::Event;
use crate::pace::{Measure, Pace};
use crate::prelude::*;
use crate::stream_start::Start;
use crate::time::Timestamp;
use crate::usage::{Usage, UsageReader};

/// The status of answers that report tokens.
const OK: u16 = 200;

impl Exchange {
    /// Begins to read the tokens of the current answer, if it may report any.
    pub fn begin_usage<H: Host>(&mut self, balancer: &Balancer<H>) {
        if self.usage.is_none() {
            self.usage = self.usage_reader(self.status, balancer);
        }
    }

    /// Begins to read the tokens of the held stream, which began with the bytes `begin`. They have yet to pass.
    pub(super) fn begin_usage_after<H: Host>(&mut self, begin: Vec<u8>, balancer: &Balancer<H>) {
        self.usage = self.usage_reader(self.status, balancer);
        if let Some(usage) = &mut self.usage {
            usage.take_before(begin);
        }
    }

    /// Reads the tokens of the answer to a call, if its `status` is a success.
    pub(super) fn begin_usage_of<H: Host>(
        &mut self,
        status: u16,
        body: &[u8],
        balancer: &Balancer<H>,
    ) {
        self.usage = self.usage_reader(status, balancer);
        if let Some(usage) = &mut self.usage {
            self.answered_by = self.attempts.backend();
            usage.take_whole(body);
        }
    }

    /// The reader of the tokens in an answer with this status, if it may report any.
    fn usage_reader<H: Host>(
        &self,
        status: u16,
        balancer: &Balancer<H>,
    ) -> Option<Box<UsageReader>> {
        let may_report = status == OK
            && balancer.config.usage.is_counted
            && self.request.reports_usage(self.client_path())
            && self.failed_stream().is_none();
        may_report.then(Box::default)
    }

    /// Whether the driver must read the passing answer's frames, or note its end.
    pub fn reads_answer(&self) -> bool {
        self.usage.is_some() || self.tagging.is_some() || self.stripper.is_some()
    }

    fn changes_frames(&self) -> bool {
        self.tagging.is_some() || self.stripper.is_some()
    }

    /// Whether tokens may have to be removed from the passing answer, if it is an event stream.
    pub fn may_strip<H: Host>(&self, balancer: &Balancer<H>) -> bool {
        self.status == OK && self.requests_usage(self.answered_by, balancer)
    }

    /// Begins to remove the tokens from the passing answer.
    pub fn begin_stripping(&mut self) {
        self.stripper = Some(Box::default());
    }

    /// The replacement of the answer's next frame. `None` if it stays unchanged. `end` marks the last frame.
    pub fn strip(&mut self, chunk: &[u8], end: bool) -> Option<&[u8]> {
        self.stripper.as_mut()?.push(chunk, end)
    }

    /// The bytes of a passing frame that the driver must read. `size` is the frame's length, or [`usize::MAX`] if
    /// unknown.
    pub fn wants_frame(&mut self, size: usize) -> Option<Range<usize>> {
        match (self.changes_frames(), &mut self.usage) {
            (true, _) => (size > 0).then_some(0..size),
            (false, Some(usage)) => usage.wanted(size),
            (false, None) => None,
        }
    }

    /// Reads the requested bytes of a frame.
    pub fn take_frame(&mut self, bytes: Vec<u8>) {
        let Some(usage) = &mut self.usage else {
            return;
        };
        if self.tagging.is_none() && self.stripper.is_none() {
            usage.take(bytes);
            return;
        }
        match usage.wanted(bytes.len()) {
            Some(wanted) if wanted.start == 0 => usage.take(bytes),
            Some(wanted) => usage.take(bytes.get(wanted).unwrap_or_default().to_vec()),
            None => {}
        }
    }

    /// Begins to measure the speed of a stream that was held for its first content.
    pub(super) fn begin_pace<H: Host>(&mut self, balancer: &Balancer<H>) {
        let start = self.stream.as_ref().map(|stream| stream.start());
        self.pace = match (&self.usage, start) {
            (Some(_), Some(Start::Content)) => Pace::Since(balancer.host().now()),
            (Some(_), Some(Start::Undecided)) => Pace::Late,
            _ => Pace::Unknown,
        };
    }

    /// Notes a frame of the passing answer. If the stream passed before its first content, this frame has it.
    pub fn note_frame<H: Host>(&mut self, balancer: &Balancer<H>) {
        if self.pace != Pace::Late {
            return;
        }
        let usage = self.usage.as_ref();
        if usage.is_none_or(|usage| usage.has_seen_begin()) {
            self.pace = Pace::Since(balancer.host().now());
        }
    }

    /// Whether the driver must read the start time of the client's request, at the end of the answer.
    pub fn wants_begin(&self) -> bool {
        self.usage.is_some() && matches!(self.pace, Pace::Since(_))
    }

    /// Records the time to the first content of a request that began at `began`.
    pub fn note_begin<H: Host>(&mut self, began: Timestamp, balancer: &Balancer<H>) {
        // The time of earlier attempts is not this backend's.
        let value = self.pace.first_content(began);
        if let (Some(value), 1) = (value, self.attempts.made()) {
            balancer.measure(Measured {
                backend: self.answered_by,
                measure: Measure::FirstContent,
                value,
            });
        }
    }

    fn measure_rate<H: Host>(&self, usage: &Usage, balancer: &Balancer<H>) {
        let rate = match (self.pace, usage.completion) {
            (Pace::Since(_), Some(tokens)) => {
                self.pace.tokens_per_second(tokens, balancer.host().now())
            }
            _ => None,
        };
        if let Some(value) = rate {
            balancer.measure(Measured {
                backend: self.answered_by,
                measure: Measure::TokensPerSecond,
                value,
            });
        }
    }

    /// Ends the client's answer: counts its tokens and returns them for the access log.
    pub fn end_usage<H: Host>(&mut self, balancer: &Balancer<H>) -> Option<Usage> {
        let usage = self.count_usage(Event::UsageUnknown, balancer)?;
        self.measure_rate(&usage, balancer);
        Some(usage)
    }

    /// Counts the tokens that a broken answer has reported so far. Missing ones are not estimated.
    pub(super) fn cut_usage<H: Host>(&mut self, balancer: &Balancer<H>) {
        let _ = self.count_usage(Event::UsageCut, balancer);
    }

    #[inline(never)]
    fn count_usage<H: Host>(&mut self, otherwise: Event, balancer: &Balancer<H>) -> Option<Usage> {
        self.learn_from_stream_end(balancer);
        let usage = self.usage.take()?.finish();
        self.settle_usage(usage.as_ref(), balancer);
        let Some(usage) = usage else {
            balancer.count(otherwise);
            return None;
        };
        let name = self.request.deployment_name(self.client_path());
        let prices = &balancer.config.usage.prices;
        let price = name.as_ref().and_then(|name| prices.of(name));
        let cost = price.and_then(|price| price.of(&usage));
        if cost.is_none() && !prices.is_empty() {
            balancer.count(Event::UsageUnpriced);
        }
        let owners = UsageOwners {
            backend: self.answered_by,
            quota: self.request.demand().quota,
            deployment: name.as_deref(),
            client: self.client.as_deref(),
        };
        balancer.count_usage(&usage, cost, &owners);
        Some(usage)
    }
}
