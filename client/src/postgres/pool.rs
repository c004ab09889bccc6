//! What a driver has to do for a transaction: the few statements that begin, fence and end it, and
//! the way in which its pool is left clean.

use std::{error::Error as StdError, future::Future, ops::Deref};

/// A pool of connections to Postgres: `deadpool_postgres::Pool` with the feature `postgres`,
/// `sqlx::PgPool` with `sqlx`. Sealed: a driver has to keep the promises of
/// [`Postgres`](super::Postgres).
pub trait Pool: sealed::Driver {}

pub(super) mod sealed {
    use super::{Deref, Future, StdError};

    type Outcome<T> = Result<T, Box<dyn StdError + Send + Sync>>;

    pub trait Driver: Clone + Send + Sync + 'static {
        /// A connection of the pool. Dropping it gives it back.
        type Connection: Deref<Target = Self::Client> + Send + 'static;
        /// What a transaction's user gets to see of it.
        type Client;

        /// A connection, when one is free.
        fn connection(&self) -> impl Future<Output = Outcome<Self::Connection>> + Send;

        /// Runs the batch that begins a transaction.
        fn begin(
            connection: &mut Self::Connection,
            batch: String,
        ) -> impl Future<Output = Outcome<()>> + Send;

        /// Advances the fence's rows; how many it could advance.
        fn advance(
            connection: &mut Self::Connection,
            resources: &[String],
            token: i64,
        ) -> impl Future<Output = Outcome<usize>> + Send;

        /// The latest token of these resources.
        fn stored(
            connection: &mut Self::Connection,
            resources: &[String],
        ) -> impl Future<Output = Outcome<Option<i64>>> + Send;

        /// Commits, and fails if the transaction has failed before: Postgres alone would roll it back
        /// and say nothing.
        fn commit(connection: &mut Self::Connection) -> impl Future<Output = Outcome<()>> + Send;

        /// Ends whatever transaction is open, also one of which the driver does not know.
        fn reset(connection: &mut Self::Connection) -> impl Future<Output = Outcome<()>> + Send;

        /// Runs a statement on another connection: an idle one of the pool, else a new one beside it.
        fn elsewhere(&self, sql: String) -> impl Future<Output = Outcome<()>> + Send;

        /// Gives a clean connection back.
        fn give_back(connection: Self::Connection) -> impl Future<Output = ()> + Send;

        /// Closes a connection, and frees its place in the pool at once.
        fn discard(connection: Self::Connection);

        /// The SQLSTATE of an error, if the server has said one.
        fn sql_state(error: &(dyn StdError + 'static)) -> Option<String>;
    }
}

impl<P: sealed::Driver> Pool for P {}
