//! Traces over the whole journey, as an OpenTelemetry collector gets them; and the exemplars that
//! lead from a metric to a trace.

mod collector;
mod exemplars;

use std::collections::BTreeSet;

use booking::booking::Stream;
use booking::queue::EVENTS_EXCHANGE;
use booking::store::leadership::{Work, try_lead};
use futures::future::join_all;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use serde_json::Value;
use sqlx::PgConnection;
use tokio::process::Command;
use uuid::Uuid;

use crate::examples;
use crate::listener::Listener;
use crate::queue_door::service::{Letter, Service};
use crate::receiver::{Receiver, fast};
use crate::stage::{Answer, Process, Stage, User, until};
use collector::{Collector, Span};

/// Python, with what these tests need.
fn python(arguments: &[&str]) -> Command {
    examples::python_with("tests/journey/traces/requirements.txt", arguments)
}

/// A caller's trace context.
struct Caller {
    trace: String,
    span: String,
    sampled: bool,
}

impl Caller {
    fn new(sampled: bool) -> Self {
        let id = Uuid::now_v7().simple().to_string();
        Self { span: id[16..].to_owned(), trace: id, sampled }
    }

    fn traceparent(&self) -> String {
        format!("00-{}-{}-0{}", self.trace, self.span, u8::from(self.sampled))
    }

    async fn books(&self, user: &User, start: i64) -> Answer {
        let key = Uuid::now_v7().to_string();
        let headers = [("Idempotency-Key", key.as_str()), ("traceparent", &self.traceparent())];
        user.post("/api/bookings", &headers, user.slot(start, start + 30)).await
    }
}

