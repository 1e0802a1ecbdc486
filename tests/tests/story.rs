//! The demo's story, as a test: every line of its closing table must be true.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tidemark_tests::{
    Options, Stack,
    progress::Progress,
    story::{closing, run, samples},
};

#[tokio::test]
async fn every_claim_of_the_closing_table_is_true() {
    tidemark::install_tls();
    let stack = Stack::start(Options { batch_events_max: 40, ..Options::default() }).await.unwrap();
    let samples = samples::repository_samples().unwrap();
    let told = run::tell(&stack, &samples, &Progress::quiet()).await.unwrap();
    let table = closing::table(&stack, &told).await.unwrap();
    assert_eq!(table.failures(), Vec::<String>::new(), "{}", table.render());
}
