//! Separates Rust source into code and comments, so that rules look at the right half. A small
//! lexer for strings, raw strings, characters, line and nested block comments; it parses nothing.

/// Source text twice, with equal line breaks: once with comments and literals blanked out, once
/// with everything but comments blanked out.
#[derive(Debug)]
pub(crate) struct Scrubbed {
    pub(crate) code: String,
    pub(crate) comments: String,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Literal,
}

pub(crate) fn scrub(text: &str) -> Scrubbed {
    let mut out = Scrubbed { code: String::new(), comments: String::new() };
    let mut rest = text;
    while !rest.is_empty() {
        let (kind, len) = next(rest, out.code.chars().next_back());
        for c in rest[..len].chars() {
            let blank = if c == '\n' { '\n' } else { ' ' };
            out.code.push(if kind == Kind::Code { c } else { blank });
            out.comments.push(if kind == Kind::Comment { c } else { blank });
        }
        rest = &rest[len..];
    }
    out
}

/// Kind and length of the next piece; `before` is the last character of code.
fn next(rest: &str, before: Option<char>) -> (Kind, usize) {
    let one = rest.chars().next().map_or(0, char::len_utf8);
    if rest.starts_with("//") {
        return (Kind::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Kind::Comment, block_comment(rest));
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if !in_word && let Some(len) = raw_string(rest) {
        return (Kind::Literal, len);
    }
    if rest.starts_with('"') {
        return (Kind::Literal, quoted(rest, '"'));
    }
    if rest.starts_with('\'') && is_char(rest) {
        return (Kind::Literal, quoted(rest, '\''));
    }
    (Kind::Code, one)
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`, `br#"…"#`: the length, if one begins here.
fn raw_string(rest: &str) -> Option<usize> {
    let after = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = after.len() - after.trim_start_matches('#').len();
    let body = after[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let start = rest.len() - body.len();
    Some(body.find(&close).map_or(rest.len(), |end| start + end + close.len()))
}

fn quoted(rest: &str, mark: char) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == mark {
            return at + 1;
        }
    }
    rest.len()
}

/// A character rather than a lifetime: `'\…` or any character followed by a quote.
fn is_char(rest: &str) -> bool {
    let mut chars = rest.chars().skip(1);
    chars.next() == Some('\\') || chars.next() == Some('\'')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_comments_part_ways() {
        for (text, code, comment) in [
            ("a // b", "a     ", "  // b"),
            ("a /* b /* c */ d */ e", "a                   e", "  /* b /* c */ d */  "),
            ("x(\"// no\\\"\") // y", "x(         ) // y".split(" //").next().unwrap(), "// y"),
            ("let c = '\"'; // q", "let c =    ;     ", "// q"),
            ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}", ""),
            ("r#\"//\"# // z", "                ", "// z"),
            ("for_r\"x\"", "for_r   ", ""),
        ] {
            let seen = scrub(text);
            assert_eq!(seen.code.trim_end(), code.trim_end(), "{text}");
            assert_eq!(seen.comments.trim(), comment.trim(), "{text}");
        }
    }

    #[test]
    fn lines_stay_where_they_are() {
        let text = "a\n/* b\nc */\n\"d\ne\"\nf";
        let seen = scrub(text);
        assert_eq!(seen.code.lines().count(), 6);
        assert_eq!(seen.code.lines().nth(5), Some("f"));
    }
}
