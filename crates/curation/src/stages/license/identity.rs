//! Which license of Creative Commons a name or an address denotes: its elements, version and jurisdiction.
//!
//! A name without a version, such as "CC BY" or Flickr's "Attribution License", denotes none: it could be any of
//! five.

/// The elements of a license, in the order in which Creative Commons writes them.
const ELEMENTS: [&str; 4] = ["by", "nc", "nd", "sa"];
/// The versions that exist.
const VERSIONS: [&str; 5] = ["1.0", "2.0", "2.5", "3.0", "4.0"];
/// Words that Creative Commons adds where no country is named.
const EVERYWHERE: [&str; 4] = ["international", "unported", "generic", "universal"];

/// The license that a name denotes, such as `by-sa/4.0`, `by/3.0/de`, `zero/1.0`; `None` for all others.
///
/// "CC BY 4.0", "CC-BY-4.0", "Creative Commons Attribution 4.0 International License", "Attribution 4.0
/// International (CC BY 4.0)" are one.
pub(super) fn of_name(name: &str) -> Option<String> {
    let name = name.trim();
    // A short form in brackets behind the long one must denote the same.
    if let Some((long, short)) = name
        .strip_suffix(')')
        .and_then(|name| name.split_once('('))
        .filter(|(long, _)| !long.trim().is_empty())
    {
        let (long, short) = (of_name(long)?, of_name(short)?);
        return (long == short).then_some(long);
    }
    let lower = name.to_ascii_lowercase();
    let is_between = |letter: char| letter.is_whitespace() || "-_/,".contains(letter);
    let words = lower.split(is_between).filter(|word| !word.is_empty());
    let mut words: Vec<&str> = words
        .filter(|word| !["license", "licence", "the", "version"].contains(word))
        .collect();
    let is_named = match words[..] {
        ["creative", "commons", ..] => {
            words.drain(..2);
            true
        }
        ["cc", ..] => {
            words.remove(0);
            true
        }
        ["cc0", ..] => {
            words[0] = "zero";
            true
        }
        _ => false,
    };
    let (mut elements, mut rest) = (Vec::new(), &words[..]);
    loop {
        let (element, more) = match rest {
            ["attribution" | "by", more @ ..] => ("by", more),
            ["noncommercial" | "nc", more @ ..] | ["non", "commercial", more @ ..] => ("nc", more),
            ["noderivatives" | "noderivs" | "nd", more @ ..]
            | ["no", "derivatives" | "derivs", more @ ..] => ("nd", more),
            ["sharealike" | "sa", more @ ..] | ["share", "alike", more @ ..] => ("sa", more),
            ["zero" | "0", more @ ..] if is_named => ("zero", more),
            ["public", "domain", "mark", more @ ..] => ("mark", more),
            _ => break,
        };
        // Twice the same is no name.
        if elements.contains(&element) {
            return None;
        }
        elements.push(element);
        rest = more;
    }
    let elements = match elements[..] {
        ["zero"] => "zero".to_string(),
        ["mark"] => "mark".to_string(),
        // "Attribution" alone, without Creative Commons' name, is a word.
        _ if elements.contains(&"by")
            && !elements.iter().any(|element| ["zero", "mark"].contains(element)) =>
        {
            let known = ELEMENTS.iter().filter(|element| elements.contains(element));
            known.copied().collect::<Vec<_>>().join("-")
        }
        _ => return None,
    };
    let only_one = ["zero", "mark"].contains(&elements.as_str());
    let (version, rest) = match rest {
        [version, rest @ ..] if VERSIONS.contains(&version.trim_start_matches('v')) => {
            (version.trim_start_matches('v'), rest)
        }
        // Both have one version only.
        rest if only_one => ("1.0", rest),
        _ => return None,
    };
    match rest {
        [] => Some(format!("{elements}/{version}")),
        [word] if EVERYWHERE.contains(word) => Some(format!("{elements}/{version}")),
        [country] if country.len() == 2 => Some(format!("{elements}/{version}/{country}")),
        _ => None,
    }
}

