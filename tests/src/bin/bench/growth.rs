//! Time and memory of the indexer with ever longer histories, as a table and, where asked for, as a plot.

use std::{fmt::Write as _, path::PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use tidemark_tests::{Options, Stack, chain::Mining, progress::Progress, stack::Services};

use super::{
    indexer::{History, backfill, child, watch_emitter},
    memory,
};

/// Events of a transaction, which is a block.
const EVENTS_PER_BLOCK: u8 = 250;
const MIB: f64 = 1_048_576.0;

/// How far.
#[derive(Args, Clone)]
pub struct Growth {
    /// Events, multiples of 250, fewest first: the same chain grows from one to the next.
    #[arg(long, value_delimiter = ',', default_value = "100000,1000000,10000000",
          value_parser = clap::value_parser!(u64).range(1_000..=20_000_000))]
    counts: Vec<u64>,
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
    println!(
        "\nblocks of {EVENTS_PER_BLOCK} events on anvil, into Postgres with fsync on, from an empty database each\n"
    );
    println!("| events | s | events/s | memory at ¼, ½, ¾ of the blocks, at most, MiB | anvil's, MiB |");
    println!("|---|---|---|---|---|");
    for count in counts {
        history.emit(&stack, count, &progress).await?;
        let database = format!("grown_{count}");
        let step = progress.step(&format!("{count} events"));
        let run = backfill(&stack, &history, &database, history.events).await?;
        step.done("are in the tables");
        stack.postgres.drop_database(&database).await?;
        let anvil = memory(&child("anvil")?.context("anvil does not run")?, "VmRSS")? as f64 / MIB;
        let [quarter, half, most, highest] = run.memory.map(|bytes| bytes as f64 / MIB);
        let (events, seconds) = (history.events as f64, run.took.as_secs_f64());
        println!(
            "| {} | {seconds:.2} | {:.0} | {quarter:.0}, {half:.0}, {most:.0}, {highest:.0} | {anvil:.0} |",
            history.events,
            events / seconds
        );
        points.push(Point { events, seconds, memory_mib: highest });
    }
    if let Some(path) = &flags.plot {
        std::fs::write(path, plot(&points)).with_context(|| format!("failed to write {}", path.display()))?;
    }
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
