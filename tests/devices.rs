//! A GPU compared with the CPU: every method and network, detectors, checkpoints that change device, and a CPU run that
//! leaves the GPU unused.
//!
//! Run by `scripts/check-devices.sh`, on Debian's lavapipe, a software Vulkan device.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use backbones::vit::{Interpolation, Pooling, Position};
use backbones::{
    BackboneConfig, Context, Draws, Init, Precision, ResNetConfig, RunPosition, Stem, VitConfig, parameters,
};
use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, DeviceKind, Tensor, TensorData};
use detection::BoundingBox;
use detection::parts::ImageDraws;
use detection::rcnn::{Neck, RcnnConfig, Target, TrueMask, Version};
use objectives::{METHODS, ObjectiveConfig, Visitor};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use training::{Batch, Config, Objective, OptimizerConfig, Rates, ViewGroupTensor};

/// Photographs in a batch.
const IMAGES: usize = 8;
/// The allowed relative error of a GPU. If rounding alone exceeds it, as after a hundred untrained layers,
/// the bound is three times the effect of rounding on the CPU: see [`ROUNDING`].
const BOUND: f64 = 1e-3;
/// Seeds of changes that measure the effect of rounding: every pixel is moved by up to [`LAST_PLACES`] of its value, each
/// by a share of its own. Many, because a gradient jumps where a value crosses a ReLU's zero. One scale for all pixels would
/// show nothing: batch normalization undoes it.
const ROUNDING: [u32; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
/// 8 units in the last place of f32, as a share of a value.
const LAST_PLACES: f64 = 9.6e-7;
/// Seed and size of a change of pixels, as a share of their values.
type Noise = (u32, f64);
const NO_NOISE: Noise = (0, 0.0);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn gpu() -> Device {
    Device::wgpu(DeviceKind::Cpu)
}

fn relative(ours: &[f64], reference: &[f64]) -> f64 {
    let length = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = length(&mut ours.iter().zip(reference).map(|(a, b)| a - b));
    difference / length(&mut reference.iter().copied()).max(1e-12)
}

fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

/// Smooth pictures that differ from each other, like normalized views, with noise.
fn pictures(shape: [usize; 4], (seed, size): Noise, device: &Device) -> Tensor<4> {
    let area = shape[2] * shape[3];
    let value = |at: usize| {
        let (picture, place) = (at / area, at % area);
        let (x, y) = ((place % shape[3]) as f32, (place / shape[3]) as f32);
        let k = picture as f32;
        let clean = (0.9 * k + 0.31 * x * (1.0 + (k * 0.7).sin())).sin()
            + (1.3 * k + 0.23 * y * (1.0 + (k * 1.1).cos())).cos();
        // Weyl's sequence: even over -1 to 1, without a pattern that a kernel could average out.
        let unit = (at as f64 * 0.618_033_988_749_895 + f64::from(seed) * 0.414_213_562_373_095).fract();
        (f64::from(clean) * (1.0 + size * (2.0 * unit - 1.0))) as f32
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The result of one step of a method on a device.
struct Step {
    /// Loss before the step.
    loss: f64,
    gradients: Vec<f64>,
    /// Loss with the weights and the state after the step.
    next_loss: f64,
}

struct OneStep<'a> {
    device: Device,
    views: &'a [(usize, usize)],
    noise: Noise,
}

impl Visitor for OneStep<'_> {
    type Output = Step;

    fn visit<O: Objective>(self, objective: &O) -> Step {
        let (student, state) = objective.init(&Init::new(3, &self.device.clone().autodiff()));
        let batch = |step: usize| Batch {
            views: self
                .views
                .iter()
                .map(|&(count, px)| {
                    // The same values on both devices, others in each step.
                    let all = pictures([count * IMAGES + step, 3, px, px], self.noise, &self.device);
                    ViewGroupTensor {
                        images: all.narrow(0, step, count * IMAGES),
                        count,
                    }
                })
                .collect(),
            images: IMAGES,
            labels: None,
            targets: None,
        };
        let context = |step: usize| {
            let progress = RunPosition::at(step, 1, 4);
            Context::training(progress, Draws::new(7, step as u64))
        };
        let (loss, pending) = objective.loss(&student, &state, &batch(0), &context(0));
        let grads = GradientsParams::from_grads(loss.total.clone().backward(), &student);
        let mut visitor = Gradients {
            grads: &grads,
            found: vec![],
        };
        student.visit(&mut visitor);
        let gradients = visitor.found;
        let mut optimizer = OptimizerConfig::Sgd {
            learning_rate_per_256: 1e-4,
            momentum: 0.9,
            weight_decay: 1e-4,
            nesterov: false,
        }
        .init();
        let rates = Rates::constant(1e-4, 1e-4);
        let student = optimizer.step(&rates, student, grads);
        let (student, state) = objective.commit(student, state, vec![pending], &context(0));
        let (next, _) = objective.loss(&student, &state, &batch(1), &context(1));
        let next_loss = numbers(next.total.clone())[0];
        // Otherwise the forward pass's graph would stay.
        drop(next.total.backward());
        Step {
            loss: numbers(loss.total)[0],
            gradients,
            next_loss,
        }
    }
}

struct Gradients<'a> {
    grads: &'a GradientsParams,
    found: Vec<f64>,
}

