//! Flags of both binaries, each with an environment variable behind it; nothing else reads the environment.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use alloy::{primitives::Address, signers::local::PrivateKeySigner};
use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};
use tidemark::{dataset::WEIGHT_MAX, ids::DataId, sealing::PublicKey};
use zeroize::Zeroizing;

use crate::{
    intake::{
        key::Scope,
        provider::{Attestations, Policies},
    },
    storage_key::StorageKey,
};

/// The write side: takes submissions in, has them judged, batches and anchors them.
#[derive(Debug, Parser)]
#[command(
    name = "tidemark-relayer",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  # let a provider in that is registered on chain; prints its API key, once
  tidemark-relayer provider add --name numo --account 0x… --deployment deployments/31337.json \\
      --rpc-url http://127.0.0.1:8545 --database-url postgres://postgres@127.0.0.1:5432/relayer

  # a key for one service of a provider, and the end of the one before it
  tidemark-relayer key issue --provider numo --name uploads-2027 --scope uploads,read --days 400
  tidemark-relayer key revoke --provider numo --name uploads-2026

  # a new storage key, once every relayer has been started with both
  tidemark-relayer storage-key rotate --storage-key-file new.key --former-storage-key-file storage.key \\
      --database-url postgres://postgres@127.0.0.1:5432/relayer

  # serve
  tidemark-relayer serve --deployment deployments/31337.json --rpc-url http://127.0.0.1:8545 \\
      --database-url postgres://postgres@127.0.0.1:5432/relayer --store folder:/var/lib/tidemark/store \\
      --attestor-url http://127.0.0.1:8081 --attestor-token TOKEN --custodian-key 0x02… \\
      --sender-key-file sender.key --storage-key-file storage.key

  # look
  curl http://127.0.0.1:8080/status
  open http://127.0.0.1:8080/docs"
)]
pub struct Relayer {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What to log: a level, or filters like tidemark_relayer=debug,warn.
    #[arg(long, global = true, env = "TIDEMARK_LOG", default_value = LOG, value_name = "FILTER")]
    pub log: String,
}

/// Decoders warn of what the gate then says itself.
const LOG: &str =
    "info,symphonia=error,symphonia_core=error,symphonia_bundle_mp3=error,symphonia_format_isomp4=error,re_mp4=error";

/// Commands of the relayer.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "made once")]
pub enum Command {
    /// Run the service.
    Serve(Serve),
    /// Providers.
    #[command(subcommand)]
    Provider(ProviderCommand),
    /// API keys.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Webhooks, on which providers hear what becomes of their batches.
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// The key under which secrets are sealed in the database.
    #[command(subcommand)]
    StorageKey(StorageKeyCommand),
    /// Erase what is private of a record; prints how far that is, and the running service does it.
    Erase(Erase),
    /// Check everything that `serve` with the same flags needs, and say how to fix it; fails where something is broken.
    Doctor(Doctor),
    /// Write the OpenAPI document of the relayer (or, with --attestor, of the attestor) to standard output.
    Openapi {
        /// The attestor's instead.
        #[arg(long)]
        attestor: bool,
    },
}

/// `provider …`
#[derive(Debug, Subcommand)]
pub enum ProviderCommand {
    /// Let a provider in that is registered on chain; prints a new API key that may do everything, once.
    Add(ProviderAdd),
    /// Say how a provider's metadata is checked; what is not given stays as it is.
    Set(ProviderSet),
    /// Set or remove a provider's webhook; prints the secret that signs its messages, once.
    Webhook(ProviderWebhook),
}

/// `webhook …`
#[derive(Debug, Subcommand)]
pub enum WebhookCommand {
    /// Send messages again that were given up on, or all from one on.
    Replay(WebhookReplay),
}

/// `key …`
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make another API key of a provider; prints it, once.
    Issue(KeyIssue),
    /// Show a provider's API keys, newest first: name, scopes, times and state; never the keys.
    List(KeyList),
    /// End an API key for good.
    Revoke(KeyRevoke),
}

