//! A bank, by files: a credit transfer for each payout in a folder that the bank's gateway empties, and status reports that it
//! puts into another.
//!
//! ```text
//!  FOLDER/ready      complete, not handed over     (ours)
//!  FOLDER/outgoing   handed over                   (the gateway takes them)
//!  FOLDER/reports    pain.002                      (the gateway puts them here)   ─► reports/read, reports/strange
//!  FOLDER/folder-id  which folder this is, for the database
//! ```
//!
//! A payout is handed over once: its file is complete in `ready`, then a row says so, then one rename moves it to `outgoing`.
//! After a crash the row and the file tell where that ended: no row, it was never handed over; row and file, it was not yet;
//! a row without the file, it was. So the gateway may take files away at any moment. In `ready` each making has a name of its
//! own, which the row keeps: what a second process makes of the same payout is never handed over.
//!
//! One payout a file: which payouts fall due together depends on when this process runs, so a file of several could not be
//! made again the same; and a bank that refuses a file refuses one payment.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use alloy::primitives::B256;
use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};
use sqlx::{PgPool, Row};
use uuid::Uuid;

use super::{
    pain::{self, CreditTransfer, Debtor, Outcome, message_id},
    rail::{Answer, Order, PayoutRail},
};

/// Says which folder this is.
const FOLDER_ID: &str = "folder-id";
/// Bytes of a report that are read.
const REPORT_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Reports taken in at a time.
const REPORTS_PER_LOOK: usize = 100;
/// Between two looks at a payout that the bank has; a report is heard of at once.
const LOOK_AGAIN: Duration = Duration::from_secs(15 * 60);

/// What the rail needs to be told.
#[derive(Clone, Debug)]
pub struct BankConfig {
    /// Where `ready`, `outgoing` and `reports` are; one file system.
    pub folder: PathBuf,
    /// The account that pays.
    pub debtor: Debtor,
    /// Its currency.
    pub currency: String,
}

/// Hands files over to a bank.
pub struct BankRail {
    pool: PgPool,
    config: BankConfig,
}