impl ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.grads.get::<D>(param.id) {
            self.found.extend(numbers(gradient));
        }
    }
}

/// A recipe on a narrower network, with no head wider than 1,024.
fn small(file: &str) -> Config<ObjectiveConfig> {
    fn narrow(table: &mut toml::Table) {
        for (key, value) in table.iter_mut() {
            match value {
                toml::Value::Table(table) => narrow(table),
                toml::Value::Integer(size)
                    if *size > 1024 && (key.ends_with("_width") || key == "prototypes") =>
                {
                    *size = 256;
                }
                _ => {}
            }
        }
    }
    let text = std::fs::read_to_string(root().join("configs/pretrain").join(file)).unwrap();
    let mut table: toml::Table = text.parse().unwrap();
    narrow(table["objective"].as_table_mut().unwrap());
    let mut config: Config<ObjectiveConfig> = table.try_into().unwrap();
    match &mut config.backbone {
        BackboneConfig::Resnet(resnet) => resnet.width = 8,
        BackboneConfig::Vit(vit) => {
            vit.width = 48;
            vit.depth = 2;
            vit.patch_px = vit.patch_px.min(8);
            vit.image_px = vit.image_px.min(32);
        }
    }
    config.data.batch_images = IMAGES;
    config.objective.for_smoke_test(IMAGES);
    config
}

/// Views of each size and their side, at most 32 px for global ones and 16 px for others.
fn views(config: &Config<ObjectiveConfig>) -> Vec<(usize, usize)> {
    let px = |group: &data::ViewGroup| group.output_px().unwrap().0 as usize;
    let global = px(&config.views[0]);
    let mut views: Vec<(usize, usize)> = vec![];
    for group in &config.views {
        let px = match px(group) {
            px if px == global => px.min(32),
            px => px.min(16),
        };
        match views.last_mut() {
            Some(last) if last.1 == px => last.0 += group.count,
            _ => views.push((group.count, px)),
        }
    }
    views
}

