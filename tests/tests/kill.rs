//! Kill -9 in the middle of everything: each accepted record is anchored and credited exactly once, whatever died when.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use serde_json::Value;
use tidemark::ids::DataId;
use tidemark_tests::{
    Options, Stack,
    random::Random,
    story::{
        doors::{Doors, meta},
        finality, market,
        people::Contributor,
        samples::{Expected, Sample, repository_samples},
        strangers,
        world::World,
    },
};

/// How often each of the services is killed.
const KILLS: u64 = 4;

/// Uploads as an app does that has lost its answer: again, the same, until there is one.
async fn upload_until_answered(doors: &Doors, meta: &Value, sample: &Sample) -> Value {
    let bytes = std::fs::read(&sample.path).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Ok(answer) = doors.post_upload(meta, sample.mime, bytes.clone()).await {
            let status = answer.status();
            let text = answer.text().await.unwrap_or_default();
            if status.is_success()
                && let Ok(answer) = serde_json::from_str(&text)
            {
                return answer;
            }
            assert!(status.is_server_error() || status.is_success(), "{}: {status}: {text}", sample.name);
        }
        assert!(Instant::now() < deadline, "{} is not answered", sample.name);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn every_accepted_record_is_anchored_and_credited_once_whichever_service_is_killed_when() -> anyhow::Result<()> {
    tidemark::install_tls();
    let mut random = Random::from_environment();
    let options = Options { batch_events_max: 8, batch_age_ms_max: 300, ..Options::default() };
    let mut stack = Stack::start(options).await?;
    let world = World::build(&stack, [20, 20, 20]).await?;
    let doors = Doors::new(&stack, &world)?;
    let group = Contributor::group(8);
    let samples: Vec<Sample> =
        repository_samples()?.into_iter().filter(|sample| matches!(sample.expected, Expected::Accepted)).collect();

    // uploads go on while services die; each is repeated until it is answered
    let uploads = async {
        let mut answers = Vec::new();
        for (at, sample) in samples.iter().enumerate() {
            let person = &group[at % group.len()];
            let meta = meta(&world, sample, person).unwrap();
            let answer = upload_until_answered(&doors, &meta, sample).await;
            assert_eq!(answer["status"], "accepted", "{answer}");
            answers.push((person.has_wallet, answer));
        }
        answers
    };
    let kills = async {
        for _ in 0..KILLS {
            for which in 0..3 {
                tokio::time::sleep(Duration::from_millis(random.below(700))).await;
                let service = match which {
                    0 => &mut stack.relayer,
                    1 => &mut stack.attestor,
                    _ => &mut stack.indexer,
                };
                let service = service.as_mut().unwrap();
                service.kill();
                tokio::time::sleep(Duration::from_millis(random.below(200))).await;
                service.restart().await.unwrap();
            }
        }
    };
    let (answers, ()) = tokio::join!(uploads, kills);

    let records: Vec<(DataId, usize)> =
        answers.iter().map(|(_, answer)| (answer["data_id"].as_str().unwrap().parse().unwrap(), 2)).collect();
    let history = market::history(&stack)?;
    let batches = finality::anchored(&history, &world, &records).await?;
    let mut seen = BTreeMap::new();
    for (number, batch) in batches.iter().enumerate() {
        assert_eq!(batch.anchored.header.number, number as u64, "no gap, no repetition");
        assert_eq!(batch.difference(), None);
        for event in &batch.manifest.events {
            *seen.entry((event.data_id, event.sequence)).or_insert(0) += 1;
        }
    }
    assert!(seen.values().all(|count| *count == 1), "an event was anchored twice");
    assert_eq!(seen.len(), 2 * records.len(), "nothing lost, nothing made up");

    let points: Vec<_> = answers
        .iter()
        .filter(|(has_wallet, _)| !has_wallet)
        .map(|(_, answer)| {
            let account = answer["contributor"].as_str().unwrap().parse().unwrap();
            (account, answer["reward"].as_str().unwrap().parse::<u128>().unwrap())
        })
        .collect();
    finality::credited(&stack, &points).await?;
    strangers::second_indexer(&stack, "indexer").await?;
    Ok(())
}
