//! A page of a list: as many rows as were asked for, unless they are large.

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

/// A page ends before the row that would make it larger; the next begins with it. A page has one
/// row at least.
const MAX_BYTES: usize = 1 << 20;

/// The first of the rows that were found, at most `limit`, and the last of them where more follow.
pub fn cut<T: Serialize>(found: &[T], limit: usize) -> (Vec<Box<RawValue>>, Option<&T>) {
    let (mut page, mut bytes) = (Vec::new(), 0);
    // Our own plain types can always be written.
    for row in found.iter().take(limit).filter_map(|row| to_raw_value(row).ok()) {
        bytes += row.get().len();
        if bytes > MAX_BYTES && !page.is_empty() {
            break;
        }
        page.push(row);
    }
    let last = found.get(page.len().wrapping_sub(1)).filter(|_| page.len() < found.len());
    (page, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_at_its_limit_or_when_it_is_large() {
        let small = ["a", "b", "c"];
        for (limit, rows, last) in [(1, 1, Some("a")), (2, 2, Some("b")), (3, 3, None)] {
            let (page, more) = cut(&small, limit);
            assert_eq!((page.len(), more.copied()), (rows, last));
        }
        assert_eq!(cut::<&str>(&[], 5).1, None);
        let large = ["x".repeat(MAX_BYTES / 3), "y".repeat(MAX_BYTES / 2), "z".repeat(MAX_BYTES)];
        let (page, more) = cut(&large, 3);
        assert_eq!((page.len(), more), (2, Some(&large[1])));
        let (page, more) = cut(&large[2..], 3);
        assert_eq!((page.len(), more), (1, None));
    }
}
