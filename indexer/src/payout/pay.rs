//! The rail's step: write down that it is asked, ask, write down what it said.

use sqlx::Row;

use super::{
    Payouts,
    rail::{Answer, Money, Order, PayoutRail},
    worker::{Due, Step, advance},
};

/// Asks the rail once and moves the payout by its answer.
pub(super) async fn pay<R: PayoutRail>(payouts: &Payouts, rail: &R, due: &Due) -> anyhow::Result<Option<Step>> {
    let asking = begin(payouts, due).await?;
    let answer = rail.pay(&asking.order).await.without(&asking.order.destination);
    let (outcome, detail) = match &answer {
        Answer::Paid(detail) => ("paid", detail.clone()),
        Answer::Later(detail) => ("later", detail.clone()),
        Answer::Refused(detail) => ("refused", detail.clone()),
        Answer::Unknown(detail) => ("unknown", detail.clone()),
        Answer::Accepted(detail, _) => ("accepted", detail.clone()),
        Answer::Never(detail) => ("never", detail.clone()),
        Answer::Doubt(detail) => ("doubt", detail.clone()),
    };
    let mut transaction = payouts.inner.pool.begin().await?;
    sqlx::query(
        "UPDATE local.payout_attempt SET outcome = $3, detail = $4, ended_at = now() WHERE payout_id = $1 AND attempt = $2",
    )
    .bind(due.id)
    .bind(asking.attempt)
    .bind(outcome)
    .bind(detail)
    .execute(&mut *transaction)
    .await?;
    // the step before this one was taken by `begin`
    let due = Due { state: "paying".into(), ..due.clone() };
    advance(&mut transaction, payouts, &due, decide(answer, asking.doubtful)).await?;
    transaction.commit().await?;
    Ok(None)
}

struct Asking {
    attempt: i32,
    order: Order,
    /// An earlier attempt may have paid.
    doubtful: bool,
}

/// From here on the rail may have been asked, whatever happens to this process.
async fn begin(payouts: &Payouts, due: &Due) -> anyhow::Result<Asking> {
    let mut transaction = payouts.inner.pool.begin().await?;
    let row = sqlx::query(
        "UPDATE local.payout SET state = 'paying' WHERE payout_id = $1 AND state = $2
         RETURNING points, destination, currency, minor::text, recipient_name, recipient_bic,
             extract(epoch FROM created_at)::bigint",
    )
    .bind(due.id)
    .bind(&due.state)
    .fetch_one(&mut *transaction)
    .await?;
    let money = match (row.try_get::<Option<String>, _>(2)?, row.try_get::<Option<String>, _>(3)?) {
        (Some(currency), Some(minor)) => Some(Money { currency, minor: minor.parse()? }),
        _ => None,
    };
    let order = Order {
        key: due.id,
        points: u64::try_from(row.try_get::<i64, _>(0)?)?,
        money,
        destination: row.try_get(1)?,
        name: row.try_get(4)?,
        bic: row.try_get(5)?,
        asked_at: row.try_get(6)?,
    };
    let row = sqlx::query(
        "SELECT coalesce(max(attempt), 0), coalesce(bool_or(outcome IS NULL OR outcome = 'unknown'), FALSE),
             coalesce((array_agg(outcome ORDER BY attempt DESC))[1] = 'accepted', FALSE)
         FROM local.payout_attempt WHERE payout_id = $1",
    )
    .bind(due.id)
    .fetch_one(&mut *transaction)
    .await?;
    let (last, doubtful, accepted): (i32, bool, bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    // what a rail has taken on is asked about many times: all of that is one attempt
    let attempt = if accepted { last } else { last.saturating_add(1) };
    sqlx::query("INSERT INTO local.payout_attempt (payout_id, attempt) VALUES ($1, $2) ON CONFLICT DO NOTHING")
        .bind(due.id)
        .bind(attempt)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(Asking { attempt, order, doubtful })
}

/// A refusal voids only where every attempt is known not to have paid.
fn decide(answer: Answer, doubtful: bool) -> Step {
    match answer {
        Answer::Paid(detail) => Step::to("paid", detail),
        Answer::Later(detail) | Answer::Unknown(detail) => Step::fail("paying", detail),
        Answer::Refused(detail) if doubtful => {
            Step::to("stuck", format!("{detail}; but an earlier attempt may have been paid: ask the partner"))
        }
        Answer::Refused(detail) | Answer::Never(detail) => Step::to("voided", detail),
        Answer::Accepted(detail, again) => Step { again: Some(again), ..Step::to("paying", detail) },
        Answer::Doubt(detail) => Step::to("stuck", detail),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_refusal_after_an_unknown_outcome_is_for_the_operator() {
        assert_eq!(decide(Answer::Refused("4104".into()), false).to, "voided");
        assert_eq!(decide(Answer::Refused("4104".into()), true).to, "stuck");
        assert_eq!(decide(Answer::Paid("4113".into()), true), Step::to("paid", "4113"));
        for answer in [Answer::Later("4112".into()), Answer::Unknown("silence".into())] {
            let step = decide(answer, true);
            assert!(step.to == "paying" && step.failed);
        }
        assert_eq!(decide(Answer::Never("the bank refused it".into()), true).to, "voided");
        assert_eq!(decide(Answer::Doubt("a duplicate".into()), false).to, "stuck");
        let waits = decide(Answer::Accepted("handed over".into(), Duration::from_secs(9)), true);
        assert!(waits.to == "paying" && !waits.failed && waits.again == Some(Duration::from_secs(9)));
    }
}
