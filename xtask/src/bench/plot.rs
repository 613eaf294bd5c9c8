//! Curves as SVG: both axes logarithmic, one line for each series, a text under the picture for who cannot see it.

use anyhow::{Context, Result};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

#[derive(Serialize)]
pub(super) struct Plot {
    /// The name of its file.
    pub(super) name: &'static str,
    pub(super) title: String,
    pub(super) x: String,
    pub(super) y: String,
    pub(super) series: Vec<Series>,
}

#[derive(Clone, Serialize)]
pub(super) struct Series {
    pub(super) name: String,
    /// Pairs of numbers above 0.
    pub(super) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 48.0;
/// Okabe and Ito's colours, which most people can tell apart.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// Powers of ten around the values, at least one decade.
fn decades(values: impl Iterator<Item = f64>) -> (i32, i32) {
    let (mut low, mut high) = (i32::MAX, i32::MIN);
    for value in values.filter(|value| *value > 0.0) {
        low = low.min(value.log10().floor() as i32);
        high = high.max(value.log10().ceil() as i32);
    }
    if low > high { (0, 1) } else { (low, high.max(low + 1)) }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn tick(power: i32) -> String {
    match power {
        -3..=5 => format!("{}", 10f64.powi(power)),
        _ => format!("1e{power}"),
    }
}

impl Plot {
    pub(super) fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        let (x_low, x_high) = decades(points().map(|point| point.0));
        let (y_low, y_high) = decades(points().map(|point| point.1));
        let place_x =
            |x: f64| LEFT + (x.log10() - f64::from(x_low)) / f64::from(x_high - x_low) * (WIDTH - LEFT - RIGHT);
        let place_y = |y: f64| {
            HEIGHT - BOTTOM - (y.log10() - f64::from(y_low)) / f64::from(y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        };
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n<text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{}</text>\n",
            escaped(&self.title)
        );
        // Writing to a String cannot fail.
        let mut put = |text: std::fmt::Arguments<'_>| {
            let _ = out.write_fmt(text);
            out.push('\n');
        };
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for power in x_low..=x_high {
            let x = place_x(10f64.powi(power));
            put(format_args!("<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#dddddd\"/>"));
            put(format_args!(
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                tick(power)
            ));
        }
        for power in y_low..=y_high {
            let y = place_y(10f64.powi(power));
            put(format_args!("<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#dddddd\"/>"));
            put(format_args!(
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                tick(power)
            ));
        }
        put(format_args!("<text x=\"{LEFT}\" y=\"{}\">{}</text>", HEIGHT - 12.0, escaped(&self.x)));
        put(format_args!("<text transform=\"translate(16 {bottom}) rotate(-90)\">{}</text>", escaped(&self.y)));
        for (number, series) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let shown: Vec<_> = series.points.iter().filter(|(x, y)| *x > 0.0 && *y > 0.0).collect();
            let way: Vec<_> = shown.iter().map(|(x, y)| format!("{:.1},{:.1}", place_x(*x), place_y(*y))).collect();
            put(format_args!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                way.join(" ")
            ));
            for (x, y) in shown {
                let (x, y, value) = (place_x(*x), place_y(*y), super::report::short(*y));
                put(format_args!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"));
                put(format_args!(
                    "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"10\" fill=\"{colour}\">{value}</text>",
                    x + 4.0,
                    y - 5.0
                ));
            }
            let y = TOP + 14.0 * (number as f64 + 1.0);
            put(format_args!(
                "<text x=\"{}\" y=\"{y}\" fill=\"{colour}\">{}</text>",
                right + 8.0,
                escaped(&series.name)
            ));
        }
        out + "</svg>\n"
    }

    pub(super) fn keep(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let path = folder.join(format!("{}.svg", self.name));
        std::fs::write(&path, self.svg()).with_context(|| format!("writing {}", path.display()))
    }
}
