//! Photos in, objects out: a network with what lies before and behind it.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

use super::config::RcnnConfig;
use super::network::{Instance, Rcnn};
use crate::detector::{Detection, Detector, InstanceMask, Photo};
use crate::error::{DetectionError, check_count};

/// Faster, Mask or Cascade R-CNN as a [`Detector`]. Classes count from 0 without the background.
#[derive(Debug)]
pub struct RcnnDetector {
    network: Rcnn,
    device: Device,
    classes: Option<Vec<usize>>,
    batch_images: usize,
}

impl RcnnDetector {
    /// - `network`: on `device`, without autodiff; its config says the sizes of its images and the scores of detections
    /// - `classes`: those to report; `None`: all
    /// - `batch_images`: most photos of a pass. Only photos that have the same size with their padding share one, so
    ///   that no detection depends on the other photos.
    ///
    /// # Errors
    /// [`DetectionError::Config`] for a class that the network lacks, and batches of no photo.
    pub fn new(
        network: Rcnn,
        classes: Option<Vec<usize>>,
        batch_images: usize,
        device: &Device,
    ) -> Result<Self, DetectionError> {
        check_count("batch_images", batch_images)?;
        let count = network.config().classes;
        if let Some(class) = classes.iter().flatten().find(|class| **class >= count) {
            return Err(DetectionError::Config(format!(
                "`classes` must be below {count}, the network's number of classes, got {class}"
            )));
        }
        Ok(Self {
            network,
            device: device.clone(),
            classes,
            batch_images,
        })
    }

    /// The numbers of its network.
    pub fn config(&self) -> &RcnnConfig {
        self.network.config()
    }

