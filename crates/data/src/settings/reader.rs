//! A TOML tree in, a typed value out: errors know their place and the keys that belong there.
//!
//! serde's own errors lose the path inside enums, and speak of Rust's types.

use super::place::{Step, with};
use super::words::{in_range, plain, quoted, shown};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, IntoDeserializer,
    MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use toml::Value;

/// Names of keys or choices, as derived code has them.
pub(super) type Names = &'static [&'static str];

/// What is wrong at a place.
#[derive(Clone, Debug)]
pub(super) enum Problem {
    /// A value of another type or outside of its range.
    Type { expected: String, found: String },
    /// A key that the table does not have.
    Unknown { key: String, known: Names },
    /// A key that the table needs.
    Missing { key: String },
    /// A table that must have one key of several, and has none or others.
    Choice { names: Names, found: Vec<String> },
    /// A name that is none of those expected.
    Name { names: Names, found: String },
    /// A name of a choice that has settings, without them.
    Alone { name: String },
    /// A sentence of the type's own.
    Custom(String),
}

/// A tree that is no `C`.
#[derive(Debug)]
pub(super) struct Unread {
    /// `None` until the innermost node that saw the error has filled it in.
    pub(super) place: Option<Vec<Step>>,
    pub(super) problem: Problem,
}

impl Unread {
    fn new(problem: Problem) -> Self {
        Self { place: None, problem }
    }

    /// Fills in the place, if no inner node has.
    fn at(mut self, place: &[Step]) -> Self {
        self.place.get_or_insert_with(|| place.to_vec());
        self
    }
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.problem)
    }
}

impl std::error::Error for Unread {}

impl serde::de::Error for Unread {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Problem::Custom(message.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Problem::Type {
            expected: plain(&expected.to_string()),
            found: found.to_string(),
        })
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Problem::Type {
            expected: in_range(&expected.to_string()),
            found: found.to_string(),
        })
    }

    fn invalid_length(length: usize, expected: &dyn Expected) -> Self {
        Self::new(Problem::Type {
            expected: plain(&expected.to_string()),
            found: length.to_string(),
        })
    }

    fn unknown_variant(name: &str, names: Names) -> Self {
        Self::new(Problem::Name {
            names,
            found: name.to_string(),
        })
    }

    fn unknown_field(key: &str, known: Names) -> Self {
        Self::new(Problem::Unknown {
            key: key.to_string(),
            known,
        })
    }

    fn missing_field(key: &'static str) -> Self {
        Self::new(Problem::Missing { key: key.to_string() })
    }

    fn duplicate_field(key: &'static str) -> Self {
        Self::custom(format!("has `{key}` twice, under two spellings"))
    }
}

/// The keys and choices that a type has at the places that were read.
#[derive(Debug, Default)]
pub(super) struct Shape {
    tables: Vec<(Vec<Step>, Names)>,
    choices: Vec<(Vec<Step>, Names)>,
}

impl Shape {
    /// The keys of the table at a place.
    pub(super) fn keys(&self, place: &[Step]) -> Option<Names> {
        let mut tables = self.tables.iter();
        tables.find(|(known, _)| known == place).map(|(_, keys)| *keys)
    }

    /// The choices at a place.
    pub(super) fn choices(&self, place: &[Step]) -> Option<Names> {
        let mut choices = self.choices.iter();
        choices.find(|(known, _)| known == place).map(|(_, names)| *names)
    }

    /// The keys of all tables, each once.
    pub(super) fn all_keys(&self) -> Vec<&'static str> {
        let keys: BTreeSet<_> = self
            .tables
            .iter()
            .flat_map(|(_, keys)| keys.iter().copied())
            .collect();
        keys.into_iter().collect()
    }

    /// The tables that have a key.
    pub(super) fn tables_with(&self, key: &str) -> impl Iterator<Item = &Vec<Step>> {
        let tables = self.tables.iter().filter(move |(_, keys)| keys.contains(&key));
        tables.map(|(place, _)| place)
    }
}

/// How a tree is read.
struct Reading {
    /// Skip what the type does not know, to see as much of its shape as possible.
    lenient: bool,
    /// The key of the root to begin with.
    first: usize,
    shape: RefCell<Shape>,
}

