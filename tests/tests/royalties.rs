//! A sale is one transfer, and everybody reads the same parts of it as if each had been posted: held against the method that sorts, over
//! markets made at random, on a real Postgres. `TIDEMARK_SEED` repeats a run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use alloy::primitives::{Address, B256, U256};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use tidemark::{
    dataset::{Member, split_points, summarise},
    ids::{ConsentId, ContentHash, DataId},
};
use tidemark_indexer::{
    checksum::checksums,
    ledger::{
        self, AccountKey, Cause, Kind, Posting,
        chain::Fields,
        lock_balances,
        verify::{Finding, verify},
    },
    manifest,
    read::{self, Period, page::Page},
    serve::connect,
};
use tidemark_tests::{folder::RunFolder, postgres::Postgres, random::Random};

const PROVIDER: Address = Address::repeat_byte(0xaa);
/// Since when a sale is one transfer.
const SALES_POST_ONCE: u32 = 13;
/// The migration from which on totals are kept, and those behind it.
const LONG_HISTORIES: u32 = 15;

/// A version with its members and sales, the shares in the order of the chain.
struct Version {
    ip_id: u64,
    version: i64,
    members: Vec<Member>,
    sales: Vec<Sale>,
}

struct Sale {
    license_id: u64,
    share: u128,
    block: i64,
}

impl Version {
    fn in_points(&self) -> Vec<(usize, &Member)> {
        self.members.iter().enumerate().filter(|(_, member)| member.payee.is_zero()).collect()
    }

    fn points_weight(&self) -> u128 {
        self.in_points().iter().map(|(_, member)| member.weight).sum()
    }

    /// Parts of a sale by sorting; none where nobody is paid in points.
    fn parts(&self, sale: &Sale) -> Vec<(&Member, u128)> {
        let members = self.in_points();
        let weights: Vec<u128> = members.iter().map(|(_, member)| member.weight).collect();
        let Some(parts) = split_points(sale.share, &weights) else { return Vec::new() };
        members.iter().map(|(_, member)| *member).zip(parts).filter(|(_, part)| *part > 0).collect()
    }
}

fn account(number: u64) -> B256 {
    B256::from(U256::from(number + 1))
}

/// So many versions: members of few weights or of any, some with wallets, pseudonyms that come again in another version.
fn market(random: &mut Random, versions: u64, members_max: u64, weight_bits: &[u32], share_max: u128) -> Vec<Version> {
    let (mut license_id, mut block) = (0, 10);
    let mut made = Vec::new();
    for number in 0..versions {
        let bits = *random.pick(weight_bits).unwrap();
        let count = 1 + random.below(members_max);
        let mut members: Vec<Member> = (0..count)
            .map(|at| Member {
                data_id: DataId::from_bytes(B256::from(U256::from(number * 1_000 + at)).0[16..].try_into().unwrap()),
                contributor: account((at + number * 3) % (members_max * 2)),
                consent_id: ConsentId(B256::repeat_byte(8)),
                payee: if random.below(6) == 0 { Address::repeat_byte(7) } else { Address::ZERO },
                weight: (u128::from(random.below(u64::MAX)) & ((1 << bits) - 1)).max(1),
            })
            .collect();
        members.sort_unstable_by_key(|member| member.data_id);
        let sales = (0..random.below(5))
            .map(|_| {
                (license_id, block) = (license_id + 1, block + i64::try_from(random.below(3)).unwrap());
                let share = match random.below(5) {
                    0 => 0,
                    1 => u128::from(random.below(20)),
                    2 => share_max - u128::from(random.below(3)),
                    _ => u128::from(random.below(u64::MAX)) % share_max,
                };
                Sale { license_id, share, block }
            })
            .collect();
        made.push(Version { ip_id: 1 + number / 2, version: 1 + i64::try_from(number % 2).unwrap(), members, sales });
    }
    made
}

