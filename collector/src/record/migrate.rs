//! Forward-only migrations, carried in the binary.

use std::borrow::Cow;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, SqlSafeStr as _};

use super::StoreError;

/// Version, name, text. Never edited once released: the checksum of each is kept in the database.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "spine", include_str!("../../migrations/0001_spine.sql")),
    (
        10,
        "manifests",
        include_str!("../../migrations/0010_manifests.sql"),
    ),
    (
        20,
        "identity",
        include_str!("../../migrations/0020_identity.sql"),
    ),
    (
        30,
        "nodelog",
        include_str!("../../migrations/0030_nodelog.sql"),
    ),
    (
        50,
        "standing",
        include_str!("../../migrations/0050_standing.sql"),
    ),
    (60, "flows", include_str!("../../migrations/0060_flows.sql")),
    (
        70,
        "kept_logs",
        include_str!("../../migrations/0070_kept_logs.sql"),
    ),
    (80, "boots", include_str!("../../migrations/0080_boots.sql")),
    (
        90,
        "gpus_shown",
        include_str!("../../migrations/0090_gpus_shown.sql"),
    ),
    (
        100,
        "places",
        include_str!("../../migrations/0100_places.sql"),
    ),
    (
        110,
        "guests",
        include_str!("../../migrations/0110_guests.sql"),
    ),
];

pub(super) async fn connect(
    options: &SqliteConnectOptions,
) -> Result<SqliteConnection, StoreError> {
    Ok(options.connect().await?)
}

/// A database of a later version is refused: its migrations are unknown here.
pub(super) async fn run(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let migrations = MIGRATIONS
        .iter()
        .map(|(version, name, sql)| {
            Migration::new(
                *version,
                Cow::Borrowed(*name),
                MigrationType::Simple,
                (*sql).into_sql_str(),
                false,
            )
        })
        .collect();
    let migrator = Migrator {
        migrations: Cow::Owned(migrations),
        ..Migrator::DEFAULT
    };
    Ok(migrator.run_direct(None, connection, false).await?)
}