/// Database and chain, which every command needs.
#[derive(Debug, Args)]
pub struct Base {
    /// Postgres database of the relayer; its tables are made at the start.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// JSON-RPC of a node of the chain; several, in the order in which they are asked, by repetition or with commas.
    #[arg(long = "rpc-url", env = "TIDEMARK_RPC_URL", hide_env_values = true, value_delimiter = ',', required = true)]
    pub rpc_urls: Vec<String>,
    /// Deployment file: where the contracts are.
    #[arg(long, env = "TIDEMARK_DEPLOYMENT")]
    pub deployment: PathBuf,
    /// Blocks that make a block final where the chain has no `finalized` tag.
    #[arg(long, env = "TIDEMARK_FINALITY_DEPTH", default_value_t = 64)]
    pub finality_depth: u64,
}

/// The storage key, and the one before it while secrets are still under that one.
#[derive(Debug, Args)]
pub struct StorageKeyFiles {
    /// File with 32 hex bytes under which secrets are sealed in the database.
    #[arg(long, env = "TIDEMARK_STORAGE_KEY_FILE")]
    pub storage_key_file: PathBuf,
    /// File with the storage key before: opens what is still sealed under it, until `storage-key rotate` has been run.
    #[arg(long, env = "TIDEMARK_FORMER_STORAGE_KEY_FILE")]
    pub former_storage_key_file: Option<PathBuf>,
}

impl StorageKeyFiles {
    /// Reads them.
    pub fn load(&self) -> anyhow::Result<StorageKey> {
        let former = self.former_storage_key_file.as_deref().map(secret_file).transpose()?;
        Ok(StorageKey::new(&*secret_file(&self.storage_key_file)?, former.as_deref()))
    }
}

/// `storage-key …`
#[derive(Debug, Subcommand)]
pub enum StorageKeyCommand {
    /// Seal again, under the current key, what the former one sealed. Relayers may run meanwhile, once they have both.
    /// Prints how many secrets that were; may be stopped and run again.
    Rotate(StorageKeyRotate),
}

/// `storage-key rotate`
#[derive(Debug, Args)]
pub struct StorageKeyRotate {
    /// Postgres database of the relayer.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// Both keys; without a former one, whether all is sealed under the current one.
    #[command(flatten)]
    pub storage_key: StorageKeyFiles,
}

/// `provider add`
#[derive(Debug, Args)]
pub struct ProviderAdd {
    /// Database and chain.
    #[command(flatten)]
    pub base: Base,
    /// The provider's name on chain.
    #[arg(long)]
    pub name: String,
    /// The provider's account on chain.
    #[arg(long)]
    pub account: Address,
}

/// `provider webhook`
#[derive(Debug, Args)]
pub struct ProviderWebhook {
    /// Postgres database of the relayer.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// Under which secrets are sealed.
    #[command(flatten)]
    pub storage_key: StorageKeyFiles,
    /// The provider's name.
    #[arg(long)]
    pub name: String,
    /// Where messages go: https://….
    #[arg(long, required_unless_present = "remove")]
    pub url: Option<String>,
    /// End the webhook instead, with all messages that wait.
    #[arg(long, conflicts_with = "url")]
    pub remove: bool,
    /// Take http and addresses of the inside too; for development only.
    #[arg(long, env = "TIDEMARK_WEBHOOK_ALLOW_PRIVATE")]
    pub webhook_allow_private: bool,
}

/// `webhook replay`
#[derive(Debug, Args)]
pub struct WebhookReplay {
    /// Postgres database of the relayer.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// The provider's name.
    #[arg(long)]
    pub name: String,
    /// Send every message from this id on, delivered ones too; without it, those that were given up on.
    #[arg(long)]
    pub from: Option<i64>,
}

/// `doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// The service's.
    #[command(flatten)]
    pub serve: Serve,
    /// Write JSON lines {verdict, part, found, fix}.
    #[arg(long)]
    pub json: bool,
}

