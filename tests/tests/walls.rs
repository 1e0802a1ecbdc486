//! Keeps the walls of the house: who may depend on whom, and that no table is touched from two rooms.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

const ROOMS: [&str; 3] = ["relayer", "indexer", "custodian"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Names on the left of the dependency tables of a crate.
fn dependencies(room: &str) -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join(room).join("Cargo.toml")).unwrap();
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line.contains("dependencies");
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            names.insert(line.split(['.', '=', ' ']).next().unwrap().to_owned());
        }
    }
    names
}

fn files(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

#[test]
fn the_sdk_depends_on_no_other_room_and_the_rooms_not_on_each_other() {
    assert!(dependencies("sdk").iter().all(|name| !name.starts_with("tidemark")), "sdk must stand alone");
    for room in ROOMS {
        let names = dependencies(room);
        assert!(names.contains("tidemark"), "{room} speaks the protocol through the sdk");
        let others: Vec<_> = names.iter().filter(|name| name.starts_with("tidemark-")).collect();
        assert!(others.is_empty(), "{room} may not depend on {others:?}");
    }
}

/// The tables that a room's migrations create, by the folder of the migrations: one folder, one database.
fn tables() -> BTreeMap<String, BTreeSet<String>> {
    let mut by_folder = BTreeMap::new();
    for room in ROOMS {
        let mut found = Vec::new();
        files(&root().join(room), "sql", &mut found);
        for path in found {
            let folder = path.parent().unwrap().strip_prefix(root()).unwrap().display().to_string();
            let names: &mut BTreeSet<String> = by_folder.entry(folder).or_default();
            let sql = std::fs::read_to_string(&path).unwrap().to_lowercase();
            for part in sql.split("create table ").skip(1) {
                let name = part.trim_start_matches("if not exists ").split([' ', '(', '\n']).next().unwrap();
                names.insert(name.rsplit('.').next().unwrap().to_owned());
            }
        }
    }
    by_folder
}

/// The words after FROM, JOIN, INTO, UPDATE and COPY in a source file's strings that could be table names.
fn touched(source: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut words = source.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let keyword = word.trim_start_matches(['"', '(', '\\']);
        if ["FROM", "JOIN", "INTO", "UPDATE", "COPY"].contains(&keyword)
            && let Some(next) = words.peek()
        {
            let name: String = next.chars().take_while(|c| c.is_ascii_alphanumeric() || "_.".contains(*c)).collect();
            names.insert(name.rsplit('.').next().unwrap().to_lowercase());
        }
    }
    names
}

#[test]
fn no_room_touches_a_table_that_another_room_s_database_holds() {
    let tables = tables();
    assert!(tables.len() >= 4, "expected migrations of relayer, attestor, indexer and custodian, got {tables:?}");
    for room in ROOMS {
        let own: BTreeSet<&String> =
            tables.iter().filter(|(folder, _)| folder.starts_with(room)).flat_map(|(_, names)| names).collect();
        let mut sources = Vec::new();
        files(&root().join(room).join("src"), "rs", &mut sources);
        let mut seen = 0;
        for path in sources {
            let source = std::fs::read_to_string(&path).unwrap();
            for name in touched(&source) {
                seen += usize::from(own.contains(&name));
                let foreign = tables.iter().find(|(folder, names)| !folder.starts_with(room) && names.contains(&name));
                if let Some((folder, _)) = foreign {
                    assert!(own.contains(&name), "{} touches {name} of {folder}", path.display());
                }
            }
        }
        assert!(seen > 0, "{room}: no SQL was found, so this test looks in the wrong place");
    }
}

#[test]
fn a_foreign_table_would_be_seen() {
    assert!(touched("sqlx::query(\"SELECT 1 FROM relayer_secret WHERE x\")").contains("relayer_secret"));
    assert!(touched("\"INSERT INTO mirror.cursor (a) VALUES ($1)\"").contains("cursor"));
}
