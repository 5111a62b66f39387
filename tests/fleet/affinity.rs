//! The value of affinity: how many tokens of prompts come from a cache. Conversations send prompts that share their
//! beginnings, and backends cache what they have read.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use azure_openai_balancer::core::affinity::Key;
use azure_openai_balancer::core::config::{Config, Plugin};
use azure_openai_balancer::core::outcome::Outcome;
use azure_openai_balancer::core::request::Request;
use azure_openai_balancer::core::state::ids::Tags;
use serde_json::{json, Value};

use super::driver::{Journey, Process, Step};
use super::results::PAGE;
use super::world::{Quota, Quotas};
use crate::random::Random;

const BACKENDS: usize = 4;
const WORKERS: u64 = 2;
const CONVERSATIONS: u64 = 1000;
const TURNS: u64 = 20;
/// All conversations begin within this time in milliseconds.
const WITHIN: u64 = 3_600_000;
/// Azure forgets a cached prompt that was not used for five to ten minutes.
///
/// Source: <https://learn.microsoft.com/azure/ai-services/openai/how-to/prompt-caching>
const FORGOTTEN_AFTER: u64 = 300_000;
/// The tokens of a conversation's first prompt, and the tokens that each turn adds.
const FIRST: u64 = 2000;
const ADDED: u64 = 500;

/// The distribution of keys.
#[derive(Clone, Copy, PartialEq)]
enum Keys {
    /// No conversation has a key.
    None,
    /// Each conversation has its own key.
    Own,
    /// A third of the conversations share one key, and all others have their own.
    Popular,
}

#[derive(Default)]
struct Result {
    tokens: u64,
    cached: u64,
    attempts: [u64; BACKENDS],
    throttled: u64,
    lost: u64,
}

impl Result {
    fn cached_share(&self) -> f64 {
        self.cached as f64 / self.tokens as f64
    }

    /// The largest share of the attempts that one backend has, as a multiple of its fair share.
    fn largest_share(&self) -> f64 {
        let all: u64 = self.attempts.iter().sum();
        let most = self.attempts.iter().max().unwrap();
        (most * BACKENDS as u64) as f64 / all as f64
    }
}

fn config(more: Value) -> Config {
    let backends: Vec<_> = (0..BACKENDS)
        .map(|index| {
            let name = format!("backend-{index}");
            json!({"name": name, "cluster": name, "host": format!("{name}.openai.azure.com")})
        })
        .collect();
    let mut config = json!({"backends": backends, "identity": {"cluster": "imds"}});
    for (field, value) in more.as_object().unwrap() {
        config[field] = value.clone();
    }
    match Plugin::from_bytes(config.to_string().as_bytes(), &|_| None) {
        Ok(Plugin::Balancer(config)) => *config,
        other => panic!("{other:?}"),
    }
}

/// A conversation's turn that is due.
type Due = Reverse<(u64, u64, u64)>;

fn run(seed: u64, keys: Keys, limit: u64) -> Result {
    let more = match keys {
        Keys::None => json!({}),
        Keys::Own | Keys::Popular => json!({"affinity": {"by": "prompt_cache_key"}}),
    };
    let process = Process::new(config(more), seed);
    let workers: Vec<_> = (0..WORKERS).map(|_| process.worker()).collect();
    let mut quotas = vec![Quotas(vec![Quota::new(60_000, limit)]); BACKENDS];
    let mut caches = vec![HashMap::<u64, (u64, u64)>::new(); BACKENDS];
    let mut random = Random(seed);
    let mut due: BinaryHeap<Due> = (0..CONVERSATIONS)
        .map(|conversation| Reverse((1_000 + random.below(WITHIN), conversation, 0)))
        .collect();
    let mut result = Result::default();
    while let Some(Reverse((now, conversation, turn))) = due.pop() {
        process.clock.set(now);
        let fleet = &workers[random.below(WORKERS) as usize];
        fleet.on_tick(process.clock.now());
        let key = match keys {
            Keys::None => None,
            Keys::Popular if conversation % 3 == 0 => Key::of(b"popular"),
            Keys::Own | Keys::Popular => Key::of(&conversation.to_be_bytes()),
        };
        let headers = [
            (&b":method"[..], &b"POST"[..]),
            (b":path", b"/openai/deployments/gpt-4o/chat/completions"),
        ];
        let mut request = Request::of(headers.into_iter(), &Tags::default());
        request.cache_key = key;
        let prompt = FIRST + ADDED * turn;
        let mut journey = Journey::begin(&process, fleet, request, &None);
        let mut step = journey.first_attempt(&process, fleet);
        result.tokens += prompt;
        loop {
            let Step::Sent(backend, _) = step else {
                result.lost += 1;
                break;
            };
            result.attempts[backend] += 1;
            match quotas[backend].ask(now, prompt) {
                Ok(()) => {
                    let cache = &mut caches[backend];
                    if let Some((tokens, used)) = cache.get(&conversation) {
                        if used + FORGOTTEN_AFTER > now {
                            result.cached += tokens;
                        }
                    }
                    cache.insert(conversation, (prompt, now));
                    journey.conclude(&process, fleet, Outcome::Success, None);
                    break;
                }
                Err(wait) => {
                    result.throttled += 1;
                    let wait = Some(Duration::from_millis(wait));
                    journey.conclude(&process, fleet, Outcome::Throttled, wait);
                    step = journey.after(&process, fleet, Outcome::Throttled);
                }
            }
        }
        if turn + 1 < TURNS {
            let pause = random.from(5_000..90_000);
            due.push(Reverse((now + pause, conversation, turn + 1)));
        }
    }
    result
}

const BEGIN: &str = "<!-- Made by `UPDATE_GOLDEN=1 cargo test --test fleet affinity` -->\n\n";
const END: &str = "\n<!-- End of the table of affinity -->\n";

/// Compares the table with the page, or writes it there if `UPDATE_GOLDEN` is set.
fn check(table: &str) {
    let text = std::fs::read_to_string(PAGE).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (page, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(PAGE, [before, BEGIN, table, END, after].concat()).unwrap();
        return;
    }
    assert_eq!(
        page, table,
        "if that is meant, run `UPDATE_GOLDEN=1 cargo test --test fleet affinity`"
    );
}

#[test]
fn affinity_keeps_the_prompt_caches_warm() {
    const SEED: u64 = 1;
    // Twice, and 1.2 times, the tokens that the conversations ask of each backend on average.
    const AMPLE: u64 = 1_100_000;
    const TIGHT: u64 = 750_000;
    let mut table = "| conversations | quota | cached prompt tokens | largest share of a backend | 429s | lost |\n\
         |---|---|---:|---:|---:|---:|\n"
        .to_owned();
    let mut shares = Vec::new();
    for (quota, limit) in [("ample", AMPLE), ("tight", TIGHT)] {
        for (name, keys) in [
            ("without affinity", Keys::None),
            ("each with a key of its own", Keys::Own),
            ("a third of them with one key", Keys::Popular),
        ] {
            let result = run(SEED, keys, limit);
            table += &format!(
                "| {name} | {quota} | {:.0} % | {:.2} times its fair one | {} | {} |\n",
                100.0 * result.cached_share(),
                result.largest_share(),
                result.throttled,
                result.lost
            );
            // The bound, and the attempts that are always free.
            assert!(result.largest_share() < 1.3, "{}", result.largest_share());
            shares.push(result.cached_share());
        }
    }
    println!("{table}");
    let [without, own, popular, ..] = shares[..] else {
        panic!("{shares:?}");
    };
    assert!(own > without + 0.2 && popular > without + 0.1, "{shares:?}");
    check(&table);
}
