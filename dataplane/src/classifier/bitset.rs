//! Sets of rules: one dense set that a dimension has once, and many sparse ones.

/// A set with every word stored, and a bit of summary for each word that is not zero.
#[derive(Clone, Debug, Default)]
pub(super) struct Dense {
    summary: Vec<u64>,
    words: Vec<u64>,
}

impl Dense {
    pub(super) fn new(rules: usize) -> Dense {
        let words = rules.div_ceil(64);
        Dense { summary: vec![0; words.div_ceil(64)], words: vec![0; words] }
    }

    pub(super) fn insert(&mut self, rule: usize) {
        let word = rule / 64;
        self.words[word] |= 1 << (rule % 64);
        self.summary[word / 64] |= 1 << (word % 64);
    }
}

/// Many sets in one allocation each for summaries and words; a set stores only its words that are not zero.
#[derive(Clone, Debug, Default)]
pub(super) struct SparseSets {
    blocks: usize,
    /// For each set, `blocks` summaries with the index of the first word that each stands for.
    summaries: Vec<(u64, u32)>,
    words: Vec<u64>,
}

impl SparseSets {
    pub(super) fn new(rules: usize) -> SparseSets {
        SparseSets { blocks: rules.div_ceil(64).div_ceil(64), summaries: Vec::new(), words: Vec::new() }
    }

    /// Adds a set of rules in ascending order, and returns its index.
    pub(super) fn push(&mut self, rules: impl Iterator<Item = u32>) -> u32 {
        let index = self.summaries.len() / self.blocks.max(1);
        let start = self.summaries.len();
        self.summaries.resize(start + self.blocks, (0, 0));
        let mut last_word = usize::MAX;
        for rule in rules {
            let (word, bit) = (rule as usize / 64, rule % 64);
            if word != last_word {
                let summary = &mut self.summaries[start + word / 64];
                if summary.0 == 0 {
                    summary.1 = self.words.len() as u32;
                }
                summary.0 |= 1 << (word % 64);
                self.words.push(0);
                last_word = word;
            }
            if let Some(word) = self.words.last_mut() {
                *word |= 1 << bit;
            }
        }
        index as u32
    }
}

/// The rules that one dimension allows for one value.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row<'a> {
    any: &'a Dense,
    sets: &'a SparseSets,
    /// Where the value's summaries begin; none if only `any` counts.
    start: Option<usize>,
}

impl<'a> Row<'a> {
    pub(super) fn new(any: &'a Dense, sets: &'a SparseSets, set: Option<u32>) -> Row<'a> {
        Row { any, sets, start: set.map(|set| set as usize * sets.blocks) }
    }

    pub(super) fn summary(&self, block: usize) -> u64 {
        let own = self.start.map_or(0, |start| self.sets.summaries[start + block].0);
        self.any.summary[block] | own
    }

    pub(super) fn word(&self, word: usize) -> u64 {
        let any = self.any.words[word];
        let Some(start) = self.start else { return any };
        let (summary, first) = self.sets.summaries[start + word / 64];
        let bit = 1 << (word % 64);
        if summary & bit == 0 {
            return any;
        }
        any | self.sets.words[first as usize + (summary & (bit - 1)).count_ones() as usize]
    }
}
