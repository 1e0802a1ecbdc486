//! `/receipt`: what a person's records earned, in sum. Only the person knows which records are theirs.

use std::collections::BTreeSet;

use axum::{
    Form,
    extract::{State, rejection::FormRejection},
    response::{IntoResponse, Response},
};
use maud::{Markup, html};
use serde::Deserialize;
use sqlx::{PgConnection, Row};
use tidemark::ids::DataId;

use super::{
    Failure, Query,
    format::{Unit, amount, count},
    layout::{Page, badge, record_link, table},
    open,
};
use crate::{api::App, problem::Problem, read::address_text};

/// Records of one receipt.
const RECORDS_MAX: usize = 200;

#[derive(Deserialize)]
pub(super) struct Params {
    #[serde(default)]
    records: String,
}

/// What one record earned.
struct Line {
    data_id: DataId,
    /// Empty where the record is not known.
    status: String,
    in_points: bool,
    /// Provider and pseudonym: two records could share an account.
    account: String,
    reward: u128,
    royalties: u128,
    paid_out: u128,
    /// Of points what the account holds, of tokens what can be claimed now.
    balance: u128,
    /// Tokens that can't be claimed yet: the challenge window is open, or a dispute.
    waiting: u128,
    /// The sponsor got the reward back.
    refunded: bool,
}

/// Sums over lines, in points or in tokens.
#[derive(Default, Debug, PartialEq, Eq)]
struct Sum {
    records: u64,
    reward: u128,
    royalties: u128,
    paid_out: u128,
    balance: u128,
    waiting: u128,
}

/// A wallet reward by where it is.
#[derive(Default, Debug, PartialEq, Eq)]
struct Reward {
    earned: u128,
    taken: u128,
    left: u128,
    waiting: u128,
}

pub(super) async fn page(State(app): State<App>, Query(params): Query<Params>) -> Result<Page, Failure> {
    receipt(&app, &params.records).await
}

pub(super) async fn form(
    State(app): State<App>,
    params: Result<Form<Params>, FormRejection>,
) -> Result<Response, Failure> {
    let Form(params) = params.map_err(|rejection| {
        Problem::new(
            rejection.status(),
            "form",
            "The form can't be read",
            format!("Send at most {RECORDS_MAX} data ids."),
        )
    })?;
    Ok(receipt(&app, &params.records).await?.into_response())
}

async fn receipt(app: &App, text: &str) -> Result<Page, Failure> {
    let ids = read_ids(text)?;
    let (mut snapshot, at) = open(app).await?;
    let lines = lines(&mut snapshot, &ids).await?;
    let body = html! {
        p class="lead" { "What your records earned, one by one and together." }
        p {
            "Each record has a pseudonym of its own, and nothing here keeps which of them belong together: they are linked "
            "only because you list them, only while this page is made. Sent by the form, the list is not in the page’s address "
            "either. Two things are public by nature: records paid to the same wallet, and records whose points one payout "
            "took, as it settles them in one transaction."
        }
        (ask(text))
        @if !lines.is_empty() { (answer(&lines)) }
    };
    Ok(Page::new("Receipt", at, body))
}

fn ask(text: &str) -> Markup {
    html! {
        form action="/receipt" method="post" {
            label for="records" { "Data ids" }
            p class="hint" id="records-hint" { "Up to " (RECORDS_MAX) ", separated by commas, spaces or lines; your app lists yours." }
            textarea id="records" name="records" rows="5" aria-describedby="records-hint" spellcheck="false" autocomplete="off"
                required { (text.trim()) }
            button type="submit" { "Show the receipt" }
        }
    }
}

/// Data ids in a text, each once.
pub fn read_ids(text: &str) -> Result<Vec<DataId>, Problem> {
    let mut ids = Vec::new();
    let mut seen = BTreeSet::new();
    for word in text.split(|c: char| c == ',' || c == ';' || c.is_whitespace()).filter(|word| !word.is_empty()) {
        let id: DataId = word.parse().map_err(|_| Problem::invalid("records", "data ids, which are UUIDs", word))?;
        if seen.insert(id) {
            ids.push(id);
        }
        if ids.len() > RECORDS_MAX {
            return Err(Problem::invalid("records", format!("at most {RECORDS_MAX} data ids"), "more"));
        }
    }
    Ok(ids)
}

