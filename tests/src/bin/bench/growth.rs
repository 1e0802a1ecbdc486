//! Time and memory of the indexer with ever longer histories, beside the floor, as a table and, where asked for, as a plot.

use std::{
    fmt::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use sqlx::AssertSqlSafe;
use tidemark_tests::{
    Options, Stack,
    chain::{Chain, Client, Mining},
    progress::Progress,
    stack::Services,
};

use super::{
    indexer::{History, backfill, child, floor, watch_emitter},
    memory, processor_time,
};

/// Events of a transaction, which is a block.
const EVENTS_PER_BLOCK: u8 = 250;
const MIB: f64 = 1_048_576.0;
/// A node has settled when it has had so little of the processors in each of so many seconds.
const IDLE: Duration = Duration::from_millis(100);
const IDLE_SECONDS: u32 = 3;
const SETTLE_TIME_MAX: Duration = Duration::from_secs(120);

/// How far.
#[derive(Args, Clone)]
pub struct Growth {
    /// Events, multiples of 250, fewest first: the same chain grows from one to the next.
    #[arg(long, value_delimiter = ',', default_value = "100000,1000000,10000000",
          value_parser = clap::value_parser!(u64).range(1_000..=20_000_000))]
    counts: Vec<u64>,
    /// The chain's node: anvil keeps 2.4 KB of memory an event; geth, which `tests/geth/build` makes, keeps its history on
    /// the disk.
    #[arg(long, value_enum, default_value_t = Client::Anvil)]
    client: Client,
    /// Writes a plot (SVG).
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

struct Point {
    events: f64,
    seconds: f64,
    memory_mib: f64,
}

/// Prints the table, and writes the plot.
pub async fn run(flags: &Growth) -> Result<()> {
    let progress = Progress::new();
    let options = Options {
        client: flags.client,
        progress: progress.clone(),
        services: Services::None,
        mining: Mining::Automatic,
        ..Options::default()
    };
    let stack = Stack::start(options).await?;
    let mut history = History::begin(&stack, EVENTS_PER_BLOCK).await?;
    watch_emitter(&stack, &history)?;
    let mut counts = flags.counts.clone();
    counts.sort_unstable();
    let mut points = Vec::new();
    let node = match flags.client {
        Client::Anvil => "anvil",
        Client::Geth => "geth",
    };
    println!(
        "\nblocks of {EVENTS_PER_BLOCK} events on {node}, into Postgres with fsync on, from an empty database each\n"
    );
    println!(
        "| events | s | events/s | floor, s | of the floor | CPU, µs an event | memory at ¼, ½, ¾ of the blocks, at most, MiB | {node}: made in s, MiB of memory, of disk |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for count in counts {
        let begun = Instant::now();
        history.emit(&stack, count, &progress).await?;
        let made = begun.elapsed().as_secs();
        settle(node, &progress).await?;
        let database = format!("grown_{count}");
        let step = progress.step(&format!("floor of {count} events"));
        let least = floor(&stack, &history, &database, history.events).await?;
        sqlx::query(AssertSqlSafe(format!("DROP TABLE {database}")))
            .execute(&mut stack.postgres.connect("postgres").await?)
            .await?;
        step.done("are in a table");
        let step = progress.step(&format!("{count} events"));
        let run = backfill(&stack, &history, &database, history.events).await?;
        step.done("are in the tables");
        stack.postgres.drop_database(&database).await?;
        let process = child(node)?.with_context(|| format!("{node} does not run"))?;
        let memory = memory(&process, "VmRSS")? as f64 / MIB;
        let disk = match &stack.chain {
            Chain::Anvil(_) => "none".to_owned(),
            Chain::Geth(geth) => format!("{:.0}", geth.disk_bytes()? as f64 / MIB),
        };
        let [quarter, half, most, highest] = run.memory.map(|bytes| bytes as f64 / MIB);
        let (events, seconds) = (history.events as f64, run.took.as_secs_f64());
        let least = least.as_secs_f64();
        println!(
            "| {} | {seconds:.2} | {:.0} | {least:.2} | {:.2} | {:.1} | {quarter:.0}, {half:.0}, {most:.0}, {highest:.0} | {made}, {memory:.0}, {disk} |",
            history.events,
            events / seconds,
            least / seconds,
            run.processor.as_secs_f64() * 1e6 / events,
        );
        points.push(Point { events, seconds, memory_mib: highest });
    }
    if let Some(path) = &flags.plot {
        std::fs::write(path, plot(&points)).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

/// Waits until the node does nothing any more: geth goes on to index and move what it was given.
async fn settle(node: &str, progress: &Progress) -> Result<()> {
    let step = progress.step(&format!("{node} settles"));
    let process = child(node)?.with_context(|| format!("{node} does not run"))?;
    let deadline = Instant::now() + SETTLE_TIME_MAX;
    let (mut before, mut idle) = (processor_time(&process)?, 0);
    while idle < IDLE_SECONDS && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = processor_time(&process)?;
        idle = if now.saturating_sub(before) < IDLE { idle + 1 } else { 0 };
        before = now;
    }
    step.done(if idle < IDLE_SECONDS { "not in time: it goes on beside the measurement" } else { "does nothing" });
    Ok(())
}

/// Two panels with the events on logarithmic axes below both: seconds, logarithmic, and memory, linear from 0.
fn plot(points: &[Point]) -> String {
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 640 240\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"640\" height=\"240\" fill=\"#fff\"/>\n",
    );
    let seconds: Vec<(f64, f64)> = points.iter().map(|point| (point.events, point.seconds)).collect();
    let memory: Vec<(f64, f64)> = points.iter().map(|point| (point.events, point.memory_mib)).collect();
    panel(&mut svg, 50.0, "seconds, both axes logarithmic", &seconds, true);
    panel(&mut svg, 370.0, "most memory, MiB, from 0", &memory, false);
    svg.push_str("</svg>\n");
    svg
}

