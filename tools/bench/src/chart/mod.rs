//! The charts of the page, as SVG that is readable on light and dark pages.

mod bars;
mod lines;

use std::fmt::Write as _;

pub use bars::svg as bars;
pub use lines::svg as lines;

use crate::variant::Variant;

/// The CSS of the charts: colours by class.
const STYLE: &str = "rect.page { fill: #ffffff } text { fill: #24292f } .title { font-size: 14px; font-weight: bold } \
     .group { font-weight: bold } .note { fill: #57606a; font-size: 11px } line { stroke: #d0d7de } \
     rect.filter, circle.filter { fill: #0969da } rect.router, circle.router { fill: #8250df } \
     rect.floor { fill: #54aeff } rect.other, circle.other { fill: #8c959f } \
     polyline { fill: none; stroke-width: 2 } polyline.filter { stroke: #0969da } polyline.router { stroke: #8250df } \
     polyline.other { stroke: #8c959f }";

/// A complete SVG file.
fn page(width: f64, height: f64, title: &str, body: &str) -> String {
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0}" font-family="sans-serif" font-size="12" role="img">
<title>{title}</title>
<style>{STYLE}</style>
<rect class="page" width="{width}" height="{height:.0}"/>
<text class="title" x="8" y="20">{title}</text>
{body}</svg>
"#
    )
}

/// Adds text. It is not escaped, because all texts come from this program.
fn text(body: &mut String, x: f64, y: f64, anchor: &str, class: &str, text: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(
        body,
        r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" class="{class}">{text}</text>"#
    );
}

/// The CSS class of a variant, which sets its colour.
fn class(variant: Variant) -> &'static str {
    match variant {
        variant if variant.is_floor() => "floor",
        variant if variant.is_router() => "router",
        variant if variant.is_balancer() => "filter",
        _ => "other",
    }
}
