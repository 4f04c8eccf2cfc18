//! The form of a detector's backbone in configs and files: a residual network's keys as they are, a transformer's below `vit`.

use std::fmt;

use backbones::{BackboneConfig, ResNetConfig, VitConfig};
use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Error, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The same for the schema of configs.
// Only its schema is used.
#[derive(JsonSchema)]
#[serde(untagged)]
#[allow(dead_code)]
pub(super) enum Listed {
    /// A residual network.
    Resnet(ResNetConfig),
    /// A vision transformer.
    Vit {
        /// The transformer.
        vit: VitConfig,
    },
}

/// The key of a vision transformer.
const VIT: &str = "vit";

pub(super) fn serialize<S: Serializer>(backbone: &BackboneConfig, serializer: S) -> Result<S::Ok, S::Error> {
    match backbone {
        BackboneConfig::Resnet(config) => config.serialize(serializer),
        // One key, `vit`.
        vit @ BackboneConfig::Vit(_) => vit.serialize(serializer),
    }
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BackboneConfig, D::Error> {
    deserializer.deserialize_map(Form)
}

struct Form;

impl<'de> Visitor<'de> for Form {
    type Value = BackboneConfig;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .write_str("a ResNet's keys (`depth`, `width`, `stem`, …), or `vit` with a vision transformer's")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let first: Option<String> = map.next_key()?;
        if first.as_deref() == Some(VIT) {
            let vit = map.next_value()?;
            return match map.next_key::<String>()? {
                None => Ok(BackboneConfig::Vit(vit)),
                Some(key) => Err(A::Error::custom(format!(
                    "`{key}` must be left out beside `{VIT}`: a backbone is a ResNet or a vision transformer"
                ))),
            };
        }
        let all = After { first, rest: map };
        ResNetConfig::deserialize(MapAccessDeserializer::new(all)).map(BackboneConfig::Resnet)
    }
}

/// A map whose first key was read.
struct After<A> {
    first: Option<String>,
    rest: A,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for After<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        match self.first.take() {
            Some(first) => seed.deserialize(first.into_deserializer()).map(Some),
            None => self.rest.next_key_seed(seed),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.rest.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RcnnConfig, Version, resnet50};
    use backbones::VitConfig;
    use serde_json::{Value, json};

    fn read(backbone: Value) -> Result<RcnnConfig, String> {
        let config = RcnnConfig::torchvision(Version::V1, resnet50(), 3, false);
        let mut value = serde_json::to_value(config).unwrap();
        value["backbone"] = backbone;
        serde_json::from_value(value).map_err(|error| error.to_string())
    }

    #[test]
    fn both_kinds_are_read_as_they_are_written() {
        for config in [
            RcnnConfig::torchvision(Version::V1, resnet50(), 3, false),
            RcnnConfig::simple_pyramid(VitConfig::tiny_for_tests(), 3, true),
        ] {
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<RcnnConfig>(&text).unwrap(), config);
        }
        let resnet = json!({"depth": 18, "width": 64, "stem": "imagenet", "zero_init_residual": false});
        let read = read(resnet).unwrap();
        assert_eq!(read.backbone.as_resnet().map(|config| config.depth), Some(18));
    }

    #[test]
    fn other_keys_are_named() {
        let vit = serde_json::to_value(VitConfig::tiny_for_tests()).unwrap();
        for (backbone, part) in [
            (json!({"depth": 18, "widht": 64}), "unknown field `widht`"),
            (json!({"depth": 18}), "missing field `width`"),
            (
                json!({"vit": vit, "width": 8}),
                "`width` must be left out beside `vit`",
            ),
            (json!({"vit": {"width": 8}}), "missing field `depth`"),
            (json!(18), "a ResNet's keys"),
            (json!({}), "missing field `depth`"),
        ] {
            let error = read(backbone).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
