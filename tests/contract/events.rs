//! Real events against their schemas: whatever the rules decide, in lives that nobody would write
//! down, is what its schema says, and nothing besides. And what is no event of a type is refused.

use std::collections::BTreeSet;
use std::sync::Mutex;

use booking::booking::calendar::Calendar;
use booking::booking::command::{CommandRecord, CommandStatus};
use booking::booking::decide::{Decision, Effect, by_time, decide};
use booking::booking::event::{self, Endpoint};
use booking::booking::problem::{Code, FieldError, Problem};
use booking::booking::{Booking, Interval};
use chrono::{DateTime, TimeDelta, Utc};
use jsonschema::Validator;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::files::{kept, validator};
use crate::life::{Step, command, life};

/// The schema of a type; strictly: an event says nothing that it does not name.
struct Schema {
    as_it_is: Validator,
    strict: Validator,
}

impl Schema {
    fn of(event_type: &str) -> Self {
        let schema = kept(&format!("events/{event_type}.v1.json"));
        let mut strict = schema.clone();
        strict["unevaluatedProperties"] = false.into();
        close_inside(&mut strict);
        for definition in members_mut(&mut strict, "$defs") {
            close_inside(definition);
        }
        Self { as_it_is: validator(&schema), strict: validator(&strict) }
    }

    #[track_caller]
    fn takes(&self, event: &Value) {
        for validator in [&self.as_it_is, &self.strict] {
            let mistakes: Vec<_> = validator.iter_errors(event).map(|e| e.to_string()).collect();
            assert!(mistakes.is_empty(), "{mistakes:?}\n{event:#}");
        }
    }
}

/// Closes what is used, not what is defined: a use may add to a definition.
fn close_inside(schema: &mut Value) {
    for property in members_mut(schema, "properties") {
        property["unevaluatedProperties"] = false.into();
        close_inside(property);
    }
}

fn members_mut<'a>(schema: &'a mut Value, keyword: &str) -> impl Iterator<Item = &'a mut Value> {
    let members = schema.get_mut(keyword).and_then(Value::as_object_mut);
    members.into_iter().flat_map(|members| members.values_mut())
}

#[test]
fn every_event_of_every_life_is_what_its_schema_says() {
    let schemas = event::TYPES.map(|event_type| (event_type, Schema::of(event_type)));
    let seen = Mutex::new(BTreeSet::new());
    let mut runner = TestRunner::new(ProptestConfig::with_cases(300));
    let lives = runner.run(&life(), |steps| {
        for event in events_of(&steps) {
            let event: Value = serde_json::from_str(&event).unwrap();
            let name = event["type"].as_str().unwrap().to_owned();
            let schema = schemas.iter().find(|(event_type, _)| **event_type == name);
            schema.unwrap_or_else(|| panic!("{name} is no type")).1.takes(&event);
            seen.lock().unwrap().insert(name);
        }
        Ok(())
    });
    lives.unwrap();
    let told = |name: &&str| name.starts_with("booking.") || **name == *event::COMMAND_SUCCEEDED;
    for name in event::TYPES.iter().filter(|name| told(name) || **name == event::COMMAND_REJECTED) {
        assert!(seen.lock().unwrap().contains(*name), "no life came to {name}");
    }
}

/// What is told of a life, written as the decision's commit writes it.
fn events_of(steps: &[Step]) -> Vec<String> {
    let (mut calendar, mut now) =
        (Calendar::default(), DateTime::UNIX_EPOCH + TimeDelta::days(20_000));
    let (mut bookings, mut events) = (Vec::<Booking>::new(), Vec::new());
    for step in steps {
        now += TimeDelta::seconds(step.pause);
        let Some(command) = command(&step.ask, &bookings, now) else {
            let over: Vec<Effect> = bookings.iter().filter_map(|b| by_time(b, now)).collect();
            for effect in over {
                events.push(of_change(None, &effect));
                note(&mut calendar, &mut bookings, &effect);
            }
            continue;
        };
        let record = CommandRecord {
            command_id: command.command_id,
            booking_id: command.booking_id,
            kind: command.change.kind().as_str().to_owned(),
            status: CommandStatus::Succeeded,
            booking: None,
            error: None,
            accepted_at: command.accepted_at,
            decided_at: Some(now),
        };
        match decide(&calendar, &command, now) {
            Decision::Changed(changed) => {
                for effect in &changed.lapsed {
                    events.push(of_change(None, effect));
                }
                events.push(of_change(Some(command.command_id), &changed.effect));
                for effect in changed.effects() {
                    note(&mut calendar, &mut bookings, effect);
                }
            }
            Decision::Unchanged(booking) => {
                let record = CommandRecord { booking: to_raw_value(&booking).ok(), ..record };
                events.push(of_command(event::COMMAND_SUCCEEDED, &record));
            }
            Decision::Rejected(problem) => {
                events.push(of_command(event::COMMAND_REJECTED, &refused(&problem, record)));
            }
        }
    }
    events
}

fn note(calendar: &mut Calendar, bookings: &mut Vec<Booking>, effect: &Effect) {
    calendar.know(effect.after.clone());
    bookings.retain(|booking| booking.id != effect.after.id);
    bookings.push(effect.after.clone());
}

fn of_change(command_id: Option<Uuid>, effect: &Effect) -> String {
    event::of_change(Uuid::now_v7(), command_id, effect, &to_raw_value(&effect.after).unwrap())
}

