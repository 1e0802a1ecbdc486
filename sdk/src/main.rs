//! The `tidemark` command line: verify as a stranger, deploy, publish a dataset, download what a licence covers.
#![allow(clippy::print_stdout, reason = "printing is what a command line does")]

use std::{
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use alloy::{
    primitives::{Address, B256, U256},
    signers::local::PrivateKeySigner,
};
use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};
use serde_json::json;
use tidemark::{
    chain::{self, Deployment},
    contracts::ProvenanceLog,
    deploy::{self, Roles},
    download::{self, Progress},
    history::History,
    ids::DataId,
    publish::{self, AttestorClient},
    store::{self, Store},
    verify::{self, Report},
};

/// Consented data with proofs: verify, publish and download, against chain and content store only.
#[derive(Parser)]
#[command(
    name = "tidemark",
    version,
    after_help = "\
Examples:
  tidemark verify data 2f1d6a0e-… --rpc-url http://127.0.0.1:8545 --deployment deployment.json --store folder:./store
  tidemark verify batch numo 0 --json
  tidemark verify license 1
  tidemark download 1 --key-file buyer.key --custodian http://127.0.0.1:7004 --out ./data
  tidemark deploy --rpc-url http://127.0.0.1:8545 --key-file deployer.key --out deployment.json
  tidemark verify deployment

--rpc-url, --deployment and --store can also be given as TIDEMARK_RPC_URL, TIDEMARK_DEPLOYMENT and TIDEMARK_STORE."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check what the chain and the content store say; exits with 1 where a check fails.
    Verify {
        #[command(subcommand)]
        what: Verify,
    },
    /// Deploy the contracts (CREATE2: same code and salt, same addresses) and write where they are.
    Deploy {
        /// JSON-RPC of the chain, http(s).
        #[arg(long, env = "TIDEMARK_RPC_URL")]
        rpc_url: String,
        /// File with the deployer's private key, 64 hex digits.
        #[arg(long)]
        key_file: PathBuf,
        /// File to write.
        #[arg(long)]
        out: PathBuf,
        /// 32 bytes in hex; another salt gives other addresses.
        #[arg(long, default_value_t = B256::ZERO)]
        salt: B256,
        /// Who grants roles from then on, after 3 days each time; best a multisig. Without it the deployer keeps every role,
        /// without delays: for development only.
        #[arg(long, requires_all = ["pauser", "arbiter", "guardian"])]
        admin: Option<Address>,
        /// Who may stop and resume anchors and sales.
        #[arg(long, requires = "admin")]
        pauser: Option<Address>,
        /// Who rules on disputes, with a day's delay.
        #[arg(long, requires = "admin")]
        arbiter: Option<Address>,
        /// Who may cancel a ruling in that day.
        #[arg(long, requires = "admin")]
        guardian: Option<Address>,
    },
    /// Register a dataset of all accepted records, or its next version.
    Publish {
        #[command(flatten)]
        source: Source,
        /// The dataset's name, 1 to 64 bytes.
        name: String,
        /// File with the provider's private key, 64 hex digits.
        #[arg(long)]
        key_file: PathBuf,
        /// The attestor that signs the version.
        #[arg(long, env = "TIDEMARK_ATTESTOR_URL")]
        attestor_url: String,
        /// File with the attestor's bearer token.
        #[arg(long)]
        attestor_token_file: PathBuf,
    },
    /// Download, decrypt and check every file that a licence covers; exits with 1 where one could not be had.
    Download {
        #[command(flatten)]
        source: Source,
        /// The licence's number.
        license: U256,
        /// File with the holder's private key, 64 hex digits.
        #[arg(long)]
        key_file: PathBuf,
        /// Who releases keys.
        #[arg(long, env = "TIDEMARK_CUSTODIAN_URL")]
        custodian: String,
        /// Folder for the files.
        #[arg(long)]
        out: PathBuf,
    },
    /// Print the CID that Kubo gives a file (`ipfs add --cid-version=1 --raw-leaves --chunker=size-1048576`).
    Cid {
        /// The file.
        file: PathBuf,
    },
}

