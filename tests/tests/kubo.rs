//! The content store against a real IPFS node: Kubo computes our CIDs, keeps our blocks, and serves them to strangers.
//!
//! `tests/kubo/build` makes the binary; without it these tests say SKIPPED and why.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use tidemark::store::{CHUNK_BYTES, Store, StoreError, cid_of};

const START_TIME_MAX: Duration = Duration::from_secs(30);
/// 174 links of 1 MiB fill one node; a file of more has two levels.
const SIZE_MAX: u64 = 256 << 20;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Kubo's binary; `None`, said aloud, where there is none.
fn binary() -> Option<PathBuf> {
    let path = repository().join(".tidemark/tools/ipfs");
    if path.exists() {
        return Some(path);
    }
    let reason = format!("SKIPPED: no Kubo at {}: run tests/kubo/build, which needs Go", path.display());
    // eprintln! would go to the harness, which hides what a passing test prints
    #[allow(clippy::explicit_write)]
    writeln!(std::io::stderr(), "{reason}").unwrap();
    None
}

/// An IPFS node of its own, away from the network, gone when dropped.
struct Node {
    daemon: Child,
    folder: TempDir,
}

impl Node {
    fn start(binary: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ipfs = |arguments: &[&str]| {
            let mut command = Command::new(binary);
            command.env("IPFS_PATH", folder.path()).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
            command
        };
        // this profile takes free ports on the loopback, no bootstrap peers and no discovery
        assert!(ipfs(&["init", "--profile=test"]).status().unwrap().success());
        let daemon = ipfs(&["daemon", "--offline"]).stderr(Stdio::null()).spawn().unwrap();
        let node = Self { daemon, folder };
        let started_at = Instant::now();
        // the gateway's address is written last
        while node.read("gateway").is_none() || node.read("api").is_none() {
            assert!(started_at.elapsed() < START_TIME_MAX, "Kubo did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        node
    }

    fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.folder.path().join(file)).ok().filter(|text| !text.is_empty())
    }

    /// The RPC as a content store.
    fn store(&self) -> Store {
        let api = self.read("api").unwrap();
        let port = api.strip_prefix("/ip4/127.0.0.1/tcp/").unwrap();
        Store::open(&format!("kubo:http://127.0.0.1:{port}")).unwrap()
    }

    /// The gateway as a content store.
    fn gateway(&self) -> Store {
        Store::open(&self.read("gateway").unwrap()).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.daemon.kill().ok();
        self.daemon.wait().ok();
    }
}

/// The files of cids.json with their CIDs: byte i is i mod 251.
fn files() -> Vec<(Vec<u8>, String)> {
    let json = fs::read(repository().join("tests/vectors/cids.json")).unwrap();
    let file: Value = serde_json::from_slice(&json).unwrap();
    let vectors = file["vectors"].as_array().unwrap();
    assert!(vectors.len() > 4);
    vectors
        .iter()
        .map(|vector| {
            let size = usize::try_from(vector["size"].as_u64().unwrap()).unwrap();
            ((0u8..251).cycle().take(size).collect(), vector["cid"].as_str().unwrap().to_owned())
        })
        .collect()
}

#[test]
fn kubo_computes_our_cids() {
    let Some(binary) = binary() else { return };
    let folder = tempfile::tempdir().unwrap();
    let ipfs = |arguments: &[&str]| {
        let output = Command::new(&binary).env("IPFS_PATH", folder.path()).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    ipfs(&["init", "--profile=test"]);
    let add = |path: &Path| {
        let how = ["add", "--only-hash", "--cid-version=1", "--raw-leaves", "--chunker=size-1048576", "--quieter"];
        ipfs(&[&how[..], &[path.to_str().unwrap()]].concat())
    };
    let path = folder.path().join("bytes");
    for (bytes, cid) in files() {
        fs::write(&path, &bytes).unwrap();
        assert_eq!(add(&path), cid, "{} bytes", bytes.len());
        assert_eq!(cid_of(&bytes).to_string(), cid);
    }
    for name in ["manifest.parquet", "disclosures.parquet", "members.parquet"] {
        let path = repository().join("tests/vectors").join(name);
        assert_eq!(add(&path), cid_of(&fs::read(&path).unwrap()).to_string(), "{name}");
    }
}

#[tokio::test]
async fn a_kubo_node_keeps_gives_and_forgets() {
    tidemark::install_tls();
    let Some(binary) = binary() else { return };
    let node = Node::start(&binary);
    let (store, gateway) = (node.store(), node.gateway());
    for (bytes, expected) in files() {
        let size = bytes.len();
        let cid = store.put(&bytes).await.unwrap();
        assert_eq!(cid.to_string(), expected);
        assert_eq!(store.put(&bytes).await.unwrap(), cid, "the same bytes again");
        assert!(store.get(&cid, SIZE_MAX).await.unwrap() == bytes, "{size} bytes come back");
        assert!(gateway.get(&cid, SIZE_MAX).await.unwrap() == bytes, "{size} bytes come from the gateway");
        if size > 0 {
            let refused = store.get(&cid, size as u64 - 1).await;
            assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{size} bytes: {refused:?}");
        }
        assert!(matches!(gateway.put(&bytes).await, Err(StoreError::ReadOnly)));

        store.delete(&cid).await.unwrap();
        // Kubo always has the empty file: it is part of it
        if size > 0 {
            for store in [&store, &gateway] {
                let gone = store.get(&cid, SIZE_MAX).await;
                assert!(matches!(gone, Err(StoreError::NotFound { .. })), "{size} bytes: {gone:?}");
            }
        }
        store.delete(&cid).await.expect("what is not there is as good as deleted");
    }
}

#[tokio::test]
async fn a_deleted_file_takes_no_other_file_s_blocks_with_it() {
    tidemark::install_tls();
    let Some(binary) = binary() else { return };
    let node = Node::start(&binary);
    let store = node.store();
    // a ciphertext and the sealed key beside it are files of their own: erasing one must leave the other
    let kept: Vec<u8> = (0u8..241).cycle().take(2 * CHUNK_BYTES + 5).collect();
    let (kept_cid, erased_cid) = (store.put(&kept).await.unwrap(), store.put(b"a sealed key").await.unwrap());
    store.delete(&erased_cid).await.unwrap();
    assert!(store.get(&kept_cid, SIZE_MAX).await.unwrap() == kept);
    assert!(matches!(store.get(&erased_cid, SIZE_MAX).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn a_node_that_is_down_is_an_error_and_not_a_missing_file() {
    tidemark::install_tls();
    let nobody = {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.local_addr().unwrap()
    };
    let store = Store::open(&format!("kubo:http://{nobody}")).unwrap();
    assert!(matches!(store.get(&cid_of(b"x"), 1).await, Err(StoreError::Io { .. })));
    assert!(matches!(store.put(b"x").await, Err(StoreError::Io { .. })));
    assert!(matches!(store.delete(&cid_of(b"x")).await, Err(StoreError::Io { .. })));
}
