use bailiwick_attestation::proto::v1::flows_counted::Flow;
use sqlx::Connection as _;

use super::*;

const EK: Sha256Digest = Sha256Digest([7; 32]);
const OTHER: Sha256Digest = Sha256Digest([8; 32]);

/// Hour, study, jurisdiction, packets and bytes.
type Sum = (i64, String, String, i64, i64);

async fn database() -> SqliteConnection {
    let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
    let schema = include_str!("../../../migrations/0060_flows.sql");
    sqlx::raw_sql(schema)
        .execute(&mut connection)
        .await
        .unwrap();
    connection
}

fn flow(study: &str, jurisdiction: &str, packets: u64, bytes: u64) -> Flow {
    Flow {
        study: study.into(),
        jurisdiction: jurisdiction.into(),
        direction: "egress".into(),
        packets,
        bytes,
    }
}

fn counted(from_ms: u64, to_ms: u64, flows: Vec<Flow>) -> FlowsCounted {
    FlowsCounted {
        from_ms,
        to_ms,
        flows,
        ..FlowsCounted::default()
    }
}

async fn add(connection: &mut SqliteConnection, ek: &Sha256Digest, counted: &FlowsCounted) {
    let now = UnixTime(1000 * HOUR_MS);
    insert(connection, ek, counted, now).await.unwrap();
}

async fn sums(connection: &mut SqliteConnection) -> Vec<Sum> {
    sqlx::query_as(
        "SELECT hour_ms / 3600000, study, jurisdiction, packets, bytes FROM flow_counts
         WHERE ek = ? ORDER BY 1, 2, 3",
    )
    .bind(EK.as_bytes().as_slice())
    .fetch_all(connection)
    .await
    .unwrap()
}

async fn spans(connection: &mut SqliteConnection) -> Vec<(i64, i64)> {
    sqlx::query_as("SELECT from_ms, to_ms FROM flow_spans WHERE ek = ? ORDER BY from_ms")
        .bind(EK.as_bytes().as_slice())
        .fetch_all(connection)
        .await
        .unwrap()
}

fn row(hour: i64, study: &str, jurisdiction: &str, packets: i64, bytes: i64) -> Sum {
    (hour, study.into(), jurisdiction.into(), packets, bytes)
}

#[tokio::test]
async fn counts_of_an_hour_are_added_up_exactly() {
    let mut database = database().await;
    let flows = vec![flow("cardio", "DE", 3, 300), flow("cardio", "FR", 1, 60)];
    add(&mut database, &EK, &counted(0, 60_000, flows)).await;
    let more = counted(60_000, 120_000, vec![flow("cardio", "DE", 2, 50)]);
    add(&mut database, &EK, &more).await;
    let later = counted(120_000, HOUR_MS + 1, vec![flow("cardio", "DE", 1, 1)]);
    add(&mut database, &EK, &later).await;
    let others = FlowsCounted {
        other_packets: 9,
        other_bytes: 90,
        ..counted(HOUR_MS + 1, HOUR_MS + 2, vec![flow("", "US", 1, 2)])
    };
    add(&mut database, &EK, &others).await;
    add(&mut database, &OTHER, &more).await;
    let want = [
        row(0, "cardio", "DE", 5, 350),
        row(0, "cardio", "FR", 1, 60),
        row(1, "", "", 9, 90),
        row(1, "", "US", 1, 2),
        row(1, "cardio", "DE", 1, 1),
    ];
    assert_eq!(sums(&mut database).await, want);
    assert_eq!(spans(&mut database).await, [(0, 3_600_002)]);
}

#[tokio::test]
async fn a_break_in_counting_stays_one() {
    let mut database = database().await;
    for (from, to) in [
        (0, 60_000),
        (61_999, 120_000), // a clock that was set
        (180_000, 240_000),
        (240_000, 300_000),
        (240_000, 300_000), // a second entry about the same time
    ] {
        add(&mut database, &EK, &counted(from, to, Vec::new())).await;
    }
    let want = [(0, 120_000), (180_000, 300_000)];
    assert_eq!(spans(&mut database).await, want);
}

#[tokio::test]
async fn no_node_writes_the_future_or_a_sum_that_overflows() {
    let mut database = database().await;
    let most = u64::try_from(i64::MAX).unwrap();
    let huge = || vec![flow("cardio", "DE", most, most)];
    add(&mut database, &EK, &counted(5, u64::MAX, huge())).await;
    add(&mut database, &EK, &counted(5, u64::MAX, huge())).await;
    let want = [row(1000, "cardio", "DE", i64::MAX, i64::MAX)];
    assert_eq!(sums(&mut database).await, want);
    assert_eq!(sum(i64::MAX >> 24, i64::MAX & 0xff_ffff), most);
    assert_eq!(sum(i64::MAX, 7), u64::MAX);
}

#[tokio::test]
async fn a_node_crowds_out_its_own_oldest_hours_and_nobody_elses() {
    let mut database = database().await;
    add(
        &mut database,
        &OTHER,
        &counted(0, 60_000, vec![flow("neuro", "DE", 1, 1)]),
    )
    .await;
    for hour in 0..3 {
        let from = hour * HOUR_MS;
        let flows = (0..40).map(|n| flow("cardio", &n.to_string(), 1, 1));
        let counted = counted(from, from + HOUR_MS - 1, flows.collect());
        let now = UnixTime(1000 * HOUR_MS);
        insert_within(&mut database, &EK, &counted, now, 100)
            .await
            .unwrap();
    }
    let left = sums(&mut database).await;
    assert_eq!(left.len(), 80);
    assert_eq!(left[0].0, 1, "the first hour is gone");
    let known = spans(&mut database).await;
    assert_eq!(
        known,
        [(3_600_000, 10_799_999)],
        "and is not said to be known"
    );
    // What is left fills it, and is not too much.
    let again = counted(HOUR_MS, 2 * HOUR_MS - 1, Vec::new());
    let now = UnixTime(1000 * HOUR_MS);
    insert_within(&mut database, &EK, &again, now, 80)
        .await
        .unwrap();
    assert_eq!(sums(&mut database).await.len(), 80);
    let neuro: i64 = sqlx::query_scalar("SELECT count(*) FROM flow_counts WHERE ek = ?")
        .bind(OTHER.as_bytes().as_slice())
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert_eq!(neuro, 1);
}
