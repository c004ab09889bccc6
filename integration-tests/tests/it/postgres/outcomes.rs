//! What a transaction says of its end is so.

use std::{error::Error as _, fmt};

use lockd_client::{ErrorKind, postgres::Transaction};
use sqlx::{Connection as _, Executor as _};

use super::{Db, all_back, all_idle, both_drivers, pool};
use crate::world::soon;

both_drivers!(
    what_succeeds_is_committed_and_what_fails_is_not,
    a_transaction_that_has_failed_is_not_called_committed,
    an_error_of_the_work_is_the_source,
);

async fn count<D: Db>(pool: &D, table: &str) -> String {
    let ask = async |tx: &mut Transaction<D>| {
        D::ask(tx, format!("SELECT count(*)::text FROM {table}")).await
    };
    soon().postgres(pool).transaction(ask).await.unwrap()
}

async fn table<D: Db>(pool: &D, name: &str) {
    let make = async |tx: &mut Transaction<D>| {
        D::run(tx, format!("CREATE TABLE {name} (n int PRIMARY KEY)")).await
    };
    soon().postgres(pool).transaction(make).await.unwrap();
}

/// An error of the user's own.
#[derive(Debug)]
struct SoldOut;

impl fmt::Display for SoldOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sold out")
    }
}

impl std::error::Error for SoldOut {}

async fn what_succeeds_is_committed_and_what_fails_is_not<D: Db>() {
    let (pool, name) = pool::<D>(1).await;
    table(&pool, &name).await;
    let insert =
        async |tx: &mut Transaction<D>| D::run(tx, format!("INSERT INTO {name} VALUES (1)")).await;
    soon().postgres(&pool).transaction(insert).await.unwrap();
    let fails = async |tx: &mut Transaction<D>| {
        D::run(tx, format!("INSERT INTO {name} VALUES (2)")).await.unwrap();
        Err::<(), _>(SoldOut)
    };
    soon().postgres(&pool).transaction(fails).await.unwrap_err();
    assert_eq!(count(&pool, &name).await, "1");
    all_back(&pool).await;
    all_idle(&name).await;
}

async fn a_transaction_that_has_failed_is_not_called_committed<D: Db>() {
    let (pool, name) = pool::<D>(1).await;
    table(&pool, &name).await;
    let swallows = async |tx: &mut Transaction<D>| {
        D::run(tx, format!("INSERT INTO {name} VALUES (1)")).await.unwrap();
        // Postgres rolls back what is committed after this, and calls it a success.
        D::run(tx, format!("INSERT INTO {name} VALUES (1)")).await.unwrap_err();
        Ok::<_, SoldOut>(())
    };
    let error = soon().postgres(&pool).transaction(swallows).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Failed, "{error}");
    assert!(!error.may_have_applied());
    assert_eq!(count(&pool, &name).await, "0");
}

async fn an_error_of_the_work_is_the_source<D: Db>() {
    let (pool, _name) = pool::<D>(1).await;
    let fails = async |_: &mut Transaction<D>| Err::<(), _>(SoldOut);
    let error = soon().postgres(&pool).transaction(fails).await.unwrap_err();
    assert!(error.source().unwrap().is::<SoldOut>(), "{error:?}");
    let text = error.to_string();
    assert!(text.starts_with("postgres transaction: failed after 0."), "{text}");
    assert!(text.ends_with("s of 10.0s (sold out)"), "{text}");
}

#[tokio::test]
async fn drivers_are_used_as_they_are_also_from_tasks() {
    let (pool, name) = pool::<deadpool_postgres::Pool>(1).await;
    let work = tokio::spawn(async move {
        let postgres = soon().postgres(&pool);
        postgres.execute(&format!("CREATE TABLE {name} (n int)"), &[]).await?;
        let insert = format!("INSERT INTO {name} VALUES ($1)");
        let inserted = postgres
            .transaction(async |tx| {
                let statement = tx.prepare_cached(&insert).await?;
                tx.execute(&statement, &[&1]).await?;
                tx.execute(&statement, &[&2]).await
            })
            .await?;
        assert_eq!(inserted, 1);
        let sum = format!("SELECT sum(n) FROM {name}");
        assert_eq!(postgres.query_one(&sum, &[]).await?.get::<_, i64>(0), 3);
        assert_eq!(postgres.query(&format!("TABLE {name}"), &[]).await?.len(), 2);
        let none = format!("SELECT n FROM {name} WHERE n = 3");
        assert!(postgres.query_opt(&none, &[]).await?.is_none());
        Ok::<_, lockd_client::Error>(())
    });
    work.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_transaction_within_one_of_sqlx_is_a_savepoint() {
    let (pool, name) = pool::<sqlx::PgPool>(1).await;
    table(&pool, &name).await;
    let insert =
        |n: i32| sqlx::query(sqlx::AssertSqlSafe(format!("INSERT INTO {name} VALUES ({n})")));
    let postgres = soon().postgres(&pool);
    postgres
        .transaction(async |tx| {
            let mut inner = tx.begin().await?;
            inner.execute(insert(1)).await?;
            inner.rollback().await?;
            let mut inner = tx.begin().await?;
            inner.execute(insert(2)).await?;
            inner.commit().await?;
            // One that is open when the transaction ends.
            let mut open = tx.begin().await?;
            open.execute(insert(3)).await?;
            drop(open);
            (&mut **tx).execute(insert(4)).await
        })
        .await
        .unwrap();
    assert_eq!(count(&pool, &name).await, "2");
    let all = sqlx::query(sqlx::AssertSqlSafe(format!("TABLE {name}")));
    assert_eq!(postgres.fetch_all(all).await.unwrap().len(), 2);
    let failing = postgres.transaction(async |tx| {
        let mut inner = tx.begin().await?;
        inner.execute(insert(5)).await?;
        std::mem::forget(inner);
        Err::<(), _>(sqlx::Error::RowNotFound)
    });
    failing.await.unwrap_err();
    assert_eq!(postgres.execute(insert(6)).await.unwrap().rows_affected(), 1);
    assert_eq!(count(&pool, &name).await, "3");
}
