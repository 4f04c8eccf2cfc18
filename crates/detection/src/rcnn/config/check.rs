//! Checks of a detector's numbers: a config in, the first key that makes no detector out.

use backbones::{BackboneConfig, VitConfig};

use super::{MOST_LATER_STAGES, Neck, Norm, RcnnConfig};

impl RcnnConfig {
    /// Checks that such a detector exists; the message names the key, in the config's `table`.
    pub fn validate(&self, table: &str) -> Result<(), String> {
        match &self.backbone {
            BackboneConfig::Resnet(resnet) => resnet.validate(&format!("{table}.backbone"))?,
            BackboneConfig::Vit(vit) => {
                vit.validate(&format!("{table}.backbone.vit"))?;
                self.validate_below_transformer(vit, table)?;
            }
        }
        self.anchors.validate(&format!("{table}.anchors"))?;
        let counts = [
            ("classes", self.classes),
            ("neck.pyramid.channels", self.map_channels()),
            ("proposals.sampler.per_image", self.proposals.sampler.per_image),
            (
                "proposals.before_nms_training",
                self.proposals.before_nms_training,
            ),
            ("proposals.before_nms", self.proposals.before_nms),
            ("proposals.after_nms_training", self.proposals.after_nms_training),
            ("proposals.after_nms", self.proposals.after_nms),
            ("boxes.pooled", self.boxes.pooled),
            ("boxes.width", self.boxes.width),
            ("boxes.sampler.per_image", self.boxes.sampler.per_image),
            ("boxes.per_image", self.boxes.per_image),
            ("input.short_side_px", self.input.short_side_px),
            ("input.multiple_of_px", self.input.multiple_of_px),
        ];
        for (key, count) in counts {
            if count == 0 {
                return Err(format!("`{table}.{key}` must be at least 1, got 0"));
            }
        }
        if let Some(masks) = &self.masks
            && (masks.pooled == 0 || masks.width == 0 || masks.channels.contains(&0))
        {
            return Err(format!(
                "`{table}.masks` must have a `pooled`, a `width` and `channels` of at least 1 each, got {}, {} and {:?}",
                masks.pooled, masks.width, masks.channels
            ));
        }
        let of_masks = self
            .masks
            .as_ref()
            .is_some_and(|masks| !masks.channels.is_empty());
        if matches!(self.neck, Neck::C4(_)) && (of_masks || self.boxes.convolutions > 0) {
            return Err(format!(
                "`{table}.boxes.convolutions` must be 0 and `{table}.masks.channels` empty with `{table}.neck.c4`, whose head is the backbone's"
            ));
        }
        self.validate_cascade(table)?;
        if self.frozen_stages > 5 {
            return Err(format!(
                "`{table}.frozen_stages` must be from 0 to 5, got {}",
                self.frozen_stages
            ));
        }
        if self.anchors.sizes_px.len() != self.levels() {
            return Err(format!(
                "`{table}.anchors.sizes_px` must have {} lists, one a level, got {}",
                self.levels(),
                self.anchors.sizes_px.len()
            ));
        }
        let shares = [
            ("proposals.nms_iou", self.proposals.nms_iou),
            (
                "proposals.sampler.positive_fraction",
                self.proposals.sampler.positive_fraction,
            ),
            ("boxes.nms_iou", self.boxes.nms_iou),
            (
                "boxes.sampler.positive_fraction",
                self.boxes.sampler.positive_fraction,
            ),
            ("boxes.score_above", self.boxes.score_above),
        ];
        for (key, share) in shares {
            if !(0.0..=1.0).contains(&share) {
                return Err(format!("`{table}.{key}` must be from 0 to 1, got {share}"));
            }
        }
        Ok(())
    }

    /// What only residual networks have, and the sizes that a transformer's maps ask for.
    fn validate_below_transformer(&self, vit: &VitConfig, table: &str) -> Result<(), String> {
        let needs = |key: &str, wanted: String, got: String| {
            Err(format!(
                "`{table}.{key}` must be {wanted} with `{table}.backbone.vit`, got {got}"
            ))
        };
        if let Neck::C4(_) = self.neck {
            return Err(format!(
                "`{table}.neck` must be `pyramid` with `{table}.backbone.vit`, got `c4`: a transformer has no stages"
            ));
        }
        for (key, sides) in [("width", vit.width), ("patch_px", vit.patch_px)] {
            if !sides.is_multiple_of(4) {
                return Err(format!(
                    "`{table}.backbone.vit.{key}` must be a multiple of 4 below a pyramid, got {sides}"
                ));
            }
        }
        if !self.input.multiple_of_px.is_multiple_of(2 * vit.patch_px) {
            let wanted = format!("a multiple of {}, two patches,", 2 * vit.patch_px);
            return needs(
                "input.multiple_of_px",
                wanted,
                self.input.multiple_of_px.to_string(),
            );
        }
        if self.frozen_stages > 0 {
            return needs("frozen_stages", "0".to_owned(), self.frozen_stages.to_string());
        }
        if self.backbone_norm != Norm::Trained {
            let got = match self.backbone_norm {
                Norm::Frozen => "\"frozen\"",
                Norm::Trained | Norm::Synchronized => "\"synchronized\"",
            };
            let wanted = "\"trained\" (it has no batch normalization)".to_owned();
            return needs("backbone_norm", wanted, got.to_owned());
        }
        if self.backbone_norm_epsilon != 1e-5 {
            let got = format!("{:e}", self.backbone_norm_epsilon);
            return needs(
                "backbone_norm_epsilon",
                "1e-5 (it has no batch normalization)".to_owned(),
                got,
            );
        }
        Ok(())
    }

