//! The wait that a throttled backend requests, in all of its forms.
//!
//! Azure OpenAI states it in milliseconds, in seconds, or only as the time until a limit is reset. HTTP also allows a
//! date (RFC 9110, sections 10.2.3 and 5.6.7). The reset headers may also have the form of Go's `time.Duration.String`.

use core::time::Duration;

use super::text;
use super::time::Timestamp;

/// The headers with the time until a limit is reset. Both spellings occur.
const RESETS: [&str; 4] = [
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-rate-limit-reset-requests",
    "x-rate-limit-reset-tokens",
];

/// The wait that an answer states, without bounds. `None` without a usable one. `header` returns a header by its name
/// in lower case.
pub fn stated_wait<'a>(
    header: impl Fn(&str) -> Option<&'a str>,
    now: Timestamp,
) -> Option<Duration> {
    let header = |name: &str| header(name).map(str::trim);
    let millis = |name| header(name).and_then(|text| decimal(text, MILLISECOND));
    millis("retry-after-ms")
        .or_else(|| millis("x-ms-retry-after-ms"))
        .or_else(|| header("retry-after").and_then(|text| seconds_or_date(text, now)))
        .or_else(|| {
            let resets = RESETS
                .iter()
                .filter_map(|name| header(name).and_then(reset));
            // A limit that is not used up has 0.
            resets.filter(|wait| !wait.is_zero()).max()
        })
}

/// The wait that an error's message requests, as in `Please try again in 7.66s.` or `Please retry after 20 seconds.`
/// `None` if it requests none.
pub fn wait_in_words(message: &str) -> Option<Duration> {
    let mut phrases = ["try again in ", "retry after "].into_iter();
    let (_, rest) = phrases.find_map(|phrase| message.split_once(phrase))?;
    let mut words = rest.split_ascii_whitespace();
    let amount = words.next()?.trim_end_matches(['.', ',', ')']);
    let unit = words.next().unwrap_or_default();
    let wait = match unit.trim_end_matches(['.', ',', ')']) {
        "second" | "seconds" => decimal(amount, SECOND),
        "millisecond" | "milliseconds" => decimal(amount, MILLISECOND),
        _ => go_duration(amount),
    };
    wait.filter(|wait| !wait.is_zero())
}

fn seconds_or_date(text: &str, now: Timestamp) -> Option<Duration> {
    decimal(text, SECOND).or_else(|| http_date(text, now).map(|date| date.since(now)))
}

fn reset(text: &str) -> Option<Duration> {
    decimal(text, SECOND).or_else(|| go_duration(text))
}

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1000 * MILLISECOND;

/// A decimal number of units of `unit` nanoseconds.
fn decimal(text: &str, unit: u64) -> Option<Duration> {
    nanos(text, unit).map(whole_millis)
}

/// A duration in Go's form: `6m0s`, `1h2m3.5s`, `250ms`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at_checked(unit_at)?;
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.');
        let (unit, next) = after.split_at_checked(unit_end.unwrap_or(after.len()))?;
        let unit = match unit {
            "h" => 3600 * SECOND,
            "m" => 60 * SECOND,
            "s" => SECOND,
            "ms" => MILLISECOND,
            "us" | "µs" | "μs" => 1000,
            "ns" => 1,
            _ => return None,
        };
        total = total.saturating_add(nanos(number, unit)?);
        rest = next;
    }
    (!text.is_empty()).then(|| whole_millis(total))
}

/// A decimal number without a sign or exponent, in units of `unit` nanoseconds. It saturates at 584 years. This avoids
/// `f64`, in which 2.007 s are 2007.0000000000002 ms, which would be rounded up to 2008.
fn nanos(text: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let mut digits = whole.bytes().chain(fraction.bytes());
    if text.len() == text.matches('.').count() || !digits.all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value = |byte: u8| u64::from(byte - b'0');
    let whole = whole.bytes().fold(0_u64, |sum, byte| {
        sum.saturating_mul(10).saturating_add(value(byte))
    });
    // Starting at the last digit keeps every step below one unit.
    let fraction = fraction
        .bytes()
        .rev()
        .fold(0_u64, |sum, byte| (sum + value(byte) * unit).div_ceil(10));
    Some(whole.saturating_mul(unit).saturating_add(fraction))
}

