//! Replays the corpus through every target: what fuzzing once found stays found.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidemark::{
    manifest::{Manifest, decode_disclosures},
    release::ReleaseRequest,
    verdict::Outcome,
};
use tidemark_custodian::check;
use tidemark_fuzz::{
    TARGETS,
    protocol::custodian,
    writing::{MIMES, SIGNED_AT, request},
};
use tidemark_relayer::{
    api::{
        signature::Signed,
        trace::{
            BATCH_COLUMNS, UPDATE_COLUMNS,
            body::{self, Format},
        },
    },
    quality::{Claim, judge},
};

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

/// Fuzzing starts from what is taken: a corpus of refusals would never get behind the first check.
#[test]
fn seeds_are_taken_and_not_refused() {
    let seed = |target: &str, name: &str| {
        let path = here().join("corpus").join(target).join(format!("seed-{name}"));
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    for entry in fs::read_dir(here().join("corpus/media")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let judgement = judge(&bytes[1..], Claim::parse(MIMES[usize::from(bytes[0])]).unwrap());
        let is_good = !path.display().to_string().contains("bad-");
        assert_eq!(judgement.outcome == Outcome::Accepted, is_good, "{}: {judgement:?}", path.display());
    }
    let forms = [Format::Json, Format::Ndjson, Format::Csv, Format::Txt];
    for (door, columns) in [(0, BATCH_COLUMNS), (4, UPDATE_COLUMNS)] {
        for (at, format) in forms.into_iter().enumerate() {
            let plain = seed("trace", &format!("{door}-{at}"));
            let inflated =
                body::inflate(&Bytes::from(seed("trace", &format!("{door}-{at}-gzip"))[1..].to_vec())).unwrap();
            assert_eq!(inflated, plain[1..]);
            let items = body::items(format, columns, &inflated, Ok).unwrap();
            assert_eq!(items.len(), 2, "{format:?}");
        }
    }
    for name in ["post", "get"] {
        let text = String::from_utf8(seed("signatures", name)).unwrap();
        assert!(Signed::read(&request(&text).unwrap(), SIGNED_AT).is_ok(), "{name}");
    }
    let table = |name: &str| Bytes::from(seed("tables", name)[1..].to_vec());
    assert!(!Manifest::decode(table("manifest")).unwrap().events.is_empty());
    assert!(!decode_disclosures(table("disclosures")).unwrap().is_empty());
    let release: ReleaseRequest = serde_json::from_slice(&seed("release", "request")).unwrap();
    check::request(&release, &custodian().public_key(), release.deadline).unwrap();
}
