//! The figures that were taken, and what they come to.

use indexmap::IndexMap;
use serde::Serialize;

/// The figures of one section, by path and figure, in the order of the rounds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Samples(IndexMap<String, IndexMap<&'static str, Vec<f64>>>);

/// Several figures of one kind, as one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Summary {
    fn of(mut values: Vec<f64>) -> Option<Summary> {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            *values.get(middle)?
        } else {
            f64::midpoint(*values.get(middle.checked_sub(1)?)?, *values.get(middle)?)
        };
        Some(Summary { median, min: *values.first()?, max: *values.last()? })
    }
}

impl Samples {
    /// Takes in one figure.
    pub(crate) fn add(&mut self, path: &str, figure: &'static str, value: f64) {
        self.0.entry(path.to_owned()).or_default().entry(figure).or_default().push(value);
    }

    /// Takes in the figures of one measure.
    pub(crate) fn extend(&mut self, path: &str, figures: impl IntoIterator<Item = (&'static str, f64)>) {
        for (figure, value) in figures {
            self.add(path, figure, value);
        }
    }

    /// The paths, as they came.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Without the figures of a path.
    pub(crate) fn forget(&mut self, path: &str) {
        self.0.shift_remove(path);
    }

    /// With the paths in this order.
    pub(crate) fn in_order<'a>(mut self, paths: impl Iterator<Item = &'a str>) -> Samples {
        Samples(paths.filter_map(|path| self.0.swap_remove_entry(path)).collect())
    }

    /// What the figures of one kind on one path come to.
    pub(crate) fn summary(&self, path: &str, figure: &str) -> Option<Summary> {
        Summary::of(self.0.get(path)?.get(figure)?.clone())
    }

    /// One path's median by another's; least and most are those of the quotients of single rounds, whose two halves
    /// were measured one shortly after the other.
    pub(crate) fn ratio(&self, figure: &str, path: &str, against: &str) -> Option<Summary> {
        let (own, other) = (self.summary(path, figure)?, self.summary(against, figure)?);
        let rounds =
            self.0[path][figure].iter().zip(&self.0[against][figure]).map(|(own, other)| own / other);
        let spread = Summary::of(rounds.collect())?;
        Some(Summary { median: own.median / other.median, ..spread })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_median() {
        let mut samples = Samples::default();
        for value in [9.0, 1.0, 3.0] {
            samples.add("a", "b", value);
        }
        assert_eq!(samples.summary("a", "b"), Some(Summary { median: 3.0, min: 1.0, max: 9.0 }));
        samples.add("a", "b", 5.0);
        assert_eq!(samples.summary("a", "b").map(|summary| summary.median), Some(4.0));
        assert_eq!(samples.summary("a", "c"), None);
    }

    #[test]
    fn divides_medians_and_shows_the_spread_of_rounds() {
        let mut samples = Samples::default();
        for (own, other) in [(8.0, 10.0), (18.0, 20.0), (30.0, 30.0)] {
            samples.add("own", "rate", own);
            samples.add("other", "rate", other);
        }
        assert_eq!(samples.ratio("rate", "own", "other"), Some(Summary { median: 0.9, min: 0.8, max: 1.0 }));
        assert_eq!(samples.ratio("rate", "own", "nobody"), None);
    }
}
