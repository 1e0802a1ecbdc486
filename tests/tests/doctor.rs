//! `tidemark-relayer doctor` finds what is broken, says how to fix it, fails then and only then, and tells no secret.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{os::unix::fs::PermissionsExt, process::Command};

use alloy::primitives::Address;
use serde_json::Value;
use sqlx::PgPool;
use tidemark::{contracts::ProvenanceLog, ids::ContentHash};
use tidemark_tests::{
    Options, Stack,
    folder::program,
    keys::role,
    mined,
    stack::Services,
    story::{
        doors::{Doors, kept_metadata, registration},
        world::World,
    },
};

/// The doctor with the relayer's environment but for what is changed: whether it is content, and what it printed.
fn doctor(stack: &Stack, changed: &[(&'static str, &str)], arguments: &[&str]) -> (bool, String) {
    let wiring = stack.relayer.as_ref().unwrap().wiring();
    let mut command = Command::new(program(wiring.program).unwrap());
    command.arg("doctor").args(arguments).env_clear();
    command.envs(wiring.environment.iter().map(|(name, value)| (name, value))).envs(changed.iter().copied());
    let output = command.output().unwrap();
    let (printed, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(matches!(output.status.code(), Some(0 | 1)) && !printed.is_empty(), "{} {printed} {said}", output.status);
    (output.status.success(), printed)
}

/// Fails with a line about a part that holds a text and a fix.
fn fails(stack: &Stack, changed: &[(&'static str, &str)], part: &str, text: &str) {
    let (content, printed) = doctor(stack, changed, &[]);
    let found = printed
        .lines()
        .any(|line| line.starts_with(&format!("FAIL {part}")) && line.contains(text) && line.contains("; fix: "));
    assert!(!content && found, "{changed:?}: expected FAIL {part} … {text}\n{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_each_broken_part_and_nothing_where_all_is_well() -> anyhow::Result<()> {
    tidemark::install_tls();
    let mut stack = Stack::start(Options { services: Services::WriteSide, ..Options::default() }).await?;
    let world = World::build(&stack, [1, 1, 1]).await?;
    let doors = Doors::new(&stack, &world)?;
    // a contributor's secret is sealed then
    doors.register("a", &[registration("a", &kept_metadata("a", ContentHash::of(b"a"), 0))?]).await?;

    let (content, printed) = doctor(&stack, &[], &[]);
    assert!(content && !printed.contains("FAIL"), "{printed}");
    for part in ["database", "tables", "node 1", "attestor", "store", "storage key", "sender 0x", "provider numo"] {
        assert!(printed.lines().any(|line| line.starts_with(&format!("ok   {part}"))), "{part}:\n{printed}");
    }
    assert!(printed.lines().any(|line| line.starts_with("WARN webhooks")), "development settings are told:\n{printed}");
    let (_, lines) = doctor(&stack, &[], &["--json"]);
    for line in lines.lines() {
        let value: Value = serde_json::from_str(line)?;
        let is_ok = value["verdict"] == "ok";
        assert!(is_ok || value["fix"].is_string(), "{value}");
        assert!(value["part"].is_string() && value["found"].is_string(), "{value}");
    }

    let folder = tempfile::tempdir()?;
    let other = folder.path().join("other.key");
    std::fs::write(&other, "11".repeat(32))?;
    std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o644))?;
    let other = other.to_str().unwrap();
    let broken = folder.path().join("deployment.json");
    let text = std::fs::read_to_string(stack.deployment_path())?;
    let mut deployment: Value = serde_json::from_str(&text)?;
    deployment["code"]["ProvenanceLog"]["hash"] = format!("0x{}", "ab".repeat(32)).into();
    std::fs::write(&broken, deployment.to_string())?;
    let database = "postgres://relayer:hunter2@127.0.0.1:1/relayer";
    fails(&stack, &[("DATABASE_URL", database)], "database", "");
    assert!(!doctor(&stack, &[("DATABASE_URL", database)], &[]).1.contains("hunter2"), "no secret is told");
    fails(&stack, &[("TIDEMARK_RPC_URL", "http://127.0.0.1:1")], "node 1", "");
    let (well, url) = (stack.chain.url(), "http://127.0.0.1:1");
    let both = format!("{well},{url}");
    fails(&stack, &[("TIDEMARK_RPC_URL", &both)], "node 2", "");
    fails(&stack, &[("TIDEMARK_DEPLOYMENT", "/nowhere.json")], "deployment", "");
    fails(&stack, &[("TIDEMARK_DEPLOYMENT", broken.to_str().unwrap())], "node 1", "ProvenanceLog");
    fails(&stack, &[("TIDEMARK_ATTESTOR_TOKEN", "wrong")], "attestor", "does not take our token");
    fails(&stack, &[("TIDEMARK_STORE", "folder:/proc/tidemark")], "store", "");
    fails(&stack, &[("TIDEMARK_STORE", well)], "store", "");
    fails(&stack, &[("TIDEMARK_STORAGE_KEY_FILE", other)], "storage key", "does not open");
    fails(&stack, &[("TIDEMARK_STORAGE_KEY_FILE", "/nowhere.key")], "storage key", "");
    fails(&stack, &[("TIDEMARK_SENDER_KEY_FILE", other)], "sender 0x", "0.0");
    let (_, printed) = doctor(&stack, &[("TIDEMARK_SENDER_KEY_FILE", other)], &[]);
    assert!(printed.lines().any(|line| line.starts_with("WARN sender key") && line.contains("0644")), "{printed}");

    let db = PgPool::connect(&stack.postgres.url("relayer")).await?;
    let migration = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                     VALUES (9999, 'later', true, '', 0)";
    sqlx::query(migration).execute(&db).await?;
    fails(&stack, &[], "tables", "newer program");
    sqlx::query("DELETE FROM _sqlx_migrations WHERE version = 9999").execute(&db).await?;

    let provider = stack.sender(role::PROVIDER).await?;
    let log = ProvenanceLog::new(world.deployment.provenance_log, &provider);
    while log.providerOf(world.provider).call().await?.nextBatch == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    // an old backup
    stack.relayer.as_mut().unwrap().stop();
    sqlx::query("UPDATE batch_lane SET next_number = 0").execute(&db).await?;
    fails(&stack, &[], "provider numo", "next batch 1 on chain");
    sqlx::query("UPDATE batch_lane SET next_number = 1").execute(&db).await?;

    // another attestor signs for the provider
    mined!("name another attestor", log.setAttestor(Address::repeat_byte(7)));
    fails(&stack, &[], "provider numo", "names attestor");
    stack.attestor.as_mut().unwrap().stop();
    fails(&stack, &[], "attestor", "not ready");
    Ok(())
}
