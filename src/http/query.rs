//! The query string of a read, brought into the same form as a body, so that the same reader
//! ([`crate::booking::fields::Fields`]) finds all mistakes in it: unknown parameters too.

use serde_json::{Map, Value};
use url::form_urlencoded;

use super::problem::mistake;
use crate::booking::problem::Problem;

/// The parameters as an object of strings.
///
/// # Errors
/// When a parameter is given twice.
pub fn object(query: Option<&str>) -> Result<Map<String, Value>, Problem> {
    let mut object = Map::new();
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if object.contains_key(&*name) {
            return Err(mistake(&name, "is given more than once"));
        }
        object.insert(name.into_owned(), Value::String(value.into_owned()));
    }
    Ok(object)
}
