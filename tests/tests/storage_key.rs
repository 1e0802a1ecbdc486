//! The storage key is changed while relayers run: nothing is lost, a rotation that is killed goes on, the former key ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use tidemark::ids::ContentHash;
use tidemark_tests::{
    Options, Stack,
    folder::program,
    services::{Service, Wiring},
    stack::Services,
    story::{
        doors::{Doors, kept_metadata, registration},
        world::World,
    },
    wirings::relayer_command,
};

const CONTRIBUTORS: u32 = 20_000;
const CURRENT: &str = "TIDEMARK_STORAGE_KEY_FILE";
const FORMER: &str = "TIDEMARK_FORMER_STORAGE_KEY_FILE";

/// A wiring with other keys.
fn with_keys(wiring: &Wiring, current: &str, former: Option<&str>) -> Wiring {
    let mut changed = wiring.clone();
    changed.environment.retain(|(name, _)| *name != CURRENT && *name != FORMER);
    changed.environment.push((CURRENT, current.to_owned()));
    changed.environment.extend(former.map(|former| (FORMER, former.to_owned())));
    changed
}

fn command(wiring: &Wiring, arguments: &[&str]) -> Command {
    let mut command = Command::new(program(wiring.program).unwrap());
    command.args(arguments).env_clear().envs(wiring.environment.iter().map(|(name, value)| (name, value)));
    command
}

fn rotate(wiring: &Wiring) -> Output {
    command(wiring, &["storage-key", "rotate"]).output().unwrap()
}

/// What a rotation printed.
fn rotated(wiring: &Wiring) -> (u64, u64) {
    let output = rotate(wiring);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    (done["sealed_again"].as_u64().unwrap(), done["current_already"].as_u64().unwrap())
}

async fn register(doors: &Doors, batch: &str, range: std::ops::Range<u32>) {
    let items: Vec<Value> = range
        .map(|number| {
            let id = format!("{batch}-{number}");
            let mut metadata = kept_metadata(&id, ContentHash::of(id.as_bytes()), 0);
            metadata["contributor"]["anon_id"] = json!(format!("person-{number}"));
            registration(&id, &metadata).unwrap()
        })
        .collect();
    let answer = doors.register(batch, &items).await.unwrap();
    assert_eq!(answer["accepted"], items.len(), "{batch}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_key_is_changed_while_records_come_in() {
    tidemark::install_tls();
    let mut stack = Stack::start(Options { services: Services::WriteSide, ..Options::default() }).await.unwrap();
    let world = World::build(&stack, [1, 1, 1]).await.unwrap();
    let doors = Doors::new(&stack, &world).unwrap();
    for part in 0..CONTRIBUTORS / 2_000 {
        register(&doors, &format!("first{part}"), part * 2_000..(part + 1) * 2_000).await;
    }
    let old = stack.relayer.as_ref().unwrap().wiring().clone();
    let hook = ["provider", "webhook", "--name", "numo", "--url", "http://127.0.0.1:9/"];
    stack.relayer.as_ref().unwrap().run_once(&relayer_command(&old, &hook)).unwrap();
    stack.relayer.as_ref().unwrap().run_once(&relayer_command(&old, &hook)).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let (new_key, old_key) = (folder.path().join("new.key"), old.environment.iter().find(|(name, _)| *name == CURRENT));
    fs::write(&new_key, "5a".repeat(32)).unwrap();
    fs::set_permissions(&new_key, fs::Permissions::from_mode(0o600)).unwrap();
    let (new_key, old_key) = (new_key.to_str().unwrap(), old_key.unwrap().1.clone());
    let (both, new) = (with_keys(&old, new_key, Some(&old_key)), with_keys(&old, new_key, None));
    let alone = rotate(&new);
    assert!(!alone.status.success(), "without the key that sealed them nothing opens");

    // both keys: old secrets open, new ones are under the new key
    stack.relayer.take().unwrap().stop();
    stack.relayer = Some(Service::start(&stack.folder, both.clone()).await.unwrap());
    let doors = Doors::new(&stack, &world).unwrap();
    register(&doors, "second", CONTRIBUTORS - 10..CONTRIBUTORS + 10).await;

    // killed on its way, while more come in
    let mut killed = command(&both, &["storage-key", "rotate"]);
    let mut killed = killed.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(killed.stderr.take().unwrap()).lines();
    let said: Vec<String> = said.map_while(Result::ok).filter(|line| line.contains("progress")).take(3).collect();
    assert_eq!(said.len(), 3, "it says how far it is: {said:?}");
    killed.kill().unwrap();
    killed.wait().unwrap();
    register(&doors, "third", CONTRIBUTORS..CONTRIBUTORS + 20).await;

    let secrets = u64::from(CONTRIBUTORS) + 20 + 2;
    let (again, already) = rotated(&both);
    assert!(again > 0 && already >= 3_000 && again + already == secrets, "{again} {already}");
    assert_eq!(rotated(&both), (0, secrets));
    assert_eq!(rotated(&new), (0, secrets), "the former key is needed no more");

    // the former key alone opens nothing now
    assert!(!rotate(&old).status.success());
    let (_, printed) = run_doctor(&both);
    assert!(printed.contains("WARN former storage key"), "{printed}");
    let (is_well, printed) = run_doctor(&new);
    assert!(is_well && printed.contains("ok   storage key"), "{printed}");
    stack.relayer.take().unwrap().stop();
    stack.relayer = Some(Service::start(&stack.folder, new).await.unwrap());
    let doors = Doors::new(&stack, &world).unwrap();
    register(&doors, "fourth", 0..20).await;
}

fn run_doctor(wiring: &Wiring) -> (bool, String) {
    let output = command(wiring, &["doctor"]).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}
