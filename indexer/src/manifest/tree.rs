//! Merkle trees of valid batches and dataset versions as they are kept: written once, read a few hashes at a time.

use std::fmt;

use alloy::primitives::{Address, B256, U256};
use sqlx::{PgConnection, PgPool};
use tidemark::merkle::{Tree, root_from_proof, siblings};

use super::{
    Files, SettleError,
    stored::{self, corrupt},
};

const TREES_PER_STEP: i64 = 16;
const HASH: usize = 32;

/// What a tree is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// A provider's batch: its events by index.
    Batch(Address, i64),
    /// A version of a dataset: its members by position.
    Version(U256, i64),
}

impl fmt::Display for Of {
    /// As its file is named in `missing_file`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch(provider, number) => write!(f, "batch/{provider:#x}/{number}"),
            Self::Version(ip_id, version) => write!(f, "members/{ip_id}/{version}"),
        }
    }
}

impl Of {
    fn parse(name: &str) -> Option<Self> {
        let (rest, number) = name.rsplit_once('/')?;
        let number = number.parse().ok()?;
        match rest.split_once('/')? {
            ("batch", provider) => Some(Self::Batch(provider.parse().ok()?, number)),
            ("members", ip_id) => Some(Self::Version(ip_id.parse().ok()?, number)),
            _ => None,
        }
    }

    /// What the chain says it leads to.
    async fn root(&self, connection: &mut PgConnection) -> Result<B256, sqlx::Error> {
        let row = match self {
            Self::Batch(provider, number) => {
                sqlx::query("SELECT root FROM batch WHERE provider = $1 AND number = $2")
                    .bind(provider.as_slice())
                    .bind(number)
                    .fetch_one(connection)
                    .await?
            }
            Self::Version(ip_id, version) => {
                sqlx::query("SELECT root FROM dataset_version WHERE ip_id = $1::text::numeric AND version = $2")
                    .bind(ip_id.to_string())
                    .bind(version)
                    .fetch_one(connection)
                    .await?
            }
        };
        stored::hash(&row, 0)
    }

    async fn leaves(&self, connection: &mut PgConnection) -> Result<Vec<Vec<u8>>, sqlx::Error> {
        match self {
            Self::Batch(provider, number) => {
                sqlx::query_scalar("SELECT leaf FROM event WHERE provider = $1 AND number = $2 ORDER BY index")
                    .bind(provider.as_slice())
                    .bind(number)
                    .fetch_all(connection)
                    .await
            }
            Self::Version(ip_id, version) => sqlx::query_scalar(
                "SELECT leaf FROM dataset_member WHERE ip_id = $1::text::numeric AND version = $2 ORDER BY position",
            )
            .bind(ip_id.to_string())
            .bind(version)
            .fetch_all(connection)
            .await,
        }
    }
}

/// A tree that is not kept yet.
pub struct Wanted(Of);

impl Wanted {
    pub(super) fn what(&self) -> String {
        format!("tree/{}", self.0)
    }
}

