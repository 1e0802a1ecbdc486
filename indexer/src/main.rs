//! `tidemark-indexer`: mirrors chain and content store into Postgres and answers who asks.

use std::io::{IsTerminal, Write};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tidemark::service::start_log;
use tidemark_indexer::{
    api, checksum,
    config::{RebuildArgs, ServeArgs},
    ledger::verify,
    payout::{self, Resolution},
    rebuild, serve,
};
use tokio_util::sync::CancellationToken;

/// The read side of Tidemark: anyone may run one, and gets the same rows.
#[derive(Parser, Debug)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What is logged, for example `info` or `tidemark_indexer=debug,info`.
    #[arg(long, global = true, env = "TIDEMARK_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Follow the chain and serve API and explorer until SIGTERM or Ctrl-C.
    #[command(
        after_help = "Example:\n  tidemark-indexer serve --database-url postgres://postgres@127.0.0.1:5432/indexer \\\n    \
        --rpc-url http://127.0.0.1:8545 --deployment deployments/31337.json --store folder:.tidemark/blocks \\\n    \
        --listen 127.0.0.1:8082 --poll-interval-ms 200"
    )]
    Serve(Box<ServeArgs>),
    /// Print name, rows and checksum of each public table, whatever its physical order: to compare two indexers.
    #[command(
        after_help = "Example:\n  tidemark-indexer checksum --database-url postgres://postgres@127.0.0.1:5432/indexer"
    )]
    Checksum(DatabaseArgs),
    /// Make all tables that follow from the chain anew, beside the served ones and while those are served, and swap them in at once.
    #[command(
        after_help = "Examples:\n  Build, compare with what is served, and swap; killed, the same command goes on:\n  \
        tidemark-indexer rebuild --database-url postgres://postgres@127.0.0.1:5432/indexer \\\n    \
        --rpc-url http://127.0.0.1:8545 --deployment deployments/31337.json --store folder:.tidemark/blocks\n\n  \
        Throw away what is half built:\n  tidemark-indexer rebuild --discard --database-url postgres://…\n\n  \
        Once all is well, drop the tables from before:\n  tidemark-indexer rebuild --drop-old --database-url postgres://…\n\n\
        Payouts, rates, holds, sessions and groups are the operator's own and stay as they are. Tables whose rows differ from before \
        are printed, each with DIFFERS in front."
    )]
    Rebuild(Box<RebuildArgs>),
    /// Take on a payout that is stuck, after asking the partner what became of it.
    #[command(
        after_help = "Example:\n  tidemark-indexer resolve-payout 7c9e6679-7425-40de-944b-e07fc1f90ae7 paid \\\n    \
        --note 'partner confirmed by mail, 2026-11-21' --database-url postgres://postgres@127.0.0.1:5432/indexer"
    )]
    ResolvePayout(ResolveArgs),
    /// Say what points are worth in a currency, and when.
    #[command(subcommand)]
    Rate(RateCommand),
    /// Hold back points that were earned a short time ago.
    #[command(subcommand)]
    Hold(HoldCommand),
    /// Look after payouts.
    #[command(subcommand)]
    Payout(PayoutCommand),
    /// Look after the points ledger.
    #[command(subcommand)]
    Ledger(LedgerCommand),
    /// Print the OpenAPI 3.1 document of the API.
    Openapi,
}

#[derive(Subcommand, Debug)]
enum LedgerCommand {
    /// Recompute chain, balances, splits and causes of all transfers and payouts, and name what differs; fails where anything does.
    #[command(
        after_help = "Example:\n  tidemark-indexer ledger verify --database-url postgres://postgres@127.0.0.1:5432/indexer\n\n\
        Where standard output is no terminal, each line is JSON: progress, broken, and at the end verified or not_verified."
    )]
    Verify(DatabaseArgs),
}