/// One line per id, in the order asked. Whose a record is: whoever proved it, else whoever came first.
async fn lines(connection: &mut PgConnection, ids: &[DataId]) -> Result<Vec<Line>, Failure> {
    let rows = sqlx::query(
        "SELECT wanted.data_id, own.status, own.payee = decode(repeat('00', 20), 'hex'), own.provider, own.contributor,
             own.reward::text,
             coalesce((SELECT sum(r.amount) FROM royalty_part AS r WHERE r.provider = own.provider
                 AND r.data_id = own.data_id), 0)::text,
             coalesce((SELECT sum(c.amount) FROM royalty_claim AS c JOIN dataset AS d USING (ip_id)
                 WHERE d.provider = own.provider AND c.data_id = own.data_id), 0)::text,
             -- as RoyaltyPool has it: floors of each sale's share per unit of weight, times 2^128
             coalesce((SELECT sum(div(m.weight * (
                     SELECT sum(div(s.wallet_share * 340282366920938463463374607431768211456,
                         v.total_weight - v.points_weight))
                     FROM sale AS s WHERE (s.ip_id, s.version) = (v.ip_id, v.version)),
                     340282366920938463463374607431768211456))
                 FROM dataset_member AS m JOIN dataset_version AS v USING (ip_id, version) JOIN dataset AS d USING (ip_id)
                 WHERE d.provider = own.provider AND m.data_id = own.data_id AND m.payee = own.payee
                     AND v.total_weight > v.points_weight), 0)::text,
             coalesce((SELECT sum(t.amount) FROM ledger_transfer AS t WHERE t.provider = own.provider
                 AND t.account = own.contributor AND t.cause = 'redeem'), 0)::text,
             (SELECT w.state FROM wallet_reward AS w WHERE (w.provider, w.data_id) = (own.provider, own.data_id)),
             (coalesce((SELECT a.balance FROM ledger_account AS a WHERE a.provider = own.provider
                 AND a.kind = 'contributor' AND a.key = own.contributor), 0)
                 + coalesce((SELECT sum(r.amount) FROM royalty_part AS r WHERE r.provider = own.provider
                     AND r.account = own.contributor), 0))::text
         FROM unnest($1::uuid[]) WITH ORDINALITY AS wanted (data_id, position)
         LEFT JOIN LATERAL (
             SELECT r.* FROM record AS r JOIN event AS e ON (e.provider, e.data_id, e.sequence) = (r.provider, r.data_id, 0)
             JOIN batch AS b ON (b.provider, b.number) = (e.provider, e.number)
             WHERE r.data_id = wanted.data_id ORDER BY r.proven DESC, b.block_number, b.log_index LIMIT 1
         ) AS own ON TRUE
         ORDER BY wanted.position",
    )
    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let mut lines = Vec::with_capacity(rows.len());
    for row in &rows {
        let data_id = DataId(row.try_get(0)?);
        let Some(status) = row.try_get::<Option<String>, _>(1)? else {
            lines.push(Line::unknown(data_id));
            continue;
        };
        let units = |column: usize| -> Result<u128, sqlx::Error> {
            row.try_get::<String, _>(column)?.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))
        };
        let in_points: bool = row.try_get(2)?;
        let state: Option<String> = row.try_get(10)?;
        let reward = wallet_reward(units(5)?, state.as_deref());
        lines.push(Line {
            data_id,
            status,
            in_points,
            account: format!("{}/{}", address_text(row, 3)?, hex::encode(row.try_get::<&[u8], _>(4)?)),
            reward: if in_points { units(5)? } else { reward.earned },
            royalties: if in_points { units(6)? } else { units(8)? },
            paid_out: if in_points { units(9)? } else { reward.taken.saturating_add(units(7)?) },
            balance: match in_points {
                true => units(11)?,
                false => reward.left.saturating_add(units(8)?.saturating_sub(units(7)?)),
            },
            waiting: if in_points { 0 } else { reward.waiting },
            refunded: state.as_deref() == Some("refunded"),
        });
    }
    Ok(lines)
}

/// By its state in `wallet_reward`; none is no wallet reward.
fn wallet_reward(amount: u128, state: Option<&str>) -> Reward {
    let earned = Reward { earned: amount, ..Reward::default() };
    match state {
        Some("claimed" | "paid_as_credit") => Reward { taken: amount, ..earned },
        Some("claimable" | "credited") => Reward { left: amount, ..earned },
        Some("waiting" | "held") => Reward { waiting: amount, ..earned },
        // refunded: it is the sponsor's again
        _ => Reward::default(),
    }
}

impl Line {
    fn unknown(data_id: DataId) -> Self {
        Self {
            data_id,
            status: String::new(),
            in_points: true,
            account: String::new(),
            reward: 0,
            royalties: 0,
            paid_out: 0,
            balance: 0,
            waiting: 0,
            refunded: false,
        }
    }
}

/// Sums of the known lines of one kind; an account that two records share counts once. None where a sum is too large.
fn sum(lines: &[Line], in_points: bool) -> Option<Sum> {
    let mut accounts = BTreeSet::new();
    let mut sum = Sum::default();
    for line in lines.iter().filter(|line| !line.status.is_empty() && line.in_points == in_points) {
        sum.records += 1;
        sum.reward = sum.reward.checked_add(line.reward)?;
        sum.royalties = sum.royalties.checked_add(line.royalties)?;
        if !in_points || accounts.insert(line.account.as_str()) {
            sum.paid_out = sum.paid_out.checked_add(line.paid_out)?;
            sum.balance = sum.balance.checked_add(line.balance)?;
            sum.waiting = sum.waiting.checked_add(line.waiting)?;
        }
    }
    Some(sum)
}

