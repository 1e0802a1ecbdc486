//! What `tidemark-indexer serve` can be told, each flag with an environment variable behind it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;

use crate::{login, payout, sync::check::Verify};

/// Flags of `serve`.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Postgres database of this indexer alone; its tables are made on first start.
    #[arg(long, env = "TIDEMARK_INDEXER_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: String,
    /// Only serve what another indexer writes into the database: nothing is written, a role that may only read is enough, and a
    /// streaming replica will do.
    #[arg(long, env = "TIDEMARK_INDEXER_READ_ONLY")]
    pub read_only: bool,
    /// The chain and its files.
    #[command(flatten)]
    pub chain: ChainArgs,
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, env = "TIDEMARK_INDEXER_LISTEN", default_value = "127.0.0.1:8082", value_name = "HOST:PORT")]
    pub listen: SocketAddr,
    /// Seconds without having been level with the chain after which /ready says no.
    #[arg(long, env = "TIDEMARK_INDEXER_BEHIND_SECONDS_MAX", default_value_t = 60, value_name = "SECONDS")]
    pub behind_seconds_max: u64,
    /// Connections to Postgres.
    #[arg(long, env = "TIDEMARK_INDEXER_DATABASE_CONNECTIONS", default_value_t = 8, value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(2..=200))]
    pub database_connections: u32,
    /// Listeners of /v1/events at a time; one more is told to come back later.
    #[arg(long, env = "TIDEMARK_INDEXER_EVENT_LISTENERS_MAX", default_value_t = 1_000, value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub event_listeners_max: u32,
    /// Who may log in, and see what belongs together.
    #[command(flatten)]
    pub logins: login::LoginArgs,
    /// Points to cash; left out, the indexer only reads.
    #[command(flatten)]
    pub payout: payout::Args,
}

/// Where chain and content store are, for every command that follows them.
#[derive(Args, Clone, Debug)]
pub struct ChainArgs {
    /// HTTP JSON-RPC of a node of the chain; several, by repetition or with commas: the first that is well leads, history is
    /// read from all of them, and where one's answers can't be, another is asked.
    #[arg(
        long = "rpc-url",
        env = "TIDEMARK_RPC_URL",
        hide_env_values = true,
        value_name = "URL",
        value_delimiter = ',',
        required = true
    )]
    pub rpc_urls: Vec<String>,
    /// What the nodes say is checked against headers: that they follow each other; their hashes and blooms too; or also
    /// every block's receipts, which takes one more call a block.
    #[arg(long, env = "TIDEMARK_INDEXER_VERIFY", value_enum, default_value_t = Verify::Bloom, value_name = "HOW")]
    pub verify: Verify,
    /// Deployment file, as `tidemark deploy` writes it.
    #[arg(long, env = "TIDEMARK_DEPLOYMENT", value_name = "FILE")]
    pub deployment: PathBuf,
    /// Content store: folder:/path, kubo:http://127.0.0.1:5001 or a gateway's http(s)://….
    #[arg(long, env = "TIDEMARK_STORE", value_name = "ADDRESS")]
    pub store: String,
    /// Milliseconds between two looks at the chain's head.
    #[arg(long, env = "TIDEMARK_INDEXER_POLL_INTERVAL_MS", default_value_t = 2_000, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub poll_interval_ms: u64,
    /// Blocks below the head that count as final where the chain knows no `finalized` tag.
    #[arg(long, env = "TIDEMARK_FINALITY_BLOCKS", default_value_t = 64, value_name = "BLOCKS")]
    pub finality_blocks: u64,
}

/// Flags of `rebuild`.
#[derive(Args, Clone, Debug)]
#[command(
    mut_arg("rpc_urls", |arg| arg.required(false).required_unless_present_any(["discard", "drop_old"])),
    mut_arg("deployment", |arg| arg.required(false).required_unless_present_any(["discard", "drop_old"])),
    mut_arg("store", |arg| arg.required(false).required_unless_present_any(["discard", "drop_old"]))
)]
pub struct RebuildArgs {
    /// Postgres database of an indexer, which may go on serving and following meanwhile.
    #[arg(long, env = "TIDEMARK_INDEXER_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: String,
    /// The chain and its files.
    #[command(flatten)]
    pub chain: Option<ChainArgs>,
    /// Throw away what is half built, and end.
    #[arg(long, conflicts_with = "drop_old")]
    pub discard: bool,
    /// Drop the tables from before the last swap, and end.
    #[arg(long)]
    pub drop_old: bool,
}

impl ChainArgs {
    /// See [`ChainArgs::poll_interval_ms`].
    pub fn poll_interval(&self) -> Duration {
        Duration::from_millis(self.poll_interval_ms)
    }
}
