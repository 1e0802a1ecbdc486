//! The indexer's peers, each installed apart from the project, tuned as its users would, and watched by the same clock.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use sqlx::AssertSqlSafe;
use tidemark_tests::{
    Stack,
    folder::repository,
    process::{Process, Stop, stat_field},
    services::free_port,
};

use super::{
    indexer::{History, Run, TIME_MAX},
    memory,
};

/// Compiles what envio generates, which calls it by this name.
const PNPM: &str = "pnpm@10.34.9";

/// A peer that was measured, or why it was not.
pub struct Peer {
    /// What it is, and how it was tuned.
    pub name: &'static str,
    /// What it came to.
    pub outcome: Result<Run, String>,
}

/// All of them, one after the other.
pub async fn all(stack: &Stack, history: &History) -> Vec<Peer> {
    let rindexer = match is_on_path("rindexer") {
        true => or_why("rindexer", rindexer(stack, history).await),
        false => Err("skipped: rindexer is not on the PATH".to_owned()),
    };
    let envio = or_why("envio", envio(stack, history).await);
    let ponder = or_why("ponder", ponder(stack, history).await);
    vec![
        Peer { name: "rindexer, `max_block_range: 100`, once", outcome: rindexer },
        Peer { name: "envio 2.32.12, RPC source, 100 blocks at a time, once", outcome: envio },
        Peer { name: "ponder 1.0.0, rate limit raised, `maxResponseBodySize: false`, once", outcome: ponder },
    ]
}

/// One that fails does not take the others' numbers away.
fn or_why(name: &str, outcome: Result<Run>) -> Result<Run, String> {
    outcome.map_err(|error| {
        eprintln!("bench: {name}: {error:#}");
        "failed, as was said on standard error".to_owned()
    })
}

fn is_on_path(program: &str) -> bool {
    std::env::split_paths(&path()).any(|folder| folder.join(program).is_file())
}

/// A peer's folder with its files out of `tests/peers`, and in them the history's places.
fn prepared(name: &str, files: &[&str], stack: &Stack, history: &History) -> Result<PathBuf> {
    let (source, folder) =
        (repository().join("tests/peers").join(name), repository().join(".tidemark/peers").join(name));
    for file in files {
        let to = folder.join(file);
        std::fs::create_dir_all(to.parent().unwrap_or(&folder)).context("failed to make a folder for a peer")?;
        let text =
            std::fs::read_to_string(source.join(file)).with_context(|| format!("failed to read {name}'s {file}"))?;
        let text = match file.ends_with(".yaml") {
            true => text
                .replace("RPC_URL", stack.chain.url())
                .replace("EMITTER", &history.emitter.to_string())
                .replace("FIRST_BLOCK", &history.first.to_string())
                .replace("LAST_BLOCK", &history.last.to_string()),
            false => text,
        };
        std::fs::write(&to, text).with_context(|| format!("failed to write {}", to.display()))?;
    }
    Ok(folder)
}

/// The PATH with pnpm before all else, which npm installs into `.tidemark/peers/tools`.
fn path_with_pnpm() -> Result<OsString> {
    let tools = repository().join(".tidemark/peers/tools");
    std::fs::create_dir_all(&tools).context("failed to make a folder for the peers' tools")?;
    // without a folder of its own named, npm installs into the project around it
    let prefix = tools.display().to_string();
    run(
        "npm",
        &["install", "--prefix", &prefix, "--no-audit", "--no-fund", "--loglevel=error", PNPM],
        &tools,
        &path(),
    )?;
    let mut folders = vec![tools.join("node_modules/.bin")];
    folders.extend(std::env::split_paths(&path()));
    std::env::join_paths(folders).context("a folder of the PATH has a colon in its name")
}

fn path() -> OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

fn run(program: &str, arguments: &[&str], folder: &Path, path: &OsStr) -> Result<()> {
    let mut command = Command::new(program);
    command.env("PATH", path).args(arguments).current_dir(folder).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("failed to run {program}"))?;
    let said = || {
        let all = [output.stdout.as_slice(), &output.stderr].concat();
        let text = String::from_utf8_lossy(&all).into_owned();
        text.lines().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    };
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), said());
    Ok(())
}

