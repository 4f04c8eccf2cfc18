//! The macro that turns a list of protocols into one type: a config table per protocol name, and calls to its
//! protocol.

/// Defines [`ProtocolConfig`](super::ProtocolConfig) from the protocols named `file::Type`.
macro_rules! protocols {
    ($($file:ident :: $protocol:ident),* $(,)?) => {
        $(pub use $file::$protocol;)*

        /// A protocol with its settings, one table of a config: `[protocols.knn-dino]` after `[[protocols]]`.
        #[derive(Clone, Debug, PartialEq)]
        pub enum ProtocolConfig {
            $(#[doc = concat!("[`", stringify!($protocol), "`].")] $protocol($protocol),)*
        }

        impl ProtocolConfig {
            /// The names of all protocols in configs and results.
            pub const NAMES: &[&str] = &[$(<$protocol as Protocol>::NAME),*];

            /// Its name in configs and results.
            pub fn name(&self) -> &'static str {
                match self { $(Self::$protocol(_) => <$protocol as Protocol>::NAME,)* }
            }

            /// Gives an error that names the key if the settings cannot run on any data. `place`: of the protocol
            /// among the config's.
            pub fn validate(&self, place: usize) -> Result<(), String> {
                let table = format!("protocols.{place}.{}", self.name());
                match self { $(Self::$protocol(protocol) => protocol.validate(&table),)* }
            }

            /// What it reads from the encoder and the records.
            pub(crate) fn needs(&self) -> Needs<'_> {
                match self { $(Self::$protocol(protocol) => protocol.needs(),)* }
            }

            /// Gives an error for an encoder that the protocol is not defined for.
            pub(crate) fn check_encoder(
                &self,
                encoder: &crate::encoder::Encoder,
            ) -> Result<(), crate::error::Error> {
                match self { $(Self::$protocol(protocol) => protocol.check_encoder(encoder),)* }
            }

            /// Gives an error for records that the protocol cannot run on.
            pub(crate) fn check(&self, splits: crate::task::Splits<'_>) -> Result<(), crate::error::Error> {
                match self { $(Self::$protocol(protocol) => protocol.check(splits),)* }
            }

            /// Its scores.
            pub(crate) fn run(&self, bench: &mut Bench<'_>) -> Result<Scored, crate::error::Error> {
                match self { $(Self::$protocol(protocol) => protocol.run(bench),)* }
            }

            /// What distinguishes it from others of the same protocol.
            pub(crate) fn variant(&self) -> Option<String> {
                match self { $(Self::$protocol(protocol) => protocol.variant(),)* }
            }

            /// The votes of its nearest neighbors, for kNN protocols.
            pub(crate) fn voting(&self) -> Option<crate::solvers::Voting> {
                match self { $(Self::$protocol(protocol) => protocol.voting(),)* }
            }

            /// Its settings alone, as JSON.
            pub(crate) fn settings(&self) -> serde_json::Value {
                match self { $(Self::$protocol(protocol) => serde_json::json!(protocol),)* }
            }
        }

        // Equal to a derived implementation with each variant renamed to its protocol's name.
        impl serde::Serialize for ProtocolConfig {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let (name, index) = (self.name(), self.index());
                match self {
                    $(Self::$protocol(protocol) => {
                        serializer.serialize_newtype_variant("ProtocolConfig", index, name, protocol)
                    })*
                }
            }
        }

        impl<'de> serde::Deserialize<'de> for ProtocolConfig {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_enum("ProtocolConfig", Self::NAMES, list::ByName)
            }
        }

        impl schemars::JsonSchema for ProtocolConfig {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                "ProtocolConfig".into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                list::one_of(vec![
                    $((<$protocol as Protocol>::NAME, generator.subschema_for::<$protocol>()),)*
                ])
            }
        }

        impl ProtocolConfig {
            /// Its place in the list.
            fn index(&self) -> u32 {
                let name = self.name();
                Self::NAMES.iter().take_while(|other| **other != name).count() as u32
            }

            /// The settings of the protocol named `name`.
            fn read<'de, A: serde::de::VariantAccess<'de>>(name: &str, settings: A) -> Result<Self, A::Error> {
                $(if name == <$protocol as Protocol>::NAME {
                    return settings.newtype_variant().map(Self::$protocol);
                })*
                Err(serde::de::Error::unknown_variant(name, Self::NAMES))
            }
        }
    };
}

pub(super) use protocols;

use super::ProtocolConfig;
use schemars::{Schema, json_schema};
use serde::de::{Deserialize, Deserializer, EnumAccess, Error, Visitor};
use std::fmt;

/// The schema of a table that holds one of these tables, by name.
pub(super) fn one_of(tables: Vec<(&str, Schema)>) -> Schema {
    let table = |(name, settings): (&str, Schema)| {
        serde_json::json!({
            "type": "object",
            "properties": { (name): settings },
            "required": [name],
            "additionalProperties": false,
        })
    };
    let tables: Vec<serde_json::Value> = tables.into_iter().map(table).collect();
    json_schema!({ "oneOf": tables })
}

/// Reads a table that is named after its protocol.
pub(super) struct ByName;

impl<'de> Visitor<'de> for ByName {
    type Value = ProtocolConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table named after its protocol")
    }

    fn visit_enum<A: EnumAccess<'de>>(self, table: A) -> Result<ProtocolConfig, A::Error> {
        let (Name(name), settings) = table.variant()?;
        ProtocolConfig::read(name, settings)
    }
}

/// The name of an existing protocol.
struct Name(&'static str);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Known;
        impl Visitor<'_> for Known {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a protocol")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Name, E> {
                let known = ProtocolConfig::NAMES.iter().find(|known| **known == name);
                known
                    .map(|known| Name(known))
                    .ok_or_else(|| E::unknown_variant(name, ProtocolConfig::NAMES))
            }
        }
        deserializer.deserialize_identifier(Known)
    }
}
