//! The fault campaign in small: 200 kills and every other fault several times. The long one: `scripts/faults`.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use tidemark_tests::{campaign, progress::Progress, random::Random};

const KILLS: u32 = 200;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_when_each_accepted_record_is_anchored_once_and_paid_once() {
    let report = campaign::run(KILLS, Random::from_environment(), &Progress::quiet()).await.unwrap();
    println!("{report}");
    assert!(report.kills >= KILLS && report.checks > 4, "{report}");
    assert_eq!(report.faults.len() + usize::from(report.left_out.is_some()), campaign::KINDS, "{report}");
}