/// Reads a tree strictly.
pub(super) fn read<C: DeserializeOwned>(root: &Value) -> Result<C, Unread> {
    let reading = Reading {
        lenient: false,
        first: 0,
        shape: RefCell::default(),
    };
    C::deserialize(Node::new(root, Vec::new(), &reading))
}

/// The shape of `C` at the places of a tree, which may be wrong here and there.
pub(super) fn shape<C: DeserializeOwned>(root: &Value) -> Shape {
    let mut shape = Shape::default();
    // An error ends a reading, so each key of the root is read first once.
    for first in 0..root.as_table().map_or(1, |table| table.len().max(1)) {
        let reading = Reading {
            lenient: true,
            first,
            shape: RefCell::default(),
        };
        let _ = C::deserialize(Node::new(root, Vec::new(), &reading));
        let part = reading.shape.into_inner();
        for (all, part) in [
            (&mut shape.tables, part.tables),
            (&mut shape.choices, part.choices),
        ] {
            for entry in part {
                if !all.contains(&entry) {
                    all.push(entry);
                }
            }
        }
    }
    shape
}

/// One value of the tree.
struct Node<'t> {
    value: &'t Value,
    place: Vec<Step>,
    reading: &'t Reading,
}

impl<'t> Node<'t> {
    fn new(value: &'t Value, place: Vec<Step>, reading: &'t Reading) -> Self {
        Self {
            value,
            place,
            reading,
        }
    }

    fn wrong(&self, expected: String) -> Unread {
        Unread::new(Problem::Type {
            expected,
            found: shown(self.value),
        })
        .at(&self.place)
    }

    /// Hands the value to a visitor.
    fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unread> {
        let Self {
            value,
            place,
            reading,
        } = self;
        let result = match value {
            Value::String(text) => visitor.visit_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(flag) => visitor.visit_bool(*flag),
            Value::Datetime(_) => Err(Unread::invalid_type(Unexpected::Other("date"), &visitor)),
            Value::Array(list) => visitor.visit_seq(Elements {
                list,
                next: 0,
                place: &place,
                reading,
            }),
            Value::Table(table) => visitor.visit_map(Entries::new(table, None, &place, reading)),
        };
        result.map_err(|mut error| {
            if error.place.is_none()
                && let Problem::Type { found, .. } = &mut error.problem
            {
                *found = shown(value);
            }
            error.at(&place)
        })
    }

