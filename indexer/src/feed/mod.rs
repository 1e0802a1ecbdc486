//! Live updates for many listeners: one look at the tables for all of them, replays out of the tables for who comes back.
//!
//! What is final has an id, its place in the chain, from which a listener goes on after a break; what is only mined has none,
//! and is told again as final. A listener that does not keep up is let go: it comes back with the last id it saw.

mod said;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool, Row};
use tidemark::chain::Deployment;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use crate::{
    project::Placed,
    read::{self, hex0x, rfc3339},
};

/// Items that a listener may be behind before it is let go.
const ITEMS_BEHIND_MAX: usize = 1_024;
/// Logs read by one query.
const LOGS_PER_PAGE: i64 = 500;
/// Listeners that read their past at the same time, so that the others' requests find a connection.
const REPLAYS_AT_ONCE: usize = 2;
/// After so long a listener has to come back: one that does not read holds its place no longer.
const LISTEN_TIME_MAX: Duration = Duration::from_secs(1_800);
const POLL_MIN: Duration = Duration::from_millis(100);

/// A place in the order of final logs: block, and log in it; a whole block counts as its last log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    block: i64,
    log: i64,
}

impl Place {
    /// After all of a block.
    fn after(block: i64) -> Self {
        Self { block, log: i64::MAX }
    }

    /// Reads an id, `<block>` or `<block>-<log>`.
    pub fn parse(id: &str) -> Option<Self> {
        let number = |text: &str| {
            let is_decimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            is_decimal.then(|| text.parse::<i64>().ok()).flatten()
        };
        match id.split_once('-') {
            None => number(id).map(Self::after),
            Some((block, log)) => Some(Self { block: number(block)?, log: number(log)? }),
        }
    }

    fn id(self) -> String {
        match self.log {
            i64::MAX => self.block.to_string(),
            log => format!("{}-{log}", self.block),
        }
    }
}

/// One thing that listeners are told.
#[derive(Clone, Debug)]
pub struct Item {
    /// Where it stands; none where it is not final.
    pub place: Option<Place>,
    /// Its kind.
    pub event: &'static str,
    /// JSON.
    pub data: String,
}

impl Item {
    /// What a listener comes back with.
    pub fn id(&self) -> Option<String> {
        self.place.map(Place::id)
    }
}

/// Where the tables are.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Heads {
    mirrored: (i64, Option<Vec<u8>>, i64),
    applied: (i64, Option<Vec<u8>>, i64),
}

