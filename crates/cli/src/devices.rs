//! `--device` and `passer devices`: the devices of this build and this machine.

use crate::failure::Failure;
use crate::machine::{host_memory_mib, identity};
use crate::ranks::Ranks;
use crate::{card, first_kernel};
use backbones::layers::Conv2dConfig;
use backbones::{Init, Precision};
use burn::tensor::{Device, Tensor};
use std::time::Instant;

/// Every backend name that `--device` accepts, with the Cargo feature of the same name that compiles it in.
pub(crate) const BACKENDS: [(&str, bool); 6] = [
    ("cuda", cfg!(feature = "cuda")),
    ("metal", cfg!(feature = "metal")),
    ("rocm", cfg!(feature = "rocm")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("flex", cfg!(feature = "flex")),
];

/// The `--device` flag, shared by the verbs that compute.
#[derive(Clone, clap::Args)]
pub(crate) struct DeviceArgument {
    /// auto, flex (CPU), wgpu, vulkan, metal, cuda or rocm, one of several by its number from 0 (cuda:1); auto takes the first compiled-in GPU (not one in software), else the CPU
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: String,
}

impl DeviceArgument {
    /// The flag with this value.
    pub(crate) fn named(device: &str) -> Self {
        Self {
            device: device.to_owned(),
        }
    }

    /// The device, without autodiff.
    pub(crate) fn open(&self) -> anyhow::Result<Device> {
        open(&self.device, 0)
    }

    /// The same for a rank: of several devices, that of its number among the ranks of its machine. Whether another rank
    /// holds it is checked once all have opened theirs.
    pub(crate) fn open_on(&self, ranks: &Ranks) -> anyhow::Result<Device> {
        let device = open(&self.device, ranks.local().0)?;
        if identity(&device).is_none() {
            ranks.divide_cores();
        }
        Ok(device)
    }
}

/// The address of a GPU, which one process alone should hold; `None` for the CPU and for a GPU in software.
pub(crate) fn address(device: &Device) -> Option<String> {
    let address = identity(device).map(|(name, address)| address.unwrap_or(name));
    address.filter(|_| !is_software(device))
}

/// Devices of one backend on this machine; empty where it is not compiled in or finds none.
pub(crate) fn found(backend: &str) -> Vec<Device> {
    #[cfg(feature = "tuned")]
    if backend != "flex" {
        crate::kernel_cache::prepare();
    }
    match backend {
        #[cfg(feature = "flex")]
        "flex" => vec![Device::flex()],
        #[cfg(feature = "wgpu")]
        "wgpu" => Device::enumerate(burn::tensor::DeviceType::Wgpu)
            .into_iter()
            .collect(),
        #[cfg(feature = "vulkan")]
        "vulkan" => Device::enumerate(burn::tensor::DeviceType::Vulkan)
            .into_iter()
            .collect(),
        #[cfg(feature = "metal")]
        "metal" => Device::enumerate(burn::tensor::DeviceType::Metal)
            .into_iter()
            .collect(),
        #[cfg(feature = "cuda")]
        "cuda" => Device::enumerate(burn::tensor::DeviceType::Cuda)
            .into_iter()
            .collect(),
        #[cfg(feature = "rocm")]
        "rocm" => Device::enumerate(burn::tensor::DeviceType::Rocm)
            .into_iter()
            .collect(),
        _ => vec![],
    }
}

/// Opens the device of this name, and runs one kernel on it if it is a GPU.
///
/// Without a number it is the device number `local`, counted around.
pub(crate) fn open(name: &str, local: usize) -> anyhow::Result<Device> {
    if name == "auto" {
        let first = BACKENDS
            .iter()
            .filter(|(_, compiled)| *compiled)
            .find_map(|(backend, _)| {
                let devices = found(backend);
                let usable: Vec<usize> = (0..devices.len())
                    .filter(|index| !is_software(&devices[*index]))
                    .collect();
                let index = *usable.get(local % usable.len().max(1))?;
                Some((*backend, index, devices))
            });
        let Some((backend, index, devices)) = first else {
            return Err(
                Failure::new("this build has no backend for what this machine has")
                    .hint("build with `--features flex`, the CPU")
                    .into(),
            );
        };
        return ready(&format!("{backend}:{index}"), backend, index, devices);
    }
    let (backend, index) = parse(name)?;
    let devices = found(backend);
    let count = devices.len();
    let index = index.unwrap_or(local % count.max(1));
    if index >= count {
        return Err(Failure::new(format!(
            "device `{name}`: the numbers of {backend} devices on this machine must be below {count}, got {index}"
        ))
        .hint(match backend {
            "flex" => "there is one CPU: `--device flex`",
            _ => "`passer devices` lists what there is; a GPU needs its vendor's driver",
        })
        .into());
    }
    ready(name, backend, index, devices)
}

/// Backend and number of a device's name other than `auto`, if this build has the backend.
pub(crate) fn parse(name: &str) -> Result<(&str, Option<usize>), Failure> {
    let (backend, index) = match name.split_once(':') {
        Some((backend, index)) => {
            let index: usize = index.parse().map_err(|_| unknown(name))?;
            (backend, Some(index))
        }
        None => (name, None),
    };
    let Some((_, compiled)) = BACKENDS.iter().find(|(known, _)| *known == backend) else {
        return Err(unknown(name));
    };
    match compiled {
        true => Ok((backend, index)),
        false => Err(
            Failure::new(format!("device `{name}`: this build has no `{backend}` backend")).hint(format!(
                "build with `{}`, or use `--device auto`",
                build_command(backend)
            )),
        ),
    }
}

/// The command that builds this program with a backend.
fn build_command(backend: &str) -> String {
    match backend {
        // Without the script their build downloads LLVM.
        "cuda" | "rocm" => format!("scripts/build-gpu.sh {backend}"),
        _ => format!("cargo build --release --features {backend}"),
    }
}

/// The device at `index`, ready for work: its kernels' folder is chosen, and one kernel has run on it.
fn ready(name: &str, backend: &str, index: usize, mut devices: Vec<Device>) -> anyhow::Result<Device> {
    if backend != "flex" {
        first_kernel::run(backend, &devices, &devices[index]).map_err(|reason| {
            let (message, hint) = first_kernel::cure(&reason);
            Failure::new(format!("device `{name}`: {message}")).hint(hint)
        })?;
    }
    Ok(devices.swap_remove(index))
}

/// Whether it is a GPU emulated in software, such as lavapipe: tens of times slower than `flex` on the same
/// cores, so `auto` skips it.
pub(crate) fn is_software(device: &Device) -> bool {
    // wgpu's device type, which Burn shows only here.
    format!("{device:?}").contains("kind: Cpu")
}

fn unknown(name: &str) -> Failure {
    Failure::new(format!(
        "device `{name}`: expected auto, flex (the CPU), wgpu, vulkan, metal, cuda or rocm, or one of several by its number from 0, as cuda:1"
    ))
}

/// A device in words: the backend and, where the backend reports it, the hardware's name, as
/// `wgpu: llvmpipe (LLVM 15.0.6, 256 bits)`.
pub(crate) fn describe(device: &Device) -> String {
    if is_flex(device) {
        return "flex (CPU)".into();
    }
    let shown = format!("{device:?}");
    let backend = backend_in(&shown).unwrap_or(shown);
    match identity(device) {
        Some((name, _)) => format!("{backend}: {name}"),
        None => backend,
    }
}

/// The backend's name as in `--device`, from the form in which Burn shows a device:
/// `Device<Cube(Wgpu(WgpuDevice { kind: Cpu, backend: Auto }))>`.
fn backend_in(shown: &str) -> Option<String> {
    let (_, inside) = shown.split_once("Cube(")?;
    let (name, _) = inside.split_once('(')?;
    Some(match name {
        "Hip" => "rocm".into(),
        name => name.to_lowercase(),
    })
}

/// How a device computes products of f32 values, as results record it: Burn 0.22's tuner rounds their factors to TF32 (10 bits of
/// mantissa) wherever it chooses CUDA's tensor cores, and has no switch.
pub(crate) fn f32_products(device: &Device) -> &'static str {
    match format!("{device:?}").contains("Cuda") {
        true => "f32, or tf32 where the tuner chooses tensor cores",
        false => "f32",
    }
}

