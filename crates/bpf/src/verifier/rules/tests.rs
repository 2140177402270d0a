//! Every message that the verifier writes belongs to a rule.

use std::fs;
use std::path::Path;

use super::*;

/// Messages that refuse nothing by themselves.
const REMARKS: &[&str] = &["Func#* ('*') is global and assumed valid.", "cur state:*", "old state:*"];

/// String literals of the calls `say(..)` and `fail(..)` of a source, as they would be written.
fn messages(source: &str) -> Vec<String> {
    let code = source.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(source);
    let mut found = Vec::new();
    for call in [".fail(", ".say("] {
        for (at, _) in code.match_indices(call) {
            let body = arguments(&code[at + call.len()..]);
            // A literal may stand outside: `let text = "..."` is found by the programs of the tests.
            let Some(start) = body.find("format_args!(") else { continue };
            let inner = arguments(&body[start + "format_args!(".len()..]);
            if let Some(text) = literal(inner) {
                found.push(text);
            }
        }
    }
    found
}

/// Up to the parenthesis that closes what was opened before.
fn arguments(text: &str) -> &str {
    let (mut depth, mut quoted, mut escaped) = (1, false, false);
    for (i, c) in text.char_indices() {
        match (quoted, c) {
            (_, _) if escaped => escaped = false,
            (true, '\\') => escaped = true,
            (_, '"') => quoted = !quoted,
            (false, '(') => depth += 1,
            (false, ')') => {
                depth -= 1;
                if depth == 0 {
                    return &text[..i];
                }
            }
            _ => {}
        }
    }
    text
}

/// The first literal, with 7 for each placeholder.
fn literal(text: &str) -> Option<String> {
    let text = text.trim_start().strip_prefix('"')?;
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Some(out),
            '\\' => match chars.next()? {
                'n' => out.push('\n'),
                '\n' => while chars.next_if(|c| c.is_whitespace()).is_some() {},
                other => out.push(other),
            },
            '{' if chars.next_if_eq(&'{').is_some() => out.push('{'),
            '}' if chars.next_if_eq(&'}').is_some() => out.push('}'),
            '{' => {
                while chars.next()? != '}' {}
                out.push('7');
            }
            other => out.push(other),
        }
    }
    None
}

#[test]
fn every_message_of_the_verifier_names_a_rule() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/verifier");
    let mut seen = 0;
    let mut without = Vec::new();
    for entry in fs::read_dir(folder).expect("the sources are here") {
        let path = entry.expect("a file").path();
        if path.extension().is_none_or(|e| e != "rs") {
            continue;
        }
        for message in messages(&fs::read_to_string(&path).expect("a source")) {
            seen += 1;
            let remark = REMARKS.iter().any(|r| matches(r, message.trim()));
            if !remark && Rule::of_message(&message).is_none() {
                without.push(format!("{}: {message:?}", path.display()));
            }
        }
    }
    assert!(seen > 300, "only {seen} messages found: the calls are written in another way now");
    assert!(without.is_empty(), "no rule of the table has these forms:\n{}", without.join("\n"));
}

#[test]
fn identifiers_are_in_order_and_every_rule_says_something() {
    assert!(RULES.windows(2).all(|w| w[0].id < w[1].id));
    for rule in RULES {
        assert!(!rule.title.is_empty() && !rule.help.is_empty(), "{}", rule.id);
        assert_eq!(Rule::by_id(rule.id), Some(rule));
        assert_eq!(RuleId::parse(&rule.id.to_string()), Some(rule.id));
    }
    assert!(RULES.iter().filter(|r| r.messages.is_empty()).eq([Rule::silent()]));
}

#[test]
fn no_rule_hides_another_one() {
    for rule in RULES {
        for form in rule.messages {
            let text = form.replace('*', "7");
            let found = Rule::of_message(&text).map(|r| r.id);
            assert_eq!(found, Some(rule.id), "{form:?} of {} is taken by another rule", rule.id);
        }
    }
}

#[test]
fn a_message_of_several_lines_is_named_by_the_one_that_tells_most() {
    let of = |m: &str| Rule::of_message(m).map(|r| r.id.to_string());
    let packet =
        "invalid access to packet, off=13 size=1, R2(id=0,off=13,r=0)\nR2 offset is outside of the packet";
    assert_eq!(of(packet).as_deref(), Some("EB0403"));
    let value = "invalid access to map value, value_size=8 off=8 size=8\nR0 min value is outside of the allowed memory \
                 range";
    assert_eq!(of(value).as_deref(), Some("EB0405"));
    assert_eq!(of("R0 max value is outside of the allowed memory range").as_deref(), Some("EB0407"));
    let null = "R2 invalid mem access 'map_value_or_null'";
    assert_eq!(of(null).as_deref(), Some("EB0401"));
    assert_eq!(of("R2 invalid mem access 'scalar'").as_deref(), Some("EB0402"));
    assert_eq!(of("something else"), None);
}

#[test]
fn identifiers_are_read_in_every_form() {
    for text in ["EB0403", "eb0403", "0403", "403"] {
        assert_eq!(RuleId::parse(text), Some(RuleId(403)), "{text}");
    }
    for text in ["", "EB", "EBx", "E0403", "-1", "EB+403", "é0403", "99999999"] {
        assert_eq!(RuleId::parse(text), None, "{text}");
    }
}
