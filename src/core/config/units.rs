//! Quantities with a unit, as configuration spells them: `"250ms"`, `"10s"`, `"4MiB"`.

use std::time::Duration;

/// What a duration looks like, for error messages.
pub(super) const DURATION_FORM: &str =
    r#"a duration with a unit such as "250ms", "10s", "5m" or "1h""#;

/// What a size looks like, for error messages.
pub(super) const SIZE_FORM: &str = r#"a size with a unit such as "512KiB" or "4MiB""#;

/// Reads a duration: a decimal number and one of `ms`, `s`, `m`, `h`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let millis_per_unit = match unit {
        "ms" => 1.0,
        "s" => 1000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        _ => return None,
    };
    let millis = number * millis_per_unit;
    // Whole milliseconds are what Envoy takes; anything finer would be a promise it cannot keep.
    (millis.fract() == 0.0 && millis < 1e15).then(|| Duration::from_millis(millis as u64))
}

/// Reads a size in bytes: a decimal number and one of `B`, `KiB`, `MiB`, `GiB`.
pub(super) fn size(text: &str) -> Option<usize> {
    let (number, unit) = split(text)?;
    let bytes_per_unit = match unit {
        "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number * bytes_per_unit;
    (bytes.fract() == 0.0 && bytes < 4e9).then_some(bytes as usize)
}

fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at_checked(unit_at)?;
    // `f64` alone would also take "1e3" and "inf", which no one means here.
    Some((number.parse().ok()?, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
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
    fn sizes() {
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
