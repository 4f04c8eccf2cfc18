//! Pascal VOC: a set of classes per picture, from the XML of its objects, and their boxes where they are asked for.
//!
//! Boxes are counted in pixels from 1, the last one included, so the edges of a box are `xmin - 1`, `ymin - 1`,
//! `xmax` and `ymax`.
//!
//! A class counts if at least one object of it is not `difficult`. If all of its objects are, the picture is
//! neither an example nor a counterexample, as in VOC's own lists of a class (0 there) and in VISSL's labels
//! (-1).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::Event;
use rayon::prelude::*;

use super::files;
use super::listed::{self, Listed, Listing, wrong};
use super::objects::{self, Annotations};
use super::part::Layout;
use crate::error::Error;
use crate::names;
use crate::record::Label;

/// `kind = "voc"`: `path` holds `JPEGImages`, `Annotations` and `ImageSets/Main`; `list` names one of its
/// lists.
pub(crate) const VOC: Layout = Layout {
    name: "voc",
    keys: &["list", "images", "annotations"],
    required: &[],
    in_folder: true,
    shards: None,
    open: |place, store| {
        let (root, part) = (&place.path, place.part);
        let images = root.join(part.images.as_deref().unwrap_or("JPEGImages"));
        let annotations = root.join(part.annotations.as_deref().unwrap_or("Annotations"));
        let list = part
            .list
            .as_ref()
            .map(|list| root.join(format!("ImageSets/Main/{list}.txt")));
        let listing = read(
            &images,
            &annotations,
            list.as_deref(),
            part.classes.as_deref(),
            place.with_objects,
        )?;
        listed::open(&images, listing, &list.unwrap_or(annotations), store)
    },
};

/// An annotation.
#[derive(Debug, Default)]
struct Annotation {
    /// The picture's file name, if given.
    file: Option<String>,
    /// For each class, whether some object of it is easy.
    classes: BTreeMap<String, bool>,
    /// The picture's width and height, as they are written.
    size: [Option<String>; 2],
    /// The objects in order.
    objects: Vec<VocObject>,
}

/// An object of an annotation.
#[derive(Debug)]
struct VocObject {
    class: String,
    is_easy: bool,
    /// `xmin`, `ymin`, `xmax` and `ymax`, as they are written.
    edges: [Option<String>; 4],
}

/// Names of the elements of a `bndbox`, in the order of [`VocObject::edges`].
const EDGES: [&str; 4] = ["xmin", "ymin", "xmax", "ymax"];

impl Annotation {
    /// Width and height, px; `None` where they are not stated, or are 0, as some programs write.
    fn size(&self) -> Option<(u32, u32)> {
        let side = |written: &Option<String>| written.as_ref()?.parse().ok().filter(|side| *side > 0);
        Some((side(&self.size[0])?, side(&self.size[1])?))
    }
}

impl VocObject {
    /// Left, top, right and bottom edge, px; `None` without a box.
    fn edges(&self) -> Result<Option<[f64; 4]>, String> {
        let mut edges = [0.0; 4];
        if self.edges.iter().all(Option::is_none) {
            return Ok(None);
        }
        for ((edge, written), name) in edges.iter_mut().zip(&self.edges).zip(EDGES) {
            let written = written
                .as_deref()
                .ok_or_else(|| format!("the box of an object `{}` has no `{name}`", self.class))?;
            *edge = written.parse().map_err(|_| {
                format!(
                    "`{name}` of an object `{}` must be a number, got `{written}`",
                    self.class
                )
            })?;
        }
        edges[0] -= 1.0;
        edges[1] -= 1.0;
        Ok(Some(edges))
    }
}

