//! `--device` and `passer devices`: which devices this build and this machine have.

use crate::failure::Failure;
use burn::tensor::{Device, FloatDType};

/// Every backend name that `--device` takes, with the Cargo feature of the same name that compiles it in.
const BACKENDS: [(&str, bool); 6] = [
    ("cuda", cfg!(feature = "cuda")),
    ("metal", cfg!(feature = "metal")),
    ("rocm", cfg!(feature = "rocm")),
    ("vulkan", cfg!(feature = "vulkan")),
    ("wgpu", cfg!(feature = "wgpu")),
    ("flex", cfg!(feature = "flex")),
];

/// The `--device` flag, shared by the verbs that compute.
#[derive(clap::Args)]
pub(crate) struct DeviceArgument {
    /// auto, flex (CPU), wgpu, vulkan, metal, cuda, cuda:N, rocm or rocm:N; auto takes the first compiled-in GPU, else the CPU
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: String,
}

impl DeviceArgument {
    /// The device, without autodiff.
    pub(crate) fn open(&self) -> anyhow::Result<Device> {
        open(&self.device)
    }
}

/// Devices of one backend on this machine; empty where it is not compiled in or finds none.
fn found(backend: &str) -> Vec<Device> {
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

/// Opens the device that `name` asks for.
pub(crate) fn open(name: &str) -> anyhow::Result<Device> {
    if name == "auto" {
        let first = BACKENDS
            .iter()
            .filter(|(_, compiled)| *compiled)
            .find_map(|(backend, _)| found(backend).into_iter().next());
        return first.ok_or_else(|| {
            Failure::new("this build has no backend")
                .hint("build with `--features flex`")
                .into()
        });
    }
    let (backend, index) = match name.split_once(':') {
        Some((backend, index)) => {
            let index: usize = index.parse().map_err(|_| unknown(name))?;
            (backend, index)
        }
        None => (name, 0),
    };
    let Some((_, compiled)) = BACKENDS.iter().find(|(known, _)| *known == backend) else {
        return Err(unknown(name).into());
    };
    if !compiled {
        return Err(
            Failure::new(format!("device `{name}`: this build has no `{backend}` backend"))
                .hint(format!(
                    "build with `cargo build --release --features {backend}`, or use `--device auto`"
                ))
                .into(),
        );
    }
    let devices = found(backend);
    let count = devices.len();
    devices.into_iter().nth(index).ok_or_else(|| {
        Failure::new(format!(
            "device `{name}`: expected more than {index} {backend} devices on this machine, found {count}"
        ))
        .hint("`passer devices` lists what there is; a GPU needs its vendor's driver")
        .into()
    })
}

fn unknown(name: &str) -> Failure {
    Failure::new(format!(
        "device `{name}`: expected auto, flex, wgpu, vulkan, metal, cuda, cuda:N, rocm or rocm:N"
    ))
}

/// A device in words: backend and, where the backend tells, the part's name.
pub(crate) fn describe(device: &Device) -> String {
    #[cfg(any(
        feature = "wgpu",
        feature = "vulkan",
        feature = "metal",
        feature = "cuda",
        feature = "rocm"
    ))]
    if let Some(identity) = device.identity() {
        return format!("{device:?} ({})", identity.name);
    }
    let text = format!("{device:?}");
    if text.contains("Flex") {
        "flex (CPU)".into()
    } else {
        text
    }
}

/// `passer devices`
pub(crate) fn list() -> anyhow::Result<()> {
    println!("{:<8} {:<14} devices", "backend", "in this build");
    for (backend, compiled) in BACKENDS {
        let devices = found(backend);
        let shown = match (compiled, devices.is_empty()) {
            (false, _) => format!("build with `--features {backend}`"),
            (true, true) => "none found".to_string(),
            (true, false) => devices.iter().map(describe).collect::<Vec<_>>().join(", "),
        };
        println!("{backend:<8} {:<14} {shown}", if compiled { "yes" } else { "no" });
        for device in devices {
            let types: Vec<&str> = [
                ("f32", FloatDType::F32),
                ("f16", FloatDType::F16),
                ("bf16", FloatDType::BF16),
                ("f64", FloatDType::F64),
            ]
            .into_iter()
            .filter(|(_, dtype)| device.supports_dtype(*dtype))
            .map(|(name, _)| name)
            .collect();
            println!("{:<8} {:<14} floats: {}", "", "", types.join(", "));
        }
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!("cpu threads: {threads} (RAYON_NUM_THREADS bounds those of flex)");
    Ok(())
}
