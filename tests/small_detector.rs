//! A small detector's settings, and pictures to fine-tune it on.

use std::path::{Path, PathBuf};

/// `configs/evaluate/detection-small.toml` with a narrow network on small pictures.
pub(crate) const NARROW: [&str; 10] = [
    "detection.network.backbone.width=8",
    "detection.network.neck.pyramid.channels=16",
    "detection.network.boxes.width=32",
    "detection.network.boxes.score_above=0.01",
    "detection.network.input.short_side_px=64",
    "detection.network.input.long_side_px=96",
    "detection.network.proposals.after_nms_training=60",
    "detection.network.boxes.sampler.per_image=32",
    "detection.views.shorter_px=[48, 64]",
    "detection.bootstrap.resamples=100",
];

/// Pictures with a bright square each as a VOC data set, and its description.
pub(crate) fn squares(folder: &Path, name: &str, count: u32, classes: &[&str]) -> PathBuf {
    let home = folder.join(name);
    for part in ["JPEGImages", "Annotations", "ImageSets/Main"] {
        std::fs::create_dir_all(home.join(part)).unwrap();
    }
    let mut list = String::new();
    for picture in 0..count {
        let (width, height) = if picture % 3 == 0 { (60, 80) } else { (80, 60) };
        let shift = name.len() as u32;
        let (left, top) = (5 + (7 * picture + shift) % 18, 4 + (5 * picture + shift) % 16);
        let inside = |x: u32, y: u32| (left..left + 30).contains(&x) && (top..top + 30).contains(&y);
        let key = format!("{name}{picture:02}");
        let image = image::RgbImage::from_fn(width, height, |x, y| match inside(x, y) {
            true => image::Rgb([230, 200, 40]),
            false => image::Rgb([(x * 2) as u8, 60, (y * 3) as u8]),
        });
        image.save(home.join(format!("JPEGImages/{key}.jpg"))).unwrap();
        let class = classes[picture as usize % classes.len()];
        let (right, bottom) = (left + 30, top + 30);
        let xml = format!(
            "<annotation><size><width>{width}</width><height>{height}</height><depth>3</depth></size>\
             <object><name>{class}</name><difficult>0</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>\
             <xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object></annotation>",
            left + 1,
            top + 1,
        );
        std::fs::write(home.join(format!("Annotations/{key}.xml")), xml).unwrap();
        list += &format!("{key}\n");
    }
    std::fs::write(home.join("ImageSets/Main/all.txt"), list).unwrap();
    let description = folder.join(format!("{name}.toml"));
    let text = format!(
        "kind = \"voc\"\npath = {:?}\nlist = \"all\"\nclasses = {classes:?}\n",
        home.display().to_string()
    );
    std::fs::write(&description, text).unwrap();
    description
}
