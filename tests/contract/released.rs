//! What is released is kept: the schemas of now against the frozen copies of `schemas/released/`,
//! and the comparison against changes that it must, or must not, refuse.

use booking::messages;
use serde_json::{Value, json};

use crate::compatibility::{Side, breaks};
use crate::files::{kept, names_under};

fn side(file: &str) -> Side {
    if file.starts_with("commands/") { Side::Taken } else { Side::Given }
}

#[test]
fn nothing_that_is_released_is_broken() {
    let released = names_under("released");
    assert!(released.len() >= 19, "only {released:?}");
    let messages = messages::all();
    let mut broken = Vec::new();
    for file in released {
        let copy = kept(&format!("released/{file}"));
        match messages.iter().find(|message| message.file == file) {
            None => broken.push(format!("{file}: is gone")),
            Some(message) => {
                let found = breaks(side(&file), &copy, &message.schema);
                broken.extend(found.into_iter().map(|found| format!("{file}: {found}")));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "others rely on what is released; make a new version of the message beside it:\n  {}",
        broken.join("\n  ")
    );
}

type Edit = fn(&mut Value);

/// Edits the file and says whether that breaks it.
#[track_caller]
fn is_broken(file: &str, about: &str, edit: Edit) -> bool {
    let released = kept(&format!("released/{file}"));
    let mut current = released.clone();
    edit(&mut current);
    assert_ne!(released, current, "{about}: changes nothing");
    !breaks(side(file), &released, &current).is_empty()
}

/// What is at a place, which must be there: an edit that misses would prove nothing.
#[track_caller]
fn at<'a>(schema: &'a mut Value, place: &str) -> &'a mut Value {
    schema.pointer_mut(place).unwrap_or_else(|| panic!("nothing at {place}"))
}

fn remove(list: &mut Value, word: &str) {
    let list = list.as_array_mut().unwrap();
    let place = list.iter().position(|item| item == word).unwrap();
    list.remove(place);
}

fn add(list: &mut Value, word: &str) {
    list.as_array_mut().unwrap().push(word.into());
}

fn cut(object: &mut Value, name: &str) {
    object.as_object_mut().unwrap().remove(name).unwrap();
}

#[test]
fn a_command_that_was_accepted_and_would_not_be_is_a_break() {
    let breaking: &[(&str, Edit)] = &[
        ("a new required field", |s| {
            at(s, "/properties")["reason"] = json!({ "type": "string" });
            add(at(s, "/required"), "reason");
        }),
        ("an optional field becomes required", |s| add(at(s, "/required"), "hold")),
        ("a field is gone", |s| cut(at(s, "/properties"), "hold")),
        ("null is no longer nothing", |s| at(s, "/properties/hold")["type"] = json!("integer")),
        ("a bound is lowered", |s| at(s, "/properties/hold")["maximum"] = json!(600)),
        ("a bound is raised", |s| at(s, "/properties/hold")["minimum"] = json!(31)),
        ("a new bound", |s| at(s, "/properties/userId")["maxLength"] = json!(30)),
        ("another pattern", |s| at(s, "/properties/startTime")["pattern"] = json!("^20")),
        ("a new format", |s| {
            at(s, "/properties/metadata/propertyNames")["format"] = json!("idn-email")
        }),
        ("less metadata", |s| at(s, "/properties/metadata")["maxProperties"] = json!(49)),
        ("metadata of strings alone", |s| {
            at(s, "/properties/metadata/additionalProperties")["type"] = json!(["string"]);
        }),
        ("no metadata but what is named", |s| {
            at(s, "/properties/metadata")["additionalProperties"] = json!(false);
        }),
        ("a choice of words", |s| at(s, "/properties/userId")["enum"] = json!(["a"])),
        ("another name", |s| s["$id"] = json!("urn:booking:schema:booking.create:2")),
        ("a keyword that is not compared", |s| s["not"] = json!({})),
    ];
    for (about, edit) in breaking {
        assert!(is_broken("commands/create.v1.json", about, *edit), "{about} is not noticed");
    }
    let words: Edit = |s| remove(at(s, "/properties/type/enum"), "booking.cancel");
    assert!(is_broken("commands/headers.v1.json", "a word is gone", words));
}

