//! The tokens that the client's answer reports: where they are looked for, and what they count as.

use core::ops::Range;

use super::Exchange;
use crate::api::Api;
use crate::balancer::Balancer;
use crate::host::Host;
use crate::metrics::Event;
use crate::prelude::*;
use crate::usage::{Tokens, Usage, UsageReader};

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
            && balancer.config.usage
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
        self.tagging.is_some() || self.usage.is_some()
    }

    /// Which bytes of the frame that passes have to be read, where it has so many: [`usize::MAX`] if that is not known.
    pub fn wants_frame(&mut self, size: usize) -> Option<Range<usize>> {
        match (&self.tagging, &mut self.usage) {
            (Some(_), _) => (size > 0).then_some(0..size),
            (None, Some(usage)) => usage.wanted(size),
            (None, None) => None,
        }
    }

    /// Takes the bytes that were wanted of a frame.
    pub fn take_frame(&mut self, bytes: Vec<u8>) {
        let Some(usage) = &mut self.usage else {
            return;
        };
        if self.tagging.is_none() {
            usage.take(bytes);
            return;
        }
        match usage.wanted(bytes.len()) {
            Some(wanted) if wanted.start == 0 => usage.take(bytes),
            Some(wanted) => usage.take(bytes.get(wanted).unwrap_or_default().to_vec()),
            None => {}
        }
    }

    /// The answer is over: counts the tokens that it reports, and gives them for the access log.
    #[inline(never)]
    pub fn end_usage<H: Host>(&mut self, balancer: &Balancer<H>) -> Option<Usage> {
        let usage = self.usage.take()?.finish();
        self.settle_usage(usage.as_ref(), balancer);
        let Some(usage) = usage else {
            balancer.count(Event::UsageUnknown);
            return None;
        };
        for kind in Tokens::ALL {
            balancer.count_tokens(self.answered_by, kind, usage.of(kind));
        }
        if let Some(client) = &self.client {
            balancer.count_client_tokens(client, &usage);
        }
        Some(usage)
    }
}
