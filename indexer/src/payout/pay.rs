//! The rail's step: write down that it is asked, ask, write down what it said.

use sqlx::Row;

use super::{
    Payouts,
    rail::{Answer, Order, PayoutRail},
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
    let due = Due { id: due.id, state: "paying".into(), failures: due.failures };
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
        "UPDATE local.payout SET state = 'paying' WHERE payout_id = $1 AND state = $2 RETURNING points, destination",
    )
    .bind(due.id)
    .bind(&due.state)
    .fetch_one(&mut *transaction)
    .await?;
    let (points, destination): (i64, String) = (row.try_get(0)?, row.try_get(1)?);
    let row = sqlx::query(
        "SELECT coalesce(max(attempt), 0) + 1, coalesce(bool_or(outcome IS NULL OR outcome = 'unknown'), FALSE)
         FROM local.payout_attempt WHERE payout_id = $1",
    )
    .bind(due.id)
    .fetch_one(&mut *transaction)
    .await?;
    let (attempt, doubtful): (i32, bool) = (row.try_get(0)?, row.try_get(1)?);
    sqlx::query("INSERT INTO local.payout_attempt (payout_id, attempt) VALUES ($1, $2)")
        .bind(due.id)
        .bind(attempt)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(Asking { attempt, order: Order { key: due.id, points: u64::try_from(points)?, destination }, doubtful })
}

/// A refusal voids only where every attempt is known not to have paid.
fn decide(answer: Answer, doubtful: bool) -> Step {
    match answer {
        Answer::Paid(detail) => Step::to("paid", detail),
        Answer::Later(detail) | Answer::Unknown(detail) => Step::fail("paying", detail),
        Answer::Refused(detail) if doubtful => {
            Step::to("stuck", format!("{detail}; but an earlier attempt may have been paid: ask the partner"))
        }
        Answer::Refused(detail) => Step::to("voided", detail),
    }
}

#[cfg(test)]
mod tests {
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
    }
}