fn is_flex(device: &Device) -> bool {
    format!("{device:?}").contains("Flex")
}

/// The memory of a device: the host's for devices that compute in it, such as Apple's GPUs, else the amount
/// from the card's driver.
pub(crate) fn memory_mib(device: &Device) -> Option<u64> {
    if is_flex(device) || is_software(device) || cfg!(target_os = "macos") {
        return host_memory_mib();
    }
    card::memory_mib(device)
}

/// The variable with the number of threads on the CPU.
const THREADS: &str = "RAYON_NUM_THREADS";

/// Arguments of `passer devices`.
#[derive(clap::Args)]
pub(crate) struct ListArguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Everything that `passer devices` tells.
#[derive(serde::Serialize)]
struct Listing {
    backends: Vec<Backend>,
    cpu_threads: usize,
    /// The MPI library; `None` in builds without.
    mpi: Option<String>,
}

#[derive(serde::Serialize)]
struct Backend {
    name: &'static str,
    compiled: bool,
    /// The command that builds this program with it, where it is not compiled in.
    build: Option<String>,
    devices: Vec<Listed>,
}

#[derive(serde::Serialize)]
struct Listed {
    /// As in `--device`.
    device: String,
    description: String,
    memory_mib: Option<u64>,
    /// Reason why it cannot be used, and the cure.
    unusable: Option<String>,
    rates: Vec<Rates>,
}