async fn run(db: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(db).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// The indexer's migrations of these numbers, each in a transaction.
async fn migrate(db: &mut PgConnection, of: impl Fn(u32) -> bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../indexer/migrations");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let number: u32 = file.file_name().unwrap().to_str().unwrap()[..4].parse().unwrap();
        if of(number) {
            let sql = fs::read_to_string(&file).unwrap();
            let run = sqlx::raw_sql(AssertSqlSafe(format!("BEGIN;{sql}\n;COMMIT;"))).execute(&mut *db).await;
            run.unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
    }
}

/// What chain and manifests say of a market, each member rewarded once, as rows of an indexer; its sales wait or are posted.
async fn fill(db: &mut PgConnection, market: &[Version], points_state: &str) {
    let hash = "sha256('x')";
    let address = "decode(repeat('ab', 20), 'hex')";
    let provider = format!("decode('{}', 'hex')", hex::encode(PROVIDER));
    let mut sql = format!(
        "INSERT INTO provider (address, name, attestor, points_treasury, token, block_number, block_time, tx_hash)
             VALUES ({provider}, 'numo', {address}, {address}, {address}, 1, 1, {hash});
         INSERT INTO batch (provider, number, root, event_count, points_total, wallet_total, debits, manifest_cid, attestor,
                 challenge_until, state, block_number, block_hash, block_time, log_index, tx_hash)
             VALUES ({provider}, 0, {hash}, 1, 1, 0, '[]', '', {address}, 0, 'valid', 2, {hash}, 20, 0, {hash});"
    );
    for version in market {
        let (ip_id, number) = (version.ip_id, version.version);
        let rows: Vec<_> = version.members.iter().map(|member| row(member.clone())).collect();
        let summary = summarise(&rows).unwrap();
        sql += &format!(
            "INSERT INTO dataset VALUES ({ip_id}, {provider}, 'set {ip_id}', {address}, 3, 30, {hash}) ON CONFLICT DO NOTHING;
             INSERT INTO offer (offer_id, ip_id, price, duration, purposes, seats, contributor_bps, transferable, ai_training,
                     resale_bps, legal_hash, legal_uri, block_number, block_time, tx_hash)
                 VALUES ({ip_id}, {ip_id}, 1, 1, 1, 1, 1, TRUE, TRUE, 0, {hash}, '', 3, 30, {hash}) ON CONFLICT DO NOTHING;
             INSERT INTO dataset_version (ip_id, version, root, member_count, total_weight, points_weight, purposes, manifest_cid,
                     attestor, state, block_number, block_time, tx_hash)
                 VALUES ({ip_id}, {number}, decode('{}', 'hex'), {}, {}, {}, 1, '', {address}, 'valid', 4, 40, {hash});",
            hex::encode(summary.tree.root()),
            version.members.len(),
            summary.total_weight,
            summary.points_weight,
        );
        for (position, member) in version.members.iter().enumerate() {
            sql += &format!(
                "INSERT INTO dataset_member (ip_id, version, position, data_id, contributor, consent_id, payee, weight, content_hash,
                         ciphertext_cid, key_cid, batch_number, event_index, purposes, leaf)
                     VALUES ({ip_id}, {number}, {position}, '{}', decode('{}', 'hex'), decode('{}', 'hex'), decode('{}', 'hex'), {},
                         {hash}, '', '', 0, 0, 1, decode('{}', 'hex'));",
                member.data_id,
                hex::encode(member.contributor),
                hex::encode(member.consent_id.0),
                hex::encode(member.payee),
                member.weight,
                hex::encode(member.leaf()),
            );
        }
        for Sale { license_id, share, block } in &version.sales {
            // as the ledger decides it, where members are known
            let state = if version.points_weight() == 0 && points_state == "posted" { "invalid" } else { points_state };
            sql += &format!(
                "INSERT INTO license (license_id, ip_id, version, offer_id, holder, starts_at, ends_at, block_number, block_time, tx_hash)
                     VALUES ({license_id}, {ip_id}, {number}, {ip_id}, {address}, 0, 1, {block}, {block}0, {hash});
                 INSERT INTO sale (license_id, ip_id, version, buyer, price, provider_share, points_share, wallet_share, points_state,
                         block_number, log_index, block_time, tx_hash)
                     VALUES ({license_id}, {ip_id}, {number}, {address}, {share}, 0, {share}, 0, '{state}', {block}, {license_id},
                         {block}0, sha256('sale {license_id}'));"
            );
        }
    }
    // every second member has a reward of 3 units, in the order of the list
    for (index, posting) in rewards(market).iter().enumerate() {
        sql += &format!(
            "INSERT INTO event (provider, number, index, data_id, sequence, kind, contributor, content_hash, consent_id, commitment,
                     previous, occurred_at, task_id, reward, payee, leaf)
                 VALUES ({provider}, 0, {index}, '{}', 1, 1, decode('{}', 'hex'), {hash}, {hash}, {hash}, {hash}, 0, 0, {},
                     decode(repeat('00', 20), 'hex'), {hash});",
            posting.data_id.unwrap(),
            hex::encode(posting.account),
            posting.amount,
        );
    }
    let mut transaction = db.begin().await.unwrap();
    run(&mut transaction, &sql).await;
    transaction.commit().await.unwrap();
}

fn row(member: Member) -> tidemark::dataset::MemberRow {
    let cid: cid::Cid = "bafkreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy".parse().unwrap();
    tidemark::dataset::MemberRow {
        member,
        content_hash: ContentHash::of(b"x"),
        ciphertext_cid: cid,
        key_cid: cid,
        batch_number: 0,
        event_index: 0,
        purposes: 1,
    }
}

fn rewards(market: &[Version]) -> Vec<Posting> {
    let members = market.iter().flat_map(|version| &version.members);
    let every_second = members.enumerate().filter(|(at, _)| at % 2 == 0).map(|(_, member)| member);
    every_second
        .enumerate()
        .map(|(index, member)| Posting {
            id: format!("reward/{PROVIDER:#x}/0/{index}"),
            account: member.contributor,
            amount: 3,
            data_id: Some(member.data_id),
        })
        .collect()
}

fn x_hash() -> Vec<u8> {
    tidemark::ids::sha256(&[b"x"]).to_vec()
}

