//! Where the values of a topology stand in its text, and which of them were left out because they are wrong.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use crate::diagnostic::Span;

/// Where each value of the topology stands in the text, by its path in the file.
///
/// A path in the model differs from that in the file behind an entry that its list lost: [`Self::in_file`].
#[derive(Debug, Default)]
pub(crate) struct Positions {
    spans: HashMap<String, Place>,
    /// Values that were left out because something is wrong with them; a reference to one is not unknown.
    dropped: HashSet<String>,
    /// Everything that holds a wrong value.
    touched: HashSet<String>,
    /// For each list that lost entries, by its path in the file: the index in the file of each entry that it still has.
    kept: HashMap<String, Vec<usize>>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    key: Option<Span>,
    value: Span,
    is_scalar: bool,
}

impl Positions {
    /// Notes the place of the value at `path`; of two for one path the first counts.
    pub(crate) fn note(&mut self, path: &str, key: Option<Span>, value: Span, is_scalar: bool) {
        let place = Place { key, value, is_scalar };
        self.spans.entry(path.to_owned()).and_modify(|old| old.key = old.key.or(key)).or_insert(place);
    }

    /// The place of the value at `path`, or of the nearest thing around it that the file has.
    pub(crate) fn find(&self, path: &str) -> Span {
        match self.nearest(path) {
            Some(Place { key: Some(key), is_scalar: false, .. }) => *key,
            Some(place) => place.value,
            None => Span { line: 1, column: 1, length: 1 },
        }
    }

    /// The place of the name at `path`.
    pub(crate) fn find_name(&self, path: &str) -> Span {
        self.nearest(path)
            .map_or(Span { line: 1, column: 1, length: 1 }, |place| place.key.unwrap_or(place.value))
    }

    /// Whether the value at `path`, or one around it, was left out for an error that is reported already.
    pub(crate) fn is_dropped(&self, path: &str) -> bool {
        around(path).any(|outer| self.dropped.contains(outer))
    }

    /// Whether something inside the value at `path` is wrong, so that what it lacks need not be missing in the file.
    pub(crate) fn is_touched(&self, path: &str) -> bool {
        self.touched.contains(path)
    }

    /// Notes that the value at `path` is left out for an error that is reported.
    pub(crate) fn touch(&mut self, path: &str) {
        self.dropped.insert(path.to_owned());
        self.touch_around(path);
    }

    /// Notes that something is wrong inside the value at `path`, which stays.
    pub(crate) fn touch_around(&mut self, path: &str) {
        self.touched.extend(around(path).map(str::to_owned));
    }

    /// Notes that of the list at `list` only the entries with the indices `kept` are left.
    pub(crate) fn keep(&mut self, list: &str, kept: Vec<usize>) {
        self.kept.insert(list.to_owned(), kept);
    }

    /// The path in the file of what the model has at `path`.
    pub(crate) fn in_file<'p>(&self, path: &'p str) -> Cow<'p, str> {
        if self.kept.is_empty() {
            return Cow::Borrowed(path);
        }
        let mut out = String::with_capacity(path.len());
        for part in path.split_inclusive('[') {
            match part.split_once(']').and_then(|(index, rest)| Some((index.parse().ok()?, rest))) {
                Some((index, rest)) if out.ends_with('[') => {
                    let index = self.index_in_file(&out[..out.len() - 1], index);
                    out.push_str(&format!("{index}]{rest}"));
                }
                _ => out.push_str(part),
            }
        }
        Cow::Owned(out)
    }

    /// The index in the file of the entry that has `index` in the model, in the list at `list`.
    pub(crate) fn index_in_file(&self, list: &str, index: usize) -> usize {
        self.kept.get(list).and_then(|kept| kept.get(index)).copied().unwrap_or(index)
    }

    fn nearest(&self, path: &str) -> Option<&Place> {
        around(path).find_map(|outer| self.spans.get(outer))
    }
}

/// `path` and the paths of what it is in, from the inside out.
fn around(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| path.rfind(['.', '[']).map(|end| &path[..end]))
}