/// The license whose address this is, in the same form.
///
/// `http` and `https`, `www.`, capitals, a last `/`, what is behind `?` and `#`, and the pages `deed`,
/// `legalcode` and `rdf` with their languages make no difference. The license, its version and its
/// jurisdiction do.
pub(super) fn of_address(url: &str) -> Option<String> {
    let lower = url.trim().to_ascii_lowercase();
    let path = ["https://", "http://"]
        .iter()
        .find_map(|scheme| lower.strip_prefix(scheme))
        .map(|rest| rest.strip_prefix("www.").unwrap_or(rest))
        .and_then(|rest| rest.strip_prefix("creativecommons.org/"))?;
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let is_page = |part: &str| ["deed", "legalcode", "rdf"].contains(&part.split('.').next().unwrap_or(part));
    if parts.len() > 1 && parts.last().is_some_and(|part| is_page(part)) {
        parts.pop();
    }
    let kind = match parts.first()? {
        &"licenses" | &"publicdomain" => parts.remove(0),
        _ => return None,
    };
    match parts[..] {
        // The public domain dedication that CC0 replaced has no version.
        ["publicdomain"] if kind == "licenses" => Some("publicdomain".to_string()),
        [_, _] | [_, _, _] => Some(parts.join("/")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_license_denote_it() {
        for (license, spellings) in [
            (
                "by/4.0",
                &[
                    "CC BY 4.0",
                    "CC-BY-4.0",
                    "cc_by_4.0",
                    "CC BY v4.0",
                    "CC-BY 4.0 International",
                    "Creative Commons Attribution 4.0",
                    "Creative Commons Attribution 4.0 International License",
                    "Attribution 4.0 International (CC BY 4.0)",
                    "The Creative Commons Attribution Licence, version 4.0",
                ][..],
            ),
            (
                "by-nc-sa/3.0",
                &[
                    "CC BY-NC-SA 3.0",
                    "Attribution-NonCommercial-ShareAlike 3.0 Unported",
                    "Creative Commons Attribution-Noncommercial-Share Alike 3.0",
                ],
            ),
            (
                "by-nc-nd/2.0",
                &[
                    "CC BY-NC-ND 2.0",
                    "Attribution-NonCommercial-NoDerivs 2.0 Generic",
                ],
            ),
            ("by/3.0/de", &["CC BY 3.0 DE", "cc-by-3.0-de"]),
            (
                "zero/1.0",
                &[
                    "CC0",
                    "CC0 1.0",
                    "CC0-1.0",
                    "CC0 1.0 Universal",
                    "Creative Commons Zero v1.0 Universal",
                    "CC Zero",
                ],
            ),
            ("mark/1.0", &["Public Domain Mark 1.0", "Public Domain Mark"]),
        ] {
            for spelling in spellings {
                assert_eq!(of_name(spelling).as_deref(), Some(license), "{spelling}");
            }
        }
    }

    #[test]
    fn other_names_denote_none() {
        for name in [
            "",
            "CC",
            "CC BY",
            "Attribution License",
            "Attribution-NonCommercial License",
            "CC BY 4",
            "CC BY 5.0",
            "CC BY 4.0 or later",
            "CC BY BY 4.0",
            "CC SA 4.0",
            "BSD 2.0",
            "public domain",
            "Attribution 4.0 International (CC BY-SA 4.0)",
            "CC BY 4.0 (with exceptions)",
            "0",
        ] {
            assert_eq!(of_name(name), None, "{name}");
        }
    }

    #[test]
    fn addresses_and_names_denote_the_same() {
        let address = |path: &str| of_address(&format!("https://creativecommons.org/{path}"));
        assert_eq!(address("licenses/by-sa/4.0/"), of_name("CC BY-SA 4.0"));
        assert_eq!(address("licenses/by/3.0/de/deed.en"), of_name("CC BY 3.0 DE"));
        assert_eq!(address("publicdomain/zero/1.0/legalcode"), of_name("CC0"));
        assert_eq!(
            address("publicdomain/mark/1.0"),
            of_name("Public Domain Mark 1.0")
        );
        for other in [
            "",
            "licenses/",
            "licenses/by",
            "about/by/4.0",
            "licenses/by/4.0/us/more",
        ] {
            assert_eq!(address(other), None, "{other}");
        }
    }
}
