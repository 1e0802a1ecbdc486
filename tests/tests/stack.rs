//! The launcher keeps its own promises: everything comes up, and nothing is left, however it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use alloy::providers::Provider;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::Connection;
use tidemark_tests::{Options, Stack, process::start_time, stack::Services};

/// Pids and start times that a run has noted.
fn noted(stack: &Stack) -> Vec<(u32, u64)> {
    let text = fs::read_to_string(stack.folder.pid_file()).unwrap();
    let parse = |line: &str| {
        let mut words = line.split(' ').map(str::parse::<u64>);
        let (pid, started) = (words.next().unwrap().unwrap(), words.next().unwrap().unwrap());
        (u32::try_from(pid).unwrap(), started)
    };
    text.lines().map(parse).collect()
}

fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn a_stack_has_chain_contracts_and_databases_and_leaves_nothing_behind() {
    tidemark::install_tls();
    let stack = Stack::start(Options { services: Services::None, ..Options::default() }).await.unwrap();
    let code = stack.provider().get_code_at(stack.deployment.provenance_log).await.unwrap();
    assert!(!code.is_empty());
    let mut connection = sqlx::PgConnection::connect(&stack.postgres.url("indexer")).await.unwrap();
    let one: i32 = sqlx::query_scalar("SELECT 1").fetch_one(&mut connection).await.unwrap();
    assert_eq!(one, 1);

    stack.chain.pause_mining().await.unwrap();
    let before = stack.chain.block_number().await.unwrap();
    stack.chain.mine(3).await.unwrap();
    assert_eq!(stack.chain.block_number().await.unwrap(), before + 3);
    stack.chain.resume_mining().await.unwrap();

    let (processes, folder) = (noted(&stack), stack.folder.path().to_owned());
    // initdb has ended, anvil and Postgres run
    let running = processes.iter().filter(|&&(pid, started)| start_time(pid) == Some(started));
    assert_eq!(running.count(), 2);
    drop(stack);
    assert!(processes.iter().all(|&(pid, started)| start_time(pid) != Some(started)), "a process outlived the stack");
    assert!(!folder.exists());
}

/// Starts a launcher of its own; gives it with the pids of what it started.
fn other_launcher() -> (Child, Vec<u32>) {
    let mut launcher = Command::new(env!("CARGO_BIN_EXE_stack"))
        .args(["--services", "none"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(launcher.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).expect("the launcher starts a stack");
    let text = fs::read_to_string(Path::new(ready["folder"].as_str().unwrap()).join("processes")).unwrap();
    let pids: Vec<u32> = text.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    assert!(pids.len() >= 2);
    (launcher, pids)
}

#[test]
fn nothing_outlives_a_launcher_that_is_killed() {
    let (mut launcher, pids) = other_launcher();
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    wait_for("the watchdog ends what a killed launcher leaves", || pids.iter().all(|&pid| start_time(pid).is_none()));
}

#[test]
fn a_launcher_told_to_stop_leaves_nothing_and_says_so_by_its_exit_code() {
    let (mut launcher, pids) = other_launcher();
    let pid = Pid::from_child(&launcher);
    kill_process(pid, Signal::TERM).unwrap();
    assert!(launcher.wait().unwrap().success());
    assert!(pids.iter().all(|&pid| start_time(pid).is_none()));
}
