//! The tokens that the client's answer reports: where they are looked for, and what they count as.

use core::ops::Range;

use super::Exchange;
use crate::api::Api;
use crate::balancer::{Balancer, Concerned, Measured};
use crate::host::Host;
use crate::metrics::Event;
use crate::pace::{Measure, Pace};
use crate::prelude::*;
use crate::stream_start::Start;
use crate::time::Timestamp;
use crate::usage::{Usage, UsageReader};

/// The status of the answers that report tokens.
const OK: u16 = 200;

impl Exchange {
    /// The client gets the answer at hand: looks for the tokens that it reports, if it may report any.
    pub fn begin_usage<H: Host>(&mut self, balancer: &Balancer<H>) {
        if self.usage.is_none() {
            self.usage = self.usage_reader(self.status, balancer);
        }
    }

    /// The client gets the stream at hand, which began with these bytes. They are yet to pass.
    pub(super) fn begin_usage_after<H: Host>(&mut self, begin: Vec<u8>, balancer: &Balancer<H>) {
        self.usage = self.usage_reader(self.status, balancer);
        if let Some(usage) = &mut self.usage {
            usage.take_before(begin);
        }
    }

    /// The client gets the answer to a call, if it has this status of success.
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

    /// What reads the tokens of an answer with this status, if it may report any.
    fn usage_reader<H: Host>(
        &self,
        status: u16,
        balancer: &Balancer<H>,
    ) -> Option<Box<UsageReader>> {
        let may_report = status == OK
            && balancer.config.usage.is_counted
            && self.request.reports_usage(self.client_path())
            && self.failed_stream().is_none();
        let is_claude = self.request.operation.api == Some(Api::Messages);
        may_report.then(|| match is_claude {
            true => Box::new(UsageReader::with_beginning()),
            false => Box::default(),
        })
    }

    /// Whether the frames of the answer that passes have to be read, or its end matters.
    pub fn reads_answer(&self) -> bool {
        self.usage.is_some() || self.tagging.is_some() || self.stripper.is_some()
    }

    fn changes_frames(&self) -> bool {
        self.tagging.is_some() || self.stripper.is_some()
    }

    /// Whether the tokens may have to be taken out of the answer that passes, if it is an event stream.
    pub fn may_strip<H: Host>(&self, balancer: &Balancer<H>) -> bool {
        self.status == OK && self.asks_usage(self.answered_by, balancer)
    }

    /// Begins to take the tokens out of the answer that passes.
    pub fn begin_stripping(&mut self) {
        self.stripper = Some(Box::default());
    }

    /// What takes the place of the next frame of that answer, if anything; `end` if it is the last.
    pub fn strip(&mut self, chunk: &[u8], end: bool) -> Option<&[u8]> {
        self.stripper.as_mut()?.push(chunk, end)
    }

    /// Which bytes of the frame that passes have to be read, where it has so many: [`usize::MAX`] if that is not known.
    pub fn wants_frame(&mut self, size: usize) -> Option<Range<usize>> {
        match (self.changes_frames(), &mut self.usage) {
            (true, _) => (size > 0).then_some(0..size),
            (false, Some(usage)) => usage.wanted(size),
            (false, None) => None,
        }
    }

    /// Takes the bytes that were wanted of a frame.
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

    /// The client gets the stream that was held for its first content.
    pub(super) fn begin_pace<H: Host>(&mut self, balancer: &Balancer<H>) {
        let start = self.stream.as_ref().map(|stream| stream.start());
        self.pace = match (&self.usage, start) {
            (Some(_), Some(Start::Content)) => Pace::Since(balancer.host().now()),
            (Some(_), Some(Start::Undecided)) => Pace::Late,
            _ => Pace::Unknown,
        };
    }

    /// A frame of the answer passes: it has the first content, if the stream passed before it came.
    pub fn note_frame<H: Host>(&mut self, balancer: &Balancer<H>) {
        if self.pace != Pace::Late {
            return;
        }
        let usage = self.usage.as_ref();
        if usage.is_none_or(|usage| usage.has_seen_begin()) {
            self.pace = Pace::Since(balancer.host().now());
        }
    }

    /// Whether it has to be known when the client's request began, now that its answer is over.
    pub fn wants_begin(&self) -> bool {
        self.usage.is_some() && matches!(self.pace, Pace::Since(_))
    }

    /// The client's request began then, and its answer is over: writes down when the content began to come.
    pub fn note_begin<H: Host>(&mut self, began: Timestamp, balancer: &Balancer<H>) {
        // What other attempts took is not this backend's.
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

    /// The answer is over: counts the tokens that it reports, and gives them for the access log.
    pub fn end_usage<H: Host>(&mut self, balancer: &Balancer<H>) -> Option<Usage> {
        let usage = self.count_usage(Event::UsageUnknown, balancer)?;
        self.measure_rate(&usage, balancer);
        Some(usage)
    }

    /// The answer broke off, or its client left: counts the tokens that it has reported by then. None are guessed.
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
        let concerned = Concerned {
            backend: self.answered_by,
            quota: self.request.demand().quota,
            deployment: name.as_deref(),
            client: self.client.as_deref(),
        };
        balancer.count_usage(&usage, cost, &concerned);
        Some(usage)
    }
}
