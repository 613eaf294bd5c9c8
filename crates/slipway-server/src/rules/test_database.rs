//! A fresh PostgreSQL database for a test.

use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use uuid::Uuid;

/// The address of a new, empty database; `None` where no PostgreSQL is named for tests.
pub(super) async fn postgres_fresh(prefix: &str) -> Option<String> {
    let address = std::env::var("SLIPWAY_TEST_POSTGRES").ok()?;
    sqlx::any::install_default_drivers();
    let mut admin = sqlx::AnyConnection::connect(&address).await.unwrap();
    let name = format!("{prefix}_{}", Uuid::new_v4().simple());
    admin.execute(AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
    admin.close().await.unwrap();
    let (server, rest) = address.rsplit_once('/').unwrap();
    let query = rest.split_once('?').map_or(String::new(), |(_, query)| format!("?{query}"));
    Some(format!("{server}/{name}{query}"))
}
