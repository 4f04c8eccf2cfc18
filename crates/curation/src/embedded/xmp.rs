//! XMP, a description in RDF: a fresh packet is written with the properties of a list.
//!
//! Properties are known by their namespace, whatever prefix a program gives it. Only texts, addresses and
//! lists of them stay: structures and qualifiers could hold anything.

use quick_xml::escape::{resolve_predefined_entity, unescape};
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::ResolveResult;
use quick_xml::reader::NsReader;

use super::{Credit, FileMetadata, Kinds, Part};
use crate::photo::is_private_address;

/// Longest text that stays, bytes.
const LONGEST: usize = 8192;
/// Most texts of one property that stay.
const MOST_TEXTS: usize = 64;
/// Largest packet, bytes: a segment of a JPEG holds no more.
const LARGEST: usize = 65_000;

const RDF: &str = "http://www.w3.org/1999/02/22-rdf-syntax-ns#";
const META: &str = "adobe:ns:meta/";
const XML: &str = "http://www.w3.org/XML/1998/namespace";

/// A namespace with the properties of it that stay.
struct Rule {
    prefix: &'static str,
    namespace: &'static str,
    credit: &'static [&'static str],
    /// Those of them that are addresses, of which private ones go: `geo:` is a place.
    addresses: &'static [&'static str],
    /// Those that stay if only orientation and color do.
    needed: &'static [&'static str],
}

const KEPT: [Rule; 6] = [
    Rule {
        prefix: "dc",
        namespace: "http://purl.org/dc/elements/1.1/",
        credit: &["creator", "rights"],
        addresses: &[],
        needed: &[],
    },
    Rule {
        prefix: "xmpRights",
        namespace: "http://ns.adobe.com/xap/1.0/rights/",
        credit: &["Certificate", "Marked", "Owner", "UsageTerms", "WebStatement"],
        addresses: &["Certificate", "WebStatement"],
        needed: &[],
    },
    Rule {
        prefix: "cc",
        namespace: "http://creativecommons.org/ns#",
        credit: &[
            "license",
            "attributionName",
            "attributionURL",
            "morePermissions",
            "useGuidelines",
        ],
        addresses: &["attributionURL", "morePermissions", "useGuidelines"],
        needed: &[],
    },
    Rule {
        prefix: "photoshop",
        namespace: "http://ns.adobe.com/photoshop/1.0/",
        credit: &["Credit", "Source"],
        addresses: &[],
        needed: &[],
    },
    Rule {
        prefix: "tiff",
        namespace: "http://ns.adobe.com/tiff/1.0/",
        credit: &["Artist", "Copyright"],
        addresses: &[],
        needed: &["Orientation"],
    },
    Rule {
        prefix: "exif",
        namespace: "http://ns.adobe.com/exif/1.0/",
        credit: &[],
        addresses: &[],
        needed: &["ColorSpace"],
    },
];

/// A text, or an address (`rdf:resource`), with its language.
#[derive(Clone, Debug, Default, PartialEq)]
struct Text {
    text: String,
    language: Option<String>,
    is_address: bool,
}

/// A property that stays.
#[derive(Clone, Debug, PartialEq)]
struct Property {
    /// Its place in [`KEPT`].
    rule: usize,
    name: String,
    /// `Alt`, `Bag` or `Seq`; `None` for a single text.
    list: Option<&'static str>,
    texts: Vec<Text>,
}

/// Where the reader is.
#[derive(Clone, Copy, PartialEq)]
enum Node {
    /// Around the RDF.
    Around,
    Rdf,
    Description,
    Property,
    List,
    Item,
    /// In something that does not stay.
    Gone,
}

/// The packets of a file, the main one first, as one packet without what `level` removes.
pub(super) fn strip(packets: &[&[u8]], level: FileMetadata) -> Part {
    let mut reading = Reading {
        level,
        properties: Vec::new(),
        property: None,
        removed: Kinds::NONE,
    };
    for packet in packets {
        let before = reading.properties.len();
        if reading.read(packet).is_none() {
            reading.properties.truncate(before);
            reading.removed.add(Kinds::UNREADABLE);
        }
        reading.property = None;
    }
    let mut removed = reading.removed;
    let kept = (!reading.properties.is_empty()).then(|| written(&reading.properties));
    let fits = kept.as_ref().is_none_or(|kept| kept.len() <= LARGEST);
    if !fits {
        removed.add(Kinds::UNREADABLE);
    }
    Part {
        kept: kept.filter(|_| fits),
        removed,
        credit: credit_of(&reading.properties),
    }
}