/// A panel of 240 by 160, its left side at `left`.
fn panel(svg: &mut String, left: f64, title: &str, points: &[(f64, f64)], is_logarithmic: bool) {
    let (width, top, bottom) = (240.0, 40.0, 200.0);
    let scale = |value: f64| if is_logarithmic { value.max(1e-3).log10() } else { value };
    let of = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick);
    let (x_least, x_most) =
        of(|point| point.0.log10()).fold((f64::MAX, f64::MIN), |(least, most), x| (least.min(x), most.max(x)));
    let highest = of(|point| point.1).fold(f64::MIN_POSITIVE, f64::max);
    let lowest = of(|point| point.1).fold(f64::MAX, f64::min);
    let (y_least, y_most) =
        if is_logarithmic { (scale(lowest).floor(), scale(highest).ceil()) } else { (0.0, highest * 1.2) };
    let x = |events: f64| left + width * (events.log10() - x_least) / (x_most - x_least).max(f64::MIN_POSITIVE);
    let y = |value: f64| bottom - (bottom - top) * (scale(value) - y_least) / (y_most - y_least).max(f64::MIN_POSITIVE);
    let line: Vec<String> = points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
    let _infallible = write!(
        svg,
        "<text x=\"{left}\" y=\"24\" font-weight=\"bold\">{title}</text>\n\
         <path d=\"M{left} {top}V{bottom}H{:.1}\" fill=\"none\" stroke=\"#888\"/>\n\
         <polyline points=\"{}\" fill=\"none\" stroke=\"#06c\" stroke-width=\"2\"/>\n",
        left + width,
        line.join(" ")
    );
    for (events, value) in points {
        let shown = if *value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") };
        let _infallible = write!(
            svg,
            "<circle cx=\"{0:.1}\" cy=\"{1:.1}\" r=\"3\" fill=\"#06c\"/>\n\
             <text x=\"{0:.1}\" y=\"{2:.1}\" text-anchor=\"middle\">{shown}</text>\n\
             <text x=\"{0:.1}\" y=\"216\" text-anchor=\"middle\">{events:.0}</text>\n",
            x(*events),
            y(*value),
            y(*value) - 8.0
        );
    }
}
