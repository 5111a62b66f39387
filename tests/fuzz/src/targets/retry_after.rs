//! The wait that an answer states, against plain arithmetic. The input's lines are headers, `name: value`.

use std::time::Duration;

use azure_openai_balancer::core::retry_after::{stated_wait, wait_in_words};
use azure_openai_balancer::core::time::Timestamp;

use super::choice;

const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

pub(crate) fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let headers: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .collect();
    let find = |wanted: &str| {
        headers
            .iter()
            .find(|(name, _)| *name == wanted)
            .map(|(_, v)| *v)
    };
    let now = Timestamp::from_millis(choice(input));
    for now in [
        NOW,
        now,
        Timestamp::default(),
        Timestamp::from_millis(u64::MAX),
    ] {
        stated_wait(find, now);
    }
    for (_, value) in &headers {
        check_value(value);
    }
    assert_ne!(wait_in_words(&text), Some(Duration::ZERO));
    check_date(choice(input));
}

fn check_value(value: &str) {
    let of = |name: &str| stated_wait(|wanted| (wanted == name).then_some(value), NOW);
    let seconds = wait(value.trim(), 1_000_000_000);
    assert_eq!(of("retry-after-ms"), wait(value.trim(), 1_000_000));
    assert_eq!(of("x-ms-retry-after-ms"), wait(value.trim(), 1_000_000));
    if let Some(seconds) = seconds {
        assert_eq!(of("retry-after"), Some(seconds));
        let reset = of("x-ratelimit-reset-tokens");
        assert_eq!(reset, Some(seconds).filter(|wait| !wait.is_zero()));
    }
}

/// A decimal number of units, each of this many nanoseconds, in milliseconds, rounded up; at most 584 years.
fn wait(text: &str, unit: u128) -> Option<Duration> {
    const DIGITS: usize = 20;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(fraction) || whole.len() + fraction.len() == 0 {
        return None;
    }
    let whole = match whole.trim_start_matches('0') {
        "" => 0,
        digits if digits.len() > DIGITS => u128::from(u64::MAX),
        digits => digits.parse().ok()?,
    };
    let (first, rest) = fraction.split_at(fraction.len().min(DIGITS));
    let first: u128 = format!("{first:0<DIGITS$}").parse().ok()?;
    let scale = 10_u128.pow(DIGITS as u32);
    let is_more = !(first * unit).is_multiple_of(scale) || rest.bytes().any(|digit| digit != b'0');
    let nanos = whole * unit + first * unit / scale + u128::from(is_more);
    let nanos = nanos.min(u128::from(u64::MAX));
    Some(Duration::from_millis(nanos.div_ceil(1_000_000) as u64))
}

/// A date of this century in each of HTTP's three forms.
fn check_date(choice: u64) {
    const MONTHS: [(&str, u64); 12] = [
        ("Jan", 31),
        ("Feb", 28),
        ("Mar", 31),
        ("Apr", 30),
        ("May", 31),
        ("Jun", 30),
        ("Jul", 31),
        ("Aug", 31),
        ("Sep", 30),
        ("Oct", 31),
        ("Nov", 30),
        ("Dec", 31),
    ];
    let seconds = NOW.as_millis() / 1000 + choice % (40 * 365 * 86_400);
    let (mut days, of_day) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let days_of = |year| if is_leap(year) { 366 } else { 365 };
    while days >= days_of(year) {
        days -= days_of(year);
        year += 1;
    }
    let mut month = 0;
    let days_in = |month: usize| MONTHS[month].1 + u64::from(month == 1 && is_leap(year));
    while days >= days_in(month) {
        days -= days_in(month);
        month += 1;
    }
    let (day, month, short) = (days + 1, MONTHS[month].0, year % 100);
    let time = format!(
        "{:02}:{:02}:{:02}",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    );
    for date in [
        format!("Sun, {day:02} {month} {year} {time} GMT"),
        format!("Sunday, {day:02}-{month}-{short:02} {time} GMT"),
        format!("Sun {month} {day:2} {time} {year}"),
    ] {
        let stated = stated_wait(|name| (name == "retry-after").then_some(&*date), NOW);
        let expected = Duration::from_secs(seconds - NOW.as_millis() / 1000);
        assert_eq!(stated, Some(expected), "{date}");
    }
}