/// The feed; clones share it.
#[derive(Clone)]
pub struct Feed {
    pool: PgPool,
    deployment: Deployment,
    sender: broadcast::Sender<Arc<Item>>,
    listeners: Arc<Semaphore>,
    replays: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Feed {
    /// For at most so many listeners, until `stop`.
    pub fn new(pool: PgPool, deployment: Deployment, listeners_max: usize, stop: CancellationToken) -> Self {
        Self {
            pool,
            deployment,
            sender: broadcast::Sender::new(ITEMS_BEHIND_MAX),
            listeners: Arc::new(Semaphore::new(listeners_max.min(Semaphore::MAX_PERMITS))),
            replays: Arc::new(Semaphore::new(REPLAYS_AT_ONCE)),
            stop,
        }
    }

    /// Looks at the tables until stopped.
    pub async fn run(self, poll: Duration) {
        let mut seen: Option<Heads> = None;
        loop {
            match self.look(seen.as_ref()).await {
                Ok(heads) => seen = heads.or(seen),
                // those who listen wait; the next look tells what they missed
                Err(error) => tracing::warn!(%error, "the feed can't read the tables"),
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(poll.max(POLL_MIN)) => {}
            }
        }
    }

    /// Tells what came since the look before.
    async fn look(&self, seen: Option<&Heads>) -> Result<Option<Heads>, sqlx::Error> {
        let mut snapshot = read::snapshot(&self.pool).await?;
        let Some(now) = heads(&mut snapshot).await? else { return Ok(None) };
        let Some(seen) = seen.filter(|_| self.sender.receiver_count() > 0) else { return Ok(Some(now)) };
        if *seen == now {
            return Ok(None);
        }
        let mut place = Place::after(seen.applied.0);
        while place < Place::after(now.applied.0) {
            let page = final_page(&mut snapshot, &self.deployment, place, &now).await?;
            self.tell(page.items);
            place = page.place;
        }
        let (before, hash, _) = &seen.mirrored;
        let mut from = (*before).max(now.applied.0);
        if *before > now.applied.0 && !is_mirrored(&mut snapshot, *before, hash.as_deref()).await? {
            self.tell([Item {
                place: None,
                event: "reorg",
                data: json!({ "final": true, "block_number": now.applied.0, "mined_from_block": now.applied.0 + 1 })
                    .to_string(),
            }]);
            from = now.applied.0;
        }
        if now.mirrored.0 > from {
            let mined = mined(&mut snapshot, &self.deployment, from, &now).await?;
            self.tell(mined);
        }
        Ok(Some(now))
    }

    fn tell(&self, items: impl IntoIterator<Item = Item>) {
        for item in items {
            // nobody may be there
            drop(self.sender.send(Arc::new(item)));
        }
    }

    /// A listener from `after` on, else from now on; none where there are too many.
    pub fn listen(&self, after: Option<Place>) -> Option<Listener> {
        let permit = self.listeners.clone().try_acquire_owned().ok()?;
        Some(Listener {
            _permit: permit,
            feed: self.clone(),
            place: after,
            live: None,
            level: false,
            waiting: VecDeque::new(),
            until: Instant::now() + LISTEN_TIME_MAX,
        })
    }
}

/// One who listens.
pub struct Listener {
    _permit: OwnedSemaphorePermit,
    feed: Feed,
    /// Everything final up to here was told.
    place: Option<Place>,
    live: Option<broadcast::Receiver<Arc<Item>>>,
    /// The past is told.
    level: bool,
    waiting: VecDeque<Arc<Item>>,
    until: Instant,
}

impl Listener {
    /// What comes next; none where it has to come back.
    pub async fn next(&mut self) -> Option<Arc<Item>> {
        loop {
            if let Some(item) = self.waiting.pop_front() {
                return Some(item);
            }
            if !self.level {
                self.replay().await?;
                continue;
            }
            let live = self.live.as_mut()?;
            let item = tokio::select! {
                () = self.feed.stop.cancelled() => return None,
                () = tokio::time::sleep_until(self.until.into()) => return None,
                // lagging behind, it comes back with its last id
                item = live.recv() => item.ok()?,
            };
            match (item.place, self.place) {
                (Some(place), Some(told)) if place <= told => {}
                (Some(place), _) => {
                    self.place = Some(place);
                    return Some(item);
                }
                (None, _) => return Some(item),
            }
        }
    }

    /// A page of the past. Once there is none left it listens, and reads once more for what came between.
    async fn replay(&mut self) -> Option<()> {
        if self.until <= Instant::now() || self.feed.stop.is_cancelled() {
            return None;
        }
        let _turn = self.feed.replays.acquire().await.ok()?;
        let page = async {
            let mut snapshot = read::snapshot(&self.feed.pool).await?;
            let Some(now) = heads(&mut snapshot).await? else { return Ok(None) };
            // who comes for the first time is told where it is
            let from = self.place.unwrap_or(Place::after(now.applied.0.saturating_sub(1)));
            let first = self.place.is_none();
            let mut page = final_page(&mut snapshot, &self.feed.deployment, from, &now).await?;
            if first {
                page.items.retain(|item| item.event == "block");
            }
            Ok::<_, sqlx::Error>(Some(page))
        };
        let page = match page.await {
            Ok(page) => page?,
            Err(error) => {
                tracing::warn!(%error, "a listener's past can't be read");
                return None;
            }
        };
        if page.items.is_empty() && page.is_last {
            self.level = self.live.is_some();
        }
        if page.is_last && self.live.is_none() {
            self.live = Some(self.feed.sender.subscribe());
        }
        self.place = Some(self.place.map_or(page.place, |place| place.max(page.place)));
        self.waiting.extend(page.items.into_iter().map(Arc::new));
        Some(())
    }
}

struct Page {
    items: Vec<Item>,
    place: Place,
    is_last: bool,
}

async fn heads(connection: &mut PgConnection) -> Result<Option<Heads>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT mirrored_number, mirrored_hash::bytea, mirrored_time, applied_number, applied_hash::bytea, applied_time
         FROM cursor",
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Heads {
        mirrored: (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?),
        applied: (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?),
    }))
}

