//! What both doors read alike: bodies, and texts that name things.

use serde_json::{Map, Value};

use crate::booking::json;
use crate::booking::problem::{Code, Problem};

/// Larger bodies are answered 413. Enough for the largest booking and for most of an availability.
pub const MAX_BODY_BYTES: usize = 256 * 1024;

/// The JSON object that a body is; an empty one where there is no body.
///
/// # Errors
/// When it is too large, or anything else.
pub fn object(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    if body.len() > MAX_BODY_BYTES {
        return Err(too_large());
    }
    if body.is_empty() {
        return Ok(Map::new());
    }
    match json::read(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::of_field("body", "must be a JSON object")),
        Err(error) => Err(Problem::of_field("body", format!("is not JSON: {error}"))),
    }
}

pub fn too_large() -> Problem {
    let detail = format!("The body must have at most {MAX_BODY_BYTES} bytes.");
    Problem::new(Code::PayloadTooLarge, detail)
}

/// Whether this is the media type of JSON, with parameters or without.
pub fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

/// Whether a text is 1 to `most` characters of ASCII between `!` and `~`.
pub fn is_visible_ascii(text: &[u8], most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic)
}