#[test]
fn a_command_may_be_asked_for_less_and_allowed_more() {
    let compatible: &[(&str, Edit)] = &[
        ("a new optional field", |s| at(s, "/properties")["note"] = json!({ "type": "string" })),
        ("a required field becomes optional", |s| remove(at(s, "/required"), "endTime")),
        ("a bound is raised", |s| at(s, "/properties/hold")["maximum"] = json!(3600)),
        ("a bound is lowered", |s| at(s, "/properties/hold")["minimum"] = json!(1)),
        ("a bound is gone", |s| cut(at(s, "/properties/hold"), "maximum")),
        ("fractions of a second", |s| {
            at(s, "/properties/hold")["type"] = json!(["number", "null"])
        }),
        ("a pattern is gone", |s| cut(at(s, "/properties/startTime"), "pattern")),
        ("more metadata", |s| at(s, "/properties/metadata")["maxProperties"] = json!(60)),
        ("unknown fields are ignored", |s| s["additionalProperties"] = json!(true)),
        ("other words for people", |s| s["description"] = json!("Books.")),
    ];
    for (about, edit) in compatible {
        assert!(!is_broken("commands/create.v1.json", about, *edit), "{about} is refused");
    }
    let words: Edit = |s| add(at(s, "/properties/type/enum"), "booking.split");
    assert!(!is_broken("commands/headers.v1.json", "a new word", words));
}

#[test]
fn an_event_that_its_readers_would_not_know_is_a_break() {
    let breaking: &[(&str, Edit)] = &[
        ("a field is gone", |s| cut(at(s, "/$defs/Booking/properties"), "cancelReason")),
        ("a field of the data is gone", |s| {
            cut(at(s, "/properties/data/properties"), "previous");
        }),
        ("a field may be left out", |s| remove(at(s, "/required"), "sequence")),
        ("a field of the booking may be left out", |s| {
            remove(at(s, "/$defs/Booking/required"), "metadata");
        }),
        ("a field is narrowed", |s| {
            at(s, "/$defs/Metadata/additionalProperties")["type"] = json!(["string"]);
        }),
        ("a field may be null", |s| {
            at(s, "/$defs/Booking/properties/version")["type"] = json!(["integer", "null"]);
        }),
        ("a number becomes text", |s| {
            at(s, "/$defs/Booking/properties/version")["type"] = json!("string");
        }),
        ("a word is gone", |s| {
            remove(at(s, "/$defs/Booking/properties/status/enum"), "EXPIRED");
        }),
        ("a word that nobody expects", |s| {
            add(at(s, "/$defs/Booking/properties/status/enum"), "LOST");
        }),
        ("another constant", |s| at(s, "/properties/source")["const"] = json!("urn:other")),
        ("a pattern is gone", |s| cut(at(s, "/properties/time"), "pattern")),
        ("longer strings", |s| {
            at(s, "/$defs/Metadata/additionalProperties")["maxLength"] = json!(501);
        }),
        ("the object is closed", |s| s["additionalProperties"] = json!(false)),
        ("another name", |s| s["$id"] = json!("urn:booking:schema:booking.confirmed:2")),
    ];
    for (about, edit) in breaking {
        assert!(is_broken("events/booking.confirmed.v1.json", about, *edit), "{about} passes");
    }
    let code: Edit = |s| remove(at(s, "/$defs/Code/anyOf/0/enum"), "SLOT_CONFLICT");
    assert!(is_broken("events/command.rejected.v1.json", "a code is gone", code));
}

#[test]
fn an_event_may_say_more() {
    let compatible: &[(&str, Edit)] = &[
        ("a new field", |s| at(s, "/properties")["partitionkey"] = json!({ "type": "string" })),
        ("a new field that is always there", |s| {
            at(s, "/$defs/Booking/properties")["place"] = json!({ "type": "string" });
            add(at(s, "/$defs/Booking/required"), "place");
        }),
        ("a field is always there from now on", |s| {
            add(at(s, "/properties/data/required"), "previous");
        }),
        ("another example", |s| s["examples"] = json!([])),
    ];
    for (about, edit) in compatible {
        assert!(!is_broken("events/booking.confirmed.v1.json", about, *edit), "{about} is refused");
    }
    // Its readers were told that codes are added.
    let code: Edit = |s| add(at(s, "/$defs/Code/anyOf/0/enum"), "TOO_LOUD");
    assert!(!is_broken("replies/command.refused.v1.json", "a new code", code));
}
