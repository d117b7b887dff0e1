//! No input makes the loader panic, hang or eat memory.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use vnet_config::{Attachments, DIAGNOSTICS_MAX, TEXT_BYTES_MAX, load_with};

fn yaml_files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(folder).expect("a folder");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    paths
}

/// Texts to start from: what is right, and what is wrong in many ways.
static SEEDS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let paths = yaml_files("../examples").into_iter().chain(yaml_files("tests/bad"));
    let mut texts: Vec<String> = paths.map(|path| fs::read_to_string(path).expect("a text")).collect();
    let table = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/refusals.txt"));
    let cases = table.expect("the table of refusals");
    let cases = cases.split("\n## ").skip(1).filter_map(|case| {
        let (_, text) = case.split_once('\n')?;
        Some(format!("name: lab\n{}", text.split("--\n").next()?))
    });
    texts.extend(cases);
    texts
});

/// Loads `text` and checks what holds for every outcome.
fn try_load(text: &str) {
    match load_with(text, "random.yaml", &Attachments::default()) {
        Ok(loaded) => {
            let again = vnet_config::diff(&loaded.topology, &loaded.topology);
            assert!(again.is_empty(), "a topology differs from itself: {again:?}");
        }
        Err(found) => {
            assert!(found.has_errors());
            assert!(found.list.len() <= DIAGNOSTICS_MAX);
            let lines = text.matches(['\n', '\r']).count() as u32 + 1;
            for diagnostic in &found.list {
                assert!(diagnostic.line <= lines, "{diagnostic}");
                assert!(!diagnostic.to_string().is_empty());
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Edit {
    Cut { at: usize, length: usize },
    Insert { at: usize, text: String },
    Swap { a: usize, b: usize },
    Splice { at: usize, seed: usize, from: usize, length: usize },
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let words = prop_oneof![
        "[\\PC\n\t]{0,6}",
        Just("null".to_owned()),
        Just("{}".to_owned()),
        Just("[]".to_owned()),
        Just(": &a ".to_owned()),
        Just("*a".to_owned()),
        Just("0.0.0.0/0".to_owned()),
        Just("::/0".to_owned()),
        Just("10.0.0.0/8".to_owned()),
        Just("-1".to_owned()),
        Just("18446744073709551616".to_owned()),
        Just("1e999".to_owned()),
        Just(".nan".to_owned()),
    ];
    let edit = prop_oneof![
        (any::<usize>(), 0..40usize).prop_map(|(at, length)| Edit::Cut { at, length }),
        (any::<usize>(), words).prop_map(|(at, text)| Edit::Insert { at, text }),
        (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Edit::Swap { a, b }),
        (any::<usize>(), any::<usize>(), any::<usize>(), 0..200usize)
            .prop_map(|(at, seed, from, length)| Edit::Splice { at, seed, from, length }),
    ];
    prop::collection::vec(edit, 1..6)
}

fn apply(text: &str, edits: &[Edit]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for edit in edits {
        let size = chars.len();
        match edit {
            _ if size == 0 => break,
            Edit::Cut { at, length } => {
                let start = at % size;
                chars.drain(start..(start + length).min(size));
            }
            Edit::Insert { at, text } => {
                let start = at % size;
                chars.splice(start..start, text.chars());
            }
            Edit::Swap { a, b } => chars.swap(a % size, b % size),
            Edit::Splice { at, seed, from, length } => {
                let other: Vec<char> = SEEDS[seed % SEEDS.len()].chars().collect();
                let from = from % other.len();
                let start = at % size;
                chars.splice(start..start, other[from..(from + length).min(other.len())].iter().copied());
            }
        }
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        try_load(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn random_yaml_never_panics(text in "[a-c0-9:,\\-\\[\\]{}&*!|>'\"#%@? \n\t]{0,120}") {
        try_load(&text);
    }

    #[test]
    fn changed_files_never_panic(seed in any::<usize>(), edits in edits()) {
        try_load(&apply(&SEEDS[seed % SEEDS.len()], &edits));
    }
}

#[test]
fn a_file_of_50_mb_is_refused_with_one_message() {
    let folder = std::env::temp_dir().join(format!("vnet-config-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("large.yaml");
    let text = "# this line is repeated\n".repeat(50 * 1024 * 1024 / 24);
    fs::write(&path, &text).expect("a file");
    let from_disk = vnet_config::load_file(&path);
    let from_text = vnet_config::load(&text, "-", None);
    fs::remove_dir_all(&folder).expect("the folder goes");

    let found = from_disk.expect_err("it is too large");
    assert_eq!(found.list.len(), 1);
    assert!(found.list[0].message.contains("more than 8 MiB"), "{found}");
    let found = from_text.expect_err("it is too large");
    assert_eq!((found.list.len(), found.list[0].rule.as_ref()), (1, "file-too-large"));
}

#[test]
fn a_bomb_is_refused_quickly() {
    let mut text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, before) in ('b'..='z').zip('a'..) {
        let list = vec![format!("*{before}"); 10].join(", ");
        text.push_str(&format!("{name}: &{name} [{list}]\n"));
    }
    let long_text = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 100_000].join(", "));
    for text in [text, long_text] {
        let start = Instant::now();
        let found = vnet_config::load(&text, "bomb.yaml", None).expect_err("it is a bomb");
        assert_eq!((found.list.len(), found.list[0].rule.as_ref()), (1, "too-many-values"), "{found}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
}

#[test]
fn hostile_shapes_are_refused_quickly() {
    let open = "[".repeat(TEXT_BYTES_MAX / 2);
    let keys = "? ".repeat(TEXT_BYTES_MAX / 4);
    let colons = ": ".repeat(100_000);
    let dashes = "- ".repeat(100_000);
    let anchors: String = (0..20_000).map(|index| format!("k{index}: &a{index} v\n")).collect();
    let errors: String = std::iter::once("name: lab\n".to_owned())
        .chain((0..20_000).map(|index| format!("k{index}: v\n")))
        .collect();
    for text in [open, keys, colons, dashes, anchors, errors] {
        let start = Instant::now();
        try_load(&text);
        assert!(start.elapsed() < Duration::from_secs(20), "{:?} for {:?}", start.elapsed(), &text[..20]);
    }
}

#[test]
fn a_topology_of_the_largest_size_loads() {
    let mut text = "name: large\nvirtualNetworks:\n".to_owned();
    for index in 0..1_000 {
        let (high, low) = (index / 250, index % 250);
        text.push_str(&format!(
            "  n{index}: {{addressSpace: [10.{low}.{}.0/24], subnets: {{a: 10.{low}.{}.0/24}}}}\n",
            high * 8,
            high * 8
        ));
    }
    text.push_str("virtualMachines:\n");
    for index in 0..1_000 {
        text.push_str(&format!("  m{index}: {{subnet: n{index}/a}}\n"));
    }
    let start = Instant::now();
    let loaded = vnet_config::load(&text, "large.yaml", None).expect("it loads");
    println!("1,000 networks and machines: {:?}", start.elapsed());
    assert_eq!(loaded.topology.virtual_machines.len(), 1_000);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
