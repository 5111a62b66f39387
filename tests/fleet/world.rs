//! The simulated backends: their quotas, and their faults over time.

use std::collections::VecDeque;
use std::ops::Range;

/// A limit of tokens in a sliding window.
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

    /// The number of tokens left.
    pub(crate) fn left(&mut self, now: u64) -> u64 {
        self.forget(now);
        self.limit - self.sum
    }

    fn charge(&mut self, now: u64, tokens: u64) {
        self.used.push_back((now, tokens));
        self.sum += tokens;
    }

    /// The time until this many tokens are free; a whole window if never.
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
    /// Takes the request, or returns the wait until it could be taken.
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

    /// The smallest share that is left of any limit, in thousandths.
    pub(crate) fn share_left(&mut self, now: u64) -> u64 {
        let shares = self
            .0
            .iter_mut()
            .map(|quota| quota.left(now) * 1000 / quota.limit.max(1));
        shares.min().unwrap_or(1000)
    }
}

/// The wait that a throttled backend states.
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

/// A fault of a backend for some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    Fair,
    /// This status, after this many milliseconds.
    Status(u16, u64),
    /// 429 with a wait of this many seconds, whatever the quota.
    Throttled(u64),
    /// 429 with the wait until this time.
    Until(u64),
    /// At random: this many percent 429 with a second to wait, and this many percent 500.
    Moody(u64, u64),
    /// No answer.
    Dead,
    /// 401 to every token.
    Locked,
    /// 403: a role is missing.
    Closed,
    /// It does not have the deployment with this number.
    Lacks(usize),
    /// 429 with a wait of this many seconds, for the deployment with this number.
    ThrottledFor(usize, u64),
}

/// A fault, at one backend or at all, and its time.
#[derive(Clone, Debug)]
pub(crate) struct Spell {
    pub(crate) during: Range<u64>,
    pub(crate) backend: Option<usize>,
    pub(crate) weather: Weather,
}

/// One backend.
#[derive(Clone, Debug)]
pub(crate) struct Backend {
    /// The quotas by deployment.
    pub(crate) quotas: Vec<Quotas>,
    /// The faults, in the order of their ends.
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

/// The cause of a backend's answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The backend's quota and faults.
    Good,
    /// The request itself: every backend answers with this status, 429 or 500.
    Poison(u16),
}

/// Requests of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    /// The milliseconds between two requests, on average.
    pub(crate) every: f64,
    pub(crate) during: Range<u64>,
    /// The requests come at exact intervals, not at random.
    pub(crate) regular: bool,
    pub(crate) deployment: usize,
    /// The body names the deployment.
    pub(crate) v1: bool,
    /// The request announces the length of its body.
    pub(crate) announced: bool,
    pub(crate) tokens: Range<u64>,
    /// The milliseconds until the status of a success.
    pub(crate) takes: Range<u64>,
    pub(crate) kind: Kind,
    /// The numbers of the clients that send them; 0 is a client without a name.
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
