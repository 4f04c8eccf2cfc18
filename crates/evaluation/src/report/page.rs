//! The frame of a report: one HTML file that loads nothing, in dark and light, for narrow and wide screens.

use maud::{DOCTYPE, Markup, PreEscaped, html};

/// At most `most` letters of a text, with an ellipsis if it was longer; not escaped.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        false => text.to_string(),
        true => text.chars().take(most.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// A page under construction.
pub(crate) struct Page {
    title: String,
    /// Style sheet behind that of all pages.
    style: &'static str,
    lead: Markup,
    sections: Vec<(&'static str, &'static str, Markup)>,
}

impl Page {
    /// A page without sections.
    pub(crate) fn new(title: &str, lead: Markup) -> Self {
        Self {
            title: title.into(),
            style: "",
            lead,
            sections: vec![],
        }
    }

    /// The page with more rules for its own elements.
    pub(crate) fn with_style(mut self, style: &'static str) -> Self {
        self.style = style;
        self
    }

    /// A section with its heading, unless it is empty.
    pub(crate) fn section(&mut self, id: &'static str, heading: &'static str, content: Markup) {
        if !content.0.is_empty() {
            self.sections.push((id, heading, content));
        }
    }

    /// The whole file.
    pub(crate) fn html(&self) -> String {
        let policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta http-equiv="Content-Security-Policy" content=(policy);
                    meta name="color-scheme" content="light dark";
                    title { (self.title) }
                    style { (PreEscaped(STYLE)) (PreEscaped(self.style)) }
                }
                body {
                    header { h1 { (self.title) } (self.lead) }
                    @if self.sections.len() > 1 {
                        nav aria-label="Sections" {
                            ul {
                                @for (id, heading, _) in &self.sections {
                                    li { a href={ "#" (id) } { (heading) } }
                                }
                            }
                        }
                    }
                    main {
                        @for (id, heading, content) in &self.sections {
                            section id=(id) aria-labelledby={ (id) "-heading" } {
                                h2 id={ (id) "-heading" } { (heading) }
                                (content)
                            }
                        }
                    }
                }
            }
        };
        page.into_string()
    }
}

/// A table that scrolls by itself on a narrow screen.
pub(crate) fn table(class: &str, caption: &str, head: &Markup, rows: &Markup) -> Markup {
    html! {
        // Focusable, so that it can be scrolled with the keyboard.
        div class="scroll" tabindex="0" role="region" aria-label=(caption) {
            table class=(class) {
                caption { (caption) }
                thead { tr { (head) } }
                tbody { (rows) }
            }
        }
    }
}

/// The head of a column, of numbers or of text.
pub(crate) fn column(name: &str, is_text: bool) -> Markup {
    html! { th scope="col" class=[is_text.then_some("text")] { (name) } }
}

/// Colors that separate adjacent classes; more classes step around the color circle by golden angles.
pub(crate) fn color(class: usize) -> String {
    const FIRST: [&str; 10] = [
        "#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f", "#edc948", "#b07aa1", "#ff9da7", "#9c755f",
        "#7f7f7f",
    ];
    match FIRST.get(class) {
        Some(color) => (*color).to_string(),
        None => format!("hsl({} 55% 55%)", class * 1375 / 10 % 360),
    }
}

