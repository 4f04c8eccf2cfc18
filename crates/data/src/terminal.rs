//! Strangers' text for terminals and logs: names from files, tables and checkpoints, made safe to print.
//!
//! A terminal executes control characters, and marks of writing direction reorder the text around them.

/// Whether a character changes the line or the terminal: control characters, line and paragraph separators,
/// and the marks and overrides of writing direction.
pub fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text on one line, each control character as its escape (`\n`, `\u{1b}`).
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if is_control(character) {
            escaped.extend(character.escape_default());
        } else {
            escaped.push(character);
        }
    }
    escaped
}

/// [`escape`] for text of several lines: its line feeds stay.
pub fn escape_lines(text: &str) -> String {
    text.split('\n').map(escape).collect::<Vec<_>>().join("\n")
}

/// The text on one line, for people: control characters become blanks, and runs of blanks become one.
pub fn one_line(text: &str) -> String {
    let blanked: String = text
        .chars()
        .map(|character| if is_control(character) { ' ' } else { character })
        .collect();
    blanked.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_letters_stay() {
        assert_eq!(escape("Zoë\t\u{1b}[31m\n"), "Zoë\\t\\u{1b}[31m\\n");
        assert_eq!(escape("a\u{202e}gpj.b"), "a\\u{202e}gpj.b");
        assert_eq!(escape_lines("a\nb\r\n"), "a\nb\\r\n");
        assert_eq!(one_line(" a\n\tb\u{2028}c  d "), "a b c d");
    }
}
