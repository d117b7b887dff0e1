//! Where the values of a topology stand in its text, and which of them were left out because they are wrong.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::diagnostic::Span;

/// Where each value of the topology stands in the text, by its path in the file.
///
/// A path in the model differs from that in the file behind an entry that its list lost: [`Self::in_file`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Positions {
    spans: Arc<HashMap<String, Place>>,
    /// Entries that were read anew, in their order: each replaces what is known of the entry, and moves what stands behind it.
    patches: Vec<Arc<Patch>>,
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

/// One entry of a section, read anew in a text that has changed nowhere else.
#[derive(Debug)]
pub(crate) struct Patch {
    /// The entry's path.
    pub(crate) path: String,
    /// Where the values of the entry stand.
    pub(crate) positions: Positions,
    /// The last line of the entry in the former text.
    pub(crate) last_line: u32,
    /// How far lines behind it have moved.
    pub(crate) moved_lines: i64,
}

/// Patches that a look-up takes the time for.
const PATCHES_MAX: usize = 64;

impl Patch {
    fn covers(&self, path: &str) -> bool {
        path.strip_prefix(&self.path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }

    fn moved(&self, span: Span) -> Span {
        if span.line <= self.last_line {
            return span;
        }
        // Lines stay within the text, which has fewer than 2^32.
        Span { line: (i64::from(span.line) + self.moved_lines) as u32, ..span }
    }
}

impl Positions {
    /// The positions in a text of which one entry has changed; none where there have been too many changes, or where
    /// something was left out.
    pub(crate) fn patched(&self, patch: Patch) -> Option<Positions> {
        let is_whole = |positions: &Positions| {
            positions.dropped.is_empty() && positions.touched.is_empty() && positions.kept.is_empty()
        };
        if self.patches.len() >= PATCHES_MAX || !is_whole(self) || !is_whole(&patch.positions) {
            return None;
        }
        let mut patches = self.patches.clone();
        patches.push(Arc::new(patch));
        Some(Positions { spans: Arc::clone(&self.spans), patches, ..Positions::default() })
    }

    /// The place of the name at `path`, if the text has it.
    pub(crate) fn name_at(&self, path: &str) -> Option<Span> {
        self.place(path)?.key
    }

    fn place(&self, path: &str) -> Option<Place> {
        let newest = self.patches.iter().rposition(|patch| patch.covers(path));
        let place = match newest {
            Some(index) => self.patches[index].positions.spans.get(path)?,
            None => self.spans.get(path)?,
        };
        let later = &self.patches[newest.map_or(0, |index| index + 1)..];
        let moved = |span: Span| later.iter().fold(span, |span, patch| patch.moved(span));
        Some(Place { key: place.key.map(moved), value: moved(place.value), ..*place })
    }

    /// Notes the place of the value at `path`; of two for one path the first counts.
    pub(crate) fn note(&mut self, path: &str, key: Option<Span>, value: Span, is_scalar: bool) {
        let place = Place { key, value, is_scalar };
        let spans = Arc::make_mut(&mut self.spans);
        spans.entry(path.to_owned()).and_modify(|old| old.key = old.key.or(key)).or_insert(place);
    }

    /// The place of the value at `path`, or of the nearest thing around it that the file has.
    pub(crate) fn find(&self, path: &str) -> Span {
        match self.nearest(path) {
            Some(Place { key: Some(key), is_scalar: false, .. }) => key,
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

    fn nearest(&self, path: &str) -> Option<Place> {
        around(path).find_map(|outer| self.place(outer))
    }
}

/// `path` and the paths of what it is in, from the inside out.
fn around(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| path.rfind(['.', '[']).map(|end| &path[..end]))
}
