//! The records that workers share: any bytes can be read and used, and a written record is read back unchanged.

use std::time::Duration;

use azure_openai_balancer::core::budget::Budget;
use azure_openai_balancer::core::config::{Config, Plugin};
use azure_openai_balancer::core::demand::Demand;
use azure_openai_balancer::core::health::{Blame, Finding, Health, Seen};
use azure_openai_balancer::core::identity::{Before, Failure, Record};
use azure_openai_balancer::core::time::Timestamp;
use azure_openai_balancer::core::turns::Turns;

use super::choice;

const FINDINGS: [Finding; 6] = [
    Finding::Served,
    Finding::Answered,
    Finding::Throttled(None, Blame::First),
    Finding::Throttled(Some(Duration::MAX), Blame::First),
    Finding::Failed(u32::MAX, Blame::First),
    Finding::Denied,
];

pub(crate) fn check(input: &[u8]) {
    let choice = choice(input);
    let config = config();
    for now in [0, 1_700_000_000_000, choice, u64::MAX].map(Timestamp::from_millis) {
        check_health(input, &config, choice, now);
        check_token(input, now);
        if let Some(mut budget) = Budget::decode(Some(input)) {
            assert_eq!(Budget::decode(Some(&budget.encode())), Some(budget));
            let rules = config.retry.budget.expect("the default");
            budget.withdraw(&rules, choice, now);
            assert_eq!(Budget::decode(Some(&budget.encode())), Some(budget));
        }
    }
    let turns = Turns::decode(Some(input));
    for turns in [turns, turns.after_draw(), turns.after_change(7)] {
        assert_eq!(Turns::decode(Some(&turns.encode())), turns);
    }
}

fn config() -> Config {
    let json = br#"{"backends": [{"name": "a", "cluster": "a", "host": "a.example"}], "identity": {"cluster": "imds"}}"#;
    match Plugin::from_bytes(json, &|_| None) {
        Ok(Plugin::Balancer(config)) => *config,
        other => panic!("{other:?}"),
    }
}

fn check_health(input: &[u8], config: &Config, choice: u64, now: Timestamp) {
    let mut health = Health::decode(Some(input));
    written_and_read(&health, now);
    let demand = Demand::default();
    health.trouble(now);
    health.quotas(now).for_each(drop);
    health.standing(&demand, now);
    health.lacks(&demand, now);
    if health.admits(&demand, now) {
        assert!(health.admit(&demand, now), "admits, and does not admit");
        written_and_read(&health, now);
    }
    health.claim_trial(&demand, now);
    health.ask(&demand, now);
    health.admit_token(7, now);
    health.note_service(now);
    health.count_successes(u32::MAX, now);
    written_and_read(&health, now);
    for finding in FINDINGS {
        let seen = Seen {
            began: now,
            admitted: choice.is_multiple_of(2),
            ..Seen::default()
        };
        health.learn(finding, &seen, &config.cooldown, choice, now);
        written_and_read(&health, now);
    }
    health.tidy(now);
    written_and_read(&health, now);
}

fn written_and_read(health: &Health, now: Timestamp) {
    let bytes = health.encode();
    let again = Health::decode(Some(&bytes));
    // Foreign bytes may hold values that the core does not write, such as waits without an end. So the records
    // themselves may differ.
    assert_eq!(again.encode(), bytes);
    assert_eq!(again.trouble(now), health.trouble(now));
    let quotas = |health: &Health| health.quotas(now).collect::<Vec<_>>();
    assert_eq!(quotas(&again), quotas(health));
}

fn check_token(input: &[u8], now: Timestamp) {
    let mut record = Record::decode(Some(input));
    let written_and_read = |record: &Record| {
        assert_eq!(&Record::decode(Some(&record.encode())), record);
    };
    written_and_read(&record);
    record.state(now);
    record.token_expected(now);
    record.renewing(now);
    record.claim_fetch(now, Duration::from_secs(5));
    written_and_read(&record);
    let reason = String::new();
    record.failed(
        &Failure::Transient {
            reason,
            retry_after: Some(Duration::MAX),
        },
        now,
    );
    written_and_read(&record);
    let generation = record.token(now).map_or(0, |token| token.generation);
    record.refused(generation, Before::NotRefused, now);
    written_and_read(&record);
}