impl BankRail {
    /// Makes the folders. Fails in another folder than files were handed over through before: what is not in `ready` there was
    /// not handed over.
    pub async fn open(pool: PgPool, config: BankConfig) -> anyhow::Result<Self> {
        for name in ["ready", "outgoing", "reports", "reports/read", "reports/strange"] {
            let path = config.folder.join(name);
            fs::create_dir_all(&path).with_context(|| format!("make the folder {}", path.display()))?;
        }
        // one process at a time, and the folder has its name before the database knows it: one that was killed between the two
        // finds a folder that nobody has known before
        let mut transaction = pool.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('tidemark/payout-folder', 0))")
            .execute(&mut *transaction)
            .await?;
        let known: Option<Uuid> =
            sqlx::query_scalar("SELECT id FROM local.payout_folder").fetch_optional(&mut *transaction).await?;
        let path = config.folder.join(FOLDER_ID);
        let named = match fs::read_to_string(&path) {
            Ok(text) => {
                Some(text.trim().parse::<Uuid>().with_context(|| format!("{}: expected a UUID", path.display()))?)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        if named.is_none() && known.is_none() {
            // files from before folders had names
            let handed_over: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM local.payout_file)")
                .fetch_one(&mut *transaction)
                .await?;
            let mut any = false;
            for name in ["ready", "outgoing", "reports/read", "reports/strange"] {
                any |= fs::read_dir(config.folder.join(name))?.next().is_some();
            }
            ensure!(
                !handed_over || any,
                "{} is empty, and payments were handed over before: is it the folder, and mounted?",
                config.folder.display()
            );
        }
        let id = named.or(known).unwrap_or_else(Uuid::new_v4);
        if named.is_none() && known.is_none() {
            keep(&config.folder, FOLDER_ID, id.to_string().as_bytes())?;
        }
        let kept = known.unwrap_or(id);
        if known.is_none() {
            sqlx::query("INSERT INTO local.payout_folder (id) VALUES ($1)").bind(id).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        ensure!(
            fs::exists(&path)? && kept == id,
            "{} is not the folder that payments were handed over through before, whose {FOLDER_ID} is {kept}: give that one, or \
             move it here with all that is in it",
            config.folder.display()
        );
        Ok(Self { pool, config })
    }

    fn content(&self, order: &Order) -> Option<Vec<u8>> {
        let money = order.money.as_ref()?;
        pain::credit_transfer(&CreditTransfer {
            key: order.key,
            asked_at: order.asked_at,
            currency: &money.currency,
            minor: money.minor,
            debtor: &self.config.debtor,
            name: order.name.as_deref()?,
            iban: &order.destination,
            bic: order.bic.as_deref(),
        })
    }

    async fn ask(&self, order: &Order) -> anyhow::Result<Answer> {
        let id = message_id(order.key);
        let (ready, outgoing) = (self.config.folder.join("ready"), self.config.folder.join("outgoing"));
        let made = sqlx::query("SELECT made_as, digest FROM local.payout_file WHERE payout_id = $1")
            .bind(order.key)
            .fetch_optional(&self.pool)
            .await?;
        let (made_as, digest): (String, Vec<u8>) = match made {
            Some(row) => (row.try_get(0)?, row.try_get(1)?),
            None => {
                let Some(bytes) = self.content(order) else {
                    return Ok(Answer::Never("no file of ISO 20022 can say this payment".into()));
                };
                // a name of its own: should another process be at it as well, the row says whose file counts
                let made_as = format!("{id}.{}.xml", Uuid::new_v4().simple());
                let digest = Sha256::digest(&bytes).to_vec();
                let (folder, name) = (ready.clone(), made_as.clone());
                tokio::task::spawn_blocking(move || keep(&folder, &name, &bytes)).await??;
                self.write_down(order.key, &made_as, &digest).await?;
                (made_as, digest)
            }
        };
        let to = outgoing.join(format!("{id}.xml"));
        let handed = tokio::task::spawn_blocking(move || hand_over(&ready, &made_as, &to, &digest)).await??;
        if handed {
            tracing::info!(payout_id = %order.key, "payment file handed over to the bank");
        }
        self.what_became_of(order.key).await
    }

    /// From here on the file is not made again. Only while the payout is to be paid: its row is held until this is kept.
    async fn write_down(&self, key: Uuid, made_as: &str, digest: &[u8]) -> anyhow::Result<()> {
        let kept = sqlx::query(
            "INSERT INTO local.payout_file (payout_id, message_id, digest, made_as)
             SELECT payout_id, $2, $3, $4 FROM local.payout WHERE payout_id = $1 AND state = 'paying' AND rail = 'bank' FOR UPDATE",
        )
        .bind(key)
        .bind(message_id(key))
        .bind(digest)
        .bind(made_as)
        .execute(&self.pool)
        .await?;
        ensure!(kept.rows_affected() == 1, "the payout is not to be paid any more");
        Ok(())
    }

    async fn what_became_of(&self, key: Uuid) -> anyhow::Result<Answer> {
        let rows = sqlx::query(
            "SELECT outcome, concat_ws(' ', status, reason) FROM local.payout_report WHERE payout_id = $1
             ORDER BY read_at, report, status",
        )
        .bind(key)
        .fetch_all(&self.pool)
        .await?;
        let mut said = Vec::with_capacity(rows.len());
        for row in &rows {
            said.push((row.try_get::<String, _>(0)?, row.try_get::<String, _>(1)?));
        }
        Ok(judge(&said))
    }

    /// Takes in what the bank put into `reports`. What can't be read goes to `reports/strange`, for a person.
    pub async fn read_reports(&self) -> anyhow::Result<()> {
        let folder = self.config.folder.join("reports");
        for path in tokio::task::spawn_blocking(move || list(&folder)).await?? {
            let taken = settle(&self.pool, &path).await;
            let to = match &taken {
                Ok(_) => "read",
                // ours to try again
                Err(error) if error.downcast_ref::<sqlx::Error>().is_some() => return taken.map(drop),
                Err(error) => {
                    tracing::error!(path = %path.display(), cause = format!("{error:#}"), "a bank's report can't be read");
                    metrics::counter!("tidemark_payout_reports_strange_total").increment(1);
                    "strange"
                }
            };
            let Some(name) = path.file_name() else { continue };
            let target = self.config.folder.join("reports").join(to).join(name);
            fs::rename(&path, &target).with_context(|| format!("move {}", path.display()))?;
        }
        Ok(())
    }
}

impl PayoutRail for BankRail {
    async fn pay(&self, order: &Order) -> Answer {
        match self.ask(order).await {
            Ok(answer) => answer,
            // whatever failed, the next look finds out how far it came
            Err(error) => match error.downcast_ref::<sqlx::Error>() {
                Some(_) => Answer::Later("the indexer's database failed; its log has the cause".into()),
                None => Answer::Later(format!("{error:#}")),
            },
        }
    }
}

/// What a payout's reports say together.
fn judge(said: &[(String, String)]) -> Answer {
    let find = |outcome: Outcome| said.iter().find(|(had, _)| had == outcome.text()).map(|(_, text)| text.as_str());
    match (find(Outcome::Paid), find(Outcome::Refused), find(Outcome::Doubt)) {
        (Some(paid), None, None) => Answer::Paid(format!("the bank reports {paid}")),
        (None, Some(refused), None) => Answer::Never(format!("the bank reports {refused}")),
        (None, None, Some(doubt)) => {
            Answer::Doubt(format!("the bank reports {doubt}: has it paid a copy of this file?"))
        }
        (None, None, None) => {
            let last = said.last().map_or("nothing yet", |(_, text)| text.as_str());
            Answer::Accepted(format!("handed over to the bank, which reports {last}"), LOOK_AGAIN)
        }
        _ => Answer::Doubt("the bank reports both that it has paid and that it has not".into()),
    }
}

/// Keeps a report's statuses; how many payouts it speaks of. Reading it twice changes nothing.
pub async fn settle(pool: &PgPool, path: &Path) -> anyhow::Result<usize> {
    let file = path.to_owned();
    let bytes = tokio::task::spawn_blocking(move || read_bounded(&file)).await??;
    let statuses = pain::read_report(&bytes).with_context(|| format!("{}: expected a pain.002", path.display()))?;
    let digest = B256::from(<[u8; 32]>::from(Sha256::digest(&bytes)));
    let mut known = 0usize;
    let mut transaction = pool.begin().await?;
    for status in &statuses {
        let kept = sqlx::query(
            "INSERT INTO local.payout_report (payout_id, report, status, reason, outcome)
             SELECT payout_id, $2, $3, $4, $5 FROM local.payout_file WHERE payout_id = $1 ON CONFLICT DO NOTHING",
        )
        .bind(status.key)
        .bind(digest.as_slice())
        .bind(&status.status)
        .bind(&status.reason)
        .bind(status.outcome.text())
        .execute(&mut *transaction)
        .await?;
        // the worker need not wait for its next look
        let woken = sqlx::query(
            "UPDATE local.payout SET next_step_at = now() WHERE payout_id = $1 AND state IN ('paying', 'stuck') AND rail = 'bank'",
        )
        .bind(status.key)
        .execute(&mut *transaction)
        .await?;
        if kept.rows_affected() == 1 && woken.rows_affected() == 0 && status.outcome != Outcome::Pending {
            tracing::error!(
                payout_id = %status.key, status = status.status, reason = status.reason,
                "the bank reports of a payout that is past it: compare with GET /v1/payouts, money may have come back"
            );
        }
        if kept.rows_affected() == 1 {
            known = known.saturating_add(1);
            tracing::info!(payout_id = %status.key, status = status.status, reason = status.reason, "the bank reports");
        }
    }
    transaction.commit().await?;
    Ok(known)
}

fn read_bounded(path: &Path) -> anyhow::Result<Vec<u8>> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut bytes = Vec::new();
    file.take(REPORT_BYTES_MAX.saturating_add(1))
        .read_to_end(&mut bytes)
        .with_context(|| format!("read {}", path.display()))?;
    let size = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    ensure!(size <= REPORT_BYTES_MAX, "{}: expected at most {REPORT_BYTES_MAX} bytes", path.display());
    Ok(bytes)
}

