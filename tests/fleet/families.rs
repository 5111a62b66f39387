//! Families of scenarios. A seed decides each scenario.

use serde_json::json;

use super::simulation::Scenario;
use super::world::{Spell, Stream, Weather, Word};
use crate::random::Random;

/// A family of scenarios, made from seeds.
pub(crate) struct Family {
    pub(crate) name: &'static str,
    /// The share in percent of the omniscient balancer's requests that it must serve at least.
    pub(crate) least: f64,
    pub(crate) make: fn(&mut Random) -> Scenario,
}

pub(crate) const FAMILIES: [Family; 16] = [
    Family {
        name: "No faults",
        least: 100.0,
        make: well,
    },
    Family {
        name: "Quotas of 10 s used up",
        least: 97.0,
        make: short_quotas,
    },
    Family {
        name: "Quotas of 60 s used up",
        least: 97.0,
        make: long_quotas,
    },
    Family {
        name: "Waits in whole seconds",
        least: 97.0,
        make: whole_seconds,
    },
    Family {
        name: "Waits in whole seconds, ten known clients",
        least: 97.0,
        make: ten_clients,
    },
    Family {
        name: "Waits that are wrong",
        least: 97.0,
        make: lies,
    },
    Family {
        name: "One deployment used up",
        least: 97.0,
        make: one_deployment,
    },
    Family {
        name: "Requests that no quota can take",
        least: 97.0,
        make: poison_throttled,
    },
    Family {
        name: "Requests that no quota can take, known clients",
        least: 99.9,
        make: known_poison,
    },
    Family {
        name: "Requests that every backend fails",
        least: 97.0,
        make: poison_failing,
    },
    Family {
        name: "A backend fails now and then",
        least: 97.0,
        make: blips_of_one,
    },
    Family {
        name: "All backends fail now and then",
        least: 97.0,
        make: blips_of_all,
    },
    Family {
        name: "429 and 500 by chance",
        least: 97.0,
        make: moody,
    },
    Family {
        name: "Answers take long",
        least: 97.0,
        make: long_answers,
    },
    Family {
        name: "A backend is dead, closed or lacks a deployment",
        least: 97.0,
        make: broken,
    },
    Family {
        name: "Everything at once",
        least: 97.0,
        make: storm,
    },
];

const NO_TOKENS: [Vec<(u64, u64)>; 3] = [Vec::new(), Vec::new(), Vec::new()];

fn base(random: &mut Random) -> Scenario {
    Scenario {
        backends: random.from(2..6) as usize,
        workers: [1, 2, 4][random.below(3) as usize],
        quotas: NO_TOKENS,
        length: 120_000,
        ..Scenario::default()
    }
}

/// Chats, embeddings and small chats, on paths of the dated and the v1 API.
fn mix(random: &mut Random, per_second: f64, length: u64) -> Vec<Stream> {
    let chat = Stream {
        takes: 100..15_000,
        ..Stream::new(per_second * 0.5, length)
    };
    let embed = Stream {
        deployment: 1,
        tokens: 100..4000,
        takes: 20..200,
        ..Stream::new(per_second * 0.4, length)
    };
    let mini = Stream {
        deployment: 2,
        v1: random.one_in(2),
        announced: !random.one_in(4),
        ..Stream::new(per_second * 0.1, length)
    };
    vec![chat, embed, mini]
}

fn well(random: &mut Random) -> Scenario {
    let base = base(random);
    Scenario {
        shares: (0..base.backends)
            .map(|_| (random.from(1..6), random.below(2)))
            .collect(),
        streams: mix(random, 100.0, base.length),
        ..base
    }
}

/// Chats that ask for somewhat more tokens than the quotas have, or somewhat less.
fn used_up(random: &mut Random, span: u64, word: Word) -> Scenario {
    let base = base(random);
    let length = 10 * span.max(12_000);
    let per_second = random.from(20..60) as f64;
    let tokens = 1000.0 * per_second * span as f64 / 1000.0;
    let percent = random.from(60..130) as f64;
    let limit = tokens * percent / 100.0 / base.backends as f64;
    let mut quotas = NO_TOKENS;
    quotas[0] = vec![(span, limit as u64)];
    let chat = Stream {
        announced: !random.one_in(4),
        ..Stream::new(per_second, length)
    };
    Scenario {
        quotas,
        word,
        length,
        streams: vec![chat],
        ..base
    }
}

fn short_quotas(random: &mut Random) -> Scenario {
    used_up(random, 10_000, Word::Exact)
}

fn long_quotas(random: &mut Random) -> Scenario {
    used_up(random, 60_000, Word::Exact)
}

fn whole_seconds(random: &mut Random) -> Scenario {
    let span = [10_000, 60_000][random.below(2) as usize];
    used_up(random, span, Word::Seconds)
}

fn ten_clients(random: &mut Random) -> Scenario {
    let mut scenario = whole_seconds(random);
    for stream in &mut scenario.streams {
        stream.clients = 1..11;
    }
    scenario
}

fn lies(random: &mut Random) -> Scenario {
    const LIES: [Word; 5] = [
        Word::Nothing,
        Word::Zero,
        Word::ADay,
        Word::TenTimes,
        Word::Any,
    ];
    let span = [10_000, 60_000][random.below(2) as usize];
    let word = LIES[random.below(5) as usize];
    used_up(random, span, word)
}