fn answer(lines: &[Line]) -> Markup {
    let unknown = lines.iter().filter(|line| line.status.is_empty()).count();
    html! {
        section {
            h2 { "Together" }
            @for (in_points, unit, heading) in [(true, Unit::Points, "In points"), (false, Unit::Tokens, "On chain, to wallets")] {
                @match sum(lines, in_points) {
                    Some(sum) if sum.records > 0 => (sum_markup(heading, &sum, unit)),
                    Some(_) => {},
                    None => p class="notice bad" { (heading) ": the sum is too large to be shown." },
                }
            }
            @if unknown > 0 {
                p class="notice" {
                    (count(unknown as u64, "record is", "records are")) " not final here yet; what it earned appears once its block is."
                }
            }
        }
        section { h2 { "One by one" } (line_table(lines)) }
    }
}

fn sum_markup(heading: &str, sum: &Sum, unit: Unit) -> Markup {
    let show = |units: u128| amount(&units.to_string(), unit);
    let left = if unit == Unit::Points { "Balance now" } else { "Left to claim" };
    html! {
        h3 { (heading) }
        dl class="totals" {
            div { dt { "Records" } dd { (sum.records) } }
            div { dt { "Rewards" } dd { (show(sum.reward)) } }
            div { dt { "Royalties" } dd { (show(sum.royalties)) } }
            div { dt { (if unit == Unit::Points { "Paid out" } else { "Claimed" }) } dd { (show(sum.paid_out)) } }
            div { dt { (left) } dd { (show(sum.balance)) } }
            @if unit == Unit::Tokens { div { dt { "Not to be claimed yet" } dd { (show(sum.waiting)) } } }
        }
    }
}

fn line_table(lines: &[Line]) -> Markup {
    let rows = lines.iter().map(|line| {
        if line.status.is_empty() {
            let dash = || html! { "–" };
            let link = record_link(&line.data_id.to_string());
            return vec![link, badge("not known"), dash(), dash(), dash(), dash(), dash()];
        }
        let unit = if line.in_points { Unit::Points } else { Unit::Tokens };
        let show = |units: u128| amount(&units.to_string(), unit);
        vec![
            record_link(&line.data_id.to_string()),
            html! {
                (badge(&line.status))
                @if line.refunded { " " span class="soft" { "its reward went back to the sponsor" } }
            },
            show(line.reward),
            show(line.royalties),
            show(line.paid_out),
            show(line.balance),
            if line.in_points {
                html! { "–" }
            } else {
                show(line.waiting)
            },
        ]
    });
    let columns = ["Record", "State", "Reward", "Royalties", "Paid out", "Left", "Not yet"];
    table("Your records in the order given", &columns, &[2, 3, 4, 5, 6], rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(account: &str, in_points: bool, reward: u128, balance: u128) -> Line {
        let data_id = DataId::from_bytes([1; 16]);
        Line {
            status: "accepted".into(),
            account: account.into(),
            in_points,
            reward,
            balance,
            ..Line::unknown(data_id)
        }
    }

    #[test]
    fn ids_come_in_any_order_of_commas_and_lines_each_once() {
        let (a, b) = ("2f1d6a0e-0000-5000-8000-000000000001", "2f1d6a0e-0000-5000-8000-000000000002");
        let ids = read_ids(&format!(" {a},{b}\r\n{a} ; ")).unwrap();
        assert_eq!(ids, [a.parse().unwrap(), b.parse().unwrap()]);
        assert!(read_ids("").unwrap().is_empty());
        assert_eq!(read_ids("nonsense").unwrap_err().field.as_deref(), Some("records"));
        let many = |count: u128| (0..count).map(|n| uuid::Uuid::from_u128(n).to_string()).collect::<Vec<_>>().join(",");
        assert_eq!(read_ids(&many(200)).unwrap().len(), 200);
        assert!(read_ids(&many(201)).is_err());
    }

    #[test]
    fn a_wallet_reward_is_left_to_claim_only_where_it_can_be_claimed() {
        for (state, taken, left, waiting) in [
            ("waiting", 0, 0, 5),
            ("held", 0, 0, 5),
            ("claimable", 0, 5, 0),
            ("credited", 0, 5, 0),
            ("claimed", 5, 0, 0),
            ("paid_as_credit", 5, 0, 0),
        ] {
            assert_eq!(wallet_reward(5, Some(state)), Reward { earned: 5, taken, left, waiting }, "{state}");
        }
        assert_eq!((wallet_reward(5, Some("refunded")), wallet_reward(5, None)), Default::default());
    }

    #[test]
    fn points_and_tokens_are_summed_apart_and_a_shared_account_once() {
        let lines = [
            line("a", true, 3, 5),
            line("a", true, 2, 5),
            line("b", false, 7, 7),
            Line::unknown(DataId::from_bytes([2; 16])),
        ];
        assert_eq!(sum(&lines, true), Some(Sum { records: 2, reward: 5, balance: 5, ..Sum::default() }));
        assert_eq!(sum(&lines, false), Some(Sum { records: 1, reward: 7, balance: 7, ..Sum::default() }));
        assert_eq!(sum(&[line("a", true, u128::MAX, 0), line("b", true, 1, 0)], true), None);
    }
}