fn of_command(event_type: &'static str, record: &CommandRecord) -> String {
    let time = record.decided_at.unwrap();
    event::of_command(Uuid::now_v7(), event_type, record.booking_id, time, record)
}

fn refused(problem: &Problem, record: CommandRecord) -> CommandRecord {
    let error = RawValue::from_string(problem.document("018f3c1e")).unwrap();
    CommandRecord { status: CommandStatus::Rejected, error: Some(error), ..record }
}

#[test]
fn a_refusal_with_any_code_is_an_event() {
    let now = Utc::now();
    let interval = Interval { start: now, end: now + TimeDelta::hours(1) };
    let record = CommandRecord {
        command_id: Uuid::now_v7(),
        booking_id: Uuid::now_v7(),
        kind: "cancel".to_owned(),
        status: CommandStatus::Rejected,
        booking: None,
        error: None,
        accepted_at: now,
        decided_at: Some(now),
    };
    for code in Code::ALL {
        let error = FieldError { field: "a".into(), code: *code, message: "b".into() };
        let plain = Problem::new(*code, "detail");
        let full = Problem {
            errors: vec![error],
            conflicts_with: Some(interval),
            ..Problem::new(*code, "detail")
        };
        for problem in [plain, full] {
            let mut record = refused(&problem, record.clone());
            takes(&of_command(event::COMMAND_REJECTED, &record));
            record.status = CommandStatus::Failed;
            takes(&of_command(event::COMMAND_FAILED, &record));
        }
    }
}

#[test]
fn what_endpoints_are_told_of_themselves_is_an_event() {
    for types in [vec![], vec!["*".to_owned()], event::TYPES.map(str::to_owned).to_vec()] {
        let endpoint = Endpoint {
            id: Uuid::now_v7(),
            url: "https://hooks.example/ü?a=b",
            event_types: &types,
        };
        takes(&event::of_webhook_disabled(Uuid::now_v7(), endpoint, "answered 410", Utc::now()));
    }
    takes(&event::of_webhook_test(Uuid::now_v7(), Uuid::now_v7(), Utc::now()));
}

#[track_caller]
fn takes(event: &str) {
    let event: Value = serde_json::from_str(event).unwrap();
    Schema::of(event["type"].as_str().unwrap()).takes(&event);
}

fn examples() -> Vec<(&'static str, Validator, Value)> {
    let example = |name| {
        let schema = kept(&format!("events/{name}.v1.json"));
        (name, validator(&schema), schema["examples"][0].clone())
    };
    event::TYPES.map(example).into()
}

#[test]
fn an_event_without_a_required_field_is_refused() {
    let mut refused = 0;
    for (name, validator, example) in examples() {
        let optional = ["/data/previous"]; // of `booking.confirmed`; its example has none
        for place in places(&example).into_iter().filter(|place| !optional.contains(&&**place)) {
            let (parent, field) = place.rsplit_once('/').unwrap();
            if parent.contains("metadata") || is_optional(field) {
                continue;
            }
            let mut event = example.clone();
            let Some(members) = event.pointer_mut(parent).unwrap().as_object_mut() else {
                continue;
            };
            members.remove(field).unwrap();
            assert!(!validator.is_valid(&event), "{name} without {place} is still one");
            refused += 1;
        }
    }
    assert!(refused > 150, "only {refused} were tried");
}

/// Fields of the examples that need not be there.
fn is_optional(field: &str) -> bool {
    ["cancelReason", "conflictsWith"].contains(&field)
}

#[test]
fn a_value_of_another_type_is_refused() {
    let mut refused = 0;
    for (name, validator, example) in examples() {
        for place in places(&example) {
            for wrong in [json!([[]]), json!({ "a": {} }), json!(-0.5)] {
                let mut event = example.clone();
                let value = event.pointer_mut(&place).unwrap();
                if (value.is_object() && wrong.is_object() && place.ends_with("previous"))
                    || (place.contains("/metadata/") && wrong.is_number())
                {
                    continue; // a number is as good as a string there
                }
                *value = wrong.clone();
                assert!(!validator.is_valid(&event), "{name} with {wrong} for {place}");
                refused += 1;
            }
        }
    }
    assert!(refused > 500, "only {refused} were tried");
}

#[test]
fn an_event_of_another_or_an_unknown_type_is_refused() {
    let examples = examples();
    for (name, validator, example) in &examples {
        for (other, _, event) in examples.iter().filter(|(other, ..)| other != name) {
            assert!(!validator.is_valid(event), "{other} passes for {name}");
        }
        for (field, word) in
            [("type", "booking.lost"), ("specversion", "0.3"), ("source", "urn:other")]
        {
            let mut event = example.clone();
            event[field] = word.into();
            assert!(!validator.is_valid(&event), "{name} with the {field} {word}");
        }
    }
}

/// Where everything inside a value is.
fn places(value: &Value) -> Vec<String> {
    let inside: Vec<(String, &Value)> = match value {
        Value::Object(members) => members.iter().map(|(name, v)| (name.clone(), v)).collect(),
        Value::Array(items) => {
            items.iter().enumerate().map(|(number, v)| (number.to_string(), v)).collect()
        }
        _ => Vec::new(),
    };
    let deeper = |(name, value): &(String, &Value)| {
        places(value).into_iter().map(|place| format!("/{name}{place}")).collect::<Vec<_>>()
    };
    let here = inside.iter().map(|(name, _)| format!("/{name}"));
    here.chain(inside.iter().flat_map(deeper)).collect()
}