/// Creators, license and rights. Of a text in several languages, the first is taken.
fn credit_of(properties: &[Property]) -> Credit {
    let texts = |prefix: &str, name: &str| {
        let is_it =
            |property: &&Property| (KEPT[property.rule].prefix, property.name.as_str()) == (prefix, name);
        let property = properties.iter().find(is_it)?;
        let count = if property.list == Some("Alt") {
            1
        } else {
            MOST_TEXTS
        };
        let texts = property.texts.iter().take(count).map(|text| text.text.trim());
        Some(texts.collect::<Vec<_>>().join(", "))
    };
    Credit {
        creator: texts("dc", "creator")
            .or_else(|| texts("tiff", "Artist"))
            .or_else(|| texts("cc", "attributionName")),
        license: texts("cc", "license"),
        statement: texts("xmpRights", "WebStatement"),
        terms: texts("xmpRights", "UsageTerms"),
        notice: texts("dc", "rights").or_else(|| texts("tiff", "Copyright")),
        owner: texts("xmpRights", "Owner"),
    }
}

struct Reading {
    level: FileMetadata,
    properties: Vec<Property>,
    /// The property being read.
    property: Option<Property>,
    removed: Kinds,
}

impl Reading {
    /// Reads a packet; `None` if it is not well-formed XML.
    fn read(&mut self, packet: &[u8]) -> Option<()> {
        let text = std::str::from_utf8(packet).ok()?;
        let text = text.trim_end_matches('\0');
        let mut reader = NsReader::from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
        let mut path: Vec<Node> = Vec::new();
        loop {
            let (start, is_empty) = match reader.read_event().ok()? {
                Event::Start(start) => (start, false),
                Event::Empty(start) => (start, true),
                Event::End(_) => {
                    let node = path.pop()?;
                    self.end(node);
                    continue;
                }
                Event::Text(text) => {
                    self.text(path.last(), &text);
                    continue;
                }
                Event::CData(text) => {
                    self.text(path.last(), &text);
                    continue;
                }
                Event::GeneralRef(entity) => {
                    match entity.resolve_char_ref().ok()? {
                        Some(letter) => self.text(path.last(), letter.encode_utf8(&mut [0; 4])),
                        None => self.text(path.last(), resolve_predefined_entity(&entity)?),
                    }
                    continue;
                }
                Event::Comment(_) => {
                    self.removed.add(Kinds::COMMENT);
                    continue;
                }
                Event::PI(instruction) => {
                    if instruction.target() != "xpacket" {
                        self.removed.add(Kinds::OTHER);
                    }
                    continue;
                }
                Event::Decl(_) => continue,
                // Entities of a document's own could unpack to anything.
                Event::DocType(_) => return None,
                Event::Eof => return path.is_empty().then_some(()),
            };
            let node = self.start(&reader, path.last().copied(), &start)?;
            match is_empty {
                true => self.end(node),
                false => path.push(node),
            }
        }
    }

    fn start(
        &mut self,
        reader: &NsReader<&[u8]>,
        parent: Option<Node>,
        start: &BytesStart<'_>,
    ) -> Option<Node> {
        let (namespace, name) = reader.resolver().resolve_element(start.name());
        let (namespace, name) = (text_of(&namespace), name.as_ref().to_string());
        let node = match (parent, namespace.as_str(), name.as_str()) {
            (None | Some(Node::Around), RDF, "RDF") => Node::Rdf,
            (None | Some(Node::Around), META, _) => Node::Around,
            (Some(Node::Rdf), RDF, "Description") => Node::Description,
            (Some(Node::Description), ..) => match self.rule(&namespace, &name) {
                Some(rule) => {
                    self.property = Some(Property {
                        rule,
                        name: name.clone(),
                        list: None,
                        texts: Vec::new(),
                    });
                    Node::Property
                }
                None => Node::Gone,
            },
            (Some(Node::Property), RDF, "Alt" | "Bag" | "Seq") => {
                let list = ["Alt", "Bag", "Seq"].into_iter().find(|list| *list == name);
                let property = self.property.as_mut()?;
                // A list within a text, or a second list.
                if property.list.is_some() || property.texts.iter().any(|text| !text.text.trim().is_empty()) {
                    Node::Gone
                } else {
                    property.texts.clear();
                    property.list = list;
                    Node::List
                }
            }
            (Some(Node::List), RDF, "li") => {
                self.property.as_mut()?.texts.push(Text::default());
                Node::Item
            }
            _ => Node::Gone,
        };
        if node == Node::Gone {
            self.removed.add(kind_of(&namespace, &name));
        }
        for attribute in start.attributes() {
            let attribute = attribute.ok()?;
            if attribute.key.as_namespace_binding().is_some() {
                continue;
            }
            let (namespace, name) = reader.resolver().resolve_attribute(attribute.key);
            let (namespace, name) = (text_of(&namespace), name.as_ref().to_string());
            let value = unescape(&attribute.value).ok()?.into_owned();
            self.attribute(node, &namespace, &name, value);
        }
        Some(node)
    }