#[derive(Subcommand, Debug)]
enum RateCommand {
    /// Set a rate: so many minor units for so many points. A payout keeps the rate that was valid when it was asked for.
    #[command(
        after_help = "Examples:\n  7 cents for 10 points, from now on until it is ended:\n  tidemark-indexer rate set --provider numo \\\n    \
        --currency EUR --minor 7 --points 10 --database-url postgres://postgres@127.0.0.1:5432/indexer\n\n  a won a point \
        in December:\n  tidemark-indexer rate set --provider numo --currency KRW --minor 1 \\\n    \
        --from 2026-12-01T00:00:00+09:00 --until 2027-01-01T00:00:00+09:00 --database-url postgres://…"
    )]
    Set {
        #[command(flatten)]
        rate: payout::rate::NewRate,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// End the rate that is valid, now or later; payouts that were made by it keep it.
    #[command(
        after_help = "Example:\n  tidemark-indexer rate end --provider numo --currency EUR --at 2026-12-31T23:00:00Z \\\n    \
        --database-url postgres://postgres@127.0.0.1:5432/indexer"
    )]
    End {
        #[command(flatten)]
        rate: payout::rate::EndRate,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Print all rates, one a line.
    #[command(
        after_help = "Example:\n  tidemark-indexer rate list --database-url postgres://postgres@127.0.0.1:5432/indexer"
    )]
    List(DatabaseArgs),
}

#[derive(Subcommand, Debug)]
enum HoldCommand {
    /// Points can be asked for only so many seconds after the block that they were earned in; 0 takes the hold away.
    #[command(after_help = "Example, a week:\n  tidemark-indexer hold set --provider numo --seconds 604800 \\\n    \
        --database-url postgres://postgres@127.0.0.1:5432/indexer")]
    Set {
        /// Name of the provider whose points these are.
        #[arg(long, value_name = "NAME")]
        provider: String,
        /// At most a year.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=31_622_400))]
        seconds: u32,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

#[derive(Subcommand, Debug)]
enum PayoutCommand {
    /// Take in a bank's status reports (pain.002) that did not come by its folder; taking one in twice changes nothing.
    #[command(after_help = "Example:\n  tidemark-indexer payout settle report-1.xml report-2.xml \\\n    \
        --database-url postgres://postgres@127.0.0.1:5432/indexer")]
    Settle {
        /// Files of the bank.
        #[arg(required = true, value_name = "FILE")]
        reports: Vec<std::path::PathBuf>,
        #[command(flatten)]
        database: DatabaseArgs,
    },
}

#[derive(Args, Debug)]
struct DatabaseArgs {
    /// Postgres database of an indexer.
    #[arg(long, env = "TIDEMARK_INDEXER_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: String,
}

#[derive(Args, Debug)]
struct ResolveArgs {
    /// The payout, as GET /v1/payouts shows it.
    payout_id: uuid::Uuid,
    /// What the partner says.
    #[arg(value_enum)]
    resolution: Resolution,
    /// Who decided, and why.
    #[arg(long, value_name = "TEXT")]
    note: String,
    #[command(flatten)]
    database: DatabaseArgs,
}

fn main() -> anyhow::Result<()> {
    tidemark::install_tls();
    let cli = Cli::parse();
    start_log(&cli.log).with_context(|| format!("--log {:?}: expected a level or filters", cli.log))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(run(cli.command))
}

async fn run(command: Command) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    match command {
        Command::Serve(args) => Box::pin(serve::serve(*args, CancellationToken::new())).await,
        Command::Checksum(args) => {
            let pool = serve::connect(&args.database_url, 2).await?;
            for table in checksum::checksums(&pool).await.context("sum the tables")? {
                writeln!(out, "{} {} {}", table.table, table.rows, table.checksum)?;
            }
            Ok(())
        }
        Command::Rebuild(args) => {
            for line in Box::pin(rebuild::rebuild(*args)).await?.lines() {
                writeln!(out, "{line}")?;
            }
            Ok(())
        }
        Command::ResolvePayout(args) => {
            let pool = serve::connect(&args.database.database_url, 2).await?;
            payout::resolve(&pool, args.payout_id, args.resolution, &args.note).await?;
            writeln!(out, "{} goes on; GET /v1/payouts/{} shows how", args.payout_id, args.payout_id)?;
            Ok(())
        }
        Command::Rate(command) => rate(command).await,
        Command::Hold(HoldCommand::Set { provider, seconds, database }) => {
            let pool = serve::connect(&database.database_url, 2).await?;
            payout::rate::hold(&pool, &provider, seconds).await?;
            writeln!(out, "points of {provider} can be asked for {seconds} seconds after their block")?;
            Ok(())
        }
        Command::Payout(PayoutCommand::Settle { reports, database }) => {
            let pool = serve::connect(&database.database_url, 2).await?;
            for report in &reports {
                let payouts = payout::bank::settle(&pool, report).await?;
                writeln!(out, "{}: something new of {payouts} payouts", report.display())?;
            }
            Ok(())
        }
        Command::Ledger(LedgerCommand::Verify(args)) => verify_ledger(&args.database_url).await,
        Command::Openapi => {
            let json = api::openapi().to_pretty_json().context("write the document")?;
            writeln!(out, "{json}")?;
            Ok(())
        }
    }
}

async fn rate(command: RateCommand) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    match command {
        RateCommand::Set { rate, database } => {
            let pool = serve::connect(&database.database_url, 2).await?;
            let id = payout::rate::set(&pool, &rate).await?;
            writeln!(out, "rate {id} is set")?;
        }
        RateCommand::End { rate, database } => {
            let pool = serve::connect(&database.database_url, 2).await?;
            let id = payout::rate::end(&pool, &rate).await?;
            writeln!(out, "rate {id} ends")?;
        }
        RateCommand::List(database) => {
            let pool = serve::connect(&database.database_url, 2).await?;
            for line in payout::rate::list(&pool).await? {
                writeln!(out, "{line}")?;
            }
        }
    }
    Ok(())
}

