//! What came out, drawn: a bar for each ratio with the spread of its rounds and the aim.

use std::fmt::Write;

use super::report::{Finding, Report};
use super::section::{Better, Bound};

const WIDTH: f64 = 960.0;
const LABELS: f64 = 400.0;
const VALUES: f64 = 110.0;
const ROW: f64 = 24.0;
const HEAD: f64 = 84.0;
const SECTION: f64 = 40.0;
/// What the right end of the scale stands for.
const SCALE_MAX: f64 = 2.0;

/// An SVG of every ratio of the report.
pub(crate) fn draw(report: &Report) -> String {
    let groups: Vec<(&str, Vec<&Finding>)> = report
        .sections
        .iter()
        .map(|section| {
            let ratios = section.findings.iter().filter(|finding| finding.against.is_some());
            (section.title, ratios.collect::<Vec<_>>())
        })
        .filter(|(_, ratios)| !ratios.is_empty())
        .collect();
    let rows: usize = groups.iter().map(|(_, ratios)| ratios.len()).sum();
    let height = HEAD + groups.len() as f64 * SECTION + rows as f64 * ROW + 28.0;
    let mut svg = head(report, height);
    let mut y = HEAD;
    for (title, ratios) in groups {
        let _ =
            writeln!(svg, r#"<text x="16" y="{:.0}" class="section">{}</text>"#, y + 26.0, escaped(title));
        y += SECTION;
        let _ = writeln!(svg, "{}", grid(y, ratios.len() as f64 * ROW));
        for finding in ratios {
            bar(&mut svg, finding, y);
            y += ROW;
        }
    }
    svg + "</svg>\n"
}

fn head(report: &Report, height: f64) -> String {
    let machine = &report.machine;
    let caption = format!(
        "medians of {} interleaved rounds; whiskers: single rounds; red mark: aim. {}, {} processors, Linux {}, {}",
        report.rounds, machine.processor, machine.processors, machine.kernel, report.commit
    );
    format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">
<style>
text {{ font-family: system-ui, "DejaVu Sans", sans-serif; font-size: 12px; fill: #222 }}
.title {{ font-size: 18px; font-weight: bold }}
.section {{ font-size: 14px; font-weight: bold }}
.caption {{ font-size: 11px; fill: #666 }}
.scale {{ font-size: 10px; fill: #888; text-anchor: middle }}
.label {{ text-anchor: end }}
</style>
<rect width="100%" height="100%" fill="#fff"/>
<text x="16" y="30" class="title">vnetd beside others, in the same run</text>
<text x="16" y="50" class="caption">{}</text>
<text x="16" y="68" class="caption">Each bar is a quotient: 1 is what it is held against. Green: a higher one is better; blue: a lower one is better. Bars end at 2.</text>
"##,
        escaped(&caption)
    )
}

/// Where a value lies; what is beyond the scale stands at its end.
fn at(value: f64) -> f64 {
    LABELS + (value / SCALE_MAX).clamp(0.0, 1.0) * (WIDTH - LABELS - VALUES)
}

fn grid(top: f64, height: f64) -> String {
    let mut lines = String::new();
    for step in 0..=4 {
        let value = f64::from(step) * SCALE_MAX / 4.0;
        let (x, colour) = (at(value), if step == 2 { "#888" } else { "#ddd" });
        let _ = write!(
            lines,
            r#"<line x1="{x:.1}" y1="{top:.0}" x2="{x:.1}" y2="{:.0}" stroke="{colour}"/><text x="{x:.1}" y="{:.0}" class="scale">{value}</text>"#,
            top + height,
            top - 3.0
        );
    }
    lines
}

fn bar(svg: &mut String, finding: &Finding, y: f64) {
    let value = &finding.value;
    let middle = y + ROW / 2.0;
    let colour = if finding.better == Better::Less { "#6b93c4" } else { "#6aa67c" };
    let label = format!("{} : {} — {}", finding.path, finding.against.unwrap_or_default(), title(finding));
    let _ = writeln!(
        svg,
        r#"<text x="{:.0}" y="{:.0}" class="label">{}</text>"#,
        LABELS - 8.0,
        middle + 4.0,
        escaped(&label)
    );
    let _ = writeln!(
        svg,
        r#"<rect x="{LABELS}" y="{:.1}" width="{:.1}" height="{}" fill="{colour}"/>"#,
        y + 4.0,
        at(value.median) - LABELS,
        ROW - 8.0
    );
    let (least, most) = (at(value.min), at(value.max));
    let _ = writeln!(
        svg,
        r##"<path d="M{least:.1} {middle:.1}H{most:.1}M{least:.1} {:.1}v8M{most:.1} {:.1}v8" stroke="#222" fill="none"/>"##,
        middle - 4.0,
        middle - 4.0
    );
    if let Some(Bound::AtLeast(aim) | Bound::AtMost(aim)) = finding.aim {
        let x = at(aim);
        let _ = writeln!(
            svg,
            r##"<line x1="{x:.1}" y1="{:.1}" x2="{x:.1}" y2="{:.1}" stroke="#c22" stroke-width="2.5"/>"##,
            y + 1.0,
            y + ROW - 1.0
        );
    }
    let mark = match finding.is_met {
        Some(true) => " ✓",
        Some(false) => " ✗",
        None => "",
    };
    let x = WIDTH - VALUES + 14.0;
    let _ = writeln!(svg, r#"<text x="{x:.0}" y="{:.0}">{:.2}{mark}</text>"#, middle + 4.0, value.median);
}

/// Without the unit: a quotient has none.
fn title(finding: &Finding) -> &str {
    finding.title.split(" (").next().unwrap_or(finding.title)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