/// Timed as the indexer: from when its table is there until all rows are in it.
async fn watched(name: &str, stack: &Stack, history: &History, command: Command, table: &str) -> Result<Run> {
    let (log, pids) = (stack.folder.log(name), stack.folder.pid_file());
    let mut process = Process::spawn(name, command, &log, &pids, Stop::Terminate)?;
    let mut connection = stack.postgres.connect(name).await?;
    let (mut begun, deadline) = (None, Instant::now() + TIME_MAX);
    let (mut memory, mut looks) = (0, 0u32);
    loop {
        // once a second, as it reads about every process of the machine
        if looks.is_multiple_of(10) {
            memory = memory.max(memory_of_group(process.id())?);
        }
        looks += 1;
        let query = format!("SELECT count(*) FROM {table}");
        let rows = sqlx::query_scalar::<_, i64>(AssertSqlSafe(query)).fetch_one(&mut connection).await;
        let is_all = matches!(&rows, Ok(rows) if u64::try_from(*rows)? >= history.events);
        if rows.is_ok() {
            let begun = *begun.get_or_insert_with(Instant::now);
            if is_all {
                let memory = memory.max(memory_of_group(process.id())?);
                return Ok(Run { took: begun.elapsed(), memory: [0, 0, 0, memory], ..Run::default() });
            }
        }
        ensure!(process.exit_status().is_none(), "{name} ended by itself: rows {rows:?}; {}", process.log_tail(20));
        ensure!(Instant::now() < deadline, "{name} is not done in time: rows {rows:?}; {}", process.log_tail(20));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Of a process and all that it started, each at its most.
fn memory_of_group(leader: u32) -> Result<u64> {
    let processes = std::fs::read_dir("/proc").context("failed to read /proc")?;
    let mut total = 0;
    for process in processes.flatten() {
        let Some(process) = process.file_name().to_str().map(str::to_owned) else { continue };
        let group = stat_field(&process, 5);
        // whoever ended in between has none
        if group.is_some_and(|group| group == leader.to_string()) {
            total += memory(&process, "VmHWM").unwrap_or_default();
        }
    }
    Ok(total)
}

async fn ponder(stack: &Stack, history: &History) -> Result<Run> {
    let files = ["package.json", "ponder.config.ts", "ponder.schema.ts", "src/index.ts", "src/api/index.ts"];
    let folder = prepared("ponder", &files, stack, history)?;
    run("npm", &["install", "--no-audit", "--no-fund", "--loglevel=error"], &folder, &path())?;
    let url = stack.postgres.create_database("ponder").await?;
    let mut command = Command::new("node");
    command.args(["node_modules/ponder/dist/esm/bin/ponder.js", "start", "--schema", "bench", "--port"]);
    command.arg(free_port()?.to_string()).current_dir(&folder);
    command.env("DATABASE_URL", url).env("RPC_URL", stack.chain.url()).env("EMITTER", history.emitter.to_string());
    command.env("FIRST_BLOCK", history.first.to_string()).env("LAST_BLOCK", history.last.to_string());
    command.env("PONDER_TELEMETRY_DISABLED", "true").env("CI", "true");
    watched("ponder", stack, history, command, "bench.transfer").await
}

/// Without Hasura, which only serves what it has written.
async fn envio(stack: &Stack, history: &History) -> Result<Run> {
    let files = ["package.json", "pnpm-workspace.yaml", "config.yaml", "schema.graphql", "src/EventHandlers.js"];
    let folder = prepared("envio", &files, stack, history)?;
    let path = path_with_pnpm()?;
    run("pnpm", &["install", "--no-frozen-lockfile"], &folder, &path)?;
    run("node", &["node_modules/envio/bin.js", "codegen"], &folder, &path)?;
    let url = stack.postgres.create_database("envio").await?;
    let port = url.rsplit_once(':').and_then(|(_, rest)| rest.split('/').next()).context("a URL without a port")?;
    let environment = [
        ("ENVIO_PG_HOST", "127.0.0.1"),
        ("ENVIO_PG_PORT", port),
        ("ENVIO_PG_USER", "postgres"),
        ("ENVIO_PG_PASSWORD", "any"),
        ("ENVIO_PG_DATABASE", "envio"),
        ("ENVIO_HASURA", "false"),
        ("TUI_OFF", "true"),
        ("LOG_LEVEL", "info"),
    ];
    let listen = free_port()?.to_string();
    let with_all = |mut command: Command| {
        command.current_dir(&folder).env("PATH", &path).envs(environment).env("ENVIO_INDEXER_PORT", &listen);
        command
    };
    let mut start = Command::new("node");
    start.args(["node_modules/envio/bin.js", "start", "--restart"]);
    watched("envio", stack, history, with_all(start), "public.\"Transfer\"").await
}

async fn rindexer(stack: &Stack, history: &History) -> Result<Run> {
    let folder = prepared("rindexer", &["rindexer.yaml", "abi.json"], stack, history)?;
    let url = stack.postgres.create_database("rindexer").await?;
    let mut command = Command::new("rindexer");
    command.args(["start", "indexer"]).current_dir(&folder).env("DATABASE_URL", url);
    watched("rindexer", stack, history, command, "bench_emitter.transfer").await
}