/// Keeps a tree.
pub async fn insert(connection: &mut PgConnection, of: Of, tree: &Tree) -> Result<(), sqlx::Error> {
    let nodes: Vec<u8> = tree.nodes().iter().flat_map(|node| node.0).collect();
    let places: Vec<u8> = tree.places().iter().flat_map(|place| place.to_be_bytes()).collect();
    sqlx::query("INSERT INTO tree (what, nodes, places) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
        .bind(of.to_string())
        .bind(nodes)
        .bind(places)
        .execute(connection)
        .await?;
    Ok(())
}

/// The tree out of its leaves; `None` where they do not lead to the root.
async fn from_leaves(connection: &mut PgConnection, of: Of, root: B256) -> Result<Option<Tree>, SettleError> {
    let leaves = of.leaves(connection).await?;
    let tree = tokio::task::spawn_blocking(move || {
        let leaves: Vec<B256> = leaves.iter().filter_map(|leaf| B256::try_from(leaf.as_slice()).ok()).collect();
        Tree::new(&leaves).filter(|tree| tree.root() == root)
    });
    Ok(tree.await?)
}

/// Sibling hashes from leaves, each with its place, up to the root; `None` where they do not lead there.
pub async fn proofs(
    connection: &mut PgConnection,
    of: Of,
    root: B256,
    leaves: &[(u32, B256)],
) -> Result<Option<Vec<Vec<B256>>>, SettleError> {
    let indices: Vec<u32> = leaves.iter().map(|(index, _)| *index).collect();
    let proofs = match kept(connection, of, &indices).await? {
        Some(proofs) => proofs,
        // it is made soon; until then as slowly as what it is of is large
        None => {
            let Some(tree) = from_leaves(connection, of, root).await? else { return Ok(None) };
            indices.iter().map(|index| tree.proof(*index as usize).unwrap_or_default()).collect()
        }
    };
    let leads_to_root = |((_, leaf), path): (&(u32, B256), &Vec<B256>)| root_from_proof(*leaf, path) == root;
    let all_lead = proofs.len() == leaves.len() && leaves.iter().zip(&proofs).all(leads_to_root);
    Ok(all_lead.then_some(proofs))
}

/// The same out of the kept tree, unchecked; `None` where it is not kept yet.
async fn kept(connection: &mut PgConnection, of: Of, indices: &[u32]) -> Result<Option<Vec<Vec<B256>>>, sqlx::Error> {
    let of = of.to_string();
    let starts: Vec<i32> = indices
        .iter()
        .map(|index| i32::try_from(u64::from(*index) * 4 + 1).map_err(|_| corrupt("event.index")))
        .collect::<Result<_, _>>()?;
    let places: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT substring(t.places FROM start FOR 4)
         FROM tree AS t, unnest($2::int[]) WITH ORDINALITY AS wanted (start, at) WHERE t.what = $1 ORDER BY at",
    )
    .bind(&of)
    .bind(starts)
    .fetch_all(&mut *connection)
    .await?;
    if places.is_empty() {
        return Ok(None);
    }
    let paths = places.iter().map(|place| {
        let place = place.as_slice().try_into().map(u32::from_be_bytes).map_err(|_| corrupt("tree.places"))?;
        Ok(siblings(place as usize))
    });
    let paths: Vec<Vec<usize>> = paths.collect::<Result<_, sqlx::Error>>()?;
    let starts =
        paths.iter().flatten().map(|place| i32::try_from(place * HASH + 1).map_err(|_| corrupt("tree.places")));
    let nodes: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT substring(t.nodes FROM start FOR 32)
         FROM tree AS t, unnest($2::int[]) WITH ORDINALITY AS wanted (start, at) WHERE t.what = $1 ORDER BY at",
    )
    .bind(&of)
    .bind(starts.collect::<Result<Vec<_>, _>>()?)
    .fetch_all(connection)
    .await?;
    let mut nodes = nodes.iter().map(|node| B256::try_from(node.as_slice()).map_err(|_| corrupt("tree.nodes")));
    let proofs = paths.iter().map(|path| nodes.by_ref().take(path.len()).collect());
    proofs.collect::<Result<_, _>>().map(Some)
}

/// Trees that are still to be made.
pub(super) async fn due(files: &Files) -> Result<Vec<Wanted>, SettleError> {
    let names: Vec<String> = sqlx::query_scalar("SELECT what FROM tree_wanted ORDER BY what LIMIT $1")
        .bind(TREES_PER_STEP)
        .fetch_all(&files.pool)
        .await?;
    let wanted = names.iter().map(|name| Of::parse(name).map(Wanted).ok_or_else(|| corrupt("tree_wanted.what")));
    Ok(wanted.collect::<Result<_, sqlx::Error>>()?)
}

/// Makes and keeps one.
pub(super) async fn make(pool: &PgPool, Wanted(of): Wanted) -> Result<bool, SettleError> {
    let mut transaction = pool.begin().await?;
    let root = of.root(&mut transaction).await?;
    match from_leaves(&mut transaction, of, root).await? {
        Some(tree) => insert(&mut transaction, of, &tree).await?,
        // readers are told, and get no proof
        None => tracing::error!(%of, "the leaves of what is valid do not lead to its root"),
    }
    sqlx::query("DELETE FROM tree_wanted WHERE what = $1").bind(of.to_string()).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back() {
        for of in [Of::Batch(Address::repeat_byte(0xab), 7), Of::Version(U256::MAX, 1), Of::Version(U256::ZERO, 0)] {
            assert_eq!(Of::parse(&of.to_string()), Some(of));
        }
        for wrong in ["", "batch", "batch/0x1/2", "batch//1", "members/1", "members/x/1", "members/1/x", "leaf/1/2"] {
            assert_eq!(Of::parse(wrong), None, "{wrong}");
        }
    }
}