    fn validate_cascade(&self, table: &str) -> Result<(), String> {
        if self.cascade.is_empty() {
            return Ok(());
        }
        if self.cascade.len() > MOST_LATER_STAGES {
            return Err(format!(
                "`{table}.cascade` must have at most {MOST_LATER_STAGES} stages behind the first one, got {}",
                self.cascade.len()
            ));
        }
        if matches!(self.neck, Neck::C4(_)) {
            return Err(format!(
                "`{table}.cascade` must be left out with `{table}.neck.c4`: a cascade needs a pyramid"
            ));
        }
        if !self.boxes.class_agnostic {
            // A stage would not know whose box to start from.
            return Err(format!(
                "`{table}.boxes.class_agnostic` must be true with `{table}.cascade`, got false"
            ));
        }
        for (index, stage) in self.cascade.iter().enumerate() {
            let (low, high) = (stage.matcher.background_below, stage.matcher.foreground_from);
            if !(0.0..=1.0).contains(&low) || !(low..=1.0).contains(&high) {
                return Err(format!(
                    "`{table}.cascade.{index}.matcher` must have shares with `background_below` at most `foreground_from`, \
                     got {low} and {high}"
                ));
            }
            let wrong = (stage.coder.weights.iter().enumerate())
                .find(|(_, weight)| weight.is_nan() || **weight <= 0.0);
            if let Some((place, weight)) = wrong {
                return Err(format!(
                    "`{table}.cascade.{index}.coder.weights.{place}` must be above 0, got {weight}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::resnet50;
    use super::*;
    use crate::rcnn::Version;

    #[test]
    fn invalid_keys_are_named() {
        let config = RcnnConfig::torchvision(Version::V1, resnet50(), 90, true);
        let wrong = RcnnConfig {
            classes: 0,
            ..config.clone()
        };
        assert_eq!(
            wrong.validate("network"),
            Err("`network.classes` must be at least 1, got 0".to_owned())
        );
        let wrong = RcnnConfig {
            frozen_stages: 6,
            ..config.clone()
        };
        assert!(
            wrong
                .validate("network")
                .unwrap_err()
                .starts_with("`network.frozen_stages` must be")
        );
        let mut wrong = config;
        wrong.boxes.nms_iou = f32::NAN;
        assert_eq!(
            wrong.validate("network"),
            Err("`network.boxes.nms_iou` must be from 0 to 1, got NaN".to_owned())
        );
    }

    #[test]
    fn a_cascade_has_the_papers_numbers_and_needs_one_box_for_all_classes() {
        let config = RcnnConfig::cascade(resnet50(), 80, true);
        let stages = config.box_stages();
        let numbers = stages
            .iter()
            .map(|stage| (stage.matcher.foreground_from, stage.coder.weights));
        assert_eq!(
            numbers.collect::<Vec<_>>(),
            [
                (0.5, [10.0, 10.0, 5.0, 5.0]),
                (0.6, [20.0, 20.0, 10.0, 10.0]),
                (0.7, [30.0, 30.0, 15.0, 15.0])
            ]
        );
        let error = |change: &dyn Fn(&mut RcnnConfig)| {
            let mut wrong = config.clone();
            change(&mut wrong);
            wrong.validate("network").unwrap_err()
        };
        assert_eq!(
            error(&|config| config.boxes.class_agnostic = false),
            "`network.boxes.class_agnostic` must be true with `network.cascade`, got false"
        );
        assert_eq!(
            error(&|config| config.cascade = vec![config.cascade[0]; 5]),
            "`network.cascade` must have at most 4 stages behind the first one, got 5"
        );
        assert!(
            error(&|config| config.cascade[1].matcher.foreground_from = 0.5)
                .starts_with("`network.cascade.1.matcher` must have")
        );
        assert!(
            error(&|config| config.cascade[0].coder.weights[2] = 0.0)
                .starts_with("`network.cascade.0.coder.weights.2` must be above 0")
        );
        let c4 = RcnnConfig::moco_c4(resnet50(), 20, false);
        assert!(
            error(&|config| (config.neck, config.anchors, config.masks) = (c4.neck, c4.anchors.clone(), None))
                .starts_with("`network.cascade` must be left out")
        );
    }
}
