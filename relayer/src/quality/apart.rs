//! Judges each file in a process of its own that has no key, no environment, no file and no network: decoders are other
//! people's code on a stranger's bytes, and one of them is not memory-safe.
//!
//! ```text
//!  attestor ── stdin: the file ──► the same program as `judge MIME`, shut in ── stdout: the judgement ──► attestor
//! ```
//!
//! What such a process answers about its own file is all that a file which takes it over can reach.

use std::{
    io::{Read, Write},
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use tidemark::verdict::Outcome;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::Command,
    time::timeout,
};

use super::{Claim, Judgement, judge};
use crate::api::submissions::FILE_BYTES_MAX;

/// The word on the command line that makes the attestor's program such a process.
pub const COMMAND: &str = "judge";

/// A minute of film in the largest size takes a fraction of it.
const CPU_SECONDS_MAX: u64 = 300;
/// Three times the largest picture with what its decoder needs beside.
const MEMORY_BYTES_MAX: u64 = 2 << 30;
/// Waiting for a core included; longer is this machine's fault.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(900);
const ANSWER_BYTES_MAX: u64 = 64 << 10;
const SAID_BYTES_MAX: u64 = 1_000;
const DETAIL_CHARS_MAX: usize = 1_000;
/// A file that ends the decoder's process by a signal may have met a moment without memory: it is tried once more.
const TRIES: usize = 2;

/// How to start such a process.
#[derive(Clone, Debug)]
pub struct Apart {
    program: PathBuf,
    arguments: Vec<String>,
}

/// How a process ended.
enum Ended {
    WithAnswer(Judgement),
    BySignal(i32),
}

impl Apart {
    /// Any program; it is given the MIME type as one argument more.
    pub fn new(program: PathBuf, arguments: Vec<String>) -> Self {
        Self { program, arguments }
    }

    /// The running program, which has to take [`COMMAND`], also where its file was replaced since. Fails where the machine
    /// can't shut a process in.
    pub async fn this_program() -> anyhow::Result<Self> {
        let program = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
        let apart = Self::new(program, vec![COMMAND.to_owned()]);
        apart.judge(&Bytes::new(), "image/png").await.context("start a process for the decoders")?;
        metrics::counter!("decoder_crashes_total").absolute(0);
        Ok(apart)
    }

    /// As [`judge`] does. Fails for this machine's faults, never for the file's.
    pub async fn judge(&self, bytes: &Bytes, mime_type: &str) -> anyhow::Result<Judgement> {
        let mut ended_by = 0;
        for _ in 0..TRIES {
            match self.judge_once(bytes, mime_type).await? {
                Ended::WithAnswer(judgement) => return Ok(judgement),
                Ended::BySignal(signal) => ended_by = signal,
            }
            if ended_by == Signal::XCPU.as_raw() {
                let detail = format!(
                    "expected to decode within {CPU_SECONDS_MAX} s of processor time, got a file that takes longer"
                );
                return Ok(Judgement::no(Outcome::Undecodable, detail));
            }
        }
        metrics::counter!("decoder_crashes_total").increment(1);
        tracing::error!(mime_type, bytes = bytes.len(), signal = ended_by, "a file ended the process of its decoder");
        let detail =
            format!("expected a file that its decoder gets through, got one that ends it by signal {ended_by}");
        Ok(Judgement::no(Outcome::Undecodable, detail))
    }

