//! From the loader's host memory to normalized tensors on the device.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Channel statistics for normalizing images: `(pixel / 255 - mean) / std`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Normalize {
    /// Mean of each channel (R, G, B) in 0..1. ImageNet's, as in torchvision: 0.485, 0.456, 0.406.
    pub mean: [f32; 3],
    /// Standard deviation of each channel in 0..1. ImageNet's: 0.229, 0.224, 0.225.
    pub std: [f32; 3],
}

impl Normalize {
    /// Gives an error for statistics that would divide by zero or are outside 0..1; it names `table`, the config's key of
    /// these.
    pub fn validate(&self, table: &str) -> Result<(), String> {
        let unit = |value: &f32| (0.0..=1.0).contains(value);
        if !self.mean.iter().all(unit) || !self.std.iter().all(|value| *value > 0.0 && unit(value)) {
            return Err(format!(
                "`{table}` must have means in 0..1 and standard deviations above 0, got mean {:?} and std {:?}",
                self.mean, self.std
            ));
        }
        Ok(())
    }

    /// Uploads 8-bit views and normalizes them on the device (a quarter of the bytes of f32 cross the bus).
    ///
    /// # Shapes
    /// - output: `[count * images, channels, height, width]`, view-major
    pub fn tensor(&self, views: data::Views, device: &Device) -> Tensor<4> {
        self.within(views, None, device)
    }

    /// The same for pictures of which each fills only the upper left of its view: the rest is 0 after the
    /// normalization, as torchvision and detectron2 pad.
    ///
    /// - `sizes`: height and width of each picture, px
    ///
    /// # Panics
    /// If there is not one size for each image.
    pub fn padded_tensor(&self, views: data::Views, sizes: &[[usize; 2]], device: &Device) -> Tensor<4> {
        assert_eq!(views.count * views.images, sizes.len(), "one size for each image");
        self.within(views, Some(sizes), device)
    }

    fn within(&self, views: data::Views, sizes: Option<&[[usize; 2]]>, device: &Device) -> Tensor<4> {
        let [height, width] = [views.height, views.width];
        let shape = [
            views.count * views.images,
            views.channels,
            views.height,
            views.width,
        ];
        let pixels = if device.supports_dtype(DType::U8) {
            Tensor::<4, Int>::from_data(TensorData::new(views.pixels, shape), (device, DType::U8)).float()
        } else {
            unpacked(views.pixels, device).reshape(shape)
        };
        // x / 255 / std - mean / std: one multiplication and one subtraction per pixel.
        let scale = self.std.map(|std| 1.0 / (255.0 * std));
        let shift: Vec<f32> = self
            .mean
            .iter()
            .zip(self.std)
            .map(|(mean, std)| mean / std)
            .collect();
        let channel = |values: &[f32]| Tensor::<1>::from_floats(values, device).reshape([1, 3, 1, 1]);
        let Some(sizes) = sizes else {
            return pixels * channel(&scale) - channel(&shift);
        };
        // Padding is black, and stays 0 where nothing is subtracted.
        let inside = |axis: usize, length: usize| {
            let marks = sizes
                .iter()
                .flat_map(|size| (0..length).map(|place| f32::from(u8::from(place < size[axis]))));
            let marks: Vec<f32> = marks.collect();
            let mut shape = [sizes.len(), 1, 1, 1];
            shape[2 + axis] = length;
            Tensor::<1>::from_floats(marks.as_slice(), device).reshape(shape)
        };
        let shift = channel(&shift) * inside(0, height) * inside(1, width);
        pixels * channel(&scale) - shift
    }
}