/// What each account has earned in all.
fn earned(market: &[Version]) -> BTreeMap<B256, u128> {
    let mut earned = BTreeMap::new();
    let mut add = |account: B256, amount: u128| *earned.entry(account).or_insert(0u128) += amount;
    rewards(market).iter().for_each(|posting| add(posting.account, posting.amount));
    for version in market {
        for sale in &version.sales {
            version.parts(sale).iter().for_each(|(member, part)| add(member.contributor, *part));
        }
    }
    earned
}

/// Redemptions as the chain has them: (account, amount), each its own payout.
async fn redeemed(db: &mut PgConnection, redemptions: &[(B256, u128)]) {
    for (number, (account, amount)) in redemptions.iter().enumerate() {
        let block = 1_000 + i64::try_from(number).unwrap();
        run(
            db,
            &format!(
                "INSERT INTO points_redeemed (treasury, payout_id, provider, account, amount, recipient, state, block_number, log_index,
                     block_time, tx_hash)
                 SELECT points_treasury, sha256('payout {number}'), address, decode('{}', 'hex'), {amount}, address, 'waiting', {block}, 0,
                     {block}0, sha256('x') FROM provider",
                hex::encode(account)
            ),
        )
        .await;
    }
}

/// The ledger as it is kept now: rewards, sales, redemptions.
async fn post_all(db: &mut PgConnection, market: &[Version]) {
    let cause = Cause { block_number: 2, block_time: 20, tx_hash: x_hash() };
    ledger::post(db, PROVIDER, Kind::Reward, &cause, &rewards(market)).await.unwrap();
    manifest::settle_sales(db).await.unwrap();
    let accounts: Vec<AccountKey> =
        earned(market).into_keys().map(|key| AccountKey { provider: PROVIDER, key }).collect();
    ledger::settle_redemptions(db, &accounts).await.unwrap();
}

async fn database(postgres: &Postgres, name: &str) -> PgConnection {
    let url = postgres.create_database(name).await.unwrap();
    let mut db = PgConnection::connect(&url).await.unwrap();
    run(&mut db, &format!("ALTER DATABASE {name} SET search_path = public, mirror, types")).await;
    run(&mut db, "SET search_path = public, mirror, types").await;
    db
}

async fn findings(url: &str) -> Vec<Finding> {
    let pool = connect(url, 2).await.unwrap();
    let findings = verify(&pool, &mut |_, _, _| ()).await.unwrap().findings;
    pool.close().await;
    findings
}

async fn texts(db: &mut PgConnection, sql: &str) -> Vec<String> {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(db).await.unwrap()
}

#[tokio::test]
async fn every_part_of_every_sale_is_the_one_that_sorting_gives() {
    let folder = RunFolder::create().unwrap();
    let postgres = Postgres::start(&folder).await.unwrap();
    let mut random = Random::from_environment();
    for (name, versions, members_max, bits, share_max) in [
        ("few", 60, 30, &[1, 2, 3][..], 100),
        ("wide", 60, 60, &[1, 4, 30, 62][..], 50_000_000),
        // as large as numbers get
        ("large", 20, 20, &[2, 62][..], u128::MAX),
    ] {
        let market = market(&mut random, versions, members_max, bits, share_max);
        let mut db = database(&postgres, name).await;
        migrate(&mut db, |_| true).await;
        fill(&mut db, &market, "waiting").await;
        manifest::settle_sales(&mut db).await.unwrap();
        let (mut sales, mut parts) = (0, 0);
        for version in &market {
            for sale in &version.sales {
                let mut expected: Vec<String> = version
                    .parts(sale)
                    .iter()
                    .map(|(member, part)| {
                        format!("{:#x} {} {part} {} {}0", member.contributor, member.data_id, sale.block, sale.block)
                    })
                    .collect();
                expected.sort();
                let found = texts(
                    &mut db,
                    &format!(
                        "SELECT '0x' || encode(account, 'hex') || ' ' || data_id || ' ' || amount || ' ' || block_number || ' ' || block_time
                         FROM royalty_part WHERE license_id = {} ORDER BY 1",
                        sale.license_id
                    ),
                )
                .await;
                assert_eq!(found, expected, "{name}: licence {}", sale.license_id);
                let transfers = texts(
                    &mut db,
                    &format!("SELECT amount::text FROM ledger_transfer WHERE id = 'royalty/{}'", sale.license_id),
                )
                .await;
                let is_posted = sale.share > 0 && version.points_weight() > 0;
                assert_eq!(transfers, if is_posted { vec![sale.share.to_string()] } else { Vec::new() });
                (sales, parts) = (sales + usize::from(is_posted), parts + expected.len());
            }
        }
        println!("{name}: {sales} sales posted, {parts} parts");
        assert!(sales > 10 && parts > sales);
        let found = findings(&postgres.url(name)).await;
        // rewards of the market were not posted
        assert!(found.iter().all(|found| found.row.starts_with("reward/")), "{found:#?}");
    }
}