/// Keeps commands from the broker by leading in the relay's place, so that a test says which of
/// them travel together.
struct Hold(#[expect(dead_code, reason = "held")] PgConnection);

impl Hold {
    /// Before there is a process that relays.
    async fn of(stage: &Stage) -> Self {
        let mut connection = stage.database().await;
        assert!(try_lead(&mut connection, Work::Relay(Stream::Commands)).await.unwrap());
        Self(connection)
    }
}

#[tokio::test]
async fn one_trace_shows_every_stage_of_a_booking_and_nothing_of_its_neighbours() {
    let collector = Collector::start().await;
    let stage = Stage::with_partitions("traced", 1).await;
    let hold = Hold::of(&stage).await;
    let processes = system(&stage, &collector).await;
    let events = Listener::on(&stage, EVENTS_EXCHANGE, &["#".to_owned()]).await;
    let receiver = Receiver::start(fast).await;

    let neighbours = [Caller::new(true), Caller::new(false)];
    let caller = Caller::new(true);
    let users = [0; 3].map(|_| User::new(&processes[0]));
    for user in [&users[0], &users[2]] {
        stage.endpoint(Some(user.id), &receiver.url(), &["*"]).await;
    }
    let unsampled = neighbours[1].books(&users[0], 0).await.is(202);
    neighbours[0].books(&users[1], 0).await.is(202);
    let booked = caller.books(&users[2], 0).await.is(202);
    drop(hold);

    let spans = collector.has(&caller.trace, &STAGES).await;
    let of = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    is_a_journey(&spans, &caller, ["http request", "accept"]);
    say_what_was_done(&spans, booked.text("commandId"));

    // Whoever hears of it can continue the trace.
    let posts = receiver.hears(2).await;
    let posted = |answer: &Answer| {
        let booking = answer.text("bookingId");
        posts.iter().find(|post| post.event()["subject"] == booking).unwrap().headers.clone()
    };
    assert_eq!(posted(&booked)["traceparent"], at(of("webhook")));
    // The trace that is not sent goes on, for those who send theirs.
    assert!(posted(&unsampled)["traceparent"].starts_with(&format!("00-{}-", neighbours[1].trace)));
    let heard = events.hears(3).await;
    let place = heard.iter().position(|event| event["subject"] == booked.text("bookingId"));
    let header = events.traceparents().await[place.unwrap()].clone();
    assert_eq!(header, Some(at(of("relay event"))));

    let beside = collector.has(&neighbours[0].trace, &STAGES[..5]).await;
    let worked = ["accept", "relay command", "decide command", "relay event"];
    for (stage, batch) in worked.into_iter().zip(["accept batch", "relay", "decide", "relay"]) {
        batch_of(&collector, of(stage), batch).await;
    }
    let decided = of("decide command");
    let batch = batch_of(&collector, decided, "decide").await;
    assert_eq!(batch.text("messaging.batch.message_count"), "3");
    let other = beside.iter().find(|span| span.name == "decide command").unwrap();
    assert_eq!(set(&batch.links), BTreeSet::from([decided.place(), other.place()]));
    exemplars::lead_to(&caller.trace, &processes).await;
    for mut process in processes {
        assert!(process.terminate().await.success());
    }
    assert_eq!(names(&collector.trace(&caller.trace)), names(&spans));
    assert!(collector.trace(&neighbours[1].trace).is_empty(), "its caller wants no trace");
}

#[tokio::test]
async fn a_message_is_traced_like_a_request() {
    let collector = Collector::start().await;
    let stage = Stage::new("traced-message").await;
    let processes = system(&stage, &collector).await;
    let service = Service::at(&stage).await;
    let caller = Caller::new(true);
    let letter = Letter::create(User::new(&processes[0]).id, 0, 30);
    let id = service.submits(&letter.header("traceparent", &caller.traceparent())).await;
    service.is_decided(&id).await;
    let stages = ["submission", "accept", "relay reply", "relay command", "decide command"];
    let rest = ["relay event", "relay reply"];
    let spans = collector.has(&caller.trace, &[&stages[..], &rest[..]].concat()).await;
    is_a_journey(&spans, &caller, ["submission", "accept"]);
}

/// More than the SDK would link, and sent only because the processes end.
#[tokio::test]
async fn a_batch_shows_the_way_to_each_of_its_commands_and_the_last_spans_are_sent_at_the_stop() {
    const COMMANDS: usize = 150;
    let collector = Collector::start().await;
    let stage = Stage::new("traced-batch").await;
    let hold = Hold::of(&stage).await;
    let mut settings = collector.settings();
    settings[2] = ("OTEL_BSP_SCHEDULE_DELAY", "86400000");
    let mut gateway = stage.start("gateway", &settings).await;
    gateway.is_ready().await;
    let mut worker = stage.start("worker", &settings).await;
    worker.is_ready().await;
    let callers: Vec<Caller> = (0..COMMANDS).map(|_| Caller::new(true)).collect();
    let users: Vec<User> = callers.iter().map(|_| User::new(&gateway)).collect();
    let booking = callers.iter().zip(&users).map(|(caller, user)| caller.books(user, 0));
    join_all(booking).await.iter().for_each(|answer| assert_eq!(answer.status, 202));
    drop(hold);
    stage.everything_is_decided().await;
    stage.everything_is_relayed().await;
    assert!(worker.terminate().await.success());
    assert!(gateway.terminate().await.success());

    let traces: BTreeSet<&str> = callers.iter().map(|caller| caller.trace.as_str()).collect();
    let here = |name: &str| {
        let spans = collector.spans().into_iter().filter(|span| span.name == name);
        spans.collect::<Vec<Span>>()
    };
    for (command, batch) in [
        ("accept", "accept batch"),
        ("relay command", "relay"),
        ("decide command", "decide"),
        ("relay event", "relay"),
    ] {
        until(&format!("each command has {command:?}"), async || here(command).len() >= COMMANDS)
            .await;
        let each = here(command);
        assert_eq!(each.iter().map(|span| span.trace.as_str()).collect::<BTreeSet<_>>(), traces);
        let wanted: BTreeSet<_> = each.iter().flat_map(|span| set(&span.links)).collect();
        let batches = async || -> Vec<Span> {
            here(batch).into_iter().filter(|batch| wanted.contains(&batch.place())).collect()
        };
        until("the batches are sent", async || batches().await.len() == wanted.len()).await;
        let linked = batches().await.iter().flat_map(|batch| set(&batch.links)).collect();
        assert_eq!(each.iter().map(Span::place).collect::<BTreeSet<_>>(), linked, "{command}");
    }
    let most = here("relay").iter().map(|batch| batch.links.len()).max();
    assert_eq!(most, Some(COMMANDS), "those that waited were published together");
}

#[tokio::test]
async fn a_system_that_sends_no_traces_passes_them_on_and_shows_no_exemplar() {
    let stage = Stage::new("untraced").await;
    let processes = [stage.gateway().await, stage.worker().await];
    let events = Listener::on(&stage, EVENTS_EXCHANGE, &["#".to_owned()]).await;
    let caller = Caller::new(true);
    caller.books(&User::new(&processes[0]), 0).await.is(202);
    events.hears(1).await;
    assert_eq!(events.traceparents().await, [Some(caller.traceparent())]);
    for process in &processes {
        assert_eq!(exemplars::of(process).await, Vec::<Value>::new());
    }
}

const STAGES: [&str; 6] =
    ["http request", "accept", "relay command", "decide command", "relay event", "webhook"];

/// A gateway, a worker and a process that delivers, which send their traces soon.
async fn system(stage: &Stage, collector: &Collector) -> [Process; 3] {
    let settings = [&collector.settings()[..], &[("WEBHOOK_ALLOW_INSECURE", "true")]].concat();
    let processes = ["gateway", "worker", "webhooks"].map(|role| stage.start(role, &settings));
    let processes: [Process; 3] = join_all(processes).await.try_into().ok().unwrap();
    join_all(processes.iter().map(Process::is_ready)).await;
    processes
}

/// The first span is the caller's child, the second that of the first, and all others are the
/// second's.
fn is_a_journey(spans: &[Span], caller: &Caller, [first, second]: [&str; 2]) {
    let of = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    for span in spans {
        let parent = match &span.name {
            name if name == first => &caller.span,
            name if name == second => &of(first).id,
            _ => &of(second).id,
        };
        assert_eq!(&span.parent, parent, "{span:#?}");
        assert!(!span.failed, "{span:#?}");
    }
}

fn say_what_was_done(spans: &[Span], command: &str) {
    let of = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    assert_eq!(
        STAGES.map(|name| of(name).kind),
        [
            SpanKind::Server,
            SpanKind::Internal,
            SpanKind::Producer,
            SpanKind::Consumer,
            SpanKind::Producer,
            SpanKind::Client
        ]
    );
    assert_eq!(of("accept").service, "booking-gateway");
    assert_eq!(of("decide command").service, "booking-worker");
    assert_eq!(of("webhook").service, "booking-webhooks");
    assert_eq!(of("http request").text("http.response.status_code"), "202");
    assert_eq!(of("accept").text("booking.outcome"), "accepted");
    let relayed = of("relay command").text("messaging.destination.name");
    assert_eq!(relayed, "booking.commands:p.00");
    let decided = of("decide command");
    assert_eq!(decided.text("messaging.destination.name"), "booking.commands.p.00");
    assert_eq!(decided.text("booking.command_id"), command);
    assert_eq!(decided.text("booking.state"), "succeeded");
    assert_eq!(of("webhook").text("webhook.outcome"), "delivered");
}

/// The span of the batch that did the work: they link to each other.
async fn batch_of(collector: &Collector, span: &Span, name: &str) -> Span {
    let [place] = &span.links[..] else { panic!("{span:#?}") };
    let found = || collector.spans().into_iter().find(|batch| batch.place() == *place);
    until("the batch is sent", async || found().is_some()).await;
    let batch = found().unwrap();
    assert_eq!((batch.name.as_str(), batch.parent.as_str()), (name, ""));
    assert!(batch.links.contains(&span.place()), "{batch:#?}");
    batch
}

/// The context that continues at a span.
fn at(span: &Span) -> String {
    format!("00-{}-{}-01", span.trace, span.id)
}

fn set(links: &[(String, String)]) -> BTreeSet<(String, String)> {
    links.iter().cloned().collect()
}

fn names(spans: &[Span]) -> Vec<String> {
    let mut names: Vec<String> = spans.iter().map(|span| span.name.clone()).collect();
    names.sort();
    names
}
