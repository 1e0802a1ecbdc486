//! Files are judged in a process that has nothing and may do nothing else, and judged as they are without one.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    io::{Read, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use flate2::{Compression, Crc, write::ZlibEncoder};
use tidemark::verdict::Outcome;
use tidemark_relayer::{
    attestor::sandbox::{COMMAND, Sandbox},
    quality::{Claim, judge},
};
use tidemark_tests::{
    folder::{program, repository},
    story::samples::repository_samples,
};

#[tokio::test]
async fn every_sample_is_judged_in_the_sandbox_as_outside_of_it() -> anyhow::Result<()> {
    let sandbox = Sandbox::new(program("tidemark-attestor")?, vec![COMMAND.to_owned()]);
    let samples = repository_samples()?;
    assert!(samples.len() > 40, "{}", samples.len());
    for sample in samples {
        let bytes = Bytes::from(fs::read(&sample.path)?);
        let here = judge(&bytes, Claim::parse(sample.mime).unwrap());
        assert_eq!(sandbox.judge(&bytes, sample.mime).await?, here, "{}", sample.name);
    }
    Ok(())
}

/// A PNG of 8192 pixels a side of 8 bytes, all black and clear: zeros, which compress to little.
fn largest_picture() -> std::io::Result<Vec<u8>> {
    const SIDE: u32 = 8_192;
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut chunk = |kind: &[u8; 4], body: &[u8]| {
        let mut crc = Crc::new();
        crc.update(kind);
        crc.update(body);
        file.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
        file.extend([kind, body, &crc.sum().to_be_bytes()].concat());
    };
    // 16 bits, colour with alpha
    chunk(b"IHDR", &[&SIDE.to_be_bytes()[..], &SIDE.to_be_bytes(), &[16, 6, 0, 0, 0]].concat());
    // each row has a byte for its filter before it
    let mut rows = ZlibEncoder::new(Vec::new(), Compression::fast());
    std::io::copy(&mut std::io::repeat(0).take(u64::from(SIDE) * (1 + u64::from(SIDE) * 8)), &mut rows)?;
    chunk(b"IDAT", &rows.finish()?);
    chunk(b"IEND", &[]);
    Ok(file)
}

#[tokio::test]
async fn the_largest_picture_is_within_the_memory_of_its_decoder() -> anyhow::Result<()> {
    let sandbox = Sandbox::new(program("tidemark-attestor")?, vec![COMMAND.to_owned()]);
    let judgement = sandbox.judge(&largest_picture()?.into(), "image/png").await?;
    assert_eq!(judgement.outcome, Outcome::Accepted, "{judgement:?}");
    Ok(())
}

#[tokio::test]
async fn a_type_that_is_not_checked_is_an_error_and_no_verdict() -> anyhow::Result<()> {
    let sandbox = Sandbox::new(program("tidemark-attestor")?, vec![COMMAND.to_owned()]);
    let error = sandbox.judge(&Bytes::from_static(b"a"), "text/plain").await.unwrap_err();
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
