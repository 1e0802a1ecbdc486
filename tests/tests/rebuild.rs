//! `tidemark-indexer rebuild` on the real stack: all that follows from the chain is made anew while it is served and followed, what is
//! the operator's own stays, and whatever dies when, the tables are whole. `TIDEMARK_SEED` repeats a run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{
    process::Stdio,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use alloy::primitives::{Address, B256};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgConnection, Row};
use tidemark::event::Event;
use tidemark_tests::{
    Options,
    folder::program,
    forge::Forge,
    random::Random,
    services::Service,
    story::{payout, strangers::second_indexer},
    wirings::{self, Wires},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

const DATABASE: &str = "served";
/// Accepted records that the escrow pays for.
const BUDGETED: u32 = 2_000;
const RUN_TIME_MAX: Duration = Duration::from_secs(90);
/// Lines of the log in the order in which they come, where a kill is tried soon after.
const STEPS: [&str; 5] = ["tables are made", "are as far as", "compared", "swapping", "new tables are served"];

/// A provider with some batches, and an indexer that serves and pays out.
struct Ground {
    forge: Forge,
    /// Accounts that have a voice reward.
    accounts: Vec<B256>,
    batches: AtomicU64,
}

impl Ground {
    async fn new() -> Self {
        let mut forge = Forge::with(Options::default(), BUDGETED).await.unwrap();
        let mut accounts = Vec::new();
        for number in 0..4 {
            let records = [format!("a-{number}"), format!("b-{number}")];
            let events: Vec<Event> = (0..2u32)
                .zip(&records)
                .flat_map(|(at, record)| forge.accepted(2 * at, record, Address::ZERO).unwrap())
                .collect();
            accounts.extend([events[1].contributor, events[3].contributor]);
            let batch = forge.batch(number, events).await.unwrap();
            forge.anchor(&batch).await.unwrap();
        }
        forge.stack.chain.mine(3).await.unwrap();
        let wires = Wires {
            rpc_url: forge.stack.chain.url().to_owned(),
            deployment: String::new(),
            store: String::new(),
            partner_url: forge.stack.partner.url().to_owned(),
            keys: forge.stack.folder.path().join("keys"),
        };
        let told = wirings::payouts(&wires, &forge.stack.options).unwrap();
        let indexer = forge.stack.start_indexer_with(DATABASE, told).await.unwrap();
        let issued = (forge.reward * 8).to_string();
        indexer.until("/v1/settlement", |_, answer| answer["providers"][0]["issued"] == issued.as_str()).await.unwrap();
        forge.stack.indexer = Some(indexer);
        Self { forge, accounts, batches: AtomicU64::new(4) }
    }

    fn indexer(&self) -> &Service {
        self.forge.stack.indexer.as_ref().unwrap()
    }

    async fn db(&self) -> PgConnection {
        self.forge.stack.postgres.connect(DATABASE).await.unwrap()
    }

    /// The command in the indexer's environment, with what it is told besides.
    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(program("tidemark-indexer").unwrap());
        command.arg("rebuild").args(arguments).env_clear().env("PATH", "/usr/bin:/bin");
        command.envs(self.indexer().wiring().environment.iter().map(|(name, value)| (name, value)));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).kill_on_drop(true).spawn().unwrap()
    }

    /// Runs it to its end: whether it succeeded, and what it said.
    async fn run(&self, arguments: &[&str]) -> (bool, String) {
        ended(self.start(arguments)).await
    }

    async fn rebuilt(&self) -> String {
        let (succeeded, said) = self.run(&[]).await;
        assert!(succeeded, "{said}");
        said
    }

    /// One more batch and a block above it.
    async fn anchor_next(&self) {
        let number = self.batches.fetch_add(1, Ordering::SeqCst);
        let events = self.forge.accepted(0, &format!("more-{number}"), Address::ZERO).unwrap().to_vec();
        let batch = self.forge.batch(number, events).await.unwrap();
        self.forge.anchor(&batch).await.unwrap();
        self.forge.stack.chain.mine(1).await.unwrap();
    }

    /// Anchors and asks for answers until `done`; gives how many answers there were, all of them good.
    async fn flow(&self, done: &AtomicBool) -> u64 {
        let anchors = async {
            while !done.load(Ordering::SeqCst) {
                self.anchor_next().await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let asks = async {
            let record = self.forge.accepted(0, "a-0", Address::ZERO).unwrap()[0].data_id;
            let mut answers = 0;
            while !done.load(Ordering::SeqCst) {
                for path in
                    [format!("/v1/records/{record}"), "/v1/settlement".into(), "/status".into(), "/ready".into()]
                {
                    let (status, body) = self.indexer().get(&path).await.unwrap();
                    assert_eq!(status, 200, "{path}: {body}");
                    assert!(body["halted"].is_null(), "{body}");
                    answers += 1;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            answers
        };
        tokio::join!(anchors, asks).1
    }

    /// A payout of all that an account has, to its end; blocks come meanwhile.
    async fn pay(&self, account: B256) {
        let asked = payout::request(&self.forge.stack, "user-1", &[(account, self.forge.reward)]).await.unwrap();
        let settled = payout::settled(&self.forge.stack, asked.payout_id);
        tokio::pin!(settled);
        loop {
            tokio::select! {
                settled = &mut settled => {
                    assert_eq!(settled.unwrap().state, "posted");
                    return;
                }
                () = tokio::time::sleep(Duration::from_millis(100)) => self.forge.stack.chain.mine(1).await.unwrap(),
            }
        }
    }

    /// All rows that are the operator's own, apart from those that live by the clock.
    async fn own_rows(&self) -> Vec<(String, String)> {
        let mut db = self.db().await;
        let tables: Vec<String> = sqlx::query_scalar(
            "SELECT table_name::text FROM information_schema.tables
             WHERE table_schema = 'local' AND table_type = 'BASE TABLE' ORDER BY 1",
        )
        .fetch_all(&mut db)
        .await
        .unwrap();
        assert!(tables.contains(&"payout".to_owned()) && !tables.contains(&"cursor".to_owned()), "{tables:?}");
        let mut rows = Vec::new();
        for table in tables {
            let sql = format!("SELECT coalesce(string_agg(t::text, ';' ORDER BY t::text), '') FROM local.{table} AS t");
            rows.push((table, sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut db).await.unwrap()));
        }
        rows
    }

    async fn schemas(&self) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT nspname::text FROM pg_namespace
             WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY 1",
        )
        .fetch_all(&mut self.db().await)
        .await
        .unwrap()
    }

    /// The served tables are those of an indexer that began now.
    async fn is_as_from_nothing(&self) {
        self.forge.stack.chain.mine(3).await.unwrap();
        let (second, _) = second_indexer(&self.forge.stack, DATABASE).await.unwrap();
        drop(second);
        let sql = format!("DROP DATABASE {DATABASE}_second WITH (FORCE)");
        let mut db = self.forge.stack.postgres.connect("postgres").await.unwrap();
        sqlx::query(AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
    }
}

async fn ended(child: Child) -> (bool, String) {
    let output = tokio::time::timeout(RUN_TIME_MAX, child.wait_with_output()).await.expect("it ends").unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (output.status.success(), said.concat())
}

/// Reads its log until a line has the words, or the log ends.
async fn until_said(child: &mut Child, words: &str) -> bool {
    let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
    let found = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(words) {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(RUN_TIME_MAX, found).await.expect("it goes on")
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_rebuilt_and_swapped_while_events_flow_answers_come_and_payouts_stay() -> anyhow::Result<()> {
    let mut ground = Ground::new().await;
    ground.pay(ground.accounts[0]).await;
    let own = ground.own_rows().await;
    let oid = "SELECT 'public'::regnamespace::oid::bigint";
    let before: i64 = sqlx::query_scalar(oid).fetch_one(&mut ground.db().await).await?;

    for _ in 0..2 {
        let done = AtomicBool::new(false);
        let rebuilt = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let said = ground.rebuilt().await;
            // and some more on the new tables
            tokio::time::sleep(Duration::from_millis(700)).await;
            done.store(true, Ordering::SeqCst);
            said
        };
        let (said, answers) = tokio::join!(rebuilt, ground.flow(&done));
        assert!(said.contains(" 0 differ from before"), "{said}");
        assert!(answers > 50, "{answers} answers");
        println!("{answers} answers meanwhile");
        assert_eq!(
            ground.schemas().await,
            ["local", "mirror", "mirror_before", "public", "public_before", "types"],
            "{said}"
        );
    }
    let after: i64 = sqlx::query_scalar(oid).fetch_one(&mut ground.db().await).await?;
    assert_ne!(before, after, "the tables are others");
    assert_eq!(ground.own_rows().await, own);
    ground.pay(ground.accounts[1]).await;

    let (succeeded, said) = ground.run(&["--drop-old"]).await;
    assert!(succeeded && said.contains("are gone"), "{said}");
    assert_eq!(ground.schemas().await, ["local", "mirror", "public", "types"]);
    ground.is_as_from_nothing().await;
    // and it starts on them
    ground.forge.stack.indexer.as_mut().unwrap().restart().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whenever_a_rebuild_is_killed_the_tables_are_whole_and_the_next_run_goes_on() -> anyhow::Result<()> {
    let ground = Ground::new().await;
    ground.pay(ground.accounts[0]).await;
    let own = ground.own_rows().await;
    let mut random = Random::from_environment();
    let (mut swapped, mut begun) = (0, 0);
    for round in 0..12usize {
        let before = ground.schemas().await;
        let mut child = ground.start(&[]);
        let step = STEPS[if round < STEPS.len() { round } else { 2 + round % 3 }];
        // what is half built is not made once more
        let step = if step == STEPS[0] && before.contains(&"public_next".to_owned()) { "half built" } else { step };
        until_said(&mut child, step).await;
        let pause = random.below(if step == "swapping" { 40 } else { 120 });
        tokio::time::sleep(Duration::from_millis(pause)).await;
        child.kill().await?;
        ground.anchor_next().await;

        let schemas = ground.schemas().await;
        let is_half = schemas.contains(&"public_next".to_owned());
        assert_eq!(is_half, schemas.contains(&"mirror_next".to_owned()), "{schemas:?}");
        assert_eq!(
            schemas.contains(&"public_before".to_owned()),
            schemas.contains(&"mirror_before".to_owned()),
            "{schemas:?}"
        );
        (swapped, begun) = (swapped + usize::from(!is_half), begun + usize::from(is_half));
        println!("killed {pause} ms after {step:?}: {schemas:?}");
        let (status, body) = ground.indexer().get("/v1/settlement").await?;
        assert_eq!(status, 200, "{body}");
        assert_eq!(ground.own_rows().await, own);
    }
    assert!(swapped > 0 && begun > 0, "{swapped} after the swap, {begun} before it");
    let said = ground.rebuilt().await;
    assert!(said.contains(" 0 differ from before"), "{said}");
    ground.is_as_from_nothing().await;
    ground.pay(ground.accounts[1]).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_in_the_old_tables_is_named_and_gone() -> anyhow::Result<()> {
    let ground = Ground::new().await;
    let mut db = ground.db().await;
    let account = ground.accounts[0];
    // a row, and a balance that the triggers would not have let through
    sqlx::raw_sql(
        "UPDATE event SET occurred_at = occurred_at + 1 WHERE (number, index) = (0, 0);
         ALTER TABLE ledger_account DISABLE TRIGGER USER;
         UPDATE ledger_account SET balance = balance * 1000 WHERE kind = 'contributor';
         ALTER TABLE ledger_account ENABLE TRIGGER USER;
         DROP INDEX record_contributor",
    )
    .execute(&mut db)
    .await?;
    // somebody takes what was never earned; the worker does not come to it
    let takes = format!(
        "BEGIN;
         INSERT INTO local.payout (payout_id, provider, treasury, destination, amount, points, next_step_at)
             SELECT '00000000-0000-4000-8000-000000000001', address, points_treasury, 'thief', {amount}, 1, now() + INTERVAL '1 day'
             FROM provider;
         INSERT INTO local.payout_entry (payout_id, position, account, amount, debit_id)
             VALUES ('00000000-0000-4000-8000-000000000001', 0, '\\x{account:x}', {amount}, sha256('debit'));
         COMMIT",
        amount = 2 * ground.forge.reward,
    );
    sqlx::raw_sql(AssertSqlSafe(takes)).execute(&mut db).await?;
    let (succeeded, said) = ground.run(&[]).await;
    let named = format!("{account:#x} of provider {:#x}", ground.forge.world.provider);
    assert!(!succeeded && said.contains(&named) && said.contains("Nothing was swapped"), "{said}");
    assert!(!ground.schemas().await.contains(&"public_before".to_owned()));
    ground.indexer().until("/ready", |status, _| status == 200).await?;

    // without that payout it goes through
    sqlx::query("UPDATE local.payout SET state = 'voided'").execute(&mut db).await?;
    let said = ground.rebuilt().await;
    let differ: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("DIFFERS ")?.split(' ').next()).collect();
    assert_eq!(differ, ["event", "ledger_account"], "{said}");
    let right: bool = sqlx::query_scalar(
        "SELECT (SELECT occurred_at FROM event WHERE (number, index) = (0, 0))
             = (SELECT occurred_at - 1 FROM public_before.event WHERE (number, index) = (0, 0))
           AND to_regclass('public.record_contributor') IS NOT NULL",
    )
    .fetch_one(&mut db)
    .await?;
    assert!(right, "{said}");
    ground.is_as_from_nothing().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_can_t_be_is_refused_in_words_and_changes_nothing() -> anyhow::Result<()> {
    let mut ground = Ground::new().await;
    let mut db = ground.db().await;
    // two at once
    let mut first = ground.start(&[]);
    assert!(until_said(&mut first, STEPS[0]).await);
    let stop = |child: &Child, signal| {
        let id = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    };
    stop(&first, rustix::process::Signal::STOP);
    for arguments in [&[][..], &["--discard"], &["--drop-old"]] {
        let (succeeded, said) = ground.run(arguments).await;
        assert!(!succeeded && said.contains("another rebuild is at work"), "{said}");
    }
    stop(&first, rustix::process::Signal::CONT);
    first.kill().await?;
    assert!(ground.schemas().await.contains(&"public_next".to_owned()));
    let deadline = Instant::now() + RUN_TIME_MAX;
    loop {
        // the server sees that the first is gone a moment later
        let (succeeded, said) = ground.run(&["--discard"]).await;
        if succeeded {
            assert!(said.contains("is gone"), "{said}");
            break;
        }
        assert!(said.contains("another rebuild is at work") && Instant::now() < deadline, "{said}");
    }
    let (succeeded, said) = ground.run(&["--discard"]).await;
    assert!(succeeded && said.contains("nothing is half built"), "{said}");
    assert_eq!(ground.schemas().await, ["local", "mirror", "public", "types"]);

    // what is not the indexer's own, in its schemas and on its tables
    for (make, word, undo) in [
        ("CREATE TABLE public.notes (a INT)", "public: relation notes", "DROP TABLE public.notes"),
        ("CREATE VIEW local.mine AS SELECT name FROM provider", "view local.mine", "DROP VIEW local.mine"),
        (
            "CREATE TABLE local.mine (a types.address REFERENCES public.provider)",
            "foreign key of local.mine",
            "DROP TABLE local.mine",
        ),
        (
            "CREATE POLICY own ON record USING (TRUE); ALTER TABLE record ENABLE ROW LEVEL SECURITY",
            "public: policy own of record, public: row security of record",
            "DROP POLICY own ON record; ALTER TABLE record DISABLE ROW LEVEL SECURITY",
        ),
        (
            "CREATE ROLE somebody; ALTER TABLE task OWNER TO somebody",
            "the served tables are those of somebody",
            "ALTER TABLE task OWNER TO postgres; DROP ROLE somebody",
        ),
    ] {
        sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut db).await?;
        let (succeeded, said) = ground.run(&[]).await;
        assert!(!succeeded && said.contains(word), "{said}");
        assert!(!ground.schemas().await.contains(&"public_before".to_owned()));
        sqlx::raw_sql(AssertSqlSafe(undo)).execute(&mut db).await?;
    }

    // another version, on either side
    sqlx::raw_sql("UPDATE _sqlx_migrations SET success = FALSE WHERE version = 11").execute(&mut db).await?;
    let (succeeded, said) = ground.run(&[]).await;
    assert!(!succeeded && said.contains("start `serve` of this version"), "{said}");
    sqlx::raw_sql("UPDATE _sqlx_migrations SET success = TRUE WHERE version = 11").execute(&mut db).await?;

    // a database that dies meanwhile: it says so, the indexer recovers, and the next run goes through
    let mut dying = ground.start(&[]);
    assert!(until_said(&mut dying, STEPS[0]).await);
    ground.forge.stack.postgres.kill_and_restart().await?;
    let (succeeded, said) = ended(dying).await;
    assert!(!succeeded, "{said}");
    assert!(said.contains("run the same command again"), "{said}");
    ground.indexer().until("/ready", |status, _| status == 200).await?;
    let said = ground.rebuilt().await;
    assert!(said.contains(" 0 differ from before"), "{said}");
    ground.is_as_from_nothing().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_keep_what_they_were_granted_and_a_long_reader_is_waited_for() -> anyhow::Result<()> {
    let ground = Ground::new().await;
    let mut db = ground.db().await;
    sqlx::raw_sql(
        "CREATE ROLE reader; GRANT USAGE ON SCHEMA public, mirror, local TO reader;
         GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader; GRANT SELECT (applied_number) ON mirror.cursor TO reader;
         ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO reader",
    )
    .execute(&mut db)
    .await?;
    let granted = "SELECT string_agg(relname || coalesce(relacl::text, ''), ' ' ORDER BY relname)
             || (SELECT string_agg(nspname || nspacl::text, ' ' ORDER BY nspname) FROM pg_namespace WHERE nspname IN ('public', 'mirror'))
             || (SELECT attacl::text FROM pg_attribute WHERE attrelid = 'mirror.cursor'::regclass AND attname = 'applied_number')
             || (SELECT count(*) FROM pg_default_acl WHERE defaclnamespace = 'public'::regnamespace)
         FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')";
    let reader_of = |text: &str| text.matches("reader=").count();
    let before: String = sqlx::query_scalar(granted).fetch_one(&mut db).await?;
    // a reader that is in the middle of one answer: the swap waits for its end, and its tables stay the same to its end
    let mut reading = ground.db().await;
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT FROM mirror.cursor")
        .execute(&mut reading)
        .await?;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM event").fetch_one(&mut reading).await?;
    let mut child = ground.start(&[]);
    assert!(until_said(&mut child, "somebody reads for long").await);
    let (status, body) = ground.indexer().get("/v1/settlement").await?;
    assert_eq!(status, 200, "others read: {body}");
    let again: i64 = sqlx::query_scalar("SELECT count(*) FROM event").fetch_one(&mut reading).await?;
    assert_eq!(again, rows);
    sqlx::raw_sql("COMMIT").execute(&mut reading).await?;
    let (succeeded, said) = ended(child).await;
    assert!(succeeded, "{said}");
    let after: String = sqlx::query_scalar(granted).fetch_one(&mut db).await?;
    assert!(reader_of(&before) > 30, "{before}");
    assert_eq!(reader_of(&after), reader_of(&before), "{before}\n{after}");
    // a trigger's names and types lead to what is served
    let row = sqlx::query(
        "SELECT (SELECT count(*) FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
             JOIN pg_type AS t ON t.oid = a.atttypid JOIN pg_namespace AS n ON n.oid = t.typnamespace
             WHERE c.relnamespace IN ('public'::regnamespace, 'mirror'::regnamespace) AND t.typtype = 'd' AND n.nspname <> 'types'),
             (SELECT count(*) FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid JOIN pg_proc AS p ON p.oid = t.tgfoid
             WHERE NOT t.tgisinternal AND c.relnamespace = 'public'::regnamespace AND p.pronamespace <> c.relnamespace)",
    )
    .fetch_one(&mut db)
    .await?;
    assert_eq!((row.get::<i64, _>(0), row.get::<i64, _>(1)), (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_lack_what_the_served_ones_have_of_disclosures_are_not_swapped_in() -> anyhow::Result<()> {
    let ground = Ground::new().await;
    let mut db = ground.db().await;
    let (events, disclosure) = ground.forge.disclosing(0, "disclosed", json!({"asset": {"task_id": "t"}}), 1)?;
    let number = ground.batches.fetch_add(1, Ordering::SeqCst);
    let batch = ground.forge.disclosed(number, events.to_vec(), &[disclosure]).await?;
    ground.forge.anchor(&batch).await?;
    ground.forge.stack.chain.mine(3).await?;
    let deadline = Instant::now() + RUN_TIME_MAX;
    let cid: String = loop {
        let found = "SELECT disclosures_cid FROM batch WHERE EXISTS (SELECT FROM trace_record AS r
                     WHERE (r.provider, r.number) = (batch.provider, batch.number))";
        if let Some(cid) = sqlx::query_scalar(found).fetch_optional(&mut db).await? {
            break cid;
        }
        assert!(Instant::now() < deadline, "the record is disclosed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };

    let (store, cid) = (ground.forge.stack.store()?, cid.parse()?);
    let bytes = store.get(&cid, u64::MAX).await?;
    store.delete(&cid).await?;
    let mut waiting = ground.start(&[]);
    assert!(until_said(&mut waiting, "are not here").await, "it says what it waits for");
    assert!(!ground.schemas().await.contains(&"public_before".to_owned()));
    store.put(&bytes).await?;
    let (succeeded, said) = ended(waiting).await;
    assert!(succeeded && said.contains(" 0 differ from before"), "{said}");
    let records: i64 = sqlx::query_scalar("SELECT count(*) FROM trace_record").fetch_one(&mut db).await?;
    assert_eq!(records, 1);
    Ok(())
}