/// Whoever has used the ledger before finds it as if sales had always been one transfer.
#[tokio::test]
async fn a_ledger_with_a_transfer_a_member_becomes_what_one_made_anew_is() {
    let folder = RunFolder::create().unwrap();
    let postgres = Postgres::start(&folder).await.unwrap();
    let mut random = Random::from_environment();
    let market = market(&mut random, 12, 40, &[1, 2, 30], 1_000_000);
    // some take all that they have, some a part, in two steps
    let mut redemptions = Vec::new();
    for (number, (account, amount)) in earned(&market).into_iter().enumerate() {
        match number % 3 {
            0 => redemptions.push((account, amount)),
            1 if amount > 2 => redemptions.extend([(account, amount / 2), (account, 1)]),
            _ => {}
        }
    }
    let mut now = database(&postgres, "now").await;
    migrate(&mut now, |_| true).await;
    fill(&mut now, &market, "waiting").await;
    redeemed(&mut now, &redemptions).await;
    post_all(&mut now, &market).await;
    assert_eq!(findings(&postgres.url("now")).await, []);

    let mut before = database(&postgres, "before").await;
    migrate(&mut before, |number| number < SALES_POST_ONCE).await;
    fill(&mut before, &market, "posted").await;
    redeemed(&mut before, &redemptions).await;
    run(&mut before, "UPDATE points_redeemed SET state = 'posted'").await;
    post_all_as_before(&mut before, &market, &redemptions).await;
    let statement =
        "SELECT concat_ws(' ', id, cause, provider, account, amount, data_id, block_number, block_time, tx_hash)
                     FROM {} ORDER BY 1";
    let told_before = texts(&mut before, &statement.replace("{}", "ledger_transfer")).await;
    let balances_before = texts(
        &mut before,
        "SELECT concat_ws(' ', key, balance) FROM ledger_account WHERE kind = 'contributor' ORDER BY 1",
    )
    .await;
    migrate(&mut before, |number| number >= SALES_POST_ONCE).await;

    // what readers are told has not changed in a letter
    assert_eq!(texts(&mut before, &statement.replace("{}", "ledger_statement")).await, told_before);
    let balances = texts(
        &mut before,
        "SELECT concat_ws(' ', account, sum(CASE cause WHEN 'redeem' THEN -amount ELSE amount END)) FROM ledger_statement
         GROUP BY account ORDER BY 1",
    )
    .await;
    assert_eq!(balances, balances_before);
    // and every table is the one that a new indexer makes
    let (old, new) =
        (connect(&postgres.url("before"), 1).await.unwrap(), connect(&postgres.url("now"), 1).await.unwrap());
    assert_eq!(checksums(&old).await.unwrap(), checksums(&new).await.unwrap());
    assert_eq!(findings(&postgres.url("before")).await, []);
    let below: i64 =
        sqlx::query_scalar("SELECT count(*) FROM ledger_account WHERE kind = 'contributor' AND balance < 0")
            .fetch_one(&mut before)
            .await
            .unwrap();
    assert!(below > 0, "somebody has taken out of its royalties");
}

/// The transfers of a ledger before a sale was one, through the triggers that it had then.
async fn post_all_as_before(db: &mut PgConnection, market: &[Version], redemptions: &[(B256, u128)]) {
    let mut lanes: HashMap<String, (i64, B256)> = HashMap::new();
    let mut transfers = Vec::new();
    let mut post = |lane: String, cause: &'static str, posting: Posting, at: Cause| {
        let (position, before) = lanes.get(&lane).copied().unwrap_or((0, B256::ZERO));
        let (debit, credit) = if cause == "redeem" { ("contributor", "redeemed") } else { ("issuer", "contributor") };
        let key = |kind| if kind == "contributor" { posting.account } else { B256::ZERO };
        let (debit_key, credit_key) = (key(debit), key(credit));
        let amount = posting.amount.to_string();
        let link = Fields {
            lane: &lane,
            position: position + 1,
            id: &posting.id,
            cause,
            provider: PROVIDER.as_slice(),
            debit: (debit, debit_key.as_slice()),
            credit: (credit, credit_key.as_slice()),
            amount: &amount,
            account: posting.account.as_slice(),
            data_id: posting.data_id.as_ref().map_or(&[][..], |id| id.0.as_bytes().as_slice()),
            block_number: at.block_number,
            block_time: at.block_time,
            tx_hash: &at.tx_hash,
        }
        .link(before);
        lanes.insert(lane, (position + 1, link));
        let bytes = |bytes: &[u8]| format!("decode('{}', 'hex')", hex::encode(bytes));
        transfers.push(format!(
            "INSERT INTO ledger_transfer (id, cause, provider, debit_kind, debit_key, credit_kind, credit_key, amount, account, data_id,
                 block_number, block_time, tx_hash, position, link)
             VALUES ('{}', '{cause}', {}, '{debit}', {}, '{credit}', {}, {amount}, {}, {}, {}, {}, {}, {}, {})",
            posting.id,
            bytes(PROVIDER.as_slice()),
            bytes(debit_key.as_slice()),
            bytes(credit_key.as_slice()),
            bytes(posting.account.as_slice()),
            posting.data_id.map_or("NULL".into(), |id| format!("'{id}'")),
            at.block_number,
            at.block_time,
            bytes(&at.tx_hash),
            position + 1,
            bytes(link.as_slice()),
        ));
    };
    for posting in rewards(market) {
        let cause = Cause { block_number: 2, block_time: 20, tx_hash: x_hash() };
        post(format!("reward/{PROVIDER:#x}"), "reward", posting, cause);
    }
    for version in market {
        for sale in &version.sales {
            let tx_hash = tidemark::ids::sha256(&[format!("sale {}", sale.license_id).as_bytes()]).to_vec();
            let lane = format!("royalty/{}", sale.license_id);
            for (member, amount) in version.parts(sale) {
                let id = format!("{lane}/{}", member.data_id);
                let posting = Posting { id, account: member.contributor, amount, data_id: Some(member.data_id) };
                let cause = Cause { block_number: sale.block, block_time: sale.block * 10, tx_hash: tx_hash.clone() };
                post(lane.clone(), "royalty", posting, cause);
            }
        }
    }
    for (number, (account, amount)) in redemptions.iter().enumerate() {
        let payout = tidemark::ids::sha256(&[format!("payout {number}").as_bytes()]);
        let id = format!("redeem/{PROVIDER:#x}/{payout:#x}");
        let block = 1_000 + i64::try_from(number).unwrap();
        let cause = Cause { block_number: block, block_time: block * 10, tx_hash: x_hash() };
        let posting = Posting { id, account: *account, amount: *amount, data_id: None };
        post(format!("redeem/{PROVIDER:#x}/{account:#x}"), "redeem", posting, cause);
    }
    for transfer in transfers {
        run(db, &transfer).await;
    }
}

