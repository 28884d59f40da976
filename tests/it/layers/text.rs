//! Sources as text: what is code in it, and how long its functions are.

/// Code without comments, with nothing left in its quotes.
pub fn bare(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(c) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(end) = raw_text(rest) {
            out.push_str("\"\"");
            end
        } else if c == '"' {
            out.push_str("\"\"");
            quoted(rest, '"')
        } else if c == '\'' && is_character(rest) {
            quoted(rest, '\'')
        } else {
            out.push(c);
            c.len_utf8()
        };
        rest = &rest[skipped..];
    }
    out
}

/// The length of a raw string (`r"..."`, `br#"..."#`) at the beginning of the text.
fn raw_text(text: &str) -> Option<usize> {
    let after = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = after.bytes().take_while(|b| *b == b'#').count();
    let inside = after[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = inside.find(&close)? + close.len();
    Some(text.len() - inside.len() + end)
}

fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = true;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Whether a quote begins a character and not a lifetime.
fn is_character(text: &str) -> bool {
    let mut next = text.chars().skip(1);
    match (next.next(), next.next()) {
        (Some('\\'), _) => true,
        (Some(_), after) => after == Some('\''),
        _ => false,
    }
}

pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The functions of a formatted file, each with its first line and how many it has.
pub fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<_> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let is_function = code.starts_with("fn ")
            || (code.contains(" fn ")
                && code.split(" fn ").next().is_some_and(|words| {
                    words.split_whitespace().all(|word| {
                        ["async", "const", "unsafe", "extern"].contains(&word)
                            || word.starts_with("pub")
                    })
                }));
        if !is_function {
            continue;
        }
        let indent = &line[..line.len() - code.len()];
        let (end, semicolon) = (format!("{indent}}}"), format!("{indent}) "));
        let body = lines[at..].iter().position(|line| {
            *line == end || (line.ends_with(';') && (line.starts_with(&semicolon)))
        });
        let one_line = line.ends_with(';') || line.ends_with("{}") || line.ends_with(" }");
        let length = if one_line {
            1
        } else {
            body.map_or(1, |n| n + 1)
        };
        let name = code
            .split("fn ")
            .nth(1)
            .unwrap_or_default()
            .split(|c| !is_word(c));
        found.push((
            name.into_iter().next().unwrap_or_default().to_owned(),
            at + 1,
            length,
        ));
    }
    found
}
