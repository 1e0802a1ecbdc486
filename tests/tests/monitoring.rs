//! Dashboard and alert rules name only metrics that the code emits, and each alert has its runbook.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::Value;
use tidemark_tests::folder::repository;

/// A room with a dashboard and alerts.
struct Room {
    name: &'static str,
    /// Where its runbooks are.
    guide: &'static str,
}

const ROOMS: [Room; 2] =
    [Room { name: "relayer", guide: "docs/operate-relayer.md" }, Room { name: "indexer", guide: "docs/operate.md" }];

fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
}

/// Names of the metrics in a room's code and in what all services share, with their type.
fn emitted(room: &Room) -> BTreeMap<String, &'static str> {
    let mut text = String::new();
    sources(&repository().join(room.name).join("src"), &mut text);
    sources(&repository().join("sdk/src"), &mut text);
    let mut found = BTreeMap::new();
    for kind in ["counter", "gauge", "histogram"] {
        for part in text.split(&format!("{kind}!(")).skip(1) {
            let name = part.trim_start().strip_prefix('"').expect("a metric's name is a literal");
            found.insert(name.split('"').next().unwrap().to_owned(), kind);
        }
    }
    found
}

/// The metrics that a PromQL expression names: its words but for labels, functions, keywords and what groups.
fn named(expression: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = expression.to_owned();
    for (open, close) in [('{', '}'), ('[', ']'), ('"', '"')] {
        while let Some(start) = rest.find(open) {
            let end = rest[start + 1..].find(close).map(|end| start + 1 + end).expect("brackets that close");
            rest.replace_range(start..=end, " ");
        }
    }
    for word in ["by", "without"] {
        while let Some(start) = rest.find(&format!("{word} (")) {
            let end = start + rest[start..].find(')').unwrap();
            rest.replace_range(start..=end, " ");
        }
    }
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut at = 0;
    while let Some(start) = rest[at..].find(|c: char| c.is_ascii_alphabetic()).map(|start| at + start) {
        let end = rest[start..].find(|c| !is_word(c)).map_or(rest.len(), |end| start + end);
        let is_function = rest[end..].trim_start().starts_with('(');
        let is_number = start > 0 && rest[..start].ends_with(|c: char| c.is_ascii_digit());
        let word = &rest[start..end];
        if !is_function && !is_number && !["and", "or", "unless"].contains(&word) {
            found.insert(word.to_owned());
        }
        at = end;
    }
    found
}

fn check(expression: &str, emitted: &BTreeMap<String, &'static str>) {
    let names = named(expression);
    assert!(!names.is_empty(), "{expression}");
    for name in names {
        // Prometheus's own
        if name == "up" {
            continue;
        }
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
        let is_histogram = base.is_some_and(|base| emitted.get(base) == Some(&"histogram"));
        let is_plain = emitted.get(&name).is_some_and(|kind| *kind != "histogram");
        assert!(is_histogram || is_plain, "no code emits {name}: {expression}");
        if emitted.get(&name) == Some(&"counter") {
            assert!(
                expression.contains("rate(") || expression.contains("increase("),
                "a counter as it is: {expression}"
            );
        }
    }
}

#[test]
fn names_follow_prometheus_with_base_units() {
    for room in &ROOMS {
        let emitted = emitted(room);
        assert!(emitted.len() > 15, "{emitted:?}");
        for (name, kind) in &emitted {
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == "counter", "{name} is a {kind}");
            assert!(*kind != "histogram" || name.ends_with("_seconds"), "{name}");
            assert!(["_ms", "_millis", "_kb", "_minutes"].iter().all(|unit| !name.ends_with(unit)), "{name}");
        }
    }
}

#[test]
fn every_panel_asks_for_metrics_that_are_there() {
    for room in &ROOMS {
        let emitted = emitted(room);
        let text = std::fs::read_to_string(repository().join(room.name).join("ops/dashboard.json")).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        assert!(panels.len() > 10);
        for panel in panels {
            for target in panel["targets"].as_array().unwrap() {
                check(target["expr"].as_str().unwrap(), &emitted);
            }
        }
    }
}

#[test]
fn every_alert_asks_for_metrics_that_are_there_and_has_a_runbook() {
    for room in &ROOMS {
        let emitted = emitted(room);
        let rules = std::fs::read_to_string(repository().join(room.name).join("ops/alerts.yml")).unwrap();
        let guide = std::fs::read_to_string(repository().join(room.guide)).unwrap();
        let values = |key: &str| -> Vec<String> {
            let lines = rules.lines().filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(key));
            lines.map(|value| value.trim().trim_matches('\'').to_owned()).collect()
        };
        let (alerts, expressions, runbooks) = (values("alert:"), values("expr:"), values("runbook:"));
        assert!(alerts.len() > 10);
        assert_eq!((alerts.len(), alerts.len()), (expressions.len(), runbooks.len()));
        for ((alert, expression), runbook) in alerts.iter().zip(&expressions).zip(&runbooks) {
            check(expression, &emitted);
            assert_eq!(*runbook, format!("{}#{}", room.guide, alert.to_lowercase()));
            assert!(guide.contains(&format!("\n### {alert}\n")), "{alert} has no runbook");
        }
    }
}

#[test]
fn a_metric_that_nothing_emits_is_found() {
    let emitted = emitted(&ROOMS[0]);
    let wrong = ["max(backlog_age_ms) > 1", "rate(nothing_total[5m])", "http_request_seconds > 1", "requests_bucket"];
    for expression in wrong {
        assert!(std::panic::catch_unwind(|| check(expression, &emitted)).is_err(), "{expression}");
    }
    assert_eq!(
        named(r#"histogram_quantile(0.95, sum by (le, route) (rate(a_bucket{x="b c"}[5m]))) > 1e18 and max(d) == 0"#),
        BTreeSet::from(["a_bucket".to_owned(), "d".to_owned()])
    );
}
