//! stub
use super::time::Timestamp;
use std::time::Duration;
/// stub
pub fn stated_wait<'a>(
    header: impl Fn(&str) -> Option<&'a str>,
    _now: Timestamp,
) -> Option<Duration> {
    header("retry-after")?.parse().ok().map(Duration::from_secs)
}
