//! Strangers' text in Markdown.

use crate::terminal::one_line;

/// Text escaped for Markdown: on one line, without markup and HTML.
pub fn escaped(text: &str) -> String {
    let mut safe = String::new();
    for character in one_line(text).chars() {
        match character {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '!' => {
                safe.push('\\');
                safe.push(character);
            }
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    #[test]
    fn markup_is_text() {
        assert_eq!(
            super::escaped("<b>a|b</b>\n# x"),
            "&lt;b&gt;a\\|b&lt;/b&gt; \\# x"
        );
    }
}
