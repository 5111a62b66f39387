//! Bodies of answers: whole, paced, or broken off.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream as Pieces};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use hyper::http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::sleep;

use crate::behaviour::{SlowBody, Stream};
use crate::server::{Break, Connection};

/// The time that written bytes need to reach the client before a break.
const FLUSH: Duration = Duration::from_millis(5);
/// The time between the two halves of a split frame.
const SPLIT: Duration = Duration::from_millis(1);

/// The body was broken off on purpose.
#[derive(Debug)]
pub(crate) struct BrokenOff;

impl fmt::Display for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken off as told")
    }
}

impl std::error::Error for BrokenOff {}

/// Counts an answer as in progress while it lives.
pub(crate) struct OpenAnswer(Arc<AtomicUsize>);

impl OpenAnswer {
    pub(crate) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for OpenAnswer {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// The body of an answer.
pub(crate) struct Body {
    kind: Kind,
    open: Option<OpenAnswer>,
}

enum Kind {
    Whole(Option<Bytes>),
    Pieces {
        pieces: Pin<Box<dyn Pieces<Item = Piece> + Send>>,
        length: Option<u64>,
    },
}

type Piece = Result<Frame<Bytes>, BrokenOff>;

impl Body {
    pub(crate) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self {
            kind: Kind::Whole(Some(bytes.into()).filter(|bytes| !bytes.is_empty())),
            open: None,
        }
    }

    /// An event stream of these frames.
    pub(crate) fn events(
        frames: Vec<Bytes>,
        pace: Stream,
        connection: Arc<Connection>,
        http2: bool,
    ) -> Self {
        let paced = Paced {
            frames: frames.into(),
            rest: None,
            sent: 0,
            pace,
            breaker: Breaker { connection, http2 },
        };
        let pieces = stream::unfold(paced, |mut paced| async move {
            Some((paced.next().await?, paced))
        });
        Self::pieces(pieces, None)
    }

    /// A plain body in pieces.
    pub(crate) fn slow(
        bytes: Bytes,
        slow: SlowBody,
        connection: Arc<Connection>,
        http2: bool,
    ) -> Self {
        let has_length = !slow.chunked && !slow.endless;
        let length = has_length.then_some(bytes.len() as u64);
        let slow = Slow {
            all: bytes.clone(),
            bytes,
            sent: 0,
            slow,
            breaker: Breaker { connection, http2 },
        };
        let pieces = stream::unfold(
            slow,
            |mut slow| async move { Some((slow.next().await?, slow)) },
        );
        Self::pieces(pieces, length)
    }

    /// `length` meaningless bytes.
    pub(crate) fn filler(length: u64) -> Self {
        static FILLER: [u8; 64 * 1024] = [b'.'; 64 * 1024];
        let pieces = stream::unfold(length, |left| async move {
            let size = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(FILLER.len());
            let piece = Bytes::from_static(&FILLER[..size]);
            (size > 0).then(|| (Ok(Frame::data(piece)), left - size as u64))
        });
        Self::pieces(pieces, Some(length))
    }

    fn pieces(pieces: impl Pieces<Item = Piece> + Send + 'static, length: Option<u64>) -> Self {
        Self {
            kind: Kind::Pieces {
                pieces: Box::pin(pieces),
                length,
            },
            open: None,
        }
    }

    /// The body, counted as open until it is sent or dropped.
    pub(crate) fn counted(mut self, open: OpenAnswer) -> Self {
        self.open = Some(open);
        self
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Piece>> {
        match &mut self.kind {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Pieces { pieces, length } => {
                let piece = pieces.as_mut().poll_next(cx);
                if let (Poll::Ready(Some(Ok(frame))), Some(length)) = (&piece, length) {
                    let sent = frame.data_ref().map_or(0, Bytes::len);
                    *length = length.saturating_sub(sent as u64);
                }
                piece
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole(bytes) => bytes.is_none(),
            Kind::Pieces { length, .. } => *length == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Kind::Pieces { length, .. } => {
                length.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}

struct Breaker {
    connection: Arc<Connection>,
    http2: bool,
}

impl Breaker {
    /// Breaks the answer off after the written bytes have left.
    async fn break_off(&self, how: Break) -> Piece {
        sleep(FLUSH).await;
        if self.http2 && how == Break::Close {
            return Err(BrokenOff);
        }
        match self.connection.cut(how).await {}
    }
}

struct Paced {
    frames: VecDeque<Bytes>,
    rest: Option<Bytes>,
    sent: u32,
    pace: Stream,
    breaker: Breaker,
}

impl Paced {
    async fn next(&mut self) -> Option<Piece> {
        if let Some(rest) = self.rest.take() {
            sleep(SPLIT).await;
            return Some(Ok(Frame::data(rest)));
        }
        if self.pace.break_after == Some(self.sent) {
            return Some(self.breaker.break_off(self.pace.how).await);
        }
        let Some(mut frame) = self.frames.pop_front() else {
            let trailers = self.pace.trailers.take()?;
            return Some(Ok(Frame::trailers(header_map(&trailers))));
        };
        let pause = match self.sent {
            0 => self.pace.first_event_delay_ms,
            _ => self.pace.interval_ms,
        };
        if pause > 0 {
            sleep(Duration::from_millis(pause)).await;
        }
        self.sent += 1;
        if self.pace.split_frames {
            self.rest = Some(frame.split_off(splitting_point(&frame)));
        }
        Some(Ok(Frame::data(frame)))
    }
}

/// A place inside the first character of several bytes, or else the middle.
fn splitting_point(frame: &[u8]) -> usize {
    let continued = frame.iter().position(|byte| byte & 0xc0 == 0x80);
    continued.unwrap_or(frame.len() / 2)
}

fn header_map(headers: &[(String, String)]) -> HeaderMap {
    headers
        .iter()
        .filter_map(|(name, value)| {
            let name: HeaderName = name.parse().ok()?;
            Some((name, HeaderValue::from_str(value).ok()?))
        })
        .collect()
}

struct Slow {
    all: Bytes,
    /// The remaining bytes.
    bytes: Bytes,
    sent: usize,
    slow: SlowBody,
    breaker: Breaker,
}

impl Slow {
    async fn next(&mut self) -> Option<Piece> {
        if self.bytes.is_empty() && self.slow.endless {
            self.bytes = self.all.clone();
        }
        let left = match self.slow.break_after {
            Some(end) => end.saturating_sub(self.sent),
            None => self.bytes.len(),
        };
        if left == 0 && self.slow.break_after.is_some() {
            return Some(self.breaker.break_off(self.slow.how).await);
        }
        if self.bytes.is_empty() {
            return None;
        }
        if self.slow.interval_ms > 0 {
            sleep(Duration::from_millis(self.slow.interval_ms)).await;
        }
        let size = self.slow.piece.max(1).min(left).min(self.bytes.len());
        self.sent += size;
        Some(Ok(Frame::data(self.bytes.split_to(size))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_split_inside_a_character() {
        let frame = "data: naïve".as_bytes();
        let (first, _) = frame.split_at(splitting_point(frame));
        assert!(std::str::from_utf8(first).is_err());
        assert_eq!(splitting_point(b"data"), 2);
    }
}
