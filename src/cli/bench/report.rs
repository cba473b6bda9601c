//! Figures, their bounds, and the report.

use std::fmt;

use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

/// The bounds of a figure: its goal and its floor.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Bounds {
    /// Whether the bounds are for the ratio, and not for the value.
    of_ratio: bool,
    /// Whether less is better.
    at_most: bool,
    goal: f64,
    floor: f64,
}

impl Bounds {
    /// Returns the bounds of a ratio that should be at least `goal`, and must not be below `floor`.
    pub(super) const fn ratio_at_least(goal: f64, floor: f64) -> Self {
        Bounds { of_ratio: true, at_most: false, goal, floor }
    }

    /// Returns the bounds of a ratio that should be at most `goal`, and must not be above `floor`.
    pub(super) const fn ratio_at_most(goal: f64, floor: f64) -> Self {
        Bounds { of_ratio: true, at_most: true, goal, floor }
    }

    /// Returns the bound of a value that should be at most `goal`.
    pub(super) const fn value_at_most(goal: f64) -> Self {
        Bounds { of_ratio: false, at_most: true, goal, floor: f64::INFINITY }
    }
}

/// The result of comparing a figure with its bounds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verdict {
    Met,
    BelowGoal,
    BelowFloor,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Met => "met",
            Verdict::BelowGoal => "below goal",
            Verdict::BelowFloor => "below floor",
        })
    }
}

/// One figure.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    ratio: Option<f64>,
    bounds: Option<Bounds>,
    samples: Option<usize>,
}

impl Figure {
    pub(super) fn new(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Figure { name: name.into(), value, unit, ratio: None, bounds: None, samples: None }
    }

    /// Sets the ratio to the ceiling.
    pub(super) fn ratio(mut self, ratio: f64) -> Self {
        self.ratio = Some(ratio);
        self
    }

    /// Sets the bounds.
    pub(super) fn bounds(mut self, bounds: Bounds) -> Self {
        self.bounds = Some(bounds);
        self
    }

    /// Sets the number of measurements.
    pub(super) fn samples(mut self, samples: usize) -> Self {
        self.samples = Some(samples);
        self
    }

    fn verdict(&self) -> Option<Verdict> {
        let bounds = self.bounds?;
        let actual = if bounds.of_ratio { self.ratio? } else { self.value };
        let meets = |bound: f64| if bounds.at_most { actual <= bound } else { actual >= bound };
        Some(if meets(bounds.goal) {
            Verdict::Met
        } else if meets(bounds.floor) {
            Verdict::BelowGoal
        } else {
            Verdict::BelowFloor
        })
    }
}

/// All figures of a bench, and the conditions of their measurement.
#[derive(Debug, Default)]
pub(super) struct BenchReport {
    pub(super) cores: usize,
    pub(super) file_system: String,
    pub(super) seconds: f64,
    pub(super) pairs: usize,
    /// Whether figures are compared with their bounds. Short runs are too noisy for that.
    pub(super) judged: bool,
    pub(super) figures: Vec<Figure>,
}

#[derive(Serialize)]
struct FigureJson<'a> {
    name: &'a str,
    value: f64,
    unit: &'a str,
    ratio: Option<f64>,
    goal: Option<f64>,
    /// Absent where there is none.
    floor: Option<f64>,
    verdict: Option<Verdict>,
    samples: Option<usize>,
}

impl BenchReport {
    /// Returns the report as JSON, for programs.
    pub(super) fn json(&self) -> serde_json::Value {
        let figures: Vec<_> = self
            .figures
            .iter()
            .map(|figure| FigureJson {
                name: &figure.name,
                value: figure.value,
                unit: figure.unit,
                ratio: figure.ratio,
                goal: figure.bounds.map(|bounds| bounds.goal),
                floor: figure.bounds.map(|bounds| bounds.floor).filter(|floor| floor.is_finite()),
                verdict: figure.verdict().filter(|_| self.judged),
                samples: figure.samples,
            })
            .collect();
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "cores": self.cores,
            "file_system": self.file_system,
            "seconds": self.seconds,
            "pairs": self.pairs,
            "figures": figures,
        })
    }
}

impl fmt::Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["figure", "value", "unit", "ratio", "goal", "floor", "verdict", "samples"]);
        for figure in &self.figures {
            let bound = |bound: fn(Bounds) -> f64| {
                figure
                    .bounds
                    .map(|bounds| (bounds.at_most, bound(bounds)))
                    .filter(|(_, bound)| bound.is_finite())
            };
            let bound_text = |bound: Option<(bool, f64)>| match bound {
                Some((true, bound)) => format!("≤ {}", number(bound)),
                Some((false, bound)) => format!("≥ {}", number(bound)),
                None => String::new(),
            };
            let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
            table.add_row([
                Cell::new(&figure.name),
                right(number(figure.value)),
                Cell::new(figure.unit),
                right(figure.ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default()),
                right(bound_text(bound(|bounds| bounds.goal))),
                right(bound_text(bound(|bounds| bounds.floor))),
                Cell::new(match figure.verdict() {
                    Some(verdict) if self.judged => verdict.to_string(),
                    Some(_) | None => String::new(),
                }),
                right(figure.samples.map(|samples| number(samples as f64)).unwrap_or_default()),
            ]);
        }
        writeln!(f, "{table}")?;
        write!(
            f,
            "{} cores, client and server on them together; store on {}; medians of {} alternating runs of {} s",
            self.cores,
            self.file_system,
            self.pairs,
            number(self.seconds),
        )
    }
}

/// Formats a number with three significant digits, and separators between thousands.
pub(super) fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        let before_point = if value == 0.0 { 1 } else { value.abs().log10().floor() as i32 + 1 };
        let digits = usize::try_from(3 - before_point).unwrap_or(0).min(6);
        let text = format!("{value:.digits$}");
        return match text.trim_end_matches('0').trim_end_matches('.') {
            "" | "-" => "0".to_owned(),
            text => text.to_owned(),
        };
    }
    let whole = format!("{:.0}", value.abs());
    let mut text = if value < 0.0 { "-".to_owned() } else { String::new() };
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_follow_the_bounds() {
        let ratio = |value: f64| Figure::new("f", 1.0, "u").ratio(value);
        let verdict = |figure: Figure, bounds| figure.bounds(bounds).verdict();
        let at_least = Bounds::ratio_at_least(0.65, 0.5);
        assert_eq!(verdict(ratio(0.65), at_least), Some(Verdict::Met));
        assert_eq!(verdict(ratio(0.6), at_least), Some(Verdict::BelowGoal));
        assert_eq!(verdict(ratio(0.4), at_least), Some(Verdict::BelowFloor));
        let at_most = Bounds::ratio_at_most(2.0, 3.0);
        assert_eq!(verdict(ratio(1.9), at_most), Some(Verdict::Met));
        assert_eq!(verdict(ratio(2.5), at_most), Some(Verdict::BelowGoal));
        assert_eq!(verdict(ratio(3.5), at_most), Some(Verdict::BelowFloor));
        assert_eq!(verdict(Figure::new("f", 3.0, "s"), Bounds::value_at_most(2.0)), Some(Verdict::BelowGoal));
        assert_eq!(Figure::new("f", 1.0, "u").verdict(), None);
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (0.65, "0.65"),
            (0.001_234, "0.00123"),
            (30.0, "30"),
            (2.0, "2"),
            (9.876, "9.88"),
            (123.4, "123"),
            (1_234_567.8, "1,234,568"),
            (-1_500.0, "-1,500"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