/// Speed in one precision.
#[derive(serde::Serialize)]
struct Rates {
    precision: &'static str,
    matrix_product_gflop_per_s: Option<f64>,
    convolution_gflop_per_s: Option<f64>,
    /// Reason why it does not compute.
    error: Option<String>,
}

impl Listed {
    fn of(backend: &str, devices: &[Device], index: usize) -> Self {
        let device = &devices[index];
        let mut listed = Self {
            device: format!("{backend}:{index}"),
            description: describe(device),
            memory_mib: None,
            unusable: None,
            rates: vec![],
        };
        if backend != "flex"
            && let Err(reason) = first_kernel::run(backend, devices, device)
        {
            let (message, hint) = first_kernel::cure(&reason);
            listed.unusable = Some(format!("{message}; {hint}"));
            return listed;
        }
        listed.memory_mib = memory_mib(device);
        for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
            if precision.check(device).is_err() {
                continue;
            }
            let measured = rates(device, precision);
            let (product, convolution) = match &measured {
                Ok((product, convolution)) => (Some(*product), Some(*convolution)),
                Err(_) => (None, None),
            };
            listed.rates.push(Rates {
                precision: precision.name(),
                matrix_product_gflop_per_s: product,
                convolution_gflop_per_s: convolution,
                error: measured.err(),
            });
        }
        listed
    }

    fn print(&self) {
        if let Some(reason) = &self.unusable {
            println!("  {}  {reason}", self.device);
            return;
        }
        println!("  {}  {}", self.device, self.description);
        match self.memory_mib {
            Some(mib) => println!("    memory: {mib} MiB"),
            None => println!("    memory: its driver does not tell"),
        }
        for rates in &self.rates {
            let name = rates.precision;
            match (rates.matrix_product_gflop_per_s, rates.convolution_gflop_per_s) {
                (Some(product), Some(convolution)) => println!(
                    "    {name:<4}: {} GFLOP/s in a matrix product, {} GFLOP/s in a convolution",
                    data::significant(product, 3),
                    data::significant(convolution, 3)
                ),
                _ => println!(
                    "    {name:<4}: does not compute: {}",
                    rates.error.as_deref().unwrap_or_default()
                ),
            }
        }
    }
}

