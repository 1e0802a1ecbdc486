//! Merkle trees of valid batches as they are kept: written once, read a few hashes at a time.

use alloy::primitives::{Address, B256};
use sqlx::{PgConnection, PgPool, Row};
use tidemark::merkle::{Tree, siblings};

use super::{
    Files, SettleError,
    stored::{self, corrupt},
};

const TREES_PER_STEP: i64 = 16;
const HASH: usize = 32;

/// A batch whose tree is not kept yet.
pub struct Wanted {
    provider: Address,
    number: i64,
}

impl Wanted {
    pub(super) fn what(&self) -> String {
        format!("tree/{:#x}/{}", self.provider, self.number)
    }
}

/// Keeps a batch's tree.
pub async fn insert(
    connection: &mut PgConnection,
    provider: Address,
    number: i64,
    tree: &Tree,
) -> Result<(), sqlx::Error> {
    let nodes: Vec<u8> = tree.nodes().iter().flat_map(|node| node.0).collect();
    let places: Vec<u8> = tree.places().iter().flat_map(|place| place.to_be_bytes()).collect();
    sqlx::query(
        "INSERT INTO batch_tree (provider, number, nodes, places) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
    )
    .bind(provider.as_slice())
    .bind(number)
    .bind(nodes)
    .bind(places)
    .execute(connection)
    .await?;
    Ok(())
}

/// The tree of a valid batch out of its leaves; `None` where they do not lead to the root.
pub async fn from_leaves(
    connection: &mut PgConnection,
    provider: Address,
    number: i64,
    root: B256,
) -> Result<Option<Tree>, SettleError> {
    let leaves: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT leaf FROM event WHERE provider = $1 AND number = $2 ORDER BY index")
            .bind(provider.as_slice())
            .bind(number)
            .fetch_all(connection)
            .await?;
    let tree = tokio::task::spawn_blocking(move || {
        let leaves: Vec<B256> = leaves.iter().filter_map(|leaf| B256::try_from(leaf.as_slice()).ok()).collect();
        Tree::new(&leaves).filter(|tree| tree.root() == root)
    });
    Ok(tree.await?)
}

/// Sibling hashes from the leaves of these events up to the root; `None` where the tree is not kept yet.
pub async fn proofs(
    connection: &mut PgConnection,
    provider: Address,
    number: i64,
    indices: &[u32],
) -> Result<Option<Vec<Vec<B256>>>, sqlx::Error> {
    let starts: Vec<i32> = indices
        .iter()
        .map(|index| i32::try_from(index * 4 + 1).map_err(|_| corrupt("event.index")))
        .collect::<Result<_, _>>()?;
    let places: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT substring(t.places FROM start FOR 4)
         FROM batch_tree AS t, unnest($3::int[]) WITH ORDINALITY AS wanted (start, at)
         WHERE t.provider = $1 AND t.number = $2 ORDER BY at",
    )
    .bind(provider.as_slice())
    .bind(number)
    .bind(starts)
    .fetch_all(&mut *connection)
    .await?;
    if places.is_empty() {
        return Ok(None);
    }
    let paths = places.iter().map(|place| {
        let place = place.as_slice().try_into().map(u32::from_be_bytes).map_err(|_| corrupt("batch_tree.places"))?;
        Ok(siblings(place as usize))
    });
    let paths: Vec<Vec<usize>> = paths.collect::<Result<_, sqlx::Error>>()?;
    let starts =
        paths.iter().flatten().map(|place| i32::try_from(place * HASH + 1).map_err(|_| corrupt("batch_tree.places")));
    let nodes: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT substring(t.nodes FROM start FOR 32)
         FROM batch_tree AS t, unnest($3::int[]) WITH ORDINALITY AS wanted (start, at)
         WHERE t.provider = $1 AND t.number = $2 ORDER BY at",
    )
    .bind(provider.as_slice())
    .bind(number)
    .bind(starts.collect::<Result<Vec<_>, _>>()?)
    .fetch_all(connection)
    .await?;
    let mut nodes = nodes.iter().map(|node| B256::try_from(node.as_slice()).map_err(|_| corrupt("batch_tree.nodes")));
    let proofs = paths.iter().map(|path| nodes.by_ref().take(path.len()).collect());
    proofs.collect::<Result<_, _>>().map(Some)
}

/// Batches whose trees are still to be made.
pub(super) async fn due(files: &Files) -> Result<Vec<Wanted>, SettleError> {
    let rows = sqlx::query("SELECT provider, number FROM tree_wanted ORDER BY provider, number LIMIT $1")
        .bind(TREES_PER_STEP)
        .fetch_all(&files.pool)
        .await?;
    let wanted = rows.iter().map(|row| Ok(Wanted { provider: stored::address(row, 0)?, number: row.try_get(1)? }));
    Ok(wanted.collect::<Result<_, sqlx::Error>>()?)
}

/// Makes and keeps one.
pub(super) async fn make(pool: &PgPool, wanted: Wanted) -> Result<bool, SettleError> {
    let mut transaction = pool.begin().await?;
    let root = sqlx::query("SELECT root FROM batch WHERE provider = $1 AND number = $2")
        .bind(wanted.provider.as_slice())
        .bind(wanted.number)
        .fetch_one(&mut *transaction)
        .await?;
    let root = stored::hash(&root, 0)?;
    match from_leaves(&mut transaction, wanted.provider, wanted.number, root).await? {
        Some(tree) => insert(&mut transaction, wanted.provider, wanted.number, &tree).await?,
        // readers are told, and get no proof
        None => tracing::error!(batch = wanted.what(), "the leaves of a valid batch do not lead to its root"),
    }
    sqlx::query("DELETE FROM tree_wanted WHERE provider = $1 AND number = $2")
        .bind(wanted.provider.as_slice())
        .bind(wanted.number)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(true)
}