    async fn judge_once(&self, bytes: &Bytes, mime_type: &str) -> anyhow::Result<Ended> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .arg(mime_type)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", self.program.display()))?;
        let stdin = child.stdin.take().context("a process without stdin")?;
        let stdout = child.stdout.take().context("a process without stdout")?;
        let stderr = child.stderr.take().context("a process without stderr")?;
        let send = async {
            let mut stdin = stdin;
            // whoever ends before it has read all says why
            let _ = stdin.write_all(bytes).await;
            Ok(())
        };
        let talk = async {
            let ((), answer, said) = tokio::try_join!(send, whole(stdout), beginning(stderr))?;
            let status = child.wait().await.context("wait for a decoder's process")?;
            anyhow::Ok((status, answer, said))
        };
        let (status, answer, said) = timeout(ANSWER_TIME_MAX, talk)
            .await
            .with_context(|| format!("a decoder's process did not end within {} s", ANSWER_TIME_MAX.as_secs()))??;
        match status.signal() {
            // nothing that a file does: somebody or the kernel wanted the memory back
            Some(signal) if signal == Signal::KILL.as_raw() => bail!("a decoder's process was killed"),
            Some(signal) => return Ok(Ended::BySignal(signal)),
            None => {}
        }
        ensure!(status.success(), "a decoder's process ended with {status}: {}", String::from_utf8_lossy(&said).trim());
        let mut judgement: Judgement = serde_json::from_slice(&answer).context("read a judgement")?;
        judgement.detail = judgement.detail.chars().filter(|c| !c.is_control()).take(DETAIL_CHARS_MAX).collect();
        Ok(Ended::WithAnswer(judgement))
    }
}

async fn whole(pipe: impl AsyncRead + Unpin) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pipe.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut bytes).await.context("read a judgement")?;
    ensure!(bytes.len() as u64 <= ANSWER_BYTES_MAX, "a decoder's process says more than {ANSWER_BYTES_MAX} bytes");
    Ok(bytes)
}

async fn beginning(mut pipe: impl AsyncRead + Unpin) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    (&mut pipe).take(SAID_BYTES_MAX).read_to_end(&mut bytes).await.context("read why a judgement fails")?;
    tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await.context("read why a judgement fails")?;
    Ok(bytes)
}

/// Is such a process: shuts itself in, judges what stdin has, and says so on stdout. Called before anything else, so that there is no
/// other thread and nothing in memory that is worth having.
pub fn judge_stdin(mime_type: &str) -> ExitCode {
    match answer(mime_type) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn answer(mime_type: &str) -> anyhow::Result<()> {
    shut_in()?;
    let claim = Claim::parse(mime_type).with_context(|| format!("expected a MIME type to check, got {mime_type:?}"))?;
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).context("read the file")?;
    ensure!(bytes.len() <= FILE_BYTES_MAX, "expected at most {FILE_BYTES_MAX} bytes, got more");
    // a decoder's panic is in the judgement
    std::panic::set_hook(Box::new(|_| ()));
    let judgement = judge(&bytes, claim);
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer(&mut stdout, &judgement).context("write the judgement")?;
    stdout.flush().context("write the judgement")
}

fn shut_in() -> anyhow::Result<()> {
    let limits = [
        // by a signal of its own first
        (Resource::Cpu, CPU_SECONDS_MAX, CPU_SECONDS_MAX + 5),
        (Resource::As, MEMORY_BYTES_MAX, MEMORY_BYTES_MAX),
        (Resource::Core, 0, 0),
    ];
    for (resource, current, maximum) in limits {
        setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) })
            .context("limit what it may use")?;
    }
    #[cfg(target_os = "linux")]
    filter::apply()?;
    Ok(())
}

