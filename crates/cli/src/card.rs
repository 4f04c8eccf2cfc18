//! What the driver of a GPU reports of its card: memory, and how busy it is. AMD's has files, NVIDIA's a library; neither has run
//! on such a card yet.

use crate::machine::identity;
use burn::tensor::Device;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use training::{DeviceGauge, DeviceReading};

/// Where Linux lists the cards by their PCI addresses.
const CARDS: &str = "/sys/bus/pci/devices";

/// The memory of a device's card in MiB; `None` where its driver does not report it.
pub(crate) fn memory_mib(device: &Device) -> Option<u64> {
    Card::of(device)?.whole_memory_mib()
}

/// Reads a device's card while a run trains on it; `None` for the CPU and for cards whose drivers do not report their use.
pub(crate) fn gauge(device: &Device) -> Option<DeviceGauge> {
    let card = Card::of(device)?;
    (card.reading() != DeviceReading::default()).then(|| Arc::new(move || card.reading()) as DeviceGauge)
}

/// A card, by the driver that reports on it.
enum Card {
    /// The folder of AMD's driver.
    Amd(PathBuf),
    #[cfg(all(feature = "nvml", target_os = "linux"))]
    Nvidia {
        library: Box<nvml_wrapper::Nvml>,
        /// As PCI has it: `0000:c1:00.0`.
        address: String,
    },
}

impl Card {
    fn of(device: &Device) -> Option<Self> {
        let (_, address) = identity(device)?;
        let address = address?;
        Self::of_amd(&Path::new(CARDS).join(&address)).or_else(|| Self::of_nvidia(address))
    }

    fn of_amd(folder: &Path) -> Option<Self> {
        let driven = folder.join("mem_info_vram_total").exists();
        driven.then(|| Self::Amd(folder.to_owned()))
    }

    #[cfg(all(feature = "nvml", target_os = "linux"))]
    fn of_nvidia(address: String) -> Option<Self> {
        let library = Box::new(nvml_wrapper::Nvml::init().ok()?);
        library.device_by_pci_bus_id(address.as_str()).ok()?;
        Some(Self::Nvidia { library, address })
    }

    #[cfg(not(all(feature = "nvml", target_os = "linux")))]
    fn of_nvidia(_: String) -> Option<Self> {
        None
    }

    fn whole_memory_mib(&self) -> Option<u64> {
        match self {
            Self::Amd(folder) => Some(number(folder, "mem_info_vram_total")? >> 20),
            #[cfg(all(feature = "nvml", target_os = "linux"))]
            Self::Nvidia { library, address } => {
                let card = library.device_by_pci_bus_id(address.as_str()).ok()?;
                Some(card.memory_info().ok()?.total >> 20)
            }
        }
    }

    fn reading(&self) -> DeviceReading {
        match self {
            Self::Amd(folder) => DeviceReading {
                memory_mib: number(folder, "mem_info_vram_used").map(|bytes| bytes >> 20),
                busy: number(folder, "gpu_busy_percent").map(|percent| percent as f64 / 100.0),
            },
            #[cfg(all(feature = "nvml", target_os = "linux"))]
            Self::Nvidia { library, address } => {
                let Ok(card) = library.device_by_pci_bus_id(address.as_str()) else {
                    return DeviceReading::default();
                };
                DeviceReading {
                    memory_mib: card.memory_info().ok().map(|memory| memory.used >> 20),
                    busy: card
                        .utilization_rates()
                        .ok()
                        .map(|rates| f64::from(rates.gpu) / 100.0),
                }
            }
        }
    }
}

/// The number in a file of a card's folder.
fn number(folder: &Path, file: &str) -> Option<u64> {
    std::fs::read_to_string(folder.join(file))
        .ok()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn amds_driver_reports_by_files_and_a_missing_one_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Card::of_amd(folder.path()).is_none());
        std::fs::write(folder.path().join("mem_info_vram_total"), "25753026560\n").unwrap();
        std::fs::write(folder.path().join("mem_info_vram_used"), "3221225472\n").unwrap();
        let card = Card::of_amd(folder.path()).unwrap();
        assert_eq!(card.whole_memory_mib(), Some(24560));
        let of_memory = DeviceReading {
            memory_mib: Some(3072),
            busy: None,
        };
        assert_eq!(card.reading(), of_memory);
        std::fs::write(folder.path().join("gpu_busy_percent"), "87\n").unwrap();
        assert_eq!(card.reading().busy, Some(0.87));
    }

    #[test]
    #[cfg(feature = "flex")]
    fn the_cpu_is_no_card() {
        assert!(gauge(&Device::flex()).is_none());
    }
}
