//! Judges each file in a process of its own that has no key, no environment, no file and no network: decoders are other
//! people's code on a stranger's bytes, and one of them is not memory-safe.
//!
//! ```text
//!  attestor ── stdin: the file ──► the same program as `judge MIME BYTES`, shut in ── stdout: the judgement ──► attestor
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

use super::client::TIME_MAX;
use crate::{
    api::submissions::FILE_BYTES_MAX,
    quality::{Claim, Judgement, judge},
};

/// The word on the command line that makes the attestor's program such a process.
pub const COMMAND: &str = "judge";

/// More is the file's fault. At the 150 million pixels a second of the samples, a minute of 1080p takes 25 s, or 50 at 60
/// pictures a second.
const CPU_SECONDS_MAX: u64 = 75;
/// Waiting for a core included; more is this machine's fault. The relayer waits a little longer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(85);
const _: () = assert!(CPU_SECONDS_MAX < ANSWER_TIME_MAX.as_secs() && ANSWER_TIME_MAX.as_secs() < TIME_MAX.as_secs());
/// Enough for the largest picture with what its decoder needs beside (`decoders.rs`).
const MEMORY_BYTES_MAX: u64 = 2 << 30;
/// What Rust's runtime says before it ends a process for an allocation.
const NO_MEMORY: &str = "memory allocation of";
const ANSWER_BYTES_MAX: u64 = 64 << 10;
const SAID_BYTES_MAX: u64 = 1_000;
const DETAIL_CHARS_MAX: usize = 1_000;
/// A file that ends the decoder's process is tried once more.
const TRIES: usize = 2;
/// What such a process says before it decodes: all that ends it until then is this machine's.
const BEGINS: &[u8] = b"decoding\n";
/// What a fault of a decoder ends in. Its process can send itself no other signal, so that all others come from outside.
const OF_FAULTS: [Signal; 7] =
    [Signal::SEGV, Signal::ILL, Signal::TRAP, Signal::FPE, Signal::ABORT, Signal::SYS, Signal::XCPU];

/// How to start such a process.
#[derive(Clone, Debug)]
pub struct Sandbox {
    program: PathBuf,
    arguments: Vec<String>,
}

/// How a process ended.
enum Ended {
    WithAnswer(Judgement),
    BySignal(Signal),
}

impl Sandbox {
    /// Any program; it is given the MIME type and the file's length as two arguments more.
    pub fn new(program: PathBuf, arguments: Vec<String>) -> Self {
        Self { program, arguments }
    }

    /// The running program, which has to take [`COMMAND`], also where its file was replaced since. Fails where the machine
    /// can't shut a process in.
    pub async fn this_program() -> anyhow::Result<Self> {
        let program = if cfg!(target_os = "linux") { "/proc/self/exe".into() } else { std::env::current_exe()? };
        let sandbox = Self::new(program, vec![COMMAND.to_owned()]);
        let judged = sandbox.judge(&silence().into(), "audio/wav").await.context("start a process for the decoders")?;
        ensure!(judged.outcome == Outcome::Accepted, "decoders do not work in a process of their own: {judged:?}");
        metrics::counter!("decoder_crashes_total").absolute(0);
        Ok(sandbox)
    }

    /// As [`judge`] does. Fails for this machine's faults; a file that makes its decoder's process lie may have it fail, too.
    pub async fn judge(&self, bytes: &Bytes, mime_type: &str) -> anyhow::Result<Judgement> {
        let claim =
            Claim::parse(mime_type).with_context(|| format!("expected a MIME type to check, got {mime_type:?}"))?;
        let mut tries_left = TRIES;
        let signal = loop {
            tries_left -= 1;
            match self.judge_once(bytes, mime_type, claim).await? {
                Ended::WithAnswer(judgement) => return Ok(judgement),
                Ended::BySignal(signal) if signal == Signal::XCPU || tries_left == 0 => break signal,
                Ended::BySignal(_) => {}
            }
        };
        if signal == Signal::XCPU {
            let detail = format!(
                "expected to decode within {CPU_SECONDS_MAX} s of processor time, got a file that takes longer"
            );
            return Ok(Judgement::no(Outcome::Undecodable, detail));
        }
        metrics::counter!("decoder_crashes_total").increment(1);
        let signal = signal.as_raw();
        let detail = format!("expected a file that its decoder gets through, got one that ends it by signal {signal}");
        Ok(Judgement::no(Outcome::Undecodable, detail))
    }

