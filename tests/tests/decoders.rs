//! Files are judged in a process that has nothing and may do nothing else, and judged as they are without one.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tidemark_relayer::quality::{
    Claim,
    apart::{Apart, COMMAND},
    judge,
};
use tidemark_tests::{
    folder::{program, repository},
    story::samples::repository_samples,
};

#[tokio::test]
async fn every_sample_is_judged_apart_as_it_is_here() -> anyhow::Result<()> {
    let apart = Apart::new(program("tidemark-attestor")?, vec![COMMAND.to_owned()]);
    let samples = repository_samples()?;
    assert!(samples.len() > 40, "{}", samples.len());
    for sample in samples {
        let bytes = Bytes::from(fs::read(&sample.path)?);
        let here = judge(&bytes, Claim::parse(sample.mime).unwrap());
        assert_eq!(apart.judge(&bytes, sample.mime).await?, here, "{}", sample.name);
    }
    Ok(())
}

#[tokio::test]
async fn a_type_that_is_not_checked_is_an_error_and_no_verdict() -> anyhow::Result<()> {
    let apart = Apart::new(program("tidemark-attestor")?, vec![COMMAND.to_owned()]);
    let error = apart.judge(&Bytes::from_static(b"a"), "text/plain").await.unwrap_err();
    assert!(format!("{error:#}").contains("expected a MIME type to check, got \"text/plain\""), "{error:#}");
    Ok(())
}

/// While it waits for the file, as /proc has it.
#[test]
fn a_decoder_is_shut_in() -> anyhow::Result<()> {
    let picture = fs::read(repository().join("samples/photo/photo-006.png"))?;
    let mut child = Command::new(program("tidemark-attestor")?)
        .args([COMMAND, "image/png", &picture.len().to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let about = |process: &str, file: &str| fs::read_to_string(format!("/proc/{process}/{file}"));
    let filters = |process: &str| {
        let status = about(process, "status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
        line.map_or(0, |count| count.trim().parse::<u32>().unwrap())
    };
    let id = child.id().to_string();
    let deadline = Instant::now() + Duration::from_secs(30);
    while filters(&id) != filters("self") + 1 {
        assert!(Instant::now() < deadline, "no filter: {}", about(&id, "status")?);
        std::thread::sleep(Duration::from_millis(5));
    }
    let status = about(&id, "status")?;
    assert!(status.contains("\nNoNewPrivs:\t1\n") && status.contains("\nThreads:\t1\n"), "{status}");
    assert_eq!(about(&id, "oom_score_adj")?, "1000\n");
    let limits = about(&id, "limits")?;
    for (name, limit) in [("Max cpu time", "75"), ("Max address space", "2147483648"), ("Max core file size", "0")] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        assert_eq!(line[name.len()..].split_whitespace().next(), Some(limit), "{line}");
    }

    child.stdin.take().unwrap().write_all(&picture)?;
    let output = child.wait_with_output()?;
    assert!(output.status.success() && output.stdout.starts_with(b"decoding\n{\"outcome\":\"accepted\""), "{output:?}");
    Ok(())
}