/// Reads the annotations of a list, or all.
fn read(
    images: &Path,
    annotations: &Path,
    list: Option<&Path>,
    classes: Option<&[String]>,
    with_objects: bool,
) -> Result<Listing, Error> {
    let names: Vec<String> = match list {
        Some(list) => {
            let text = fs::read_to_string(list).map_err(|error| unread_list(list, error))?;
            // Lists of one class have a second column.
            text.lines()
                .filter_map(|line| line.split_whitespace().next())
                .map(str::to_string)
                .collect()
        }
        None => annotated(annotations)?,
    };
    let read: Vec<Annotation> = names
        .par_iter()
        .map(|name| {
            let path = annotations.join(format!("{name}.xml"));
            let text = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
            parse(&text).map_err(|reason| wrong(&path, format!("not a VOC annotation: {reason}")))
        })
        .collect::<Result<_, Error>>()?;
    let classes: Vec<String> = match classes {
        Some(classes) => classes.to_vec(),
        None => {
            let names: BTreeSet<&String> = read.iter().flat_map(|read| read.classes.keys()).collect();
            names.into_iter().cloned().collect()
        }
    };
    let numbers: HashMap<&String, u32> = classes.iter().zip(0..).collect();
    let pictures = pictures_by_stem(images)?;
    let others = match list {
        Some(_) => {
            let known: HashSet<&String> = names.iter().collect();
            let annotated = annotated(annotations)?;
            let of_others = annotated.iter().filter(|name| !known.contains(name));
            let of_others = of_others.filter_map(|name| pictures.get(name));
            of_others.flatten().cloned().collect()
        }
        None => HashSet::new(),
    };
    let mut records = Vec::with_capacity(names.len());
    let mut objects = with_objects.then(Annotations::default);
    for (name, read) in names.iter().zip(read) {
        let annotation = || annotations.join(format!("{name}.xml"));
        if let Some(objects) = &mut objects {
            let picture = objects.pictures.len() as u64;
            objects.pictures.push(objects::Picture {
                id: None,
                size: read.size(),
            });
            for object in &read.objects {
                objects.push(objects::Annotation {
                    picture,
                    // Classes without a number give an error below.
                    class: numbers.get(&object.class).map_or(0, |number| u64::from(*number)),
                    edges: object.edges().map_err(|reason| wrong(&annotation(), reason))?,
                    is_difficult: !object.is_easy,
                    ..objects::Annotation::default()
                });
            }
        }
        let (mut present, mut undecided) = (vec![], vec![]);
        for (class, is_easy) in read.classes {
            let number = numbers
                .get(&class)
                .copied()
                .ok_or_else(|| names::unknown_class(&annotation(), &format!("class `{class}`"), &classes))?;
            match is_easy {
                true => present.push(number),
                false => undecided.push(number),
            }
        }
        present.sort_unstable();
        undecided.sort_unstable();
        records.push(Listed {
            path: picture(images, name, read.file, &pictures)
                .map_err(|reason| wrong(&annotation(), reason))?,
            label: Some(Label::Classes(present)),
            undecided,
        });
    }
    if objects.as_ref().is_some_and(Annotations::look_relative) {
        return Err(wrong(
            annotations,
            "every `bndbox` lies within 0 to 1, so they are probably shares of the picture's sides; they must be in pixels",
        ));
    }
    Ok(Listing {
        records,
        classes,
        others,
        objects,
    })
}

/// The names of the annotations in a folder, without `.xml`.
fn annotated(annotations: &Path) -> Result<Vec<String>, Error> {
    let is_xml = |path: &&PathBuf| {
        path.extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("xml"))
    };
    let stem = |path: &PathBuf| Some(path.file_stem()?.to_string_lossy().into_owned());
    let paths = files::list(annotations)?;
    Ok(paths.iter().filter(is_xml).filter_map(stem).collect())
}

/// The error for a list that cannot be read; one that does not exist names those that do.
fn unread_list(list: &Path, error: std::io::Error) -> Error {
    let beside = list.parent().and_then(|folder| files::list(folder).ok());
    let stem = |path: &PathBuf| Some(path.file_stem()?.to_string_lossy().into_owned());
    let lists: Vec<String> = beside.iter().flatten().filter_map(stem).collect();
    match error.kind() {
        std::io::ErrorKind::NotFound if !lists.is_empty() => wrong(
            list,
            format!("no such list; there are: {}", names::listed(&lists)),
        ),
        _ => Error::io("read", list)(error),
    }
}

/// The pictures in a folder by their names without extension.
fn pictures_by_stem(images: &Path) -> Result<HashMap<String, Vec<String>>, Error> {
    let mut pictures: HashMap<String, Vec<String>> = HashMap::new();
    for path in files::list(images)? {
        let (Some(stem), Some(name)) = (path.file_stem(), path.file_name()) else {
            continue;
        };
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        if super::names::is_image_extension(&extension) {
            let name = name.to_string_lossy().into_owned();
            let of_stem = pictures.entry(stem.to_string_lossy().into_owned());
            of_stem.or_default().push(name);
        }
    }
    Ok(pictures)
}