const STYLE: &str = "
:root{color-scheme:light dark;--page:#fff;--text:#1b1f24;--quiet:#57606a;--line:#d0d7de;--soft:#f3f5f7;--accent:#0b62c4;--tint:11,98,196;--right:#1a7f37;--wrong:#c0271d}
@media (prefers-color-scheme:dark){:root{--page:#14171b;--text:#e6e9ed;--quiet:#9aa4af;--line:#353c45;--soft:#1d2127;--accent:#6cb0ff;--tint:84,150,230;--right:#4cc267;--wrong:#ff7b72}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;padding:1rem;max-width:76rem;background:var(--page);color:var(--text);font:1rem/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;line-height:1.2;margin:.5rem 0}h2{font-size:1.25rem;margin:2.2rem 0 .5rem;border-bottom:1px solid var(--line);padding-bottom:.2rem}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
p{max-width:46rem;margin:.4rem 0}a{color:var(--accent)}.quiet,figcaption,caption{color:var(--quiet);font-size:.875rem}
nav ul{display:flex;flex-wrap:wrap;gap:.25rem .9rem;list-style:none;padding:0;margin:.8rem 0}nav a{display:inline-block;padding:.35rem 0}
.scroll{overflow-x:auto;max-width:100%;margin:.5rem 0;max-height:44rem;overflow-y:auto}.scroll:focus-visible{outline:2px solid var(--accent)}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;overflow-wrap:normal}caption{text-align:left;padding:.2rem 0}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap;vertical-align:top}
thead th{position:sticky;top:0;background:var(--soft);z-index:1}th:first-child,td.text,th.text{text-align:left}tr.headline td,tr.headline th{font-weight:600}
tbody th{font-weight:400}details summary{cursor:pointer;color:var(--accent)}pre{white-space:pre-wrap;margin:.3rem 0;font-size:.8rem;text-align:left;max-width:30rem;font-weight:400}
table.confusion td{text-align:center;min-width:2.6rem;background:rgba(var(--tint),calc(var(--p,0)*.006))}
table.confusion td.diagonal{outline:1px solid var(--line);outline-offset:-1px}table.confusion thead th{text-align:center}
table.confusion th[scope=row]{position:sticky;left:0;background:var(--page)}
.grid{display:flex;flex-wrap:wrap;gap:.7rem;margin:.6rem 0;padding:0;list-style:none}.grid figure,.row figure{margin:0;width:6.5rem}
.grid img,.row img{width:100%;aspect-ratio:1;object-fit:contain;background:var(--soft);display:block;border-radius:3px}
figcaption{line-height:1.3;margin-top:.2rem}.row{display:flex;flex-wrap:wrap;gap:.5rem;padding:.7rem 0;border-bottom:1px solid var(--line)}
.row figure.query img{outline:2px solid var(--accent);outline-offset:1px}.right{color:var(--right)}.wrong{color:var(--wrong)}
.map{position:relative;width:100%;max-width:60rem;aspect-ratio:1;background:var(--soft);border:1px solid var(--line);border-radius:4px;overflow:hidden;--s:26px}
.map i{position:absolute;width:var(--s);height:var(--s);margin:calc(var(--s)/-2);border:2px solid var(--h);border-radius:3px;background-size:calc(var(--s)*var(--columns)) auto;background-position:calc(var(--s)*-1*var(--x)) calc(var(--s)*-1*var(--y));background-origin:border-box}
.map i:hover{transform:scale(2.4);z-index:2}#dots:checked~.map i{background:var(--h)!important;border-radius:50%;--s:9px;border:0}
.legend{display:flex;flex-wrap:wrap;gap:.2rem .9rem;list-style:none;padding:0;margin:.5rem 0;font-size:.875rem}.legend span{display:inline-block;width:.8rem;height:.8rem;border-radius:50%;margin-right:.35rem;vertical-align:-.06rem}
img.wide{max-width:100%;height:auto;image-rendering:pixelated;border:1px solid var(--line);width:36rem}.small img{image-rendering:pixelated}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:.5rem 0}dt{color:var(--quiet)}dd{margin:0;min-width:0}
@media (max-width:40rem){body{padding:.75rem}table{font-size:.85rem}th,td{padding:.3rem .35rem}thead th{white-space:normal}.map{--s:17px}.grid figure,.row figure{width:5.1rem}dl{grid-template-columns:1fr}dd{margin-bottom:.4rem}}
@media print{nav{display:none}.scroll{overflow:visible;max-height:none}}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut() {
        assert_eq!(shortened("abcdef", 4), "abc…");
        assert_eq!(shortened("größe", 5), "größe");
    }

    #[test]
    fn a_page_loads_nothing() {
        let mut page = Page::new("a < b", html! { p { "lead" } });
        page.section("one", "One", html! { p { "x" } });
        page.section("empty", "Empty", html! {});
        let rows = html! { tr { td { "1" } } };
        page.section("two", "Two", table("", "A \"table\"", &column("x", false), &rows));
        let html = page.html();
        assert!(
            html.contains("<h1>a &lt; b</h1>") && html.contains("href=\"#two\"") && !html.contains("Empty")
        );
        assert!(!html.contains("http://") && !html.contains("https://") && !html.contains("<script"));
        assert!(html.contains("default-src 'none'"));
    }

    #[test]
    fn many_classes_have_colors() {
        assert_ne!(color(0), color(1));
        assert!(color(123_456).starts_with("hsl("));
    }
}