#[derive(Subcommand)]
enum Verify {
    /// A record: inclusion of every event, hash chain, consent, pay, licences.
    Data {
        #[command(flatten)]
        source: Source,
        /// UUID of the record.
        data_id: DataId,
        /// Only this provider's batches (name or address): quicker.
        #[arg(long)]
        provider: Option<String>,
    },
    /// A batch: manifest against anchored header, every rule that binds its events.
    Batch {
        #[command(flatten)]
        source: Source,
        /// Name or address.
        provider: String,
        /// From 0.
        number: u64,
    },
    /// A deployment: addresses and code hashes against this program's bytecode, and the roles that restricted calls need.
    Deployment {
        /// JSON-RPC of the chain, http(s).
        #[arg(long, env = "TIDEMARK_RPC_URL")]
        rpc_url: String,
        /// Where the contracts are: a file that `tidemark deploy` wrote.
        #[arg(long, env = "TIDEMARK_DEPLOYMENT")]
        deployment: PathBuf,
        /// Print JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// A licence: terms, state, dataset version, members, the split of the price.
    License {
        #[command(flatten)]
        source: Source,
        /// From 1.
        license: U256,
    },
}

#[derive(Args)]
struct Source {
    /// JSON-RPC of the chain, http(s).
    #[arg(long, env = "TIDEMARK_RPC_URL")]
    rpc_url: String,
    /// Where the contracts are: a file that `tidemark deploy` wrote.
    #[arg(long, env = "TIDEMARK_DEPLOYMENT")]
    deployment: PathBuf,
    /// folder:/path, kubo:http://host:port or a gateway's http(s)://…
    #[arg(long, env = "TIDEMARK_STORE")]
    store: String,
    /// Print JSON instead of text.
    #[arg(long)]
    json: bool,
}

impl Source {
    async fn open(&self) -> anyhow::Result<History> {
        let deployment = Deployment::load(&self.deployment)?;
        let provider = chain::checked_reader(&self.rpc_url, &deployment).await?;
        Ok(History { provider, deployment, store: Store::open(&self.store)? })
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    tidemark::install_tls();
    match run(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tidemark: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Verify { what } => verify(what).await,
        Command::Deploy { rpc_url, key_file, out, salt, admin, pauser, arbiter, guardian } => {
            let key = read_key(&key_file)?;
            let deployer = key.address();
            let sender = chain::sender(&rpc_url, key)?;
            let roles = match (admin, pauser, arbiter, guardian) {
                (Some(admin), Some(pauser), Some(arbiter), Some(guardian)) => {
                    Some(Roles { admin, pauser, arbiter, guardian })
                }
                _ => None,
            };
            let mut deployment = deploy::deploy(&sender, deployer, salt, roles).await?;
            // a second run finds everything there: the block of the first one is where the history begins
            if let Ok(before) = Deployment::load(&out)
                && before.provenance_log == deployment.provenance_log
            {
                deployment.block = before.block.min(deployment.block);
            }
            let text = serde_json::to_string_pretty(&deployment)? + "\n";
            std::fs::write(&out, &text).with_context(|| format!("write {}", out.display()))?;
            let report = deploy::check(&sender, &deployment).await?;
            print_report(&report);
            Ok(if report.verified { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Publish { source, name, key_file, attestor_url, attestor_token_file } => {
            let history = source.open().await?;
            let key = read_key(&key_file)?;
            let provider = key.address();
            let sender = chain::sender(&source.rpc_url, key)?;
            let token = read_secret(&attestor_token_file)?;
            let attestor = AttestorClient { url: attestor_url, token };
            let published = publish::publish(&history, &sender, &attestor, provider, &name).await?;
            let line = json!({
                "ip_id": published.ip_id.to_string(),
                "version": published.version,
                "content": published.content,
                "transaction": published.transaction,
                "gas_used": published.gas_used,
            });
            println!("{line}");
            Ok(ExitCode::SUCCESS)
        }
        Command::Download { source, license, key_file, custodian, out } => {
            let history = source.open().await?;
            let progress = progress(source.json);
            let outcome =
                download::download(&history, license, &read_key(&key_file)?, &custodian, &out, &progress).await?;
            for (_, error) in &outcome.missing {
                eprintln!("missing: {}", with_causes(error));
            }
            let (files, missing) = (outcome.files.len(), outcome.missing.len());
            println!(
                "{}",
                json!({ "license": license.to_string(), "files": files, "missing": missing, "folder": out })
            );
            Ok(if missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Command::Cid { file } => {
            let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
            println!("{}", store::cid_of(&bytes));
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn verify(what: Verify) -> anyhow::Result<ExitCode> {
    let (json, report) = match what {
        Verify::Deployment { rpc_url, deployment, json } => {
            let deployment = Deployment::load(&deployment)?;
            let reader = chain::checked_reader(&rpc_url, &deployment).await?;
            (json, deploy::check(&reader, &deployment).await?)
        }
        Verify::Data { source, data_id, provider } => {
            let history = source.open().await?;
            let provider = match provider {
                Some(provider) => Some(provider_address(&history, &provider).await?),
                None => None,
            };
            let report = verify::data(&history, data_id, provider).await?;
            (source.json, report)
        }
        Verify::Batch { source, provider, number } => {
            let history = source.open().await?;
            let provider = provider_address(&history, &provider).await?;
            let report = verify::batch(&history, provider, number).await?;
            (source.json, report)
        }
        Verify::License { source, license } => {
            let report = verify::license(&source.open().await?, license).await?;
            (source.json, report)
        }
    };
    match json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print_report(&report),
    }
    Ok(if report.verified { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A provider's address, by name where it is none.
async fn provider_address(history: &History, text: &str) -> anyhow::Result<Address> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let log = ProvenanceLog::new(history.deployment.provenance_log, &history.provider);
    let address = log.providerNamed(text.to_owned()).call().await.context("providerNamed")?;
    if address.is_zero() {
        bail!("no provider is named {text:?} on chain {}", history.deployment.chain_id);
    }
    Ok(address)
}

/// An error with its causes in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn print_report(report: &Report) {
    println!("{}", report.subject);
    for fact in &report.facts {
        println!("  {:<22} {}", fact.name, fact.value);
    }
    for check in &report.checks {
        println!("  [{}] {}: {}", if check.ok { "ok" } else { "FAILED" }, check.name, check.detail);
    }
    println!("{}", if report.verified { "verified" } else { "NOT VERIFIED" });
}

fn progress(json: bool) -> Progress {
    if json || !std::io::stderr().is_terminal() {
        return Progress::new(|done, total, name| {
            // a closed stderr must not end the download
            drop(writeln!(std::io::stderr(), "{}", json!({ "done": done, "total": total, "file": name })));
        });
    }
    let bar = indicatif::ProgressBar::new(0);
    Progress::new(move |done, total, name| {
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(name.to_owned());
        if done == total {
            bar.finish();
        }
    })
}

fn read_secret(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

fn read_key(path: &Path) -> anyhow::Result<PrivateKeySigner> {
    // the parser's own error could quote the key
    let key = read_secret(path)?.parse();
    key.map_err(|_| anyhow::anyhow!("{}: expected a private key of 64 hex digits", path.display()))
}