#[tokio::test]
async fn a_ledger_that_says_something_else_than_its_sales_is_not_converted() {
    let folder = RunFolder::create().unwrap();
    let postgres = Postgres::start(&folder).await.unwrap();
    let market = market(&mut Random::from_environment(), 6, 20, &[4], 1_000_000);
    let mut db = database(&postgres, "forged").await;
    migrate(&mut db, |number| number < SALES_POST_ONCE).await;
    fill(&mut db, &market, "posted").await;
    post_all_as_before(&mut db, &market, &[]).await;
    run(
        &mut db,
        "ALTER TABLE ledger_transfer DISABLE TRIGGER USER;
         UPDATE ledger_transfer SET amount = amount + 1 WHERE id = (SELECT min(id) FROM ledger_transfer WHERE cause = 'royalty')",
    )
    .await;
    let sql = fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../indexer/migrations/0013_sales_post_once.sql"),
    )
    .unwrap();
    let error = sqlx::raw_sql(AssertSqlSafe(format!("BEGIN;{sql};COMMIT;"))).execute(&mut db).await.unwrap_err();
    let error = error.to_string();
    assert!(error.contains("royalty/") && error.contains("is not what its sale"), "{error}");
}

/// Pages, periods and balances of every account, by the arithmetic of the test.
#[tokio::test]
async fn statements_and_balances_are_those_of_a_ledger_with_every_part_in_it() {
    let folder = RunFolder::create().unwrap();
    let postgres = Postgres::start(&folder).await.unwrap();
    let mut random = Random::from_environment();
    let market = market(&mut random, 10, 12, &[2, 8], 100_000);
    let mut db = database(&postgres, "statements").await;
    migrate(&mut db, |_| true).await;
    fill(&mut db, &market, "waiting").await;
    let earned = earned(&market);
    let redemptions: Vec<(B256, u128)> =
        earned.iter().filter(|(_, amount)| **amount > 1).map(|(account, amount)| (*account, amount - 1)).collect();
    redeemed(&mut db, &redemptions).await;
    post_all(&mut db, &market).await;
    let waiting = texts(&mut db, "SELECT account::text FROM points_redeemed WHERE state = 'waiting'").await;
    assert_eq!(waiting, [""; 0], "what sales brought is there to be redeemed");

    // (block, id, signed amount), newest first
    let mut told: BTreeMap<B256, Vec<(i64, String, i128)>> = BTreeMap::new();
    let mut tell = |account: B256, block: i64, id: String, amount: i128| {
        told.entry(account).or_default().push((block, id, amount));
    };
    rewards(&market).into_iter().for_each(|posting| tell(posting.account, 2, posting.id, 3));
    for version in &market {
        for sale in &version.sales {
            for (member, part) in version.parts(sale) {
                let id = format!("royalty/{}/{}", sale.license_id, member.data_id);
                tell(member.contributor, sale.block, id, i128::try_from(part).unwrap());
            }
        }
    }
    for (number, (account, amount)) in redemptions.iter().enumerate() {
        let payout = tidemark::ids::sha256(&[format!("payout {number}").as_bytes()]);
        let block = 1_000 + i64::try_from(number).unwrap();
        tell(*account, block, format!("redeem/{PROVIDER:#x}/{payout:#x}"), -i128::try_from(*amount).unwrap());
    }
    let keys: Vec<B256> = told.keys().copied().collect();
    let balances = read::balances(&mut db, Some(PROVIDER), &keys).await.unwrap();
    let locked = lock_balances(&mut db, PROVIDER, &keys).await.unwrap();
    for ((key, balance), locked) in keys.iter().zip(&balances).zip(locked) {
        let rows = told.get_mut(key).unwrap();
        rows.sort_by(|a, b| b.cmp(a));
        let sum = |sign: i128| rows.iter().map(|row| row.2).filter(|amount| amount * sign > 0).sum::<i128>() * sign;
        let shown = (balance.balance.as_str(), balance.credited.as_str(), balance.debited.as_str());
        let expected = ((sum(1) - sum(-1)).to_string(), sum(1).to_string(), sum(-1).to_string());
        assert_eq!(shown, (expected.0.as_str(), expected.1.as_str(), expected.2.as_str()), "{key}");
        assert_eq!(locked.to_string(), expected.0);
        assert_eq!(balance.provider.as_ref().map(|provider| provider.name.as_str()), Some("numo"));
        for (limit, period) in [(2, Period::default()), (100, Period { from: Some(10), until: Some(20) })] {
            let inside = |block: i64| {
                period.from.is_none_or(|from| block >= from) && period.until.is_none_or(|until| block <= until)
            };
            let wanted: Vec<_> = rows.iter().filter(|row| inside(row.0)).collect();
            let until: i128 =
                rows.iter().filter(|row| period.until.is_none_or(|until| row.0 <= until)).map(|row| row.2).sum();
            let (mut page, mut at, mut closing) = (Page { limit, after: None }, 0, until);
            loop {
                let view = read::account(&mut db, Some(PROVIDER), *key, period, &page).await.unwrap().unwrap();
                assert_eq!(view.closing, closing.to_string());
                for transfer in &view.transfers {
                    let (block, id, amount) = wanted[at];
                    let sign = if transfer.side == "credit" { "" } else { "-" };
                    let shown = (transfer.block_number, transfer.id.as_str(), format!("{sign}{}", transfer.amount));
                    assert_eq!(shown, (u64::try_from(*block).unwrap(), id.as_str(), amount.to_string()));
                    (at, closing) = (at + 1, closing - amount);
                }
                assert_eq!(view.opening, closing.to_string());
                let Some(next) = view.next_cursor else { break };
                page.after = read::page::Place::decode(&next);
            }
            assert_eq!(at, wanted.len(), "{key}");
        }
    }
    let unknown = read::balances(&mut db, None, &[B256::repeat_byte(9), B256::ZERO]).await.unwrap();
    assert!(unknown.iter().all(|balance| balance.provider.is_none() && balance.balance == "0"), "{unknown:?}");
    let proof: bool = sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT issued = {} AND outstanding = {} AND redeemed = issued - outstanding AND difference = 0 FROM ledger_proof",
        earned.values().sum::<u128>(),
        earned.values().sum::<u128>() - redemptions.iter().map(|(_, amount)| amount).sum::<u128>()
    )))
    .fetch_one(&mut db)
    .await
    .unwrap();
    assert!(proof);
}