/// `erase`
#[derive(Debug, Args)]
pub struct Erase {
    /// Postgres database of the relayer.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// The record.
    #[arg(long)]
    pub data_id: DataId,
}

/// `provider set`
#[derive(Debug, Args)]
pub struct ProviderSet {
    /// Postgres database of the relayer.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// The provider's name.
    #[arg(long)]
    pub name: String,
    /// Whether signatures under its metadata are looked at.
    #[arg(long)]
    pub attestation: Option<Attestations>,
    /// Where it publishes the keys of these signatures, a JWK set: https, or http to this machine.
    #[arg(long, value_name = "URL")]
    pub key_url: Option<String>,
    /// Whether its requests have to be signed (RFC 9421) by these keys, besides the API key.
    #[arg(long, value_name = "true|false")]
    pub signed_requests: Option<bool>,
    /// What happens to metadata that names a policy which the provider did not register.
    #[arg(long)]
    pub policies: Option<Policies>,
}

/// `key issue`
#[derive(Debug, Args)]
pub struct KeyIssue {
    /// Postgres database of the relayer.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// The provider's name.
    #[arg(long)]
    pub provider: String,
    /// What the key is called, unique among the provider's live keys [default: made up].
    #[arg(long)]
    pub name: Option<String>,
    /// What it may do.
    #[arg(long, value_delimiter = ',', required = true)]
    pub scope: Vec<Scope>,
    /// Days until it expires [default: never].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: Option<u32>,
}

/// `key list`
#[derive(Debug, Args)]
pub struct KeyList {
    /// Postgres database of the relayer.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// The provider's name.
    #[arg(long)]
    pub provider: String,
}

/// `key revoke`
#[derive(Debug, Args)]
pub struct KeyRevoke {
    /// Postgres database of the relayer.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// The key; read from standard input where neither it nor a name is given.
    #[arg(long, env = "TIDEMARK_API_KEY", hide_env_values = true, conflicts_with = "name")]
    pub key: Option<String>,
    /// The provider whose key it is, with --name.
    #[arg(long, requires = "name")]
    pub provider: Option<String>,
    /// The key's name, where the key itself is not at hand.
    #[arg(long, requires = "provider")]
    pub name: Option<String>,
}