    async fn judge_once(&self, bytes: &Bytes, mime_type: &str, claim: Claim) -> anyhow::Result<Ended> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .args([mime_type, &bytes.len().to_string()])
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
        let said = String::from_utf8_lossy(&said);
        let said = said.trim();
        let answer = answer.strip_prefix(BEGINS);
        if let Some(signal) = status.signal() {
            let fault = OF_FAULTS.into_iter().find(|fault| fault.as_raw() == signal);
            // an allocation that fails ends a process, too: the largest file has enough, so the machine had not
            let (Some(_), Some(fault), false) = (answer, fault, said.contains(NO_MEMORY)) else {
                bail!("a decoder's process ended by signal {signal}: {said}");
            };
            tracing::error!(mime_type, bytes = bytes.len(), signal, said, "a file ended the process of its decoder");
            return Ok(Ended::BySignal(fault));
        }
        ensure!(status.success(), "a decoder's process ended with {status}: {said}");
        let answer = answer.context("a decoder's process did not begin")?;
        let mut judgement: Judgement = serde_json::from_slice(answer).context("read a judgement")?;
        ensure!(judgement.could_be_of(claim), "a decoder's process says what no file is: {judgement:?}");
        judgement.detail = cut(&judgement.detail);
        Ok(Ended::WithAnswer(judgement))
    }
}

fn cut(detail: &str) -> String {
    detail.chars().filter(|c| !c.is_control()).take(DETAIL_CHARS_MAX).collect()
}

