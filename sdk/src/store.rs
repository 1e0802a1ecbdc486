//! The content store: bytes by CID, on a folder, a Kubo node or a trustless gateway, every block checked when read.
//!
//! CIDs are those of `ipfs add --cid-version=1 --raw-leaves --chunker=size-1048576`: UnixFS, balanced, 174 links a node.

use std::{
    collections::HashSet,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use cid::{Cid, Version};
use futures::TryStreamExt;
use ipfs_api_backend_hyper::{IpfsApi, IpfsClient, TryFromUri, request};
use multihash_codetable::{Code, MultihashDigest};
use rayon::prelude::*;
use rust_unixfs::file::adder::{FileBranchLink, build_file_from_leaves, parse_file_branch};
use tokio::time::error::Elapsed;

/// Bytes of one leaf.
pub const CHUNK_BYTES: usize = 1 << 20;
const LINKS_MAX: usize = 174;
/// A leaf, or a node of links, is never larger.
const BLOCK_BYTES_MAX: usize = 2 << 20;
/// 174^4 leaves of 1 MiB are more than any bound here.
const DEPTH_MAX: usize = 5;
const RAW: u64 = 0x55;
const DAG_PB: u64 = 0x70;
const TIMEOUT: Duration = Duration::from_secs(30);
/// What Kubo's errors about a missing block have in common.
const KUBO_HAS_IT_NOT: &str = "could not find";

/// Why bytes could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The address names no store.
    #[error("content store: expected folder:/path, kubo:http://host:port or http(s)://gateway, got {0:?}")]
    Address(String),
    /// Not there; it may come later, or have been erased.
    #[error("{cid} is not in the content store")]
    NotFound {
        /// What was asked for.
        cid: Cid,
    },
    /// The bytes do not hash to their CID, or a node is malformed.
    #[error("{cid}: {reason}")]
    Wrong {
        /// The block.
        cid: Cid,
        /// What is wrong.
        reason: &'static str,
    },
    /// Larger than the caller wants.
    #[error("{cid}: expected at most {max} bytes")]
    TooLarge {
        /// What was asked for.
        cid: Cid,
        /// The bound.
        max: u64,
    },
    /// A gateway can't be written to.
    #[error("a gateway is read-only: use folder: or kubo: to write")]
    ReadOnly,
    /// The disk, the node or the gateway failed.
    #[error("content store: {doing}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

fn io(doing: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Io { doing: doing.into(), source: source.into() }
}

#[derive(Clone)]
enum Backend {
    Folder(PathBuf),
    Kubo(Box<IpfsClient>),
    Gateway { base: String, client: reqwest::Client },
}

/// A content store; clones share it.
#[derive(Clone)]
pub struct Store(Arc<Backend>);

impl Store {
    /// `folder:/path` (made if missing), `kubo:http://127.0.0.1:5001`, or a gateway's `http(s)://…`.
    pub fn open(address: &str) -> Result<Self, StoreError> {
        let backend = if let Some(path) = address.strip_prefix("folder:") {
            let path = PathBuf::from(path);
            std::fs::create_dir_all(&path).map_err(|e| io(format!("make folder {}", path.display()), e))?;
            Backend::Folder(path)
        } else if let Some(url) = address.strip_prefix("kubo:") {
            Backend::Kubo(Box::new(
                IpfsClient::from_str(url).map_err(|e| io(format!("read the Kubo address {url}"), e))?,
            ))
        } else if address.starts_with("http://") || address.starts_with("https://") {
            let client =
                reqwest::Client::builder().timeout(TIMEOUT).build().map_err(|e| io("make an HTTP client", e))?;
            Backend::Gateway { base: address.trim_end_matches('/').to_owned(), client }
        } else {
            return Err(StoreError::Address(address.to_owned()));
        };
        Ok(Self(Arc::new(backend)))
    }

    /// Stores bytes durably and gives their CID; storing the same bytes again changes nothing.
    pub async fn put(&self, bytes: &[u8]) -> Result<Cid, StoreError> {
        match self.0.as_ref() {
            Backend::Folder(path) => {
                let (path, bytes) = (path.clone(), bytes.to_vec());
                tokio::task::spawn_blocking(move || put_in_folder(&path, &bytes))
                    .await
                    .map_err(|e| io("write blocks", e))?
            }
            Backend::Kubo(client) => {
                let options = request::Add {
                    chunker: Some("size-1048576"),
                    raw_leaves: Some(true),
                    cid_version: Some(1),
                    pin: Some(true),
                    ..Default::default()
                };
                let adding = client.add_with_options(std::io::Cursor::new(bytes.to_vec()), options);
                let added = within("add to Kubo", adding).await?;
                let cid = cid_of(bytes);
                if added.hash != cid.to_string() {
                    return Err(StoreError::Wrong { cid, reason: "Kubo computed another CID" });
                }
                Ok(cid)
            }
            Backend::Gateway { .. } => Err(StoreError::ReadOnly),
        }
    }

    /// Reads a whole file of at most `size_max` bytes.
    pub async fn get(&self, cid: &Cid, size_max: u64) -> Result<Bytes, StoreError> {
        let too_large = || StoreError::TooLarge { cid: *cid, max: size_max };
        let mut out = BytesMut::new();
        // depth first, next block last
        let mut open = vec![(*cid, 0usize)];
        // leaves are full but for the last, and have fewer nodes above them than there are leaves
        let mut blocks_left = 2 * (size_max / CHUNK_BYTES as u64 + DEPTH_MAX as u64);
        while let Some((next, depth)) = open.pop() {
            blocks_left = blocks_left
                .checked_sub(1)
                .ok_or(StoreError::Wrong { cid: *cid, reason: "more blocks than a file of that size has" })?;
            let block = self.get_block(&next).await?;
            match next.codec() {
                RAW => {
                    if out.len() as u64 + block.len() as u64 > size_max {
                        return Err(too_large());
                    }
                    if out.is_empty() && open.is_empty() {
                        return Ok(block);
                    }
                    out.extend_from_slice(&block);
                }
                DAG_PB => {
                    let (filesize, links) = links_of(&block)
                        .filter(|_| depth < DEPTH_MAX)
                        .ok_or(StoreError::Wrong { cid: next, reason: "not a UnixFS file of links" })?;
                    if filesize.saturating_add(out.len() as u64) > size_max {
                        return Err(too_large());
                    }
                    open.extend(links.into_iter().rev().map(|link| (link, depth + 1)));
                }
                _ => return Err(StoreError::Wrong { cid: next, reason: "neither raw nor dag-pb" }),
            }
        }
        Ok(out.freeze())
    }

    /// Reads one block and checks it against its CID.
    pub async fn get_block(&self, cid: &Cid) -> Result<Bytes, StoreError> {
        let block = match self.0.as_ref() {
            Backend::Folder(path) => match tokio::fs::read(block_path(path, cid)).await {
                Ok(block) => Bytes::from(block),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(StoreError::NotFound { cid: *cid }),
                Err(e) => return Err(io(format!("read block {cid}"), e)),
            },
            Backend::Kubo(client) => {
                let read = client.block_get(&cid.to_string()).try_fold(BytesMut::new(), |mut all, part| async move {
                    all.extend_from_slice(&part);
                    Ok(all)
                });
                match within("read a block from Kubo", read).await {
                    // without the block a node off line says so, and one on line searches for as long as it is let
                    Err(StoreError::Io { source, .. })
                        if source.is::<Elapsed>() || source.to_string().contains(KUBO_HAS_IT_NOT) =>
                    {
                        return Err(StoreError::NotFound { cid: *cid });
                    }
                    read => read?.freeze(),
                }
            }
            Backend::Gateway { base, client } => read_from_gateway(base, client, cid).await?,
        };
        if block.len() > BLOCK_BYTES_MAX {
            return Err(StoreError::TooLarge { cid: *cid, max: BLOCK_BYTES_MAX as u64 });
        }
        let digest = Code::try_from(cid.hash().code())
            .map_err(|_| StoreError::Wrong { cid: *cid, reason: "an unknown hash function" })?
            .digest(&block);
        if digest != *cid.hash() {
            return Err(StoreError::Wrong { cid: *cid, reason: "the bytes do not hash to it" });
        }
        Ok(block)
    }

    /// Deletes a file's blocks; what is not there is as good as deleted.
    pub async fn delete(&self, cid: &Cid) -> Result<(), StoreError> {
        self.delete_beside(cid, None).await
    }

    /// Deletes a file's blocks but for those that another file has too, which stays whole.
    pub async fn delete_beside(&self, cid: &Cid, kept: Option<&Cid>) -> Result<(), StoreError> {
        let kept: HashSet<Cid> = match kept {
            Some(kept) => self.blocks_of(kept).await?.into_iter().collect(),
            None => HashSet::new(),
        };
        if let Backend::Kubo(client) = self.0.as_ref()
            && !kept.contains(cid)
        {
            match within("unpin in Kubo", client.pin_rm(&cid.to_string(), true)).await {
                Err(StoreError::Io { source, .. }) if !source.to_string().contains("not pinned") => {
                    return Err(StoreError::Io { doing: format!("unpin {cid}"), source });
                }
                _ => {}
            }
        }
        // what names a block goes after the block, so that a deletion that was cut short can be taken up again
        for next in self.blocks_of(cid).await?.iter().rev().filter(|block| !kept.contains(*block)) {
            match self.0.as_ref() {
                Backend::Folder(path) => match tokio::fs::remove_file(block_path(path, next)).await {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(io(format!("delete block {next}"), e));
                    }
                    _ => {}
                },
                Backend::Kubo(client) => {
                    let removed = within("delete a block in Kubo", client.block_rm(&next.to_string())).await?;
                    if let Some(error) = removed.error.filter(|error| !error.contains(KUBO_HAS_IT_NOT)) {
                        return Err(io(format!("delete block {next} in Kubo"), error));
                    }
                }
                Backend::Gateway { .. } => return Err(StoreError::ReadOnly),
            }
        }
        Ok(())
    }

    /// The blocks of a file as far as they are there, each once, a node before what it links to.
    async fn blocks_of(&self, cid: &Cid) -> Result<Vec<Cid>, StoreError> {
        let mut open = vec![(*cid, 0usize)];
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        while let Some((next, depth)) = open.pop() {
            if !seen.insert(next) {
                continue;
            }
            found.push(next);
            if next.codec() == DAG_PB && depth < DEPTH_MAX {
                match self.get_block(&next).await {
                    Ok(block) => {
                        let links = links_of(&block).map(|(_, links)| links).unwrap_or_default();
                        open.extend(links.into_iter().map(|link| (link, depth + 1)));
                    }
                    Err(StoreError::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found)
    }
}

/// The bytes of the file that a node of links stands for, and what it links to; `None` for what is no such node.
pub fn links_of(block: &[u8]) -> Option<(u64, Vec<Cid>)> {
    let branch = Some(block)
        .filter(|block| is_framed(block))
        .and_then(parse_file_branch)
        .filter(|branch| branch.links.len() <= LINKS_MAX)?;
    Some((branch.filesize, branch.links.into_iter().map(|link| link.cid).collect()))
}

/// Whether every message of a dag-pb node, and of the UnixFS data in it, ends where its fields do. The library that reads
/// them trusts the fields: past the end of its message, a length near 2^64 leads it back, for ever.
fn is_framed(node: &[u8]) -> bool {
    const DATA: u64 = 1;
    const LINK: u64 = 2;
    // of UnixFS; a node that has one is none of ours
    const MTIME: u64 = 8;
    fields_fit(node, |field, inner| match field {
        DATA => fields_fit(inner, |field, _| field != MTIME),
        LINK => fields_fit(inner, |_, _| true),
        _ => true,
    })
}

/// Whether fields of protobuf's wire format fill a message, and those with a length pass.
fn fields_fit(mut rest: &[u8], passes: impl Fn(u64, &[u8]) -> bool) -> bool {
    while !rest.is_empty() {
        let Some(tag) = varint(&mut rest).filter(|tag| u32::try_from(*tag).is_ok()) else { return false };
        let has_length = tag & 7 == 2;
        let length = match tag & 7 {
            0 => varint(&mut rest).map(|_| 0),
            1 => Some(8),
            2 => varint(&mut rest).and_then(|length| usize::try_from(length).ok()),
            5 => Some(4),
            _ => None,
        };
        let Some((field, after)) = length.and_then(|length| rest.split_at_checked(length)) else { return false };
        if has_length && !passes(tag >> 3, field) {
            return false;
        }
        rest = after;
    }
    true
}

/// Takes a varint of at most ten bytes off the front.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for at in 0..10 {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f).wrapping_shl(7 * at);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

async fn within<T>(
    doing: &'static str,
    work: impl Future<Output = Result<T, ipfs_api_backend_hyper::Error>>,
) -> Result<T, StoreError> {
    match tokio::time::timeout(TIMEOUT, work).await {
        Ok(done) => done.map_err(|e| io(doing, e)),
        Err(e) => Err(io(doing, e)),
    }
}

async fn read_from_gateway(base: &str, client: &reqwest::Client, cid: &Cid) -> Result<Bytes, StoreError> {
    let doing = || format!("read {cid} from {base}");
    let answer = client
        .get(format!("{base}/ipfs/{cid}?format=raw"))
        .header("accept", "application/vnd.ipld.raw")
        .send()
        .await
        .map_err(|e| io(doing(), e))?;
    if matches!(answer.status().as_u16(), 404 | 410) {
        return Err(StoreError::NotFound { cid: *cid });
    }
    let mut answer = answer.error_for_status().map_err(|e| io(doing(), e))?;
    let mut block = BytesMut::new();
    while let Some(part) = answer.chunk().await.map_err(|e| io(doing(), e))? {
        block.extend_from_slice(&part);
        if block.len() > BLOCK_BYTES_MAX {
            return Err(StoreError::TooLarge { cid: *cid, max: BLOCK_BYTES_MAX as u64 });
        }
    }
    Ok(block.freeze())
}

/// The blocks of a file: its leaves, hashed on all cores, and the nodes that link to them, root last.
struct Blocks<'a> {
    root: Cid,
    leaves: Vec<(Cid, &'a [u8])>,
    nodes: Vec<(Cid, Vec<u8>)>,
}

impl<'a> Blocks<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let leaf = |chunk: &'a [u8]| (Cid::new_v1(RAW, Code::Sha2_256.digest(chunk)), chunk);
        if bytes.len() <= CHUNK_BYTES {
            let leaf = leaf(bytes);
            return Self { root: leaf.0, leaves: vec![leaf], nodes: Vec::new() };
        }
        let leaves: Vec<_> = bytes.par_chunks(CHUNK_BYTES).map(leaf).collect();
        let links: Vec<_> = leaves
            .iter()
            .map(|(cid, chunk)| FileBranchLink { cid: *cid, blocksize: chunk.len() as u64, tsize: chunk.len() as u64 })
            .collect();
        let (root, _, nodes) = build_file_from_leaves(&links, Version::V1, Code::Sha2_256);
        Self { root, leaves, nodes }
    }
}

/// The CID that Kubo gives these bytes, see the module's first lines.
pub fn cid_of(bytes: &[u8]) -> Cid {
    Blocks::of(bytes).root
}

fn block_path(folder: &Path, cid: &Cid) -> PathBuf {
    let name = cid.to_string();
    // the last characters of a CID are as good as random
    let shard = name.get(name.len().saturating_sub(2)..).unwrap_or("00").to_owned();
    folder.join(shard).join(name)
}

fn put_in_folder(folder: &Path, bytes: &[u8]) -> Result<Cid, StoreError> {
    let blocks = Blocks::of(bytes);
    let nodes = blocks.nodes.iter().map(|(cid, node)| (cid, node.as_slice()));
    for (cid, block) in blocks.leaves.iter().map(|(cid, leaf)| (cid, *leaf)).chain(nodes) {
        let path = block_path(folder, cid);
        if !path.exists() {
            write_durably(&path, block).map_err(|e| io(format!("write block {}", path.display()), e))?;
        }
    }
    Ok(blocks.root)
}

/// A new file that is whole or not there at all, even after a power cut.
fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let shard = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(shard)?;
    let draft = path.with_extension(format!("draft-{}", uuid::Uuid::new_v4().simple()));
    let written = (|| {
        let mut file = std::fs::File::create_new(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&draft, path)?;
        std::fs::File::open(shard)?.sync_all()
    })();
    if written.is_err() {
        // a draft that stays is garbage, never a block
        drop(std::fs::remove_file(&draft));
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_gives_back_what_was_put_and_refuses_tampered_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("folder:{}", folder.path().display())).unwrap();
        for size in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let bytes: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            let cid = store.put(&bytes).await.unwrap();
            assert_eq!(cid, cid_of(&bytes));
            assert_eq!(store.put(&bytes).await.unwrap(), cid);
            assert_eq!(store.get(&cid, size as u64).await.unwrap(), bytes);
            if size > 0 {
                assert!(matches!(store.get(&cid, size as u64 - 1).await, Err(StoreError::TooLarge { .. })));
            }
        }
        let cid = store.put(b"tide").await.unwrap();
        std::fs::write(block_path(folder.path(), &cid), b"ebb").unwrap();
        assert!(matches!(store.get(&cid, 10).await, Err(StoreError::Wrong { .. })));
        store.delete(&store.put(b"mark").await.unwrap()).await.unwrap();
        assert!(matches!(store.get(&cid_of(b"mark"), 10).await, Err(StoreError::NotFound { .. })));
    }

    #[tokio::test]
    async fn a_small_tree_that_unfolds_into_billions_of_blocks_is_refused_at_once() {
        use rust_unixfs::file::adder::{FileBranchLink, rebuild_file_branch};
        let folder = tempfile::tempdir().unwrap();
        let mut cid = put_in_folder(folder.path(), b"").unwrap();
        for _ in 0..DEPTH_MAX - 1 {
            let link = || FileBranchLink { cid, blocksize: 0, tsize: 0 };
            let links: Vec<_> = std::iter::repeat_with(link).take(LINKS_MAX).collect();
            let (branch, block) = rebuild_file_branch(0, &links, Version::V1, Code::Sha2_256);
            write_durably(&block_path(folder.path(), &branch), &block).unwrap();
            cid = branch;
        }
        let store = Store::open(&format!("folder:{}", folder.path().display())).unwrap();
        assert!(matches!(store.get(&cid, 1 << 20).await, Err(StoreError::Wrong { .. })));
        store.delete(&cid).await.unwrap();
        assert!(matches!(store.get_block(&cid).await, Err(StoreError::NotFound { .. })));
    }

    #[test]
    fn a_node_whose_fields_run_over_its_end_is_refused_at_once() {
        // a link of two bytes, in which a number begins that ends behind it, and then a field of 2^64 - 14 bytes, which
        // leads back to the link's beginning
        let endless = b"\x12\x02\x18\x80\x01\x1a\xf2\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(links_of(endless), None);
        let many: Vec<u8> = (0..3 * CHUNK_BYTES).map(|i| (i % 251) as u8).collect();
        let (_, root) = Blocks::of(&many).nodes.pop().unwrap();
        let (size, links) = links_of(&root).unwrap();
        assert_eq!((size, links.len()), (many.len() as u64, 3));
        for length in 0..root.len() {
            assert_eq!(links_of(&root[..length]), None, "cut to {length} bytes");
        }
        // a longer field than its message, in each of the messages
        for at in [1, 3, root.len() - 1] {
            let mut longer = root.clone();
            longer[at] |= 0x80;
            assert_eq!(links_of(&longer), None, "byte {at}");
        }
    }

    #[tokio::test]
    async fn deleting_a_file_leaves_the_blocks_that_another_one_has_too() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("folder:{}", folder.path().display())).unwrap();
        let first: Vec<u8> = (0..3 * CHUNK_BYTES).map(|i| (i / CHUNK_BYTES) as u8).collect();
        let second = [&first[..2 * CHUNK_BYTES], b"other"].concat();
        let (first, second) = (store.put(&first).await.unwrap(), store.put(&second).await.unwrap());
        store.delete_beside(&first, Some(&second)).await.unwrap();
        assert!(matches!(store.get(&first, 4 << 20).await, Err(StoreError::NotFound { .. })));
        assert!(store.get(&second, 4 << 20).await.is_ok());
        store.delete_beside(&second, Some(&second)).await.unwrap();
        assert!(store.get(&second, 4 << 20).await.is_ok(), "itself is kept too");
    }

    #[tokio::test]
    async fn a_deletion_that_was_cut_short_is_taken_up_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&format!("folder:{}", folder.path().display())).unwrap();
        let bytes: Vec<u8> = (0..3 * CHUNK_BYTES).map(|i| (i % 251) as u8).collect();
        let cid = store.put(&bytes).await.unwrap();
        let blocks = Blocks::of(&bytes);
        std::fs::remove_file(block_path(folder.path(), &blocks.leaves[0].0)).unwrap();
        store.delete(&cid).await.unwrap();
        let mut all = blocks.leaves.iter().map(|(leaf, _)| leaf).chain(blocks.nodes.iter().map(|(node, _)| node));
        assert!(all.all(|block| !block_path(folder.path(), block).exists()));
        store.delete(&cid).await.unwrap();
    }

    #[test]
    fn the_empty_file_has_the_cid_that_ipfs_is_known_for() {
        assert_eq!(cid_of(b"").to_string(), "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku");
    }
}
