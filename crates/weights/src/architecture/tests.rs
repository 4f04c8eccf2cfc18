//! Names and shapes that form, or do not form, one of our networks.

use super::shapes::derived_vit;
use super::*;
use crate::layouts::LAYOUTS;

fn traits(layout: &str) -> &'static Traits {
    &LAYOUTS.iter().find(|row| row.name == layout).unwrap().traits
}

fn vit_shapes(width: usize, patch: usize, places: usize, registers: usize) -> Shapes {
    let mut shapes = Shapes::from([
        ("patch_embed.proj.weight".to_owned(), vec![width, 3, patch, patch]),
        ("pos_embed".to_owned(), vec![1, places, width]),
        ("cls_token".to_owned(), vec![1, 1, width]),
        ("norm.weight".to_owned(), vec![width]),
    ]);
    for block in 0..12 {
        shapes.insert(format!("blocks.{block}.norm1.weight"), vec![width]);
    }
    if registers > 0 {
        shapes.insert("reg_token".to_owned(), vec![1, registers, width]);
    }
    shapes
}

#[test]
fn every_name_reads_back() {
    for name in [
        "resnet18",
        "resnet50-w128",
        "resnet34-w16-small",
        "vit_small_patch16",
        "vit_tiny_patch8",
        "vit_base_patch14_reg4",
        "vit_huge_patch14",
        "vit_huge_patch16",
        "vit-w64-d6-h4-p4",
        "vit-w384-d12-h12-p16",
        "vit-w32-d2-h2-p4-reg3",
    ] {
        let made = match named(name).unwrap() {
            Named::ResNet(config) => config.name(),
            Named::Vit(vit) => {
                let places = 1 + 14 * 14;
                let shapes = vit_shapes(vit.width, vit.patch_px, places, vit.registers);
                derived_vit(&shapes, Some(&vit), traits("vit"), None)
                    .unwrap()
                    .name()
            }
        };
        assert_eq!(made, name);
    }
    let same = |a: &str, b: &str| assert_eq!(named(a).unwrap(), named(b).unwrap());
    same("resnet50.a1_in1k", "resnet50");
    same("deit_small_patch16_224", "vit_small_patch16");
    same("vit_small_patch14_reg4_dinov2.lvd142m", "vit_small_patch14_reg4");
    for wrong in [
        "",
        "resnet",
        "resnet19",
        "resnet50-x",
        "resnet50-w0",
        "vit",
        "vit_giant_patch14",
        "vit_small",
        "vit_small_patch0",
        "vit_small_patch16_clip",
        "vit-w64-d6-p4",
        "vit-w64-d6-h5-p4",
        "vit-é",
    ] {
        let error = named(wrong).unwrap_err();
        assert!(error.contains("no such network"), "{error}");
    }
}

#[test]
fn heads_and_image_size_follow_the_usual_rules() {
    let vit = |shapes: &Shapes, layout| derived_vit(shapes, None, traits(layout), None).unwrap();
    let small = vit(&vit_shapes(384, 16, 197, 0), "vit");
    assert_eq!((small.heads, small.image_px, small.depth), (6, 224, 12));
    assert_eq!(vit(&vit_shapes(384, 16, 197, 0), "moco_v3").heads, 12);
    assert_eq!(vit(&vit_shapes(768, 16, 197, 0), "moco_v3").heads, 12);
    // ViT-H/14 of timm and MAE.
    let huge = vit(&vit_shapes(1280, 14, 257, 0), "mae");
    assert_eq!((huge.heads, huge.image_px), (16, 224));
    for (width, guessed) in [
        (192, false),
        (384, false),
        (1024, false),
        (1280, false),
        (320, true),
    ] {
        let config = vit(&vit_shapes(width, 16, 197, 0), "vit");
        assert_eq!(
            heads_are_a_guess(&BackboneConfig::Vit(config)),
            guessed,
            "{width}"
        );
    }
    // DINOv2's grid of 37, with registers stored as in DINOv2 and as in timm.
    let dinov2 = vit(&vit_shapes(1024, 14, 1370, 0), "dinov2");
    assert_eq!(
        (dinov2.heads, dinov2.image_px, dinov2.interpolation),
        (16, 518, Interpolation::Offset)
    );
    for places in [1369, 1370] {
        let registers = vit(&vit_shapes(384, 14, places, 4), "dinov2");
        assert_eq!(
            (registers.image_px, registers.registers, registers.interpolation),
            (518, 4, Interpolation::Antialiased)
        );
    }
}

#[test]
fn networks_that_passer_does_not_have_are_refused() {
    let refused = |shapes: &Shapes, family| derived(shapes, family, None, traits("vit"), None).unwrap_err();
    let error = refused(&vit_shapes(96, 16, 197, 0), Family::Vit);
    let name = "vit-w96-d12-hHEADS-p16".to_owned();
    assert_eq!(error.hint, Some(Hint::NameHeads(name)));
    let refused = |shapes: &Shapes, family| refused(shapes, family).reason;
    let error = refused(&vit_shapes(384, 16, 196, 0), Family::Vit);
    assert!(error.contains("196 places"), "{error}");
    let mut shapes = vit_shapes(384, 16, 197, 0);
    shapes.remove("pos_embed");
    assert!(refused(&shapes, Family::Vit).contains("no pos_embed"));
    let mut shapes = Shapes::from([("conv1.weight".to_owned(), vec![64, 3, 7, 7])]);
    for (stage, blocks) in [(1, 3), (2, 8), (3, 36), (4, 3)] {
        shapes.insert(format!("layer{stage}.{}.conv3.weight", blocks - 1), vec![1]);
    }
    shapes.insert("layer1.0.conv3.weight".to_owned(), vec![1]);
    assert!(refused(&shapes, Family::ResNet).contains("[3, 8, 36, 3] bottlenecks"));
    shapes.insert("conv1.weight".to_owned(), vec![64, 1, 7, 7]);
    assert!(refused(&shapes, Family::ResNet).contains("[64, 1, 7, 7]"));
}
