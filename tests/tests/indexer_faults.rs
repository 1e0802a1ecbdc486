//! The indexer's fault campaign in small: 200 kills and every other fault several times. The long ones: `scripts/faults indexer`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use tidemark_tests::{
    campaign::indexer::{self, Plan},
    progress::Progress,
    random::Random,
};

const KILLS: u32 = 200;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_when_the_tables_are_those_of_an_index_made_anew() {
    let report = indexer::run(Plan::Kills(KILLS), Random::from_environment(), &Progress::quiet()).await.unwrap();
    println!("{report}");
    assert!(report.kills >= KILLS && report.checks >= 4, "{report}");
    assert_eq!(report.faults.len(), indexer::KINDS, "{report}");
    assert!(report.done.reorgs >= 20 && report.done.again.iter().all(|count| *count > 0), "{report}");
    // what happens on the chain is of all kinds, and most of it comes into the tables
    for table in
        ["batch", "disclosure", "dataset_version", "sale", "license_transfer", "consent_withdrawal", "points_redeemed"]
    {
        assert!(report.rows[table] > 0, "{table}: {report}");
    }
}
