//! Line charts, one per figure, that show how the figure grows in plain Envoy and in both engines.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{class, page, text};
use crate::curves::{growth, Figure};
use crate::results::Results;
use crate::variant::Variant;

const COLUMNS: usize = 2;
const PANEL_WIDTH: f64 = 450.0;
const PANEL_HEIGHT: f64 = 240.0;
const TOP: f64 = 50.0;

/// The margin left of the plot inside its panel, for the labels of the axis.
const LEFT: f64 = 48.0;
/// The margin right of the plot, for the labels of the lines.
const RIGHT: f64 = 126.0;
/// The margin above the plot, for the panel's title.
const ABOVE: f64 = 28.0;
/// The margin below the plot, for the labels of the points, their unit and the words on growth.
const BELOW: f64 = 62.0;

/// The minimum distance between the labels at the ends of lines.
const APART: f64 = 13.0;

type Line = (Variant, Vec<(u64, f64)>);

/// Draws the line charts as SVG.
pub fn svg(results: &Results) -> String {
    let mut body = String::new();
    let mut panels = 0;
    for figure in Figure::ALL {
        let lines = Variant::ALL.map(|variant| (variant, results.curve(figure, variant)));
        let lines: Vec<Line> = lines
            .into_iter()
            .filter(|(_, line)| line.len() > 1)
            .collect();
        if lines.is_empty() {
            continue;
        }
        let x = (panels % COLUMNS) as f64 * PANEL_WIDTH;
        let y = TOP + (panels / COLUMNS) as f64 * PANEL_HEIGHT;
        panel(&mut body, (x, y), figure, &lines);
        panels += 1;
    }
    let height = TOP + panels.div_ceil(COLUMNS) as f64 * PANEL_HEIGHT;
    let title = "How cost grows (flat lines are best)";
    page(PANEL_WIDTH * COLUMNS as f64, height, title, &body)
}

fn panel(body: &mut String, (left, top): (f64, f64), figure: Figure, lines: &[Line]) {
    text(
        body,
        left + 8.0,
        top + 12.0,
        "start",
        "group",
        figure.chart_title(),
    );
    let values = lines.iter().flat_map(|(_, line)| line);
    let points: BTreeSet<u64> = values.clone().map(|(point, _)| *point).collect();
    let most = round_up(values.map(|(_, value)| *value).fold(0.0, f64::max));
    let (Some(least), Some(last)) = (points.first(), points.last()) else {
        return;
    };
    let width = PANEL_WIDTH - LEFT - RIGHT;
    let height = PANEL_HEIGHT - ABOVE - BELOW;
    let base = top + ABOVE + height;
    // The horizontal axis is logarithmic.
    let (from, to) = ((*least as f64).ln(), (*last as f64).ln());
    let x = |point: u64| left + LEFT + width * ((point as f64).ln() - from) / (to - from);
    let y = |value: f64| base - height * value / most;
    for share in [0.0, 0.5, 1.0] {
        let value = most * share;
        let _ = writeln!(
            body,
            r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>"#,
            left + LEFT,
            y(value),
            left + LEFT + width,
            y(value)
        );
        text(
            body,
            left + LEFT - 6.0,
            y(value) + 4.0,
            "end",
            "note",
            &short(value),
        );
    }
    for point in &points {
        text(
            body,
            x(*point),
            base + 15.0,
            "middle",
            "note",
            &point.to_string(),
        );
    }
    let middle = left + LEFT + width / 2.0;
    text(
        body,
        middle,
        base + 29.0,
        "middle",
        "note",
        figure.curve().unit(),
    );
    let mut ends: Vec<(f64, String, &str)> = Vec::new();
    for (variant, line) in lines {
        let class = class(*variant);
        let places: Vec<_> = line
            .iter()
            .map(|(point, value)| format!("{:.1},{:.1}", x(*point), y(*value)))
            .collect();
        let _ = writeln!(
            body,
            r#"<polyline class="{class}" points="{}"/>"#,
            places.join(" ")
        );
        for (point, value) in line {
            let (x, y) = (x(*point), y(*value));
            let _ = writeln!(
                body,
                r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="3"/>"#
            );
        }
        if let Some((_, value)) = line.last() {
            let label = format!("{} {}", variant.engine_name(), short(*value));
            ends.push((y(*value), label, class));
        }
    }
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut free = f64::NEG_INFINITY;
    for (wanted, label, _) in &ends {
        let y = wanted.max(free);
        text(
            body,
            left + LEFT + width + 8.0,
            y + 4.0,
            "start",
            "note",
            label,
        );
        free = y + APART;
    }
    text(
        body,
        left + LEFT,
        base + 47.0,
        "start",
        "note",
        &words(lines),
    );
}

/// Describes in words how the balancer's lines grow.
fn words(lines: &[Line]) -> String {
    let engines = lines.iter().filter(|(variant, _)| variant.is_balancer());
    let growths: Vec<_> = engines
        .filter_map(|(variant, line)| Some((variant.engine_name(), growth(line)?)))
        .collect();
    match growths.as_slice() {
        [(_, one), (_, other)] if one == other => format!("both engines: {one}"),
        growths => {
            let texts = growths
                .iter()
                .map(|(name, growth)| format!("{name}: {growth}"));
            texts.collect::<Vec<_>>().join("; ")
        }
    }
}

/// Rounds up to a number with one or two significant digits, for the end of an axis.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let unit = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    let step = steps.into_iter().find(|step| step * unit >= value);
    step.unwrap_or(10.0) * unit
}

/// Formats a number with about three digits.
fn short(value: f64) -> String {
    match value {
        value if value >= 10_000.0 => format!("{:.1}k", value / 1e3),
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 || value == 0.0 => format!("{value:.0}"),
        value => format!("{value:.1}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curves::Curve;

    #[test]
    fn each_figure_has_a_panel_with_a_line_for_each_variant() {
        let mut results = Results::default();
        let figures = [Figure::Cpu(Curve::Backends), Figure::OpenLatency];
        for figure in figures {
            for variant in [Variant::Envoy, Variant::Filter, Variant::Router] {
                for (point, value) in [(3, 50.0), (100, 52.0)] {
                    results.grow(figure, variant, point, value);
                }
            }
        }
        // A figure with a single point gets no line.
        results.grow(Figure::Waiting, Variant::Filter, 1, 2.0);
        let svg = svg(&results);
        assert_eq!(svg.matches("<polyline").count(), 6);
        assert!(
            svg.contains("both engines: constant, within the noise"),
            "{svg}"
        );
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, end) in [
            (52.0, 60.0),
            (100.0, 100.0),
            (101.0, 120.0),
            (0.7, 0.8),
            (0.0, 1.0),
        ] {
            assert!((round_up(value) - end).abs() < 1e-9, "{value}");
        }
    }
}
