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
/// Between an axis and the first and last point, for the figures beside them.
const INNER: f64 = 20.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 48.0;
/// After Okabe and Ito, which most people can tell apart, such that each is seen on white and on dark.
const COLOURS: [&str; 6] = ["#2b8fd0", "#d55e00", "#009e73", "#cc79a7", "#c78a00", "#7a7af0"];

/// On white paper, and on dark where the reader's system is; the picture brings its paper along, since a page's own colour is not known here.
const STYLE: &str = ".paper{fill:#fff}text{fill:#1a1a1a}.grid{stroke:#ddd}\
                     @media(prefers-color-scheme:dark){.paper{fill:#1d1f21}text{fill:#e8e8e8}.grid{stroke:#44484c}}";

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

/// "10,000"; parts only of small numbers.
fn grouped(value: f64) -> String {
    if value < 1000.0 {
        return format!("{}", (value * 100.0).round() / 100.0);
    }
    format!("{},{:03}", (value / 1000.0).floor(), value % 1000.0)
}

/// Whether a figure at this place would lie on none of those before: the table beside the picture has those that are left out.
fn has_room(figures: &mut Vec<(f64, f64)>, (x, y): (f64, f64)) -> bool {
    let free = !figures.iter().any(|(at, height)| (at - x).abs() < 30.0 && (height - y).abs() < 9.0);
    if free {
        figures.push((x, y));
    }
    free
}

impl Plot {
    /// The curves in words, for who cannot see them.
    fn told(&self) -> String {
        let one = |series: &Series| {
            let points = series.points.iter().map(|(x, y)| format!("{} at {x}", super::report::short(*y)));
            format!("{}: {}", series.name, points.collect::<Vec<_>>().join(", "))
        };
        let all: Vec<_> = self.series.iter().map(one).collect();
        format!("{} over {}, both axes logarithmic. {}.", self.y, self.x, all.join("; "))
    }

    pub(super) fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| series.points.iter());
        // Each place at which something was measured has its mark.
        let mut places: Vec<f64> = points().map(|point| point.0).filter(|x| *x > 0.0).collect();
        places.sort_unstable_by(f64::total_cmp);
        places.dedup();
        let (x_low, x_high) = match (places.first(), places.last()) {
            (Some(low), Some(high)) if low < high => (low.log10(), high.log10()),
            (Some(one), _) => (one.log10() - 0.5, one.log10() + 0.5),
            _ => (0.0, 1.0),
        };
        let (y_low, y_high) = decades(points().map(|point| point.1));
        let place_x =
            |x: f64| LEFT + INNER + (x.log10() - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT - 2.0 * INNER);
        let place_y = |y: f64| {
            HEIGHT - BOTTOM - (y.log10() - f64::from(y_low)) / f64::from(y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        };
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
             <title>{0}</title>\n<desc>{1}</desc>\n<style>{STYLE}</style>\n\
             <rect class=\"paper\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n<text x=\"{LEFT}\" y=\"20\" font-size=\"14\">{0}</text>\n",
            escaped(&self.title),
            escaped(&self.told())
        );
        // Writing to a String cannot fail.
        let mut put = |text: std::fmt::Arguments<'_>| {
            let _ = out.write_fmt(text);
            out.push('\n');
        };
        let (bottom, right) = (HEIGHT - BOTTOM, WIDTH - RIGHT);
        for place in places {
            let x = place_x(place);
            put(format_args!("<path d=\"M{x:.1} {TOP}V{bottom}\" class=\"grid\"/>"));
            put(format_args!(
                "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                grouped(place)
            ));
        }
        for power in y_low..=y_high {
            let y = place_y(10f64.powi(power));
            put(format_args!("<path d=\"M{LEFT} {y:.1}H{right}\" class=\"grid\"/>"));
            put(format_args!(
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                tick(power)
            ));
        }
        put(format_args!("<text x=\"{LEFT}\" y=\"{}\">{}</text>", HEIGHT - 12.0, escaped(&self.x)));
        put(format_args!("<text transform=\"translate(16 {bottom}) rotate(-90)\">{}</text>", escaped(&self.y)));
        let mut figures: Vec<(f64, f64)> = Vec::new();
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
                if has_room(&mut figures, (x, y)) {
                    let (x, y) = (x + 4.0, y - 5.0);
                    put(format_args!(
                        "<text x=\"{x:.1}\" y=\"{y:.1}\" font-size=\"10\" style=\"fill:{colour}\">{value}</text>"
                    ));
                }
            }
            let y = TOP + 14.0 * (number as f64 + 1.0);
            put(format_args!(
                "<text x=\"{}\" y=\"{y}\" style=\"fill:{colour}\">{}</text>",
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