/// `serve`
#[derive(Debug, Args)]
pub struct Serve {
    /// Database and chain.
    #[command(flatten)]
    pub base: Base,
    /// Address to listen on.
    #[arg(long, env = "TIDEMARK_RELAYER_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Address for /status and /metrics, which are then not on the other one any more; --listen's where absent.
    #[arg(long, env = "TIDEMARK_RELAYER_OPERATOR_LISTEN")]
    pub operator_listen: Option<SocketAddr>,
    /// Content store: folder:/path, kubo:http://host:port.
    #[arg(long, env = "TIDEMARK_STORE")]
    pub store: String,
    /// Where the attestor listens.
    #[arg(long, env = "TIDEMARK_ATTESTOR_URL")]
    pub attestor_url: String,
    /// Bearer token that the attestor expects.
    #[arg(long, env = "TIDEMARK_ATTESTOR_TOKEN", hide_env_values = true)]
    pub attestor_token: String,
    /// File with the hex key that pays for and sends transactions; several, by repetition or with commas, share the work.
    #[arg(
        long = "sender-key-file",
        env = "TIDEMARK_SENDER_KEY_FILE",
        value_delimiter = ',',
        required_unless_present = "senders"
    )]
    pub sender_key_files: Vec<PathBuf>,
    /// Key in a cloud's hardware that sends too: aws-kms:KEY_ID, or gcp-kms:projects/…/cryptoKeyVersions/N, where the
    /// relayer was built with that cargo feature.
    #[arg(long = "sender", env = "TIDEMARK_SENDER", value_delimiter = ',')]
    pub senders: Vec<String>,
    /// Under which contributors' and webhooks' secrets are sealed.
    #[command(flatten)]
    pub storage_key: StorageKeyFiles,
    /// The custodian's public key (0x and 66 hex digits): content keys are sealed to it.
    #[arg(long, env = "TIDEMARK_CUSTODIAN_KEY")]
    pub custodian_key: PublicKey,
    /// Seal a batch at this many events …
    #[arg(long, env = "TIDEMARK_BATCH_EVENTS_MAX", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub batch_events_max: u32,
    /// … or when its oldest event is this old.
    #[arg(long, env = "TIDEMARK_BATCH_AGE_MS_MAX", default_value_t = 10_000)]
    pub batch_age_ms_max: u64,
    /// How often to look for work and at the chain.
    #[arg(long, env = "TIDEMARK_POLL_MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub poll_ms: u64,
    /// Replace a transaction at a higher fee after this many blocks unmined.
    #[arg(long, env = "TIDEMARK_BUMP_AFTER_BLOCKS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub bump_after_blocks: u64,
    /// Greatest fee to offer for a unit of gas, gwei; while the chain asks for more, nothing new is sent.
    #[arg(long, env = "TIDEMARK_MAX_FEE_GWEI", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub max_fee_gwei: u64,
    /// Send nothing that could leave a sender with less than this, wei.
    #[arg(long, env = "TIDEMARK_BALANCE_FLOOR_WEI", default_value_t = 0)]
    pub balance_floor_wei: u128,
    /// Of several relayers on one database, one that dies is succeeded after this long.
    #[arg(long, env = "TIDEMARK_LEASE_MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(500..=600_000))]
    pub lease_ms: u64,
    /// Greatest price of a task that uploads may name, payment-token units: anybody makes tasks, and one dispute that is
    /// upheld takes up to twice this out of the bond.
    #[arg(long, env = "TIDEMARK_TASK_PRICE_MAX", default_value_t = WEIGHT_MAX, value_parser = task_price)]
    pub task_price_max: u128,
    /// Events of a provider that may wait for the chain; where more do, its uploads and Trace batches are turned away (503).
    #[arg(long, env = "TIDEMARK_BACKLOG_EVENTS_MAX", default_value_t = 5_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub backlog_events_max: u32,
    /// Uploads and Trace batches in memory at once, up to 32 MiB each; more wait.
    #[arg(long, env = "TIDEMARK_BODIES_AT_ONCE", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub bodies_at_once: u32,
    /// Requests a minute of each provider, all its keys together; 0 for no limit.
    #[arg(long, env = "TIDEMARK_REQUESTS_PER_MINUTE", default_value_t = 60_000)]
    pub requests_per_minute: u32,
    /// Requests of a provider that may come at once, beyond that rate.
    #[arg(long, env = "TIDEMARK_REQUESTS_AT_ONCE", default_value_t = 6_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub requests_at_once: u32,
    /// Hours for which an answer is kept under its Idempotency-Key.
    #[arg(long, env = "TIDEMARK_IDEMPOTENCY_HOURS", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=720))]
    pub idempotency_hours: u32,
    /// Let webhooks point to http and to addresses of the inside; for development only.
    #[arg(long, env = "TIDEMARK_WEBHOOK_ALLOW_PRIVATE")]
    pub webhook_allow_private: bool,
    /// Give up on a webhook message after this many attempts.
    #[arg(long, env = "TIDEMARK_WEBHOOK_ATTEMPTS_MAX", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub webhook_attempts_max: u32,
    /// Pause after the first attempt in vain; three times as long after each, at most six hours.
    #[arg(long, env = "TIDEMARK_WEBHOOK_RETRY_MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub webhook_retry_ms: u64,
    /// Keep messages that were delivered or given up on for so long.
    #[arg(long, env = "TIDEMARK_WEBHOOK_KEEP_HOURS", default_value_t = 168, value_parser = clap::value_parser!(u32).range(1..=8_760))]
    pub webhook_keep_hours: u32,
}