/// Lists backends and devices, each as soon as it is measured.
pub(crate) fn list(arguments: &ListArguments) -> anyhow::Result<()> {
    let shows = !arguments.json;
    if shows {
        println!("{:<8} {:<14} devices", "backend", "in this build");
    }
    let mut backends = vec![];
    for (name, compiled) in BACKENDS {
        let found = found(name);
        let build = (!compiled).then(|| build_command(name));
        if shows {
            let shown = match (&build, found.len()) {
                (Some(build), _) => format!("build with `{build}`"),
                (None, 0) => "none found".to_string(),
                (None, count) => format!("{count} found"),
            };
            println!("{name:<8} {:<14} {shown}", if compiled { "yes" } else { "no" });
        }
        let mut devices = vec![];
        for index in 0..found.len() {
            let listed = Listed::of(name, &found, index);
            if shows {
                listed.print();
            }
            devices.push(listed);
        }
        backends.push(Backend {
            name,
            compiled,
            build,
            devices,
        });
    }
    let listing = Listing {
        backends,
        cpu_threads: rayon::current_num_threads(),
        mpi: mpi::library(),
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&listing)?);
        return Ok(());
    }
    let bound = match std::env::var_os(THREADS) {
        Some(_) => format!("{THREADS}, which is set, bounds them"),
        None => format!("{THREADS} bounds them"),
    };
    println!("cpu threads: {} ({bound})", listing.cpu_threads);
    match &listing.mpi {
        Some(name) => println!("several devices: {name} (docs/distributed.md)"),
        None => println!("several devices: build with `cargo build --release --features mpi`"),
    }
    Ok(())
}

/// Billions of operations per second in a square matrix product and in a 3×3 convolution of a ResNet's second
/// stage, through the layers of our networks. Their size grows until one run takes a hundredth of a second.
fn rates(device: &Device, precision: Precision) -> Result<(f64, f64), String> {
    let product = |side: usize| {
        let factor = Tensor::<2>::ones([side, side], device);
        let run = move || precision.product(factor.clone(), factor.clone()).reshape([-1]);
        (2.0 * (side as f64).powi(3), run)
    };
    let layer = Conv2dConfig::same(64, 64, 3, 1).init(&Init::empty(device).with_precision(precision));
    let convolution = |side: usize| {
        let count = side / 32;
        let images = Tensor::<4>::ones([count, 64, 28, 28], device);
        let layer = layer.clone();
        let run = move || layer.forward(images.clone()).reshape([-1]);
        (2.0 * (count * 64 * 64 * 9 * 28 * 28) as f64, run)
    };
    Ok((rate(device, product)?, rate(device, convolution)?))
}

/// The rate of the work that `make` returns for a size: its number of operations, and a closure that enqueues
/// them.
fn rate<F: FnMut() -> Tensor<1>>(device: &Device, make: impl Fn(usize) -> (f64, F)) -> Result<f64, String> {
    let mut best = 0.0f64;
    for size in [64, 256, 1024, 4096] {
        let (work, mut run) = make(size);
        let mut seconds = f64::INFINITY;
        // The first run compiles kernels.
        for _ in 0..3 {
            let started = Instant::now();
            let output = run();
            device.sync().map_err(|error| error.to_string())?;
            seconds = seconds.min(started.elapsed().as_secs_f64());
            drop(output);
        }
        best = best.max(work / seconds / 1e9);
        // The next size has at least 4 times the work; for a product 64 times.
        if seconds > 0.01 {
            break;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_has_its_name_on_the_command_line() {
        let wgpu = "Device<Cube(Wgpu(WgpuDevice { kind: Cpu, backend: Auto }))>";
        assert_eq!(backend_in(wgpu).as_deref(), Some("wgpu"));
        let rocm = "Device<Cube(Hip(AmdDevice { index: 0 }))>";
        assert_eq!(backend_in(rocm).as_deref(), Some("rocm"));
        assert_eq!(backend_in("Device<Flex(FlexDevice)>"), None);
    }

    #[test]
    #[cfg(feature = "flex")]
    fn the_cpu_has_the_hosts_memory() {
        assert_eq!(memory_mib(&Device::flex()), host_memory_mib());
    }
}
