//! The partitions table: who may write, by fence.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::booking::command::FORMAT;

/// Creates the rows of partitions 0 to `count - 1` in a database that has none.
///
/// # Errors
/// When the server is away.
pub async fn lay_out(connection: &mut PgConnection, count: u16) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into partitions (id)
         select n from generate_series(0, $1 - 1) n
         where not exists (select from partitions)
         on conflict do nothing",
    )
    .bind(i32::from(count))
    .execute(connection)
    .await?;
    Ok(())
}

/// How many partitions the database was laid out with.
///
/// # Errors
/// When the server is away.
pub async fn count(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from partitions").fetch_one(connection).await
}

/// Checks that the database was laid out with `count` partitions. With another number, commands
/// of one calendar would go to two queues and lose their order.
///
/// # Errors
/// When the numbers differ, saying what to do.
pub async fn check_count(connection: &mut PgConnection, count: u16) -> anyhow::Result<()> {
    let present = self::count(connection).await?;
    anyhow::ensure!(
        present == i64::from(count),
        "PARTITIONS is {count}, but this database was laid out with {present}; set \
         PARTITIONS={present}, or start with an empty database",
    );
    Ok(())
}

/// The right to write for a partition. Only [`take`] makes one, and every commit demands it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    partition: u16,
    fence: i64,
}

impl Fence {
    pub fn partition(self) -> u16 {
        self.partition
    }

    /// Counts the owners that the partition has had.
    pub fn number(self) -> i64 {
        self.fence
    }
}

/// Takes partitions for `owner`, and returns their fences: from the return of this function on, no
/// commit with an older fence can succeed. Waits for those that are under way. The rows are locked
/// in the order in which commits lock them, so that none waits for the other.
///
/// # Errors
/// When the server is away, or one of the partitions does not exist. Then none is taken.
pub async fn take(
    connection: &mut PgConnection,
    partitions: &[u16],
    owner: &str,
) -> Result<Vec<Fence>, sqlx::Error> {
    let taken: Vec<(i16, i64)> = sqlx::query_as(
        "with asked as (
           select id from partitions where id = any($1) order by id for update
         )
         update partitions p set fence = p.fence + 1, owner = $2, taken_at = now()
         from asked
         where p.id = asked.id and (select count(*) from asked) = $3
         returning p.id, p.fence",
    )
    .bind(partitions.iter().map(|partition| i32::from(*partition)).collect::<Vec<_>>())
    .bind(owner)
    .bind(i64::try_from(partitions.len()).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await?;
    if taken.len() < partitions.len() {
        return Err(sqlx::Error::RowNotFound);
    }
    let fence = |(id, fence)| Fence { partition: u16::try_from(id).unwrap_or_default(), fence };
    Ok(taken.into_iter().map(fence).collect())
}

/// What a worker calls itself as an owner, which tells the others which commands it can read.
pub fn owner_name(worker: Uuid) -> String {
    format!("{worker}/{FORMAT}")
}

/// The newest format of commands that the owners of all partitions read. A partition that had no
/// owner yet holds nobody back.
///
/// # Errors
/// When the server is away.
pub async fn format_of_owners(connection: &mut PgConnection) -> Result<u16, sqlx::Error> {
    let owners: Vec<String> =
        sqlx::query_scalar("select owner from partitions where owner is not null")
            .fetch_all(connection)
            .await?;
    Ok(owners.iter().map(|owner| format_of(owner)).min().unwrap_or(FORMAT))
}

/// Workers of the first format had a name without it.
fn format_of(owner: &str) -> u16 {
    owner.rsplit_once('/').and_then(|(_, format)| format.parse().ok()).unwrap_or(1)
}

/// Those of `fences` that are still the newest of their partitions.
///
/// # Errors
/// When the server is away.
pub async fn still_held(
    connection: &mut PgConnection,
    fences: &[Fence],
) -> Result<Vec<Fence>, sqlx::Error> {
    let newest: Vec<i16> = sqlx::query_scalar(
        "select p.id from unnest($1::int[], $2::bigint[]) as f(id, fence)
         join partitions p on p.id = f.id and p.fence = f.fence",
    )
    .bind(fences.iter().map(|f| i32::from(f.partition)).collect::<Vec<_>>())
    .bind(fences.iter().map(|f| f.fence).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let held = |fence: &&Fence| newest.iter().any(|id| u16::try_from(*id) == Ok(fence.partition));
    Ok(fences.iter().filter(held).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_owner_tells_what_it_reads() {
        assert_eq!(format_of(&owner_name(Uuid::nil())), FORMAT);
        assert_eq!(format_of(&Uuid::nil().to_string()), 1, "a worker of the first release");
        assert_eq!(format_of("018f3c1e/12"), 12, "a worker of a release to come");
    }
}
