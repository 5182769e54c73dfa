//! What a worker tells of its pace, for whatever adds and removes workers.

use sqlx::Connection as _;

use crate::stage::{Stage, User, until};

const WAITING: i64 = 40;

#[tokio::test]
async fn a_worker_tells_how_long_that_which_waits_for_it_will_take() {
    let stage = Stage::new("pace").await;
    let (gateway, worker) = (stage.gateway().await, stage.worker().await);
    let user = User::new(&gateway);
    until("it could decide", async || worker.metric("booking_worker_capacity").await > 0.0).await;
    assert_eq!(gateway.metric("booking_worker_capacity").await, 0.0, "a gateway decides nothing");
    assert_eq!(worker.metric("booking_drain_seconds").await, 0.0);

    // While somebody else holds the table, nothing can be decided.
    let mut database = stage.database().await;
    let mut holding = database.begin().await.unwrap();
    let hold = "lock table bookings in exclusive mode";
    sqlx::query(hold).execute(&mut *holding).await.unwrap();
    for number in 0..WAITING {
        user.books(number * 10, number * 10 + 10).await.is(202);
    }
    until("all that waits is in the estimate", async || {
        let (capacity, drain) = (
            worker.metric("booking_worker_capacity").await,
            worker.metric("booking_drain_seconds").await,
        );
        (drain * capacity - WAITING as f64).abs() < 0.5
    })
    .await;
    assert_eq!(gateway.metric("booking_drain_seconds").await, 0.0, "nothing waits for a gateway");

    holding.rollback().await.unwrap();
    stage.everything_is_decided().await;
    until("nothing is left", async || worker.metric("booking_drain_seconds").await == 0.0).await;
    assert!(worker.metric("booking_worker_busy_seconds_total").await > 0.0);
    stage.all_promises_hold().await;
}
