//! The addresses of a receiver's name, checked: what is connected is what was checked.
//!
//! In: a name, each time a connection to it is to be made. Out: its addresses, when *all* of them
//! may be connected. One that may not refuses them all: a name with a public and a private
//! address is an attempt to get in, and which one is connected would be chance. Nothing is
//! remembered, so a name that changes its addresses between two attempts (rebinding) is judged by
//! those it has now. A failed look-up refuses too. A crash loses nothing: there is no state.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::address::Policy;

/// A look-up that takes longer counts as failed. The system's own goes on until it ends.
const LOOK_UP_LIMIT: Duration = Duration::from_secs(5);
/// Each look-up holds a thread; further ones wait for their turn, within their limit.
const MAX_LOOK_UPS: usize = 16;

/// How the addresses of a name are found.
pub type LookUp = Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>;

/// Why a name has no addresses to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    #[error("name not found")]
    NotFound,
    #[error("name look-up timed out")]
    TimedOut,
    /// The addresses themselves are not told: they would say what private networks look like.
    #[error("the host name has an address that is not public")]
    NotPublic,
}

type Found = Result<Arc<[IpAddr]>, Unresolved>;
type UnderWay = Arc<Mutex<HashMap<String, Shared<BoxFuture<'static, Found>>>>>;

#[derive(Clone)]
pub struct Resolver {
    policy: Policy,
    look_up: LookUp,
    turns: Arc<Semaphore>,
    /// Look-ups that have not ended; who wants the same name waits for the same one, so that a
    /// name that nobody answers for holds one thread.
    under_way: UnderWay,
}

/// The system's look-up (`getaddrinfo`).
pub fn system() -> LookUp {
    Arc::new(|name| {
        async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        }
        .boxed()
    })
}

impl Resolver {
    pub fn new(policy: Policy, look_up: LookUp) -> Self {
        let turns = Arc::new(Semaphore::new(MAX_LOOK_UPS));
        Self { policy, look_up, turns, under_way: UnderWay::default() }
    }

    /// The addresses that may be connected.
    ///
    /// # Errors
    /// When there are none, or one of them may not be connected.
    pub async fn addresses(&self, name: &str) -> Found {
        let looking = self.join_or_start(name);
        let found = timeout(LOOK_UP_LIMIT, looking).await.unwrap_or(Err(Unresolved::TimedOut))?;
        match found.iter().all(|address| self.policy.allows(*address)) {
            true if found.is_empty() => Err(Unresolved::NotFound),
            true => Ok(found),
            false => Err(Unresolved::NotPublic),
        }
    }

    fn join_or_start(&self, name: &str) -> Shared<BoxFuture<'static, Found>> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(looking) = under_way.get(name) {
            return looking.clone();
        }
        // In a task of its own: it holds its turn until it ends, though nobody waits any more.
        let ended = tokio::spawn(self.clone().look_up(name.to_owned()));
        let looking = ended.map(|found| found.unwrap_or(Err(Unresolved::NotFound)));
        let looking = looking.boxed().shared();
        under_way.insert(name.to_owned(), looking.clone());
        looking
    }

    async fn look_up(self, name: String) -> Found {
        let _under_way = Entry { under_way: self.under_way, name: name.clone() };
        let _turn = self.turns.acquire_owned().await;
        let asked = match self.policy.allows_insecure() {
            true => name,
            // The whole name, not one that the search list of this machine's network completes.
            false => format!("{name}."),
        };
        let found = (self.look_up)(asked).await;
        found.map(Into::into).map_err(|_| Unresolved::NotFound)
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let found = resolver.addresses(name.as_str()).await?;
            let found: Vec<_> = found.iter().map(|address| SocketAddr::new(*address, 0)).collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// A look-up that has not ended, however it ends.
struct Entry {
    under_way: UnderWay,
    name: String,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;

    use super::*;

    const STRICT: fn() -> Policy = || Policy::new(&[443], false);

    /// Answers the given lists in turn, the last one for ever, and notes what it was asked.
    fn answering(answers: &'static [&'static [&'static str]]) -> (LookUp, Arc<Mutex<Vec<String>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = asked.clone();
        let look_up: LookUp = Arc::new(move |name| {
            let mut asked = noted.lock().unwrap();
            let answer = answers[asked.len().min(answers.len() - 1)];
            asked.push(name);
            let answer = answer.iter().map(|address| address.parse().unwrap()).collect();
            async { Ok(answer) }.boxed()
        });
        (look_up, asked)
    }

    #[tokio::test]
    async fn a_name_that_changes_its_address_is_judged_by_what_it_has_now() {
        let (look_up, asked) = answering(&[&["93.184.215.14"], &["127.0.0.1"]]);
        let resolver = Resolver::new(STRICT(), look_up);
        let found = resolver.addresses("hooks.example.org").await.unwrap();
        assert_eq!(found[0].to_string(), "93.184.215.14");
        let found = resolver.addresses("hooks.example.org").await;
        assert_eq!(found, Err(Unresolved::NotPublic));
        assert_eq!(*asked.lock().unwrap(), ["hooks.example.org."; 2]);
    }

    #[tokio::test]
    async fn one_address_that_is_not_public_refuses_the_name() {
        const MIXED: &[&[&str]] = &[
            &["93.184.215.14", "10.0.0.1"],
            &["10.0.0.1", "93.184.215.14"],
            &["93.184.215.14", "::1"],
            &["2606:4700::1111", "::ffff:169.254.169.254"],
            &["2606:4700::1111", "64:ff9b::a00:1"],
            &["2606:4700::1111", "93.184.215.14", "fe80::1"],
        ];
        let (look_up, _) = answering(MIXED);
        let resolver = Resolver::new(STRICT(), look_up);
        for mixed in MIXED {
            let found = resolver.addresses("hooks.example.org").await;
            assert_eq!(found, Err(Unresolved::NotPublic), "{mixed:?}");
        }
    }

    #[tokio::test]
    async fn a_look_up_that_fails_or_finds_nothing_refuses() {
        let (nothing, _) = answering(&[&[]]);
        let failing: LookUp = Arc::new(|_| async { Err(io::Error::other("away")) }.boxed());
        let dying: LookUp = Arc::new(|_| async { panic!("this look-up dies") }.boxed());
        for look_up in [nothing, failing, dying] {
            let resolver = Resolver::new(STRICT(), look_up);
            for _ in 0..2 {
                let found = resolver.addresses("hooks.example.org").await;
                assert_eq!(found, Err(Unresolved::NotFound));
            }
            assert!(resolver.under_way.lock().unwrap().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn look_ups_that_hang_are_given_up_and_hold_a_thread_each_and_no_more() {
        let running = Arc::new(AtomicUsize::new(0));
        let counted = running.clone();
        let hanging: LookUp = Arc::new(move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            futures::future::pending().boxed()
        });
        let resolver = Resolver::new(STRICT(), hanging);

        let same = join_all((0..100).map(|_| resolver.addresses("a.example.org"))).await;
        assert!(same.iter().all(|found| *found == Err(Unresolved::TimedOut)), "{same:?}");
        assert_eq!(running.load(Ordering::SeqCst), 1);

        let names: Vec<_> = (0..100).map(|n| format!("{n}.example.org")).collect();
        let others = join_all(names.iter().map(|name| resolver.addresses(name))).await;
        assert!(others.iter().all(|found| *found == Err(Unresolved::TimedOut)), "{others:?}");
        assert_eq!(running.load(Ordering::SeqCst), MAX_LOOK_UPS);
    }
}
