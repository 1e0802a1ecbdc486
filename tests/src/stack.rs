//! The whole local stack, started in the order of its needs and stopped together.
//!
//! ```text
//!  chain ── contracts ──┐
//!  Postgres ─ databases ┼─► attestor ─► relayer
//!  content store ───────┤─► custodian ─┘ (seals keys to it)
//!  payout partner ──────┴─► indexer
//! ```

use std::{fs, path::PathBuf};

use alloy::{primitives::B256, providers::DynProvider, signers::local::PrivateKeySigner};
use anyhow::{Context, Result};
use tidemark::{chain::Deployment, store::Store};

use crate::{
    chain::{Chain, Client, Mining, POLL},
    folder::RunFolder,
    keys::{dev_address, dev_signer, role},
    partner::Partner,
    postgres::Postgres,
    progress::Progress,
    services::{Service, Wiring, free_port},
    wirings,
};

/// The one provider of the local stack.
pub const PROVIDER_NAME: &str = "numo";

/// What to start, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which program the chain's node is.
    pub client: Client,
    /// When blocks come.
    pub mining: Mining,
    /// Blocks of an epoch; what is two epochs old is final.
    pub epoch_blocks: u32,
    /// Which of the services; chain, Postgres, content store, contracts and partner are always there.
    pub services: Services,
    /// Where progress is shown.
    pub progress: Progress,
    /// A batch is sealed when it has so many events…
    pub batch_events_max: u32,
    /// … or is so old.
    pub batch_age_ms_max: u64,
    /// Events that may wait for the chain.
    pub backlog_events_max: u32,
    /// How often the services look for work and at the chain.
    pub poll_ms: u64,
    /// Keeps logs after a clean end, too.
    pub keep_logs: bool,
}

/// Which services are started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Services {
    /// Attestor, relayer, indexer and custodian.
    All,
    /// Attestor and relayer.
    WriteSide,
    /// None.
    None,
}

impl Default for Options {
    /// Everything, on anvil, a block a second, quietly: what tests want.
    fn default() -> Self {
        Self {
            client: Client::Anvil,
            mining: Mining::Seconds(1),
            epoch_blocks: 1,
            services: Services::All,
            progress: Progress::quiet(),
            batch_events_max: 1_000,
            batch_age_ms_max: 1_000,
            backlog_events_max: 5_000_000,
            poll_ms: 100,
            keep_logs: false,
        }
    }
}

/// A running stack. All of it ends when this is dropped.
///
/// Fields are dropped in order: services first, then what they stand on, and the folder last.
#[derive(Debug)]
pub struct Stack {
    /// Checks submissions and signs.
    pub attestor: Option<Service>,
    /// The write side.
    pub relayer: Option<Service>,
    /// The read side.
    pub indexer: Option<Service>,
    /// Releases keys.
    pub custodian: Option<Service>,
    /// Pays points out.
    pub partner: Partner,
    /// The chain.
    pub chain: Chain,
    /// One database a service.
    pub postgres: Postgres,
    /// Where the contracts are.
    pub deployment: Deployment,
    /// What it was started with.
    pub options: Options,
    /// Logs, content store, deployment file.
    pub folder: RunFolder,
}

impl Stack {
    /// Starts everything that `options` names and waits until each part is ready.
    pub async fn start(options: Options) -> Result<Self> {
        let folder = RunFolder::create()?;
        match start_in(&folder, &options).await {
            Ok(base) => base.with_services(folder, options).await,
            Err(error) => Err(keep_logs(&folder, error)),
        }
    }

    /// The content store's address, as every service gets it.
    pub fn store_address(&self) -> String {
        store_address(&self.folder)
    }

    /// The content store itself.
    pub fn store(&self) -> Result<Store> {
        Store::open(&self.store_address()).context("failed to open the content store")
    }

    /// The deployment file.
    pub fn deployment_path(&self) -> PathBuf {
        deployment_path(&self.folder)
    }

    /// Reads the chain.
    pub fn provider(&self) -> &DynProvider {
        self.chain.provider()
    }

    /// Sends from a development key, having given it ether.
    pub async fn sender(&self, role: &str) -> Result<DynProvider> {
        self.sender_of(dev_signer(role)?).await
    }

