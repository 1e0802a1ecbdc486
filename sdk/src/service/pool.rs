//! Pools of connections to Postgres that hand none out with somebody else's transaction on it.

use sqlx::{Row, postgres::PgPoolOptions};

/// Options of a pool whose connections are looked at before they are handed out.
///
/// sqlx knows of a transaction once Postgres has answered BEGIN. A client that goes away before takes its request with it, and leaves the
/// transaction open on a connection that seems free: who reads there sees old rows for good, what is written there is not kept,
/// and after an error nothing is answered any more. This look stands in for sqlx's ping, and costs as much.
pub fn pool_options() -> PgPoolOptions {
    PgPoolOptions::new().test_before_acquire(false).before_acquire(|connection, _| {
        Box::pin(async move {
            // one message of the simple protocol: only inside of a transaction is the time of its begin another one. Where that is
            // aborted this is an error, and the connection goes as well
            let row = sqlx::raw_sql("SELECT now() = statement_timestamp()").fetch_one(connection).await?;
            row.try_get(0)
        })
    })
}