/// Reports by name, some of them; a name that begins with a dot is still being written.
fn list(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let is_report = name.to_str().is_some_and(|name| !name.starts_with('.') && name.ends_with(".xml"));
        if is_report && entry.file_type()?.is_file() {
            paths.push(entry.path());
        }
        if paths.len() >= REPORTS_PER_LOOK {
            break;
        }
    }
    paths.sort();
    Ok(paths)
}

/// A complete file under its name, or none, also where the machine loses power.
fn keep(folder: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let part = folder.join(format!(".{name}.part"));
    let mut file = File::create(&part).with_context(|| format!("make {}", part.display()))?;
    file.write_all(bytes).with_context(|| format!("write {}", part.display()))?;
    file.sync_all().with_context(|| format!("write {} to the disk", part.display()))?;
    let whole = folder.join(name);
    fs::rename(&part, &whole).with_context(|| format!("name {}", whole.display()))?;
    sync_folder(folder)
}

/// Moves a file that is still here to the bank; whether it was. What was made of the same payout and never counted goes.
fn hand_over(ready: &Path, made_as: &str, to: &Path, digest: &[u8]) -> anyhow::Result<bool> {
    let from = ready.join(made_as);
    let bytes = match fs::read(&from) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("read {}", from.display())),
    };
    if Sha256::digest(&bytes).as_slice() != digest {
        bail!("{} was changed after it was made: expected SHA-256 {}", from.display(), hex::encode(digest));
    }
    fs::rename(&from, to).with_context(|| format!("move {} to the bank", from.display()))?;
    for folder in [to.parent(), Some(ready)].into_iter().flatten() {
        sync_folder(folder)?;
    }
    let (id, _) = made_as.split_once('.').unwrap_or((made_as, ""));
    for entry in fs::read_dir(ready).with_context(|| format!("list {}", ready.display()))? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.trim_start_matches('.').starts_with(id)) {
            fs::remove_file(entry.path()).with_context(|| format!("take away {}", entry.path().display()))?;
        }
    }
    Ok(true)
}