/// 0.6 s of WAV: RIFF with PCM (1) of one channel, 16 kHz, 2 bytes a sample.
fn silence() -> Vec<u8> {
    const SAMPLES: u32 = 9_600;
    let mut file = b"RIFF".to_vec();
    file.extend((36 + 2 * SAMPLES).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(16_000u32.to_le_bytes());
    file.extend(32_000u32.to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend((2 * SAMPLES).to_le_bytes());
    file.resize(44 + 2 * SAMPLES as usize, 0);
    file
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

/// Is such a process: shuts itself in, judges what stdin has, and says so on stdout. Called before anything else, so that
/// there is no other thread and nothing in memory that is worth having.
pub fn judge_stdin(mime_type: &str, length: &str) -> ExitCode {
    match answer(mime_type, length) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn answer(mime_type: &str, length: &str) -> anyhow::Result<()> {
    shut_in()?;
    let claim = Claim::parse(mime_type).with_context(|| format!("expected a MIME type to check, got {mime_type:?}"))?;
    let length: usize = length.parse().with_context(|| format!("expected the file's length, got {length:?}"))?;
    ensure!(length <= FILE_BYTES_MAX, "expected at most {FILE_BYTES_MAX} bytes, got {length}");
    let mut bytes = Vec::with_capacity(length);
    std::io::stdin().lock().take(length as u64).read_to_end(&mut bytes).context("read the file")?;
    ensure!(bytes.len() == length, "expected {length} bytes, got {}", bytes.len());
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(BEGINS).and_then(|()| stdout.flush()).context("say that it begins")?;
    // a decoder's panic is in the judgement
    std::panic::set_hook(Box::new(|_| ()));
    let mut judgement = judge(&bytes, claim);
    judgement.detail = cut(&judgement.detail);
    serde_json::to_writer(&mut stdout, &judgement).context("write the judgement")?;
    stdout.flush().context("write the judgement")
}

fn shut_in() -> anyhow::Result<()> {
    let limits = [
        // by a signal of its own first
        (Resource::Cpu, CPU_SECONDS_MAX, CPU_SECONDS_MAX + 5),
        (Resource::Core, 0, 0),
        // other systems take it and do not follow it, or refuse it
        #[cfg(target_os = "linux")]
        (Resource::As, MEMORY_BYTES_MAX, MEMORY_BYTES_MAX),
    ];
    // where memory runs out, it goes first, and not what started it
    #[cfg(target_os = "linux")]
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
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
    use std::collections::BTreeMap;

    use anyhow::{Context, ensure};
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
        apply_filter,
    };

    const ALLOWED: [libc::c_long; 17] = [
        libc::SYS_getpid,
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

    pub(super) fn apply() -> anyhow::Result<()> {
        apply_filter(&program()?).context("the kernel takes no seccomp filter, which decoders are shut in by")?;
        let opened = std::fs::File::open("/").map_err(|error| error.raw_os_error());
        ensure!(
            matches!(opened, Err(Some(libc::EPERM))),
            "the kernel took the seccomp filter and does not follow it: opening a file gives {opened:?}"
        );
        Ok(())
    }

    /// Everything else fails with EPERM, so that a library which asks for more goes on without it.
    fn program() -> anyhow::Result<BpfProgram> {
        let equals = |argument, value: i32| condition(argument, SeccompCmpOp::Eq, value);
        let without = |argument, bits: i32| condition(argument, SeccompCmpOp::MaskedEq(u64::try_from(bits)?), 0);
        let with = |argument, bits: i32| condition(argument, SeccompCmpOp::MaskedEq(u64::try_from(bits)?), bits);
        let mut rules: BTreeMap<_, _> = ALLOWED.into_iter().map(|call| (call, Vec::new())).collect();
        for call in OF_PIPES {
            rules.insert(call, rule(vec![condition(0, SeccompCmpOp::Le, 2)?])?);
        }
        // memory of its own, but none that code runs in
        let anonymous = vec![without(2, libc::PROT_EXEC)?, with(3, libc::MAP_ANONYMOUS)?];
        rules.insert(libc::SYS_mmap, rule(anonymous)?);
        rules.insert(libc::SYS_mprotect, rule(vec![without(2, libc::PROT_EXEC)?])?);
        // its own end, as what it is
        let abort = vec![equals(0, i32::try_from(std::process::id())?)?, equals(2, libc::SIGABRT)?];
        rules.insert(libc::SYS_tgkill, rule(abort)?);
        let refuse = SeccompAction::Errno(u32::try_from(libc::EPERM)?);
        let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
        Ok(filter.try_into()?)
    }

    /// On a 32-bit argument.
    fn condition(argument: u8, operator: SeccompCmpOp, value: i32) -> anyhow::Result<SeccompCondition> {
        Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, u64::try_from(value)?)?)
    }

    fn rule(all_of: Vec<SeccompCondition>) -> anyhow::Result<Vec<SeccompRule>> {
        Ok(vec![SeccompRule::new(all_of)?])
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        /// What a filter says of a call: runs it as the kernel does, with the instructions that such filters are made of.
        fn answer(program: &BpfProgram, call: libc::c_long, arguments: [i32; 6]) -> u32 {
            // struct seccomp_data: call, architecture, instruction pointer, arguments of 64 bits
            let arch = if cfg!(target_arch = "x86_64") { 0xc000_003e } else { 0xc000_00b7 };
            let mut data = vec![u32::try_from(call).unwrap(), arch, 0, 0];
            data.extend(arguments.iter().flat_map(|argument| [argument.cast_unsigned(), 0]));
            let (mut at, mut value) = (0, 0);
            loop {
                let one = &program[at];
                at += 1;
                let jump = |holds| usize::from(if holds { one.jt } else { one.jf });
                match u32::from(one.code) {
                    code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => value = data[one.k as usize / 4],
                    code if code == libc::BPF_ALU | libc::BPF_AND | libc::BPF_K => value &= one.k,
                    code if code == libc::BPF_JMP | libc::BPF_JA => at += one.k as usize,
                    code if code == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => at += jump(value == one.k),
                    code if code == libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K => at += jump(value > one.k),
                    code if code == libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K => at += jump(value >= one.k),
                    code if code == libc::BPF_RET | libc::BPF_K => return one.k,
                    code => panic!("an instruction that is not known here: {code:#x}"),
                }
            }
        }

        #[test]
        fn calls_are_let_through_by_what_they_are_for() {
            let (own, other) = (i32::try_from(std::process::id()).unwrap(), 1);
            let mapped = |prot, flags| (libc::SYS_mmap, [0, 4096, prot, flags, 3, 0]);
            let (read, code) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_EXEC);
            let (memory, file) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::MAP_PRIVATE);
            let allowed = [
                (libc::SYS_read, [0; 6]),
                (libc::SYS_write, [2, 0, 0, 0, 0, 0]),
                mapped(read | libc::PROT_WRITE, memory),
                (libc::SYS_mprotect, [0, 4096, read, 0, 0, 0]),
                (libc::SYS_tgkill, [own, own, libc::SIGABRT, 0, 0, 0]),
                (libc::SYS_exit_group, [0; 6]),
            ];
            let refused = [
                (libc::SYS_read, [3, 0, 0, 0, 0, 0]),
                (libc::SYS_write, [-1, 0, 0, 0, 0, 0]),
                mapped(code, memory),
                mapped(read, file),
                mapped(read, libc::MAP_SHARED),
                (libc::SYS_mprotect, [0, 4096, code, 0, 0, 0]),
                (libc::SYS_tgkill, [own, own, libc::SIGTERM, 0, 0, 0]),
                (libc::SYS_tgkill, [other, other, libc::SIGABRT, 0, 0, 0]),
            ];
            let never = [
                libc::SYS_openat,
                libc::SYS_socket,
                libc::SYS_connect,
                libc::SYS_sendmsg,
                libc::SYS_clone,
                libc::SYS_clone3,
                libc::SYS_execve,
                libc::SYS_execveat,
                libc::SYS_kill,
                libc::SYS_ptrace,
                libc::SYS_process_vm_readv,
                libc::SYS_process_vm_writev,
                libc::SYS_prctl,
                libc::SYS_prlimit64,
                libc::SYS_dup,
                libc::SYS_dup3,
                libc::SYS_memfd_create,
                libc::SYS_io_uring_setup,
                libc::SYS_pidfd_getfd,
                libc::SYS_unlinkat,
                libc::SYS_ioctl,
                libc::SYS_bpf,
            ];
            let program = program().unwrap();
            let eperm = libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned();
            for (call, arguments) in allowed {
                assert_eq!(answer(&program, call, arguments), libc::SECCOMP_RET_ALLOW, "{call} {arguments:?}");
            }
            for (call, arguments) in refused.into_iter().chain(never.map(|call| (call, [0; 6]))) {
                assert_eq!(answer(&program, call, arguments), eperm, "{call} {arguments:?}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::ErrorKind};

    use super::*;

    /// A decoder that is a line of shell.
    async fn judged(script: &str) -> anyhow::Result<Judgement> {
        let sandbox = Sandbox::new("/bin/sh".into(), vec!["-c".into(), script.into()]);
        sandbox.judge(&Bytes::from(vec![0; 1 << 20]), "image/png").await
    }

    /// One that has read its file and begun.
    async fn judged_at_last(script: &str) -> anyhow::Result<Judgement> {
        judged(&format!("cat >/dev/null; echo decoding; {script}")).await
    }

    #[tokio::test]
    async fn a_file_that_ends_its_decoder_is_undecodable() {
        for (name, signal) in [("SEGV", 11), ("ABRT", 6), ("SYS", 31), ("FPE", 8), ("ILL", 4)] {
            let judgement = judged_at_last(&format!("kill -{name} $$")).await.unwrap();
            assert_eq!(judgement.outcome, Outcome::Undecodable);
            assert!(judgement.detail.ends_with(&format!("by signal {signal}")), "{}", judgement.detail);
        }
        let judgement = judged_at_last("kill -XCPU $$").await.unwrap();
        assert!(judgement.detail.contains("75 s of processor time"), "{}", judgement.detail);
    }

    #[tokio::test]
    async fn a_file_is_tried_once_more() {
        let folder = tempfile::tempdir().unwrap();
        let tried = folder.path().join("tried").display().to_string();
        let answer = r#"printf '%s' '{"outcome":"empty","detail":"","facts":{}}'"#;
        let script = format!("if [ -e {tried} ]; then {answer}; else echo >{tried}; kill -SEGV $$; fi");
        assert_eq!(judged_at_last(&script).await.unwrap().outcome, Outcome::Empty);
        // one that takes too long is not
        let script = format!("echo >>{tried}; kill -XCPU $$");
        assert_eq!(judged_at_last(&script).await.unwrap().outcome, Outcome::Undecodable);
        assert_eq!(std::fs::read(tried).unwrap().len(), 2);
    }

    #[tokio::test]
    async fn what_is_no_fault_of_the_file_is_no_verdict_on_it() {
        // before it begins, by somebody else, for want of memory
        for script in ["kill -SEGV $$", "kill -SYS $$", "cat >/dev/null; kill -ABRT $$"] {
            let error = judged(script).await.unwrap_err();
            assert!(format!("{error:#}").contains("ended by signal"), "{script}: {error:#}");
        }
        for script in [
            "kill -TERM $$",
            "kill -USR1 $$",
            "kill -KILL $$",
            "echo memory allocation of 9 bytes failed >&2; kill -ABRT $$",
        ] {
            let error = judged_at_last(script).await.unwrap_err();
            assert!(format!("{error:#}").contains("ended by signal"), "{script}: {error:#}");
        }
        let error = judged("echo no filter >&2; exit 1").await.unwrap_err();
        assert!(format!("{error:#}").contains("no filter"), "{error:#}");
        let error = judged("cat >/dev/null").await.unwrap_err();
        assert!(format!("{error:#}").contains("did not begin"), "{error:#}");
        let error = Sandbox::new("/nowhere".into(), Vec::new()).judge(&Bytes::new(), "image/png").await.unwrap_err();
        assert!(format!("{error:#}").contains("start /nowhere"), "{error:#}");
    }

    #[tokio::test]
    async fn an_answer_that_no_file_has_is_none() {
        for (answer, said) in [
            (r#""#, "read a judgement"),
            (r#"{"outcome":"splendid"}"#, "read a judgement"),
            (r#"{"outcome":"duplicate","detail":"","facts":{}}"#, "says what no file is"),
            (r#"{"outcome":"accepted","detail":"","facts":{"width":9000,"height":9000}}"#, "says what no file is"),
        ] {
            let error = judged_at_last(&format!("printf '%s' '{answer}'")).await.unwrap_err();
            assert!(format!("{error:#}").contains(said), "{answer}: {error:#}");
        }
        let accepted = r#"{"outcome":"accepted","detail":"","facts":{"width":900,"height":900}}"#;
        assert_eq!(judged_at_last(&format!("printf '%s' '{accepted}'")).await.unwrap().outcome, Outcome::Accepted);
    }

    #[tokio::test]
    async fn a_decoder_that_talks_without_end_is_cut_off() {
        let error = judged("yes").await.unwrap_err();
        assert!(format!("{error:#}").contains("says more than"), "{error:#}");
        let loud = r#"head -c 1000000 /dev/zero >&2; printf '%s' '{"outcome":"empty","detail":"a\nb","facts":{}}'"#;
        assert_eq!(judged_at_last(loud).await.unwrap().detail, "ab");
    }

    #[tokio::test]
    async fn nothing_of_ours_is_in_its_environment() {
        let script = r#"printf '{"outcome":"empty","detail":"%s","facts":{}}' "$HOME$CARGO_MANIFEST_DIR$0 $1""#;
        assert_eq!(judged_at_last(script).await.unwrap().detail, "image/png 1048576");
    }

    /// A filter is a thread's.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernel_refuses_what_a_decoder_does_not_need() {
        let mut left_open = File::open("/dev/zero").unwrap();
        let own = rustix::process::getpid();
        let tried = std::thread::spawn(move || {
            filter::apply().unwrap();
            let kinds = [
                File::open("/dev/zero").map(drop).map_err(|error| error.kind()),
                left_open.read(&mut [0]).map(drop).map_err(|error| error.kind()),
                std::fs::remove_file("/nowhere").map_err(|error| error.kind()),
                std::net::UdpSocket::bind("127.0.0.1:0").map(drop).map_err(|error| error.kind()),
                std::process::Command::new("/bin/true").spawn().map(drop).map_err(|error| error.kind()),
                std::thread::Builder::new().spawn(|| ()).map(drop).map_err(|error| error.kind()),
                rustix::process::kill_process(own, Signal::CONT).map_err(|error| error.kind()),
                setrlimit(Resource::Core, Rlimit { current: None, maximum: None }).map_err(|error| error.kind()),
            ];
            // its memory works
            (kinds, vec![1u8; 64 << 20].iter().map(|one| usize::from(*one)).sum::<usize>())
        });
        let (kinds, sum) = tried.join().unwrap();
        assert_eq!((kinds, sum), ([Err(ErrorKind::PermissionDenied); 8], 64 << 20));
    }
}
