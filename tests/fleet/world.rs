//! The backends: their quotas, and what they do for a while.

use std::collections::VecDeque;
use std::ops::Range;

/// A limit of tokens in any span of time.
#[derive(Clone, Debug)]
pub(crate) struct Quota {
    pub(crate) span: u64,
    pub(crate) limit: u64,
    used: VecDeque<(u64, u64)>,
    sum: u64,
}

impl Quota {
    pub(crate) fn new(span: u64, limit: u64) -> Self {
        Self {
            span,
            limit,
            used: VecDeque::new(),
            sum: 0,
        }
    }

    fn forget(&mut self, now: u64) {
        while let Some((at, tokens)) = self.used.front().copied() {
            if at + self.span > now {
                break;
            }
            self.used.pop_front();
            self.sum -= tokens;
        }
    }

    /// How many tokens are left.
    pub(crate) fn left(&mut self, now: u64) -> u64 {
        self.forget(now);
        self.limit - self.sum
    }

    fn charge(&mut self, now: u64, tokens: u64) {
        self.used.push_back((now, tokens));
        self.sum += tokens;
    }

    /// When so many tokens will be there; a whole span if never.
    fn wait(&mut self, now: u64, tokens: u64) -> u64 {
        self.forget(now);
        if tokens > self.limit {
            return self.span;
        }
        let mut left = self.limit - self.sum;
        for (at, freed) in &self.used {
            if left >= tokens {
                break;
            }
            left += freed;
            if left >= tokens {
                return at + self.span - now;
            }
        }
        0
    }
}

/// All limits of one deployment on one backend.
#[derive(Clone, Debug, Default)]
pub(crate) struct Quotas(pub(crate) Vec<Quota>);

impl Quotas {
    /// Whether the request is taken; otherwise the wait until it would be.
    pub(crate) fn ask(&mut self, now: u64, tokens: u64) -> Result<(), u64> {
        if self.has_room(now, tokens) {
            for quota in &mut self.0 {
                quota.charge(now, tokens);
            }
            return Ok(());
        }
        let waits = self.0.iter_mut().map(|quota| quota.wait(now, tokens));
        Err(waits.max().unwrap_or_default().max(1))
    }

    pub(crate) fn has_room(&mut self, now: u64, tokens: u64) -> bool {
        self.0.iter_mut().all(|quota| quota.left(now) >= tokens)
    }

    /// The smallest share of any limit that is left, in thousandths.
    pub(crate) fn share_left(&mut self, now: u64) -> u64 {
        let shares = self
            .0
            .iter_mut()
            .map(|quota| quota.left(now) * 1000 / quota.limit.max(1));
        shares.min().unwrap_or(1000)
    }
}

/// What a throttled backend says of its wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The truth, in milliseconds.
    Exact,
    /// The truth, in whole seconds.
    Seconds,
    Nothing,
    Zero,
    /// `retry-after: 86400`.
    ADay,
    /// Ten times the truth.
    TenTimes,
    /// One of these, by chance.
    Any,
}

/// What a backend does for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    Fair,
    /// This status, after so many milliseconds.
    Status(u16, u64),
    /// 429 with so many seconds, whatever the quota.
    Throttled(u64),
    /// 429 with the time until then.
    Until(u64),
    /// By chance: so many percent 429 with a second, so many percent 500.
    Moody(u64, u64),
    /// No answer.
    Dead,
    /// 401 to every token.
    Locked,
    /// 403: a role is missing.
    Closed,
    /// It does not have the deployment with this number.
    Lacks(usize),
    /// 429 with so many seconds for the deployment with this number.
    ThrottledFor(usize, u64),
}

/// Some weather at a backend, or at all.
#[derive(Clone, Debug)]
pub(crate) struct Spell {
    pub(crate) during: Range<u64>,
    pub(crate) backend: Option<usize>,
    pub(crate) weather: Weather,
}

/// One backend.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    /// By deployment.
    pub(crate) quotas: Vec<Quotas>,
    /// In the order of their ends.
    spells: VecDeque<(Range<u64>, Weather)>,
}

impl Backend {
    pub(crate) fn new(quotas: Vec<Quotas>, index: usize, spells: &[Spell]) -> Self {
        let own = spells
            .iter()
            .filter(|spell| spell.backend.is_none_or(|backend| backend == index));
        let mut spells: Vec<_> = own
            .map(|spell| (spell.during.clone(), spell.weather))
            .collect();
        spells.sort_by_key(|(during, _)| during.end);
        Self {
            quotas,
            spells: spells.into(),
        }
    }

    pub(crate) fn weather(&mut self, now: u64) -> Weather {
        while self
            .spells
            .front()
            .is_some_and(|(during, _)| during.end <= now)
        {
            self.spells.pop_front();
        }
        let current = self.spells.iter().find(|(during, _)| during.start <= now);
        current.map_or(Weather::Fair, |(_, weather)| *weather)
    }
}

/// Why every backend answers a request so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// By its quota and its weather.
    Good,
    /// This status, whatever the backend: 429 or 500.
    Poison(u16),
}

/// Requests of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    /// Milliseconds between two, on average.
    pub(crate) every: f64,
    pub(crate) during: Range<u64>,
    /// Exactly so often, not by chance.
    pub(crate) regular: bool,
    pub(crate) deployment: usize,
    /// Names the deployment in its body.
    pub(crate) v1: bool,
    /// The client says how long the body is.
    pub(crate) announced: bool,
    pub(crate) tokens: Range<u64>,
    /// Milliseconds until the status of a success.
    pub(crate) takes: Range<u64>,
    pub(crate) kind: Kind,
    /// The numbers of the clients that send them; 0 is one whose name is not known.
    pub(crate) clients: Range<u32>,
}

impl Stream {
    pub(crate) fn new(per_second: f64, until: u64) -> Self {
        Self {
            every: 1000.0 / per_second,
            during: 0..until,
            regular: false,
            deployment: 0,
            v1: false,
            announced: true,
            tokens: 500..1500,
            takes: 100..1500,
            kind: Kind::Good,
            clients: 0..1,
        }
    }
}
