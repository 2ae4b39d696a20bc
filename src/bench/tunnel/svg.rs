//! Inline SVG plots: bar charts, and curves of packet loss over rate. Colors are CSS classes of the page, for light and dark mode.

use std::fmt::Write as _;

/// A bar.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bar {
    /// Label.
    pub label: String,
    /// Length; `None` if the measurement failed.
    pub value: Option<f64>,
    /// Text after the bar.
    pub text: String,
    /// Number of the color class.
    pub color: usize,
}

/// Trials at several rates.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LossCurve {
    /// Label.
    pub label: String,
    /// Packets per second, and the lost fraction.
    pub points: Vec<(f64, f64)>,
    /// Number of the color class.
    pub color: usize,
    /// Number of the dash pattern.
    pub dash: usize,
}

/// Escapes text for HTML and SVG.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

const WIDTH: f64 = 640.0;

/// Left edge of the bars, after the labels.
const LABELS: f64 = 225.0;

/// Width of the text after the longest bar.
const TEXT_WIDTH: f64 = 135.0;

const ROW: f64 = 26.0;

/// Draws a bar chart.
pub(super) fn bars(title: &str, bars: &[Bar]) -> String {
    let height = ROW * bars.len() as f64 + 8.0;
    let most = bars
        .iter()
        .filter_map(|bar| bar.value)
        .fold(f64::MIN_POSITIVE, f64::max);
    let mut svg = open(title, height);
    for (at, bar) in bars.iter().enumerate() {
        let top = 4.0 + ROW * at as f64;
        let middle = top + ROW / 2.0;
        let width = bar.value.unwrap_or(0.0) / most * (WIDTH - LABELS - TEXT_WIDTH);
        let (label, text) = (escape(&bar.label), escape(&bar.text));
        let _ = write!(
            svg,
            "<text class=\"label\" x=\"{:.0}\" y=\"{middle:.1}\" text-anchor=\"end\">{label}</text>\
             <rect class=\"c{}\" x=\"{LABELS}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.0}\" rx=\"2\"/>\
             <text x=\"{:.1}\" y=\"{middle:.1}\">{text}</text>",
            LABELS - 8.0,
            bar.color,
            top + 3.0,
            ROW - 6.0,
            LABELS + width + 6.0,
        );
    }
    svg + "</svg></figure>\n"
}

/// The plot area of curves: left, right, top, bottom.
const FRAME: [f64; 4] = [48.0, 620.0, 12.0, 190.0];

/// Draws loss (y axis) over packet rate (logarithmic x axis), with a line at `max_loss`.
pub(super) fn curves(title: &str, curves: &[LossCurve], max_loss: f64) -> String {
    let rates = || {
        curves
            .iter()
            .flat_map(|curve| &curve.points)
            .map(|(rate, _)| *rate)
    };
    let least = rates().fold(f64::INFINITY, f64::min).max(1.0);
    let [least, most] = span(least, rates().fold(least, f64::max));
    let [left, right, top, bottom] = FRAME;
    let x =
        |rate: f64| left + (right - left) * (rate.max(least) / least).ln() / (most / least).ln();
    let y = |loss: f64| bottom - (bottom - top) * loss.clamp(0.0, 1.0).sqrt();
    let mut svg = open(title, bottom + 30.0 + 18.0 * curves.len() as f64);
    for percent in [0.5, 5.0, 20.0, 50.0, 100.0] {
        let class = if percent == max_loss * 100.0 {
            "limit"
        } else {
            "grid"
        };
        let at = y(percent / 100.0);
        let _ = write!(
            svg,
            "<line class=\"{class}\" x1=\"{left}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\
             <text class=\"label\" x=\"{:.0}\" y=\"{at:.1}\" text-anchor=\"end\">{percent} %</text>",
            left - 6.0,
        );
    }
    for tick in ticks(least, most) {
        let at = x(tick);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{top}\" y2=\"{bottom}\"/>\
             <text class=\"label\" x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{} k/s</text>",
            bottom + 12.0,
            tick / 1e3,
        );
    }
    for (at, curve) in curves.iter().enumerate() {
        let mut points = curve.points.clone();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let place = |(rate, loss): &(f64, f64)| format!("{:.1},{:.1}", x(*rate), y(*loss));
        let line: Vec<String> = points.iter().map(place).collect();
        let (color, dash) = (curve.color, curve.dash);
        let _ = write!(
            svg,
            "<polyline class=\"s{color} d{dash}\" points=\"{}\"/>",
            line.join(" ")
        );
        for (rate, loss) in &points {
            let _ = write!(
                svg,
                "<circle class=\"c{color}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"/>",
                x(*rate),
                y(*loss)
            );
        }
        let line = bottom + 32.0 + 18.0 * at as f64;
        let _ = write!(
            svg,
            "<line class=\"s{color} d{dash}\" x1=\"{left}\" x2=\"{:.0}\" y1=\"{line}\" y2=\"{line}\"/>\
             <text x=\"{:.0}\" y=\"{line}\">{}</text>",
            left + 36.0,
            left + 44.0,
            escape(&curve.label),
        );
    }
    svg + "</svg></figure>\n"
}