fn one_deployment(random: &mut Random) -> Scenario {
    let base = base(random);
    let mut quotas = NO_TOKENS;
    let per_backend = 40.0 * 2000.0 / base.backends as f64;
    quotas[1] = vec![
        (10_000, (per_backend * 10.0 * 0.5) as u64),
        (60_000, (per_backend * 60.0 * 0.4) as u64),
    ];
    Scenario {
        quotas,
        streams: mix(random, 100.0, base.length),
        ..base
    }
}

fn poisoned(random: &mut Random, poison: Stream) -> Scenario {
    let mut base = base(random);
    if random.one_in(4) {
        base.backends = 1;
    }
    let good = Stream::new(10.0, base.length);
    Scenario {
        streams: vec![good, poison],
        ..base
    }
}

fn poison_throttled(random: &mut Random) -> Scenario {
    let size = [500..1500, 90_000..100_000][random.below(2) as usize].clone();
    let poison = Stream {
        kind: super::world::Kind::Poison(429),
        tokens: size,
        announced: !random.one_in(3),
        ..Stream::new(random.from(2..20) as f64, 120_000)
    };
    poisoned(random, poison)
}

fn known_poison(random: &mut Random) -> Scenario {
    let mut scenario = poison_throttled(random);
    for (stream, client) in scenario.streams.iter_mut().zip(1..) {
        stream.clients = client..client + 1;
    }
    scenario
}

fn poison_failing(random: &mut Random) -> Scenario {
    let poison = Stream {
        kind: super::world::Kind::Poison(500),
        takes: 10..2000,
        ..Stream::new(random.from(2..20) as f64, 120_000)
    };
    poisoned(random, poison)
}

/// Periods at random times that do not overlap, `length` in all.
fn spells(
    random: &mut Random,
    length: u64,
    backend: Option<usize>,
    calm: u64,
    mut weather: impl FnMut(&mut Random) -> (Weather, u64),
) -> Vec<Spell> {
    let mut spells = Vec::new();
    let mut at = random.from(1..calm);
    while at < length {
        let (weather, lasts) = weather(random);
        let during = at..at + random.from(200..lasts);
        at = during.end + random.from(1..2 * calm);
        spells.push(Spell {
            during,
            backend,
            weather,
        });
    }
    spells
}

fn blips_of_one(random: &mut Random) -> Scenario {
    let base = base(random);
    let streams = mix(random, 40.0, base.length);
    let which = random.below(base.backends as u64) as usize;
    Scenario {
        spells: spells(random, base.length, Some(which), 10_000, |random| {
            (Weather::Status(503, random.from(5..1000)), 5000)
        }),
        streams,
        ..base
    }
}

fn blips_of_all(random: &mut Random) -> Scenario {
    let base = base(random);
    let streams = mix(random, 40.0, base.length);
    Scenario {
        spells: spells(random, base.length, None, 10_000, |random| {
            (Weather::Status(503, random.from(5..1000)), 5000)
        }),
        streams,
        ..base
    }
}

fn moody(random: &mut Random) -> Scenario {
    let base = base(random);
    let per_second = random.from(5..40) as f64;
    Scenario {
        backends: base.backends.max(3),
        spells: vec![Spell {
            during: 0..base.length,
            backend: None,
            weather: Weather::Moody(30, 7),
        }],
        streams: mix(random, per_second, base.length),
        ..base
    }
}

fn long_answers(random: &mut Random) -> Scenario {
    let base = base(random);
    let chat = Stream {
        takes: 2000..15_000,
        ..Stream::new(10.0, base.length)
    };
    Scenario {
        spells: spells(random, base.length, None, 20_000, |random| {
            match random.below(2) {
                0 => (Weather::Status(503, 5), 3000),
                _ => (Weather::Throttled(random.from(1..5)), 3000),
            }
        }),
        streams: vec![chat],
        ..base
    }
}

fn broken(random: &mut Random) -> Scenario {
    let base = base(random);
    let which = random.below(base.backends as u64) as usize;
    let weather = [
        Weather::Dead,
        Weather::Closed,
        Weather::Locked,
        Weather::Lacks(1),
    ][random.below(4) as usize];
    let from = random.below(60_000);
    Scenario {
        config: json!({"retry": {"per_try_timeout": "3s"}}),
        spells: vec![Spell {
            during: from..base.length,
            backend: Some(which),
            weather,
        }],
        streams: mix(random, 40.0, base.length),
        ..base
    }
}

fn storm(random: &mut Random) -> Scenario {
    let base = base(random);
    let length = 300_000;
    let mut all = Vec::new();
    for backend in 0..base.backends {
        all.extend(spells(random, length, Some(backend), 15_000, |random| {
            let weather = match random.below(8) {
                0 => Weather::Status(503, random.from(5..3000)),
                1 => Weather::Throttled(random.from(0..20)),
                2 => Weather::ThrottledFor(1, random.from(0..20)),
                3 => Weather::Moody(30, 7),
                4 => Weather::Dead,
                5 => Weather::Closed,
                6 => Weather::Locked,
                _ => Weather::Lacks(random.below(3) as usize),
            };
            (weather, 10_000)
        }));
    }
    let per_backend = 20.0 * 2000.0 / base.backends as f64;
    let mut quotas = NO_TOKENS;
    quotas[1] = vec![(10_000, (per_backend * 10.0 * 0.8) as u64)];
    Scenario {
        config: json!({"retry": {"per_try_timeout": "3s"}, "cooldown": {"misconfigured": "15s"}}),
        spells: all,
        quotas,
        word: Word::Any,
        streams: mix(random, 50.0, length),
        leaving: Some(50),
        crashes: (0..3).map(|_| random.below(length)).collect(),
        set_back: Some((random.below(length), random.from(1..7_200_000))),

        length,
        ..base
    }
}
