//! Child processes that never outlive the launcher.
//!
//! Three lines of defence: `Drop` stops each child's process group; a watchdog shell, which sees its pipe close however
//! the launcher ends (`kill -9` too), ends what is left; and a pid file lets the next run sweep even that.

use std::{
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write as _},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process_group};

/// How long a child may take to end by itself before it is killed.
const STOP_TIME_MAX: Duration = Duration::from_secs(8);
const POLL: Duration = Duration::from_millis(5);
const TAIL_BYTES_MAX: u64 = 16 * 1024;

/// How a process is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM: services shut down in order.
    Terminate,
    /// SIGINT: Postgres' fast shutdown, which rolls back what is open.
    Interrupt,
    /// SIGQUIT: Postgres' immediate shutdown, which also frees its shared memory.
    Quit,
}

impl Stop {
    fn signal(self) -> Signal {
        match self {
            Self::Terminate => Signal::TERM,
            Self::Interrupt => Signal::INT,
            Self::Quit => Signal::QUIT,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Terminate => "TERM",
            Self::Interrupt => "INT",
            Self::Quit => "QUIT",
        }
    }
}

/// A running child in a process group of its own, stopped when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    group: Pid,
    log: PathBuf,
    stop: Stop,
    ended: bool,
}

impl Process {
    /// Starts `command` with its output appended to `log`, and notes it in the pid file.
    pub fn spawn(name: &str, mut command: Command, log: &Path, pid_file: &Path, stop: Stop) -> Result<Self> {
        let append = |path: &Path| -> Result<File> {
            let opened = OpenOptions::new().create(true).append(true).open(path);
            opened.with_context(|| format!("failed to open {}", path.display()))
        };
        let output = append(log)?;
        let errors = output.try_clone().with_context(|| format!("failed to open {}", log.display()))?;
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let child = command.spawn().with_context(|| format!("failed to start {name} ({program})"))?;
        let pid = child.id();
        watchdog_note(&format!("start {pid} {}\n", stop.name()));
        let started = start_time(pid).unwrap_or_default();
        let line = format!("{pid} {started} {} {name}\n", stop.name());
        append(pid_file)?.write_all(line.as_bytes()).context("failed to write the pid file")?;
        Ok(Self { name: name.into(), group: Pid::from_child(&child), child, log: log.into(), stop, ended: false })
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self, time_max: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + time_max;
        loop {
            if let Some(status) = self.exit_status() {
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "{} still runs after {} s", self.name, time_max.as_secs());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Asks it to end, without waiting.
    pub fn ask_to_stop(&self) {
        if !self.ended {
            let _may_have_ended = kill_process_group(self.group, self.stop.signal());
        }
    }

    /// Asks it to end and waits; kills it where it does not.
    pub fn stop(&mut self) {
        if self.ended {
            return;
        }
        self.ask_to_stop();
        let deadline = Instant::now() + STOP_TIME_MAX;
        while self.exit_status().is_none() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        self.kill();
    }

    /// The same, asked in another way than it was started with.
    pub fn stop_by(&mut self, stop: Stop) {
        self.stop = stop;
        self.stop();
    }

    /// SIGKILL, as a machine that loses power would.
    pub fn kill(&mut self) {
        if self.ended {
            return;
        }
        let _may_have_ended = kill_process_group(self.group, Signal::KILL);
        let _status = self.child.wait();
        watchdog_note(&format!("stop {}\n", self.id()));
        self.ended = true;
    }

    /// SIGSTOP.
    pub fn pause(&self) -> Result<()> {
        kill_process_group(self.group, Signal::STOP).with_context(|| format!("failed to pause {}", self.name))
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        kill_process_group(self.group, Signal::CONT).with_context(|| format!("failed to resume {}", self.name))
    }

    /// The last lines it wrote, and where the rest is.
    pub fn log_tail(&self, lines: usize) -> String {
        let mut text = format!("the last lines of {}:\n", self.log.display());
        let tail = read_tail(&self.log).unwrap_or_default();
        let all: Vec<&str> = tail.lines().collect();
        for line in all.iter().skip(all.len().saturating_sub(lines)) {
            let _infallible = writeln!(text, "  {line}");
        }
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

fn read_tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// When a process started, in clock ticks since boot; with the pid it names a process for good. None where there is none.
pub fn start_time(pid: u32) -> Option<u64> {
    stat_field(&pid.to_string(), 22)?.parse().ok()
}

/// A field of `/proc/PROCESS/stat`, counted from 1 as proc(5) does, behind the program's name, which is the second. None where
/// there is no such process.
pub fn stat_field(process: &str, number: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // the name is in brackets and may hold anything
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(number.checked_sub(3)?).map(str::to_owned)
}

/// Ends every process of a pid file that is still the one it was.
pub fn end_leftovers(pid_file: &Path) {
    let text = fs::read_to_string(pid_file).unwrap_or_default();
    let alive: Vec<(u32, u64, Signal)> = text.lines().filter_map(leftover).collect();
    let runs = |pid, started| start_time(pid) == Some(started);
    let signal_all = |force: bool| {
        for &(pid, started, signal) in &alive {
            if let (true, Some(group)) = (runs(pid, started), i32::try_from(pid).ok().and_then(Pid::from_raw)) {
                let _may_have_ended = kill_process_group(group, if force { Signal::KILL } else { signal });
            }
        }
    };
    signal_all(false);
    let deadline = Instant::now() + STOP_TIME_MAX;
    while alive.iter().any(|&(pid, started, _)| runs(pid, started)) && Instant::now() < deadline {
        thread::sleep(POLL);
    }
    signal_all(true);
}

fn leftover(line: &str) -> Option<(u32, u64, Signal)> {
    let mut words = line.split(' ');
    let (pid, started) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let signal = if words.next()? == Stop::Quit.name() { Signal::QUIT } else { Signal::TERM };
    Some((pid, started, signal))
}

/// Reads `start PID SIGNAL` and `stop PID`; at the end of its input, which is the launcher's end, ends what is left.
const WATCHDOG: &str = r#"
trap '' INT TERM HUP QUIT
left=
while read -r word pid signal; do
  case $word in
    start) left="$left $signal:$pid" ;;
    stop)
      kept=
      for entry in $left; do [ "${entry#*:}" = "$pid" ] || kept="$kept $entry"; done
      left=$kept
      ;;
  esac
done
[ -n "$left" ] || exit 0
for entry in $left; do kill -s "${entry%%:*}" -- "-${entry#*:}" 2>/dev/null; done
sleep 3
for entry in $left; do kill -s KILL -- "-${entry#*:}" 2>/dev/null; done
exit 0
"#;

/// Tells the watchdog, starting it at the first call. Without a shell there is still the pid file.
fn watchdog_note(line: &str) {
    static WATCHDOG_INPUT: OnceLock<Option<Mutex<ChildStdin>>> = OnceLock::new();
    let input = WATCHDOG_INPUT.get_or_init(|| {
        let mut command = Command::new("sh");
        command.args(["-c", WATCHDOG]).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().ok().and_then(|child| child.stdin).map(Mutex::new)
    });
    if let Some(input) = input {
        let _pipe_closed = input.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(folder: &Path) -> Process {
        let mut command = Command::new("sleep");
        command.arg("60");
        Process::spawn("sleeper", command, &folder.join("log"), &folder.join("processes"), Stop::Terminate).unwrap()
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let process = sleeper(folder.path());
        let pid = process.id();
        assert!(start_time(pid).is_some());
        drop(process);
        assert_eq!(start_time(pid), None);
    }

    #[test]
    fn leftovers_of_a_pid_file_are_ended_and_other_processes_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut process = sleeper(folder.path());
        let file = folder.path().join("processes");
        let line = fs::read_to_string(&file).unwrap();
        let other_start = line.replacen(&start_time(process.id()).unwrap().to_string(), "1", 1);
        fs::write(&file, other_start).unwrap();
        end_leftovers(&file);
        assert!(process.exit_status().is_none());
        fs::write(&file, line).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| end_leftovers(&file));
            // our own child stays a zombie until it is waited for
            let deadline = Instant::now() + STOP_TIME_MAX;
            while process.exit_status().is_none() && Instant::now() < deadline {
                thread::sleep(POLL);
            }
        });
        assert!(process.exit_status().is_some());
    }
}
