//! Replays the corpus through every target: what fuzzing once found stays found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use tidemark_fuzz::TARGETS;

/// A hang would be hours; a slow machine with other work takes a few seconds for the longest film.
const INPUT_TIME_MAX: Duration = Duration::from_secs(60);

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_input_of_the_corpus_keeps_every_promise() {
    for (name, target) in TARGETS {
        let folder = here().join("corpus").join(name);
        let mut inputs = 0;
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let begun = Instant::now();
            std::panic::catch_unwind(|| target(&bytes)).unwrap_or_else(|_| panic!("{}: see above", path.display()));
            assert!(begun.elapsed() < INPUT_TIME_MAX, "{}: {:?}", path.display(), begun.elapsed());
            inputs += 1;
        }
        assert!(inputs > 1, "{name}: a corpus of {inputs}");
    }
}

#[test]
fn every_target_has_a_program_and_a_corpus_and_nothing_else_has() {
    let expected: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let names = |folder: &str, ending: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(here().join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap().replace(ending, "")).collect()
    };
    assert_eq!(names("fuzz_targets", ".rs"), expected);
    assert_eq!(names("corpus", "\0"), expected);
    let manifest = fs::read_to_string(here().join("Cargo.toml")).unwrap();
    for name in &expected {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not in Cargo.toml");
    }
}