    fn attribute(&mut self, node: Node, namespace: &str, name: &str, value: String) {
        let text = match node {
            // The name of the program that wrote it.
            Node::Around | Node::Rdf => return,
            Node::Description if (namespace, name) == (RDF, "about") && value.is_empty() => return,
            Node::Description => {
                if let Some(rule) = self.rule(namespace, name) {
                    let texts = vec![Text {
                        text: value,
                        ..Text::default()
                    }];
                    self.keep(Property {
                        rule,
                        name: name.to_string(),
                        list: None,
                        texts,
                    });
                    return;
                }
                None
            }
            Node::Property
                if self
                    .property
                    .as_ref()
                    .is_some_and(|property| property.texts.is_empty()) =>
            {
                self.property.as_mut().and_then(|property| {
                    property.texts.push(Text::default());
                    property.texts.last_mut()
                })
            }
            Node::Property | Node::Item => self
                .property
                .as_mut()
                .and_then(|property| property.texts.last_mut()),
            Node::List | Node::Gone => None,
        };
        match (text, namespace, name) {
            (Some(text), XML, "lang") if is_language(&value) => text.language = Some(value),
            (Some(text), RDF, "resource") => {
                text.text = value;
                text.is_address = true;
            }
            // A language of somebody's own could be any word.
            (Some(_), XML, "lang") => self.removed.add(Kinds::OTHER),
            _ => self.removed.add(kind_of(namespace, name)),
        }
    }

    fn text(&mut self, node: Option<&Node>, letters: &str) {
        match node {
            Some(Node::Property | Node::Item) => {
                let Some(property) = &mut self.property else {
                    return;
                };
                // Blanks around a list.
                if node == Some(&Node::Property) && property.list.is_some() {
                    if !letters.trim().is_empty() {
                        self.removed.add(Kinds::OTHER);
                    }
                    return;
                }
                if property.texts.is_empty() {
                    property.texts.push(Text::default());
                }
                if let Some(text) = property.texts.last_mut() {
                    match text.is_address {
                        false => text.text.push_str(letters),
                        true if letters.trim().is_empty() => {}
                        true => self.removed.add(Kinds::OTHER),
                    }
                }
            }
            Some(Node::Gone) => {}
            _ if letters.trim().is_empty() => {}
            _ => self.removed.add(Kinds::OTHER),
        }
    }

    fn end(&mut self, node: Node) {
        if node == Node::Property
            && let Some(property) = self.property.take()
        {
            self.keep(property);
        }
    }

    /// Keeps a property, unless it is empty, there already, or too large.
    fn keep(&mut self, mut property: Property) {
        property.texts.retain(|text| !text.text.trim().is_empty());
        if property.texts.is_empty() {
            return;
        }
        let same = |known: &Property| (known.rule, &known.name) == (property.rule, &property.name);
        let is_address = KEPT[property.rule].addresses.contains(&property.name.as_str());
        let is_writable = |text: &Text| {
            let letters = [Some(&text.text), text.language.as_ref()];
            let mut letters = letters.into_iter().flatten().flat_map(|text| text.chars());
            text.text.len() <= LONGEST
                && letters.all(|letter| !letter.is_control() || "\t\n\r".contains(letter))
                && !(is_address && is_private_address(&text.text))
        };
        match self.properties.iter().find(|known| same(known)) {
            Some(known) if *known == property => {}
            None if property.texts.len() <= MOST_TEXTS && property.texts.iter().all(is_writable) => {
                self.properties.push(property);
            }
            _ => self.removed.add(Kinds::OTHER),
        }
    }

    /// The rule that lets a property stay.
    fn rule(&self, namespace: &str, name: &str) -> Option<usize> {
        KEPT.iter().position(|rule| {
            let credit = self.level == FileMetadata::StripPrivate && rule.credit.contains(&name);
            rule.namespace == namespace && (credit || rule.needed.contains(&name))
        })
    }
}

/// Whether a text is the code of a language, such as `de` or `zh-Hant-TW`, without parts of somebody's own
/// (`x-…`).
pub(super) fn is_language(code: &str) -> bool {
    let is_part =
        |part: &str| (2..=8).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    code == "x-default" || code.len() <= 35 && code.split('-').all(is_part)
}