/// One member of weight 1 and one of weight 2, a sale of 100 units; the first has a reward of 3.
async fn small(postgres: &Postgres, name: &str, points_state: &str) -> (PgConnection, Vec<Version>) {
    let member = |id: u8, weight: u128| Member {
        data_id: DataId::from_bytes([id; 16]),
        contributor: account(u64::from(id)),
        consent_id: ConsentId(B256::repeat_byte(8)),
        payee: Address::ZERO,
        weight,
    };
    let sales = vec![Sale { license_id: 1, share: 100, block: 10 }];
    let market = vec![Version { ip_id: 1, version: 1, members: vec![member(1, 1), member(2, 2)], sales }];
    let mut db = database(postgres, name).await;
    migrate(&mut db, |_| true).await;
    fill(&mut db, &market, points_state).await;
    (db, market)
}

#[tokio::test]
async fn a_redemption_waits_for_its_sale_and_takes_no_more_than_the_part() {
    let folder = RunFolder::create().unwrap();
    let postgres = Postgres::start(&folder).await.unwrap();
    let (mut db, market) = small(&postgres, "waits", "waiting").await;
    // 67 of the sale's 100 are the second member's, 33 the first's
    redeemed(&mut db, &[(account(2), 60), (account(2), 8), (account(1), 36), (account(7), 1)]).await;
    let accounts: Vec<AccountKey> = [1, 2, 7].map(|id| AccountKey { provider: PROVIDER, key: account(id) }).to_vec();
    ledger::settle_redemptions(&mut db, &accounts).await.unwrap();
    let states = "SELECT amount || ' ' || state FROM points_redeemed ORDER BY block_number";
    let all_wait = ["60 waiting", "8 waiting", "36 waiting", "1 waiting"];
    assert_eq!(texts(&mut db, states).await, all_wait);
    manifest::settle_sales(&mut db).await.unwrap();
    assert_eq!(texts(&mut db, states).await, ["60 posted", "8 waiting", "36 waiting", "1 waiting"]);
    let cause = Cause { block_number: 2, block_time: 20, tx_hash: x_hash() };
    ledger::post(&mut db, PROVIDER, Kind::Reward, &cause, &rewards(&market)).await.unwrap();
    ledger::settle_redemptions(&mut db, &accounts).await.unwrap();
    assert_eq!(texts(&mut db, states).await, ["60 posted", "8 waiting", "36 posted", "1 waiting"]);
    assert_eq!(lock_balances(&mut db, PROVIDER, &[1, 2, 7].map(account)).await.unwrap(), [0, 7, 0]);
    assert_eq!(findings(&postgres.url("waits")).await, []);
}

