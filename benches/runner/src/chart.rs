//! The throughput as a bar chart.

use std::fmt::Write;

use crate::contestants::{CONTESTANTS, Contestant, Kind};
use crate::results::Throughput;
use crate::settings::SETTINGS;
use crate::statistics::Spread;

/// The settings that are shown; the tables have all.
const SHOWN: &[&str] = &["w1-64-1", "w1-256-8", "w2-64-1", "w3-4-1"];

const WIDTH: u32 = 760;
const LABELS: u32 = 230;
const BARS: u32 = 430;
const ROW: u32 = 20;
const TITLE: u32 = 34;

/// Colours for light and dark backgrounds; text follows the setting of the reader.
const STYLE: &str = "<style>\
    text { font: 13px system-ui, sans-serif; fill: #24292f }\
    .title { font-weight: 600 }\
    .ours { fill: #1a7f37 } .peer { fill: #0969da } .prototype { fill: #8c959f } .limit { fill: #bc4c00 }\
    @media (prefers-color-scheme: dark) {\
    text { fill: #e6edf3 }\
    .ours { fill: #3fb950 } .peer { fill: #4493f8 } .prototype { fill: #6e7681 } .limit { fill: #db6d28 }\
    }</style>";

/// A panel with its own scale for each setting, and a bar for each contestant.
pub(crate) fn render(rows: &[Throughput]) -> String {
    let mut panels = String::new();
    let mut y = 0;
    for setting in SETTINGS.iter().filter(|setting| SHOWN.contains(&setting.id)) {
        let mut bars: Vec<_> = CONTESTANTS
            .iter()
            .filter_map(|contestant| Some((contestant, median(rows, setting.id, contestant)?)))
            .collect();
        bars.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let Some((_, most)) = bars.first().copied() else { continue };
        let _ = writeln!(
            panels,
            r#"<text class="title" x="0" y="{}">{}, calls per second</text>"#,
            y + TITLE - 12,
            setting.title
        );
        y += TITLE;
        for (contestant, rate) in bars {
            bar(&mut panels, y, contestant, rate, rate / most);
            y += ROW;
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" aria-label=\"Calls per second\">\n{STYLE}\n{panels}</svg>\n",
        height = y + 10
    )
}

/// From the undisturbed runs, or from the disturbed ones if there are no others.
fn median(rows: &[Throughput], setting: &str, contestant: &Contestant) -> Option<f64> {
    let of = |disturbed: bool| {
        let rows = rows.iter().filter(|row| {
            row.setting == setting
                && row.contestant == contestant.name
                && row.disturbed == disturbed
        });
        Spread::of(rows.map(|row| row.load.calls as f64 / row.load.seconds))
    };
    of(false).or_else(|| of(true)).map(|spread| spread.median)
}

fn bar(out: &mut String, y: u32, contestant: &Contestant, rate: f64, part: f64) {
    let class = match contestant.kind {
        Kind::Ours => "ours",
        Kind::Peer => "peer",
        Kind::Prototype => "prototype",
        Kind::Limit | Kind::LimitAlone => "limit",
    };
    let width = (f64::from(BARS) * part).max(1.0);
    let baseline = y + ROW - 6;
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{baseline}\" text-anchor=\"end\">{}</text>\
         <rect class=\"{class}\" x=\"{LABELS}\" y=\"{}\" width=\"{width:.1}\" height=\"{}\" rx=\"2\"/>\
         <text x=\"{:.1}\" y=\"{baseline}\">{}</text>",
        LABELS - 8,
        contestant.name,
        y + 2,
        ROW - 5,
        f64::from(LABELS) + width + 6.0,
        thousands(rate),
    );
}

/// `1234567` as `1,235 k`, small numbers as they are.
fn thousands(value: f64) -> String {
    if value < 10_000.0 {
        return format!("{value:.0}");
    }
    let thousands = (value / 1e3).round() as u64;
    match thousands / 1_000 {
        0 => format!("{thousands} k"),
        millions => format!("{millions},{:03} k", thousands % 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_grouped() {
        assert_eq!(thousands(3_566_400.0), "3,566 k");
        assert_eq!(thousands(75_300.0), "75 k");
        assert_eq!(thousands(2_374.4), "2374");
    }
}
