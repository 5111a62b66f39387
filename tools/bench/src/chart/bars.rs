//! A bar chart of every variant's CPU per request, as a ratio to plain Envoy's.

use std::fmt::Write as _;

use super::{class, page, text};
use crate::results::Results;
use crate::variant::{Settings, Variant, Workload};

const GROUPS: [Workload; 5] = [
    Workload::Body(1),
    Workload::Body(16),
    Workload::Body(100),
    Workload::Body(1024),
    Workload::Streams,
];

/// The ratio at which bars end. The label beside a longer bar has its value.
const MOST: f64 = 3.0;

const LABELS: f64 = 220.0;
const BARS: f64 = 420.0;
const WIDTH: f64 = LABELS + BARS + 60.0;
const LINE: f64 = 18.0;

/// Draws the bar chart as SVG.
pub fn svg(results: &Results) -> String {
    let mut body = String::new();
    let mut y = 40.0;
    for workload in GROUPS {
        let bars: Vec<_> = results
            .variants()
            .into_iter()
            .filter_map(|variant| Some((variant, ratio(results, variant, workload)?)))
            .collect();
        if bars.is_empty() {
            continue;
        }
        text(
            &mut body,
            8.0,
            y,
            "start",
            "group",
            &match workload {
                Workload::Body(_) => format!("body of {workload}"),
                _ => workload.to_string(),
            },
        );
        y += LINE * 0.4;
        for (variant, ratio) in bars {
            bar(&mut body, y, variant, ratio);
            y += LINE;
        }
        y += LINE * 1.4;
    }
    // The grid comes first in the file, so that it is behind the bars.
    let mut grid = String::new();
    for whole in [1.0, 2.0, 3.0] {
        let x = LABELS + whole / MOST * BARS;
        let bottom = y - LINE;
        let _ = writeln!(grid, r#"<line x1="{x}" y1="30" x2="{x}" y2="{bottom}"/>"#);
    }
    let body = grid + &body;
    let title = "CPU per request, as a ratio to plain Envoy's (less is better)";
    page(WIDTH, y, title, &body)
}

fn ratio(results: &Results, variant: Variant, workload: Workload) -> Option<f64> {
    // The table of targets has the floors of the other settings.
    let is_further_floor = variant.is_floor() && variant.settings() != Settings::Default;
    if is_further_floor || matches!(variant, Variant::Direct | Variant::EnvoyAgain) {
        return None;
    }
    let base = results.cpu(Variant::Envoy, workload)?;
    Some(results.cpu(variant, workload)?.best / base.best)
}

fn bar(body: &mut String, y: f64, variant: Variant, ratio: f64) {
    let class = class(variant);
    let length = ratio.min(MOST) / MOST * BARS;
    let height = LINE - 5.0;
    let base = y + LINE - 8.0;
    text(body, LABELS - 6.0, base, "end", "", &variant.to_string());
    let _ = writeln!(
        body,
        r#"<rect class="{class}" x="{LABELS}" y="{y:.1}" width="{length:.1}" height="{height}"/>"#
    );
    let shown = match ratio {
        ratio if ratio > MOST => format!("{ratio:.0} ..."),
        ratio => format!("{ratio:.2}"),
    };
    text(body, LABELS + length + 5.0, base, "start", "", &shown);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::Seen;
    use crate::results::Slice;

    #[test]
    fn bars_of_variants_are_within_the_page() {
        let mut results = Results::default();
        for (variant, micros) in [
            (Variant::Envoy, 30),
            (Variant::FloorRouter, 36),
            (Variant::FloorRouterLean, 35),
            (Variant::Router, 39),
            (Variant::LiteLlm, 6000),
        ] {
            let seen = Seen {
                served: 1,
                elapsed: Duration::from_secs(1),
                ..Seen::default()
            };
            let slice = Slice::new(seen, Duration::from_micros(micros), Duration::ZERO);
            results.add(variant, Workload::Body(1), slice);
        }
        let svg = svg(&results);
        assert_eq!(svg.matches("<rect class=\"router\"").count(), 1);
        // Only the floor of the default settings has a bar.
        assert_eq!(svg.matches("<rect class=\"floor\"").count(), 1);
        assert_eq!(svg.matches("<rect class=\"other\"").count(), 2);
        assert!(
            svg.contains(">1.30</text>") && svg.contains(">200 ...</text>"),
            "{svg}"
        );
        assert!(svg.contains("width=\"420.0\""), "{svg}");
    }
}
