//! Quantities with a unit, as configuration spells them: `"250ms"`, `"10s"`, `"4MiB"`.

use core::time::Duration;

/// A duration, for error messages.
pub(super) const DURATION_FORM: &str =
    r#"a duration with a unit such as "250ms", "10s", "5m" or "1h""#;

/// A size, for error messages.
pub(super) const SIZE_FORM: &str = r#"a size with a unit such as "512KiB" or "4MiB""#;

/// Reads a duration: a decimal number and one of `ms`, `s`, `m`, `h`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    // Envoy's durations are whole milliseconds, so a finer unit could not be honoured.
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    let millis = whole(text, &units)?;
    (millis < 1_000_000_000_000_000).then(|| Duration::from_millis(millis))
}

/// Reads a size in bytes: a decimal number and one of `B`, `KiB`, `MiB`, `GiB`.
pub(super) fn size(text: &str) -> Option<usize> {
    let units = [
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
    ];
    let bytes = whole(text, &units)?;
    usize::try_from(bytes)
        .ok()
        .filter(|_| bytes < 4_000_000_000)
}

/// Reads a decimal number with one of these units, as a whole number of the smallest unit.
///
/// The arithmetic is in integers. An `f64` is not exact, and the standard library's parser of floating-point numbers is
/// larger than this file.
#[inline(never)]
fn whole(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at_checked(unit_at)?;
    let (_, per_unit) = units.iter().find(|(name, _)| *name == unit)?;
    let (before, after) = number.split_once('.').unwrap_or((number, ""));
    let digits: u64 = [before, after].concat().parse().ok()?;
    let parts = 10_u64.checked_pow(u32::try_from(after.len()).ok()?)?;
    let product = digits.checked_mul(*per_unit)?;
    (product.checked_rem(parts)? == 0).then_some(product.checked_div(parts)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, millis) in [
            ("0s", Some(0)),
            ("250ms", Some(250)),
            ("1.5s", Some(1500)),
            (" 10s ", Some(10_000)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("10", None),
            ("s", None),
            ("", None),
            ("-1s", None),
            ("1.0001ms", None),
            ("1.001s", Some(1001)),
            (".5s", Some(500)),
            (".s", None),
            ("10 s", None),
            ("1e3s", None),
            ("1.2.3s", None),
            ("10sec", None),
            ("99999999999999h", None),
        ] {
            assert_eq!(duration(text), millis.map(Duration::from_millis), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, bytes) in [
            ("0B", Some(0)),
            ("512KiB", Some(524_288)),
            ("1.5MiB", Some(1_572_864)),
            ("4MB", None),
            ("4", None),
            ("0.3B", None),
            ("5GiB", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }
}
