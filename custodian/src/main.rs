//! `tidemark-custodian`: reads flags, wires the parts, serves, and shuts down in order.

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use tidemark::{
    chain::{Deployment, checked_reader},
    sealing::CustodianKey,
    service::{causes, serve_until_stopped, start_log},
};
use tidemark_custodian::{Custodian, audit::Audit, chain::Chain, openapi, router};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Releases content keys to licence holders, after a look at the chain.
#[derive(Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  # make a key, once; the public key is printed for those who seal to it
  tidemark-custodian keygen --out custodian.key

  # serve on a port, with a database of its own
  tidemark-custodian serve --key-file custodian.key --deployment deployments/31337.json \\
      --rpc-url http://127.0.0.1:8545 --database-url postgres://postgres@127.0.0.1:5432/custodian

  # look
  curl http://127.0.0.1:8083/v1/public-key
  curl 'http://127.0.0.1:8083/v1/releases?limit=10'
  open http://127.0.0.1:8083/docs"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to log: a level, or filters like tidemark_custodian=debug,warn.
    #[arg(long, global = true, env = "TIDEMARK_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
}

#[derive(Subcommand)]
enum Command {
    /// Answer release requests until SIGTERM or Ctrl-C.
    #[command(after_help = "\
Example:
  tidemark-custodian serve --key-file custodian.key --deployment deployments/31337.json \\
      --rpc-url http://127.0.0.1:8545 --database-url postgres://postgres@127.0.0.1:5432/custodian

Every flag can stand in the environment instead. The database must be the custodian's alone.")]
    Serve(Box<Serve>),
    /// Make a secret key and print its public key.
    #[command(after_help = "\
Example:
  tidemark-custodian keygen --out custodian.key
  0x02c6…  <- the public key: give it to the relayer

Keep a copy of the file in a safe place: without it nothing that is sealed to it can ever be opened again.")]
    Keygen {
        /// The new file, readable by its owner only; an existing one is left alone.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Print the OpenAPI document.
    Openapi,
}

#[derive(Args)]
struct Serve {
    /// Secret key file, as `keygen` writes it.
    #[arg(long, env = "TIDEMARK_CUSTODIAN_KEY_FILE", value_name = "FILE")]
    key_file: PathBuf,
    /// Postgres database of this custodian alone; its tables are made on first start.
    #[arg(long, env = "TIDEMARK_CUSTODIAN_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: String,
    /// HTTP JSON-RPC of a node that this custodian trusts.
    #[arg(long, env = "TIDEMARK_RPC_URL", hide_env_values = true, value_name = "URL")]
    rpc_url: String,
    /// Deployment file, as `tidemark deploy` writes it.
    #[arg(long, env = "TIDEMARK_DEPLOYMENT", value_name = "FILE")]
    deployment: PathBuf,
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, env = "TIDEMARK_CUSTODIAN_LISTEN", default_value = "127.0.0.1:8083", value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// Place in the committee.
    #[arg(long, env = "TIDEMARK_CUSTODIAN_INDEX", default_value_t = 1, value_name = "NUMBER",
          value_parser = clap::value_parser!(u16).range(1..))]
    index: u16,
    /// Requests worked on at the same time; more are answered 503 at once.
    #[arg(long, env = "TIDEMARK_CUSTODIAN_RELEASES_AT_ONCE", default_value_t = 64, value_name = "COUNT",
          value_parser = clap::value_parser!(u16).range(1..))]
    releases_at_once: u16,
    /// Oldest latest block that still counts as a fresh look at the chain.
    #[arg(long, env = "TIDEMARK_CUSTODIAN_BLOCK_AGE_SECONDS_MAX", default_value_t = 300, value_name = "SECONDS")]
    block_age_seconds_max: u64,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // causes name addresses, and those of nodes and databases may hold keys: they are cut here
            let _nobody_reads = writeln!(io::stderr(), "error: {}", causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    tidemark::install_tls();
    let cli = Cli::parse();
    start_log(&cli.log).with_context(|| format!("--log: {:?} is no filter; try info", cli.log))?;
    match cli.command {
        Command::Keygen { out } => keygen(&out),
        Command::Openapi => print(&openapi().to_pretty_json().context("failed to write the OpenAPI document")?),
        Command::Serve(flags) => tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("failed to start the async runtime")?
            .block_on(serve(*flags)),
    }
}

fn print(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("failed to write to standard output")
}

fn keygen(out: &Path) -> Result<()> {
    let key = CustodianKey::random()?;
    key.save(out).context("no key was made; --out must name a new file in a folder that exists")?;
    print(&key.public_key().to_string())
}

async fn serve(flags: Serve) -> Result<()> {
    let key = CustodianKey::load(&flags.key_file).context(
        "no secret key; make one with `tidemark-custodian keygen --out FILE` and name it with --key-file FILE",
    )?;
    let deployment = Deployment::load(&flags.deployment)?;
    let provider = checked_reader(&flags.rpc_url, &deployment)
        .await
        .context("--rpc-url must be a node of the deployment's chain that answers now")?;
    let audit = Audit::connect(&flags.database_url)
        .await
        .context("--database-url must be a running Postgres with an empty database of the custodian's own")?;
    let metrics = tidemark::service::metrics()?;
    let chain = Chain::new(provider, deployment, flags.block_age_seconds_max);
    let public_key = key.public_key();
    let custodian = Custodian::new(key, flags.index, chain, audit.clone(), flags.releases_at_once.into(), metrics);

    let listener = TcpListener::bind(flags.listen)
        .await
        .with_context(|| format!("failed to listen on {}; choose another with --listen", flags.listen))?;
    let address = listener.local_addr().context("failed to read the address listened on")?;
    tracing::info!(url = format!("http://{address}"), %public_key, "custodian ready");

    serve_until_stopped(listener, router(Arc::new(custodian)), CancellationToken::new())
        .await
        .context("the server failed")?;
    audit.close().await;
    Ok(())
}