async fn verify_ledger(database_url: &str) -> anyhow::Result<()> {
    let pool = serve::connect(database_url, 2).await?;
    let terminal = std::io::stdout().is_terminal();
    let bar = indicatif::ProgressBar::new(0);
    let line = |value: serde_json::Value| {
        // who reads may stop to read; what was found is in the exit code, too
        drop(writeln!(std::io::stdout(), "{value}"));
    };
    let mut progress = |step: &'static str, done: u64, total: u64| match terminal {
        true => {
            bar.set_length(total);
            bar.set_message(step);
            bar.set_position(done);
        }
        false => line(serde_json::json!({ "type": "progress", "step": step, "done": done, "total": total })),
    };
    let report = verify::verify(&pool, &mut progress).await.context("verify the ledger")?;
    bar.finish_and_clear();
    for found in &report.findings {
        match terminal {
            true => writeln!(std::io::stdout(), "BROKEN {} {}: {}", found.check, found.row, found.what)?,
            false => {
                let (check, row, what) = (found.check, &found.row, &found.what);
                line(serde_json::json!({ "type": "broken", "check": check, "row": row, "what": what }));
            }
        }
    }
    if terminal {
        let verify::Report { block_number, transfers, lanes, splits, payout_steps, root, broken, .. } = &report;
        writeln!(
            std::io::stdout(),
            "block {block_number}: {transfers} transfers in {lanes} lanes, {splits} sales split again, {payout_steps} payout steps, {broken} broken\nroot {root}"
        )?;
    } else {
        let mut value = serde_json::to_value(&report).context("write the report")?;
        value["type"] = if report.broken == 0 { "verified".into() } else { "not_verified".into() };
        line(value);
    }
    anyhow::ensure!(
        report.broken == 0,
        "the ledger does not verify: {} things differ, the first are above",
        report.broken
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn no_two_flags_are_in_each_others_way() {
        super::Cli::command().debug_assert();
    }
}