/// The range of the x axis: from the lowest to the highest rate, widened so that it contains a tick.
fn span(least: f64, most: f64) -> [f64; 2] {
    // The largest ratio of two ticks is that of 5 to 2.
    const ROOM: f64 = 2.5;
    let around = (ROOM / (most / least)).max(1.0).sqrt();
    [least / around, most * around]
}

/// The ticks: 1, 2 and 5 times every power of ten in the range, or only the powers of ten in a long range.
fn ticks(least: f64, most: f64) -> Vec<f64> {
    let steps: &[f64] = if most / least > 300.0 {
        &[1.0]
    } else {
        &[1.0, 2.0, 5.0]
    };
    (0..9)
        .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)))
        .filter(|tick| (least..=most).contains(tick))
        .collect()
}

fn open(title: &str, height: f64) -> String {
    let title = escape(title);
    format!(
        "<figure><figcaption>{title}</figcaption>\
         <svg viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{title}\">"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(label: &str, value: Option<f64>) -> Bar {
        Bar {
            label: label.to_owned(),
            value,
            text: "text".to_owned(),
            color: 0,
        }
    }

    /// The values of one attribute, in order.
    fn values(svg: &str, element: &str, attribute: &str) -> Vec<f64> {
        svg.split(element)
            .skip(1)
            .map(|rest| {
                let value = rest.split_once(attribute).unwrap().1;
                value.split('"').nth(1).unwrap().parse().unwrap()
            })
            .collect()
    }

    #[test]
    fn bars_are_proportional_and_missing_values_have_none() {
        let svg = bars(
            "speed",
            &[bar("a", Some(4.0)), bar("b", Some(1.0)), bar("c", None)],
        );
        let widths = values(&svg, "<rect", " width=");
        assert_eq!(widths, [280.0, 70.0, 0.0]);
        assert!(bars("nothing", &[bar("a", None)]).contains("width=\"0.0\""));
    }

    #[test]
    fn points_are_ordered_by_rate_and_loss() {
        let curve = LossCurve {
            label: "x".to_owned(),
            points: vec![(40_000.0, 0.5), (10_000.0, 0.0), (20_000.0, 0.1)],
            color: 0,
            dash: 0,
        };
        let svg = curves("loss", &[curve], 0.005);
        let (xs, ys) = (
            values(&svg, "<circle", " cx="),
            values(&svg, "<circle", " cy="),
        );
        assert!(
            xs.is_sorted() && (xs[1] - xs[0] - (xs[2] - xs[1])).abs() < 0.2,
            "{xs:?}"
        );
        assert!(ys.is_sorted_by(|a, b| a > b), "{ys:?}");
        assert!(svg.contains("20 k/s") && svg.contains("limit"));
    }

    #[test]
    fn no_point_and_one_point_are_drawn() {
        let one = LossCurve {
            label: String::new(),
            points: vec![(10_000.0, 0.0)],
            color: 0,
            dash: 0,
        };
        let alone = curves("", &[one], 0.005);
        assert!(alone.contains("10 k/s"), "a rate that can be read: {alone}");
        for svg in [curves("", &[], 0.005), alone] {
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn markup_in_names_is_escaped() {
        assert_eq!(
            escape("<a href=\"x\">&"),
            "&lt;a href=&quot;x&quot;&gt;&amp;"
        );
    }
}