fn sync_folder(folder: &Path) -> anyhow::Result<()> {
    let synced = File::open(folder).and_then(|file| file.sync_all());
    synced.with_context(|| format!("write {} to the disk", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(outcomes: &[&str]) -> Answer {
        judge(&outcomes.iter().map(|outcome| ((*outcome).to_owned(), "X".to_owned())).collect::<Vec<_>>())
    }

    #[test]
    fn reports_that_contradict_each_other_are_for_a_person() {
        assert!(matches!(said(&[]), Answer::Accepted(..)));
        assert!(matches!(said(&["pending"]), Answer::Accepted(..)));
        assert!(matches!(said(&["pending", "paid"]), Answer::Paid(_)));
        assert!(matches!(said(&["pending", "refused"]), Answer::Never(_)));
        for doubt in [&["doubt"][..], &["paid", "refused"], &["paid", "doubt"], &["refused", "doubt"]] {
            assert!(matches!(said(doubt), Answer::Doubt(_)), "{doubt:?}");
        }
    }

    #[test]
    fn a_file_is_handed_over_once_and_only_as_it_was_made() {
        let folder = tempfile::tempdir().unwrap();
        let (ready, outgoing) = (folder.path().join("ready"), folder.path().join("outgoing"));
        fs::create_dir_all(&ready).unwrap();
        fs::create_dir_all(&outgoing).unwrap();
        let digest = Sha256::digest(b"content");
        keep(&ready, "a.1.xml", b"content").unwrap();
        keep(&ready, "a.2.xml", b"a copy").unwrap();
        let to = outgoing.join("a.xml");
        assert!(hand_over(&ready, "a.1.xml", &to, &digest).unwrap());
        assert_eq!(fs::read(&to).unwrap(), b"content");
        fs::remove_file(&to).unwrap();
        assert!(!hand_over(&ready, "a.1.xml", &to, &digest).unwrap(), "the gateway took it");
        assert_eq!(fs::read_dir(&ready).unwrap().count(), 0, "the copy that never counted is gone");
        keep(&ready, "b.1.xml", b"other content").unwrap();
        assert!(hand_over(&ready, "b.1.xml", &to, &digest).unwrap_err().to_string().contains("was changed"));
    }
}
