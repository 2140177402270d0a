//! What a rule would have had to know, with the numbers of the message.

use super::super::rules::Rule;
use super::words::bytes;

/// The number behind `name` in a message: `off=13`.
fn number(message: &str, name: &str) -> Option<i64> {
    let at = message.match_indices(name).map(|(at, _)| at).find(|at| {
        // `size=` is also the end of `value_size=`.
        !message[..*at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
    })?;
    let rest = &message[at + name.len()..];
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// What was needed, in a sentence that begins small.
pub(super) fn needed(rule: &Rule, message: &str) -> Option<String> {
    let number = |name| number(message, name);
    Some(match rule.id.0 {
        201 => "a value for the register on every path to this instruction".to_owned(),
        204 => "a number; of a pointer only sums and differences are followed".to_owned(),
        207 | 302 | 406 | 505 => "a smallest and a largest value, both small".to_owned(),
        205 | 401 | 504 => "a comparison with NULL on every path to this instruction".to_owned(),
        301 => "every byte that is read to have been written before, on every path".to_owned(),
        402 => "a pointer".to_owned(),
        403 => {
            let (off, size, have) = (number("off=")?, number("size=")?, number("r=")?);
            let from = match number("id=") {
                Some(0) => "the packet's first byte",
                _ => "where the pointer was last moved by a variable",
            };
            format!(
                "a comparison that proves {} from {from}; {} are proven",
                bytes(off.checked_add(size)?),
                have.max(0)
            )
        }
        404 => "a smallest value that is not negative".to_owned(),
        405 => {
            let (value, off, size) = (number("value_size=")?, number("off=")?, number("size=")?);
            format!("{} at offset {off} to lie within the value's {}", bytes(size), bytes(value))
        }
        407 => {
            let (mem, off, size) = (number("mem_size=")?, number("off=")?, number("size=")?);
            format!("{} at offset {off} to lie within {}", bytes(size), bytes(mem))
        }
        506 => "a smallest value of at least 1".to_owned(),
        601 | 602 => "the reference to be given back before".to_owned(),
        705 => "the region to be left before".to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_whole_name() {
        let message = "invalid access to map value, value_size=8 off=-4 size=2";
        assert_eq!(number(message, "size="), Some(2));
        assert_eq!(number(message, "value_size="), Some(8));
        assert_eq!(number(message, "off="), Some(-4));
        assert_eq!(number(message, "r="), None);
    }
}