fn text_of(namespace: &ResolveResult<'_>) -> String {
    match namespace {
        ResolveResult::Bound(namespace) => namespace.0.to_string(),
        _ => String::new(),
    }
}

/// The kind of an element or attribute that is removed, by its name.
fn kind_of(namespace: &str, name: &str) -> Kinds {
    // The grammar of RDF says nothing of its own.
    if namespace == RDF || namespace == XML {
        return match name {
            "RDF" | "Description" | "Alt" | "Bag" | "Seq" | "li" | "parseType" | "resource" | "lang" => {
                Kinds::NONE
            }
            _ => Kinds::OTHER,
        };
    }
    let (namespace, name) = (namespace.to_ascii_lowercase(), name.to_ascii_lowercase());
    let has = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    let is = |names: &[&str]| names.contains(&name.as_str());
    let of = |parts: &[&str]| parts.iter().any(|part| namespace.contains(part));
    if is(&["gpsversionid"]) {
        return Kinds::OTHER;
    }
    let places = [
        "gps",
        "latitude",
        "longitude",
        "altitude",
        "location",
        "provincestate",
        "country",
        "worldregion",
    ];
    if has(&places) || is(&["city", "state", "lat", "long", "alt"]) || of(&["wgs84_pos"]) {
        Kinds::POSITION
    } else if has(&["ownername", "contactinfo", "hostcomputer"])
        || name.starts_with("ciadr")
        || name.starts_with("ciemail")
        || name.starts_with("citel")
        || name.starts_with("ciurl")
    {
        Kinds::OWNER
    } else if has(&["serialnumber", "uniqueid", "documentid", "instanceid", "guid"]) {
        Kinds::SERIAL
    } else if has(&["personinimage", "persondisplayname", "regioninfo", "regionlist"])
        || of(&["/regions/", "/region#", "/regioninfo#"])
    {
        Kinds::PEOPLE
    } else if has(&["thumbnail", "motionphoto", "microvideo"])
        || of(&[
            "/g/img/",
            "photos/1.0/image",
            "photos/1.0/container",
            "photos/1.0/depthmap",
        ])
    {
        Kinds::THUMBNAIL
    } else if has(&["makernote"]) {
        Kinds::MAKER_NOTE
    } else if has(&[
        "comment",
        "description",
        "keyword",
        "headline",
        "instructions",
        "captionwriter",
    ]) || is(&["title", "subject", "hierarchicalsubject", "label"])
    {
        Kinds::COMMENT
    } else {
        Kinds::OTHER
    }
}

fn written(properties: &[Property]) -> Vec<u8> {
    let mut out = "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n".to_string();
    out.push_str(&format!(
        "<x:xmpmeta xmlns:x=\"{META}\">\n<rdf:RDF xmlns:rdf=\"{RDF}\">\n<rdf:Description rdf:about=\"\""
    ));
    for (at, rule) in KEPT.iter().enumerate() {
        if properties.iter().any(|property| property.rule == at) {
            out.push_str(&format!(" xmlns:{}=\"{}\"", rule.prefix, rule.namespace));
        }
    }
    out.push_str(">\n");
    for property in properties {
        let name = format!("{}:{}", KEPT[property.rule].prefix, property.name);
        match property.list {
            Some(list) => {
                out.push_str(&format!("<{name}><rdf:{list}>"));
                property
                    .texts
                    .iter()
                    .for_each(|text| element(&mut out, "rdf:li", text));
                out.push_str(&format!("</rdf:{list}></{name}>"));
            }
            None => property
                .texts
                .iter()
                .take(1)
                .for_each(|text| element(&mut out, &name, text)),
        }
        out.push('\n');
    }
    out.push_str("</rdf:Description>\n</rdf:RDF>\n</x:xmpmeta>\n<?xpacket end=\"r\"?>");
    out.into_bytes()
}

fn element(out: &mut String, name: &str, text: &Text) {
    out.push_str(&format!("<{name}"));
    if let Some(language) = &text.language {
        out.push_str(&format!(" xml:lang=\"{}\"", escaped(language)));
    }
    match text.is_address {
        true => out.push_str(&format!(" rdf:resource=\"{}\"/>", escaped(&text.text))),
        false => out.push_str(&format!(">{}</{name}>", escaped(&text.text))),
    }
}

/// A text within XML; what a reader would make blanks of is escaped too.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\t' | '\n' | '\r' => out.push_str(&format!("&#{};", letter as u32)),
            letter => out.push(letter),
        }
    }
    out
}