/// Bytes as floats on a device without 8-bit numbers (WGSL has none): they cross the bus packed four to a
/// word and are unpacked on the device.
///
/// # Shapes
/// - output: `[bytes]`, values 0..255
fn unpacked(mut bytes: Vec<u8>, device: &Device) -> Tensor<1> {
    let count = bytes.len();
    bytes.resize(count.next_multiple_of(4), 0);
    let words: Vec<i32> = bytes
        .chunks_exact(4)
        .map(|word| i32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect();
    let length = words.len();
    let words = Tensor::<2, Int>::from_data(TensorData::new(words, [length, 1]), (device, DType::I32));
    // Mask the sign bits that the arithmetic shift adds.
    let byte = |index: i32| {
        words
            .clone()
            .bitwise_right_shift_scalar(8 * index)
            .bitwise_and_scalar(0xff)
    };
    let bytes = Tensor::cat((0..4).map(byte).collect(), 1);
    bytes.float().reshape([4 * length]).narrow(0, 0, count)
}

/// The views of one size on the device, so that they can go through a network together.
#[derive(Clone, Debug)]
pub struct ViewGroupTensor {
    /// Normalized images, `[count * images, channels, height, width]`, all images of view 0 first.
    pub images: Tensor<4>,
    /// Views of each image in this group.
    pub count: usize,
}

/// One (micro-)batch on the device.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Views by size in the config's order, the global views first, as in [`data::Batch`].
    pub views: Vec<ViewGroupTensor>,
    /// Photographs in the batch (not views).
    pub images: usize,
    /// Labels, present if every image has one; only supervised objectives read them.
    pub labels: Option<Vec<data::Label>>,
    /// Objects and true size of each image, for objectives that take them ([`ViewCount::Objects`](crate::ViewCount)).
    /// Each entry of `views` is a micro-batch then, padded for itself.
    pub targets: Option<Vec<data::ViewTargets>>,
}

impl Batch {
    /// Uploads a loaded batch.
    pub fn upload(batch: data::Batch, normalize: &Normalize, device: &Device) -> Self {
        let data::Batch {
            views,
            labels,
            positions,
            // Of evaluations, which compare test images with training images.
            pixel_hashes: _,
            targets,
        } = batch;
        let sizes: Option<Vec<[usize; 2]>> = targets.as_ref().map(|targets| {
            let size = |view: &data::ViewTargets| [view.targets.height, view.targets.width];
            targets
                .iter()
                .map(|view| size(view).map(|side| side as usize))
                .collect()
        });
        let mut first = 0;
        let upload = |group: data::Views| {
            let (count, images) = (group.count, group.images);
            let images = match &sizes {
                None => normalize.tensor(group, device),
                Some(sizes) => {
                    first += images;
                    normalize.padded_tensor(group, &sizes[first - images..first], device)
                }
            };
            ViewGroupTensor { count, images }
        };
        Self {
            views: views.into_iter().map(upload).collect(),
            images: positions.len(),
            labels,
            targets,
        }
    }

    /// The batch in micro-batches of `images` photographs, in order, each with all its views.
    ///
    /// # Panics
    /// If `images` does not divide the batch.
    pub fn parts(self, images: usize) -> Vec<Self> {
        assert!(
            images > 0 && self.images.is_multiple_of(images),
            "parts of {images} images do not make a batch of {}",
            self.images
        );
        if images == self.images {
            return vec![self];
        }
        if let Some(targets) = self.targets {
            let each = self.views.into_iter().zip(targets.chunks(images));
            return each
                .map(|(group, targets)| Self {
                    images,
                    labels: None,
                    views: vec![group],
                    targets: Some(targets.to_vec()),
                })
                .collect();
        }
        let part = |index: usize| Self {
            images,
            targets: None,
            labels: self
                .labels
                .as_ref()
                .map(|labels| labels[index * images..][..images].to_vec()),
            views: self
                .views
                .iter()
                .map(|group| {
                    let [_, channels, height, width] = group.images.dims();
                    let of_view = |view: usize| {
                        let first = view * self.images + index * images;
                        group.images.clone().narrow(0, first, images)
                    };
                    let rows = Tensor::cat((0..group.count).map(of_view).collect(), 0);
                    debug_assert_eq!(rows.dims(), [group.count * images, channels, height, width]);
                    ViewGroupTensor {
                        images: rows,
                        count: group.count,
                    }
                })
                .collect(),
        };
        (0..self.images / images).map(part).collect()
    }

