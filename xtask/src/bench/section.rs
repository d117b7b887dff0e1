//! What a section of the benchmark is: its figures, what is held against what, and what the project aims at.

use anyhow::Result;
use serde::Serialize;

use super::Bench;
use super::samples::Samples;

/// One kind of figure.
#[derive(Clone, Copy)]
pub(crate) struct Figure {
    /// As in the JSON; the unit last.
    pub(crate) name: &'static str,
    /// As in the tables, with its unit.
    pub(crate) title: &'static str,
    /// What a better one is.
    pub(crate) better: Better,
    /// Whether it says what another figure cost: such ones have a table of their own.
    pub(crate) is_cost: bool,
}

/// Which way a figure should go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    More,
    Less,
    /// It says under what conditions others were taken.
    Neither,
}

impl Figure {
    pub(crate) const fn more(name: &'static str, title: &'static str) -> Figure {
        Figure { name, title, better: Better::More, is_cost: false }
    }

    pub(crate) const fn less(name: &'static str, title: &'static str) -> Figure {
        Figure { name, title, better: Better::Less, is_cost: false }
    }

    pub(crate) const fn neutral(name: &'static str, title: &'static str) -> Figure {
        Figure { name, title, better: Better::Neither, is_cost: false }
    }

    pub(crate) const fn cost(name: &'static str, title: &'static str) -> Figure {
        Figure { name, title, better: Better::Less, is_cost: true }
    }
}

/// A bound that the project aims at.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    pub(crate) fn is_met(self, value: f64) -> bool {
        match self {
            Bound::AtLeast(bound) => value >= bound,
            Bound::AtMost(bound) => value <= bound,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Bound::AtLeast(bound) => write!(f, ">= {bound}"),
            Bound::AtMost(bound) => write!(f, "<= {bound}"),
        }
    }
}

/// What a figure should come to: by itself, or divided by another path's.
#[derive(Clone, Copy)]
pub(crate) struct Aim {
    pub(crate) figure: &'static str,
    /// None: every path.
    pub(crate) path: Option<&'static str>,
    pub(crate) against: Option<&'static str>,
    pub(crate) bound: Bound,
}

impl Aim {
    /// A quotient of two paths.
    pub(crate) const fn ratio(
        figure: &'static str,
        path: &'static str,
        against: &'static str,
        bound: Bound,
    ) -> Aim {
        Aim { figure, path: Some(path), against: Some(against), bound }
    }

    /// A figure of each path by itself.
    pub(crate) const fn each(figure: &'static str, bound: Bound) -> Aim {
        Aim { figure, path: None, against: None, bound }
    }

    /// A figure of one path by itself.
    pub(crate) const fn one(figure: &'static str, path: &'static str, bound: Bound) -> Aim {
        Aim { figure, path: Some(path), against: None, bound }
    }
}

/// A part of the benchmark that can run by itself.
pub(crate) struct Section {
    /// As on the command line and in the JSON.
    pub(crate) name: &'static str,
    /// As over its tables.
    pub(crate) title: &'static str,
    /// Its figures, in the order of the tables.
    pub(crate) figures: &'static [Figure],
    /// Path and what it is held against.
    pub(crate) pairs: &'static [(&'static str, &'static str)],
    /// What the project aims at.
    pub(crate) aims: &'static [Aim],
    /// Whether `--quick` takes it.
    pub(crate) is_quick: bool,
    /// Takes the figures.
    pub(crate) measure: fn(&Bench) -> Result<Samples>,
}