    /// Hands the entries of a table with known keys to a visitor.
    fn visit_table<'de, V: Visitor<'de>>(self, keys: Names, visitor: V) -> Result<V::Value, Unread> {
        let table = (self.place.clone(), keys);
        self.reading.shape.borrow_mut().tables.push(table);
        let Value::Table(table) = self.value else {
            return Err(self.wrong(match keys {
                [] => "a table".into(),
                keys => format!("a table with the keys {}", quoted(keys)),
            }));
        };
        let entries = Entries::new(table, Some(keys), &self.place, self.reading);
        visitor.visit_map(entries).map_err(|error| error.at(&self.place))
    }
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Unread;

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq map identifier
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unread> {
        self.visit(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unread> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unread> {
        let place = self.place.clone();
        visitor
            .visit_newtype_struct(self)
            .map_err(|error| error.at(&place))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Unread> {
        match self.value {
            Value::Array(list) if list.len() == length => self.visit(visitor),
            _ => Err(self.wrong(format!("a list of {length}"))),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Unread> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        keys: Names,
        visitor: V,
    ) -> Result<V::Value, Unread> {
        self.visit_table(keys, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: Names,
        visitor: V,
    ) -> Result<V::Value, Unread> {
        let choice = (self.place.clone(), names);
        self.reading.shape.borrow_mut().choices.push(choice);
        let (name, settings) = match self.value {
            Value::String(name) => (name, None),
            Value::Table(table) => {
                let mut entries = table.iter();
                let first = match self.reading.lenient {
                    true => entries.find(|(key, _)| names.contains(&key.as_str())),
                    false => entries.next(),
                };
                match first {
                    Some((name, settings))
                        if self.reading.lenient || (table.len() == 1 && names.contains(&name.as_str())) =>
                    {
                        (name, Some(settings))
                    }
                    _ => {
                        let found = table.keys().cloned().collect();
                        return Err(Unread::new(Problem::Choice { names, found }).at(&self.place));
                    }
                }
            }
            _ => return Err(self.wrong(format!("one of the names {}", quoted(names)))),
        };
        let place = self.place;
        let choice = Choice {
            name,
            settings,
            place: &place,
            reading: self.reading,
        };
        visitor.visit_enum(choice).map_err(|error| error.at(&place))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unread> {
        visitor.visit_unit()
    }
}

/// The elements of a list.
struct Elements<'t> {
    list: &'t [Value],
    next: usize,
    place: &'t [Step],
    reading: &'t Reading,
}

impl<'de> SeqAccess<'de> for Elements<'_> {
    type Error = Unread;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Unread> {
        let Some(value) = self.list.get(self.next) else {
            return Ok(None);
        };
        let mut place = self.place.to_vec();
        place.push(Step::Index(self.next));
        self.next += 1;
        let element = Node::new(value, place.clone(), self.reading);
        // A type's own sentence comes after its value was handed over.
        let element = seed.deserialize(element).map_err(|error| error.at(&place));
        element.map(Some)
    }
}

/// The entries of a table.
struct Entries<'t> {
    entries: std::vec::IntoIter<(&'t String, &'t Value)>,
    /// The entry whose value is next.
    open: Option<(&'t String, &'t Value)>,
    place: &'t [Step],
    reading: &'t Reading,
}

impl<'t> Entries<'t> {
    /// Of a table with these keys; `None`: with any.
    fn new(table: &'t toml::Table, keys: Option<Names>, place: &'t [Step], reading: &'t Reading) -> Self {
        let mut entries: Vec<_> = table.iter().collect();
        if reading.lenient
            && let Some(keys) = keys
        {
            entries.retain(|(key, _)| keys.contains(&key.as_str()));
        }
        if place.is_empty() && !entries.is_empty() {
            let first = reading.first % entries.len();
            entries.rotate_left(first);
        }
        Self {
            entries: entries.into_iter(),
            open: None,
            place,
            reading,
        }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Unread;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Unread> {
        self.open = self.entries.next();
        let Some((key, _)) = self.open else {
            return Ok(None);
        };
        let key = seed.deserialize(key.as_str().into_deserializer());
        key.map(Some).map_err(|error: Unread| error.at(self.place))
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Unread> {
        let Some((key, value)) = self.open.take() else {
            return Err(Unread::custom("a value was read before its key"));
        };
        let place = with(self.place, key);
        let node = Node::new(value, place.clone(), self.reading);
        seed.deserialize(node).map_err(|error| error.at(&place))
    }
}

/// A name, and its settings where there are any.
struct Choice<'t> {
    name: &'t str,
    settings: Option<&'t Value>,
    place: &'t [Step],
    reading: &'t Reading,
}

impl<'t> Choice<'t> {
    fn settings(self) -> Result<Node<'t>, Unread> {
        let place = with(self.place, self.name);
        match self.settings {
            Some(value) => Ok(Node::new(value, place, self.reading)),
            None => Err(Unread::new(Problem::Alone {
                name: self.name.to_string(),
            })
            .at(self.place)),
        }
    }
}

impl<'de> EnumAccess<'de> for Choice<'_> {
    type Error = Unread;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Unread> {
        let name = seed.deserialize(self.name.into_deserializer());
        let name = name.map_err(|error: Unread| error.at(self.place))?;
        Ok((name, self))
    }
}

impl<'de> VariantAccess<'de> for Choice<'_> {
    type Error = Unread;

    fn unit_variant(self) -> Result<(), Unread> {
        match self.settings {
            None => Ok(()),
            Some(Value::Table(table)) if table.is_empty() => Ok(()),
            Some(value) => {
                let message = format!(
                    "must be an empty table, because it has no settings, got {}",
                    shown(value)
                );
                Err(Unread::custom(message).at(&with(self.place, self.name)))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Unread> {
        seed.deserialize(self.settings()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, length: usize, visitor: V) -> Result<V::Value, Unread> {
        self.settings()?.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, keys: Names, visitor: V) -> Result<V::Value, Unread> {
        let settings = self.settings()?;
        // Strict even where the type does not say so.
        if !settings.reading.lenient
            && let Value::Table(table) = settings.value
            && let Some(key) = table.keys().find(|key| !keys.contains(&key.as_str()))
        {
            return Err(Unread::unknown_field(key, keys).at(&settings.place));
        }
        settings.visit_table(keys, visitor)
    }
}