    /// Sends from any key, having given it ether.
    pub async fn sender_of(&self, signer: PrivateKeySigner) -> Result<DynProvider> {
        sender(&self.chain, signer).await
    }

    /// A second indexer on an empty database, ready when it answers.
    pub async fn start_second_indexer(&self, database: &str) -> Result<Service> {
        self.start_indexer_with(database, Vec::new()).await
    }

    /// A second indexer that is told something else.
    pub async fn start_indexer_with(
        &self,
        database: &str,
        environment: Vec<(&'static str, String)>,
    ) -> Result<Service> {
        Service::start(&self.folder, self.indexer_wiring(database, environment).await?).await
    }

    /// A second indexer that has a long history before it: whoever starts it waits for it.
    pub async fn launch_second_indexer(&self, database: &str) -> Result<Service> {
        Service::launch(&self.folder, self.indexer_wiring(database, Vec::new()).await?)
    }

    async fn indexer_wiring(&self, database: &str, environment: Vec<(&'static str, String)>) -> Result<Wiring> {
        let url = self.postgres.create_database(database).await?;
        let mut wiring = wirings::indexer(&self.wires(), database, url, free_port()?, &self.options)?;
        wiring.environment.extend(environment);
        Ok(wiring)
    }

    /// Fails where a service has ended by itself.
    pub fn check_running(&mut self) -> Result<()> {
        let services = [&mut self.attestor, &mut self.relayer, &mut self.indexer, &mut self.custodian];
        services.into_iter().flatten().try_for_each(Service::check_running)
    }

    /// File with a development key.
    pub fn key_file(&self, role: &str) -> PathBuf {
        wirings::key_file(&keys_folder(&self.folder), role)
    }

    /// Lets the provider, registered on chain before, into the relayer; gives its API key.
    pub fn add_provider(&self) -> Result<String> {
        let relayer = self.relayer.as_ref().context("the stack was started without a relayer")?;
        relayer.run_once(&wirings::relayer_add_provider(relayer.wiring())?)
    }

    /// Leaves the logs in place at the end.
    pub fn keep_logs(&self) {
        self.folder.keep();
    }

    /// Names and URLs of what is running, for people.
    pub fn urls(&self) -> Vec<(&str, String)> {
        let services = [&self.attestor, &self.relayer, &self.indexer, &self.custodian];
        let mut urls: Vec<_> =
            services.into_iter().flatten().map(|service| (service.name(), service.url().to_owned())).collect();
        urls.push(("payout partner", self.partner.url().to_owned()));
        urls.push(("chain", self.chain.url().to_owned()));
        urls.push(("postgres", self.postgres.url("postgres")));
        urls
    }

    fn wires(&self) -> wirings::Wires {
        wires(&self.folder, &self.chain, &self.partner)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // all at once, so that the whole takes as long as the slowest
        for service in [&self.relayer, &self.attestor, &self.indexer, &self.custodian].into_iter().flatten() {
            service.ask_to_stop();
        }
        if std::thread::panicking() {
            self.folder.keep();
        }
    }
}

/// What every service stands on.
struct Base {
    partner: Partner,
    chain: Chain,
    postgres: Postgres,
    deployment: Deployment,
}

async fn start_in(folder: &RunFolder, options: &Options) -> Result<Base> {
    wirings::write_keys(&keys_folder(folder))?;
    let (chain, postgres) = tokio::join!(start_chain(folder, options), start_postgres(folder, options));
    let (chain, deployment) = chain?;
    Store::open(&store_address(folder)).context("failed to make the content store")?;
    Ok(Base { partner: Partner::start().await?, chain, postgres: postgres?, deployment })
}

async fn start_chain(folder: &RunFolder, options: &Options) -> Result<(Chain, Deployment)> {
    let step = options.progress.step("chain");
    let chain = Chain::start(folder, options).await?;
    step.say("deploying contracts");
    let deployer = sender(&chain, dev_signer(role::DEPLOYER)?).await?;
    for funded in [role::RELAYER, role::TREASURY_OPERATOR] {
        chain.fund(dev_address(funded)?).await?;
    }
    // deployed without waiting for the clock; from then on blocks come as asked for
    chain.mine_at_once().await?;
    let deployment = tidemark::deploy::deploy(&deployer, dev_address(role::DEPLOYER)?, B256::ZERO, None)
        .await
        .context("failed to deploy the contracts")?;
    chain.resume_mining().await?;
    let text = serde_json::to_string_pretty(&deployment).context("failed to write the deployment as JSON")?;
    fs::write(deployment_path(folder), text).context("failed to write the deployment file")?;
    step.done(&format!("{}, contracts deployed", chain.url()));
    Ok((chain, deployment))
}

async fn start_postgres(folder: &RunFolder, options: &Options) -> Result<Postgres> {
    let step = options.progress.step("postgres");
    let postgres = Postgres::start(folder).await?;
    for database in ["attestor", "relayer", "indexer", "custodian"] {
        postgres.create_database(database).await?;
    }
    step.done(&postgres.url("postgres"));
    Ok(postgres)
}

impl Base {
    async fn with_services(self, folder: RunFolder, options: Options) -> Result<Stack> {
        if options.keep_logs {
            folder.keep();
        }
        let Self { partner, chain, postgres, deployment } = self;
        let wires = wires(&folder, &chain, &partner);
        let none = (None, None, None, None);
        let started = match options.services {
            Services::None => Ok(none),
            which => start_services(&folder, &postgres, &wires, &options, which).await,
        };
        let (attestor, relayer, indexer, custodian) = match started {
            Ok(services) => services,
            Err(error) => return Err(keep_logs(&folder, error)),
        };
        Ok(Stack { attestor, relayer, indexer, custodian, partner, chain, postgres, deployment, options, folder })
    }
}

type Started = (Option<Service>, Option<Service>, Option<Service>, Option<Service>);

async fn start_services(
    folder: &RunFolder,
    postgres: &Postgres,
    wires: &wirings::Wires,
    options: &Options,
    which: Services,
) -> Result<Started> {
    let start = async |wiring: Wiring| {
        let step = options.progress.step(&wiring.name);
        let service = Service::start(folder, wiring).await?;
        step.done(service.url());
        Ok::<_, anyhow::Error>(service)
    };
    let attestor = start(wirings::attestor(wires, postgres.url("attestor"), free_port()?)).await?;
    let relayer = wirings::relayer(wires, postgres.url("relayer"), free_port()?, attestor.url(), options)?;
    if which == Services::WriteSide {
        return Ok((Some(attestor), Some(start(relayer).await?), None, None));
    }
    let mut indexer = wirings::indexer(wires, "indexer", postgres.url("indexer"), free_port()?, options)?;
    indexer.environment.extend(wirings::payouts(wires, options)?);
    let custodian = wirings::custodian(wires, postgres.url("custodian"), free_port()?);
    let (relayer, indexer, custodian) = tokio::join!(start(relayer), start(indexer), start(custodian));
    Ok((Some(attestor), Some(relayer?), Some(indexer?), Some(custodian?)))
}

fn keep_logs(folder: &RunFolder, error: anyhow::Error) -> anyhow::Error {
    folder.keep();
    error.context(format!("the local stack did not start; logs are in {}", folder.path().join("logs").display()))
}

async fn sender(chain: &Chain, signer: PrivateKeySigner) -> Result<DynProvider> {
    chain.fund(signer.address()).await?;
    let sender = tidemark::chain::sender(chain.url(), signer).context("failed to make a sender")?;
    alloy::providers::Provider::client(&sender).set_poll_interval(POLL);
    Ok(sender)
}

fn store_address(folder: &RunFolder) -> String {
    format!("folder:{}", folder.path().join("store").display())
}

fn keys_folder(folder: &RunFolder) -> PathBuf {
    folder.path().join("keys")
}

fn deployment_path(folder: &RunFolder) -> PathBuf {
    folder.path().join("deployment.json")
}

fn wires(folder: &RunFolder, chain: &Chain, partner: &Partner) -> wirings::Wires {
    wirings::Wires {
        rpc_url: chain.url().into(),
        deployment: deployment_path(folder).display().to_string(),
        store: store_address(folder),
        partner_url: partner.url().into(),
        keys: keys_folder(folder),
    }
}