/// Whoever holds the database's password can't make a part larger, nor take one twice.
#[tokio::test]
async fn the_schema_splits_sales_itself_and_refuses_whatever_would_change_a_part() {
    let folder = RunFolder::create().unwrap();
    let postgres = Postgres::start(&folder).await.unwrap();
    let (mut db, _) = small(&postgres, "refused", "waiting").await;
    let transfer = |id: &str, amount: &str, block: &str| {
        format!(
            "INSERT INTO ledger_transfer (id, cause, provider, debit_kind, debit_key, credit_kind, credit_key, amount, account, data_id,
                 block_number, block_time, tx_hash, position, link)
             SELECT '{id}', 'royalty', d.provider, 'issuer', z, 'royalties', z, {amount}, z, NULL, {block}, s.block_time, s.tx_hash, 1,
                 sha256('') FROM sale AS s JOIN dataset AS d USING (ip_id), decode(repeat('00', 32), 'hex') AS z"
        )
    };
    let redeem = |of: u64, amount: u128| {
        format!(
            "INSERT INTO ledger_transfer (id, cause, provider, debit_kind, debit_key, credit_kind, credit_key, amount, account, data_id,
                 block_number, block_time, tx_hash, position, link)
             SELECT 'redeem/0x' || encode(address, 'hex') || '/{amount}', 'redeem', address, 'contributor', k, 'redeemed', z, {amount}, k,
                 NULL, 50, 500, sha256(''), 1, sha256('')
             FROM provider, decode(repeat('00', 32), 'hex') AS z, decode('{}', 'hex') AS k",
            hex::encode(account(of))
        )
    };
    let refuse = async |db: &mut PgConnection, sql: &str, why: &str| {
        let error = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(db).await.expect_err(sql).to_string();
        assert!(error.contains(why), "{sql}: {error}");
    };
    // before the sale is posted
    let not = "is the points share of a posted sale";
    refuse(&mut db, &transfer("royalty/1", "s.points_share", "s.block_number"), not).await;
    refuse(&mut db, &redeem(2, 1), "balance_is_not_negative").await;
    run(&mut db, "UPDATE sale SET points_state = 'posted'").await;
    for (id, amount, block) in [
        ("royalty/1", "s.points_share + 1", "s.block_number"),
        ("royalty/1", "s.points_share", "s.block_number + 1"),
        ("royalty/01", "s.points_share", "s.block_number"),
        ("royalty/1/2", "s.points_share", "s.block_number"),
        ("royalty/2", "s.points_share", "s.block_number"),
        ("royalty/x", "s.points_share", "s.block_number"),
    ] {
        refuse(&mut db, &transfer(id, amount, block), not).await;
    }
    let split = "INSERT INTO royalty_split SELECT 1, address, 1, 1, 100, 3, 1, 0 FROM provider";
    refuse(&mut db, split, "comes only with a ledger transfer").await;
    run(&mut db, &transfer("royalty/1", "s.points_share", "s.block_number")).await;
    let parts = "SELECT amount::text FROM royalty_part ORDER BY position";
    assert_eq!(texts(&mut db, parts).await, ["33", "67"]);
    let before = checksums(&connect(&postgres.url("refused"), 1).await.unwrap()).await.unwrap();

    let member = "INSERT INTO dataset_member SELECT ip_id, version, 2, gen_random_uuid(), contributor, consent_id, payee, weight, content_hash,
                      ciphertext_cid, key_cid, batch_number, event_index, purposes, leaf FROM dataset_member WHERE position = 0";
    for (sql, why) in [
        (split.to_owned(), "comes only with a ledger transfer"),
        ("UPDATE royalty_split SET cutoff_position = 1".into(), "never changed"),
        ("DELETE FROM royalty_split".into(), "never changed"),
        ("TRUNCATE royalty_split".into(), "never changed"),
        ("UPDATE dataset_member SET weight = weight + 1".into(), "they stay"),
        ("UPDATE dataset_member SET contributor = sha256('me')".into(), "they stay"),
        ("DELETE FROM dataset_member WHERE position = 1".into(), "they stay"),
        ("TRUNCATE dataset_member".into(), "they stay"),
        (member.into(), "no member comes to a version"),
        ("DELETE FROM sale".into(), "royalty_split"),
        (transfer("royalty/1", "s.points_share", "s.block_number"), "ledger_transfer_pkey"),
        (redeem(2, 68), "balance_is_not_negative"),
        (redeem(9, 1), "balance_is_not_negative"),
        ("UPDATE ledger_account SET balance = balance - 1 WHERE kind = 'royalties'".into(), "only through"),
        (
            "INSERT INTO ledger_transfer SELECT 'redeem/1/1', 'redeem', provider, 'royalties', debit_key, 'redeemed', debit_key, 1, debit_key,
                 NULL, 1, 1, tx_hash, 1, link FROM ledger_transfer"
                .into(),
            "each_cause_has_its_two_accounts",
        ),
    ] {
        refuse(&mut db, &sql, why).await;
    }
    assert_eq!(checksums(&connect(&postgres.url("refused"), 1).await.unwrap()).await.unwrap(), before);

    // a payout holds what the part covers, and not a unit more
    let payout = |id: u8, amount: u128| {
        format!(
            "BEGIN; INSERT INTO local.payout (payout_id, provider, treasury, destination, amount, points)
                 SELECT '00000000-0000-4000-8000-0000000000{id:02}', address, points_treasury, 'x', {amount}, 1 FROM provider;
             INSERT INTO local.payout_entry (payout_id, position, account, amount, debit_id)
                 VALUES ('00000000-0000-4000-8000-0000000000{id:02}', 0, decode('{}', 'hex'), {amount}, sha256('{id}')); COMMIT",
            hex::encode(account(2))
        )
    };
    refuse(&mut db, &payout(1, 68), "has 67, and payouts hold 68").await;
    run(&mut db, "ROLLBACK").await;
    run(&mut db, &payout(2, 60)).await;
    refuse(&mut db, &payout(3, 8), "has 67, and payouts hold 68").await;
    run(&mut db, "ROLLBACK").await;
    run(&mut db, &redeem(2, 67)).await;
    let row = sqlx::query("SELECT balance::text, held::text FROM local.payout_room($1, ARRAY[$2])")
        .bind(PROVIDER.as_slice())
        .bind(account(2).as_slice())
        .fetch_one(&mut db)
        .await
        .unwrap();
    assert_eq!((row.get::<String, _>(0), row.get::<String, _>(1)), ("0".into(), "60".into()));
}

