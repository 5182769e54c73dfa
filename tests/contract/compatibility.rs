//! What may change in a schema that is released.
//!
//! Of what we are **taken** to accept (commands), everything that was accepted must still be: no
//! new required field, none removed, nothing narrowed. What we are **given** to send (events and
//! replies) must stay what its readers know: fields are only added; none is removed, narrowed,
//! widened or left out more often. A keyword that is not compared here is a break, so that none is
//! forgotten.

use serde_json::{Map, Value, json};

/// Which way the messages of a schema go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// From others to us.
    Taken,
    /// From us to others.
    Given,
}

/// Keywords that say nothing of what is valid.
const ANNOTATIONS: [&str; 6] = ["$schema", "$id", "$defs", "title", "description", "examples"];

/// Every break between a released schema and its current text, with its place.
pub fn breaks(side: Side, released: &Value, current: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if released["$id"] != current["$id"] {
        found.push(format!("$id was {} and is {}", released["$id"], current["$id"]));
    }
    let comparison = Comparison { side, may_grow: false };
    let (released, current) = (inlined(released, released), inlined(current, current));
    comparison.compare("", &released, &current, &mut found);
    found
}

/// The schema with what it refers to in place, annotations gone and `const` written as an `enum`.
fn inlined(node: &Value, root: &Value) -> Value {
    let Value::Object(members) = node else {
        return match node {
            Value::Array(items) => items.iter().map(|item| inlined(item, root)).collect(),
            other => other.clone(),
        };
    };
    let mut inside = Map::new();
    for (keyword, value) in members {
        match keyword.as_str() {
            "$ref" => {
                let pointer = value.as_str().unwrap().trim_start_matches('#');
                let target = root.pointer(pointer).expect("a reference leads into the file");
                inside.insert("allOf".into(), json!([inlined(target, root)]));
            }
            "const" => drop(inside.insert("enum".into(), json!([value]))),
            "properties" => {
                let properties = value.as_object().unwrap();
                let inlined = properties.iter().map(|(name, v)| (name.clone(), inlined(v, root)));
                inside.insert("properties".into(), inlined.collect::<Map<_, _>>().into());
            }
            annotation if ANNOTATIONS.contains(&annotation) => {}
            _ => drop(inside.insert(keyword.clone(), inlined(value, root))),
        }
    }
    if let (1, Some(Value::Array(all))) = (inside.len(), inside.get_mut("allOf"))
        && all.len() == 1
    {
        return all.remove(0);
    }
    inside.into()
}

#[derive(Clone, Copy)]
struct Comparison {
    side: Side,
    /// Beside this enum any string of its kind is valid, so values may be added.
    may_grow: bool,
}

impl Comparison {
    fn compare(self, place: &str, released: &Value, current: &Value, found: &mut Vec<String>) {
        let (Some(was), Some(is)) = (released.as_object(), current.as_object()) else {
            if released != current {
                found.push(format!("{place}: was {released} and is {current}"));
            }
            return;
        };
        let mut keywords: Vec<&String> = was.keys().chain(is.keys()).collect();
        keywords.sort();
        keywords.dedup();
        for keyword in keywords {
            let (was, is) = (was.get(keyword), is.get(keyword));
            let place = format!("{place}/{keyword}");
            match keyword.as_str() {
                "properties" => self.properties(&place, was, is, found),
                "items" | "propertyNames" | "additionalProperties" => {
                    self.inside(&place, was, is, found);
                }
                "allOf" | "anyOf" => self.branches(&place, was, is, found),
                _ if !self.allows(keyword, was, is) => {
                    let text =
                        |value: Option<&Value>| value.map_or("absent".into(), Value::to_string);
                    found.push(format!("{place}: was {} and is {}", text(was), text(is)));
                }
                _ => {}
            }
        }
    }

    /// Whether a keyword with a plain value may change so.
    fn allows(self, keyword: &str, was: Option<&Value>, is: Option<&Value>) -> bool {
        if was == is {
            return known(keyword);
        }
        match (self.side, keyword) {
            (Side::Given, "required") => missing(was, is).is_empty(),
            (Side::Given, "enum") => was.is_some() && missing(was, is).is_empty() && self.may_grow,
            (Side::Given, _) => false,
            (Side::Taken, "required") => missing(is, was).is_empty(),
            (Side::Taken, _) if !known(keyword) => false,
            (Side::Taken, _) if is.is_none() => true,
            (Side::Taken, _) if was.is_none() => false,
            (Side::Taken, "enum") => missing(was, is).is_empty(),
            (Side::Taken, "type") => missing(was, is)
                .iter()
                .all(|lost| lost == "integer" && words(is).contains(&json!("number"))),
            (Side::Taken, bound) if bound.starts_with("max") => number(is) >= number(was),
            (Side::Taken, bound) if bound.starts_with("min") => number(is) <= number(was),
            (Side::Taken, _) => false,
        }
    }

    fn properties(
        self,
        place: &str,
        was: Option<&Value>,
        is: Option<&Value>,
        found: &mut Vec<String>,
    ) {
        for (name, released) in was.and_then(Value::as_object).into_iter().flatten() {
            let place = format!("{place}/{name}");
            match is.and_then(|is| is.get(name)) {
                Some(current) => self.compare(&place, released, current, found),
                None => found.push(format!("{place}: is gone")),
            }
        }
    }

    /// A schema inside a schema; absent is what anything is valid for, as is `true`.
    fn inside(self, place: &str, was: Option<&Value>, is: Option<&Value>, found: &mut Vec<String>) {
        let anything = json!(true);
        let (was, is) = (was.unwrap_or(&anything), is.unwrap_or(&anything));
        let widened = *is == anything || *was == json!(false);
        if self.side == Side::Given || !widened {
            self.compare(place, was, is, found);
        }
    }

    fn branches(
        self,
        place: &str,
        was: Option<&Value>,
        is: Option<&Value>,
        found: &mut Vec<String>,
    ) {
        let (was, is) = (words(was), words(is));
        if was.len() != is.len() {
            found.push(format!("{place}: were {} and are {}", was.len(), is.len()));
            return;
        }
        let any_string = |branch: &Value| branch["type"] == "string" && branch["enum"].is_null();
        let may_grow = place.ends_with("/anyOf") && is.iter().any(any_string);
        for (number, (was, is)) in was.iter().zip(&is).enumerate() {
            Self { may_grow, ..self }.compare(&format!("{place}/{number}"), was, is, found);
        }
    }
}

fn known(keyword: &str) -> bool {
    const KNOWN: [&str; 11] = [
        "type",
        "required",
        "enum",
        "pattern",
        "format",
        "maximum",
        "minimum",
        "maxLength",
        "minLength",
        "maxItems",
        "minItems",
    ];
    KNOWN.contains(&keyword) || ["maxProperties", "minProperties"].contains(&keyword)
}

/// What is in the first and not in the second list.
fn missing(first: Option<&Value>, second: Option<&Value>) -> Vec<Value> {
    let second = words(second);
    words(first).into_iter().filter(|word| !second.contains(word)).collect()
}

/// A list, or one word as a list.
fn words(value: Option<&Value>) -> Vec<Value> {
    match value {
        None => Vec::new(),
        Some(Value::Array(items)) => items.clone(),
        Some(one) => vec![one.clone()],
    }
}

fn number(value: Option<&Value>) -> f64 {
    value.and_then(Value::as_f64).unwrap()
}