/// The picture of an annotation: VOC names it like the annotation, and other programs write its name into the
/// annotation. Where both lead to a picture, they must lead to the same one, because a file that was renamed
/// or copied would otherwise give its labels to another picture.
fn picture(
    images: &Path,
    annotation: &str,
    file: Option<String>,
    pictures: &HashMap<String, Vec<String>>,
) -> Result<String, String> {
    let named_alike = pictures.get(annotation).map_or(&[][..], Vec::as_slice);
    let written = file.filter(|file| !file.is_empty());
    match (named_alike, written) {
        (alike, Some(written)) if alike.contains(&written) => Ok(written),
        (alike @ [first, ..], Some(written)) if images.join(&written).is_file() => Err(format!(
            "its picture may be `{}`, which is named like it, or `{written}`, which its `filename` names",
            alike.iter().find(|name| name.ends_with(".jpg")).unwrap_or(first)
        )),
        ([one], _) => Ok(one.clone()),
        ([one, other, ..], _) => Err(format!(
            "its picture may be `{one}` or `{other}`, both of which are named like it"
        )),
        ([], Some(written)) => Ok(written),
        ([], None) => Ok(format!("{annotation}.jpg")),
    }
}

/// Reads the objects of an `annotation`. Parts of an object (VOC's heads and hands) are ignored.
fn parse(text: &str) -> Result<Annotation, String> {
    let mut reader = Reader::from_str(text.strip_prefix('\u{feff}').unwrap_or(text));
    let wrong = |error: &dyn std::fmt::Display| error.to_string();
    // Names of the elements around the current place, and the text of the innermost one so far.
    let (mut path, mut content) = (Vec::<String>::new(), String::new());
    let (mut annotation, mut object) = (Annotation::default(), Object::default());
    let mut has_root = false;
    loop {
        let (opened, closes) = match reader.read_event().map_err(|error| wrong(&error))? {
            Event::Start(start) => (Some(start), false),
            Event::Empty(start) => (Some(start), true),
            Event::End(_) => (None, true),
            Event::Text(text) => {
                content.push_str(&text);
                continue;
            }
            Event::CData(text) => {
                content.push_str(&text);
                continue;
            }
            Event::GeneralRef(entity) => {
                let letter = entity.resolve_char_ref().map_err(|error| wrong(&error))?;
                match (letter, resolve_predefined_entity(&entity)) {
                    (Some(letter), _) => content.push(letter),
                    (None, Some(letters)) => content.push_str(letters),
                    (None, None) => return Err(format!("unknown entity `&{};`", &*entity)),
                }
                continue;
            }
            Event::Decl(declaration) => {
                if let Some(encoding) = declaration.encoding() {
                    let encoding = encoding.map_err(|error| wrong(&error))?;
                    if !is_read_as_utf8(&encoding, text) {
                        return Err(format!(
                            "it must be in UTF-8, and says that it is in `{encoding}`"
                        ));
                    }
                }
                continue;
            }
            Event::Eof => break,
            Event::Comment(_) | Event::PI(_) | Event::DocType(_) => continue,
        };
        if let Some(start) = opened {
            let name = start.local_name().as_ref().to_string();
            if path.is_empty() && (has_root || name != "annotation") {
                return Err(match has_root {
                    true => format!("a second root element, `{name}`"),
                    false => format!("its root element is `{name}`, not `annotation`"),
                });
            }
            has_root = true;
            if name == "object" && path != ["annotation"] {
                return Err(format!(
                    "an `object` lies in `{}`, not in `annotation`",
                    path.last().map_or("", String::as_str)
                ));
            }
            path.push(name);
            content.clear();
        }
        if closes {
            let text = names::composed(content.trim()).into_owned();
            let names: Vec<&str> = path.iter().map(String::as_str).collect();
            match names[..] {
                ["annotation", "filename"] => {
                    set_once(&mut annotation.file, text, "annotation", "filename")?;
                }
                ["annotation", "size", "width"] => {
                    set_once(&mut annotation.size[0], text, "size", "width")?;
                }
                ["annotation", "size", "height"] => {
                    set_once(&mut annotation.size[1], text, "size", "height")?;
                }
                ["annotation", "object", "bndbox", edge] => {
                    if let Some(at) = EDGES.iter().position(|name| *name == edge) {
                        set_once(&mut object.edges[at], text, "bndbox", edge)?;
                    }
                }
                ["annotation", "object", "name"] => set_once(&mut object.name, text, "object", "name")?,
                ["annotation", "object", "difficult"] => {
                    set_once(&mut object.difficult, text, "object", "difficult")?;
                }
                ["annotation", "object"] => {
                    let edges = std::mem::take(&mut object.edges);
                    let (class, is_easy) = std::mem::take(&mut object).class()?;
                    *annotation.classes.entry(class.clone()).or_insert(false) |= is_easy;
                    annotation.objects.push(VocObject {
                        class,
                        is_easy,
                        edges,
                    });
                }
                _ => {}
            }
            path.pop();
            content.clear();
        }
    }
    match (path.last(), has_root) {
        (Some(open), _) => Err(format!("the file ends inside `{open}`")),
        (None, false) => Err("no `annotation` element".to_string()),
        (None, true) => Ok(annotation),
    }
}