/// A database from before totals and trees of versions: what is in it is counted, its trees are made, and what is shown stays shown.
#[tokio::test]
async fn totals_trees_and_what_is_shown_of_mined_batches_are_carried_over() {
    let folder = RunFolder::create().unwrap();
    let postgres = Postgres::start(&folder).await.unwrap();
    let market = market(&mut Random::from_environment(), 6, 8, &[2], 100_000);
    let mut db = database(&postgres, "carried").await;
    migrate(&mut db, |number| number < LONG_HISTORIES).await;
    fill(&mut db, &market, "waiting").await;
    post_all(&mut db, &market).await;
    // every other record that is there says something else than its members' rows; one batch is mined, and its log is another one's block
    let rows = [
        "INSERT INTO record (provider, data_id, purposes, proven, content_hash, contributor, consent_id, payee, task_id, reward,
             status, verdict, registered_at, sequence, number)
         SELECT provider, data_id, 1 + index % 2, FALSE, content_hash, contributor, consent_id, payee, task_id, reward, 'accepted',
             'accepted', 0, sequence, number FROM event",
        "INSERT INTO reward_claim SELECT address, 0, 0, address, gen_random_uuid(), 7, 3, 30, sha256('x') FROM provider",
        "INSERT INTO batch_tree SELECT provider, number, sha256('x'), '\\x00000000' FROM batch",
        "INSERT INTO tree_wanted SELECT address, 9 FROM provider",
        "INSERT INTO chain_log (block_hash, log_index, block_number, block_time, tx_hash, address, topics, data)
         SELECT sha256(n::text::bytea), n, 70 - n, 0, sha256('x'), address, '{}', '' FROM provider, generate_series(1, 3) AS n",
        "INSERT INTO mined_event (block_hash, log_index, provider, number, index, data_id, sequence, event)
         SELECT sha256('2'), 2, address, 10, n, gen_random_uuid(), 0, '{}' FROM provider, generate_series(0, 4) AS n",
    ];
    for sql in rows {
        run(&mut db, sql).await;
    }
    migrate(&mut db, |number| number >= LONG_HISTORIES).await;

    assert_eq!(texts(&mut db, "SELECT DISTINCT block_number || '/' || log_index FROM mined_event").await, ["68/2"]);
    run(&mut db, "DELETE FROM chain_log WHERE block_number = 68").await;
    assert_eq!(texts(&mut db, "SELECT count(*)::text FROM mined_event").await, ["0"], "it goes with its log");
    assert_eq!(texts(&mut db, "SELECT what FROM tree").await, [format!("batch/{PROVIDER:#x}/0")]);
    let mut wanted = texts(&mut db, "SELECT what FROM tree_wanted").await;
    let mut expected: Vec<String> =
        market.iter().map(|version| format!("members/{}/{}", version.ip_id, version.version)).collect();
    expected.push(format!("batch/{PROVIDER:#x}/9"));
    wanted.sort_unstable();
    expected.sort_unstable();
    assert_eq!(wanted, expected);
    let differ = "SELECT (sum(v.purposes_differ) > 0 AND sum(v.purposes_differ) = (SELECT count(*) FROM record AS r
        JOIN dataset_member AS m USING (data_id) WHERE r.purposes <> m.purposes))::text FROM dataset_version AS v";
    assert_eq!(texts(&mut db, differ).await, ["true"]);
    let totals = "SELECT (records > 0 AND records = accepted AND batches = 1 AND claimed = 7 AND contributors > 0)::text FROM provider_total";
    assert_eq!(texts(&mut db, totals).await, ["true"]);
    let of_totals: Vec<Finding> =
        findings(&postgres.url("carried")).await.into_iter().filter(|found| found.check == "total").collect();
    assert_eq!(of_totals, []);
}
