//! Services of the stack: starting a real binary, waiting until it is ready, killing and restarting it.

use std::{
    collections::BTreeSet,
    net::TcpListener,
    path::PathBuf,
    process::Command,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::{
    folder::{RunFolder, program},
    process::{Process, Stop},
};

const READY_TIME_MAX: Duration = Duration::from_secs(40);
const ANSWER_TIME_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(25);
const TAIL_LINES: usize = 15;
/// Below the range that the kernel takes ports of outgoing connections from.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A port of the loopback interface that nobody listens on, and that this process did not hand out before.
pub fn free_port() -> Result<u16> {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..PORTS.len() {
        let random = uuid::Uuid::new_v4().as_u128() % u128::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(random).unwrap_or_default();
        if !taken.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            taken.insert(port);
            return Ok(port);
        }
    }
    bail!("no port from {} to {} is free on 127.0.0.1", PORTS.start, PORTS.end)
}

/// Polls `ready` until it holds; fails with the tail of the log where the process ends first or takes longer.
pub async fn wait_until(process: &mut Process, time_max: Duration, ready: impl AsyncFn() -> bool) -> Result<()> {
    let deadline = Instant::now() + time_max;
    while !ready().await {
        if let Some(status) = process.exit_status() {
            return Err(failure(process, &format!("ended before it was ready ({status})")));
        }
        if Instant::now() > deadline {
            return Err(failure(process, &format!("was not ready after {} s", time_max.as_secs())));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

fn failure(process: &Process, what: &str) -> anyhow::Error {
    anyhow!("{} {what}; {}", process.name(), process.log_tail(TAIL_LINES).trim_end())
}

/// How a service is started, the same way each time.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// What it is called in messages; also names its log.
    pub name: String,
    /// The binary of this workspace.
    pub program: &'static str,
    /// Port it listens on.
    pub port: u16,
    /// Arguments, none of them secret.
    pub arguments: Vec<String>,
    /// Environment, also for what is secret.
    pub environment: Vec<(&'static str, String)>,
}

/// One service of the stack.
#[derive(Debug)]
pub struct Service {
    wiring: Wiring,
    url: String,
    log: PathBuf,
    pid_file: PathBuf,
    process: Option<Process>,
}

impl Service {
    /// Starts it and waits until `/ready` answers 200.
    pub async fn start(folder: &RunFolder, wiring: Wiring) -> Result<Self> {
        let mut service = Self::new(folder, wiring);
        service.restart().await?;
        Ok(service)
    }

    /// Starts it and waits for nothing.
    pub fn launch(folder: &RunFolder, wiring: Wiring) -> Result<Self> {
        let mut service = Self::new(folder, wiring);
        service.spawn()?;
        Ok(service)
    }

    fn new(folder: &RunFolder, wiring: Wiring) -> Self {
        let url = format!("http://127.0.0.1:{}", wiring.port);
        Self { log: folder.log(&wiring.name), pid_file: folder.pid_file(), wiring, url, process: None }
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Status and JSON of an answer; null where it is none.
    pub async fn get(&self, path: &str) -> Result<(u16, Value)> {
        let answer =
            reqwest::get(format!("{}{path}", self.url)).await.with_context(|| format!("failed to get {path}"))?;
        let status = answer.status().as_u16();
        let body = answer.text().await.with_context(|| format!("failed to read {path}"))?;
        Ok((status, serde_json::from_str(&body).unwrap_or_default()))
    }

    /// Asks until the answer is as `wanted`, and gives it; fails with what was there last.
    pub async fn until(&self, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        loop {
            let (status, body) = self.get(path).await?;
            if wanted(status, &body) {
                return Ok(body);
            }
            if Instant::now() > deadline {
                bail!("{path} stays {status} {body}; {}", self.log_tail());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// How it is started.
    pub fn wiring(&self) -> &Wiring {
        &self.wiring
    }

    /// Runs another command of its program to the end; gives what it printed, without the newline.
    pub fn run_once(&self, wiring: &Wiring) -> Result<String> {
        let output = command(wiring)?.output().with_context(|| format!("failed to run {}", wiring.program))?;
        let what = || format!("{} {}", wiring.program, wiring.arguments.join(" "));
        if !output.status.success() {
            bail!("{} failed: {}", what(), String::from_utf8_lossy(&output.stderr).trim());
        }
        let printed = String::from_utf8(output.stdout).with_context(|| format!("{} printed no text", what()))?;
        Ok(printed.trim().to_owned())
    }

    /// Its process, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.wiring.name
    }

    /// Starts it again with the same wiring, on the same port and database, and waits until it is ready; ends a running
    /// one first.
    pub async fn restart(&mut self) -> Result<()> {
        self.spawn()?;
        let ready_url = format!("{}/ready", self.url);
        let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).build().context("no HTTP client")?;
        let ready = async || client.get(&ready_url).send().await.is_ok_and(|answer| answer.status().is_success());
        let process = self.process.as_mut().context("it was not started")?;
        wait_until(process, READY_TIME_MAX, ready).await
    }

    /// Starts it again and does not wait; ends a running one first.
    pub fn spawn(&mut self) -> Result<()> {
        self.stop();
        let command = command(&self.wiring)?;
        let process = Process::spawn(&self.wiring.name, command, &self.log, &self.pid_file, Stop::Terminate)?;
        self.process = Some(process);
        Ok(())
    }

    /// Whether it was started and has not ended.
    pub fn runs(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.exit_status().is_none())
    }

    /// Asks it to end, without waiting.
    pub fn ask_to_stop(&self) {
        if let Some(process) = &self.process {
            process.ask_to_stop();
        }
    }

    /// Ends it in order.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop();
        }
    }

    /// SIGKILL, in the middle of whatever it does.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGSTOP: it keeps its connections and does nothing, as on a machine that hangs.
    pub fn pause(&self) -> Result<()> {
        self.process.as_ref().context("it is stopped")?.pause()
    }

    /// SIGCONT: it goes on where it was.
    pub fn resume(&self) -> Result<()> {
        self.process.as_ref().context("it is stopped")?.resume()
    }

    /// Fails with the tail of its log where it has ended.
    pub fn check_running(&mut self) -> Result<()> {
        match &mut self.process {
            None => bail!("{} is stopped", self.wiring.name),
            Some(process) => match process.exit_status() {
                None => Ok(()),
                Some(status) => Err(failure(process, &format!("ended by itself ({status})"))),
            },
        }
    }

    /// The last lines of its log, for error messages.
    pub fn log_tail(&self) -> String {
        self.process.as_ref().map(|process| process.log_tail(TAIL_LINES)).unwrap_or_default()
    }
}

/// The program with an environment that holds what the wiring says and nothing of ours.
fn command(wiring: &Wiring) -> Result<Command> {
    let mut command = Command::new(program(wiring.program)?);
    command.args(&wiring.arguments).env_clear();
    command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command.envs(wiring.environment.iter().map(|(name, value)| (name, value)));
    Ok(command)
}