/// Whether a text of this encoding has the same letters in UTF-8: ASCII is the same in the western encodings.
fn is_read_as_utf8(encoding: &str, text: &str) -> bool {
    let encoding = encoding.to_ascii_lowercase();
    let western = ["iso-8859-", "windows-125", "latin"];
    ["utf-8", "utf8", "us-ascii", "ascii"].contains(&encoding.as_str())
        || (text.is_ascii() && western.iter().any(|known| encoding.starts_with(known)))
}

/// The elements of an object that count.
#[derive(Default)]
struct Object {
    name: Option<String>,
    difficult: Option<String>,
    edges: [Option<String>; 4],
}

impl Object {
    /// Its class, and whether it is easy.
    fn class(self) -> Result<(String, bool), String> {
        let name = self.name.filter(|name| !name.is_empty());
        let name = name.ok_or("an `object` has no `name`")?;
        match self.difficult.as_deref() {
            None | Some("" | "0") => Ok((name, true)),
            Some("1") => Ok((name, false)),
            Some(other) => Err(format!(
                "`difficult` of an object `{name}` must be 0 or 1, got `{other}`"
            )),
        }
    }
}

/// Of two values neither is more right than the other.
fn set_once(place: &mut Option<String>, value: String, parent: &str, name: &str) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(before) => Err(format!(
            "`{parent}` has two elements `{name}`, the first is `{before}`"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_objects(text: &str) -> Vec<(String, bool)> {
        parse(text).unwrap().classes.into_iter().collect()
    }

    #[test]
    fn objects_are_read_without_their_parts() {
        let object = |name: &str, difficult: &str| {
            format!(
                "<object><name>{name}</name><difficult>{difficult}</difficult><part><name>head</name></part></object>"
            )
        };
        let text = format!(
            "<annotation><filename>a&amp;b.jpg</filename>{}{}{}{}</annotation>",
            object("dog", "1"),
            object("person", "1"),
            object("person", "0"),
            "<object>\n<part><name>hand</name></part>\n<name> cat </name></object>"
        );
        let read = parse(&text).unwrap();
        assert_eq!(read.file.as_deref(), Some("a&b.jpg"));
        let objects: Vec<_> = read
            .classes
            .iter()
            .map(|(name, easy)| (name.as_str(), *easy))
            .collect();
        assert_eq!(objects, [("cat", true), ("dog", false), ("person", true)]);
    }

    #[test]
    fn boxes_count_pixels_from_one_and_include_the_last() {
        let text = "<annotation><size><width>10</width><height> 8 </height></size><object><name>cat</name>\
                    <bndbox><ymin>2</ymin><xmin>1</xmin><xmax>10</xmax><ymax>2.5</ymax></bndbox>\
                    <part><name>head</name><bndbox><xmin>3</xmin></bndbox></part></object>\
                    <object><name>dog</name></object></annotation>";
        let read = parse(text).unwrap();
        assert_eq!(read.size(), Some((10, 8)));
        assert_eq!(read.objects[0].edges(), Ok(Some([0.0, 1.0, 10.0, 2.5])));
        assert_eq!(read.objects[1].edges(), Ok(None));
        let of = |edges: &str| {
            let object = format!("<object><name>cat</name><bndbox>{edges}</bndbox></object>");
            parse(&format!("<annotation>{object}</annotation>"))
                .unwrap()
                .objects[0]
                .edges()
        };
        assert_eq!(
            of("<xmin>1</xmin>").unwrap_err(),
            "the box of an object `cat` has no `ymin`"
        );
        assert_eq!(
            of("<xmin>x</xmin>").unwrap_err(),
            "`xmin` of an object `cat` must be a number, got `x`"
        );
    }

    /// The same object, as other programs may write it.
    #[test]
    fn xml_is_read_in_all_its_forms() {
        for (class, text) in [
            ("cat", "<object id=\"1\" pose='a > b'><name>cat</name></object>"),
            (
                "cat",
                "<!-- <object><name>ghost</name></object> --><object><name>cat</name></object>",
            ),
            ("cat", "<object><name><![CDATA[cat]]></name></object>"),
            ("a<b", "<object><name><![CDATA[a<b]]></name></object>"),
            ("caf\u{e9}", "<object><name>caf&#233;</name></object>"),
            ("caf\u{e9}", "<object><name>caf&#xE9;</name></object>"),
            ("caf\u{e9}", "<object><name>cafe\u{301}</name></object>"),
            ("a & b", "<object><name>a &amp; b</name></object>"),
            ("&lt;", "<object><name>&amp;lt;</name></object>"),
            ("cat", "<object ><name >cat</name ></object >"),
            ("cat", "<object>\n\t<name\n>\n\tcat\n</name>\n</object>"),
            ("cat", "<object><name>c<!-- x -->at</name><difficult/></object>"),
            ("cat", "<?tool <object>?><object><name>cat</name></object>"),
        ] {
            let whole = format!(
                "\u{feff}<?xml version=\"1.0\"?>\n<annotation verified=\"yes\">{text}</annotation>\n"
            );
            assert_eq!(read_objects(&whole), [(class.to_string(), true)], "{text}");
        }
        assert_eq!(read_objects("<annotation/>"), []);
    }

    #[test]
    fn what_is_no_annotation_is_refused_with_its_reason() {
        for (text, reason) in [
            ("", "no `annotation` element"),
            ("<html/>", "its root element is `html`, not `annotation`"),
            (
                "<annotations><annotation/></annotations>",
                "is `annotations`, not",
            ),
            (
                "<annotation><object><name>x</name>",
                "the file ends inside `object`",
            ),
            ("<annotation><object></annotation>", "object"),
            ("<annotation/><annotation/>", "a second root element"),
            ("<annotation><object/></annotation>", "an `object` has no `name`"),
            (
                "<annotation><object><name> </name></object></annotation>",
                "an `object` has no `name`",
            ),
            (
                "<annotation><object><name>a</name><name>b</name></object></annotation>",
                "two elements `name`, the first is `a`",
            ),
            (
                "<annotation><objects><object><name>a</name></object></objects></annotation>",
                "an `object` lies in `objects`",
            ),
            (
                "<annotation><object><name>a</name><difficult>2</difficult></object></annotation>",
                "`difficult` of an object `a` must be 0 or 1, got `2`",
            ),
            (
                "<annotation><object><name>&nbsp;</name></object></annotation>",
                "unknown entity `&nbsp;`",
            ),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn letters_of_another_encoding_are_not_taken_for_utf_8() {
        let of = |encoding: &str, name: &str| {
            let object = format!("<annotation><object><name>{name}</name></object></annotation>");
            parse(&format!("<?xml version='1.0' encoding='{encoding}'?>{object}"))
        };
        for (encoding, name) in [
            ("UTF-8", "caf\u{e9}"),
            ("ISO-8859-1", "cat"),
            ("windows-1252", "cat"),
        ] {
            assert!(
                of(encoding, name).unwrap().classes.contains_key(name),
                "{encoding}"
            );
        }
        // Escapes of ISO-2022-JP are ASCII.
        for (encoding, name) in [
            ("Shift_JIS", "cat"),
            ("ISO-2022-JP", "cat"),
            ("ISO-8859-1", "caf\u{e9}"),
        ] {
            let error = of(encoding, name).unwrap_err();
            assert_eq!(
                error,
                format!("it must be in UTF-8, and says that it is in `{encoding}`")
            );
        }
    }

    #[test]
    fn a_picture_is_named_by_its_annotation_or_in_it_and_never_by_a_choice() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.jpg", "b.PNG", "c.jpg", "c.png", "x.jpg"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let pictures = pictures_by_stem(folder.path()).unwrap();
        let of = |annotation: &str, file: Option<&str>| {
            picture(folder.path(), annotation, file.map(str::to_string), &pictures)
        };
        assert_eq!(of("a", None).unwrap(), "a.jpg");
        assert_eq!(of("b", Some("b.jpg")).unwrap(), "b.PNG");
        assert_eq!(of("c", Some("c.png")).unwrap(), "c.png");
        assert_eq!(of("other", Some("x.jpg")).unwrap(), "x.jpg");
        // Reported as missing when the pictures are looked up.
        assert_eq!(of("other", None).unwrap(), "other.jpg");
        assert!(of("a", Some("x.jpg")).unwrap_err().contains("may be `a.jpg`"));
        assert!(of("c", None).unwrap_err().contains("may be `c.jpg` or `c.png`"));
    }
}