/// What the kernel does for such a process: memory, its three pipes, and its end.
#[cfg(target_os = "linux")]
mod filter {
    use anyhow::{Context, ensure};
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
        apply_filter,
    };

    const ALLOWED: [libc::c_long; 16] = [
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_sched_yield,
        libc::SYS_clock_gettime,
        libc::SYS_getrandom,
        libc::SYS_gettid,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    /// Of its three pipes: whoever started the attestor may have left other files open. Their first argument is which.
    const OF_PIPES: [libc::c_long; 3] = [libc::SYS_read, libc::SYS_write, libc::SYS_close];
    /// Memory, but none that code runs in. Their third argument is what it is for.
    const WITHOUT_CODE: [libc::c_long; 2] = [libc::SYS_mmap, libc::SYS_mprotect];

    /// Everything else fails with EPERM, so that a library which asks for more goes on without it.
    pub(super) fn apply() -> anyhow::Result<()> {
        let is_pipe = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Le, 2)?;
        let exec = SeccompCmpOp::MaskedEq(u64::try_from(libc::PROT_EXEC)?);
        let is_no_code = SeccompCondition::new(2, SeccompCmpArgLen::Dword, exec, 0)?;
        let allowed = ALLOWED.into_iter().map(|call| Ok((call, Vec::new())));
        let of_pipes = OF_PIPES.into_iter().map(|call| Ok((call, vec![SeccompRule::new(vec![is_pipe.clone()])?])));
        let without_code =
            WITHOUT_CODE.into_iter().map(|call| Ok((call, vec![SeccompRule::new(vec![is_no_code.clone()])?])));
        let rules = allowed.chain(of_pipes).chain(without_code).collect::<anyhow::Result<_>>()?;
        let refuse = SeccompAction::Errno(u32::try_from(libc::EPERM)?);
        let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
        let program: BpfProgram = filter.try_into()?;
        apply_filter(&program).context("the kernel takes no seccomp filter, which decoders are shut in by")?;
        ensure!(std::fs::File::open("/").is_err(), "the kernel took the seccomp filter and does not follow it");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A decoder that is a line of shell.
    async fn judged(script: &str) -> anyhow::Result<Judgement> {
        let apart = Apart::new("/bin/sh".into(), vec!["-c".into(), script.into()]);
        apart.judge(&Bytes::from(vec![0; 1 << 20]), "image/png").await
    }

    #[tokio::test]
    async fn a_file_that_ends_its_decoder_is_undecodable() {
        for (script, signal) in [("kill -SEGV $$", 11), ("cat >/dev/null; kill -ABRT $$", 6), ("kill -SYS $$", 31)] {
            let judgement = judged(script).await.unwrap();
            assert_eq!(judgement.outcome, Outcome::Undecodable);
            assert!(judgement.detail.ends_with(&format!("by signal {signal}")), "{}", judgement.detail);
        }
        let judgement = judged("kill -XCPU $$").await.unwrap();
        assert!(judgement.detail.contains("300 s of processor time"), "{}", judgement.detail);
    }

    #[tokio::test]
    async fn what_is_no_fault_of_the_file_is_no_verdict_on_it() {
        for (script, said) in [
            ("kill -KILL $$", "was killed"),
            ("echo no filter >&2; exit 1", "no filter"),
            ("cat >/dev/null", "read a judgement"),
            ("cat >/dev/null; echo '{\"outcome\":\"splendid\"}'", "read a judgement"),
        ] {
            let error = judged(script).await.unwrap_err();
            assert!(format!("{error:#}").contains(said), "{script}: {error:#}");
        }
        let error = Apart::new("/nowhere".into(), Vec::new()).judge(&Bytes::new(), "image/png").await.unwrap_err();
        assert!(format!("{error:#}").contains("start /nowhere"), "{error:#}");
    }

    #[tokio::test]
    async fn a_decoder_that_talks_without_end_is_cut_off() {
        let error = judged("yes").await.unwrap_err();
        assert!(format!("{error:#}").contains("says more than"), "{error:#}");
        let loud = "cat >/dev/null; head -c 1000000 /dev/zero >&2; printf '{\"outcome\":\"empty\",\"detail\":\"a\\\\nb\",\"facts\":{}}'";
        assert_eq!(judged(loud).await.unwrap().detail, "ab");
    }

    #[tokio::test]
    async fn nothing_of_ours_is_in_its_environment() {
        let script = "cat >/dev/null; printf '{\"outcome\":\"empty\",\"detail\":\"%s\",\"facts\":{}}' \"$HOME$CARGO_MANIFEST_DIR$0\"";
        assert_eq!(judged(script).await.unwrap().detail, "image/png");
    }
}