    /// The detections of photos in one pass; `sizes` are theirs after resizing, `padded` that of all with its padding.
    fn detect_batch(
        &self,
        photos: &[&Photo<'_>],
        sizes: &[[usize; 2]],
        padded: [usize; 2],
    ) -> Vec<Vec<Detection>> {
        let [height, width] = padded;
        let mut planes = vec![0.0; photos.len() * 3 * height * width];
        let each = planes.par_chunks_exact_mut(3 * height * width);
        each.zip(photos.par_iter().zip(sizes))
            .for_each(|(planes, (photo, size))| self.config().input.write(photo, *size, padded, planes));
        let data = TensorData::new(planes, [photos.len(), 3, height, width]);
        let found = self.network.detect(Tensor::from_data(data, &self.device), sizes);
        let of_photo = found.into_iter().zip(photos.iter().zip(sizes));
        of_photo
            .map(|(found, (photo, size))| {
                let found = found.into_iter().filter(|instance| self.reports(instance.class));
                found
                    .map(|instance| self.detection(instance, photo, *size))
                    .collect()
            })
            .collect()
    }

    fn reports(&self, class: usize) -> bool {
        self.classes
            .as_ref()
            .is_none_or(|classes| classes.contains(&class))
    }

    /// An object in the pixels of the photo.
    fn detection(&self, instance: Instance, photo: &Photo<'_>, [height, width]: [usize; 2]) -> Detection {
        let (wide, high) = (photo.width as f32, photo.height as f32);
        let bounds = instance.bounds.scaled(wide / width as f32, high / height as f32);
        let masks = self.config().masks.as_ref();
        Detection {
            bounds: bounds.clipped(wide, high),
            class: instance.class,
            score: instance.score,
            landmarks: Vec::new(),
            mask: instance
                .mask
                .zip(masks)
                .map(|(probabilities, masks)| InstanceMask {
                    probabilities,
                    side: self.config().mask_side(),
                    paste: masks.paste,
                }),
        }
    }
}

impl Detector for RcnnDetector {
    fn detect(&self, photos: &[Photo<'_>]) -> Result<Vec<Vec<Detection>>, DetectionError> {
        let input = &self.config().input;
        let mut groups: BTreeMap<[usize; 2], Vec<(usize, [usize; 2])>> = BTreeMap::new();
        for (position, photo) in photos.iter().enumerate() {
            photo.check(position)?;
            let size = input.resized([photo.height as usize, photo.width as usize]);
            groups
                .entry(input.padded(size))
                .or_default()
                .push((position, size));
        }
        let mut all = vec![Vec::new(); photos.len()];
        for (padded, group) in groups {
            for batch in group.chunks(self.batch_images) {
                let (positions, sizes): (Vec<usize>, Vec<[usize; 2]>) = batch.iter().copied().unzip();
                let of_batch: Vec<&Photo<'_>> = positions.iter().map(|at| &photos[*at]).collect();
                let found = self.detect_batch(&of_batch, &sizes, padded);
                for (position, found) in positions.into_iter().zip(found) {
                    all[position] = found;
                }
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::parity::u;
    use crate::rcnn::Version;
    use backbones::{Init, ResNetConfig, Stem};

    fn detector(batch_images: usize, classes: Option<Vec<usize>>) -> RcnnDetector {
        let backbone = ResNetConfig {
            depth: 18,
            width: 8,
            stem: Stem::Imagenet,
            zero_init_residual: false,
            stride_in_1x1: false,
        };
        let mut config = RcnnConfig::torchvision(Version::V1, backbone, 4, true);
        config.boxes.width = 16;
        config.boxes.score_above = 0.0;
        config.proposals.after_nms = 40;
        (config.input.short_side_px, config.input.long_side_px) = (96, 128);
        let device = Device::flex();
        RcnnDetector::new(
            config.init(&Init::new(9, &device)),
            classes,
            batch_images,
            &device,
        )
        .unwrap()
    }

    #[test]
    fn no_detection_depends_on_the_other_photos() {
        // The sides after resizing are 96 x 120, 96 x 115 and 120 x 96: the first two share a pass.
        let sizes = [(50, 40), (48, 40), (40, 50)];
        let pixels: Vec<Vec<u8>> = sizes
            .iter()
            .enumerate()
            .map(|(index, (width, height))| {
                let values = u(&format!("photo {index}"), width * height * 3);
                values
                    .into_iter()
                    .map(|value| (128.0 + 127.0 * value) as u8)
                    .collect()
            })
            .collect();
        let photos: Vec<Photo<'_>> = sizes
            .iter()
            .zip(&pixels)
            .map(|((width, height), pixels)| Photo {
                width: *width as u32,
                height: *height as u32,
                pixels,
            })
            .collect();
        let together = detector(8, None).detect(&photos).unwrap();
        for (photo, together) in photos.iter().zip(&together) {
            let alone = detector(1, None).detect(&[*photo]).unwrap().remove(0);
            assert!(alone.len() > 10, "{}", alone.len());
            assert_eq!(alone.len(), together.len());
            for (one, other) in alone.iter().zip(together) {
                assert_eq!(one.class, other.class);
                assert!((one.score - other.score).abs() < 1e-4);
                let edges = one.bounds.edges().into_iter().zip(other.bounds.edges());
                for (index, (a, b)) in edges.enumerate() {
                    assert!((a - b).abs() < 1e-2, "{a} {b}");
                    let side = [photo.width, photo.height][index % 2] as f32;
                    assert!((0.0..=side).contains(&a));
                }
                let mask = one.segmentation(&one.bounds, photo.width, photo.height).unwrap();
                assert_eq!((mask.width(), mask.height()), (photo.width, photo.height));
            }
            let of_class = detector(1, Some(vec![2])).detect(&[*photo]).unwrap().remove(0);
            let expected: Vec<&Detection> = alone.iter().filter(|one| one.class == 2).collect();
            assert!(!expected.is_empty());
            assert_eq!(of_class.iter().collect::<Vec<_>>(), expected);
        }
        // The right edges of a wide photo are scaled by its width.
        let reach = |found: &[Detection]| found.iter().map(|one| one.bounds.right).fold(0.0, f32::max);
        assert!(reach(&together[0]) > 41.0 && reach(&together[2]) <= 40.0);
    }

    #[test]
    fn settings_and_photos_that_do_not_fit_are_named() {
        let network = detector(1, None).network;
        let device = Device::flex();
        let error = |classes: &[usize], batch| {
            let made = RcnnDetector::new(network.clone(), Some(classes.to_vec()), batch, &device);
            made.unwrap_err().to_string()
        };
        assert_eq!(
            error(&[0, 4], 1),
            "`classes` must be below 4, the network's number of classes, got 4"
        );
        assert_eq!(error(&[0], 0), "`batch_images` must be at least 1, got 0");
        let photo = Photo {
            width: 2,
            height: 2,
            pixels: &[0; 5],
        };
        let error = detector(1, None).detect(&[photo]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("photo 0 of the batch must have 3 x 2 x 2 bytes")
        );
    }
}
