//! The pairs as bars, on a logarithmic scale: an SVG that needs nothing else.

use std::fmt::Write as _;

use crate::{contenders::PHASES, load::Load, pairs::Pairs};

const LEFT: f64 = 210.0;
const WIDTH: f64 = 620.0;
const BAR: f64 = 14.0;
const GAP: f64 = 34.0;

/// From here the bars begin: nothing that is measured is slower.
const LEAST: f64 = 10.0;
const MOST: f64 = 1_000_000.0;

fn x(rate: f64) -> f64 {
    let share = (rate.max(LEAST) / LEAST).log10() / (MOST / LEAST).log10();
    LEFT + WIDTH * share.min(1.0)
}

pub(crate) fn svg(pairs: &Pairs) -> String {
    let mut bars = String::new();
    let mut y = 20.0;
    for load in Load::ALL {
        y += GAP;
        writeln!(bars, r#"<text x="10" y="{:.0}" class="load">{}</text>"#, y - 8.0, load.title())
            .unwrap();
        for contender in PHASES.concat() {
            let Some(figure) = pairs.rate(contender, load) else { continue };
            let service = contender.title();
            let class = if contender.store().is_some() { "ours" } else { "theirs" };
            let (end, text) = (x(figure.median), y + BAR - 3.0);
            writeln!(
                bars,
                r#"<text x="{:.0}" y="{text:.0}" class="name">{service}</text>"#,
                LEFT - 8.0
            )
            .unwrap();
            writeln!(
                bars,
                r#"<rect x="{LEFT}" y="{y:.0}" width="{:.1}" height="{:.0}" class="{class}"/>"#,
                end - LEFT,
                BAR - 2.0
            )
            .unwrap();
            writeln!(
                bars,
                r#"<text x="{:.0}" y="{text:.0}" class="rate">{:.0}</text>"#,
                end + 5.0,
                figure.median
            )
            .unwrap();
            y += BAR;
        }
    }
    let (width, height) = (LEFT + WIDTH + 70.0, y + 20.0);
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" font-family="sans-serif" font-size="11">
<style>.load{{font-weight:bold;font-size:13px}}.name{{text-anchor:end}}.ours{{fill:#1b7f5c}}.theirs{{fill:#9aa5b1}}</style>
<rect width="100%" height="100%" fill="white"/>
<text x="10" y="20" font-size="15">Pairs of acquire and release a second (logarithmic; more is better)</text>
{bars}</svg>
"#
    )
}