/// 1 to 2^96 − 1: beyond, a manifest's column or a batch's totals could overflow, which would hold up every later batch.
fn task_price(text: &str) -> Result<u128, String> {
    let price = text.parse().ok().filter(|price| (1..=WEIGHT_MAX).contains(price));
    price.ok_or_else(|| format!("expected a whole number from 1 to {WEIGHT_MAX}"))
}

impl Serve {
    /// The poll interval.
    pub fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_ms)
    }
}

/// The attestor: judges submissions and signs verdicts, batches and dataset versions.
#[derive(Debug, Parser)]
#[command(name = "tidemark-attestor", version)]
pub struct Attestor {
    /// What to log: a level, or filters like tidemark_relayer=debug,warn.
    #[arg(long, env = "TIDEMARK_LOG", default_value = LOG, value_name = "FILTER")]
    pub log: String,
    /// Address to listen on.
    #[arg(long, env = "TIDEMARK_ATTESTOR_LISTEN", default_value = "127.0.0.1:8081")]
    pub listen: SocketAddr,
    /// Postgres database of the attestor, never the relayer's; its tables are made at the start.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: String,
    /// JSON-RPC of a node of the chain: prices of tasks are read there.
    #[arg(long, env = "TIDEMARK_RPC_URL", hide_env_values = true)]
    pub rpc_url: String,
    /// Deployment file: where the contracts are.
    #[arg(long, env = "TIDEMARK_DEPLOYMENT")]
    pub deployment: PathBuf,
    /// Blocks that make a block final where the chain has no `finalized` tag.
    #[arg(long, env = "TIDEMARK_FINALITY_DEPTH", default_value_t = 64)]
    pub finality_depth: u64,
    /// Content store: folder:/path, kubo:http://host:port or a gateway's http(s)://….
    #[arg(long, env = "TIDEMARK_STORE")]
    pub store: String,
    /// Bearer token that callers must bring.
    #[arg(long, env = "TIDEMARK_ATTESTOR_TOKEN", hide_env_values = true)]
    pub token: String,
    /// File with the hex key that signs.
    #[arg(long, env = "TIDEMARK_ATTESTOR_KEY_FILE")]
    pub key_file: PathBuf,
    /// Files decoded at once; more wait.
    #[arg(long, env = "TIDEMARK_DECODES_AT_ONCE", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub decodes_at_once: u32,
}

/// Reads 32 bytes as hex, with or without 0x.
pub fn secret_file(path: &Path) -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read key file {}", path.display()))?;
    let text = Zeroizing::new(text);
    let digits = text.trim().strip_prefix("0x").unwrap_or(text.trim());
    let mut bytes = Zeroizing::new([0u8; 32]);
    let decoded = hex::decode_to_slice(digits, bytes.as_mut_slice());
    ensure!(
        decoded.is_ok(),
        "key file {}: expected 64 hex digits (for example from `openssl rand -hex 32`)",
        path.display()
    );
    Ok(bytes)
}

/// Reads a signing key.
pub fn signer_file(path: &Path) -> anyhow::Result<PrivateKeySigner> {
    let bytes = secret_file(path)?;
    PrivateKeySigner::from_slice(bytes.as_slice()).map_err(|_| {
        anyhow::anyhow!("key file {}: expected a secp256k1 key, got a number that is none", path.display())
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_flags_are_consistent() {
        Relayer::command().debug_assert();
        Attestor::command().debug_assert();
    }

    #[test]
    fn a_key_file_takes_hex_with_and_without_prefix_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        std::fs::write(&path, format!("0x{}\n", "11".repeat(32))).unwrap();
        assert_eq!(*secret_file(&path).unwrap(), [0x11; 32]);
        assert!(signer_file(&path).is_ok());
        std::fs::write(&path, "11").unwrap();
        assert!(secret_file(&path).is_err());
        std::fs::write(&path, "00".repeat(32)).unwrap();
        assert!(signer_file(&path).is_err());
    }
}
