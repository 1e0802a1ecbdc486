//! `tidemark-indexer`: mirrors chain and content store into Postgres and answers who asks.

use std::io::Write;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tidemark::service::start_log;
use tidemark_indexer::{
    api, checksum,
    config::ServeArgs,
    payout::{self, Resolution},
    serve,
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
    /// Take on a payout that is stuck, after asking the partner what became of it.
    #[command(
        after_help = "Example:\n  tidemark-indexer resolve-payout 7c9e6679-7425-40de-944b-e07fc1f90ae7 paid \\\n    \
        --note 'partner confirmed by mail, 2026-11-21' --database-url postgres://postgres@127.0.0.1:5432/indexer"
    )]
    ResolvePayout(ResolveArgs),
    /// Print the OpenAPI 3.1 document of the API.
    Openapi,
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
        Command::ResolvePayout(args) => {
            let pool = serve::connect(&args.database.database_url, 2).await?;
            payout::resolve(&pool, args.payout_id, args.resolution, &args.note).await?;
            writeln!(out, "{} goes on; GET /v1/payouts/{} shows how", args.payout_id, args.payout_id)?;
            Ok(())
        }
        Command::Openapi => {
            let json = api::openapi().to_pretty_json().context("write the document")?;
            writeln!(out, "{json}")?;
            Ok(())
        }
    }
}
