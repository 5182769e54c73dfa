//! Two gateways and three workers, and what a test asks of all of them at once.

use futures::future::join_all;
use serde_json::Value;
use uuid::Uuid;

use crate::stage::{Answer, Process, Stage, User};

/// The processes of a whole system. They end when this is dropped.
pub struct Cast {
    pub gateways: [Process; 2],
    _workers: [Process; 3],
}

impl Cast {
    /// Starts all of them.
    pub async fn of(stage: &Stage) -> Self {
        let (a, b, c, d, e) = tokio::join!(
            stage.gateway(),
            stage.gateway(),
            stage.worker(),
            stage.worker(),
            stage.worker()
        );
        Self { gateways: [a, b], _workers: [c, d, e] }
    }

    /// A new user, at the first gateway.
    pub fn user(&self) -> User {
        User::new(&self.gateways[0])
    }

    /// The same user at one gateway or the other, in turn.
    pub fn in_turn(&self, user: &User, turn: usize) -> User {
        user.at(&self.gateways[turn % 2])
    }
}

/// Lets all ask at the same time, each from a task of its own; the answers in their order.
pub async fn at_once<F>(asks: impl IntoIterator<Item = F>) -> Vec<Answer>
where
    F: Future<Output = Answer> + Send + 'static,
{
    let tasks: Vec<_> = asks.into_iter().map(tokio::spawn).collect();
    join_all(tasks).await.into_iter().map(Result::unwrap).collect()
}

/// Of answers that are decisions: those that succeeded. All others must be the given no.
#[track_caller]
pub fn winners<'a>(answers: &'a [Answer], no: &str) -> Vec<&'a Answer> {
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.status < 300);
    for answer in lost {
        assert_eq!(answer.code(), no, "{:#}", answer.body);
    }
    won
}

impl Stage {
    /// What the database holds of a booking: its row, its allocation and its audit.
    pub async fn record(&self, booking: &str) -> Value {
        const RECORD: &str = "select json_build_object(
            'booking', (select row_to_json(b) from bookings b where id = $1),
            'allocation', (select row_to_json(a) from allocations a where booking_id = $1),
            'audit', (select coalesce(json_agg(a order by version), '[]')
                      from audit a where booking_id = $1))";
        let id: Uuid = booking.parse().unwrap();
        sqlx::query_scalar(RECORD).bind(id).fetch_one(&mut self.database().await).await.unwrap()
    }
}
