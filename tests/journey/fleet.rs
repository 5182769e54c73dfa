//! A fleet under faults: workers are killed, frozen, thawed and added while users are at work.
//!
//! Each user's script has outcomes that come about only when its commands are decided in the
//! order in which they were accepted.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use booking::store::partitions;
use futures::{StreamExt as _, stream};
use uuid::Uuid;

use crate::stage::{Process, Stage, User, until};

const USERS: usize = 200;
/// Users at work at the same time.
const TOGETHER: usize = 32;

/// What becomes of the script's commands, in its order: the booking's version, or the refusal.
const OUTCOMES: [&str; 10] =
    ["1", "2", "1", "2", "1", "SLOT_CONFLICT", "3", "INVALID_STATE", "1", "2"];

#[tokio::test]
async fn users_keep_their_order_while_workers_are_killed_frozen_and_added() {
    a_fleet_is_at_work(&Stage::with_partitions("fleet", 8).await).await;
}

pub async fn a_fleet_is_at_work(stage: &Stage) {
    let gateways = [stage.gateway().await, stage.gateway().await];
    let (mut killed, mut frozen) = (stage.worker().await, stage.worker().await);
    let _steady = stage.worker().await;
    let accepted = Arc::new(AtomicUsize::new(0));
    let users: Vec<User> = (0..USERS).map(|_| User::new(&gateways[0])).collect();
    let scripts = stream::iter(users)
        .map(|user| plays_the_script(user, &gateways, accepted.clone()))
        .buffer_unordered(TOGETHER)
        .collect::<Vec<Vec<Uuid>>>();

    let faults = async {
        let so_many = |count| {
            let accepted = accepted.clone();
            async move {
                until("so many are accepted", async || accepted.load(Ordering::Relaxed) >= count)
                    .await;
            }
        };
        so_many(USERS * 3).await;
        let (dead, asleep) = (id_of(&mut killed).await, id_of(&mut frozen).await);
        killed.kill().await;
        so_many(USERS * 4).await;
        frozen.freeze().await;
        let added = stage.worker().await;
        others_own_all(stage, &[&dead, &asleep]).await;
        frozen.thaw().await;
        added
    };
    let (played, _added) = tokio::join!(scripts, faults);

    stage.everything_is_decided().await;
    assert_eq!(played.len(), USERS);
    let told = all_outcomes(stage).await;
    assert_eq!(told.len(), USERS * OUTCOMES.len());
    for commands in played {
        let outcomes: Vec<&str> = commands.iter().map(|id| told[id].0.as_str()).collect();
        assert_eq!(outcomes, OUTCOMES);
        let audited: Vec<i64> = commands.iter().filter_map(|id| told[id].1).collect();
        assert_eq!(audited.len(), 8, "each success has its audit row");
        assert!(audited.is_sorted(), "audited in another order: {audited:?}");
    }
    until("the thawed worker has its share again", async || {
        frozen.metric("booking_partitions_owned").await >= 1.0
    })
    .await;
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn a_worker_that_slept_through_its_lease_is_refused_by_the_fence() {
    let mut stage = Stage::new("fence").await;
    // The broker gives up on a silent connection after two heartbeats: sooner, for this test.
    stage.amqp_url.push_str("?heartbeat=2");
    let gateway = stage.gateway().await;
    let frozen = stage.start("worker", &[("BOOKING_FAILPOINTS", "worker.decided=stop")]).await;
    frozen.is_ready().await;
    let user = User::new(&gateway);

    let booked = user.books(0, 30).await.is(202);
    until("it has decided and stands still", async || frozen.is_frozen()).await;
    let id = booked.text("bookingId");
    user.cancels(id).await.is(202);
    let again = user.books(0, 30).await.is(202);
    let second = stage.worker().await;
    assert_eq!(user.polls(&again).await.text("status"), "succeeded");
    let decided = user.get(booked.location()).await.body;

    frozen.thaw().await;
    until("the fence refuses its commit", async || {
        frozen.metric("booking_fence_refusals_total").await >= 1.0
    })
    .await;
    assert_eq!(frozen.metric("booking_commands_decided_total").await, 0.0);
    assert_eq!(second.metric("booking_commands_decided_total").await, 3.0);
    assert_eq!(user.get(booked.location()).await.body, decided, "a final state never changes");
    assert_eq!(stage.number("select count(*) from audit").await, 3);
    stage.all_promises_hold().await;
}

#[tokio::test]
async fn a_lease_is_renewed_before_it_runs_out() {
    let stage = Stage::with_partitions("renewed", 1).await;
    let mut worker = stage.worker().await;
    worker.logged("the partition is ours", "partition").await;
    let client = redis::Client::open(stage.redis_url.as_str()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let mut last = i64::MAX;
    until("the lease is valid for longer than before", async || {
        let key = format!("{}:lease:p.00", stage.redis_prefix);
        let left: i64 = redis::cmd("PTTL").arg(key).query_async(&mut redis).await.unwrap();
        assert!(left > 0, "the lease has run out");
        std::mem::replace(&mut last, left) < left
    })
    .await;
    assert_eq!(stage.number("select fence from partitions").await, 1);
}

#[tokio::test]
async fn a_share_is_taken_in_one_statement_and_whole_or_not_at_all() {
    let stage = Stage::with_partitions("share", 8).await;
    let mut database = stage.database().await;
    let refused = partitions::take(&mut database, &[3, 8], "nobody").await;
    assert!(matches!(refused, Err(sqlx::Error::RowNotFound)), "{refused:?}");
    assert_eq!(stage.number("select sum(fence)::bigint from partitions").await, 0);

    let worker = stage.worker().await;
    until("it owns all", async || worker.metric("booking_partitions_owned").await == 8.0).await;
    assert_eq!(stage.number("select count(distinct taken_at) from partitions").await, 1);
    let fences = partitions::take(&mut database, &[5, 2], "another").await.unwrap();
    let taken = fences.iter().map(|fence| (fence.partition(), fence.number()));
    assert_eq!(taken.collect::<BTreeSet<_>>(), BTreeSet::from([(2, 2), (5, 2)]));
}

/// Ten commands, each sent when the one before is accepted, at the gateways in turn. Returns the
/// command ids in that order.
async fn plays_the_script(
    user: User,
    gateways: &[Process; 2],
    accepted: Arc<AtomicUsize>,
) -> Vec<Uuid> {
    let (one, other) = (user.at(&gateways[0]), user.at(&gateways[1]));
    let mut commands = Vec::new();
    let mut note = |answer: crate::stage::Answer| {
        let answer = answer.is(202);
        commands.push(answer.text("commandId").parse().unwrap());
        accepted.fetch_add(1, Ordering::Relaxed);
        answer.text("bookingId").to_owned()
    };
    let a = note(one.books(0, 60).await);
    note(other.cancels(&a).await);
    let b = note(one.books(0, 60).await);
    note(other.reschedules(&b, 120, 180).await);
    let d = note(one.books(0, 60).await);
    note(other.books(30, 90).await);
    note(one.cancels(&b).await);
    note(other.reschedules(&b, 240, 300).await);
    note(one.books(120, 180).await);
    note(other.reschedules(&d, 60, 120).await);
    commands
}

/// Each command's outcome as in [`OUTCOMES`], and its place in the audit.
async fn all_outcomes(stage: &Stage) -> HashMap<Uuid, (String, Option<i64>)> {
    let rows: Vec<(Uuid, String, Option<i64>)> = sqlx::query_as(
        "select c.id, coalesce(c.booking_version::text, c.error->>'code', c.status), a.seq
         from commands c left join audit a on a.command_id = c.id",
    )
    .fetch_all(&mut stage.database().await)
    .await
    .unwrap();
    rows.into_iter().map(|(id, outcome, seq)| (id, (outcome, seq))).collect()
}

async fn id_of(worker: &mut Process) -> String {
    worker.logged("the worker joins", "worker").await
}

/// Waits until no partition belongs to any of `workers`.
async fn others_own_all(stage: &Stage, workers: &[&String]) {
    let mut database = stage.database().await;
    until("others own all partitions", async || {
        let theirs: i64 =
            sqlx::query_scalar("select count(*) from partitions where owner = any($1)")
                .bind(workers)
                .fetch_one(&mut database)
                .await
                .unwrap();
        theirs == 0
    })
    .await;
}