/// Every method with its recipes for small pictures, or its first recipe if it has none.
fn recipes() -> Vec<(String, Config<ObjectiveConfig>)> {
    let mut files: Vec<String> = std::fs::read_dir(root().join("configs/pretrain"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    // Recipes for small pictures first.
    files.sort_by_key(|name| (!name.ends_with("-cifar10.toml"), name.clone()));
    let all: Vec<_> = files.iter().map(|file| (file.clone(), small(file))).collect();
    let of_method = |method: &&str| {
        let all: Vec<_> = all
            .iter()
            .filter(|(_, config)| config.objective.name() == *method)
            .collect();
        let small = all
            .iter()
            .filter(|(file, _)| file.ends_with("-cifar10.toml"))
            .count();
        assert!(!all.is_empty(), "no config trains {method}");
        all.into_iter().take(small.max(1)).cloned().collect::<Vec<_>>()
    };
    METHODS.iter().flat_map(of_method).collect()
}

#[test]
fn every_method_has_the_cpus_loss_and_gradients() {
    for (file, config) in recipes() {
        let views = views(&config);
        let of = |device: Device, noise: Noise| {
            config.objective.visit(
                &config.backbone,
                OneStep {
                    device,
                    views: &views,
                    noise,
                },
            )
        };
        let started = Instant::now();
        let (gpu, cpu) = (of(gpu(), NO_NOISE), of(Device::flex(), NO_NOISE));
        let rounding =
            ROUNDING.map(|seed| relative(&of(Device::flex(), (seed, LAST_PLACES)).gradients, &cpu.gradients));
        let bound = 3.0 * rounding.into_iter().fold(BOUND / 3.0, f64::max);
        let off = |ours: f64, reference: f64| (ours - reference).abs() / reference.abs();
        let gradients = relative(&gpu.gradients, &cpu.gradients);
        eprintln!(
            "{file}: loss {:.1e}, gradients {gradients:.1e} (bound {bound:.1e}), next loss {:.1e} off, {:.0} s",
            off(gpu.loss, cpu.loss),
            off(gpu.next_loss, cpu.next_loss),
            started.elapsed().as_secs_f64()
        );
        assert!(gpu.gradients.len() == cpu.gradients.len() && gpu.gradients.len() > 1000);
        assert!(
            off(gpu.loss, cpu.loss) <= BOUND,
            "{file}: loss {} on the CPU {}",
            gpu.loss,
            cpu.loss
        );
        assert!(gradients <= bound, "{file}: gradients {gradients:e} off");
        assert!(
            off(gpu.next_loss, cpu.next_loss) <= BOUND,
            "{file}: next loss {} on the CPU {}",
            gpu.next_loss,
            cpu.next_loss
        );
    }
}

fn vit() -> VitConfig {
    VitConfig {
        width: 32,
        patch_px: 8,
        image_px: 32,
        ..VitConfig::tiny_for_tests()
    }
}

#[test]
fn every_network_has_the_cpus_features_and_gradients() {
    let resnet = |depth, stem| {
        BackboneConfig::Resnet(ResNetConfig {
            depth,
            width: 8,
            stem,
            zero_init_residual: false,
            stride_in_1x1: false,
        })
    };
    let networks = [
        (resnet(18, Stem::Small), 16),
        (resnet(34, Stem::Small), 16),
        (resnet(50, Stem::Imagenet), 64),
        (resnet(101, Stem::Small), 16),
        (BackboneConfig::Vit(vit()), 48),
        (
            BackboneConfig::Vit(VitConfig {
                registers: 4,
                layer_scale: Some(0.1),
                interpolation: Interpolation::Offset,
                ..vit()
            }),
            48,
        ),
        (
            BackboneConfig::Vit(VitConfig {
                position: Position::SineCosine,
                pooling: Pooling::Mean,
                ..vit()
            }),
            32,
        ),
    ];
    for (config, px) in networks {
        let of = |device: Device, noise: Noise| {
            let network = config.init(&Init::new(1, &device.clone().autodiff()));
            let images = pictures([IMAGES, 3, px, px], noise, &device);
            let evaluated = numbers(
                network
                    .clone()
                    .valid()
                    .forward(images.clone(), &Context::evaluation()),
            );
            let progress = RunPosition::at(0, 1, 1);
            let features = network.forward(images, &Context::training(progress, Draws::new(1, 0)));
            let trained = numbers(features.clone());
            let loss = features.powi_scalar(2).mean_dim(1).mean_dim(0).reshape([1]);
            let grads = GradientsParams::from_grads(loss.backward(), &network);
            let mut visitor = Gradients {
                grads: &grads,
                found: vec![],
            };
            network.visit(&mut visitor);
            assert!(parameters(&network).len() > 10);
            [evaluated, trained, visitor.found]
        };
        let (gpu, cpu) = (of(gpu(), NO_NOISE), of(Device::flex(), NO_NOISE));
        let rounded = ROUNDING.map(|seed| of(Device::flex(), (seed, LAST_PLACES)));
        for (index, part) in ["features", "training features", "gradients"].iter().enumerate() {
            let error = relative(&gpu[index], &cpu[index]);
            let rounding = rounded
                .iter()
                .map(|rounded| relative(&rounded[index], &cpu[index]));
            let bound = 3.0 * rounding.fold(BOUND / 3.0, f64::max);
            let name = config.name();
            eprintln!("{name}, {px} px: {part} {error:.1e} off (bound {bound:.1e})");
            assert!(error <= bound, "{name}: {part} {error:e} off");
        }
    }
}

/// RoIAlign is loops on the CPU and matrix products elsewhere. All proposals are kept and sampled, so that no decision
/// hangs on a rounded score.
#[test]
fn detectors_have_the_cpus_losses_and_gradients() {
    let backbone = ResNetConfig {
        depth: 18,
        width: 4,
        stem: Stem::Imagenet,
        zero_init_residual: false,
        stride_in_1x1: false,
    };
    for mut config in [
        RcnnConfig::torchvision(Version::V1, backbone.clone(), 2, true),
        RcnnConfig::detectron2(backbone.clone(), 2, true),
        RcnnConfig::moco_c4(backbone, 2, true),
    ] {
        config.frozen_stages = 0;
        if let Neck::Pyramid(pyramid) = &mut config.neck {
            pyramid.channels = 8;
        }
        config.boxes.width = 16;
        let masks = config.masks.as_mut().unwrap();
        masks.channels.truncate(2);
        masks.channels.fill(8);
        masks.width = 8;
        config.proposals.nms_iou = 1.0;
        config.proposals.sampler.per_image = 5000;
        config.boxes.sampler.per_image = 5000;
        config.boxes.sampler.positive_fraction = 1.0;
        let sizes = [[48, 64], [40, 64]];
        let target = |left: f32, class| Target {
            boxes: vec![BoundingBox::from_edges([left, 4.0, left + 24.0, 36.0])],
            classes: vec![class],
            masks: vec![TrueMask {
                size: [48, 64],
                pixels: (0..48 * 64).map(|at| u8::from(at % 64 > 16)).collect(),
            }],
        };
        let of = |device: Device| {
            let network = config.init(&Init::new(1, &device.clone().autodiff()));
            let images = pictures([2, 3, 48, 64], NO_NOISE, &device);
            let context = Context::training(RunPosition::at(0, 1, 1), Draws::new(1, 0));
            let targets = [target(3.0, 0), target(30.0, 1)];
            let draws = ImageDraws::new(&context, 2);
            let losses = network.losses(images, &sizes, &targets, &draws, &context);
            let values = losses
                .named()
                .into_iter()
                .flat_map(|(_, loss)| numbers(loss))
                .collect::<Vec<_>>();
            let grads = GradientsParams::from_grads(losses.total().backward(), &network);
            let mut visitor = Gradients {
                grads: &grads,
                found: vec![],
            };
            network.visit(&mut visitor);
            [values, visitor.found]
        };
        let (gpu, cpu) = (of(gpu()), of(Device::flex()));
        for (index, part) in ["losses", "gradients"].iter().enumerate() {
            let error = relative(&gpu[index], &cpu[index]);
            eprintln!(
                "Mask R-CNN, {:?}, aligned {}: {part} {error:.1e}",
                config.neck, config.pooling.aligned
            );
            assert!(error < BOUND, "{part}: {error:e}");
        }
    }
}

#[test]
fn f16_computes_where_the_device_has_it() {
    let of = |device: &Device, precision| {
        let config = BackboneConfig::Vit(vit());
        let network = config.init(&Init::new(1, device).with_precision(precision));
        numbers(network.forward(pictures([4, 3, 32, 32], NO_NOISE, device), &Context::evaluation()))
    };
    let reference = of(&Device::flex(), Precision::F32);
    for precision in [Precision::F16, Precision::Bf16] {
        match precision.check(&gpu()) {
            Ok(()) => {
                let error = relative(&of(&gpu(), precision), &reference);
                eprintln!("{}: features {error:.1e} off", precision.name());
                assert!(error < 0.02, "{}: {error:e}", precision.name());
            }
            Err(reason) => assert!(reason.contains("only in") && reason.contains("f32"), "{reason}"),
        }
    }
}

/// 32 pictures of two classes.
fn photos(folder: &Path) -> PathBuf {
    let root = folder.join("photos");
    for class in 0..2u32 {
        let class_folder = root.join(class.to_string());
        std::fs::create_dir_all(&class_folder).unwrap();
        for picture in 0..16u32 {
            let image = image::RgbImage::from_fn(40, 40, |x, y| {
                let shade = |k: u32| ((x * (picture + k) + y * (7 + class * k) + 40 * k) % 256) as u8;
                image::Rgb([shade(1), shade(2), shade(3)])
            });
            image
                .save(class_folder.join(format!("{picture:02}.png")))
                .unwrap();
        }
    }
    root
}

fn pretrain(data: &Path, out: &Path, device: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_passer"));
    command
        .current_dir(root())
        .args(["pretrain", "configs/pretrain/moco-v2-resnet18-cifar10.toml"])
        .args(["--device", device])
        .arg("--data")
        .arg(data)
        .arg("--out")
        .arg(out);
    for set in [
        "data.batch_images=16",
        "training.batch_norm_images=8",
        "training.epochs=4",
        "training.log_every_steps=1",
        "backbone.resnet.width=4",
        "objective.moco.queue_images=64",
        "objective.moco.embedding_width=16",
        "views.0.transforms.0.random_resized_crop.size_px=16",
        "optimizer.sgd.learning_rate_per_256=0.001",
    ] {
        command.args(["--set", set]);
    }
    command.args(more);
    command
}

fn finished(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn losses(run: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let loss = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["loss"].as_f64().unwrap()
    };
    text.lines().map(loss).collect()
}

#[test]
fn checkpoints_go_from_device_to_device() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let whole = folder.path().join("whole");
    finished(pretrain(&photos, &whole, "flex", &[]));
    for (first, then) in [("wgpu", "flex"), ("flex", "wgpu")] {
        let out = folder.path().join(first);
        // Killed at its first checkpoint.
        let mut child = pretrain(&photos, &out, first, &[])
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while !out.exists() || training::latest_checkpoint(&out).unwrap().is_none() {
            assert!(
                started.elapsed() < Duration::from_secs(300),
                "no checkpoint on {first}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        finished(pretrain(&photos, &out, then, &["--resume"]));
        let (ours, reference) = (losses(&out), losses(&whole));
        assert_eq!(ours.len(), reference.len());
        let error = relative(&ours, &reference);
        eprintln!("{first} to {then}: losses {error:.1e} off");
        assert!(
            error <= BOUND,
            "{first} to {then}: {ours:?}, on flex alone {reference:?}"
        );
    }
}

#[test]
fn a_run_on_the_cpu_opens_no_gpu() {
    let folder = tempfile::tempdir().unwrap();
    let photos = photos(folder.path());
    let loaded = |device: &str| {
        let mut command = pretrain(
            &photos,
            &folder.path().join(device),
            device,
            &["--set", "training.epochs=1"],
        );
        // Makes Vulkan's loader log its work.
        command.env("VK_LOADER_DEBUG", "all");
        let output = finished(command);
        String::from_utf8_lossy(&output.stderr).contains("libvulkan_lvp")
    };
    assert!(
        loaded("wgpu"),
        "the GPU's driver is not seen: this test would prove nothing"
    );
    assert!(!loaded("flex"));
}