    /// The `index`-th view of every image, counted across groups.
    ///
    /// # Shapes
    /// - output: `[images, channels, height, width]`
    pub fn view(&self, index: usize) -> Tensor<4> {
        let mut index = index;
        for group in &self.views {
            if index < group.count {
                return group.images.clone().narrow(0, index * self.images, self.images);
            }
            index -= group.count;
        }
        unreachable!("`Objective::views` was checked against the config")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn views(count: usize, images: usize, side: usize, first: u8) -> data::Views {
        let length = count * images * 3 * side * side;
        data::Views {
            pixels: (0..length).map(|index| first.wrapping_add(index as u8)).collect(),
            count,
            images,
            channels: 3,
            height: side,
            width: side,
        }
    }

    fn unit() -> Normalize {
        Normalize {
            mean: [0.0; 3],
            std: [1.0; 3],
        }
    }

    #[test]
    fn views_are_uploaded_size_by_size() {
        let loaded = data::Batch {
            views: vec![views(2, 2, 2, 0), views(3, 2, 1, 7)],
            labels: None,
            positions: vec![0, 1],
            pixel_hashes: None,
            targets: None,
        };
        let batch = Batch::upload(loaded, &unit(), &Device::flex());
        let shapes: Vec<_> = batch
            .views
            .iter()
            .map(|group| (group.count, group.images.dims()))
            .collect();
        assert_eq!(shapes, [(2, [4, 3, 2, 2]), (3, [6, 3, 1, 1])]);
        let second = batch.view(1).into_data().try_to_vec::<f32>().unwrap();
        assert!((second[0] * 255.0 - 24.0).abs() < 1e-4);
    }

    #[test]
    fn parts_hold_every_view_of_their_images() {
        let loaded = data::Batch {
            views: vec![views(2, 4, 1, 0), views(1, 4, 2, 50)],
            labels: None,
            positions: vec![0, 1, 2, 3],
            pixel_hashes: None,
            targets: None,
        };
        let whole = Batch::upload(loaded, &unit(), &Device::flex());
        let parts = whole.clone().parts(2);
        assert_eq!(parts.len(), 2);
        for (index, part) in parts.iter().enumerate() {
            assert_eq!(part.images, 2);
            for view in 0..3 {
                let expected = whole.view(view).narrow(0, index * 2, 2).into_data();
                part.view(view).into_data().assert_eq(&expected, true);
            }
        }
    }

    #[test]
    fn pixels_are_normalized_as_torchvision_does() {
        let normalize = Normalize {
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
        };
        let pixels: Vec<u8> = (0..2 * 3 * 2 * 2).map(|index| (index * 10) as u8).collect();
        let views = data::Views {
            pixels: pixels.clone(),
            count: 2,
            images: 1,
            channels: 3,
            height: 2,
            width: 2,
        };
        let tensor = normalize.tensor(views, &Device::flex());
        let got = tensor.into_data().try_to_vec::<f32>().unwrap();
        for (index, (value, pixel)) in got.iter().zip(&pixels).enumerate() {
            let channel = index / 4 % 3;
            let expected = (*pixel as f32 / 255.0 - normalize.mean[channel]) / normalize.std[channel];
            assert!((value - expected).abs() < 1e-6, "{index}: {value} {expected}");
        }
    }

    #[test]
    fn packed_bytes_come_out_as_they_went_in() {
        for count in [1, 4, 7, 256 * 3 + 2] {
            let bytes: Vec<u8> = (0..count).map(|index| (index * 37 % 256) as u8).collect();
            let expected: Vec<f32> = bytes.iter().map(|byte| f32::from(*byte)).collect();
            let got = unpacked(bytes, &Device::flex()).into_data().try_to_vec::<f32>();
            assert_eq!(got.unwrap(), expected);
        }
    }
}
