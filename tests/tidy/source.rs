//! A Rust file as the laws see it: code, comments and strings apart.

use std::collections::BTreeSet;
use std::path::Path;

/// One file, taken apart so that a law about code is not broken by a comment or a string.
pub struct Source {
    /// From the root of the repository, such as `src/queue/mod.rs`.
    pub path: String,
    pub text: String,
    /// The text with comments and the insides of strings left out; lines stay where they are.
    pub code: String,
    pub comments: String,
    /// Each string literal and the line where it begins.
    pub strings: Vec<(usize, String)>,
}

pub struct Function {
    pub name: String,
    pub line: usize,
    /// From its name to its closing brace.
    pub lines: usize,
}

/// A file of the repository, by its path from the root.
pub fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(root.join(path)).unwrap()
}

/// All Rust files of `src/` and `tests/`.
pub fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join("src"), root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                found.push(Source::new(name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(found.len() > 40, "only {} files", found.len());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

impl Source {
    pub fn new(path: String, text: String) -> Self {
        let mut source = Self {
            path,
            code: String::new(),
            comments: String::new(),
            strings: Vec::new(),
            text: String::new(),
        };
        source.take_apart(&text);
        source.text = text;
        source
    }

    fn take_apart(&mut self, text: &str) {
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let length = match first {
                '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
                '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
                '"' => string_length(rest),
                'r' if self.at_word_start() => raw_string_length(rest).unwrap_or(1),
                '\'' => char_length(rest),
                _ => first.len_utf8(),
            };
            let (piece, after) = rest.split_at(length);
            if first == '/' && length > 1 {
                self.comments.push_str(piece);
                self.comments.push('\n');
                self.leave_lines(piece);
            } else if piece.ends_with(['"', '#']) && piece.len() > 1 {
                let line = self.code.matches('\n').count() + 1;
                let inside = piece.trim_start_matches('r').trim_matches('#');
                self.strings.push((line, inside.trim_matches('"').to_owned()));
                self.code.push_str("\"\"");
                self.leave_lines(piece);
            } else if first == '\'' && length > 1 {
                self.code.push_str("' '");
            } else {
                self.code.push_str(piece);
            }
            rest = after;
        }
    }

    fn leave_lines(&mut self, piece: &str) {
        self.code.extend(piece.chars().filter(|c| *c == '\n'));
    }

    fn at_word_start(&self) -> bool {
        let mut before = self.code.chars().rev();
        match before.next() {
            Some('b') => !before.next().is_some_and(is_word),
            last => !last.is_some_and(is_word),
        }
    }

    /// The top module that the file belongs to: `queue` for `src/queue/mod.rs`.
    pub fn module(&self) -> String {
        let path = self.path.trim_start_matches("src/");
        path.split(['/', '.']).next().unwrap().to_owned()
    }

    /// The code that is not a test. A file's tests are its last part.
    fn production(&self) -> &str {
        self.code.split("#[cfg(test)]").next().unwrap()
    }

    /// The lines of code that is not a test, with their numbers.
    pub fn production_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.production().lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// The top modules of ours that the file names.
    pub fn imports(&self) -> BTreeSet<String> {
        let mut roots = vec!["crate::"];
        if self.path == "src/main.rs" {
            roots.push("booking::");
        }
        // In a top module, `super` is the crate.
        if self.path.matches('/').count() == 1 || self.path.ends_with("/mod.rs") {
            roots.push("super::");
        }
        let mut imports = BTreeSet::new();
        for root in roots {
            for (index, _) in self.production().match_indices(root) {
                let before = self.production()[..index].chars().next_back();
                if before.is_some_and(|c| is_word(c) || c == ':') {
                    continue;
                }
                let after = &self.production()[index + root.len()..];
                match after.strip_prefix('{') {
                    Some(group) => imports.extend(group_heads(group)),
                    None => imports.extend(head(after)),
                }
            }
        }
        imports
    }

    /// Whether a path of the file begins with this crate.
    pub fn names_crate(&self, name: &str) -> bool {
        let code = self.production();
        code.match_indices(name).any(|(index, _)| {
            let before = code[..index].chars().next_back();
            code[index + name.len()..].starts_with("::")
                && !before.is_some_and(|c| is_word(c) || c == ':')
        })
    }

    pub fn functions(&self) -> Vec<Function> {
        let mut functions = Vec::new();
        for (index, _) in self.code.match_indices("fn ") {
            let before = self.code[..index].chars().next_back();
            let Some(name) = head(&self.code[index + 3..]) else { continue };
            if before.is_some_and(is_word) {
                continue;
            }
            let body = &self.code[index..];
            let Some(length) = body_end(body) else { continue };
            let line = self.code[..index].matches('\n').count() + 1;
            let lines = body[..length].matches('\n').count() + 1;
            functions.push(Function { name, line, lines });
        }
        functions
    }
}

/// Where the body that follows a signature ends; none for a declaration without one.
fn body_end(code: &str) -> Option<usize> {
    let (mut depth, mut brackets) = (0_u32, 0_i32);
    for (index, c) in code.char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            ';' if depth == 0 && brackets == 0 => return None,
            '{' => depth += 1,
            '}' if depth == 1 => return Some(index),
            '}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

/// The first names of `{a, b::c, d::{e, f}}`, given what follows the first brace.
fn group_heads(group: &str) -> Vec<String> {
    let mut heads = Vec::new();
    let (mut depth, mut begin) = (1, 0);
    for (index, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 || (depth == 1 && c == ',') {
            heads.extend(head(group[begin..index].trim_start()));
            begin = index + 1;
        }
        if depth == 0 {
            break;
        }
    }
    heads
}

/// The word that a text begins with, if it is a module's or a function's name.
fn head(text: &str) -> Option<String> {
    let word: String = text.chars().take_while(|c| is_word(*c)).collect();
    word.starts_with(|c: char| c.is_ascii_lowercase()).then_some(word)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn string_length(text: &str) -> usize {
    let mut escaped = false;
    for (index, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return index + 1,
            _ => {}
        }
    }
    text.len()
}

fn raw_string_length(text: &str) -> Option<usize> {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    let inside = text[1 + hashes..].strip_prefix('"')?;
    let end = inside.find(&format!("\"{}", "#".repeat(hashes)))?;
    Some(1 + hashes + 1 + end + 1 + hashes)
}

/// A character literal, or only the quote of a lifetime.
fn char_length(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some(_)) => {
            chars.find(|(_, c)| *c == '\'').map_or(1, |(index, _)| index + 1)
        }
        (Some(_), Some((index, '\''))) => index + 1,
        _ => 1,
    }
}

#[test]
fn code_comments_and_strings_are_told_apart() {
    let text = "let a = 'x'; // note \"no\"\nlet b: &'static str = r#\"TO\"DO\"#;\nf(\"s\\\"\");";
    let source = Source::new("src/a.rs".into(), text.into());
    assert_eq!(source.code, "let a = ' '; \nlet b: &'static str = \"\";\nf(\"\");");
    assert_eq!(source.comments, "// note \"no\"\n");
    assert_eq!(source.strings, [(2, "TO\"DO".to_owned()), (3, "s\\".to_owned())]);
    let source = Source::new("src/a.rs".into(), "use crate::{b::{c, d}, e};\nlapin::f()".into());
    assert_eq!(source.imports(), BTreeSet::from(["b".to_owned(), "e".to_owned()]));
    assert!(source.names_crate("lapin") && !source.names_crate("crate::b"));
}