fn whole_millis(nanos: u64) -> Duration {
    Duration::from_millis(nanos.div_ceil(MILLISECOND))
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// A date in one of HTTP's three forms: `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT`, `Sun Nov  6
/// 08:49:37 1994`.
fn http_date(text: &str, now: Timestamp) -> Option<Timestamp> {
    let mut words = text.split_ascii_whitespace();
    let [first, second, third, fourth] = [(); 4].map(|()| words.next().unwrap_or_default());
    let (fifth, sixth) = (words.next(), words.next());
    if words.next().is_some() {
        return None;
    }
    match (first.ends_with(','), fifth, sixth) {
        (true, Some(time), Some("GMT")) => timestamp(number(fourth)?, third, second, time),
        (true, None, None) if fourth == "GMT" => {
            let mut date = second.splitn(3, '-');
            let (day, month, year) = (date.next()?, date.next()?, date.next()?);
            timestamp(full_year(number(year)?, now)?, month, day, third)
        }
        (false, Some(year), None) => timestamp(number(year)?, second, third, fourth),
        _ => None,
    }
}

/// The year of two digits: in this century, unless it is more than fifty years ahead.
fn full_year(two_digits: u64, now: Timestamp) -> Option<u64> {
    // The mean length of a year is exact enough, because no wait lasts decades.
    let this_year = 1970 + now.as_millis() / 31_556_952_000;
    let year = this_year - this_year % 100 + two_digits;
    match two_digits {
        0..=99 if year > this_year + 50 => year.checked_sub(100),
        0..=99 => Some(year),
        _ => None,
    }
}

fn timestamp(year: u64, month: &str, day: &str, time: &str) -> Option<Timestamp> {
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    let day = number(day)?;
    let mut parts = time.splitn(3, ':').map(number);
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in_month = match month {
        1 if leap => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    };
    // A leap second counts as a normal second.
    let exists = (1..10_000).contains(&year)
        && (1..=days_in_month).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60;
    if !exists {
        return None;
    }
    // The days since 1970. Years begin in March here, so that a leap day is the last day of its year.
    let (shifted_year, shifted_month) = match month {
        0 | 1 => (year - 1, month + 10),
        month => (year, month - 2),
    };
    let leap_days = shifted_year / 4 - shifted_year / 100 + shifted_year / 400;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    const DAYS_TO_1970: u64 = 719_468;
    // Dates before 1970 are in the past in any case.
    let days = (365 * shifted_year + leap_days + day_of_year).saturating_sub(DAYS_TO_1970);
    Some(Timestamp::from_secs(
        days * 86_400 + hour * 3600 + minute * 60 + second,
    ))
}

/// A number of at most four digits.
fn number(text: &str) -> Option<u64> {
    text::number(text.as_bytes()).filter(|_| text.len() <= 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prelude::*;

    /// 584 years in milliseconds.
    const LONGEST: u64 = u64::MAX.div_ceil(MILLISECOND);
    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const RFC_DATE: Timestamp = Timestamp::from_secs(784_111_777);
    /// Tue, 14 Nov 2023 22:13:20 GMT.
    const NOW: Timestamp = Timestamp::from_secs(1_700_000_000);

    fn wait(headers: &[(&str, &'static str)]) -> Option<u128> {
        let find = |name: &str| {
            let found = headers.iter().find(|(header, _)| *header == name);
            found.map(|(_, value)| *value)
        };
        stated_wait(find, NOW).map(|wait| wait.as_millis())
    }

    #[test]
    fn every_form_is_read() {
        for (name, value, millis) in [
            ("retry-after-ms", "1500", Some(1500)),
            ("retry-after-ms", "0.4", Some(1)),
            ("retry-after-ms", " 20 ", Some(20)),
            ("x-ms-retry-after-ms", "300", Some(300)),
            ("retry-after", "7", Some(7000)),
            ("retry-after", "1.5", Some(1500)),
            ("retry-after", "0", Some(0)),
            ("retry-after", "86400", Some(86_400_000)),
            ("retry-after", "Tue, 14 Nov 2023 22:13:27 GMT", Some(7000)),
            ("retry-after", "Tuesday, 14-Nov-23 22:13:27 GMT", Some(7000)),
            ("retry-after", "Tue Nov 14 22:13:27 2023", Some(7000)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
            ("retry-after", "Fri, 14 Nov 1969 22:13:27 GMT", Some(0)),
            ("retry-after", "Mon, 01 Jan 0001 00:00:00 GMT", Some(0)),
            ("retry-after", "2.007", Some(2007)),
            ("retry-after", "2.0070000000000000000000001", Some(2008)),
            ("retry-after", ".5", Some(500)),
            ("retry-after", "5.", Some(5000)),
            ("x-ratelimit-reset-tokens", "1m2.007s", Some(62_007)),
            ("x-ratelimit-reset-tokens", "3000us", Some(3)),
            ("x-ratelimit-reset-tokens", "120μs", Some(1)),
            ("x-ratelimit-reset-requests", "12", Some(12_000)),
            ("x-ratelimit-reset-tokens", "0.25", Some(250)),
            ("x-ratelimit-reset-tokens", "6m0s", Some(360_000)),
            ("x-rate-limit-reset-tokens", "1h2m3.5s", Some(3_723_500)),
            ("x-rate-limit-reset-requests", "250ms", Some(250)),
            ("x-ratelimit-reset-tokens", "120us", Some(1)),
            ("x-ratelimit-reset-tokens", "120µs", Some(1)),
            ("x-ratelimit-reset-tokens", "10ns", Some(1)),
            ("x-ratelimit-reset-tokens", "0", None),
            ("x-ratelimit-reset-tokens", "0s", None),
        ] {
            assert_eq!(wait(&[(name, value)]), millis, "{name}: {value}");
        }
    }

    #[test]
    fn unusable_values_are_ignored() {
        for value in [
            "",
            "-1",
            "soon",
            "inf",
            "NaN",
            "1e3",
            "+5",
            "1.2.3",
            ".",
            "5 s",
            "7m",
            "0x10",
            "Tue, 14 Nov 2023 22:13:27",
            "Tue, 30 Feb 2023 22:13:27 GMT",
            "Tue, 14 Nuv 2023 22:13:27 GMT",
            "Tue, 14 Nov 2023 24:00:00 GMT",
            "Tue, 14 Nov 2023 22:60:00 GMT",
            "Tue, 14 Nov 2023 22:13 GMT",
            "Tue, 14 Nov 2023 22:13:61 GMT",
            "Tue, 14 Nov 2023 22:13:27 EST",
            "Tuesday, 14-Nov-23 22:13:27 EST",
            "Tuesday, 14-Nov-23-1 22:13:27 GMT",
            "Tue, 00014 Nov 2023 22:13:27 GMT",
            "Tue, 14 Nov 0000 22:13:27 GMT",
            "Tue, 00 Nov 2023 22:13:27 GMT",
            "Tue, 14-Nov-2023 22:13:27 GMT",
            "Tue, 14 Nov 2023 22:13:27 GMT GMT",
            "Tue, 14 Nov 99999 22:13:27 GMT",
            "Tue, 14-Nov 22:13:27 GMT",
            "Tue Nov 14 22:13:27 2023 GMT",
        ] {
            assert_eq!(wait(&[("retry-after", value)]), None, "{value}");
        }
        for value in ["", "-1", "m", "5m-1s", "1d", "ms5", "1.2.3s", "1m2"] {
            assert_eq!(
                wait(&[("x-ratelimit-reset-tokens", value)]),
                None,
                "{value}"
            );
        }
        assert_eq!(wait(&[]), None);
    }

    #[test]
    fn the_most_exact_usable_source_counts() {
        let mut headers = vec![
            ("retry-after-ms", "1"),
            ("x-ms-retry-after-ms", "2"),
            ("retry-after", "3"),
            ("x-ratelimit-reset-requests", "5"),
            ("x-ratelimit-reset-tokens", "4"),
        ];
        for (source, millis) in [1, 2, 3000, 5000, 4000].into_iter().enumerate() {
            assert_eq!(wait(&headers), Some(millis));
            headers[source].1 = "-1";
        }
        assert_eq!(wait(&headers), None);
    }

    #[test]
    fn huge_numbers_saturate() {
        let huge = "99999999999999999999999999999999";
        assert_eq!(wait(&[("retry-after", huge)]), Some(u128::from(LONGEST)));
        assert_eq!(wait(&[("retry-after-ms", huge)]), Some(u128::from(LONGEST)));
        // These would wrap to almost nothing: 2^64 + 4, and the same in nanoseconds.
        for wraps in ["18446744073709551620", "18446744074"] {
            assert_eq!(wait(&[("retry-after", wraps)]), Some(u128::from(LONGEST)));
        }
        let huge = "99999999999999999999999999999999h9s";
        assert_eq!(
            wait(&[("x-ratelimit-reset-tokens", huge)]),
            Some(u128::from(LONGEST))
        );
    }

    #[test]
    fn dates_around_leap_days_and_ends_of_centuries() {
        for (date, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Mon, 28 Feb 2000 23:59:59 GMT", 951_782_399),
            ("Tue, 29 Feb 2000 00:00:00 GMT", 951_782_400),
            ("Wed, 01 Mar 2000 00:00:00 GMT", 951_868_800),
            ("Sat, 31 Dec 2016 23:59:60 GMT", 1_483_228_800),
            ("Thu, 29 Feb 2024 12:00:00 GMT", 1_709_208_000),
            ("Mon, 01 Mar 2100 00:00:00 GMT", 4_107_542_400),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 253_402_300_799),
        ] {
            assert_eq!(
                http_date(date, NOW),
                Some(Timestamp::from_secs(seconds)),
                "{date}"
            );
        }
        for date in [
            "Thu, 29 Feb 2023 12:00:00 GMT",
            "Mon, 29 Feb 2100 00:00:00 GMT",
        ] {
            assert_eq!(http_date(date, NOW), None, "{date}");
        }
        for month in ["Apr", "Jun", "Sep", "Nov"] {
            assert_eq!(
                http_date(&format!("Mon, 31 {month} 2024 00:00:00 GMT"), NOW),
                None
            );
        }
    }

    #[test]
    fn two_digit_years_are_at_most_fifty_years_ahead() {
        assert_eq!(
            http_date("Sunday, 06-Nov-94 08:49:37 GMT", NOW),
            Some(RFC_DATE)
        );
        assert_eq!(http_date("Sun Nov  6 08:49:37 1994", NOW), Some(RFC_DATE));
        assert_eq!(full_year(73, NOW), Some(2073));
        assert_eq!(full_year(74, NOW), Some(1974));
        assert_eq!(full_year(0, NOW), Some(2000));
        assert_eq!(full_year(100, NOW), None);
    }

    #[test]
    fn no_text_panics() {
        let seeds = [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "1h2m3.5sµs",
        ];
        for (index, seed) in seeds.into_iter().enumerate() {
            let letters: Vec<char> = seed.chars().collect();
            for at in 0..letters.len() {
                for other in ['0', '9', ' ', ',', '-', ':', '.', 'µ', '\u{10ffff}'] {
                    let mut text = letters.clone();
                    text[at] = other;
                    text.truncate(letters.len() - (at + index) % 3);
                    let text: String = text.into_iter().collect();
                    let _ = (seconds_or_date(&text, NOW), reset(&text));
                    let _ = http_date(&text, Timestamp::from_millis(u64::MAX));
                }
            }
        }
    }

    #[test]
    fn waits_in_messages_are_read() {
        for (message, millis) in [
            (
                "Rate limit reached. Please try again in 7.66s. Visit ...",
                Some(7_660),
            ),
            ("Please try again in 6ms.", Some(6)),
            ("try again in 1m12s", Some(72_000)),
            ("Please retry after 20 seconds.", Some(20_000)),
            ("Please retry after 1 second. To increase ...", Some(1_000)),
            ("Please retry after 250 milliseconds", Some(250)),
            ("Please try again in 0s.", None),
            ("Please try again in a while.", None),
            ("Please try again in ", None),
            ("Too many requests.", None),
        ] {
            let expected = millis.map(Duration::from_millis);
            assert_eq!(wait_in_words(message), expected, "{message}");
        }
    }
}