async fn is_mirrored(connection: &mut PgConnection, number: i64, hash: Option<&[u8]>) -> Result<bool, sqlx::Error> {
    let found: Option<Vec<u8>> = sqlx::query_scalar("SELECT hash::bytea FROM block WHERE number = $1")
        .bind(number)
        .fetch_optional(connection)
        .await?;
    Ok(found.as_deref() == hash)
}

fn block(head: &(i64, Option<Vec<u8>>, i64), is_final: bool) -> Item {
    let (number, hash, time) = head;
    Item {
        place: is_final.then(|| Place::after(*number)),
        event: "block",
        data: json!({ "final": is_final, "block_number": number, "block_hash": hash.as_deref().map(hex0x),
            "block_time": rfc3339(*time) })
        .to_string(),
    }
}

fn item(placed: &Placed, deployment: &Deployment, is_final: bool) -> Option<Item> {
    let (event, mut data) = said::told(&placed.said(deployment)?)?;
    data["final"] = Value::from(is_final);
    data["block_number"] = Value::from(placed.block_number);
    data["tx_hash"] = Value::from(hex0x(&placed.tx_hash));
    let place = is_final.then_some(Place { block: placed.block_number, log: placed.log_index });
    Some(Item { place, event, data: data.to_string() })
}

/// What is final after a place, up to a page; the last page ends with its block.
async fn final_page(
    connection: &mut PgConnection,
    deployment: &Deployment,
    after: Place,
    now: &Heads,
) -> Result<Page, sqlx::Error> {
    let end = Place::after(now.applied.0);
    if after >= end {
        return Ok(Page { items: Vec::new(), place: after, is_last: true });
    }
    let rows = sqlx::query(
        // the second condition follows from the first, which Postgres takes a third of all logs to meet
        "SELECT block_number, block_hash, block_time, log_index, tx_hash, address, topics, data FROM chain_log
         WHERE (block_number, log_index) > ($1, $2) AND block_number >= $1 AND block_number <= $3
         ORDER BY block_number, log_index LIMIT $4",
    )
    .bind(after.block)
    .bind(after.log)
    .bind(now.applied.0)
    .bind(LOGS_PER_PAGE)
    .fetch_all(connection)
    .await?;
    let is_last = i64::try_from(rows.len()).unwrap_or(i64::MAX) < LOGS_PER_PAGE;
    let (mut items, mut place) = (Vec::new(), after);
    for row in &rows {
        let placed = Placed::from_row(row)?;
        place = Place { block: placed.block_number, log: placed.log_index };
        items.extend(item(&placed, deployment, true));
    }
    if is_last {
        place = end;
        items.push(block(&now.applied, true));
    }
    Ok(Page { items, place, is_last })
}

/// What is mined above a block, at most a page; more is told once it is final.
async fn mined(
    connection: &mut PgConnection,
    deployment: &Deployment,
    above: i64,
    now: &Heads,
) -> Result<Vec<Item>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT block_number, block_hash, block_time, log_index, tx_hash, address, topics, data FROM chain_log
         WHERE block_number > $1 AND block_number <= $2 ORDER BY block_number, log_index LIMIT $3",
    )
    .bind(above)
    .bind(now.mirrored.0)
    .bind(LOGS_PER_PAGE)
    .fetch_all(connection)
    .await?;
    let mut items = Vec::new();
    for row in &rows {
        items.extend(item(&Placed::from_row(row)?, deployment, false));
    }
    items.push(block(&now.mirrored, false));
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_and_a_block_comes_after_its_logs() {
        for id in ["0", "12", "12-0", "12-7"] {
            assert_eq!(Place::parse(id).unwrap().id(), id);
        }
        for wrong in ["", "-", "1-", "-1", "+1", "1-2-3", "0x1", "99999999999999999999", "1 "] {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
        let place = |id: &str| Place::parse(id).unwrap();
        assert!(place("11") < place("12-0") && place("12-0") < place("12-7") && place("12-7") < place("12"));
    }
}
